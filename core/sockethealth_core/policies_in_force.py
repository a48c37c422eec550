"""Which of all policies are in force, and which of their rules concern a pod or a node: pure, in memory.

Whoever may write policies in a namespace has the operator evaluate them for its pods, so a namespace has a share: its
oldest policies are in force as far as they fit into it, and the others wait. Cluster policies have no such bound. What
concerns a pod is found without a look at the policies of other namespaces.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from msgspec.structs import replace

from sockethealth_core.detectors.expression import MAXIMUM_STEPS, steps_of
from sockethealth_core.policy import CompiledRule, Policy, Scene, place_of_watch, watchpoints
from sockethealth_core.resources import Severity, Watchpoint
from sockethealth_core.selectors import matches

MAXIMUM_RULES: Final = 100
"""Rules of a namespace's own policies that are in force together."""
MAXIMUM_POINTS: Final = 128
"""Watchpoints that a NodeSocketHealth can hold."""
MAXIMUM_VALUES: Final = 64
"""Values that one watchpoint can hold."""

_Age = tuple[str, str]


@dataclass(slots=True)
class _Share:
    """The policies of one namespace: by age as (creationTimestamp, name), and those in force by name."""

    ages: list[_Age] = field(default_factory=list)
    policies: dict[str, tuple[Policy, str]] = field(default_factory=dict)
    in_force: dict[str, Policy] = field(default_factory=dict)


class PoliciesInForce:
    """All valid policies, and of each namespace those in force."""

    def __init__(self) -> None:
        self._cluster: dict[str, Policy] = {}
        self._shares: dict[str, _Share] = {}
        self._watchpoints: list[Watchpoint] | None = None

    def put(self, policy: Policy, created: str) -> set[str]:
        """Take in a policy, or another version of it.

        Args:
            policy: the policy.
            created: its ``metadata.creationTimestamp``, RFC 3339.

        Returns:
            Names of the policies of its namespace that come into force or go out of it.
        """
        self._watchpoints = None
        if policy.namespace is None:
            self._cluster[policy.name] = policy
            return set()
        share = self._shares.setdefault(policy.namespace, _Share())
        _remove(share, policy.name)
        share.policies[policy.name] = (policy, created)
        insort(share.ages, (created, policy.name))
        return self._settle(policy.namespace)

    def drop(self, namespace: str | None, name: str) -> set[str]:
        """Forget a policy, as it is gone or not valid; returns as :meth:`put` does."""
        self._watchpoints = None
        if namespace is None:
            self._cluster.pop(name, None)
            return set()
        share = self._shares.get(namespace)
        if share is None:
            return set()
        _remove(share, name)
        return self._settle(namespace)

    def waiting(self, namespace: str | None, name: str) -> str:
        """Why a valid policy is not in force, as a sentence; empty when it is."""
        share = self._shares.get(namespace or "")
        if share is None or name not in share.policies or name in share.in_force:
            return ""
        return (
            f"The policies of namespace {namespace} ask for more than {MAXIMUM_RULES} rules, or for more than "
            f"{MAXIMUM_STEPS} steps of Expression, and this is not among the oldest that fit: remove policies or rules "
            "that are older, or ask for a ClusterSocketHealthPolicy, which has no such bound."
        )

    def rules_of_pod(self, scene: Scene) -> list[CompiledRule]:
        """Rules for a pod, in a stable order, so that the order of findings is no change."""
        share = self._shares.get(scene.namespace)
        own = share.in_force if share else {}
        return [
            rule
            for policies in (self._cluster, own)
            for _, policy in sorted(policies.items())
            if policy.selects(scene)
            for rule in policy.rules
            if rule.detector.scope == "pod"
        ]

    def rules_of_node(self, labels: Mapping[str, str]) -> list[CompiledRule]:
        """Rules for a node, in a stable order; those of cluster policies only."""
        return [
            rule
            for _, policy in sorted(self._cluster.items())
            if matches(policy.node_selector, labels)
            for rule in policy.rules
            if rule.detector.scope == "node"
        ]

    def watchpoints(self) -> list[Watchpoint]:
        """What every agent shall watch: see :func:`shared_watchpoints`. The same list until a policy changes."""
        if self._watchpoints is None:
            groups = [list(self._cluster.values())]
            groups += [list(share.in_force.values()) for _, share in sorted(self._shares.items())]
            self._watchpoints = shared_watchpoints(groups)
        return self._watchpoints

    def _settle(self, namespace: str) -> set[str]:
        share = self._shares[namespace]
        before = share.in_force
        share.in_force = dict(sorted(_fitting(share)))
        if not share.policies:
            del self._shares[namespace]
        return before.keys() ^ share.in_force.keys()


def shared_watchpoints(groups: Sequence[Sequence[Policy]]) -> list[Watchpoint]:
    """What an agent shall watch, within what a NodeSocketHealth can hold.

    Where there is more, all of the first group comes before the others, which take turns: so nobody's many thresholds
    push out those of everybody else.

    Args:
        groups: policies of the cluster, then those of each namespace.
    """
    wanted = watchpoints([policy for group in groups for policy in group])
    if len(wanted) <= MAXIMUM_POINTS and all(len(point.values) <= MAXIMUM_VALUES for point in wanted):
        return wanted
    points = {(point.detector, tuple(sorted(point.parameters.items())), point.severity): point for point in wanted}
    severity: dict[tuple[object, float], Severity] = {
        ((detector, parameters), value): worst
        for (detector, parameters, worst), point in points.items()
        for value in point.values
    }
    kept: dict[tuple[object, Severity], set[float]] = {}
    for place, value in _in_turn(groups):
        key = (place, severity[place, value])
        if key in kept or len(kept) < MAXIMUM_POINTS:
            values = kept.setdefault(key, set())
            if len(values) < MAXIMUM_VALUES:
                values.add(value)
    return [
        replace(point, values=sorted(kept[(detector, parameters), worst]))
        for (detector, parameters, worst), point in points.items()
        if ((detector, parameters), worst) in kept
    ]


def _in_turn(groups: Sequence[Sequence[Policy]]) -> Iterator[tuple[object, float]]:
    first, *others = ([*_watched(group)] for group in groups)
    yield from first
    for turn in zip_longest(*others):
        yield from (one for one in turn if one is not None)


def _watched(policies: Sequence[Policy]) -> Iterator[tuple[object, float]]:
    rules = [rule for policy in policies for rule in policy.rules]
    for rule in sorted(rules, key=lambda rule: rule.severity == "Info"):
        for value in (rule.threshold, rule.clear_threshold):
            yield place_of_watch(rule), value


def _fitting(share: _Share) -> Iterator[tuple[str, Policy]]:
    asked: Counter[str] = Counter()
    for _, name in share.ages:
        policy, _ = share.policies[name]
        asked["rules"] += len(policy.rules)
        asked["steps"] += sum(steps_of(rule.parameters) for rule in policy.rules)
        if asked["rules"] > MAXIMUM_RULES or asked["steps"] > MAXIMUM_STEPS:
            return
        yield name, policy


def _remove(share: _Share, name: str) -> None:
    known = share.policies.pop(name, None)
    if known is not None:
        del share.ages[bisect_left(share.ages, (known[1], name))]
