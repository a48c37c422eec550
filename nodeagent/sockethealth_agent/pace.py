"""When the sockets of a busy namespace are dumped again, if a dump of them is dear. Pure.

A dump of so many sockets that it takes long is made again only when its cost, spread over the time since, is a small
share of a core. Until then the counters that cost nothing to read are watched for an urgent sign: that what was seen
may not be what is. Then a larger share may be spent. Either way a minute is the longest wait.
"""

from dataclasses import dataclass
from typing import Final

SHARE: Final = 0.005
"""Of one core, for the dumps of one namespace."""
URGENT_SHARE: Final = 0.05
"""The same while each look shows an urgent sign."""
LONGEST_WAIT_SECONDS: Final = 60.0
"""No dump is put off for longer, whatever it costs."""
CHEAP_SECONDS: Final = 0.025
"""A dump that took no more CPU time is made in each sweep: half a percent of a core at a sweep every five seconds."""
BAND: Final = 0.1
"""By this part of itself a number may differ from what the last dump lets expect."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much CPU time the dumps of one namespace may take.

    Over any time, dumps that are dear take no more than `urgent_share` of it, or their cost each `longest_seconds`
    where that is more; without urgent signs `share` stands for `urgent_share`.

    Attributes:
        share: of one core.
        urgent_share: of one core, at an urgent sign.
        longest_seconds: after so long a dump is due whatever it costs.
        cheap_seconds: a dump that costs no more is always due.
    """

    share: float = SHARE
    urgent_share: float = URGENT_SHARE
    longest_seconds: float = LONGEST_WAIT_SECONDS
    cheap_seconds: float = CHEAP_SECONDS

    def is_dear(self, cost_seconds: float) -> bool:
        """Whether a dump of such a cost may be put off."""
        return cost_seconds > self.cheap_seconds

    def is_due(self, cost_seconds: float, since_seconds: float, *, urgent: bool) -> bool:
        """Whether to dump again.

        Args:
            cost_seconds: CPU time of the last dump.
            since_seconds: how long ago it was made.
            urgent: see is_urgent.
        """
        if not self.is_dear(cost_seconds):
            return True
        share = self.urgent_share if urgent else self.share
        return since_seconds >= min(self.longest_seconds, cost_seconds / share)


STEADY_PACE: Final = Pace()
"""The agent's."""
EVERY_TIME: Final = Pace(cheap_seconds=float("inf"))
"""No dump is put off."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What is known of a namespace's sockets without a dump, at one moment.

    Attributes:
        at: seconds of the monotonic clock.
        mini_sockets: sockstat's tw, which is TIME_WAIT and FIN_WAIT_2 without a process.
        in_use: sockstat's and sockstat6's inuse.
        opens: snmp's ActiveOpens, since the namespace was made.
        opens_per_second: of late.
        overflows: ListenOverflows, ListenDrops and TCPTimeWaitOverflow of netstat, since the namespace was made.
        overflowing: whether they rose of late.
        close_wait: CLOSE_WAIT sockets, where a dump is needed to tell whose they are; else 0.
        roles: what makes a socket inbound or outbound: the listening ports and the ephemeral range.
    """

    at: float
    mini_sockets: int
    in_use: int
    opens: int
    opens_per_second: float
    overflows: int
    overflowing: bool
    roles: object
    close_wait: int = 0


def is_urgent(dumped: Signs, seen: Signs, *, usable_ports: int, exhausting: bool) -> bool:
    """Whether what was dumped may tell something else by now than it did.

    It does when the number of sockets has left its band, an overflow has begun, or the roles of ports are others. And
    where ports may run out: when a dump foretold it, and when more connections were opened than its rate lets expect
    (or fewer, as when connect() fails for want of ports): by a tenth, or by half of the ports that a destination has,
    but not for less than a tenth of these. No destination can have taken more ports than connections were opened.

    Args:
        dumped: the signs at the last dump.
        seen: the signs at present.
        usable_ports: local ports that connect() can pick for one destination.
        exhausting: whether the last dump tells of a destination whose ports run out.
    """
    expected = dumped.opens_per_second * (seen.at - dumped.at)
    opened = seen.opens - dumped.opens
    allowed = max(BAND * usable_ports, min(BAND * expected, usable_ports / 2))
    return (
        exhausting
        or dumped.roles != seen.roles
        or _left_band(dumped.mini_sockets, seen.mini_sockets)
        or _left_band(dumped.in_use, seen.in_use)
        or _left_band(dumped.close_wait, seen.close_wait)
        or abs(opened - expected) > allowed
        or (seen.overflows > dumped.overflows and not dumped.overflowing)
    )


def _left_band(before: int, after: int) -> bool:
    return abs(after - before) > BAND * before
