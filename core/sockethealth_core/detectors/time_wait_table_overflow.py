"""TimeWaitTableOverflow: the namespace holds as many TIME_WAIT as it may, and further ones end at once."""

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
    """TCPTimeWaitOverflow per second (net/ipv4/tcp_minisocks.c, ``tcp_time_wait``)."""
    if not isinstance(facts, Facts):
        return None
    return Reading(facts.rates.time_wait_overflows, evidence={"timeWait": str(facts.sockets.time_wait)})


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:
    """Say what is lost with each, and which way the setting goes."""
    held = facts.sockets.time_wait if isinstance(facts, Facts) else 0
    limit = facts.sysctls.get("net.ipv4.tcp_max_tw_buckets", "") if isinstance(facts, Facts) else ""
    of_limit = f" of at most {format_count(float(limit))}" if limit.isdigit() else ""
    return Advice(
        f"{subject} drops {per_second(reading.value, 'TIME_WAIT sockets')} early: it holds "
        f"{format_count(held)}{of_limit} (tcp_max_tw_buckets). Late segments of those connections can hit new ones.",
        "Close less often first: connection pooling, or let the other side close. Raise net.ipv4.tcp_max_tw_buckets, "
        "which costs a few hundred bytes a socket. Lowering it to clear TIME_WAIT causes this very finding.",
    )


DETECTOR = Detector(
    name="TimeWaitTableOverflow",
    summary="TIME_WAIT sockets are destroyed early because tcp_max_tw_buckets is reached.",
    unit="TIME_WAIT sockets destroyed early per second",
    scope="pod",
    defaults=(DefaultRule("time-wait-table-overflow", 0.1, 0.01, "30s", "Critical"),),
    measure=measure,
    advise=advise,
)
