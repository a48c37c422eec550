"""InboundTimeWait: a server closes first."""

from sockethealth_core.detectors.base import (
    Advice,
    AnyFacts,
    DefaultRule,
    Detector,
    Parameters,
    Reading,
    Subject,
    per_second,
)
from sockethealth_core.resources import Facts
from sockethealth_core.units import format_count


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """Inbound TIME_WAIT sockets of the namespace."""
    if not isinstance(facts, Facts):
        return None
    return Reading(facts.time_wait.inbound, evidence={"closesPerSecond": f"{facts.time_wait.closes_per_second:.1f}"})


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:
    """Say that it is harmless to clients, and how the client comes to close first."""
    rate = facts.time_wait.closes_per_second if isinstance(facts, Facts) else 0.0
    at_rate = f" at {per_second(rate, 'closes')}" if rate else ""
    return Advice(
        f"{subject} holds {format_count(reading.value)} TIME_WAIT sockets on ports it listens on{at_rate}: the server "
        "closes first. They cost a few hundred bytes each and block no new client.",
        "Nothing is broken. To have fewer: keep connections alive longer on the server, or let the client close "
        "first. tcp_fin_timeout does not shorten TIME_WAIT; SO_LINGER 0 would send RST and lose unsent data.",
    )


DETECTOR = Detector(
    name="InboundTimeWait",
    summary="A server closes first and so holds the TIME_WAIT.",
    unit="inbound TIME_WAIT sockets",
    scope="pod",
    defaults=(DefaultRule("inbound-time-wait", 1000, 500, "2m", "Info"),),
    measure=measure,
    advise=advise,
)
