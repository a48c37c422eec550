"""SysctlProfiles as a person reads them: how far each roll-out is, and what each node says of one. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sockethealth_cli import render
from sockethealth_cli.text import counted, printable
from sockethealth_core.resources import Condition, NodeSocketHealth, SysctlProfile, SysctlProfileReport

_STYLES: Final = {
    "Failed": "bold red",
    "Stopped": "bold red",
    "Invalid": "bold red",
    "Drifted": "yellow",
    "Restoring": "yellow",
    "Paused": "yellow",
    "Applied": "green",
    "Complete": "green",
    "Audited": "cyan",
}
_ORDER: Final = ("Failed", "Drifted", "Restoring", "Asked", "Pending", "Audited", "Applied")
_UNTOLD: Final = "-"
_TO_THE_OPERATOR: Final = "The operator has not looked at it: is it running?"


@dataclass(frozen=True, slots=True)
class NodeState:
    """Where a profile stands on one node; without a report the node has been asked, or is being taken back."""

    node: str
    report: SysctlProfileReport | None

    @property
    def state(self) -> str:
        """The report's state, or Asked."""
        return self.report.state if self.report else "Asked"


def on_nodes(name: str, nodes: Sequence[NodeSocketHealth]) -> list[NodeState]:
    """The nodes that have been asked for a profile or say something of it, those in trouble first."""
    found = []
    for node in nodes:
        report = next((one for one in node.status.sysctl_profiles if one.profile == name), None)
        if report is not None or any(one.profile == name for one in node.spec.sysctl_profiles):
            found.append(NodeState(node.metadata.name, report))
    return sorted(found, key=lambda one: (_ORDER.index(one.state), one.node))


def table(profiles: Sequence[SysctlProfile]) -> RenderableType:
    """A line for each profile, by name."""
    if not profiles:
        return Text("There is no SysctlProfile.")
    grid = _grid()
    grid.add_column("NAME", overflow="fold")
    for name in ("MODE", "TARGET", "STATE"):
        grid.add_column(name, no_wrap=True)
    for name in ("APPLIED", "FAILED", "DRIFTED"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("MESSAGE", overflow="fold")
    for profile in sorted(profiles, key=lambda one: one.metadata.name):
        nodes = profile.status.nodes
        audit = profile.spec.mode == "Audit"
        grid.add_row(
            Text(printable(profile.metadata.name)),
            Text(profile.spec.mode),
            Text(profile.spec.target),
            _styled(_state(profile)),
            _UNTOLD if audit else f"{nodes.applied}/{nodes.selected}",
            str(nodes.failed),
            str(nodes.drifted),
            Text(printable(_message(profile)), overflow="fold"),
        )
    return grid


def story(profile: SysctlProfile, states: Sequence[NodeState]) -> RenderableType:
    """One profile: what it asks for, where its roll-out stands and why, and what each node says."""
    spec = profile.spec
    parts: list[RenderableType] = [
        Text.assemble(
            (f"SysctlProfile {printable(profile.metadata.name)}", "bold"),
            f" ({spec.mode}, target {spec.target}): ",
            _styled(_state(profile)),
            overflow="fold",
        )
    ]
    parts += [Text(f"  {printable(one.name)} = {printable(one.value)}", overflow="fold") for one in spec.sysctls]
    parts.append(Text())
    told = [one for one in profile.status.conditions if one.message and _worth_telling(one)]
    parts += [Text(printable(one.message), overflow="fold") for one in told] or [Text(_TO_THE_OPERATOR)]
    parts += [
        Text(f"Mind: {printable(warning)}", style="yellow", overflow="fold") for warning in profile.status.warnings
    ]
    if not states:
        return Group(*parts, Text(), Text("No node has been asked for it."))
    parts += [Text(), _nodes(states)]
    for one in states:
        if one.report is not None:
            parts += [Text(f"{printable(one.node)}: {line}", overflow="fold") for line in _remarks(one.report)]
    return Group(*parts)


def _nodes(states: Sequence[NodeState]) -> RenderableType:
    grid = _grid("NODE", "STATE", "WHERE", "SYSCTL", "FOUND", "WANTED")
    for one in states:
        changes = one.report.changes if one.report else []
        if not changes:
            grid.add_row(Text(printable(one.node)), _styled(one.state), *[_UNTOLD] * 4)
        for index, change in enumerate(changes):
            cells = (change.where, change.name, change.found or "(none)", change.wanted or "(none)")
            first = (Text(printable(one.node)), _styled(one.state)) if index == 0 else ("", "")
            grid.add_row(*first, *(Text(printable(cell)) for cell in cells))
    return render.overflowing(grid)


def _remarks(report: SysctlProfileReport) -> list[str]:
    lines = []
    if report.message and report.state not in {"Applied", "Audited"}:
        lines.append(printable(report.message))
    if (more := report.changes_total - len(report.changes)) > 0:
        lines.append(f"and {counted(more, 'further change')}")
    lines += [f"{printable(one.name)} is set by {printable(one.by)}" for one in report.overridden]
    if report.unsupported:
        lines.append(f"its kernel does not have {printable(', '.join(report.unsupported))}")
    return lines


def _state(profile: SysctlProfile) -> str:
    progress = _condition(profile, "Progressing")
    return printable(progress.reason) if progress else _UNTOLD


def _message(profile: SysctlProfile) -> str:
    for condition, status in (("Accepted", "False"), ("Degraded", "True")):
        found = _condition(profile, condition)
        if found is not None and found.status == status:
            return found.message
    progress = _condition(profile, "Progressing")
    return progress.message if progress else _TO_THE_OPERATOR


def _worth_telling(condition: Condition) -> bool:
    # That a valid profile is valid, and a sound one sound, is no news.
    usual = {"Accepted": "True", "Degraded": "False", "Overridden": "False"}
    return usual.get(condition.type) != condition.status


def _condition(profile: SysctlProfile, name: str) -> Condition | None:
    return next((one for one in profile.status.conditions if one.type == name), None)


def _styled(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _grid(*names: str) -> Table:
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in names:
        grid.add_column(name, no_wrap=True)
    return grid
