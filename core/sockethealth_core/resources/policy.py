"""SocketHealthPolicy and ClusterSocketHealthPolicy: what people want to be told, and from which value on."""

from typing import Annotated, ClassVar, Literal

import msgspec

from sockethealth_core.resources.base import Conditions, LabelSelector, ObjectMeta, Resource, Rule, about
from sockethealth_core.resources.sockethealth import Mode, Severity
from sockethealth_core.units import DURATION_PATTERN

DetectorName = Literal[
    "EphemeralPortExhaustion",
    "OutboundTimeWait",
    "InboundTimeWait",
    "SingleSourceChurn",
    "CloseWaitLeak",
    "FinWait2Buildup",
    "AcceptQueueOverflow",
    "SynBacklogPressure",
    "TimeWaitTableOverflow",
    "RetransmissionStorm",
    "UnsafeSysctl",
    "TcpMemoryPressure",
    "ConntrackPressure",
    "Expression",
]

DURATION_RULE = Rule(
    f"self.matches('{DURATION_PATTERN}') && size(self) > 0",
    "not a duration: write a number and a unit, such as 30s, 2m or 1h30m",
    '"\'" + self + "\' is not a duration: write a number and a unit, such as 30s, 2m or 1h30m"',
)
_DNS_LABEL_RULE = Rule(
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "a rule's name has lower case letters, digits and dashes only, such as close-wait-warning",
)


class PolicyRule(Resource, frozen=True, kw_only=True):
    """Raises a finding when a detector's value stays at or above a threshold."""

    admission_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.clearThreshold) || has(self.threshold)",
            "clearThreshold needs a threshold beside it: write threshold, or leave both out for the detector's default",
        ),
        Rule(
            "!has(self.clearThreshold) || !has(self.threshold) || self.clearThreshold <= self.threshold",
            "clearThreshold is above threshold, so the finding would clear and raise again for ever: "
            "write a clearThreshold of at most the threshold",
            field_path=".clearThreshold",
        ),
        Rule(
            "self.detector != 'Expression' || (has(self.parameters) && 'expression' in self.parameters)",
            "detector Expression needs parameters.expression, a CEL condition over status such as "
            '"status.sockets.synSent > 100"',
        ),
        Rule(
            "self.detector == 'Expression' || !has(self.parameters) || !('expression' in self.parameters)",
            "parameters.expression belongs to detector Expression: set detector: Expression, or remove it",
        ),
    )

    name: Annotated[
        str,
        about("Name of the rule, unique in the policy.", rules=(_DNS_LABEL_RULE,), max_length=63, min_length=1),
    ]
    detector: Annotated[DetectorName, about("What is looked for; docs/detectors.md lists value and unit of each.")]
    threshold: Annotated[
        float | None,
        about(
            "Raise at or above this value, in the detector's unit. Absent: the detector's default.",
            at_least=0,
        ),
    ] = None
    clear_threshold: Annotated[
        float | None,
        about("Clear below this value. Absent: in the same proportion as the detector's default.", at_least=0),
    ] = None
    for_: Annotated[
        str,
        about(
            "How long the value must hold before the finding is raised.",
            rules=(DURATION_RULE,),
            max_length=32,
        ),
    ] = msgspec.field(default="2m", name="for")
    clear_after: Annotated[
        str,
        about(
            "How long the value must be below clearThreshold to clear.",
            rules=(DURATION_RULE,),
            max_length=32,
        ),
    ] = "1m"
    severity: Annotated[
        Severity,
        about(
            "Info explains what is harmless: health stays Healthy, no annotation, no Event. Warning and "
            "Critical want a person."
        ),
    ] = "Warning"
    parameters: Annotated[
        dict[str, Annotated[str, about("The parameter's value.", max_length=1024)]],
        about("What the detector needs beside, such as minAge: 60s.", max_properties=8),
    ] = {}


class AnnotateAction(Resource, frozen=True, kw_only=True):
    """Which objects get the sockethealth.io annotations."""

    workload: Annotated[
        bool, about("Annotate the pod's top-level workload; never its pod template, which would restart it.")
    ] = True
    pod: Annotated[bool, about("Annotate the pod too.")] = False


class EventAction(Resource, frozen=True, kw_only=True):
    """Events on the pod and its workload, when a finding is raised and when it clears."""

    enabled: Annotated[bool, about("Emit Events.")] = True


class PolicyActions(Resource, frozen=True, kw_only=True):
    """What happens when a finding of Warning or Critical is raised or clears."""

    annotate: Annotated[AnnotateAction, about("Annotations.")] = AnnotateAction()
    event: Annotated[EventAction, about("Events.")] = EventAction()
    sysctl_profile: Annotated[
        str | None,
        about(
            "SysctlProfile to apply while a finding is active; its activation must be OnFinding.",
            max_length=253,
        ),
    ] = None


Rules = Annotated[
    list[PolicyRule],
    about("What to look for. Each rule stands for itself.", map_key="name", max_items=64),
]


class SocketHealthPolicySpec(Resource, frozen=True, kw_only=True):
    """Which pods, which rules, and what to do."""

    mode: Annotated[
        Mode, about("Enforce annotates and emits Events. Audit only shows findings, in status and metrics.")
    ] = "Enforce"
    pod_selector: Annotated[LabelSelector, about("Pods the policy is for; empty: all.")] = LabelSelector()
    rules: Rules
    actions: Annotated[PolicyActions, about("What to do about findings.")] = PolicyActions()


class ClusterSocketHealthPolicySpec(SocketHealthPolicySpec, frozen=True, kw_only=True):
    """Which pods of which namespaces and nodes, which rules, and what to do."""

    namespace_selector: Annotated[LabelSelector, about("Namespaces the policy is for; empty: all.")] = LabelSelector()
    node_selector: Annotated[LabelSelector, about("Nodes the policy is for; empty: all.")] = LabelSelector()


class PolicyStatus(Resource, frozen=True, kw_only=True):
    """Whether the policy is in force."""

    conditions: Conditions = []


class SocketHealthPolicy(Resource, frozen=True, kw_only=True):
    """What to be told of the sockets of the pods in one namespace, and from which value on."""

    api_version: str = ""
    kind: str = "SocketHealthPolicy"
    metadata: ObjectMeta
    spec: Annotated[SocketHealthPolicySpec, about("Which pods, which rules, and what to do.")]
    status: Annotated[PolicyStatus, about("Whether the policy is in force.")] = PolicyStatus()


class ClusterSocketHealthPolicy(Resource, frozen=True, kw_only=True):
    """What to be told of the sockets of pods in any namespace, and from which value on."""

    api_version: str = ""
    kind: str = "ClusterSocketHealthPolicy"
    metadata: ObjectMeta
    spec: Annotated[
        ClusterSocketHealthPolicySpec,
        about("Which pods of which namespaces and nodes, which rules, what to do."),
    ]
    status: Annotated[PolicyStatus, about("Whether the policy is in force.")] = PolicyStatus()
