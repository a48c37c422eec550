"""Policies ready for judging: checked, with defaults filled in and durations in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from sockethealth_core.detectors import DETECTORS, Detector
from sockethealth_core.detectors.expression import MAXIMUM_STEPS, steps_of
from sockethealth_core.resources import (
    ClusterSocketHealthPolicy,
    DetectorName,
    InvalidObjectError,
    LabelSelector,
    Mode,
    PolicyActions,
    PolicyRule,
    Severity,
    SocketHealthPolicy,
    Watchpoint,
    decode,
    place_of,
)
from sockethealth_core.selectors import matches
from sockethealth_core.units import parse_duration

AnyPolicy = SocketHealthPolicy | ClusterSocketHealthPolicy

POLICY_KINDS: Final[Mapping[str, type[AnyPolicy]]] = {
    "SocketHealthPolicy": SocketHealthPolicy,
    "ClusterSocketHealthPolicy": ClusterSocketHealthPolicy,
}


_DETECTOR_NAMES: Final = get_args(DetectorName)
_SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
_Place = tuple[str, tuple[tuple[str, str], ...]]
_TOO_DEAR_TOGETHER: Final = (
    "the expressions of its rules take too many steps together: use fewer rules of detector Expression, or fewer of "
    "all/exists/map/filter in them"
)


class PolicyError(Exception):
    """A policy cannot be used; ``faults`` are sentences that say where and what to write instead."""

    def __init__(self, policy: str, faults: list[str]) -> None:
        super().__init__(f"{policy}: " + "; ".join(faults))
        self.policy = policy
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True, order=True)
class RuleKey:
    """Identity of a rule among all policies that can concern one pod."""

    policy_kind: str
    policy: str
    rule: str


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with everything the engine needs; times in seconds, values in the detector's unit."""

    key: RuleKey
    detector: Detector
    threshold: float
    clear_threshold: float
    for_seconds: float
    clear_after_seconds: float
    severity: Severity
    mode: Mode
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a pod stands, for selecting: labels of pod, namespace and node."""

    namespace: str
    pod_labels: Mapping[str, str]
    namespace_labels: Mapping[str, str]
    node_labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy. ``namespace`` is None for a cluster policy."""

    kind: str
    namespace: str | None
    name: str
    mode: Mode
    pod_selector: LabelSelector
    namespace_selector: LabelSelector | None
    node_selector: LabelSelector | None
    rules: tuple[CompiledRule, ...]
    actions: PolicyActions

    def selects(self, scene: Scene) -> bool:
        """Whether the policy is for a pod."""
        if self.namespace is not None and self.namespace != scene.namespace:
            return False
        return (
            matches(self.pod_selector, scene.pod_labels)
            and matches(self.namespace_selector, scene.namespace_labels)
            and matches(self.node_selector, scene.node_labels)
        )


def read_policy(raw: Mapping[str, Any]) -> Policy:
    """Check a policy as the API server or a file has it.

    Admission checks the same, but a stored object may be older than the schema, and a file has seen none.

    Raises:
        PolicyError: with every fault found, each a sentence.
    """
    kind = str(raw.get("kind"))
    if kind not in POLICY_KINDS:
        raise PolicyError(kind, [f"not a policy: kind must be one of {', '.join(POLICY_KINDS)}"])
    faults = _unknown_detectors(raw)
    if faults:
        raise PolicyError(_place(raw), faults)
    try:
        policy = decode(POLICY_KINDS[kind], raw)
    except InvalidObjectError as error:
        raise PolicyError(_place(raw), [str(error)]) from error
    return compile_policy(policy)


def compile_policy(policy: AnyPolicy) -> Policy:
    """Fill in defaults and check what a schema cannot.

    Raises:
        PolicyError: with every fault found, each a sentence.
    """
    faults: list[str] = []
    rules: list[CompiledRule] = []
    seen: set[str] = set()
    # Looked at before any is compiled: their number alone could keep the operator busy. One by itself is named below.
    steps = [steps_of(rule.parameters) for rule in policy.spec.rules]
    if max(steps, default=0) <= MAXIMUM_STEPS < sum(steps):
        raise PolicyError(_named(policy), [_TOO_DEAR_TOGETHER])
    for rule in policy.spec.rules:
        if rule.name in seen:
            faults.append(f"rule '{rule.name}' is there twice: give each rule a name of its own")
        seen.add(rule.name)
        compiled = _compile_rule(policy, rule, faults)
        if compiled is not None:
            rules.append(compiled)
    if faults:
        raise PolicyError(_named(policy), faults)
    cluster = isinstance(policy, ClusterSocketHealthPolicy)
    return Policy(
        kind=policy.kind,
        namespace=None if cluster else policy.metadata.namespace or "default",
        name=policy.metadata.name,
        mode=policy.spec.mode,
        pod_selector=policy.spec.pod_selector,
        namespace_selector=policy.spec.namespace_selector if isinstance(policy, ClusterSocketHealthPolicy) else None,
        node_selector=policy.spec.node_selector if isinstance(policy, ClusterSocketHealthPolicy) else None,
        rules=tuple(rules),
        actions=policy.spec.actions,
    )


