"""Whether figures of a long run stay within their limits: pure functions of readings.

A rise is the Theil-Sen estimator (the median of the slopes between all pairs of points; Sen 1968), times the time
judged: a spike does not move it, and a step counts by how long it lasts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Final

_MOST_POINTS: Final = 120
"""More are thinned out before slopes are taken, whose number is the square of it."""


@dataclass(frozen=True)
class Reading:
    """All figures of one container at a moment.

    Attributes:
        at_seconds: since the run began.
        container: its name, and its pod's where several have one of this name.
        figures: by name, with the unit in the name. A counter that has not counted yet may be missing, and is 0.
    """

    at_seconds: float
    container: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Point:
    """One value of a series."""

    at_seconds: float
    value: float


@dataclass(frozen=True)
class Rise:
    """After the warm-up, the series rises by no more than this while it is judged."""

    most: float

    def excess(self, points: Sequence[Point], warm: Sequence[Point]) -> str:  # noqa: ARG002 (one shape for all limits)
        """What is wrong, in words that follow the figure's name; empty when nothing is."""
        seconds = warm[-1].at_seconds - warm[0].at_seconds
        risen = slope_per_second(warm) * seconds
        return f"rises by {_number(risen)} in {seconds / 60:.3g} min" if risen > self.most else ""

    def __str__(self) -> str:
        return f"rise {_number(self.most)}"


@dataclass(frozen=True)
class Spread:
    """After the warm-up, the highest value is above the lowest by no more than this."""

    most: float

    def excess(self, points: Sequence[Point], warm: Sequence[Point]) -> str:  # noqa: ARG002 (as in Rise)
        """See Rise."""
        values = [one.value for one in warm]
        lowest, highest = min(values), max(values)
        return f"is from {_number(lowest)} to {_number(highest)}" if highest - lowest > self.most else ""

    def __str__(self) -> str:
        return f"spread {_number(self.most)}"


@dataclass(frozen=True)
class Increase:
    """From first to last reading, warm-up included, a counter counts no more than this, plus so much a minute."""

    most: float = 0.0
    per_minute: float = 0.0

    def excess(self, points: Sequence[Point], warm: Sequence[Point]) -> str:  # noqa: ARG002 (as in Rise)
        """See Rise."""
        minutes = (points[-1].at_seconds - points[0].at_seconds) / 60
        counted = points[-1].value - points[0].value
        return (
            f"counts {_number(counted)} in {minutes:.3g} min" if counted > self.most + self.per_minute * minutes else ""
        )

    def __str__(self) -> str:
        parts = [_number(self.most)] if self.most or not self.per_minute else []
        return " + ".join(parts + ([f"{_number(self.per_minute)} a minute"] if self.per_minute else []))


@dataclass(frozen=True)
class Always:
    """Every value, warm-up included, is this one."""

    value: float

    def excess(self, points: Sequence[Point], warm: Sequence[Point]) -> str:  # noqa: ARG002 (as in Rise)
        """See Rise."""
        other = [one for one in points if one.value != self.value]
        return f"is {_number(other[0].value)} at {other[0].at_seconds:.0f} s" if other else ""

    def __str__(self) -> str:
        return f"always {_number(self.value)}"


Limit = Rise | Spread | Increase | Always


@dataclass(frozen=True)
class Verdict:
    """One figure of one container.

    Attributes:
        start: at the first reading, warm-up included.
        end: at the last reading.
        most: the highest after the warm-up.
        per_hour: the slope after the warm-up.
        limits: in words.
        faults: a sentence for each limit that is exceeded, naming container, figure and limit.
    """

    container: str
    figure: str
    start: float
    end: float
    most: float
    per_hour: float
    limits: str
    faults: tuple[str, ...]


def slope_per_second(points: Sequence[Point]) -> float:
    """The Theil-Sen slope of a series; 0 for one of a single moment."""
    thinned = points[:: len(points) // _MOST_POINTS + 1]
    slopes = [
        (later.value - earlier.value) / (later.at_seconds - earlier.at_seconds)
        for earlier, later in combinations(thinned, 2)
        if later.at_seconds > earlier.at_seconds
    ]
    return median(slopes) if slopes else 0.0


def judge(
    readings: Iterable[Reading], limits_of: Callable[[str], tuple[Limit, ...]], warm_up_seconds: float
) -> list[Verdict]:
    """A verdict for each figure of each container, in the order of their first appearance.

    Args:
        readings: of all containers, each container's in the order of time.
        limits_of: the limits of a figure; none for one that is only recorded.
        warm_up_seconds: how long caches and pools may fill, after which figures that are to be flat are looked at.

    Raises:
        ValueError: a container has no two readings after the warm-up, from which nothing can be told.
    """
    by_container: dict[str, list[Reading]] = {}
    for reading in readings:
        by_container.setdefault(reading.container, []).append(reading)
    verdicts = []
    for container, own in by_container.items():
        if sum(one.at_seconds >= warm_up_seconds for one in own) < 2:
            raise ValueError(f"{container} has no two readings after a warm-up of {warm_up_seconds:g} s: run longer.")
        for figure in dict.fromkeys(name for one in own for name in one.figures):
            points = [Point(one.at_seconds, one.figures.get(figure, 0.0)) for one in own]
            verdicts.append(_verdict(container, figure, points, limits_of(figure), warm_up_seconds))
    return verdicts


def _verdict(
    container: str, figure: str, points: list[Point], limits: tuple[Limit, ...], warm_up_seconds: float
) -> Verdict:
    warm = [one for one in points if one.at_seconds >= warm_up_seconds]
    said = [(limit, limit.excess(points, warm)) for limit in limits]
    return Verdict(
        container,
        figure,
        start=points[0].value,
        end=points[-1].value,
        most=max(one.value for one in warm),
        per_hour=slope_per_second(warm) * 3600,
        limits=", ".join(map(str, limits)),
        faults=tuple(f"{figure} of {container} {excess}; the limit is {limit}." for limit, excess in said if excess),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
