"""When a change of facts is worth a write. Pure: facts in, a reason or None out.

An object per pod is affordable only if it is rarely written. So each number has a band around what was written
last, and only leaving it causes a write. The band is as wide as the caller can afford: one step of a quarter where
little is written, more where many numbers go up and down. No band hides that a value has crossed one that a policy
watches: see :mod:`sockethealth_core.crossings`. A small difference that stays is written once, as far as the caller can
afford it, so that quiet pods show exact numbers (see :class:`History`).

What grows by itself (times, the age of the oldest CLOSE_WAIT) is never a change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sockethealth_core.crossings import Crossing, Damping
from sockethealth_core.resources import Facts, Rates

RELATIVE_BAND: Final = 0.25
PORTS_BAND_PERCENT: Final = 5.0
SETTLED_SWEEPS: Final = 3
SETTLED: Final = "settled"
CROSSED: Final = "crossed"

_STATE_FLOORS: Final = {
    "established": 20,
    "syn_sent": 10,
    "syn_recv": 20,
    "fin_wait1": 20,
    "fin_wait2": 20,
    "time_wait": 20,
    "close_wait": 5,
    "last_ack": 20,
    "closing": 20,
    "listen": 5,
}
_ROLE_FLOOR: Final = 20
_AGE_FLOOR: Final = 5
_QUEUE_FLOOR_BYTES: Final = 65536
_CLOSES_FLOOR: Final = 5.0
_RATE_FLOORS: Final = {
    "active_opens": 20.0,
    "passive_opens": 20.0,
    "attempt_fails": 5.0,
    "retransmits": 5.0,
    "syn_retransmits": 5.0,
    "segments_out": 1000.0,
    "listen_overflows": 0.1,
    "listen_drops": 0.1,
    "time_wait_overflows": 0.1,
}


def left_band(written: float, current: float, floor: float, steps: int = 1) -> bool:
    """Whether a number, none of which is negative, differs by more than so many steps and as many floors.

    A step is a quarter more, or a quarter less.
    """
    factor = 1 + RELATIVE_BAND if current > written else 1 - RELATIVE_BAND
    return abs(current - written) > max(steps * floor, abs(factor**steps - 1) * written)


def _left_bands(written: Facts, current: Facts, steps: int) -> Iterator[str]:
    for name, before, after, floor in _numbers(written, current):
        if left_band(before, after, floor, steps):
            yield name
    was, now = written.ephemeral_ports, current.ephemeral_ports
    if (was.low, was.high, was.reserved) != (now.low, now.high, now.reserved):
        yield "port range"
    if abs(_worst(now, "used_percent") - _worst(was, "used_percent")) > steps * PORTS_BAND_PERCENT:
        yield "ports"
    if _exhausting(written) != _exhausting(current):
        yield "secondsToExhaustion"
    if written.sysctls != current.sysctls:
        yield "sysctls"
    if _overflowing(written) != _overflowing(current):
        yield "accept queue"
    another = _holder(written) != _holder(current) or _ended(written, current)
    if another and left_band(0, current.sockets.close_wait, _STATE_FLOORS["close_wait"]):
        yield "CLOSE_WAIT owner"


def _numbers(written: Facts, current: Facts) -> Iterator[tuple[str, float, float, float]]:
    for state, floor in _STATE_FLOORS.items():
        yield state, getattr(written.sockets, state), getattr(current.sockets, state), floor
    was, now = written.time_wait, current.time_wait
    yield "inbound TIME_WAIT", was.inbound, now.inbound, _ROLE_FLOOR
    yield "outbound TIME_WAIT", was.outbound, now.outbound, _ROLE_FLOOR
    yield "closes per second", was.closes_per_second, now.closes_per_second, _CLOSES_FLOOR
    ages = {age.older_than_seconds: age.count for age in written.close_wait.ages}
    for age in current.close_wait.ages:
        # An age nobody asked for before counts as none, so that a changed policy does not rewrite quiet pods.
        yield "CLOSE_WAIT age", ages.get(age.older_than_seconds, 0), age.count, _AGE_FLOOR
    yield (
        "unread bytes",
        written.close_wait.receive_queue_bytes,
        current.close_wait.receive_queue_bytes,
        _QUEUE_FLOOR_BYTES,
    )
    yield (
        "outbound TIME_WAIT of a destination",
        _worst(written.ephemeral_ports, "time_wait"),
        _worst(current.ephemeral_ports, "time_wait"),
        _ROLE_FLOOR,
    )
    for rate, floor_per_second in _RATE_FLOORS.items():
        yield rate, getattr(written.rates, rate), getattr(current.rates, rate), floor_per_second


def _worst(ports: Any, field: str) -> float:
    return float(max((getattr(destination, field) for destination in ports.destinations), default=0))


def _exhausting(facts: Facts) -> bool:
    return any(destination.seconds_to_exhaustion is not None for destination in facts.ephemeral_ports.destinations)


def _overflowing(facts: Facts) -> set[tuple[str, int]]:
    return {(one.address, one.port) for one in facts.listeners if one.queue > one.backlog > 0}


def _holder(facts: Facts) -> tuple[str, str] | None:
    owners = facts.close_wait.owners
    return (owners[0].container, owners[0].process) if owners else None


def _ended(written: Facts, current: Facts) -> bool:
    """Whether the process that is told to hold most holds none any more; which of several holds most may alternate."""
    owners = written.close_wait.owners
    return bool(owners) and owners[0].pid not in {owner.pid for owner in current.close_wait.owners}


@dataclass(frozen=True, slots=True)
class History:
    """What is remembered of an object between sweeps.

    Attributes:
        seen: the exact numbers of the last sweep.
        sweeps: for how many sweeps they have been the same.
        damping: of watched values that go up and down.
    """

    seen: tuple[Any, ...] = ()
    sweeps: int = 0
    damping: Damping = field(default_factory=Damping)

    def observe(self, current: Facts, crossed: Sequence[Crossing], now: float) -> "History":
        """After one more sweep at time now, in the caller's seconds, in which these values were crossed."""
        seen = exact(current)
        return History(seen, self.sweeps + 1 if seen == self.seen else 1, self.damping.observe(crossed, now))

    def wrote(self, crossed: Sequence[Crossing], now: float) -> "History":
        """After a write that ended these crossings."""
        return History(self.seen, self.sweeps, self.damping.wrote(crossed, now))


