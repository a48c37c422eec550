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
    again = lost_per_second(facts)
    total = facts.rates.segments_out + again
    evidence = {"retransmitsPerSecond": f"{again:.1f}", "segmentsPerSecond": f"{total:.1f}"}
    percent = 100 * again / total if total >= MINIMUM_SEGMENTS else 0.0
    return Reading(percent, evidence=evidence)


def lost_per_second(facts: Facts) -> float:
    """Segments sent again, without the SYN/ACKs that clients leave unanswered.

    Those are SynBacklogPressure: a flood's false sources never answer, whatever the path. The kernel counts SYN and
    SYN/ACK as one (TCPSynRetrans; net/ipv4/tcp_output.c, ``tcp_rtx_synack``), so they are shared out by the
    connections that are half open in either direction.
    """
    half_open = facts.sockets.syn_recv
    both = half_open + facts.sockets.syn_sent
    unanswered = facts.rates.syn_retransmits * half_open / both if both else 0.0
    return max(0.0, facts.rates.retransmits - unanswered)


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:
    """Point at the path, and away from sockets."""
    again = lost_per_second(facts) if isinstance(facts, Facts) else 0.0
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
