"""SingleSourceChurn: one client opens connection after connection, and the server closes them."""

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
from sockethealth_core.resources import Facts, Target
from sockethealth_core.units import format_count


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """Inbound closes per second of the source with most."""
    if not isinstance(facts, Facts):
        return None
    worst = max(facts.time_wait.sources, key=lambda source: source.closes_per_second, default=None)
    if worst is None:
        return Reading(0.0)
    evidence = {"timeWait": str(worst.time_wait)}
    return Reading(worst.closes_per_second, Target(address=worst.address), evidence)


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:  # noqa: ARG001 (the detector's signature)
    """Name the source, and what it should do."""
    held = format_count(float(reading.evidence.get("timeWait", "0")))
    return Advice(
        f"{subject} closes {per_second(reading.value, 'connections')} of {describe(reading.target)} alone ({held} in "
        "TIME_WAIT): that client opens a connection a request. Behind NAT or a load balancer it may also reuse a "
        "source port within the 60 s.",
        "Pool connections in that client, or keep them alive longer on the server. If the address is the node's own, "
        "look at probes and health checks: fewer of them, or on one connection.",
    )


DETECTOR = Detector(
    name="SingleSourceChurn",
    summary="One client opens connection after connection, and the server closes them.",
    unit="inbound closes per second from one source address",
    scope="pod",
    defaults=(DefaultRule("single-source-churn", 100, 50, "2m", "Info"),),
    measure=measure,
    advise=advise,
)
