"""What a detector is: how a value is read from facts, and what is said when a rule on it holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sockethealth_core.resources import Facts, NodeFacts, Severity, Target
from sockethealth_core.units import format_count, parse_duration

AnyFacts = Facts | NodeFacts
Parameters = Mapping[str, str]


class MeasureError(Exception):
    """A rule's parameters cannot be applied to the facts at hand; the text is a sentence for the policy's author."""


@dataclass(frozen=True, slots=True)
class DefaultRule:
    """A rule of the default policy; ``for_`` is a duration as people write it."""

    name: str
    threshold: float
    clear_threshold: float
    for_: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class Reading:
    """A detector's value at one moment, in its unit, with the party concerned and further numbers."""

    value: float
    target: Target | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is judged: a pod, a node, or a network namespace of a machine without a cluster."""

    kind: Literal["pod", "node", "netns"]
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        """As a message names it: ``pod shop/web-1``, ``node node-a``, ``network namespace blue``."""
        kind = "network namespace" if self.kind == "netns" else self.kind
        return f"{kind} {self.namespace}/{self.name}" if self.namespace else f"{kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Advice:
    """``message``: what is wrong, with pod, number, limit and other party. ``remedy``: one next step first."""

    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Detector:
    """One thing to look for.

    Attributes:
        name: the type of its findings, and the ``detector`` of a rule.
        summary: what it looks for, for documentation.
        unit: what its value and thresholds count.
        scope: whether it reads a pod's facts or a node's.
        defaults: its rules in the default policy.
        measure: the value in the facts, or None where they do not tell. Only Expression raises MeasureError.
        advise: what to say of a reading. Its ``target`` may by then carry a name of the cluster.
        parameters: parameters a rule may give, each a duration, with the value it has otherwise.
        fallback: thresholds of a rule that gives none, for a detector without default rules.
        check: sentences about parameters that are more than durations.
    """

    name: str
    summary: str
    unit: str
    scope: Literal["pod", "node"]
    defaults: tuple[DefaultRule, ...]
    measure: Callable[[AnyFacts, Parameters], Reading | None]
    advise: Callable[[Subject, AnyFacts, Reading], Advice]
    parameters: Mapping[str, str] = field(default_factory=dict)
    fallback: DefaultRule | None = None
    check: Callable[[Parameters], list[str]] | None = None

    def rule_for(self, severity: Severity) -> DefaultRule:
        """The default rule of a severity, or the detector's first."""
        rules = list(self.defaults) or [rule for rule in (self.fallback,) if rule is not None]
        return min(rules, key=lambda rule: rule.severity != severity)

    def check_parameters(self, parameters: Parameters) -> list[str]:
        """Sentences about parameters that the detector cannot use; empty when all are well."""
        if self.check is not None:
            return self.check(parameters)
        faults = []
        for name, value in parameters.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                faults.append(f"detector {self.name} has no parameter '{name}'; it has {known}")
                continue
            try:
                parse_duration(value)
            except ValueError as error:
                faults.append(f"parameter {name}: {error}")
        return faults


def describe(target: Target | None) -> str:
    """The other party as a message names it, by its name in the cluster where that is known."""
    if target is None:
        return "its peer"
    host = f"[{target.address}]" if ":" in target.address else target.address
    place = f"{host}:{target.port}" if target.port else host
    return f"{target.name} ({place})" if target.name else place


def per_second(rate: float, thing: str) -> str:
    """A rate as a message says it, such as ``412 closes/s``."""
    return f"{format_count(rate)} {thing}/s"
