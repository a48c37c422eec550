"""What the operator knows of the cluster: pure, in memory, and without a clock of its own.

Events of the API server go in, keys of what must be looked at again come out. The judgement of an object is read
from its status when it is first seen; afterwards only the operator writes it, so an event from before its own last
write does not take it back.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sockethealth_core.detectors import Subject
from sockethealth_core.detectors.base import AnyFacts
from sockethealth_core.engine import Evaluation, NameTarget, evaluate
from sockethealth_core.policy import CompiledRule, Policy, PolicyError, RuleKey, Scene, read_policy
from sockethealth_core.resources import (
    Condition,
    Finding,
    InvalidObjectError,
    Judgement,
    NodeSocketHealth,
    NodeSocketHealthStatus,
    PolicyActions,
    PolicyStatus,
    SocketHealth,
    SocketHealthStatus,
    Watchpoint,
    decode,
)
from sockethealth_core.selectors import matches
from sockethealth_core.units import parse_time
from sockethealth_operator.annotations import Entry
from sockethealth_operator.events import Announcement
from sockethealth_operator.objects import HOLDER, NODE, POD, Key, ObjectRef, key_of
from sockethealth_operator.policies import published_watchpoints
from sockethealth_operator.reports import Report, reportable

SILENT_INTERVALS: Final = 3
"""Heartbeats an agent may miss before its node's pods are Unknown."""

_MAX_FINDINGS: Final = 64
_MAX_STATES: Final = 128
_NEVER_OBSERVED: Final = "1970-01-01T00:00:00Z"


@dataclass(slots=True)
class Tracked:
    """A SocketHealth or NodeSocketHealth.

    Attributes:
        ref: the object itself.
        regarding: the pod or node that it speaks of.
        judgement: what its status holds, as far as is known.
        written_version: resource version of the operator's last write.
        workload: the pod's top-level workload; meaningful once ``workload_known``.
        settled: has been judged and reported since the operator started.
        unannounced: Events that are to be created, in order.
    """

    ref: ObjectRef
    subject: Subject
    regarding: ObjectRef
    node: str
    labels: Mapping[str, str]
    facts: AnyFacts
    judgement: Judgement
    watchpoints: list[Watchpoint] = field(default_factory=list)
    written_version: int = 0
    workload: ObjectRef | None = None
    workload_known: bool = False
    settled: bool = False
    unannounced: list[Announcement] = field(default_factory=list)


