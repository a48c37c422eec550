"""Counters as events per second. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from sockethealth_agent.netns import NetnsId
from sockethealth_agent.procfs import NetCounters
from sockethealth_core.resources import Rates


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of a namespace at a moment of the monotonic clock, in seconds."""

    netns: NetnsId
    at: float
    counters: NetCounters


def rates(before: Reading | None, after: Reading) -> Rates:
    """Events per second between two readings, rounded to hundredths.

    Counters of another namespace (the pod's sandbox was made anew) begin at zero, so two namespaces have no rate
    between them. A counter that went back counts as still: these are 64 bits wide and never wrap. After missed
    sweeps the rate is the mean over the whole time, as the readings carry their own.
    """
    if before is None or before.netns != after.netns or after.at <= before.at:
        return Rates()
    seconds = after.at - before.at
    was, now = before.counters, after.counters

    def rate(then: Mapping[str, int], later: Mapping[str, int], name: str) -> float:
        if name not in then or name not in later:
            return 0.0
        return round(max(0, later[name] - then[name]) / seconds, 2)

    tcp = partial(rate, was.tcp, now.tcp)
    extended = partial(rate, was.tcp_ext, now.tcp_ext)

    return Rates(
        active_opens=tcp("ActiveOpens"),
        passive_opens=tcp("PassiveOpens"),
        attempt_fails=tcp("AttemptFails"),
        retransmits=tcp("RetransSegs"),
        syn_retransmits=extended("TCPSynRetrans"),
        segments_out=tcp("OutSegs"),
        listen_overflows=extended("ListenOverflows"),
        listen_drops=extended("ListenDrops"),
        time_wait_overflows=extended("TCPTimeWaitOverflow"),
    )
