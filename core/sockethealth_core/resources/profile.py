"""SysctlProfile: sysctls for nodes or pods, with their roll-out."""

from typing import Annotated, ClassVar, Literal

from sockethealth_core.resources.base import (
    Conditions,
    LabelSelector,
    ObjectMeta,
    ProfileTarget,
    Resource,
    Rule,
    about,
)
from sockethealth_core.resources.node import SysctlValue
from sockethealth_core.resources.policy import DURATION_RULE
from sockethealth_core.resources.sockethealth import Mode
from sockethealth_core.sysctl_cel import ENTRY_CHECKS, SPEC_CHECKS, Check


def _rule(check: Check) -> Rule:
    return Rule(check.expression, check.sentence, check.message_expression)


class ProfileSysctl(Resource, frozen=True, kw_only=True):
    """One sysctl and the value it shall have."""

    admission_rules: ClassVar[tuple[Rule, ...]] = tuple(_rule(check) for check in ENTRY_CHECKS)

    name: Annotated[str, about("Name with dots, such as net.ipv4.ip_local_port_range.", max_length=128, min_length=1)]
    value: Annotated[str, about("Value, as /proc/sys shows it.", max_length=256)]


class Rollout(Resource, frozen=True, kw_only=True):
    """How a change spreads over nodes."""

    max_concurrent_nodes: Annotated[
        int | str,
        about(
            "Nodes changed at once: a number, or a percentage such as 10%.",
            rules=(
                Rule(
                    "type(self) == int ? self >= 1 : self.matches('^([1-9][0-9]?|100)%$')",
                    "maxConcurrentNodes takes a number from 1 on, or a percentage from 1% to 100%",
                ),
            ),
            int_or_string=True,
        ),
    ] = 1
    paused: Annotated[bool, about("True: no further node is changed until it is false again.")] = False
    pause_seconds: Annotated[int, about("Seconds to watch a batch before the next one.", at_least=0, at_most=86400)] = (
        30
    )
    stop_on: Annotated[
        Literal["Critical", "Warning", "Never"],
        about("A finding this severe that is raised on a changed node stops the roll-out and takes the batch back."),
    ] = "Critical"


class SysctlProfileSpec(Resource, frozen=True, kw_only=True):
    """Which sysctls, where, and how carefully."""

    admission_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.target == 'Pods' || (!has(self.podSelector) && !has(self.namespaceSelector))",
            "podSelector and namespaceSelector belong to target Pods: set target: Pods, or remove them",
        ),
        *(_rule(check) for check in SPEC_CHECKS),
    )

    mode: Annotated[Mode, about("Audit shows what would change on each node, and changes nothing.")] = "Audit"
    target: Annotated[
        ProfileTarget,
        about(
            "Node: the node's own network namespace, which hostNetwork pods share and no other pod inherits. "
            "Pods: the namespaces of the selected pods."
        ),
    ]
    activation: Annotated[
        Literal["Always", "OnFinding"],
        about("OnFinding: only while a policy that names the profile has a finding."),
    ] = "Always"
    hold: Annotated[
        str,
        about(
            "For activation OnFinding: how long the values stay after the last finding has cleared, so that one that "
            "comes and goes does not make them come and go.",
            rules=(DURATION_RULE,),
            max_length=32,
        ),
    ] = "10m"
    node_selector: Annotated[LabelSelector | None, about("Nodes the profile is for; absent: all.")] = None
    namespace_selector: Annotated[LabelSelector | None, about("Namespaces of the pods; absent: all.")] = None
    pod_selector: Annotated[LabelSelector | None, about("Pods the profile is for; absent: all.")] = None
    priority: Annotated[
        int,
        about("Of two profiles that set one sysctl, the higher priority wins.", at_least=-1000, at_most=1000),
    ] = 0
    sysctls: Annotated[list[ProfileSysctl], about("Sysctls and their values.", map_key="name", max_items=16)]
    rollout: Annotated[Rollout, about("How the change spreads.")] = Rollout()


