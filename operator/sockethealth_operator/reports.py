"""What people are told: which findings leave the status for annotations and Events, and in which words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sockethealth_core.engine import SEVERITY_ORDER, identity_of, transitions
from sockethealth_core.resources import Finding, PolicyActions, Severity
from sockethealth_core.units import format_duration, parse_time
from sockethealth_operator.annotations import Entry
from sockethealth_operator.objects import ObjectRef

Change = Literal["Raised", "Escalated", "Cleared"]

Actions = Callable[[str, str], PolicyActions]
"""The actions of a policy, by its kind and name."""


@dataclass(frozen=True, slots=True)
class Report:
    """A finding of a pod that people are told of."""

    pod: ObjectRef
    finding: Finding


@dataclass(frozen=True, slots=True)
class EntryChange:
    """What became of a finding for a workload as a whole. ``report`` is a pod's that has it, or None when cleared."""

    change: Change
    entry: Entry
    report: Report | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a workload's annotations shall say, and what changed since they were last written."""

    entries: tuple[Entry, ...]
    changes: tuple[EntryChange, ...]


def reportable(finding: Finding) -> bool:
    """Whether people are told: Info explains, and Audit only shows."""
    return finding.mode == "Enforce" and finding.severity != "Info"


def changes(before: Sequence[Finding], after: Sequence[Finding]) -> list[tuple[Change, Finding]]:
    """What people are told of the step from one list of a pod's findings to the next.

    A finding that only eases is no news. One whose policy turned to Audit is still there, so it is not called
    cleared.
    """
    silenced = _silenced(after)
    told: list[tuple[Change, Finding]] = []
    for step in transitions([f for f in before if reportable(f)], [f for f in after if reportable(f)]):
        if step.change == "Eased" or (step.change == "Cleared" and identity_of(step.finding) in silenced):
            continue
        told.append((step.change, step.finding))
    return told


def plan(recorded: Sequence[Entry], reports: Sequence[Report], still_there: Sequence[Finding]) -> Plan:
    """Sum up the findings of a workload's pods, one entry for each policy and detector.

    An entry's ``since`` is that of the first pod that had it, and stays while any pod has it: so the workload
    is told of once, however many pods it has.

    Args:
        recorded: what was last written.
        reports: reportable findings of all the pods.
        still_there: all findings of the pods; those of Audit policies are not called cleared.
    """
    known = {entry.identity: entry for entry in recorded}
    groups: dict[tuple[str, ...], list[Report]] = {}
    for report in reports:
        groups.setdefault(identity_of(report.finding), []).append(report)
    entries: list[Entry] = []
    steps: list[EntryChange] = []
    for identity, group in groups.items():
        old = known.get(identity)
        worst = min(group, key=lambda report: _rank(report, old))
        entry = Entry(
            type=worst.finding.type,
            severity=worst.finding.severity,
            since=old.since if old else min(report.finding.since for report in group),
            policy=worst.finding.policy,
            policy_kind=worst.finding.policy_kind,
            rule=worst.finding.rule,
            pods=len(group),
            pod=worst.pod.name,
            message=worst.finding.message,
        )
        entries.append(entry)
        if old is None:
            steps.append(EntryChange("Raised", entry, worst))
        elif _order(entry.severity) < _order(old.severity):
            steps.append(EntryChange("Escalated", entry, worst))
    silenced = _silenced(still_there)
    steps += [
        EntryChange("Cleared", entry, None)
        for identity, entry in known.items()
        if identity not in groups and identity not in silenced
    ]
    entries.sort(key=lambda entry: (_order(entry.severity), entry.identity))
    return Plan(tuple(entries), tuple(steps))


def raised_note(message: str, remedy: str) -> str:
    """Text of a Warning Event: what is wrong, then what helps."""
    return f"{message} {remedy}"


def cleared_note(kind: str, policy: str, since: str, message: str, now: float) -> str:
    """Text of a Normal Event: how long it lasted and what was seen."""
    lasted = format_duration(max(now - parse_time(since), 0.0))
    return f"{kind} of policy {policy} has cleared after {lasted}. It was: {message}"


def _rank(report: Report, old: Entry | None) -> tuple[int, bool, str]:
    # The pod that was named before stays named while it is among the worst: its successor would be a change.
    named_before = old is not None and old.pod == report.pod.name
    return (_order(report.finding.severity), not named_before, report.pod.name)


def _order(severity: Severity) -> int:
    return SEVERITY_ORDER[severity]


def _silenced(findings: Sequence[Finding]) -> set[tuple[str, ...]]:
    return {identity_of(finding) for finding in findings if finding.mode == "Audit"}
