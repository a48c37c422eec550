"""How a SysctlProfile spreads over nodes: a pure function of the profile, its remembered state, the nodes and the time.

Level-based: each call says what every node shall be asked for, from what is, so that it goes on after a restart of
the operator from what the API server holds.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec.structs import replace

from sockethealth_core.names import ANNOTATION_RETRY
from sockethealth_core.resources import (
    Condition,
    Mode,
    ProfileContent,
    ProfileNodes,
    RolloutState,
    SysctlProfile,
    SysctlValue,
    encode,
)
from sockethealth_core.resources import Rollout as RolloutOptions
from sockethealth_core.rollout_conditions import conditions, counts
from sockethealth_core.rollout_nodes import NodeFinding, NodeView
from sockethealth_core.units import format_time, parse_time

__all__ = ["ANSWER_SECONDS", "Assignment", "NodeFinding", "NodeView", "Plan", "advance", "content_of"]

ANSWER_SECONDS: Final = 120.0
"""A node whose writer has not reported a new assignment by then has failed."""

_RENEW_SECONDS: Final = 10.0
"""While assignments of a batch are not written, its time to answer is begun anew this often."""

_MAX_BATCH: Final = 5000
"""What ``status.rollout.batch`` can hold."""

_REVISION_DIGITS: Final = 12
_RANK: Final = {"Info": 0, "Warning": 1, "Critical": 2}
_CONCURRENCY: Final = re.compile(r"([0-9]+)(%?)", re.ASCII)
_RETRY: Final = f"edit the profile, or give it another value of the annotation {ANNOTATION_RETRY}, to start anew"


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a node shall be asked for."""

    content: ProfileContent
    mode: Mode


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows.

    Attributes:
        assignments: by node, for the nodes that shall have one; all other nodes shall have none.
        state: to be remembered in the profile's status, before assignments are written.
        nodes: counts for the status.
        conditions: Accepted, Progressing, Degraded, Overridden; see `advance`.
        next_due: epoch seconds at which to look again though nothing happens, or None.
    """

    assignments: Mapping[str, Assignment]
    state: RolloutState
    nodes: ProfileNodes
    conditions: tuple[Condition, ...]
    next_due: float | None


def content_of(profile: SysctlProfile) -> ProfileContent:
    """What a profile asks for, with its revision: a digest that ignores mode, selectors of nodes, and roll-out options.

    The annotation sockethealth.io/retry is part of the digest. The order of the sysctls and the white space in their
    values are not: /proc/sys shows a tab where people write a space.
    """
    spec = profile.spec
    sysctls = [
        SysctlValue(name=sysctl.name, value=" ".join(sysctl.value.split()))
        for sysctl in sorted(spec.sysctls, key=lambda sysctl: sysctl.name)
    ]
    content = ProfileContent(
        revision="",
        target=spec.target,
        priority=spec.priority,
        sysctls=sysctls,
        namespace_selector=spec.namespace_selector,
        pod_selector=spec.pod_selector,
    )
    retry = profile.metadata.annotations.get(ANNOTATION_RETRY, "")
    canonical = msgspec.json.encode({**encode(content), "retry": retry}, order="sorted")
    return replace(content, revision=hashlib.sha256(canonical).hexdigest()[:_REVISION_DIGITS])


def advance(
    profile: SysctlProfile,
    nodes: Sequence[NodeView],
    now: float,
    *,
    faults: Sequence[str] = (),
) -> Plan:
    """The next step of a roll-out, from `profile.status.rollout` on.

    Enforce changes one batch at a time. A batch is done when every node of it has reported the values in force and
    ``pauseSeconds`` have passed since. It stops the roll-out when a node of it fails, drifts, goes silent or does not
    answer within `ANSWER_SECONDS`, or has a finding of ``stopOn`` or above raised since the batch was begun; so does a
    failure, or such a finding, on a node that this roll-out has changed in an earlier batch. All these nodes then go
    back to what is stable, or to nothing. Once every node that can be reached has a revision, it is stable: only a
    batch that joins later loses it when it fails. A stop lasts until the profile asks for something else, or its mode
    is Audit.

    A revision that was replaced while it was half rolled out is taken back to the stable one at once, as on a stop:
    nobody watches it any more. A node that cannot be reached waits, and keeps what it has. A node that the profile is
    not for loses it at once, whatever the phase. ``paused`` holds further batches back, and no gate.

    Audit asks every selected node at once, and takes everything that was enforced back.

    Conditions, sorted by type:

    - Accepted: False with reason Invalid when there are faults.
    - Degraded: True with reason NodeFailed, AgentSilent, NoAnswer or FindingRaised once stopped; NodeFailed,
      RestoreFailed or Drifted where nodes report it otherwise.
    - Overridden: whether others set sysctls of the profile; there from the first time on.
    - Progressing: True with reason RollingOut or Waiting; False with Complete, Paused, Stopped, Audited,
      NoNodeSelected, NoFinding or Invalid.

    Args:
        profile: with the status that the last call gave.
        nodes: every node there is, selected or not, in any order.
        now: epoch seconds.
        faults: sentences that say why the profile is invalid though admission let it pass. Nothing of an invalid
            profile reaches a node. What is stable stays where it is, because a slip of the pen must not change values
            on nodes that are well; what is half rolled out goes back, as nothing is left to carry it on with. In mode
            Audit everything is taken back, because that is what Audit promises.
    """
    spec = profile.spec
    limit = _limit(spec.rollout.max_concurrent_nodes, sum(node.selected for node in nodes))
    if limit is None:
        wanted = spec.rollout.max_concurrent_nodes
        fault = f"spec.rollout.maxConcurrentNodes is '{wanted}': write a number from 1 on, or a percentage up to 100%"
        faults = [*faults, fault]
    content = content_of(profile)
    revision = content.revision
    nodes = sorted(nodes, key=lambda node: node.name)
    selected = [node for node in nodes if node.selected]
    if spec.mode == "Audit":
        state = RolloutState(revision="" if faults else revision, phase="Audit")
        audit = Assignment(content, "Audit")
        assignments = {} if faults else {node.name: audit for node in selected if node.has_writer}
    else:
        if limit is None or faults:
            state = _held(profile.status.rollout)
            usable = None
        else:
            begun = _begun(profile.status.rollout, revision, selected, now)
            state = _stepped(begun, content, spec.rollout, selected, limit, now)
            usable = content
        assignments = {name: Assignment(given, "Enforce") for name, given in _enforced(state, usable, selected)}
    return Plan(
        assignments=assignments,
        state=state,
        nodes=counts(selected, state),
        conditions=tuple(conditions(profile, nodes, state, faults, now)),
        next_due=_next_due(state, spec.rollout),
    )


def _limit(wanted: int | str, selected: int) -> int | None:
    """Nodes changed at once, at least one; None when it is neither a number nor a percentage."""
    match = _CONCURRENCY.fullmatch(str(wanted))
    if match is None or int(match[1]) < 1:
        return None
    number = selected * int(match[1]) // 100 if match[2] else int(match[1])
    return max(1, min(number, _MAX_BATCH))


def _held(state: RolloutState) -> RolloutState:
    """What an invalid profile remembers: a stop, and what is stable; a valid one then starts anew."""
    if state.phase == "Stopped":
        return state
    return RolloutState(stable=state.stable, previous=state.previous)


def _begun(state: RolloutState, revision: str, selected: Sequence[NodeView], now: float) -> RolloutState:
    """The state as it is, or that of a new roll-out when something else is asked for.

    An edit and its reversal can leave nodes behind that were being changed to this very revision: they are its first
    batch, so that they are watched like others.
    """
    if state.phase != "Audit" and state.revision == revision:
        return state
    left = [node for node in selected if node.reachable and node.enforced == revision]
    batch = [node.name for node in left if not node.answered(revision)]
    # With nothing in force anywhere, nothing is what every node had last.
    in_force = any(node.enforced for node in selected)
    return RolloutState(
        revision=revision,
        batch=batch[:_MAX_BATCH],
        batch_since=format_time(now) if batch else None,
        watched_since=format_time(now),
        stable=state.stable if in_force else None,
        previous=state.previous if in_force else None,
    )


def _stepped(
    state: RolloutState,
    content: ProfileContent,
    options: RolloutOptions,
    selected: Sequence[NodeView],
    limit: int,
    now: float,
) -> RolloutState:
    if state.phase == "Stopped":
        return state
    revision = content.revision
    members = set(state.batch)
    # A node that has not been asked yet can still be left out; one that has been asked and goes silent is a failure.
    batch = [n for n in selected if n.name in members and (n.enforced == revision or n.reachable)]
    state = replace(state, batch=[node.name for node in batch])
    stop = _stop(state, selected, options, now)
    if stop:
        reason, sentence = stop
        return replace(
            state,
            phase="Stopped",
            batch=_taken_back(state, selected),
            batch_since=None,
            settled_since=None,
            watched_since=None,
            stopped_reason=reason,
            stopped_because=sentence,
        )
    if batch and not state.settled_since:
        if all(node.settled(revision) for node in batch):
            state = replace(state, settled_since=format_time(now))
        elif any(node.enforced != revision for node in batch) and now >= _time(state.batch_since) + _RENEW_SECONDS:
            state = replace(state, batch_since=format_time(now))
    if batch and (not state.settled_since or now < _time(state.settled_since) + options.pause_seconds):
        return replace(state, phase="Progressing")
    return _next_batch(state, content, options, selected, limit, now)


def _next_batch(
    state: RolloutState,
    content: ProfileContent,
    options: RolloutOptions,
    selected: Sequence[NodeView],
    limit: int,
    now: float,
) -> RolloutState:
    watched_since = state.batch_since or state.watched_since or format_time(now)
    state = replace(
        state, phase="Progressing", batch=[], batch_since=None, settled_since=None, watched_since=watched_since
    )
    left = [node for node in selected if node.enforced != content.revision]
    turn = [node.name for node in left if node.reachable]
    if turn:
        return state if options.paused else replace(state, batch=turn[:limit], batch_since=format_time(now))
    in_force = {node.enforced for node in selected}
    stable, previous = state.stable, state.previous
    if content.revision in in_force and (stable is None or stable.revision != content.revision):
        previous = stable if stable and stable.revision in in_force else previous
        stable = content
    if previous and previous.revision not in in_force:
        previous = None
    return replace(
        state, phase="Progressing" if left else "Complete", watched_since=None, stable=stable, previous=previous
    )


def _stop(
    state: RolloutState, selected: Sequence[NodeView], options: RolloutOptions, now: float
) -> tuple[str, str] | None:
    """Reason and sentence of the first node, by name, that is no longer as it must be; None when all are."""
    batch = set(state.batch)
    unstable = not state.stable or state.stable.revision != state.revision
    for node in selected:
        if node.enforced != state.revision:
            continue
        found = None
        if node.name in batch:
            found = _batch_fault(node, state, options, now)
        elif unstable:
            # What was raised before the batch before was begun may be older than the change of a node in it.
            found = _failure(node) or _raised(node, state.watched_since, options)
        if found:
            reason, sentence = found
            return reason, f"{sentence}; {_RETRY}."
    return None


def _batch_fault(node: NodeView, state: RolloutState, options: RolloutOptions, now: float) -> tuple[str, str] | None:
    found = _failure(node) or _raised(node, state.batch_since, options)
    if found:
        return found
    if node.silent:
        return "AgentSilent", f"The agent of node {node.name} stopped reporting: see its pod and its node"
    answer = node.answer(state.revision)
    if answer and answer.state == "Drifted":
        return "NodeFailed", f"On node {node.name} someone else changed a value back" + _quoted(answer.message)
    # Once settled, Pending means a pod that has just started, which is no news of the values.
    late = not state.settled_since and now >= _time(state.batch_since) + ANSWER_SECONDS
    if late and not node.settled(state.revision):
        waited = f"within {ANSWER_SECONDS:.0f} s"
        return "NoAnswer", f"Node {node.name} did not report the values in force {waited}: see its sysctl writer's log"
    return None


def _failure(node: NodeView) -> tuple[str, str] | None:
    if not node.failed or node.report is None:
        return None
    return "NodeFailed", f"Node {node.name} could not be changed" + _quoted(node.report.message)


def _raised(node: NodeView, since: str | None, options: RolloutOptions) -> tuple[str, str] | None:
    if options.stop_on == "Never":
        return None
    for finding in node.findings:
        if _RANK[finding.severity] >= _RANK[options.stop_on] and finding.since >= _time(since):
            return "FindingRaised", f"Node {node.name} has a {finding.severity} finding since it was changed" + _quoted(
                finding.what
            )
    return None


def _quoted(message: str) -> str:
    return f" ({message.rstrip('. ')})" if message else ""


def _taken_back(state: RolloutState, selected: Iterable[NodeView]) -> list[str]:
    """The batch, and all other nodes of this roll-out."""
    batch = set(state.batch)
    others: list[str] = []
    if not state.stable or state.stable.revision != state.revision:
        others = [node.name for node in selected if node.enforced == state.revision and node.name not in batch]
    return sorted([*state.batch, *others][:_MAX_BATCH])


def _enforced(
    state: RolloutState, content: ProfileContent | None, selected: Iterable[NodeView]
) -> Iterator[tuple[str, ProfileContent]]:
    """What each node shall have in force; nodes that are left out: nothing."""
    stopped = state.phase == "Stopped"
    batch = set(state.batch)
    usable = (state.previous, state.stable, None if stopped else content)
    kept = {one.revision: one for one in usable if one}
    for node in selected:
        given = kept.get(node.enforced, state.stable) if node.enforced else None
        if node.name in batch:
            if not stopped:
                given = content
            elif node.enforced == state.revision:
                given = state.stable if state.stable and state.stable.revision != state.revision else None
        if given:
            yield node.name, given


def _next_due(state: RolloutState, options: RolloutOptions) -> float | None:
    if state.phase != "Progressing" or not state.batch:
        return None
    if state.settled_since:
        return _time(state.settled_since) + options.pause_seconds
    return _time(state.batch_since) + ANSWER_SECONDS


def _time(text: str | None) -> float:
    """Epoch seconds of a remembered time; one that is missing is long ago."""
    return parse_time(text) if text else 0.0