def place_of_watch(rule: CompiledRule) -> _Place:
    """What a rule's values are watched of: its detector, with its parameters."""
    return rule.detector.name, tuple(sorted(rule.parameters.items()))


def watchpoints(policies: list[Policy]) -> list[Watchpoint]:
    """The values in force that an agent must report the crossing of, in a stable order, those of Info rules last.

    A value of several rules counts as the worst of them has it.
    """
    worst: dict[_Place, dict[float, Severity]] = {}
    for policy in policies:
        for rule in policy.rules:
            known = worst.setdefault(place_of_watch(rule), {})
            for value in (rule.threshold, rule.clear_threshold):
                known[value] = max(known.get(value, rule.severity), rule.severity, key=_SEVERITIES.index)
    found = [
        Watchpoint(
            detector=detector,
            parameters=dict(parameters),
            severity=severity,
            values=sorted(value for value, its in values.items() if its == severity),
        )
        for (detector, parameters), values in sorted(worst.items())
        for severity in sorted(set(values.values()), key=_SEVERITIES.index, reverse=True)
    ]
    return sorted(found, key=lambda watchpoint: watchpoint.severity == "Info")


def _named(policy: AnyPolicy) -> str:
    namespace = policy.metadata.namespace
    return f"{policy.kind} {namespace}/{policy.metadata.name}" if namespace else f"{policy.kind} {policy.metadata.name}"


def _compile_rule(policy: AnyPolicy, rule: PolicyRule, faults: list[str]) -> CompiledRule | None:
    before = len(faults)
    detector = DETECTORS.get(rule.detector)
    if detector is None:
        faults.append(f"rule '{rule.name}': this version does not evaluate detector {rule.detector}")
        return None
    default = detector.rule_for(rule.severity)
    threshold = default.threshold if rule.threshold is None else rule.threshold
    ratio = default.clear_threshold / default.threshold
    clear = threshold * ratio if rule.clear_threshold is None else rule.clear_threshold
    if clear > threshold:
        faults.append(
            f"rule '{rule.name}': clearThreshold {clear:g} is above threshold {threshold:g}: "
            f"write a clearThreshold of at most {threshold:g}"
        )
    seconds = []
    for field, text in (("for", rule.for_), ("clearAfter", rule.clear_after)):
        try:
            seconds.append(parse_duration(text))
        except ValueError as error:
            faults.append(f"rule '{rule.name}', {field}: {error}")
    faults.extend(f"rule '{rule.name}': {fault}" for fault in detector.check_parameters(rule.parameters))
    if len(faults) > before:
        return None
    return CompiledRule(
        key=RuleKey(policy.kind, policy.metadata.name, rule.name),
        detector=detector,
        threshold=threshold,
        clear_threshold=clear,
        for_seconds=seconds[0],
        clear_after_seconds=seconds[1],
        severity=rule.severity,
        mode=policy.spec.mode,
        parameters={**detector.parameters, **rule.parameters},
    )


def _unknown_detectors(raw: Mapping[str, Any]) -> list[str]:
    # Said here with the known names, because a type error would only name the place.
    faults = []
    spec = raw.get("spec")
    rules = spec.get("rules") if isinstance(spec, Mapping) else None
    for rule in rules if isinstance(rules, list) else []:
        name = rule.get("detector") if isinstance(rule, Mapping) else None
        if isinstance(name, str) and name not in _DETECTOR_NAMES:
            faults.append(f"unknown detector '{name}': use one of {', '.join(_DETECTOR_NAMES)}")
    return faults


def _place(raw: Mapping[str, Any]) -> str:
    return f"{raw.get('kind')} {place_of(raw)}"
