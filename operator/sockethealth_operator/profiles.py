"""Which nodes and pods a SysctlProfile is for at this moment, and what each node is asked for: pure.

How a roll-out spreads is decided by :mod:`sockethealth_core.rollout`. Here is what it looks at, and what becomes of its
assignments on a node: the namespaces of the node's pods, and for activation OnFinding the pods, or the node, that it is
active for. That activation, with the hold after it, is remembered in the NodeSocketHealth's spec alone, so it is the
same after a restart.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from sockethealth_core.resources import (
    AssignedPod,
    AssignedProfile,
    Finding,
    LabelSelector,
    ProfileContent,
    SysctlProfile,
)
from sockethealth_core.rollout import NodeFinding, NodeView, content_of
from sockethealth_core.selectors import matches
from sockethealth_core.sysctl_rules import refusals
from sockethealth_core.sysctls import NODE_PORTS
from sockethealth_core.units import format_time, parse_duration, parse_time
from sockethealth_operator.objects import Key
from sockethealth_operator.records import ProfileRecord, Tracked
from sockethealth_operator.world import World

MAX_PROFILES: Final = 32
"""What ``spec.sysctlProfiles`` of a NodeSocketHealth can hold."""

_CLUSTER_POLICY: Final = "ClusterSocketHealthPolicy"
_DEFAULT_HOLD_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Activation:
    """What of a node a profile is active for.

    Attributes:
        active: it is active, or held, for something there.
        pods: those it is active or held for; None where it is not a matter of single pods.
        held_until: for target Node, when it is put back; None while a finding is active.
        next_due: epoch seconds at which a hold is over, or None.
    """

    active: bool
    pods: list[AssignedPod] | None = None
    held_until: str | None = None
    next_due: float | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """What a roll-out looks at, and when that changes by itself (epoch seconds, or None).

    ``changed`` names nodes whose spec does not say any more what the profile is active for.
    """

    views: list[NodeView]
    changed: set[str]
    next_due: float | None


def faults(profile: SysctlProfile) -> list[str]:
    """Why a profile must not reach a node although admission let it pass; a stored one may be older than the rules."""
    spec = profile.spec
    found = refusals({sysctl.name: sysctl.value for sysctl in spec.sysctls}, spec.target, NODE_PORTS)
    try:
        parse_duration(spec.hold)
    except ValueError as error:
        found.append(f"spec.hold: {error}")
    return found


def sight(world: World, record: ProfileRecord, now: float) -> Sight:
    """What a profile's roll-out looks at: the nodes it is or was for."""
    profile = record.profile
    content = content_of(profile)
    batch = set(profile.status.rollout.batch)
    views, changed, due = [], set(), []
    for name, host in world.hosts.items():
        labels = world.node_labels(name)
        assigned = host.assigned.get(profile.metadata.name)
        report = host.reports.get(profile.metadata.name)
        selected = labels is not None and matches(profile.spec.node_selector, labels)
        if selected:
            activation = activation_on(world, profile, content, name, now)
            selected = activation.active
            if activation.next_due is not None:
                due.append(activation.next_due)
            if assigned and (assigned.pods, assigned.held_until) != (activation.pods, activation.held_until):
                changed.add(name)
        if not selected and assigned is None and report is None and name not in batch:
            continue
        views.append(
            NodeView(
                name=name,
                selected=selected,
                assigned=assigned.revision if assigned else "",
                assigned_mode=assigned.mode if assigned else "Audit",
                report=report,
                has_writer=host.has_writer,
                silent=world.silent(name, now),
                findings=tuple(_node_findings(world, name)),
            )
        )
    return Sight(views, changed, min(due, default=None))


def wanted_on(world: World, node: str, now: float) -> list[AssignedProfile]:
    """What a node's spec shall list, by name.

    What it lists of a profile that has not been looked at yet, or cannot be read, stays; what it lists of one that does
    not exist goes. Where there are too many, those of the highest priority stay.
    """
    host = world.hosts[node]
    entries = [host.assigned[name] for name in world.unreadable_profiles & host.assigned.keys()]
    for name, record in world.profiles.items():
        known = host.assigned.get(name)
        if record.assignments is None:
            entries += [known] if known else []
            continue
        assignment = record.assignments.get(node)
        if assignment is None:
            continue
        content = assignment.content
        activation = activation_on(world, record.profile, content, node, now)
        if not activation.active:
            continue
        entries.append(
            AssignedProfile(
                profile=name,
                revision=content.revision,
                mode=assignment.mode,
                target=content.target,
                priority=content.priority,
                sysctls=content.sysctls,
                pod_selector=content.pod_selector,
                namespaces=namespaces_on(world, content.namespace_selector, node),
                pods=activation.pods,
                held_until=activation.held_until,
            )
        )
    foremost = sorted(entries, key=lambda entry: (-entry.priority, entry.profile))[:MAX_PROFILES]
    return sorted(foremost, key=lambda entry: entry.profile)