def reason_to_write(
    written: Facts | None, current: Facts, crossed: Sequence[Crossing], history: History, steps: int = 1
) -> str | None:
    """Why facts are to be written, in a few words, or None.

    That is ``first``, ``crossed`` and what, a number that has left its band, or ``settled`` where a small difference
    has stayed.

    Args:
        written: what the object holds, or None when there is no object or it has no facts.
        current: what was measured last.
        crossed: watched values between the two.
        history: what was before.
        steps: how wide bands are; 0 where only crossings count.
    """
    if written is None:
        return "first"
    due = history.damping.due(crossed)
    if due is not None:
        return f"{CROSSED} {due.watched}"
    if any(crossing.watched.urgent for crossing in crossed):
        # A rise that is being damped: writing other numbers would write it too, and its fall right after.
        return None
    reason = next(_left_bands(written, current, steps), None) if steps else None
    if reason is None and not crossed and history.sweeps >= SETTLED_SWEEPS and history.seen != exact(written):
        return SETTLED
    return reason


def exact(facts: Facts) -> tuple[Any, ...]:
    """The numbers of facts that stay the same as long as no socket changes its state.

    Rates and unread bytes are taken in steps as wide as the floor of their band.
    """
    rates: Rates = facts.rates
    return (
        facts.sockets,
        (facts.time_wait.inbound, facts.time_wait.outbound),
        round(facts.close_wait.receive_queue_bytes / _QUEUE_FLOOR_BYTES),
        tuple((age.older_than_seconds, age.count) for age in facts.close_wait.ages if age.count),
        tuple(facts.close_wait.owners),
        tuple(facts.close_wait.peers),
        (facts.ephemeral_ports.low, facts.ephemeral_ports.high, facts.ephemeral_ports.usable),
        tuple((d.address, d.port, d.used, d.time_wait) for d in facts.ephemeral_ports.destinations),
        tuple((one.address, one.port, one.queue, one.backlog, one.process) for one in facts.listeners),
        tuple(round(getattr(rates, name) / floor) for name, floor in _RATE_FLOORS.items()),
        round(facts.time_wait.closes_per_second / _CLOSES_FLOOR),
        tuple(sorted(facts.sysctls.items())),
    )
