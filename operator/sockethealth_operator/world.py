"""What the operator knows of the cluster: pure, in memory, and without a clock of its own.

Events of the API server go in, keys of what must be looked at again come out. The judgement of an object is read
from its status when it is first seen; afterwards only the operator writes it, so an event from before its own last
write does not take it back.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from sockethealth_core.detectors import Subject
from sockethealth_core.engine import Evaluation, NameTarget, evaluate, identity_of
from sockethealth_core.names import ANNOTATION_RETRY
from sockethealth_core.policies_in_force import PoliciesInForce
from sockethealth_core.policy import CompiledRule, Policy, PolicyError, RuleKey, Scene, read_policy
from sockethealth_core.resources import (
    AssignedProfile,
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
    SysctlProfile,
    SysctlProfileStatus,
    Watchpoint,
    decode,
)
from sockethealth_core.units import parse_time
from sockethealth_operator.objects import HOLDER, NODE, NODE_HEALTH, POD, PROFILE, Key, ObjectRef, key_of, version_of
from sockethealth_operator.records import Holder, Host, PolicyRecord, ProfileRecord, Tracked
from sockethealth_operator.reports import Report, reportable

SILENT_INTERVALS: Final = 3
"""Heartbeats an agent may miss before its node's pods are Unknown."""