class ProfileNodes(Resource, frozen=True, kw_only=True):
    """Nodes by state of the roll-out."""

    selected: Annotated[int, about("Nodes the profile is for.")] = 0
    applied: Annotated[int, about("Nodes that have its values.")] = 0
    drifted: Annotated[int, about("Nodes on which someone else changed a value.")] = 0
    failed: Annotated[int, about("Nodes that could not be changed.")] = 0
    pending: Annotated[int, about("Nodes whose turn is to come.")] = 0
    audited: Annotated[int, about("Nodes that have said what Enforce would change.")] = 0
    would_change: Annotated[int, about("Of these, nodes on which Enforce would change something.")] = 0


class ProfileContent(Resource, frozen=True, kw_only=True):
    """What a profile asks of a node: what is rolled out, and taken back, as one."""

    revision: Annotated[str, about("Digest of all below.")]
    target: Annotated[ProfileTarget, about("Whose network namespaces.")]
    priority: Annotated[int, about("Of two profiles that set one sysctl, the higher wins.")] = 0
    sysctls: Annotated[list[SysctlValue], about("Sysctls and their values.", max_items=16)]
    namespace_selector: Annotated[LabelSelector | None, about("Namespaces of the pods; absent: all.")] = None
    pod_selector: Annotated[LabelSelector | None, about("Pods it is for; absent: all.")] = None


class RolloutState(Resource, frozen=True, kw_only=True):
    """Where the roll-out stands: all that the operator must remember when it is restarted."""

    revision: Annotated[str, about("What is being rolled out.")] = ""
    phase: Annotated[
        Literal["Audit", "Progressing", "Complete", "Stopped"],
        about("Stopped: a node failed or a finding was raised; what had been changed was taken back."),
    ] = "Progressing"
    batch: Annotated[
        list[str],
        about("Nodes being changed, or watched after it; once stopped, those it is taken back from.", max_items=5000),
    ] = []
    batch_since: Annotated[str | None, about("When the batch was begun.", date_time=True)] = None
    settled_since: Annotated[str | None, about("When the whole batch had the values.", date_time=True)] = None
    watched_since: Annotated[
        str | None,
        about(
            "When the batch before was begun: a finding raised since then on a node that was changed earlier stops "
            "the roll-out too. Absent while nothing is left to change.",
            date_time=True,
        ),
    ] = None
    stopped_because: Annotated[str, about("Why the roll-out stopped, as a sentence.")] = ""
    stopped_reason: Annotated[str, about("The same as a word: NodeFailed, AgentSilent, NoAnswer or FindingRaised.")] = (
        ""
    )
    stable: Annotated[
        ProfileContent | None,
        about("What every node had last, and goes back to when a roll-out stops."),
    ] = None
    previous: Annotated[
        ProfileContent | None,
        about("What was stable before, while a node that cannot be reached still has it; it keeps it until its turn."),
    ] = None


class SysctlProfileStatus(Resource, frozen=True, kw_only=True):
    """How far the roll-out is."""

    nodes: Annotated[ProfileNodes, about("Nodes by state.")] = ProfileNodes()
    rollout: Annotated[RolloutState, about("Where the roll-out stands.")] = RolloutState()
    warnings: Annotated[list[str], about("What is allowed and will not help, or not as expected.", max_items=32)] = []
    conditions: Conditions = []


class SysctlProfile(Resource, frozen=True, kw_only=True):
    """Network sysctls for nodes or pods, rolled out node by node, and put back when the profile goes."""

    api_version: str = ""
    kind: str = "SysctlProfile"
    metadata: ObjectMeta
    spec: Annotated[SysctlProfileSpec, about("Which sysctls, where, and how carefully.")]
    status: Annotated[SysctlProfileStatus, about("How far the roll-out is.")] = SysctlProfileStatus()
