"""Policies over facts, in time: what is found, what changed, and when to look again.

Pure: facts, rules, the previous judgement and the time go in, the next judgement comes out. The previous
judgement is what the object's status holds, so nothing is lost when the operator restarts: a rule's state and
since-times are read back from there.

A rule is idle, pending (value >= threshold, ``for`` runs), active, or clearing (value < clearThreshold,
``clearAfter`` runs; the finding stays). A value that is not known, or facts of a node whose agent is silent,
leave every state as it is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from sockethealth_core.detectors import Reading, Subject
from sockethealth_core.detectors.base import AnyFacts, MeasureError
from sockethealth_core.names import runbook_url
from sockethealth_core.policy import CompiledRule, RuleKey
from sockethealth_core.resources import Finding, Health, Judgement, RuleState, Severity, Target
from sockethealth_core.units import format_time, parse_time

SEVERITY_ORDER: Final[dict[Severity, int]] = {"Critical": 0, "Warning": 1, "Info": 2}

NameTarget = Callable[[Target], Target]
"""Gives a target its name in the cluster, where it has one."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The next judgement, and when the next state would change if the facts stay (epoch seconds, or never).

    ``errors`` names rules that could not be applied to these facts, each with a sentence for the policy's author;
    their state stays as it is.
    """

    judgement: Judgement
    next_due: float | None
    errors: tuple[tuple[RuleKey, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Transition:
    """A finding that was raised, changed its severity, or cleared."""

    change: Literal["Raised", "Escalated", "Eased", "Cleared"]
    finding: Finding


def evaluate(
    subject: Subject,
    facts: AnyFacts,
    rules: Sequence[CompiledRule],
    previous: Judgement,
    now: float,
    *,
    stale: bool = False,
    name_target: NameTarget = lambda target: target,
) -> Evaluation:
    """Judge facts by the rules that concern their subject.

    Args:
        subject: what messages call it.
        facts: what the agent stated last.
        rules: rules of every policy that selects the subject.
        previous: the judgement in the object's status.
        now: epoch seconds.
        stale: the agent is silent, so nothing is raised or cleared and health is Unknown.
        name_target: looks up a destination's or peer's name in the cluster.
    """
    old_states = {_key(state): state for state in previous.evaluation}
    old_findings = {(finding.policy_kind, finding.policy, finding.rule): finding for finding in previous.findings}
    states: list[RuleState] = []
    active: list[tuple[CompiledRule, Finding]] = []
    due: list[float] = []
    errors: list[tuple[RuleKey, str]] = []
    for rule in rules:
        old = old_states.get(rule.key)
        reading = None
        try:
            reading = None if stale else rule.detector.measure(facts, rule.parameters)
        except MeasureError as error:
            errors.append((rule.key, str(error)))
        state = old if reading is None else _advance(rule, old, reading.value, now, due)
        if state is None:
            continue
        states.append(state)
        if state.raised is None:
            continue
        known = old_findings.get((rule.key.policy_kind, rule.key.policy, rule.key.rule))
        if reading is None or (known is not None and state.state == "Clearing"):
            # While it clears, the numbers that made it a finding say more than those of what is left.
            finding = known
        else:
            finding = _finding(subject, facts, rule, state, reading, name_target)
        if finding is not None:
            active.append((rule, finding))
    findings = _worst_of_each(active)
    health: Health = "Unknown" if stale else health_of(findings)
    judgement = Judgement(health=health, findings=findings, evaluation=states, conditions=previous.conditions)
    return Evaluation(judgement, min(due, default=None), tuple(errors))


def snapshot(subject: Subject, facts: AnyFacts, rules: Sequence[CompiledRule], now: float) -> Judgement:
    """Judge one moment by itself: ``for`` counts as zero, as there is no before."""
    instant = [replace(rule, for_seconds=0.0) for rule in rules]
    return evaluate(subject, facts, instant, Judgement(), now).judgement


def health_of(findings: Iterable[Finding]) -> Health:
    """The worst severity above Info; an Audit finding counts, as it is as true as any."""
    severities = {finding.severity for finding in findings}
    if "Critical" in severities:
        return "Critical"
    return "Warning" if "Warning" in severities else "Healthy"


def transitions(before: Sequence[Finding], after: Sequence[Finding]) -> list[Transition]:
    """What changed between two judgements, by policy and detector: one finding each at most."""
    old = {identity_of(finding): finding for finding in before}
    new = {identity_of(finding): finding for finding in after}
    changes = []
    for identity, finding in new.items():
        known = old.get(identity)
        if known is None:
            changes.append(Transition("Raised", finding))
        elif SEVERITY_ORDER[finding.severity] < SEVERITY_ORDER[known.severity]:
            changes.append(Transition("Escalated", finding))
        elif SEVERITY_ORDER[finding.severity] > SEVERITY_ORDER[known.severity]:
            changes.append(Transition("Eased", finding))
    changes.extend(Transition("Cleared", finding) for identity, finding in old.items() if identity not in new)
    return changes


def _advance(rule: CompiledRule, old: RuleState | None, value: float, now: float, due: list[float]) -> RuleState | None:
    if old is None or old.raised is None:
        if value < rule.threshold:
            return None
        since = now if old is None else _not_after(old.since, now)
        if now - since >= rule.for_seconds:
            return _state(rule.key, "Active", now, raised=now)
        due.append(since + rule.for_seconds)
        return _state(rule.key, "Pending", since)
    raised = _not_after(old.raised, now)
    if value >= rule.clear_threshold:
        return old if old.state == "Active" else _state(rule.key, "Active", now, raised=raised)
    since = _not_after(old.since, now) if old.state == "Clearing" else now
    if now - since >= rule.clear_after_seconds:
        return None
    due.append(since + rule.clear_after_seconds)
    return _state(rule.key, "Clearing", since, raised=raised)


def _not_after(time: str, now: float) -> float:
    # A clock that was set back must not leave a time in the future, which would never come due.
    return min(parse_time(time), now)


def _state(
    key: RuleKey,
    state: Literal["Pending", "Active", "Clearing"],
    since: float,
    *,
    raised: float | None = None,
) -> RuleState:
    return RuleState(
        policy_kind=key.policy_kind,
        policy=key.policy,
        rule=key.rule,
        state=state,
        since=format_time(since),
        raised=None if raised is None else format_time(raised),
    )


def _finding(
    subject: Subject,
    facts: AnyFacts,
    rule: CompiledRule,
    state: RuleState,
    reading: Reading,
    name_target: NameTarget,
) -> Finding:
    if reading.target is not None:
        reading = Reading(reading.value, name_target(reading.target), reading.evidence)
    advice = rule.detector.advise(subject, facts, reading)
    return Finding(
        type=rule.detector.name,
        severity=rule.severity,
        since=state.raised or state.since,
        policy=rule.key.policy,
        policy_kind=rule.key.policy_kind,
        rule=rule.key.rule,
        mode=rule.mode,
        value=round(reading.value, 2),
        threshold=rule.threshold,
        target=reading.target,
        evidence=dict(reading.evidence),
        message=advice.message,
        remedy=advice.remedy,
        runbook=runbook_url(rule.detector.name),
    )


def _worst_of_each(active: list[tuple[CompiledRule, Finding]]) -> list[Finding]:
    """One finding a policy and detector: a Critical one makes the Warning of the same thing noise."""
    best: dict[tuple[str, ...], Finding] = {}
    for _, finding in active:
        identity = identity_of(finding)
        known = best.get(identity)
        if known is None or SEVERITY_ORDER[finding.severity] < SEVERITY_ORDER[known.severity]:
            best[identity] = finding
    return sorted(best.values(), key=lambda finding: (SEVERITY_ORDER[finding.severity], finding.type, finding.policy))


def identity_of(finding: Finding) -> tuple[str, ...]:
    """What makes two findings of one subject the same thing: policy and detector, whatever the severity."""
    # Rules of an Expression are each a thing of their own; of the others, rules differ in severity only.
    rule = finding.rule if finding.type == "Expression" else ""
    return (finding.policy_kind, finding.policy, finding.type, rule)


def _key(state: RuleState) -> RuleKey:
    return RuleKey(state.policy_kind, state.policy, state.rule)
