"""Series as SVG text: scales, ticks, stacked areas, lines and bars. Pure.

Colours, dashes and patterns are classes of the page's style sheet, so that one drawing serves light, dark and paper.
Shapes and letters tell apart what colours do: every area has a pattern, every line a dash, every severity a letter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil, floor, isfinite, log10
from typing import Final

from sockethealth_cli.report.markup import Markup, element, number, void
from sockethealth_cli.report.timeline import FindingSpan, Series
from sockethealth_core.units import format_count

_TIME_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_SECONDS_A_DAY: Final = 86400
_PIXELS_A_TIME: Final = 84
_ROW: Final = 44
_BAR: Final = 16
_SHORTEST_BAR: Final = 3.0
_SMALLEST: Final = 1e-6
_BARS_TOP: Final = 4.0
MARK_SHAPES: Final = {
    "Raised": "M0 -5L5 4L-5 4Z",
    "Escalated": "M0 -6L5 0L0 6L-5 0Z",
    "Eased": "M0 5L5 -4L-5 -4Z",
    "Cleared": "M-4 -4H4V4H-4Z",
}
"""Shapes of what happens to a finding, around the origin."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a chart is drawn, in units of its view box, which are CSS pixels at its natural size.

    Attributes:
        name: part of the ids in it, as the same chart is drawn once for wide and once for narrow screens.
        width: of the whole.
        height: of the whole.
        left: room for the labels of the values.
        right: room at the right end.
        top: room above.
        bottom: room for the labels of the times.
        most_points: of a line; more cannot be told apart.
    """

    name: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    most_points: int

    @property
    def plot_right(self) -> float:
        """Right edge of the plot."""
        return self.width - self.right

    @property
    def plot_bottom(self) -> float:
        """Lower edge of the plot."""
        return self.height - self.bottom


WIDE: Final = Frame("wide", 920, 240, 62, 14, 22, 26, 400)
NARROW: Final = Frame("narrow", 340, 220, 48, 10, 22, 26, 170)
"""Drawn at its natural size on a phone, so that its text is as large as text should be."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map of values to coordinates; what lies outside of the domain is put on its edge."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        if self.high <= self.low:
            return (self.begin + self.end) / 2
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)


def time_scale(times: Sequence[float], frame: Frame) -> Scale:
    """From the first to the last time over the width of the plot."""
    return Scale(times[0], times[-1], frame.left, frame.plot_right)


def value_scale(highest: float, frame: Frame) -> Scale:
    """From 0 to a round number at or above the highest value, upwards."""
    ticks = value_ticks(highest)
    return Scale(0.0, ticks[-1], frame.plot_bottom, frame.top)


def value_ticks(highest: float) -> list[float]:
    """Round numbers from 0 to the first at or above the highest value: 3 to 6 of them."""
    if not isfinite(highest) or highest < _SMALLEST:
        return [0.0, 1.0]
    rough = highest / 4
    magnitude = 10.0 ** floor(log10(rough))
    step = next((size * magnitude for size in (1, 2, 2.5, 5) if size * magnitude >= rough), 10 * magnitude)
    return [index * step for index in range(ceil(highest / step * (1 - 1e-9)) + 1)]


def time_ticks(begin: float, end: float, most: int) -> list[float]:
    """Round moments (UTC) between two times, at most so many."""
    span = max(end - begin, 1.0)
    fitting = (size for size in _TIME_STEPS if span / size <= most)
    step = next(fitting, ceil(span / most / _SECONDS_A_DAY) * _SECONDS_A_DAY)
    first = ceil(begin / step)
    return [index * step for index in range(first, floor(end / step) + 1)]


def time_label(at: float, step: float) -> str:
    """A time of day in UTC, with seconds where ticks are less than a minute apart, or a date where days are."""
    moment = datetime.fromtimestamp(at, UTC)
    if step >= _SECONDS_A_DAY:
        return moment.strftime("%d %b")
    return moment.strftime("%H:%M:%S" if step < 60 else "%H:%M")


