"""NodeSocketHealth: one node's totals, the agent's heartbeat, and what the operator wants of the node."""

from typing import Annotated, Literal

from sockethealth_core.resources.base import Conditions, LabelSelector, ObjectMeta, ProfileTarget, Resource, about
from sockethealth_core.resources.sockethealth import (
    EvaluationField,
    FindingsField,
    HealthField,
    Mode,
    Severity,
    Sockets,
)


class Watchpoint(Resource, frozen=True, kw_only=True):
    """Values of a detector whose crossing the agent must report, however small the step."""

    detector: Annotated[str, about("The detector whose value is watched.")]
    values: Annotated[list[float], about("Thresholds and clear thresholds in force.", max_items=64)] = []
    parameters: Annotated[dict[str, str], about("The rule's parameters, such as minAge.")] = {}
    severity: Annotated[
        Severity,
        about("The worst of the rules behind the values. Info: a crossing may be reported once it has lasted."),
    ] = "Critical"


ReportMode = Literal["All", "Noteworthy"]


class SysctlValue(Resource, frozen=True, kw_only=True):
    """A sysctl and its value."""

    name: Annotated[str, about("Name with dots, such as net.ipv4.ip_local_port_range.")]
    value: Annotated[str, about("Value, as /proc/sys shows it.")]


class AssignedPod(Resource, frozen=True, kw_only=True):
    """A pod that a profile is active for because of a finding."""

    namespace: Annotated[str, about("The pod's namespace.")]
    name: Annotated[str, about("The pod's name.")]
    uid: Annotated[str, about("The pod's UID.")]
    held_until: Annotated[
        str | None, about("Absent while the finding is active; then when the values are put back.", date_time=True)
    ] = None


class AssignedProfile(Resource, frozen=True, kw_only=True):
    """A SysctlProfile whose roll-out has reached the node."""

    profile: Annotated[str, about("Name of the SysctlProfile.")]
    revision: Annotated[str, about("What of the profile is meant: a digest of what it asks for.")]
    mode: Annotated[Mode, about("Audit: say what would change, and change nothing.")]
    target: Annotated[ProfileTarget, about("Node: the node's own network namespace. Pods: those of selected pods.")]
    priority: Annotated[int, about("Of two profiles that set one sysctl, the higher wins; then the first by name.")] = 0
    sysctls: Annotated[list[SysctlValue], about("Sysctls and their values.", max_items=16)]
    pod_selector: Annotated[LabelSelector | None, about("Pods it is for; absent: all.")] = None
    namespaces: Annotated[
        list[str] | None, about("Namespaces of this node's pods it is for; absent: all.", max_items=1024)
    ] = None
    pods: Annotated[
        list[AssignedPod] | None,
        about("Of the selected pods, those it is active for; absent: all of them.", max_items=1024),
    ] = None
    held_until: Annotated[
        str | None, about("For target Node: when the values are put back, its findings being over.", date_time=True)
    ] = None


class NodeSocketHealthSpec(Resource, frozen=True, kw_only=True):
    """What the operator asks of the node's agent."""

    watchpoints: Annotated[list[Watchpoint], about("Values whose crossing is always reported.", max_items=128)] = []
    sysctl_profiles: Annotated[
        list[AssignedProfile], about("Profiles for this node and its pods.", map_key="profile", max_items=32)
    ] = []


class SysctlChange(Resource, frozen=True, kw_only=True):
    """A sysctl that was, or in Audit would be, changed."""

    where: Annotated[str, about("node, or namespace/name of the pod.")]
    name: Annotated[str, about("Name of the sysctl.")]
    found: Annotated[str, about("Value found before the first write.")]
    wanted: Annotated[str, about("Value that the profile asks for.")]


class OverriddenSysctl(Resource, frozen=True, kw_only=True):
    """A sysctl that something with more say than this profile sets."""

    name: Annotated[str, about("Name of the sysctl.")]
    by: Annotated[str, about("The profile of higher priority, or the pod's own securityContext.sysctls.")]


ProfileState = Literal["Pending", "Audited", "Applied", "Drifted", "Failed", "Restoring"]


class SysctlProfileReport(Resource, frozen=True, kw_only=True):
    """Where one profile stands on the node."""

    profile: Annotated[str, about("Name of the SysctlProfile.")]
    revision: Annotated[str, about("Revision that the state speaks of; empty once the profile is not for this node.")]
    mode: Annotated[Mode, about("Audit: nothing is changed.")] = "Enforce"
    state: Annotated[
        ProfileState,
        about(
            "Pending: not written yet. Audited: changes says what Enforce would change. Applied: every value "
            "is in force. Drifted: someone else changed a value twice; it is left as they set it. Failed: a value is "
            "refused. Restoring: the profile is gone, and a value could not be put back yet."
        ),
    ]
    targets: Annotated[int, about("Network namespaces it applies to.")] = 0
    changes: Annotated[list[SysctlChange], about("Sysctls changed, or to be changed; the first.", max_items=20)] = []
    changes_total: Annotated[int, about("Sysctls changed, or to be changed.")] = 0
    overridden: Annotated[list[OverriddenSysctl], about("Sysctls that others set.", max_items=32)] = []
    unsupported: Annotated[
        list[str], about("Sysctls that this kernel does not have, or whose module is not loaded.")
    ] = []
    message: Annotated[str, about("The state as a sentence.", max_length=1024)] = ""


