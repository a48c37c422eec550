"""FinWait2Buildup: this side closed, and the peers do not."""

from sockethealth_core.detectors.base import Advice, AnyFacts, DefaultRule, Detector, Parameters, Reading, Subject
from sockethealth_core.resources import Facts
from sockethealth_core.units import format_count


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """FIN_WAIT_2 sockets, orphaned ones included: the kernel reports those as the same state."""
    if not isinstance(facts, Facts):
        return None
    return Reading(facts.sockets.fin_wait2, evidence={"finWait1": str(facts.sockets.fin_wait1)})


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:
    """Say who does not close, and which setting is for it."""
    timeout = facts.sysctls.get("net.ipv4.tcp_fin_timeout", "60") if isinstance(facts, Facts) else "60"
    return Advice(
        f"{subject} holds {format_count(reading.value)} FIN_WAIT_2 sockets: it has closed, and its peers have "
        f"acknowledged and not closed. Orphaned ones end after tcp_fin_timeout ({timeout} s); those the application "
        "still holds, by shutdown(), never end by themselves.",
        "Find out why the peers do not close: look there for CLOSE_WAIT. Should they be out of reach, lower "
        "net.ipv4.tcp_fin_timeout in the pod's securityContext.sysctls: orphaned FIN_WAIT_2 is what it is for.",
    )


DETECTOR = Detector(
    name="FinWait2Buildup",
    summary="Peers do not close connections that this side has closed.",
    unit="FIN_WAIT_2 sockets, orphaned ones included",
    scope="pod",
    defaults=(DefaultRule("fin-wait-2", 1000, 500, "2m", "Warning"),),
    measure=measure,
    advise=advise,
)
