"""What a benchmark found, and whether its targets are met. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

HEADINGS: Final = ("what", "min", "median", "max", "peer", "ratio", "target", "")
_LEFT: Final = {0, 4, 7}


class Missing(Exception):  # noqa: N818 - says what happened, as FileNotFound does
    """Something this machine lacks, without which a benchmark cannot run. The message names it."""


@dataclass(frozen=True)
class Series:
    """The same thing measured several times, in one unit."""

    what: str
    unit: str
    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        """The median, which targets are held against."""
        return median(self.values)


@dataclass(frozen=True)
class Row:
    """A series, alone or beside a peer measured in the same run, and at most how much it may be.

    Attributes:
        most: of the ratio to the peer, or of the series' own median where there is no peer; None: told only.
    """

    series: Series
    peer: Series | None = None
    most: float | None = None

    @property
    def ratio(self) -> float | None:
        """Median over the peer's median."""
        return None if self.peer is None else self.series.middle / self.peer.middle

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.most is None:
            return None
        return (self.series.middle if self.ratio is None else self.ratio) <= self.most


@dataclass(frozen=True)
class Report:
    """One benchmark's result. `notes` say what the figures include."""

    name: str
    title: str
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def missed(self) -> tuple[Row, ...]:
        """The rows whose target is not met."""
        return tuple(row for row in self.rows if row.met is False)


def table(report: Report) -> str:
    """A report as text."""
    lines = [f"{report.name}: {report.title}"]
    if report.skipped:
        return "\n".join([*lines, f"  skipped: {report.skipped}"])
    cells = [HEADINGS, *(_cells(row) for row in report.rows)]
    widths = [max(len(one[column]) for one in cells) for column in range(len(HEADINGS))]
    lines += ["  " + _line(one, widths) for one in cells]
    return "\n".join([*lines, *(f"  - {note}" for note in report.notes)])


def plain(report: Report) -> dict[str, Any]:
    """A report as JSON has it."""
    return {
        "name": report.name,
        "title": report.title,
        "skipped": report.skipped,
        "rows": [
            {
                "what": row.series.what,
                "unit": row.series.unit,
                "min": min(row.series.values),
                "median": row.series.middle,
                "max": max(row.series.values),
                "runs": len(row.series.values),
                "peer": None if row.peer is None else row.peer.what,
                "peerMedian": None if row.peer is None else row.peer.middle,
                "ratio": row.ratio,
                "target": row.most,
                "met": row.met,
            }
            for row in report.rows
        ],
        "notes": list(report.notes),
    }


def _cells(row: Row) -> tuple[str, ...]:
    series = row.series
    figures = [f"{value:.4g} {series.unit}" for value in (min(series.values), series.middle, max(series.values))]
    peer = "" if row.peer is None else f"{row.peer.what}, {row.peer.middle:.4g} {row.peer.unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.3g} x"
    target = ""
    if row.most is not None:
        target = f"<= {row.most:.3g} {series.unit if row.peer is None else 'x'}"
    return (series.what, *figures, peer, ratio, target, {None: "", True: "met", False: "NOT MET"}[row.met])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        cell.ljust(width) if column in _LEFT else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()
