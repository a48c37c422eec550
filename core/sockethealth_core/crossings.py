"""When the crossing of a watched value is worth a write. Pure: facts, watchpoints and time in, what is due out.

A watched value is a threshold or clear threshold of a policy in force. It is crossed while what is written and what
was measured last lie on different sides of it.

Of Warning and Critical rules, a fall is written at once, always, and so is a rise, save that of a value that goes up
and down: after three rises within half an hour the next has to last, at most 12 sweeps. So flapping is damped on the
safe side. What is written never says "above" for longer than a sweep of a value that is below, and no ``for`` runs on
a spike that is over.

Values of Info rules alone alarm nobody: crossed either way, they are written once that has lasted 6 sweeps, and 30
where it comes back within two hours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sockethealth_core.detectors import DETECTORS, Detector
from sockethealth_core.detectors.base import AnyFacts, MeasureError
from sockethealth_core.resources import Watchpoint

RISE_SWEEPS: Final = (1, 1, 1, 3, 6, 12)
"""Sweeps that a rise must have lasted, by how many of the same value were written within the time below."""
REMEMBERED_SECONDS: Final = 1800.0
INFO_SWEEPS: Final = (6, 30)
"""The same of values of Info rules, for rises and falls."""
INFO_REMEMBERED_SECONDS: Final = 7200.0

_Parameters = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """A value of a detector that is watched; `urgent` unless only Info rules do."""

    detector: str
    parameters: _Parameters
    value: float
    urgent: bool

    def __str__(self) -> str:
        """As the reason of a write: ``CloseWaitLeak 50``."""
        return f"{self.detector} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Crossing:
    """A watched value between what is written and what was measured; `rising` when what was measured is at or above."""

    watched: Watched
    rising: bool

    @property
    def at_once(self) -> bool:
        """Whether it is written whatever was before."""
        return self.watched.urgent and not self.rising


@dataclass(frozen=True, slots=True)
class Gauge:
    """A detector with its parameters, and the values of it that are watched."""

    detector: Detector
    parameters: Mapping[str, str]
    watched: tuple[Watched, ...]

    def read(self, facts: AnyFacts) -> float | None:
        """The detector's value, or None where the facts do not tell."""
        try:
            reading = self.detector.measure(facts, self.parameters)
        except MeasureError:
            return None  # the operator says so in the policy's conditions
        return None if reading is None else reading.value


Values = tuple[float | None, ...]
"""What gauges read from the same facts, in their order."""


def gauges(watchpoints: Iterable[Watchpoint]) -> tuple[Gauge, ...]:
    """What to read for watchpoints. A detector, or parameters, that this version does not know are left out."""
    found: dict[tuple[str, _Parameters], list[Watched]] = {}
    for point in watchpoints:
        place = (point.detector, tuple(sorted(point.parameters.items())))
        watched = (Watched(*place, value, urgent=point.severity != "Info") for value in point.values)
        found.setdefault(place, []).extend(watched)
    return tuple(
        Gauge(detector, dict(parameters), tuple(watched))
        for (name, parameters), watched in found.items()
        if (detector := DETECTORS.get(name)) is not None and not detector.check_parameters(dict(parameters))
    )


def read(facts: AnyFacts, by: Iterable[Gauge]) -> Values:
    """What each gauge reads."""
    return tuple(gauge.read(facts) for gauge in by)


def crossings(written: Values, current: Values, by: Iterable[Gauge]) -> tuple[Crossing, ...]:
    """Which watched values lie between the two; none where the current facts do not tell.

    What only the written ones did not tell was below all.
    """
    found = []
    for gauge, before, after in zip(by, written, current, strict=True):
        if after is None or before == after:
            continue
        for watched in gauge.watched:
            rising = after >= watched.value
            if rising != (before is not None and before >= watched.value):
                found.append(Crossing(watched, rising))
    return tuple(found)


def reached(current: Values, by: Iterable[Gauge]) -> bool:
    """Whether any watched value is reached. One of zero tells nothing: everything is above it."""
    return any(
        value is not None and any(0 < watched.value <= value for watched in gauge.watched)
        for gauge, value in zip(by, current, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """For how many sweeps a value has been crossed, and when what is damped of it was written of late."""

    sweeps: int = 0
    written: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Damping:
    """What is remembered of an object's watched values between sweeps."""

    values: Mapping[Watched, _Seen] = field(default_factory=dict)

    def observe(self, crossed: Sequence[Crossing], now: float) -> "Damping":
        """After one more sweep, at time now in the caller's seconds, in which these were crossed."""
        if not crossed and not self.values:
            return self
        standing = {crossing.watched for crossing in crossed}
        values = {}
        for watched in standing | self.values.keys():
            before = self.values.get(watched, _Seen())
            seconds = REMEMBERED_SECONDS if watched.urgent else INFO_REMEMBERED_SECONDS
            written = tuple(at for at in before.written if now - at < seconds)
            if watched in standing or written:
                values[watched] = _Seen(before.sweeps + 1 if watched in standing else 0, written)
        return Damping(values)

    def due(self, crossed: Iterable[Crossing]) -> Crossing | None:
        """The first of these that is to be written."""
        return next((crossing for crossing in crossed if self._is_due(crossing)), None)

    def _is_due(self, crossing: Crossing) -> bool:
        if crossing.at_once:
            return True
        seen = self.values.get(crossing.watched, _Seen())
        needed = RISE_SWEEPS if crossing.watched.urgent else INFO_SWEEPS
        return max(1, seen.sweeps) >= needed[min(len(seen.written), len(needed) - 1)]

    def wrote(self, crossed: Iterable[Crossing], now: float) -> "Damping":
        """After a write, for whatever reason, that ended these."""
        values = dict(self.values)
        for crossing in crossed:
            written = values.get(crossing.watched, _Seen()).written
            if not crossing.at_once:
                written = (*written, now)[1 - len(RISE_SWEEPS) :]
            values[crossing.watched] = _Seen(0, written)
        return Damping(values)