class SysctlWriter(Resource, frozen=True, kw_only=True):
    """The container that writes sysctls; there only with sysctls.enabled."""

    version: Annotated[str, about("Version of the writer.")] = ""
    boot_id: Annotated[str, about("The kernel's boot; another one means that all values are the kernel's own.")] = ""


WriterField = Annotated[SysctlWriter | None, about("The node's sysctl writer; absent where there is none.")]
ProfileReportsField = Annotated[
    list[SysctlProfileReport], about("Where each profile stands.", map_key="profile", max_items=64)
]


class SysctlReport(Resource, frozen=True, kw_only=True):
    """What the node's sysctl writer states: its own part of the status."""

    sysctl_writer: WriterField = None
    sysctl_profiles: ProfileReportsField = []


class TcpMemory(Resource, frozen=True, kw_only=True):
    """TCP buffers of the whole node, in pages (net.ipv4.tcp_mem, Documentation/networking/ip-sysctl.rst)."""

    pages: Annotated[int, about("Pages in use.")] = 0
    low: Annotated[int, about("Below this TCP does not care.")] = 0
    pressure: Annotated[int, about("Above this TCP saves memory: windows shrink, throughput falls.")] = 0
    high: Annotated[int, about("Above this connections are reset.")] = 0


class Orphans(Resource, frozen=True, kw_only=True):
    """Sockets that no process holds any more."""

    count: Annotated[int, about("Orphans of the whole node.")] = 0
    maximum: Annotated[int, about("net.ipv4.tcp_max_orphans: above it they are reset.")] = 0


class Conntrack(Resource, frozen=True, kw_only=True):
    """Connection tracking table of the node."""

    entries: Annotated[int, about("net.netfilter.nf_conntrack_count.")] = 0
    maximum: Annotated[int, about("net.netfilter.nf_conntrack_max.")] = 0
    insert_failed_per_second: Annotated[
        float, about("Connections not tracked because no entry was free for them, such as no source port for NAT.")
    ] = 0.0


class Agent(Resource, frozen=True, kw_only=True):
    """The agent of the node, and its heartbeat."""

    version: Annotated[str, about("Version of the agent.")] = ""
    heartbeat_time: Annotated[str, about("When the agent last reported.", date_time=True)] = "1970-01-01T00:00:00Z"
    interval_seconds: Annotated[
        float, about("Seconds between heartbeats; after three without one the node's pods are Unknown.")
    ] = 60.0
    boot_id: Annotated[str, about("The kernel's boot (/proc/sys/kernel/random/boot_id).")] = ""
    kernel: Annotated[str, about("Kernel release.")] = ""
    report_mode: Annotated[
        ReportMode,
        about("All: each pod has a SocketHealth. Noteworthy: those near a threshold, or with many sockets."),
    ] = "All"


class NodeFacts(Resource, frozen=True, kw_only=True):
    """What the agent states of the node."""

    observed_time: Annotated[str, about("When the facts were read.", date_time=True)] = "1970-01-01T00:00:00Z"
    agent: Annotated[Agent, about("The agent and its heartbeat.")] = Agent()
    pods: Annotated[int, about("Pods whose sockets are read.")] = 0
    pods_failed: Annotated[int, about("Pods of the node whose sockets could not be read at the last sweep.")] = 0
    sockets: Annotated[Sockets, about("Sockets of all pods and of the node's own namespace.")] = Sockets()
    host_sockets: Annotated[Sockets, about("Sockets of the node's own network namespace.")] = Sockets()
    tcp_memory: Annotated[TcpMemory | None, about("TCP memory.")] = None
    orphans: Annotated[Orphans | None, about("Orphaned sockets.")] = None
    conntrack: Annotated[Conntrack | None, about("Connection tracking, where it is loaded.")] = None
    sysctls: Annotated[dict[str, str], about("Network sysctls in force in the node's own namespace.", atomic=True)] = {}


class NodeSocketHealthStatus(NodeFacts, frozen=True, kw_only=True):
    """Facts, written by the node agent, and findings, written by the operator."""

    health: HealthField = "Unknown"
    findings: FindingsField = []
    evaluation: EvaluationField = []
    sysctl_writer: WriterField = None
    sysctl_profiles: ProfileReportsField = []
    conditions: Conditions = []


class NodeSocketHealth(Resource, frozen=True, kw_only=True):
    """The TCP sockets of one node, its agent's heartbeat, and the sysctls wanted and in force."""

    api_version: str = ""
    kind: str = "NodeSocketHealth"
    metadata: ObjectMeta
    spec: Annotated[NodeSocketHealthSpec, about("What the operator asks of the node's agent.")] = NodeSocketHealthSpec()
    status: Annotated[NodeSocketHealthStatus, about("What was found.")] = NodeSocketHealthStatus()
