"""The state of `sockethealth top`: samples become rows with a history, keys become a view. Pure, without a clock."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sockethealth_core.engine import identity_of
from sockethealth_core.resources import Finding, SocketHealth

HISTORY: Final = 20
"""Samples that a sparkline shows."""
SHORTEST_DELAY: Final = 0.2
LONGEST_DELAY: Final = 3600.0

_BARS: Final = "▁▂▃▄▅▆▇█"

_STEPS: Final = {"up": -1, "down": 1, "pageup": -10, "pagedown": 10, "home": -(10**6), "end": 10**6}

Screen = Literal["table", "details", "help", "delay"]


@dataclass(frozen=True, slots=True)
class Row:
    """A network namespace at one moment. ``pending``: findings whose condition holds while their ``for`` runs."""

    item: SocketHealth
    ports_percent: float
    opens_per_second: float
    pending: tuple[Finding, ...] = ()

    @property
    def name(self) -> str:
        """Of the namespace."""
        return self.item.metadata.name

    @property
    def finding(self) -> Finding | None:
        """The worst that is active, else the worst that is pending."""
        return next(iter((*self.item.status.findings, *self.pending)), None)

    @property
    def is_pending(self) -> bool:
        """Whether the finding is not active yet."""
        return not self.item.status.findings and bool(self.pending)

    @property
    def total(self) -> int:
        """Sockets in any state."""
        sockets = self.item.status.sockets
        return sum(getattr(sockets, state) for state in sockets.__struct_fields__)


@dataclass(frozen=True, slots=True)
class Sort:
    """An order of the table: its column, and the number it goes by. By name, the history is of all sockets."""

    column: str
    value: Callable[[Row], float]
    by_name: bool = False


SORTS: Final[Mapping[str, Sort]] = {
    "P": Sort("PORTS", lambda row: row.ports_percent),
    "T": Sort("TIME-W", lambda row: row.item.status.sockets.time_wait),
    "C": Sort("CLOSE-W", lambda row: row.item.status.sockets.close_wait),
    "E": Sort("ESTAB", lambda row: row.item.status.sockets.established),
    "N": Sort("NETNS", lambda row: row.total, by_name=True),
}
"""By the key that chooses it."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The latest rows, and of each namespace that is still there the rows before, oldest first."""

    at: float = 0.0
    rows: tuple[Row, ...] = ()
    history: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)

    def followed_by(self, rows: Sequence[Row], at: float) -> "Samples":
        """With one more sample; namespaces that are gone are forgotten."""
        return Samples(
            at,
            tuple(rows),
            {row.name: tuple(deque((*self.history.get(row.name, ()), row), HISTORY)) for row in rows},
        )


@dataclass(frozen=True, slots=True)
class View:
    """What the person has chosen to see.

    Attributes:
        sort: key of SORTS.
        ascending: smallest first; names go from A to Z unless reversed.
        paused: no samples are taken.
        delay: seconds between samples.
        screen: what is shown.
        selected: name of the namespace that arrows have chosen; it stays chosen as it moves.
        scroll: first line shown of details.
        entry: what was typed of a new delay.
        quit: the person has enough.
    """

    sort: str = "P"
    reversed: bool = False
    paused: bool = False
    delay: float = 2.0
    screen: Screen = "table"
    selected: str | None = None
    scroll: int = 0
    entry: str = ""
    quit: bool = False


def row_of(item: SocketHealth, instant: Sequence[Finding] = ()) -> Row:
    """What the table shows of a namespace.

    Args:
        item: as the engine has judged it in time.
        instant: the findings of this moment by itself, as though no rule had a ``for``.
    """
    status = item.status
    active = {identity_of(finding) for finding in status.findings}
    return Row(
        item=item,
        ports_percent=max((one.used_percent for one in status.ephemeral_ports.destinations), default=0.0),
        opens_per_second=status.rates.active_opens + status.rates.passive_opens,
        pending=tuple(finding for finding in instant if identity_of(finding) not in active),
    )


def ordered(rows: Sequence[Row], view: View) -> list[Row]:
    """Rows as the view wants them; equal ones by name."""
    sort = SORTS[view.sort]
    by_name = sorted(rows, key=lambda row: row.name)
    if sort.by_name:
        return by_name[::-1] if view.reversed else by_name
    return sorted(by_name, key=sort.value, reverse=not view.reversed)


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, the highest of them being full; all of nothing is a flat line."""
    highest = max(values, default=0.0)
    if highest <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] for value in values)


def window(total: int, chosen: int | None, height: int) -> tuple[int, int]:
    """First and last-plus-one row to show, so that the chosen one is among them."""
    if height <= 0:
        return 0, 0
    if chosen is None or total <= height:
        return 0, min(total, height)
    first = min(max(0, chosen - height // 2), total - height)
    return first, first + height


def pressed(view: View, key: str, rows: Sequence[Row]) -> View:
    """The view after a key: a character, or one of up, down, pageup, pagedown, home, end, enter, escape, backspace.

    A key that means nothing changes nothing.
    """
    if key == "interrupt":
        return replace(view, quit=True)
    if view.screen == "delay":
        return _typed(view, key)
    if view.screen == "table":
        return _at_table(view, key, rows)
    if key in ("q", "escape", "enter", "backspace") or (view.screen == "help" and key in ("h", "?")):
        return replace(view, screen="table", scroll=0)
    step = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -10, "pagedown": 10, "home": -(10**6), "end": 10**6}.get(
        key
    )
    return view if step is None else replace(view, scroll=max(0, view.scroll + step))


def _at_table(view: View, key: str, rows: Sequence[Row]) -> View:
    step = _STEPS.get(key)
    if step is not None:
        return _moved(view, step, rows)
    letter = key.upper() if len(key) == 1 else key
    if letter in SORTS:
        return replace(view, sort=letter)
    changed = {
        "Q": replace(view, quit=True),
        "H": replace(view, screen="help"),
        "?": replace(view, screen="help"),
        "R": replace(view, reversed=not view.reversed),
        " ": replace(view, paused=not view.paused),
        "D": replace(view, screen="delay", entry=""),
        "S": replace(view, screen="delay", entry=""),
        "escape": replace(view, selected=None),
    }
    if letter == "enter" and rows:
        there = [row.name for row in ordered(rows, view)]
        chosen = view.selected if view.selected in there else there[0]
        return replace(view, screen="details", selected=chosen, scroll=0)
    return changed.get(letter, view)


def _moved(view: View, step: int, rows: Sequence[Row]) -> View:
    names = [row.name for row in ordered(rows, view)]
    if not names:
        return view
    if view.selected not in names:
        return replace(view, selected=names[0])
    place = names.index(view.selected) + step
    return replace(view, selected=names[min(max(0, place), len(names) - 1)])


def _typed(view: View, key: str) -> View:
    if key in ("escape", "q"):
        return replace(view, screen="table", entry="")
    if key == "backspace":
        return replace(view, entry=view.entry[:-1])
    if key == "enter":
        try:
            delay = float(view.entry)
        except ValueError:
            return replace(view, screen="table", entry="")
        return replace(view, screen="table", entry="", delay=min(max(delay, SHORTEST_DELAY), LONGEST_DELAY))
    if len(key) == 1 and (key in "0123456789" or (key == "." and "." not in view.entry)):
        return replace(view, entry=(view.entry + key)[:8])
    return view