_MAX_GONE: Final = 1000
"""Deleted policies whose actions stay known."""
_MAX_FINDINGS: Final = 64
_MAX_STATES: Final = 128
_NEVER_OBSERVED: Final = "1970-01-01T00:00:00Z"


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
        self.profiles: dict[str, ProfileRecord] = {}
        self.unreadable_profiles: set[str] = set()
        """Profiles that are there and were never readable: what nodes have of them stays."""
        self.hosts: dict[str, Host] = {}
        self._on_node: dict[str, set[Key]] = {}
        self._in_namespace: dict[str, set[Key]] = {}
        self._told: dict[str, dict[Key, tuple[Finding, ...]]] = {}
        self._in_force = PoliciesInForce()
        self._actions: dict[Key, PolicyActions] = {}
        self._actions_of_gone: dict[Key, PolicyActions] = {}
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
            host_network=health.spec.host_network,
        )
        # A pod may be heard of before its node's agent is: it has the same time to be heard of.
        self._pulses.setdefault(new.node, _Pulse("", 60.0, now))
        return self._take(key, new, version_of(raw))

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
        )
        was_silent = self.silent(name, now)
        self._beat(name, status.agent.heartbeat_time, status.agent.interval_seconds, now)
        concerned = self._take(key_of(health.kind, raw), new, version_of(raw))
        concerned |= self._take_host(health, new.ref, version_of(raw))
        if was_silent and not self.silent(name, now):
            self.hosts[name].hushed = False
            concerned |= self.on_node(name) | self.profile_keys()
        return concerned

    def hush(self, node: str) -> set[Key]:
        """Notice that a node is silent; what speaks of it is concerned, and the first time the profiles too."""
        host = self.hosts.get(node)
        first = host is not None and not host.hushed
        if host is not None:
            host.hushed = True
        return self.on_node(node) | (self.profile_keys() if first else set())

    def forget_tracked(self, key: Key) -> set[Key]:
        """Drop a deleted SocketHealth or NodeSocketHealth; holders of its annotations are concerned.

        So are profiles when its findings or its node count for them, and its node when profiles name its pods.
        """
        gone = self.tracked.pop(key, None)
        if gone is None:
            return set()
        concerned = self.note_errors(key, ()) | self._unplace(key, gone.node)
        if gone.node not in self._on_node and gone.node not in self._nodes:
            self._pulses.pop(gone.node, None)
        _discard(self._in_namespace, key.namespace, key)
        if gone.subject.kind == "node":
            self.hosts.pop(gone.node, None)
            concerned |= self.profile_keys()
        else:
            concerned |= self._host_of_pods(gone.node)
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
        turned = self._put_in_force(key, policy, metadata.get("creationTimestamp") or "")
        if policy is not None:
            self._actions[key] = policy.actions
        if known and known.ref == _ref(raw) and known.generation == metadata.get("generation"):
            return {key}
        return (
            {key}
            | turned
            | self._selectable(key)
            | self._known_profiles({known.profile if known else None, self.policies[key].profile})
        )

    def forget_policy(self, key: Key) -> set[Key]:
        """Drop a deleted policy. Its actions stay known: they say how its findings are to be cleared."""
        gone = self.policies.pop(key, None)
        if gone is None:
            return set()
        turned = self._put_in_force(key, None)
        self._failing.pop(key, None)
        self._actions_of_gone[key] = self._actions.pop(key, PolicyActions())
        while len(self._actions_of_gone) > _MAX_GONE:
            del self._actions_of_gone[next(iter(self._actions_of_gone))]
        return turned | self._selectable(key) | self._known_profiles({gone.profile})

    def waiting(self, policy: Key) -> str:
        """Why a valid policy is not in force, as a sentence; empty when it is."""
        return self._in_force.waiting(policy.namespace or None, policy.name)

    def actions(self, policy_kind: str, policy: str, namespace: str) -> PolicyActions:
        """What a policy does, or did when it was last there."""
        key = self._policy_key(policy_kind, policy, namespace)
        return self._actions.get(key) or self._actions_of_gone.get(key) or PolicyActions()

    @staticmethod
    def _policy_key(policy_kind: str, policy: str, namespace: str) -> Key:
        return Key(policy_kind, "" if policy_kind.startswith("Cluster") else namespace, policy)

    def activators(self, profile: str) -> frozenset[str]:
        """Names of the ClusterSocketHealthPolicies whose findings activate a profile.

        Only those who may write policies for the whole cluster may have sysctls changed by findings.
        """
        return frozenset(
            key.name
            for key, record in self.policies.items()
            if record.profile == profile and record.policy and record.policy.namespace is None
        )

    # Profiles

    def observe_profile(self, raw: Mapping[str, Any]) -> set[Key]:
        """Take in a SysctlProfile; when it changed, itself and the policies that name it are concerned.

        Raises:
            InvalidObjectError: when it cannot be read; what was known of it, and what nodes have of it, stays.
        """
        name = raw["metadata"]["name"]
        known = self.profiles.get(name)
        try:
            profile = decode(SysctlProfile, raw)
        except InvalidObjectError:
            if known is None:
                self.unreadable_profiles.add(name)
            raise
        self.unreadable_profiles.discard(name)
        if known is None or known.ref.uid != raw["metadata"]["uid"]:
            self.profiles[name] = ProfileRecord(_ref(raw), profile)
            return self.profile_keys({name}) | self._policies_naming(name)
        before = known.profile
        if version_of(raw) < known.written_version:
            profile = replace(profile, status=before.status)
        known.profile = profile
        if _asks(before) == _asks(profile) and before.status == profile.status:
            return set()
        return self.profile_keys({name}) | self._policies_naming(name)

    def forget_profile(self, name: str) -> set[Key]:
        """Drop a deleted SysctlProfile: the nodes that have it and the policies that name it are concerned."""
        self.unreadable_profiles.discard(name)
        self.profiles.pop(name, None)
        nodes = {Key(NODE_HEALTH, "", node) for node, host in self.hosts.items() if name in host.assigned}
        return nodes | self._policies_naming(name) | {Key(PROFILE, "", name)}

    def profile_written(self, record: ProfileRecord, status: SysctlProfileStatus, raw: Mapping[str, Any]) -> None:
        """Remember the status that was written, and in which version of the object."""
        record.profile = replace(record.profile, status=status)
        record.written_version = max(record.written_version, version_of(raw))

    def spec_written(
        self, host: Host, watchpoints: list[Watchpoint], assigned: Iterable[AssignedProfile], raw: Mapping[str, Any]
    ) -> set[Key]:
        """Remember what was written in a NodeSocketHealth's spec, and in which version of the object.

        The profiles of which it says something else than before are concerned.
        """
        before, host.assigned = host.assigned, {entry.profile: entry for entry in assigned}
        host.watchpoints = watchpoints
        host.written_version = max(host.written_version, version_of(raw))
        return self._known_profiles(_different(before, host.assigned))

    def profile_keys(self, names: Iterable[str] | None = None) -> set[Key]:
        """Keys of the known profiles, or of those with these names."""
        return {Key(PROFILE, "", name) for name in (self.profiles if names is None else names)}

    def told_on(self, node: str) -> Mapping[Key, tuple[Finding, ...]]:
        """Findings that people are told of, of a node and of its pods."""
        return self._told.get(node, {})

    def node_labels(self, node: str) -> Mapping[str, str] | None:
        """Labels of a Node, or None when there is none of that name."""
        return self._nodes.get(node)

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Labels of a namespace."""
        return self._namespaces.get(namespace, {})

    def observe_namespace(self, name: str, labels: Mapping[str, str] | None) -> set[Key]:
        """Take in the labels of a namespace, or None for a deleted one."""
        if labels is None:
            self._namespaces.pop(name, None)
            return set()
        if self._namespaces.get(name) == labels:
            return set()
        self._namespaces[name] = labels
        pods = set(self._in_namespace.get(name, ()))
        nodes = {self.tracked[key].node for key in pods}
        return pods.union(*(self._host_of_pods(node) for node in nodes)) | (self._on_finding() if pods else set())

    def observe_node(self, name: str, labels: Mapping[str, str] | None) -> set[Key]:
        """Take in the labels of a node, or None for a deleted one."""
        if labels is None:
            self._nodes.pop(name, None)
            self._pulses.pop(name, None)
            return self.profile_keys()
        if self._nodes.get(name) == labels:
            return set()
        self._nodes[name] = labels
        return self.on_node(name) | self.profile_keys()

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
        return set(self._on_node.get(node, ()))

    # Work

    def start_over(self) -> set[Key]:
        """Forget what was done so far, and keep what was seen: keys of all that is to be looked at.

        While another replica led, it has told of findings, written annotations and moved roll-outs on: what is known of
        that is in the objects, as at a start.
        """
        self.holders.clear()
        for tracked in self.tracked.values():
            tracked.workload, tracked.workload_known = None, False
            tracked.settled = False
            tracked.unannounced.clear()
        for record in self.profiles.values():
            record.assignments, record.drifted, record.looked_at = None, None, 0.0
        for host in self.hosts.values():
            host.hushed = False
        return self.tracked.keys() | self.policies.keys() | self.profile_keys()

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

    def judged(self, tracked: Tracked, judgement: Judgement, raw: Mapping[str, Any]) -> set[Key]:
        """Remember what was written, and in which version of the object; profiles may be concerned by findings."""
        tracked.judgement = judgement
        tracked.written_version = max(tracked.written_version, version_of(raw))
        key = Key(tracked.ref.kind, tracked.ref.namespace, tracked.ref.name)
        return self._note_findings(key, tracked) if self.tracked.get(key) is tracked else set()

    def wanted_watchpoints(self) -> list[Watchpoint]:
        """What agents shall watch for all valid policies."""
        return self._in_force.watchpoints()

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
            concerned = self.forget_tracked(key)
            self.tracked[key] = new
            self._on_node.setdefault(new.node, set()).add(key)
            self._in_namespace.setdefault(key.namespace, set()).add(key)
            concerned |= self._note_findings(key, new)
            return {key} | concerned | (self._host_of_pods(new.node) if new.subject.kind == "pod" else set())
        concerned = {key}
        if known.node != new.node:
            concerned |= self._unplace(key, known.node)
            self._on_node.setdefault(new.node, set()).add(key)
        if (known.node, known.labels, known.host_network) != (new.node, new.labels, new.host_network):
            concerned |= self._host_of_pods(known.node) | self._host_of_pods(new.node) | self._on_finding()
        known.node, known.labels, known.facts = new.node, new.labels, new.facts
        known.host_network = new.host_network
        if version >= known.written_version:
            known.judgement = new.judgement
        if known.regarding != new.regarding:
            known.regarding, known.workload_known = new.regarding, False
        return concerned | self._note_findings(key, known)

    def _take_host(self, health: NodeSocketHealth, ref: ObjectRef, version: int) -> set[Key]:
        assigned = {entry.profile: entry for entry in health.spec.sysctl_profiles}
        reports = {report.profile: report for report in health.status.sysctl_profiles}
        has_writer = health.status.sysctl_writer is not None
        host = self.hosts.get(ref.name)
        if host is None or host.ref.uid != ref.uid:
            self.hosts[ref.name] = Host(ref, health.spec.watchpoints, assigned, reports, has_writer)
            return self.profile_keys()
        changed = _different(host.reports, reports)
        if host.has_writer != has_writer:
            changed |= self.profiles.keys()
        host.reports, host.has_writer = reports, has_writer
        if version >= host.written_version:
            changed |= _different(host.assigned, assigned)
            host.watchpoints, host.assigned = health.spec.watchpoints, assigned
        return self._known_profiles(changed)

    def _unplace(self, key: Key, node: str) -> set[Key]:
        _discard(self._on_node, node, key)
        return self._tell(key, node, ())

    def _note_findings(self, key: Key, tracked: Tracked) -> set[Key]:
        return self._tell(key, tracked.node, tuple(f for f in tracked.judgement.findings if reportable(f)))

    def _tell(self, key: Key, node: str, findings: tuple[Finding, ...]) -> set[Key]:
        before = self.told_on(node).get(key, ())
        if findings:
            self._told.setdefault(node, {})[key] = findings
        elif before:
            del self._told[node][key]
            if not self._told[node]:
                del self._told[node]
        if _gist(before) == _gist(findings):
            return set()
        moving = {
            name for name, record in self.profiles.items() if record.profile.status.rollout.phase == "Progressing"
        }
        return self.profile_keys(moving) | self._on_finding()

    def _on_finding(self) -> set[Key]:
        return self.profile_keys(n for n, r in self.profiles.items() if r.profile.spec.activation == "OnFinding")

    def _host_of_pods(self, node: str) -> set[Key]:
        """The node, when what it is asked for names its pods or their namespaces."""
        host = self.hosts.get(node)
        named = host and any(e.namespaces is not None or e.pods is not None for e in host.assigned.values())
        return {Key(NODE_HEALTH, "", node)} if named else set()

    def _policies_naming(self, profile: str) -> set[Key]:
        return {key for key, record in self.policies.items() if record.profile == profile}

    def _known_profiles(self, names: Iterable[str | None]) -> set[Key]:
        return self.profile_keys(name for name in names if name in self.profiles)

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
        node_labels = self._nodes.get(tracked.node, {})
        if tracked.subject.kind == "node":
            return self._in_force.rules_of_node(node_labels)
        scene = Scene(
            tracked.subject.namespace,
            tracked.labels,
            self._namespaces.get(tracked.subject.namespace, {}),
            node_labels,
        )
        return self._in_force.rules_of_pod(scene)

    def _put_in_force(self, key: Key, policy: Policy | None, created: str = "") -> set[Key]:
        """Policies of the same namespace that come into force by it, or go out of it."""
        namespace = key.namespace or None
        turned = self._in_force.drop(namespace, key.name) if policy is None else self._in_force.put(policy, created)
        return {Key(key.kind, key.namespace, name) for name in turned} & self.policies.keys()

    def _selectable(self, policy: Key) -> set[Key]:
        if not policy.namespace:
            return set(self.tracked)
        # Nodes, which are in no namespace, are always concerned: their agents watch for every policy.
        return self._in_namespace.get(policy.namespace, set()) | self._in_namespace.get("", set())


def _discard(index: dict[str, set[Key]], name: str, key: Key) -> None:
    keys = index.get(name, set())
    keys.discard(key)
    if not keys:
        index.pop(name, None)


def _asks(profile: SysctlProfile) -> tuple[object, ...]:
    metadata = profile.metadata
    return profile.spec, metadata.generation, metadata.annotations.get(ANNOTATION_RETRY)


def _different(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _gist(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    return [(*identity_of(finding), finding.severity, finding.since) for finding in findings]


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
