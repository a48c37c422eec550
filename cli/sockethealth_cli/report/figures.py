"""The pictures of an incident, all over the same time, each with its numbers as a table. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sockethealth_cli.report import svg, words
from sockethealth_cli.report.markup import Markup, element, void
from sockethealth_cli.report.svg import NARROW, WIDE, Frame, Words
from sockethealth_cli.report.timeline import Incident, Series
from sockethealth_core.units import format_count, format_time

_Draw = Callable[[Words, Frame], Markup]

_PHASES: Final = {
    "Pending": "seen, not raised yet",
    "Active": "holds",
    "Clearing": "over, not cleared yet",
}
_THIN: Final = 0.3
"""Share of the highest below which an area is too thin to be read."""


@dataclass(frozen=True, slots=True)
class _Figure:
    """A picture: its name in ids, its words, what is in it, and how that is drawn."""

    key: str
    title: str
    caption: str
    series: tuple[Series, ...]
    kind: Literal["area", "line"]
    draw: _Draw


def of_incident(index: int, incident: Incident) -> Markup:
    """All pictures: findings, states, ports, rates, queues; those that would be empty are left out.

    Args:
        index: of the incident in the page; ids are made of it.
        incident: what happened.
    """
    since = incident.began
    note = ""
    if since is not None and since > incident.times[0]:
        began = words.clock(since, incident.times)
        note = f"The dashed vertical line in each picture is when the first finding began: {began}."
    figures = (*_states(incident, since), *_ports(incident, since), *_rates(incident, since), *_queues(incident, since))
    return element(
        "div",
        *([element("p", note, class_="quiet")] if note else []),
        *([_findings(index, incident)] if incident.findings else []),
        *(_drawn(index, incident, one) for one in figures),
        class_="figures",
    )


def _drawn(index: int, incident: Incident, figure: _Figure) -> Markup:
    described = Words(f"i{index}-{figure.key}", figure.title, " ".join(words.course(one) for one in figure.series))
    numbers = {one.key: str(number) for number, one in enumerate(incident.series)}
    caption = [element("p", figure.caption, class_="quiet")] if figure.caption else []
    return element(
        "figure",
        element("figcaption", element("h3", figure.title), *caption),
        element("div", figure.draw(described, WIDE), figure.draw(described, NARROW), class_="drawing"),
        _legend(figure.series, figure.kind),
        data_series=" ".join(numbers[one.key] for one in figure.series),
    )


def _lines(incident: Incident, series: Sequence[Series], since: float | None, limit: Series | None = None) -> _Draw:
    return lambda described, frame: svg.lines(described, incident.times, series, frame, limit=limit, since=since)


def _states(incident: Incident, since: float | None) -> list[_Figure]:
    figures = [
        _Figure(
            "states",
            "Sockets by state",
            "Areas are stacked: the upper edge is the number of all of them. LISTEN is left out.",
            incident.states,
            "area",
            lambda described, frame: svg.stacked(described, incident.times, incident.states, frame, since=since),
        )
    ]
    leaked = tuple(one for one in incident.states if one.key == "sockets.closeWait")
    highest = max(one.peak for one in incident.states)
    if leaked and leaked[0].peak < highest * _THIN:
        caption = "The same as above by itself, where the others dwarf it."
        figures.append(_Figure("leaked", "CLOSE_WAIT", caption, leaked, "line", _lines(incident, leaked, since)))
    return figures


def _ports(incident: Incident, since: float | None) -> list[_Figure]:
    figures = []
    if incident.port_share is not None:
        full = Series("", "the limit", "percent", tuple(100.0 for _ in incident.times))
        figures.append(
            _Figure(
                "share",
                "Local ports taken toward the worst destination",
                "At 100% connect() to it fails with EADDRNOTAVAIL.",
                (incident.port_share,),
                "line",
                _lines(incident, (incident.port_share,), since, full),
            )
        )
    if incident.destinations:
        limit = incident.port_limit
        caption = "The limit holds for each destination by itself." if limit is not None else ""
        if limit is not None and not svg.limit_is_near(limit, max(one.peak for one in incident.destinations)):
            caption = f"The limit of {format_count(limit.peak)} for each destination is far above this picture."
        figures.append(
            _Figure(
                "ports",
                "Local ports in use, by destination",
                caption,
                incident.destinations,
                "line",
                _lines(incident, incident.destinations, since, limit),
            )
        )
    return figures


def _rates(incident: Incident, since: float | None) -> list[_Figure]:
    return [
        _Figure(key, title, "", series, "line", _lines(incident, series, since))
        for key, title, series in (
            ("flows", "Connections per second", incident.flows),
            ("troubles", "What goes wrong, per second", incident.troubles),
        )
        if series
    ]


def _queues(incident: Incident, since: float | None) -> list[_Figure]:
    if not incident.queues:
        return []
    queue, *limits = incident.queues
    return [
        _Figure(
            "queue",
            "Connections waiting for accept()",
            "Above its limit, the kernel drops connections that clients had completed.",
            (queue,),
            "line",
            _lines(incident, (queue,), since, limits[0] if limits else None),
        )
    ]


def _findings(index: int, incident: Incident) -> Markup:
    described = Words(
        f"i{index}-findings",
        "Findings over time",
        " ".join(
            f"{words.label(span)}, from {format_time(span.began)} to {format_time(span.seen_until)}."
            for span in incident.findings
        ),
    )
    phases = {segment.phase for span in incident.findings for segment in span.segments}
    marks = {mark.change for span in incident.findings for mark in span.marks}
    key = [
        *((_swatch("rect", f"bar s-any f-{phase}"), text) for phase, text in _PHASES.items() if phase in phases),
        *((_swatch("mark", change), change.lower()) for change in svg.MARK_SHAPES if change in marks),
    ]
    swatches = [element("li", swatch, f" {text}") for swatch, text in key]
    return element(
        "figure",
        element("figcaption", element("h3", described.title)),
        element(
            "div",
            *(
                svg.bars(described, incident.times, incident.findings, frame, words.label, since=incident.began)
                for frame in (WIDE, NARROW)
            ),
            class_="drawing",
        ),
        element("ul", *swatches, class_="key"),
        element(
            "ol",
            *(
                element(
                    "li",
                    element("time", words.clock(at, incident.times), datetime=format_time(at)),
                    f" {span.finding.type}: {text}",
                )
                for at, text, span in sorted(
                    ((at, text, span) for span in incident.findings for at, text in words.events(span)),
                    key=lambda event: event[0],
                )
            ),
            class_="events",
        ),
        data_series="",
    )


def _swatch(kind: str, classes: str) -> Markup:
    shapes = {
        "rect": lambda name: void("rect", class_=name, x=1, y=1, width=22, height=12),
        "line": lambda name: void("path", class_=name, d="M1 7H23"),
        "mark": lambda name: void("path", class_="mark", d=svg.MARK_SHAPES[name], transform="translate(12 7)"),
    }
    drawn = (shapes[kind](name) for name in classes.split("|"))
    return element("svg", *drawn, class_="swatch", viewBox="0 0 24 14", width=24, height=14, aria_hidden="true")


def _legend(series: Sequence[Series], kind: str) -> Markup:
    rows = []
    for place, one in enumerate(series):
        state = one.key.rpartition(".")[2]
        swatch = (
            _swatch("rect", f"area edge a-{state} e-{state}|area p-{state}")
            if kind == "area"
            else _swatch("line", f"line l-{place % 5}")
        )
        known = one.known
        cells = (known[0], one.peak, known[-1]) if known else (None, None, None)
        unit = "%" if one.unit == "percent" else ""
        rows.append(
            element(
                "tr",
                element("th", swatch, " ", one.label, scope="row"),
                *(element("td", "-" if value is None else f"{format_count(value)}{unit}") for value in cells),
            )
        )
    heads = (element("th", text, scope="col") for text in ("", "first", "most", "last"))
    return element("table", element("thead", element("tr", *heads)), element("tbody", *rows), class_="legend numbers")


_PATTERNS: Final = {
    "timeWaitOutbound": ("M-2 2L2 -2M0 8L8 0M6 10L10 6", 8),
    "timeWaitInbound": ("M-2 6L2 10M0 0L8 8M6 -2L10 2", 8),
    "closeWait": ("M0 0L8 8M8 0L0 8", 8),
    "finWait2": ("M0 4H8", 8),
    "opening": ("M4 0V8", 8),
    "closing": ("M2 2h2v2h-2ZM6 6h2v2h-2Z", 8),
}
"""A path over a tile for each state; ESTABLISHED, the usual one, is plain."""


def patterns() -> Markup:
    """The patterns that areas are filled with, once for the page."""
    tiles = [
        element(
            "pattern",
            void("path", class_="ink", d=path),
            id=f"pattern-{name}",
            width=size,
            height=size,
            patternUnits="userSpaceOnUse",
        )
        for name, (path, size) in _PATTERNS.items()
    ]
    return element("svg", element("defs", *tiles), width=0, height=0, class_="defs", aria_hidden="true")
