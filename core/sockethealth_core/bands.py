"""When a change of facts is worth a write. Pure: facts in, a reason or None out.

An object per pod is affordable only if it is rarely written. So each number has a band around what was written
last, and only leaving it causes a write; but a value that crosses a threshold some policy has in force (a
watchpoint) is always written, however small the step. A small difference that stays is written once, so that quiet
pods show exact numbers (see :class:`Settling`).

What grows by itself (times, the age of the oldest CLOSE_WAIT) is never a change.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from sockethealth_core.detectors import DETECTORS
from sockethealth_core.detectors.base import AnyFacts, MeasureError
from sockethealth_core.resources import Facts, Rates, Watchpoint

RELATIVE_BAND: Final = 0.25
PORTS_BAND_PERCENT: Final = 5.0
SETTLED_SWEEPS: Final = 3
SETTLING_BURST: Final = 3.0
SETTLING_REFILL_SECONDS: Final = 600.0

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


def material(written: Facts | None, current: Facts, watchpoints: Iterable[Watchpoint]) -> str | None:
    """Why the current facts must be written over those written last, in a few words, or None.

    Args:
        written: what the object holds, or None when there is no object or it has no facts.
        current: what was measured last.
        watchpoints: values of detectors in force, from the node's NodeSocketHealth.
    """
    if written is None:
        return "first"
    crossed = crossing(written, current, watchpoints)
    if crossed:
        return f"crossed {crossed}"
    return next(_left_bands(written, current), None)


def crossing(written: AnyFacts, current: AnyFacts, watchpoints: Iterable[Watchpoint]) -> str | None:
    """The first detector of which a watched value lies between the two: at or above in one, below in the other.

    A detector this version does not know, and one that the facts do not speak of, have no crossing.
    """
    for watchpoint in watchpoints:
        detector = DETECTORS.get(watchpoint.detector)
        if detector is None or not _usable(detector.name, tuple(sorted(watchpoint.parameters.items()))):
            continue
        try:
            before = detector.measure(written, watchpoint.parameters)
            after = detector.measure(current, watchpoint.parameters)
        except MeasureError:
            continue  # the operator says so in the policy's conditions
        if before is None or after is None:
            continue
        for value in watchpoint.values:
            if (before.value >= value) != (after.value >= value):
                return f"{detector.name} {value:g}"
    return None


@lru_cache(maxsize=256)
def _usable(detector: str, parameters: tuple[tuple[str, str], ...]) -> bool:
    # They were checked when the policy was accepted; those of a newer version mean nothing here.
    return not DETECTORS[detector].check_parameters(dict(parameters))


def left_band(written: float, current: float, floor: float) -> bool:
    """Whether a number differs by more than a quarter of what was written, and by more than the floor."""
    return abs(current - written) > max(floor, RELATIVE_BAND * abs(written))


def _left_bands(written: Facts, current: Facts) -> Iterator[str]:
    for name, before, after, floor in _numbers(written, current):
        if left_band(before, after, floor):
            yield name
    was, now = written.ephemeral_ports, current.ephemeral_ports
    if (was.low, was.high, was.reserved) != (now.low, now.high, now.reserved):
        yield "port range"
    if abs(_worst(now, "used_percent") - _worst(was, "used_percent")) > PORTS_BAND_PERCENT:
        yield "ports"
    if _exhausting(written) != _exhausting(current):
        yield "secondsToExhaustion"
    if written.sysctls != current.sysctls:
        yield "sysctls"
    if _overflowing(written) != _overflowing(current):
        yield "accept queue"
    if _holder(written) != _holder(current) and left_band(0, current.sockets.close_wait, _STATE_FLOORS["close_wait"]):
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


@dataclass(frozen=True, slots=True)
class Settling:
    """What is kept of an object between sweeps, to write a small difference once it has stayed.

    Attributes:
        seen: the exact numbers of the last sweep.
        sweeps: for how many sweeps they have been the same.
        tokens: settling writes left.
        refilled_at: up to when tokens were refilled, in the caller's seconds.
    """

    seen: tuple[Any, ...] = ()
    sweeps: int = 0
    tokens: float = SETTLING_BURST
    refilled_at: float = 0.0

    def observe(self, current: Facts, now: float) -> "Settling":
        """After one more sweep at time now."""
        seen = exact(current)
        tokens = self.tokens
        if self.refilled_at:
            tokens += max(0.0, now - self.refilled_at) / SETTLING_REFILL_SECONDS
        return Settling(
            seen=seen,
            sweeps=self.sweeps + 1 if seen == self.seen else 1,
            tokens=min(SETTLING_BURST, tokens),
            refilled_at=now,
        )

    def settled(self, written: Facts) -> bool:
        """Whether the numbers differ from those written, have stayed long enough, and may be written."""
        return self.sweeps >= SETTLED_SWEEPS and self.tokens >= 1 and self.seen != exact(written)

    def spent(self) -> "Settling":
        """After a settling write."""
        return replace(self, tokens=self.tokens - 1)


def reason_to_write(
    written: Facts | None, current: Facts, watchpoints: Sequence[Watchpoint], settling: Settling
) -> str | None:
    """:func:`material`, or ``settled`` where a small difference has stayed (see :class:`Settling`)."""
    reason = material(written, current, watchpoints)
    if reason is None and written is not None and settling.settled(written):
        return SETTLED
    return reason


SETTLED: Final = "settled"


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