def thinned(values: Sequence[float | None], most: int) -> list[int]:
    """Indices of at most about so many values: the first, the last, and of each stretch between the highest one."""
    if len(values) <= most:
        return list(range(len(values)))
    chosen = {0, len(values) - 1}
    buckets = max(1, most - 2)
    for bucket in range(buckets):
        stretch = range(len(values) * bucket // buckets, len(values) * (bucket + 1) // buckets)
        chosen.add(max(stretch, key=lambda index: -1.0 if (value := values[index]) is None else value))
    return sorted(chosen)


@dataclass(frozen=True, slots=True)
class Words:
    """What a chart is called, and what it shows, for who cannot see it."""

    id: str
    title: str
    description: str


def stacked(
    words: Words, times: Sequence[float], series: Sequence[Series], frame: Frame, *, since: float | None = None
) -> Markup:
    """Areas on top of each other; an unknown value counts as 0.

    Args:
        words: title and description.
        times: of the values.
        series: from the bottom up; the place in it decides colour and pattern.
        frame: where.
        since: when the incident began, marked by a line.
    """
    rows = [[value or 0.0 for value in one.values] for one in series]
    totals = [sum(column) for column in zip(*rows, strict=True)] or [0.0] * len(times)
    x, y = time_scale(times, frame), value_scale(max(totals, default=0.0), frame)
    chosen = thinned(totals, frame.most_points)
    below = [0.0] * len(times)
    parts: list[str] = []
    for one, row in zip(series, rows, strict=True):
        above = [low + value for low, value in zip(below, row, strict=True)]
        upper = [(x(times[index]), y(above[index])) for index in chosen]
        lower = [(x(times[index]), y(below[index])) for index in reversed(chosen)]
        kind = one.key.rpartition(".")[2]
        parts.append(void("path", class_=f"area a-{kind}", d=_line([*_widened(upper), *_widened(lower, -1)]) + "Z"))
        parts.append(void("path", class_=f"area p-{kind}", d=_line([*_widened(upper), *_widened(lower, -1)]) + "Z"))
        parts.append(void("path", class_=f"edge e-{kind}", d=_line(_widened(upper))))
        below = above
    return _chart(words, times, frame, y, parts, since, _count_label)


def lines(
    words: Words,
    times: Sequence[float],
    series: Sequence[Series],
    frame: Frame,
    *,
    limit: Series | None = None,
    since: float | None = None,
) -> Markup:
    """A line for each, broken where a value is not known.

    Args:
        words: title and description.
        times: of the values.
        series: the place in it decides colour and dash.
        frame: where.
        limit: drawn as a heavy line of its own, if it would not squeeze the others into a tenth of the height.
        since: when the incident began, marked by a line.
    """
    highest = max((one.peak for one in series), default=0.0)
    drawn = limit if limit is not None and limit_is_near(limit, highest) else None
    x, y = time_scale(times, frame), value_scale(max(highest, drawn.peak if drawn else 0.0), frame)
    parts: list[str] = []
    if drawn is not None:
        parts.append(void("path", class_="limit", d=_path(drawn, times, x, y, frame.most_points)))
    for place, one in enumerate(series):
        parts.append(void("path", class_=f"line l-{place % 5}", d=_path(one, times, x, y, frame.most_points)))
        parts += _dots(one, times, x, y, place)
    if drawn is not None:
        at = y(drawn.known[-1])
        label = f"limit {format_count(drawn.known[-1])}"
        parts.append(element("text", label, class_="limit-label", x=frame.left + 6, y=at - 6))
    percent = all(one.unit == "percent" for one in series)
    return _chart(words, times, frame, y, parts, since, _percent_label if percent else _count_label)


def limit_is_near(limit: Series, highest: float) -> bool:
    """Whether the limit can be in the same picture."""
    return bool(limit.known) and highest >= limit.peak / 10


def bars(
    words: Words,
    times: Sequence[float],
    spans: Sequence[FindingSpan],
    frame: Frame,
    label: Callable[[FindingSpan], str],
    *,
    since: float | None = None,
) -> Markup:
    """A row for each finding: its name, a bar over the time it lasted, and a shape at each change.

    Args:
        words: title and description.
        times: of the incident.
        spans: from the top down.
        frame: where; its height follows from the number of rows.
        label: what stands above a bar.
        since: when the incident began, marked by a line.
    """
    height = _BARS_TOP + _ROW * max(1, len(spans)) + frame.bottom
    tall = replace(frame, height=height, top=_BARS_TOP)
    x = time_scale(times, tall)
    parts: list[str] = [] if since is None or since <= times[0] else [_since(since, tall, x)]
    for row, span in enumerate(spans):
        top = tall.top + row * _ROW
        parts.append(element("text", label(span), class_="bar-label", x=tall.left, y=top + 14))
        for segment in span.segments:
            begin = min(x(segment.begin), tall.plot_right - _SHORTEST_BAR)
            parts.append(
                void(
                    "rect",
                    class_=f"bar s-{segment.severity} f-{segment.phase}",
                    x=begin,
                    y=top + 20,
                    width=max(_SHORTEST_BAR, x(segment.end) - begin),
                    height=_BAR,
                )
            )
        for mark in span.marks:
            if mark.change in MARK_SHAPES:
                shape = void("path", class_="mark", d=MARK_SHAPES[mark.change])
                across = min(max(x(mark.at), tall.left + 6), tall.plot_right - 6)
                parts.append(element("g", shape, transform=f"translate({number(across)} {number(top + 28)})"))
    return _chart(words, times, tall, None, parts, None, _count_label)


def _chart(
    words: Words,
    times: Sequence[float],
    frame: Frame,
    y: Scale | None,
    parts: Sequence[str],
    since: float | None,
    label: Callable[[float, float], str],
) -> Markup:
    base = f"{words.id}-{frame.name}"
    x = time_scale(times, frame)
    return element(
        "svg",
        element("title", words.title, id=f"{base}-title"),
        element("desc", words.description, id=f"{base}-desc"),
        element(
            "clipPath",
            void("rect", x=frame.left, y=0.0, width=frame.plot_right - frame.left, height=frame.height),
            id=f"{base}-clip",
        ),
        *([] if y is None else [_value_axis(frame, y, label)]),
        _time_axis(times, frame, x),
        element(
            "g",
            *parts,
            *([] if since is None or since <= times[0] else [_since(since, frame, x)]),
            class_="plot",
            clip_path=f"url(#{base}-clip)",
        ),
        class_=f"chart {frame.name}",
        viewBox=f"0 0 {number(frame.width)} {number(frame.height)}",
        width=frame.width,
        height=frame.height,
        role="img",
        aria_labelledby=f"{base}-title {base}-desc",
        data_left=frame.left,
        data_right=frame.plot_right,
        data_bottom=frame.plot_bottom,
        data_top=frame.top,
    )


def _value_axis(frame: Frame, y: Scale, label: Callable[[float, float], str]) -> Markup:
    parts: list[str] = []
    for tick in value_ticks(y.high):
        at = y(tick)
        parts.append(void("path", class_="grid", d=f"M{number(frame.left)} {number(at)}H{number(frame.plot_right)}"))
        parts.append(element("text", label(tick, y.high), class_="tick", x=frame.left - 6, y=at + 4, text_anchor="end"))
    return element("g", *parts, class_="values", aria_hidden="true")


def _time_axis(times: Sequence[float], frame: Frame, x: Scale) -> Markup:
    bottom = frame.plot_bottom
    parts: list[str] = [
        void("path", class_="axis", d=f"M{number(frame.left)} {number(bottom)}H{number(frame.plot_right)}")
    ]
    most = max(2, int((frame.plot_right - frame.left) / _PIXELS_A_TIME))
    ticks = time_ticks(times[0], times[-1], most) or [times[0]]
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    for tick in ticks:
        at = x(tick)
        # A label at the edge is kept inside, where it would be cut otherwise.
        anchor = "start" if at < frame.left + 28 else "end" if at > frame.plot_right - 28 else "middle"
        parts.append(void("path", class_="axis", d=f"M{number(at)} {number(bottom)}v4"))
        parts.append(element("text", time_label(tick, step), class_="tick", x=at, y=bottom + 18, text_anchor=anchor))
    return element("g", *parts, class_="times", aria_hidden="true")


def _since(since: float, frame: Frame, x: Scale) -> Markup:
    at = x(since)
    return void("path", class_="since", d=f"M{number(at)} {number(frame.top)}V{number(frame.plot_bottom)}")


def _path(one: Series, times: Sequence[float], x: Scale, y: Scale, most: int) -> str:
    pieces: list[list[tuple[float, float]]] = [[]]
    for index in thinned(one.values, most):
        value = one.values[index]
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((x(times[index]), y(value)))
    return "".join(_line(piece) for piece in pieces if piece)


def _dots(one: Series, times: Sequence[float], x: Scale, y: Scale, place: int) -> list[Markup]:
    """A value between two unknown ones makes no line, and is still there."""
    values = (None, *one.values, None)
    return [
        void("circle", class_=f"dot d-{place % 5}", cx=x(times[index]), cy=y(value), r=2.5)
        for index, (before, value, after) in enumerate(zip(values, values[1:], values[2:], strict=False))
        if value is not None and before is None and after is None
    ]


def _widened(points: Sequence[tuple[float, float]], direction: int = 1) -> list[tuple[float, float]]:
    """One look alone has no width: it is drawn a little wide."""
    if len(points) == 1:
        ((x, y),) = points
        return [(x - 2 * direction, y), (x + 2 * direction, y)]
    return list(points)


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def _count_label(value: float, highest: float) -> str:
    if value == 0:
        return "0"
    if highest >= 10_000_000:
        return f"{value / 1_000_000:g} M"
    if highest >= 10_000:
        return f"{value / 1000:g} k"
    return f"{value:g}"


def _percent_label(value: float, highest: float) -> str:  # noqa: ARG001 (the same for any)
    return f"{value:g}%"
