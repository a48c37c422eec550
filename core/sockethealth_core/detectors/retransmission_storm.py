"""RetransmissionStorm: the network path loses segments."""

from typing import Final

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

MINIMUM_SEGMENTS: Final = 10.0
"""Segments a second below which a percentage says nothing."""


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """Percent of segments that were sent again; OutSegs does not count those (RFC 4022, tcpOutSegs)."""
    if not isinstance(facts, Facts):
        return None
    rates = facts.rates
    total = rates.segments_out + rates.retransmits
    evidence = {"retransmitsPerSecond": f"{rates.retransmits:.1f}", "segmentsPerSecond": f"{total:.1f}"}
    percent = 100 * rates.retransmits / total if total >= MINIMUM_SEGMENTS else 0.0
    return Reading(percent, evidence=evidence)


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:
    """Point at the path, and away from sockets."""
    again = facts.rates.retransmits if isinstance(facts, Facts) else 0.0
    return Advice(
        f"{subject} sends {reading.value:.1f}% of its segments again ({per_second(again, 'segments')}): the path loses "
        "packets or acknowledgements, and each loss costs a round trip or a timeout.",
        "Look at the network path, not at sockets: `ss -ti` shows which peers lose, then MTU, drops of the node's "
        "interfaces (`ip -s link`), CPU throttling of the pod, and the peer's node.",
    )


DETECTOR = Detector(
    name="RetransmissionStorm",
    summary="The network path loses segments.",
    unit=f"percent of segments retransmitted, with at least {MINIMUM_SEGMENTS:.0f} segments/s",
    scope="pod",
    defaults=(DefaultRule("retransmissions", 5, 2, "2m", "Warning"),),
    measure=measure,
    advise=advise,
)
