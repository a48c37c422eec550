"""SocketHealths as a person reads them: a table, then what is wrong and what helps. Pure: objects to renderables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sockethealth_cli.text import counted, printable
from sockethealth_core.engine import SEVERITY_ORDER
from sockethealth_core.resources import Finding, Health, SocketHealth

Place = Literal["machine", "cluster"]
"""Where the objects are from: network namespaces of a machine, or pods of a cluster."""

HEALTH_ORDER: Final[dict[Health, int]] = {"Critical": 0, "Warning": 1, "Unknown": 2, "Healthy": 3}
STYLES: Final[dict[str, str]] = {
    "Critical": "bold red",
    "Warning": "yellow",
    "Unknown": "magenta",
    "Healthy": "green",
    "Info": "cyan",
}
_NUMBERS: Final = ("ESTAB", "TIME-WAIT", "CLOSE-WAIT", "PORTS")
TEXT_WIDTH: Final = 100
_UNBOUNDED_WIDTH: Final = 10_000
_THINGS: Final[dict[Place, tuple[str, str]]] = {
    "machine": ("network namespace", "network namespaces"),
    "cluster": ("pod", "pods"),
}


@dataclass(frozen=True, slots=True)
class _Overflowing:
    """A table as wide as its content, as kubectl's are: names of pods are long, and are searched with grep."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = Measurement.get(console, options.update_width(_UNBOUNDED_WIDTH), self.table).maximum
        yield from console.render(self.table, options.update_width(max(needed, options.max_width)))


def overflowing(rows: Table) -> RenderableType:
    """The table as wide as its content, however narrow the terminal."""
    return _Overflowing(rows)


def severity_rank(finding: Finding) -> int:
    """Sorts the worst first."""
    return SEVERITY_ORDER[finding.severity]


def rank(item: SocketHealth) -> tuple[int, int, str, str]:
    """Sorts worst first: by health, then by severity of the worst finding, then by name."""
    worst = min((SEVERITY_ORDER[finding.severity] for finding in item.status.findings), default=len(SEVERITY_ORDER))
    return HEALTH_ORDER[item.status.health], worst, item.metadata.namespace or "", item.metadata.name


def report(items: Sequence[SocketHealth], place: Place, most: int | None = None) -> RenderableType:
    """Table, summary, and a block for each finding, worst first.

    Args:
        items: what to show.
        place: where they are from.
        most: so many blocks at most; of the others their number is told.
    """
    ordered = sorted(items, key=rank)
    parts: list[RenderableType] = []
    if ordered:
        rows = table(ordered, place)
        parts.append(overflowing(rows) if place == "cluster" else rows)
        parts.append(Text())
    parts.append(summary(ordered, place))
    found = [(item, finding) for item in ordered for finding in item.status.findings]
    found.sort(key=lambda pair: SEVERITY_ORDER[pair[1].severity])
    for item, finding in found[:most]:
        parts.append(Text())
        parts.append(_block(_name(item), finding))
    if most is not None and len(found) > most:
        parts += [Text(), Text(f"And {counted(len(found) - most, 'further finding')}: each is in its pod's story.")]
    return Group(*parts)


def table(items: Sequence[SocketHealth], place: Place) -> Table:
    """A line for each. A name that is too long for the width continues on the next line."""
    columns = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    columns.add_column("NAMESPACE", overflow="fold")
    if place == "cluster":
        columns.add_column("NAME", overflow="fold")
    columns.add_column("HEALTH", no_wrap=True, min_width=len("Critical"))
    for name in _NUMBERS:
        columns.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    columns.add_column("FINDING", no_wrap=True, min_width=max((len(_finding(item)) for item in items), default=0))
    for item in items:
        sockets = item.status.sockets
        names = (item.metadata.namespace or "", item.metadata.name) if place == "cluster" else (item.metadata.name,)
        severity = item.status.findings[0].severity if item.status.findings else ""
        columns.add_row(
            *(Text(printable(name)) for name in names),
            Text(item.status.health, style=STYLES[item.status.health]),
            Text(str(sockets.established)),
            Text(str(sockets.time_wait)),
            Text(str(sockets.close_wait)),
            Text(_ports(item)),
            Text(_finding(item), style=STYLES.get(severity, "")),
        )
    return columns


def summary(items: Sequence[SocketHealth], place: Place) -> Text:
    """One sentence: how many of what health."""
    one, many = _THINGS[place]
    if not items:
        return Text(f"No {one} was read.")
    health = Counter(item.status.health for item in items)
    if set(health) == {"Healthy"}:
        sockets = sum(_sockets(item) for item in items)
        who = f"{one.capitalize()} {_name(items[0])} is" if len(items) == 1 else f"All {len(items):,} {many} are"
        return Text(f"{who} healthy ({counted(sockets, 'TCP socket')}).", style=STYLES["Healthy"], overflow="fold")
    parts = [Text(f"{health[name]:,} {name}", style=STYLES[name]) for name in HEALTH_ORDER if health[name]]
    return Text.assemble(f"{counted(len(items), one, many)}: ", Text(", ").join(parts), ".")


def _block(name: str, finding: Finding) -> RenderableType:
    heading = Text.assemble(
        (finding.severity, STYLES[finding.severity]),
        (f"  {printable(finding.type)}", "bold"),
        f"  {name}",
        overflow="fold",
    )
    lines = [Text(sentence(printable(finding.message)), overflow="fold")]
    if finding.severity != "Info":
        lines.append(Text.assemble(("What helps: ", "bold"), printable(finding.remedy), overflow="fold"))
        lines.append(Text.assemble(("Runbook: ", "bold"), printable(finding.runbook), overflow="fold"))
    return Group(heading, *(Padding(Constrain(line, TEXT_WIDTH), (0, 0, 0, 2), expand=False) for line in lines))


def sentence(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def _name(item: SocketHealth) -> str:
    namespace = item.metadata.namespace
    return printable(f"{namespace}/{item.metadata.name}" if namespace else item.metadata.name)


def _ports(item: SocketHealth) -> str:
    destinations = item.status.ephemeral_ports.destinations
    return f"{max(one.used_percent for one in destinations):.0f}%" if destinations else "-"


def _finding(item: SocketHealth) -> str:
    return printable(item.status.findings[0].type) if item.status.findings else "-"


def _sockets(item: SocketHealth) -> int:
    sockets = item.status.sockets
    return sum(getattr(sockets, state) for state in sockets.__struct_fields__)
