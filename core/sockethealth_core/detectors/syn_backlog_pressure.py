"""SynBacklogPressure: half-open connections fill a listener's backlog."""

from sockethealth_core.detectors.base import (
    Advice,
    AnyFacts,
    DefaultRule,
    Detector,
    Parameters,
    Reading,
    Subject,
    describe,
)
from sockethealth_core.resources import Facts, Listener, Target
from sockethealth_core.units import format_count


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """SYN_RECV at the worst listener, as percent of what it may hold."""
    if not isinstance(facts, Facts):
        return None
    worst = max(facts.listeners, key=_percent, default=None)
    if worst is None or not worst.syn_recv:
        return Reading(0.0)
    evidence = {"synRecv": str(worst.syn_recv), "limit": str(worst.syn_backlog), "process": worst.process}
    return Reading(_percent(worst), Target(address=worst.address, port=worst.port), evidence)


def _percent(listener: Listener) -> float:
    return 100 * listener.syn_recv / max(listener.syn_backlog, 1)


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:  # noqa: ARG001 (the detector's signature)
    """Tell a flood from slow clients, and keep SYN cookies on."""
    half_open = format_count(float(reading.evidence.get("synRecv", "0")))
    limit = format_count(float(reading.evidence.get("limit", "0")))
    return Advice(
        f"{subject} has {half_open} half-open connections at {describe(reading.target)}, {reading.value:.0f}% of the "
        f"{limit} it can hold: clients send SYN and do not finish, or answers to them get lost.",
        "Look where they come from (`ss -tn state syn-recv`): many sources that never finish are a SYN flood, one "
        "network a broken path back. For real bursts raise listen(backlog) and net.core.somaxconn, and "
        "net.ipv4.tcp_max_syn_backlog with them. Leave tcp_syncookies on: it is what keeps the server reachable.",
    )


DETECTOR = Detector(
    name="SynBacklogPressure",
    summary="Half-open connections fill a listener's backlog.",
    unit="SYN_RECV as percent of the smaller of backlog and tcp_max_syn_backlog, worst listener",
    scope="pod",
    defaults=(DefaultRule("syn-backlog", 80, 50, "30s", "Warning"),),
    measure=measure,
    advise=advise,
)
