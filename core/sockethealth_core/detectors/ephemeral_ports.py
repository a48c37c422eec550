"""EphemeralPortExhaustion: a client runs out of local ports toward one destination."""

from math import ceil

from sockethealth_core.capacity import TIME_WAIT_SECONDS, PortRange
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
from sockethealth_core.resources import Destination, EphemeralPorts, Facts, Target
from sockethealth_core.units import format_count, format_duration

WIDER_RANGE = PortRange(10240, 65000)
"""The range that messages suggest: above the ports servers use by custom, below the last ones."""


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """Percent of usable ports in use for the worst destination; 0 without any outbound connection."""
    if not isinstance(facts, Facts):
        return None
    worst = worst_destination(facts)
    if worst is None:
        return Reading(0.0)
    evidence = {
        "used": str(worst.used - worst.reusable),
        "usable": str(facts.ephemeral_ports.usable),
        "timeWait": str(worst.time_wait),
        "closesPerSecond": f"{worst.closes_per_second:.1f}",
    }
    if worst.seconds_to_exhaustion is not None:
        evidence["secondsToExhaustion"] = f"{worst.seconds_to_exhaustion:.0f}"
    return Reading(worst.used_percent, Target(address=worst.address, port=worst.port), evidence)


def worst_destination(facts: Facts) -> Destination | None:
    """The destination that uses most ports."""
    return max(facts.ephemeral_ports.destinations, key=lambda one: one.used - one.reusable, default=None)


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:
    """Name the destination, the percentage, the time left, and pooling before any setting."""
    worst = worst_destination(facts) if isinstance(facts, Facts) else None
    if worst is None or not isinstance(facts, Facts):
        return Advice(f"{subject} uses {reading.value:.0f}% of its ephemeral ports.", _POOL_FIRST)
    ports = facts.ephemeral_ports
    used = (
        f"{subject} uses {format_count(worst.used - worst.reusable)} of {format_count(ports.usable)} ephemeral ports "
        f"({worst.used_percent:.0f}%) to {describe(reading.target)}"
    )
    left = worst.seconds_to_exhaustion
    if left is not None and left <= 0:
        outlook = 'they are all taken: connect() fails with EADDRNOTAVAIL ("Cannot assign requested address")'
    elif left is not None:
        outlook = (
            f"at {per_second(worst.closes_per_second, 'closes')} they run out in {format_duration(left)}, and "
            'connect() then fails with EADDRNOTAVAIL ("Cannot assign requested address")'
        )
    elif worst.closes_per_second > 0:
        outlook = f"at {per_second(worst.closes_per_second, 'closes')} it levels off below the limit"
    else:
        outlook = "no connection to it was closed in the recent past"
    return Advice(f"{used}; {outlook}.", _remedy(subject, worst, ports))


_POOL_FIRST = (
    "Reuse connections: keep-alive or a connection pool in the client. tcp_fin_timeout does not shorten "
    "TIME_WAIT, and no socket option of the client adds ports."
)


def _remedy(subject: Subject, worst: Destination, ports: EphemeralPorts) -> str:
    held_open = worst.used - worst.time_wait
    # Little's law: the connections open at any moment are what a pool must hold to carry the same rate.
    if worst.closes_per_second <= 0:
        steps = [f"{format_count(held_open)} connections are open at once: bound the client's pool."]
    elif held_open <= 1:
        steps = ["Reuse connections: a handful kept alive carries this rate, as they are open for a moment only."]
    else:
        pool, at_once = format_count(ceil(held_open * 1.5)), format_count(held_open)
        steps = [f"Reuse connections: a pool of about {pool} carries this rate, as only {at_once} are open at once."]
    if WIDER_RANGE.usable > (ports.high - ports.low + 1):
        place = "in the pod's securityContext.sysctls" if subject.kind == "pod" else "with sysctl -w in that namespace"
        steps.append(
            f"Until then, set net.ipv4.ip_local_port_range to '{WIDER_RANGE.low} {WIDER_RANGE.high}' {place}: it "
            f"lasts {format_count(WIDER_RANGE.sustainable_rate)} connections/s instead of "
            f"{format_count(ports.usable / TIME_WAIT_SECONDS)}."
        )
    steps.append("tcp_fin_timeout does not shorten TIME_WAIT, which is 60 s.")
    return " ".join(steps)


DETECTOR = Detector(
    name="EphemeralPortExhaustion",
    summary="A client uses up the local ports it can have to one destination.",
    unit="percent of usable ports in use for the worst destination",
    scope="pod",
    defaults=(
        DefaultRule("ephemeral-ports-warning", 50, 40, "2m", "Warning"),
        DefaultRule("ephemeral-ports-critical", 80, 70, "30s", "Critical"),
    ),
    measure=measure,
    advise=advise,
)
