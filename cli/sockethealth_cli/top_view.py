"""What `sockethealth top` shows: samples and a view to renderables of a given size. Pure."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from sockethealth_cli import render, story
from sockethealth_cli.text import counted, printable
from sockethealth_cli.top_state import HISTORY, SORTS, Row, Samples, View, ordered, sparkline, window

_FOOTER: Final = "q quit  h help  P T C E N sort  R reverse  space pause  d delay  Enter details"
_HELP: Final = """\
  P T C E N     sort by ports, TIME_WAIT, CLOSE_WAIT, ESTABLISHED, name
  R             reverse the order
  space         pause and go on
  d or s        seconds between samples
  up, down      choose a network namespace; PgUp, PgDn, Home, End too
  Enter         everything about the chosen one; q or Esc leads back
  q or Ctrl-C   quit

  PORTS     percent of the usable local ports in use toward the worst
            destination; at 100% connect() fails with EADDRNOTAVAIL
  TIME-W    TIME_WAIT sockets: closed first by this side, held for 60 s
  CLOSE-W   CLOSE_WAIT sockets: the peer has closed, the application has not
  ESTAB     open connections
  NEW/S     connections opened and accepted a second, since the last sample
  HISTORY   the sorted column over the last 20 samples, each row by its own
            highest value; sorted by name, the number of all sockets
  FINDING   what the rules make of it; with ~ while the condition holds, but
            not yet as long as the rule's `for` asks, counted from top's start

`sockethealth explain FINDING` says how to confirm and fix it."""
_NAME_WIDTH: Final = 8
_NUMBERS: Final = ("PORTS", "TIME-W", "CLOSE-W", "ESTAB", "NEW/S")


@dataclass(frozen=True, slots=True)
class Frame:
    """One screen, and how far it is scrolled, which the end of what there is to see bounds."""

    body: RenderableType
    scroll: int = 0


def frame(samples: Samples, view: View, notes: Sequence[str], width: int, height: int) -> Frame:
    """What fits on a screen of so many columns and lines."""
    if view.screen == "help":
        return _page(Text(_HELP), "q or Esc: back", view.scroll, width, height)
    if view.screen == "details":
        chosen = next((row for row in samples.rows if row.name == view.selected), None)
        if chosen is not None:
            body = story.of_namespace(chosen.item, samples.at, chosen.pending)
            return _page(body, "q or Esc: back   ↑ ↓: scroll", view.scroll, width, height)
    head = [_heading(samples, view, width), *(_line(Text(note, style="dim"), width) for note in notes)]
    rows = ordered(samples.rows, view)
    place = next((index for index, row in enumerate(rows) if row.name == view.selected), None)
    first, last = window(len(rows), place, height - len(head) - 3)
    footer = Text(f"Seconds between samples (now {view.delay:g}): {view.entry}_", style="bold")
    if view.screen != "delay":
        footer = Text(_FOOTER, style="dim")
    # The footer's place does not depend on the number of rows, or it would jump as namespaces come and go.
    gap = max(0, height - len(head) - (last - first) - 2)
    body = table(rows[first:last], samples, view, width)
    return Frame(Group(*head, body, *[Text()] * gap, _line(footer, width)))


def batch(samples: Samples, view: View, notes: Sequence[str], width: int) -> RenderableType:
    """One sample as lines for a file or a pipe."""
    rows = ordered(samples.rows, view)
    return Group(_heading(samples, view, width), *(Text(note) for note in notes), table(rows, samples, view, width))


def table(rows: Sequence[Row], samples: Samples, view: View, width: int) -> Table:
    """The rows within a width: the history gives way first, then the names."""
    sort = SORTS[view.sort]
    finding_width = max([len("FINDING"), *(len(_finding(row)) for row in samples.rows)])
    longest = max([_NAME_WIDTH, *(len(row.name) for row in samples.rows)])
    room = width - sum(len(name) + 1 for name in _NUMBERS) - finding_width - 2
    bars = min(HISTORY, max(len("HISTORY"), room - longest))
    names = max(_NAME_WIDTH, min(longest, room - bars))
    columns = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    _column(columns, "NETNS", sort.column, width=names, overflow="ellipsis")
    for name in _NUMBERS:
        _column(columns, name, sort.column, justify="right", min_width=len(name))
    columns.add_column("HISTORY", no_wrap=True, width=bars, justify="right")
    columns.add_column("FINDING", no_wrap=True)
    for row in rows:
        sockets = row.item.status.sockets
        values = [sort.value(past) for past in samples.history.get(row.name, ())][-bars:]
        percent = row.ports_percent
        columns.add_row(
            Text(printable(row.name)),
            Text(f"{percent:.0f}%" if percent else "-"),
            Text(str(sockets.time_wait)),
            Text(str(sockets.close_wait)),
            Text(str(sockets.established)),
            Text(f"{row.opens_per_second:.0f}"),
            Text(sparkline(values), style="cyan"),
            Text(_finding(row) or "-", style=render.STYLES[row.finding.severity] if row.finding else ""),
            style="reverse" if row.name == view.selected else "",
        )
    return columns


def _column(columns: Table, name: str, sorted_by: str, **layout: object) -> None:
    header = Text(name, style="reverse" if name == sorted_by else "")
    columns.add_column(header, no_wrap=True, **layout)  # type: ignore[arg-type]  # layout is as add_column takes it


def _finding(row: Row) -> str:
    if row.finding is None:
        return ""
    name = printable(row.finding.type)
    return f"~{name}" if row.is_pending else name


def _heading(samples: Samples, view: View, width: int) -> Text:
    health = Counter(row.item.status.health for row in samples.rows)
    counts = [Text(f"{health[name]} {name}", style=render.STYLES[name]) for name in render.HEALTH_ORDER if health[name]]
    pending = sum(row.is_pending for row in samples.rows)
    if pending:
        counts.append(Text(f"{pending} ~pending"))
    line = Text.assemble(
        ("sockethealth top", "bold"),
        f" {time.strftime('%H:%M:%S', time.localtime(samples.at))}  {counted(len(samples.rows), 'netns', 'netns')}: ",
        Text(", ").join(counts),
        f"  every {view.delay:g}s",
    )
    if view.paused:
        line.append("  PAUSED", style="bold reverse")
    return _line(line, width)


def _line(text: Text, width: int) -> Text:
    text = text.copy()
    text.truncate(width, overflow="ellipsis")
    return text


def _page(body: RenderableType, footer: str, scroll: int, width: int, height: int) -> Frame:
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    lines = console.render_lines(body, console.options.update_width(width), pad=False)
    room = max(1, height - 2)
    first = min(scroll, max(0, len(lines) - room))
    shown = lines[first : first + room]
    segments = [segment for line in shown for segment in (*line, Segment.line())]
    more = f"   {len(lines) - first - len(shown)} more lines below" if first + len(shown) < len(lines) else ""
    gap = room - len(shown) + 1
    below = _line(Text(footer + more, style="dim"), width)
    return Frame(Group(Segments(segments), *[Text()] * (gap - 1), below), first)
