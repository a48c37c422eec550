"""What a SysctlProfile's status says of its roll-out: counts of nodes, and conditions with sentences for a person."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from sockethealth_core.conditions import Statement, stated
from sockethealth_core.resources import Condition, ProfileNodes, RolloutState, SysctlProfile
from sockethealth_core.rollout_nodes import NodeView

_NAMED: Final = 5
"""Nodes that a sentence names before it counts the rest."""

_LISTED: Final = 10
"""Overridden sysctls that the condition lists."""


def counts(selected: Sequence[NodeView], state: RolloutState) -> ProfileNodes:
    """Nodes by state; applied, drifted, failed and pending, or audited, failed and pending, add up to selected."""
    failed = sum(node.failed for node in selected)
    if state.phase == "Audit":
        answers = [node.report for node in selected if node.report and _audited(node, state.revision)]
        return ProfileNodes(
            selected=len(selected),
            failed=failed,
            pending=len(selected) - len(answers) - failed,
            audited=len(answers),
            would_change=sum(answer.changes_total > 0 for answer in answers),
        )
    # Of an invalid profile the stable part is what can be applied.
    revision = state.revision or (state.stable.revision if state.stable else "")
    applied = sum(node.settled(revision) for node in selected)
    drifted = sum(node.drifted for node in selected)
    return ProfileNodes(
        selected=len(selected),
        applied=applied,
        drifted=drifted,
        failed=failed,
        pending=len(selected) - applied - drifted - failed,
    )


def conditions(
    profile: SysctlProfile, nodes: Sequence[NodeView], state: RolloutState, faults: Sequence[str], now: float
) -> list[Condition]:
    """Conditions of a profile, sorted by type.

    Args:
        profile: with its previous status.
        nodes: every node there is, sorted by name.
        state: where the roll-out stands after this step.
        faults: why the profile is invalid; none when it is valid.
        now: epoch seconds.
    """
    selected = [node for node in nodes if node.selected]
    previous = profile.status.conditions
    valid = Statement("Accepted", holds=True, reason="Valid", message="The profile is valid.")
    invalid = Statement("Accepted", holds=False, reason="Invalid", message="; ".join(faults))
    statements = [
        invalid if faults else valid,
        _progressing(profile, selected, state, bool(faults)),
        _degraded(nodes, state),
    ]
    overridden = _overridden(selected)
    if overridden:
        statements.append(Statement("Overridden", holds=True, reason="OthersSetIt", message=overridden))
    elif any(condition.type == "Overridden" for condition in previous):
        nobody = "Nothing else sets a sysctl of the profile."
        statements.append(Statement("Overridden", holds=False, reason="NotOverridden", message=nobody))
    return stated(statements, generation=profile.metadata.generation, previous=previous, now=now)


def _progressing(profile: SysctlProfile, selected: Sequence[NodeView], state: RolloutState, invalid: bool) -> Statement:
    holds = False
    if invalid:
        kept = "What was stable stays where it is." if state.stable else "Nothing is in force."
        reason, sentences = "Invalid", ["Nothing is rolled out: see condition Accepted.", kept]
    elif state.phase == "Stopped":
        reason, sentences = "Stopped", [state.stopped_because]
    elif not selected and profile.spec.activation == "OnFinding":
        reason, sentences = "NoFinding", ["No finding asks for it."]
    elif not selected:
        reason, sentences = "NoNodeSelected", ["No node is selected: see spec.nodeSelector."]
    elif state.phase == "Audit":
        reason, sentences = "Audited", _audit(selected, state)
    else:
        reason, sentences = _rolling(profile, selected, state)
        holds = reason in {"RollingOut", "Waiting"}
    return Statement("Progressing", holds, reason, " ".join(sentences))


def _rolling(profile: SysctlProfile, selected: Sequence[NodeView], state: RolloutState) -> tuple[str, list[str]]:
    """Reason and sentences of a roll-out that has not stopped."""
    batch = set(state.batch)
    have = sum(node.settled(state.revision) for node in selected)
    left = [node for node in selected if node.enforced != state.revision and node.name not in batch]
    turn = sum(node.reachable for node in left)
    sentences = [f"{have} of {_nodes(len(selected))} {_verb(have, 'has', 'have')} the values."]
    reason = "Complete" if state.phase == "Complete" else "Waiting"
    if turn and profile.spec.rollout.paused:
        reason = "Paused"
        sentences.append(f"Paused: {_nodes(turn)} {_verb(turn, 'waits', 'wait')} until spec.rollout.paused is false.")
    if state.batch:
        reason = "RollingOut"
        pause = f" for {profile.spec.rollout.pause_seconds} s" if state.settled_since else ""
        sentences.append(f"{'Watching' if pause else 'Changing'} {_names(state.batch)}{pause}.")
    return reason, sentences + _waiting(left)


def _audit(selected: Sequence[NodeView], state: RolloutState) -> list[str]:
    numbers = counts(selected, state)
    sentences = [
        f"Audit: Enforce would change {numbers.would_change} of {_nodes(numbers.audited)}; "
        "see status.sysctlProfiles of their NodeSocketHealth."
        if numbers.audited
        else "Audit: no node has answered."
    ]
    pending = [node for node in selected if not node.failed and not _audited(node, state.revision)]
    asked = sum(node.reachable for node in pending)
    if asked:
        sentences.append(f"{_nodes(asked)} {_verb(asked, 'has', 'have')} not answered yet.")
    return sentences + _waiting(pending)


def _waiting(nodes: Sequence[NodeView]) -> list[str]:
    """Sentences on nodes whose turn cannot come."""
    silent = [node.name for node in nodes if node.silent]
    bare = [node.name for node in nodes if not node.has_writer and not node.silent]
    sentences = []
    if bare:
        sentences.append(
            f"{_nodes(len(bare))} {_verb(len(bare), 'has', 'have')} no sysctl writer (sysctls.enabled is false there, "
            f"or its pod does not run): {_names(bare)}."
        )
    if silent:
        sentences.append(
            f"{_nodes(len(silent))} cannot be reached, as {_verb(len(silent), 'its agent is', 'their agents are')} "
            f"silent: {_names(silent)}."
        )
    return sentences


def _degraded(nodes: Sequence[NodeView], state: RolloutState) -> Statement:
    found: list[tuple[str, str]] = []
    if state.phase == "Stopped":
        sentence = f"{state.stopped_because} {_taking_back(nodes, state)}"
        found.append((state.stopped_reason, sentence))
    else:
        failed = [node for node in nodes if node.selected and node.failed]
        if failed:
            does = "refuses" if state.phase == "Audit" else "could not be given"
            found.append(("NodeFailed", _told(failed, f"{does} the values")))
        failing = [node for node in nodes if node.restore_failing]
        if failing:
            found.append(("RestoreFailed", _told(failing, "could not put every value back yet")))
    drifted = [node for node in nodes if node.selected and node.drifted]
    if drifted:
        found.append(("Drifted", _told(drifted, "has a value that someone else changed, and it is left like that")))
    if not found:
        return Statement("Degraded", holds=False, reason="AsExpected", message="No node failed or drifted.")
    return Statement("Degraded", holds=True, reason=found[0][0], message=" ".join(sentence for _, sentence in found))


def _taking_back(nodes: Sequence[NodeView], state: RolloutState) -> str:
    """How far the taking back of a stopped roll-out is."""
    batch = set(state.batch)
    changed = [node for node in nodes if node.name in batch]
    if not changed:
        return "No node had been changed."
    to = "the values that were stable" if _goes_to_stable(state) else "the values found there"
    missing = [node for node in changed if not _is_back(node, state)]
    sentence = f"{_nodes(len(changed))} {_verb(len(changed), 'goes', 'go')} back to {to}"
    if not missing:
        return f"{sentence}: done."
    failing = [node for node in missing if node.restore_failing or node.failed]
    told = f" {_told(failing, 'could not put every value back yet')}" if failing else ""
    done = len(changed) - len(missing)
    return f"{sentence}: done on {done}, not yet on {_names([node.name for node in missing])}.{told}"


def _goes_to_stable(state: RolloutState) -> bool:
    return state.stable is not None and state.stable.revision != state.revision


def _is_back(node: NodeView, state: RolloutState) -> bool:
    # The last word of a silent node can be from before the change.
    if node.silent or node.enforced == state.revision:
        return False
    if node.enforced:
        return node.answered(node.enforced) and not node.failed
    return node.report is None


def _overridden(selected: Iterable[NodeView]) -> str:
    """Sentence on what others set, most nodes first; empty when nobody does."""
    on: Counter[tuple[str, str]] = Counter()
    for node in selected:
        if node.report:
            on.update({(entry.name, entry.by) for entry in node.report.overridden})
    ranked = sorted(on.items(), key=lambda entry: (-entry[1], entry[0]))
    parts = [f"{name} is set by {by} on {_nodes(number)}" for (name, by), number in ranked[:_LISTED]]
    if len(ranked) > _LISTED:
        parts.append(f"and {len(ranked) - _LISTED} more")
    return _sentence("; ".join(parts)) if parts else ""


def _audited(node: NodeView, revision: str) -> bool:
    answer = node.answer(revision, "Audit")
    return answer is not None and answer.state == "Audited"


def _told(nodes: Sequence[NodeView], what: str) -> str:
    """Sentence that names nodes, what is wrong with them, and what the first of them says."""
    first = nodes[0].report
    said = f" {nodes[0].name} says: {_sentence(first.message)}" if first and first.message else ""
    return f"{_names([node.name for node in nodes])}: {what}.{said}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _nodes(number: int) -> str:
    return f"{number} {_verb(number, 'node', 'nodes')}"


def _verb(number: int, one: str, many: str) -> str:
    return one if number == 1 else many


def _sentence(text: str) -> str:
    text = text.strip()
    return text + ("" if text.endswith((".", "!", "?")) else ".")