@dataclass(slots=True)
class Holder:
    """A workload, or a pod for itself, whose annotations say what is found on its pods.

    Attributes:
        entries: what was last made known, annotated or not; meaningful once ``loaded``.
        verified: the annotations were read since the last resync, and are as written.
        unannounced: Events that are to be created, in order.
    """

    ref: ObjectRef
    members: set[Key] = field(default_factory=set)
    entries: tuple[Entry, ...] = ()
    loaded: bool = False
    verified: bool = False
    unannounced: list[Announcement] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A policy as it is stored, valid or not."""

    ref: ObjectRef
    generation: int | None
    policy: Policy | None
    faults: tuple[str, ...]
    profile: str | None
    conditions: tuple[Condition, ...]


@dataclass(slots=True)
class _Pulse:
    heartbeat: str
    interval_seconds: float
    heard_at: float


class World:
    """Objects by key, and how they concern each other."""

    def __init__(self) -> None:
        self.tracked: dict[Key, Tracked] = {}
        self.policies: dict[Key, PolicyRecord] = {}
        self.holders: dict[Key, Holder] = {}
        self.profiles: set[str] = set()
        self._actions: dict[Key, PolicyActions] = {}
        self._failing: dict[Key, dict[Key, str]] = {}
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._nodes: dict[str, Mapping[str, str]] = {}
        self._pulses: dict[str, _Pulse] = {}
        self._away_since: float | None = None

    # Facts

    def observe_socket_health(self, raw: Mapping[str, Any], now: float) -> set[Key]:
        """Take in a SocketHealth.

        Raises:
            InvalidObjectError: when it cannot be read; what was known of it stays.
        """
        health = decode(SocketHealth, raw)
        key = key_of(health.kind, raw)
        namespace = health.metadata.namespace or ""
        pod = ObjectRef(POD.api_version, POD.kind, namespace, health.metadata.name, health.spec.pod_uid)
        status = health.status
        new = Tracked(
            ref=_ref(raw),
            subject=Subject("pod", health.metadata.name, namespace),
            regarding=pod,
            node=health.spec.node_name,
            labels=health.metadata.labels,
            facts=status,
            judgement=_judgement_in(status),
        )
        # A pod may be heard of before its node's agent is: it has the same time to be heard of.
        self._pulses.setdefault(new.node, _Pulse("", 60.0, now))
        return self._take(key, new, _version(raw))

    def observe_node_health(self, raw: Mapping[str, Any], now: float) -> set[Key]:
        """Take in a NodeSocketHealth: the node's facts, and its agent's heartbeat.

        Raises:
            InvalidObjectError: when it cannot be read; what was known of it stays.
        """
        health = decode(NodeSocketHealth, raw)
        name = health.metadata.name
        owner = next((o for o in health.metadata.owner_references if o.kind == NODE.kind), None)
        status = health.status
        new = Tracked(
            ref=_ref(raw),
            subject=Subject("node", name),
            regarding=ObjectRef(NODE.api_version, NODE.kind, "", name, owner.uid if owner else name),
            node=name,
            labels={},
            facts=status,
            judgement=_judgement_in(status),
            watchpoints=health.spec.watchpoints,
        )
        was_silent = self.silent(name, now)
        self._beat(name, status.agent.heartbeat_time, status.agent.interval_seconds, now)
        concerned = self._take(key_of(health.kind, raw), new, _version(raw))
        return concerned | (self.on_node(name) if was_silent and not self.silent(name, now) else set())

    def forget_tracked(self, key: Key) -> set[Key]:
        """Drop a deleted SocketHealth or NodeSocketHealth; holders of its annotations are concerned."""
        gone = self.tracked.pop(key, None)
        if gone is None:
            return set()
        concerned = self.note_errors(key, ())
        for holder_key, holder in self.holders.items():
            if key in holder.members:
                holder.members.discard(key)
                concerned.add(holder_key)
        return concerned

    # Policies and what they select by

    def observe_policy(self, raw: Mapping[str, Any]) -> set[Key]:
        """Take in a policy; if it changed, itself and everything it can select are concerned."""
        key = key_of(raw["kind"], raw)
        metadata = raw["metadata"]
        policy: Policy | None = None
        faults: tuple[str, ...] = ()
        try:
            policy = read_policy(raw)
        except PolicyError as error:
            faults = error.faults
        known = self.policies.get(key)
        self.policies[key] = PolicyRecord(
            ref=_ref(raw),
            generation=metadata.get("generation"),
            policy=policy,
            faults=faults,
            profile=policy.actions.sysctl_profile if policy else None,
            conditions=_conditions(raw),
        )
        if policy is not None:
            self._actions[key] = policy.actions
        if known and known.ref == _ref(raw) and known.generation == metadata.get("generation"):
            return {key}
        return {key} | self._selectable(key)

    def forget_policy(self, key: Key) -> set[Key]:
        """Drop a deleted policy. Its actions stay known: they say how its findings are to be cleared."""
        if self.policies.pop(key, None) is None:
            return set()
        self._failing.pop(key, None)
        return self._selectable(key)

    def actions(self, policy_kind: str, policy: str, namespace: str) -> PolicyActions:
        """What a policy does, or did when it was last there."""
        return self._actions.get(self._policy_key(policy_kind, policy, namespace), PolicyActions())

    @staticmethod
    def _policy_key(policy_kind: str, policy: str, namespace: str) -> Key:
        return Key(policy_kind, "" if policy_kind.startswith("Cluster") else namespace, policy)

    def observe_profile(self, name: str, *, exists: bool) -> set[Key]:
        """Take in that a SysctlProfile is there or not; the policies that name it are concerned."""
        if (name in self.profiles) == exists:
            return set()
        if exists:
            self.profiles.add(name)
        else:
            self.profiles.discard(name)
        return {key for key, record in self.policies.items() if record.profile == name}

    def observe_namespace(self, name: str, labels: Mapping[str, str] | None) -> set[Key]:
        """Take in the labels of a namespace, or None for a deleted one."""
        if labels is None:
            self._namespaces.pop(name, None)
            return set()
        if self._namespaces.get(name) == labels:
            return set()
        self._namespaces[name] = labels
        return {key for key, tracked in self.tracked.items() if key.namespace == name and tracked.subject.kind == "pod"}

    def observe_node(self, name: str, labels: Mapping[str, str] | None) -> set[Key]:
        """Take in the labels of a node, or None for a deleted one."""
        if labels is None:
            self._nodes.pop(name, None)
            self._pulses.pop(name, None)
            return set()
        if self._nodes.get(name) == labels:
            return set()
        self._nodes[name] = labels
        return self.on_node(name)

    # Heartbeats

    def silent(self, node: str, now: float) -> bool:
        """Whether a node's agent has not been heard of for three of its intervals.

        Times are those of arrival, by this machine's clock, so a node's clock that is wrong does no harm. While
        the API server is away nobody can be heard, and nobody becomes silent.
        """
        left = self.seconds_to_silence(node, now)
        return left is not None and left <= 0

    def seconds_to_silence(self, node: str, now: float) -> float | None:
        """Seconds until a node counts as silent, or None when nothing is known of it."""
        pulse = self._pulses.get(node)
        if pulse is None:
            return None
        until = now if self._away_since is None else self._away_since
        return pulse.heard_at + SILENT_INTERVALS * pulse.interval_seconds - until

    def away(self, now: float) -> None:
        """The API server is away: heartbeats cannot arrive."""
        if self._away_since is None:
            self._away_since = now

    def back(self, now: float) -> None:
        """The API server is back: the time it was away does not count as silence."""
        if self._away_since is None:
            return
        for pulse in self._pulses.values():
            pulse.heard_at += now - self._away_since
        self._away_since = None

    def on_node(self, node: str) -> set[Key]:
        """What speaks of a node and of its pods."""
        return {key for key, tracked in self.tracked.items() if tracked.node == node}

    # Judgement

    def judge(self, key: Key, now: float, name_target: NameTarget) -> Evaluation | None:
        """The next judgement of an object, or None when it is not known."""
        tracked = self.tracked.get(key)
        if tracked is None:
            return None
        stale = tracked.facts.observed_time == _NEVER_OBSERVED or self.silent(tracked.node, now)
        outcome = evaluate(
            tracked.subject,
            tracked.facts,
            self._rules(tracked),
            tracked.judgement,
            now,
            stale=stale,
            name_target=name_target,
        )
        judgement = outcome.judgement
        bounded = Judgement(
            health=judgement.health,
            findings=judgement.findings[:_MAX_FINDINGS],
            evaluation=judgement.evaluation[:_MAX_STATES],
            conditions=judgement.conditions,
        )
        return Evaluation(bounded, outcome.next_due, outcome.errors)

    def note_errors(self, key: Key, errors: Sequence[tuple[RuleKey, str]]) -> set[Key]:
        """Remember which rules could not be applied to an object; policies of which that changes what is said."""
        failing = {self._policy_key(rule.policy_kind, rule.policy, key.namespace): text for rule, text in errors}
        concerned = set()
        for policy in failing.keys() | self._failing.keys():
            before = self.rule_error(policy)
            known = self._failing.setdefault(policy, {})
            if policy in failing:
                known[key] = failing[policy]
            else:
                known.pop(key, None)
            if not known:
                del self._failing[policy]
            if self.rule_error(policy) != before:
                concerned.add(policy)
        return concerned & self.policies.keys()

    def rule_error(self, policy: Key) -> str | None:
        """A sentence about one object that a rule of the policy could not be applied to, or None."""
        known = self._failing.get(policy)
        if not known:
            return None
        key = min(known)
        return f"{known[key]} (on {key.namespace}/{key.name})"

    def judged(self, tracked: Tracked, judgement: Judgement, raw: Mapping[str, Any]) -> None:
        """Remember what was written, and in which version of the object."""
        tracked.judgement = judgement
        tracked.written_version = max(tracked.written_version, _version(raw))

    def wanted_watchpoints(self) -> list[Watchpoint]:
        """What agents shall watch for all valid policies."""
        return published_watchpoints([record.policy for _, record in sorted(self.policies.items()) if record.policy])

    # Holders of annotations

    def hold(self, ref: ObjectRef, member: Key | None = None) -> Key:
        """Note a workload, or a pod for itself, as a holder of annotations."""
        key = Key(HOLDER, ref.namespace, ref.uid)
        holder = self.holders.setdefault(key, Holder(ref))
        if member is not None:
            holder.members.add(member)
        return key

    def link(self, key: Key, workload: ObjectRef | None) -> set[Key]:
        """Note a pod's top-level workload; that and the one it had before are concerned."""
        tracked = self.tracked[key]
        concerned = set()
        if tracked.workload is not None and tracked.workload != workload:
            old = Key(HOLDER, tracked.workload.namespace, tracked.workload.uid)
            if old in self.holders:
                self.holders[old].members.discard(key)
                concerned.add(old)
        tracked.workload = workload
        tracked.workload_known = True
        if workload is not None:
            concerned.add(self.hold(workload, key))
        return concerned

    def release(self, key: Key) -> None:
        """Forget a holder that holds nothing."""
        self.holders.pop(key, None)

    def reports(self, holder: Holder) -> tuple[list[Report], list[Finding]]:
        """Reportable findings of a holder's pods, and all of their findings."""
        members = [self.tracked[key] for key in sorted(holder.members) if key in self.tracked]
        findings = [(member, finding) for member in members for finding in member.judgement.findings]
        reports = [Report(member.regarding, finding) for member, finding in findings if reportable(finding)]
        return reports, [finding for _, finding in findings]

    def _take(self, key: Key, new: Tracked, version: int) -> set[Key]:
        known = self.tracked.get(key)
        if known is None or known.ref.uid != new.ref.uid:
            gone = self.forget_tracked(key)
            self.tracked[key] = new
            return {key} | gone
        known.node, known.labels, known.facts, known.watchpoints = new.node, new.labels, new.facts, new.watchpoints
        if version >= known.written_version:
            known.judgement = new.judgement
        if known.regarding != new.regarding:
            known.regarding, known.workload_known = new.regarding, False
        return {key}

    def _beat(self, node: str, heartbeat: str, interval_seconds: float, now: float) -> None:
        pulse = self._pulses.get(node)
        interval = max(interval_seconds, 1.0)
        if pulse is None or not pulse.heartbeat:
            # First sight after a start: the agent may have been silent for long. A clock that is behind makes
            # it silent until its next heartbeat, which is harmless.
            self._pulses[node] = _Pulse(heartbeat, interval, min(parse_time(heartbeat), now))
        elif pulse.heartbeat != heartbeat:
            self._pulses[node] = _Pulse(heartbeat, interval, now if self._away_since is None else self._away_since)

    def _rules(self, tracked: Tracked) -> Sequence[CompiledRule]:
        scope: Literal["pod", "node"] = "node" if tracked.subject.kind == "node" else "pod"
        node_labels = self._nodes.get(tracked.node, {})
        scene = Scene(
            tracked.subject.namespace,
            tracked.labels,
            self._namespaces.get(tracked.subject.namespace, {}),
            node_labels,
        )
        return [
            rule
            for policy in self._valid_policies()
            if (_selects_node(policy, node_labels) if scope == "node" else policy.selects(scene))
            for rule in policy.rules
            if rule.detector.scope == scope
        ]

    def _valid_policies(self) -> Iterable[Policy]:
        # In a stable order, so that the order of findings is no change.
        return (record.policy for _, record in sorted(self.policies.items()) if record.policy)

    def _selectable(self, policy: Key) -> set[Key]:
        # Nodes are always concerned: their agents watch for every policy.
        return {
            key
            for key, tracked in self.tracked.items()
            if not policy.namespace or key.namespace == policy.namespace or tracked.subject.kind == "node"
        }


def _selects_node(policy: Policy, labels: Mapping[str, str]) -> bool:
    return policy.namespace is None and matches(policy.node_selector, labels)


def _conditions(raw: Mapping[str, Any]) -> tuple[Condition, ...]:
    try:
        return tuple(decode(PolicyStatus, raw.get("status") or {}).conditions)
    except InvalidObjectError:
        return ()  # not what the operator writes: they are written anew


def _judgement_in(status: SocketHealthStatus | NodeSocketHealthStatus) -> Judgement:
    return Judgement(
        health=status.health,
        findings=status.findings,
        evaluation=status.evaluation,
        conditions=status.conditions,
    )


def _ref(raw: Mapping[str, Any]) -> ObjectRef:
    metadata = raw["metadata"]
    return ObjectRef(raw["apiVersion"], raw["kind"], metadata.get("namespace", ""), metadata["name"], metadata["uid"])


def _version(raw: Mapping[str, Any]) -> int:
    # Resource versions of one kind can be compared as numbers (KEP-5504).
    text = raw["metadata"].get("resourceVersion", "0")
    return int(text) if text.isdecimal() else 0
