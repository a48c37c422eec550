"""Turns of a SysctlProfile's roll-out that people are told of: pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sockethealth_core.resources import RolloutState, SysctlProfileReport, SysctlProfileStatus
from sockethealth_core.rollout import NodeView
from sockethealth_core.units import format_count
from sockethealth_operator import events
from sockethealth_operator.events import Announcement
from sockethealth_operator.objects import ObjectRef

_NAMED: Final = 5
"""Nodes that an Event names before it counts the rest."""


def turns(
    ref: ObjectRef, generation: int | None, before: SysctlProfileStatus, after: SysctlProfileStatus
) -> list[Announcement]:
    """Events for the step from one status of a profile to the next.

    A turn is told once for each revision of each generation: a node that joins later is no news.
    """
    old, new = before.rollout, after.rollout
    happening = (str(generation or 0), new.revision)
    nodes = after.nodes
    told = []
    if _goes_on(new) and not (_goes_on(old) and old.revision == new.revision):
        note = f"Revision {new.revision} is rolled out to {_nodes(nodes.selected)}."
        told.append(events.rolled_out(ref, "RolloutStarted", note, *happening))
    if new.phase == "Complete" and nodes.selected and (old.phase, old.revision) != ("Complete", new.revision):
        note = f"Revision {new.revision} is in force on {nodes.applied} of {_nodes(nodes.selected)}."
        told.append(events.rolled_out(ref, "RolloutCompleted", note, *happening))
    if new.phase == "Stopped" and (old.phase, old.revision) != ("Stopped", new.revision):
        note = f"Revision {new.revision} is taken back: {new.stopped_because}."
        told.append(events.rolled_out(ref, "RolloutStopped", note, *happening, new.stopped_because, warning=True))
    return told


def drift(ref: ObjectRef, views: Sequence[NodeView], known: Collection[str]) -> Announcement | None:
    """An Event about nodes that have drifted and were not known to, or None."""
    found = {view.name: view.report for view in views if view.drifted and view.report and view.name not in known}
    if not found:
        return None
    names = sorted(found)
    others = f" and {format_count(len(names) - _NAMED)} more" if len(names) > _NAMED else ""
    note = f"Someone else has changed values on {', '.join(names[:_NAMED])}{others}. {_said(found, names[0])}"
    revisions = [f"{name} {report.revision}" for name, report in sorted(found.items())]
    return events.rolled_out(ref, "Drifted", note.strip(), *revisions, warning=True)


def _goes_on(state: RolloutState) -> bool:
    return state.phase == "Progressing" and bool(state.batch)


def _nodes(number: int) -> str:
    return f"{format_count(number)} node{'' if number == 1 else 's'}"


def _said(reports: Mapping[str, SysctlProfileReport], node: str) -> str:
    message = reports[node].message
    return f"Node {node}: {message}" if message else ""
