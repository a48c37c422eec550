"""OutboundTimeWait: a client closes first, again and again, toward one destination."""

from sockethealth_core.detectors.base import (
    Advice,
    AnyFacts,
    DefaultRule,
    Detector,
    Parameters,
    Reading,
    Subject,
    describe,
    per_second,
)
from sockethealth_core.resources import Destination, Facts, Target
from sockethealth_core.units import format_count


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """Outbound TIME_WAIT to the worst destination; a total over thousands of destinations is no harm."""
    if not isinstance(facts, Facts):
        return None
    worst = _worst(facts)
    if worst is None:
        return Reading(0.0)
    evidence = {
        "closesPerSecond": f"{worst.closes_per_second:.1f}",
        "outboundTotal": str(facts.time_wait.outbound),
    }
    return Reading(worst.time_wait, Target(address=worst.address, port=worst.port), evidence)


def _worst(facts: Facts) -> Destination | None:
    return max(facts.ephemeral_ports.destinations, key=lambda destination: destination.time_wait, default=None)


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:
    """Say that it is normal, what each socket holds, and how far the limit is."""
    worst = _worst(facts) if isinstance(facts, Facts) else None
    rate = f" at {per_second(worst.closes_per_second, 'closes')}" if worst and worst.closes_per_second else ""
    share = f", {worst.used_percent:.0f}% of what it can have" if worst else ""
    if worst and worst.reusable:
        share += f"; tcp_tw_reuse lets connect() take {format_count(worst.reusable)} of them over at once"
    return Advice(
        f"{subject} holds {format_count(reading.value)} TIME_WAIT sockets to {describe(reading.target)}{rate}: it "
        f"opens a connection a request and closes first. Each holds a local port for 60 s{share}.",
        "Nothing is broken. Keep-alive or a connection pool in the client saves a handshake a request and these "
        "ports; tcp_fin_timeout does not shorten TIME_WAIT.",
    )


DETECTOR = Detector(
    name="OutboundTimeWait",
    summary="A client closes first, one connection a request, toward one destination.",
    unit="outbound TIME_WAIT sockets to the worst destination",
    scope="pod",
    defaults=(DefaultRule("outbound-time-wait", 1000, 500, "2m", "Info"),),
    measure=measure,
    advise=advise,
)