def namespaces_on(world: World, selector: LabelSelector | None, node: str) -> list[str] | None:
    """Namespaces of a node's pods that a selector matches, sorted; None without a selector: all."""
    if selector is None:
        return None
    present = {key.namespace for key, tracked in _pods(world, node)}
    return sorted(name for name in present if matches(selector, world.namespace_labels(name)))


def activation_on(world: World, profile: SysctlProfile, content: ProfileContent, node: str, now: float) -> Activation:
    """What of a node a profile is active for, from its findings and from what the node's spec says so far.

    A finding activates when its policy is a ClusterSocketHealthPolicy in mode Enforce that names the profile, and
    its severity is above Info. A silent node's facts are old: they activate nothing, and end nothing.
    """
    if profile.spec.activation == "Always":
        return Activation(active=True)
    previous = world.hosts[node].assigned.get(profile.metadata.name)
    found = _found(world, profile.metadata.name, node)
    hold = _Hold(world.silent(node, now), _hold_seconds(profile), now)
    if content.target == "Node":
        return hold.node(previous, found=bool(found))
    if not found and previous is None:
        return Activation(active=False)
    listed = {pod.uid: pod for pod in previous.pods or []} if previous else {}
    pods = []
    for key, tracked in _pods(world, node):
        uid = tracked.regarding.uid
        if (key in found or uid in listed) and _selects(world, content, tracked):
            pod = AssignedPod(namespace=key.namespace, name=key.name, uid=uid)
            pods += hold.pod(pod, listed.get(uid), found=key in found)
    pods.sort(key=lambda pod: (pod.namespace, pod.name))
    due = [parse_time(pod.held_until) for pod in pods if pod.held_until]
    return Activation(active=bool(pods), pods=pods, next_due=min(due, default=None))


@dataclass(frozen=True, slots=True)
class _Hold:
    """Whether something stays active that was: ``silent`` says that its findings are not known any more."""

    silent: bool
    seconds: float
    now: float

    def node(self, previous: AssignedProfile | None, *, found: bool) -> Activation:
        if previous is None or (found and not self.silent):
            return Activation(active=found and not self.silent)
        until = self._until(previous.held_until)
        if until is None:
            return Activation(active=True)
        due = parse_time(until)
        return Activation(active=True, held_until=until, next_due=due) if due > self.now else Activation(active=False)

    def pod(self, pod: AssignedPod, previous: AssignedPod | None, *, found: bool) -> list[AssignedPod]:
        if previous is None or (found and not self.silent):
            return [pod] if found and not self.silent else []
        until = self._until(previous.held_until)
        return [replace(pod, held_until=until)] if until is None or parse_time(until) > self.now else []

    def _until(self, previous: str | None) -> str | None:
        if previous is None and self.silent:
            return None
        return previous or format_time(self.now + self.seconds)


def _hold_seconds(profile: SysctlProfile) -> float:
    try:
        return parse_duration(profile.spec.hold)
    except ValueError:
        return _DEFAULT_HOLD_SECONDS  # the profile is at fault, and says so: see faults()


def _found(world: World, profile: str, node: str) -> set[Key]:
    """What on a node has a finding that activates a profile."""
    told = world.told_on(node)
    policies = world.activators(profile) if told else frozenset()
    return {key for key, findings in told.items() if any(_activates(finding, policies) for finding in findings)}


def _activates(finding: Finding, policies: Collection[str]) -> bool:
    return finding.policy_kind == _CLUSTER_POLICY and finding.policy in policies


def _pods(world: World, node: str) -> Iterator[tuple[Key, Tracked]]:
    for key in world.on_node(node):
        tracked = world.tracked[key]
        if tracked.subject.kind == "pod":
            yield key, tracked


def _selects(world: World, content: ProfileContent, tracked: Tracked) -> bool:
    labels = world.namespace_labels(tracked.subject.namespace)
    return (
        not tracked.host_network
        and matches(content.pod_selector, tracked.labels)
        and matches(content.namespace_selector, labels)
    )


def _node_findings(world: World, node: str) -> Iterator[NodeFinding]:
    # Whoever may write policies in a namespace says what is critical there, not what stops the cluster's roll-outs.
    for key, findings in sorted(world.told_on(node).items()):
        for finding in (finding for finding in findings if finding.policy_kind == _CLUSTER_POLICY):
            subject = world.tracked[key].subject
            yield NodeFinding(finding.severity, parse_time(finding.since), f"{finding.type} on {subject}")
