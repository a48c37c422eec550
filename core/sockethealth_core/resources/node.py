"""NodeSocketHealth: one node's totals, the agent's heartbeat, and what the operator wants of the node."""

from typing import Annotated

from sockethealth_core.resources.base import Conditions, ObjectMeta, Resource, about
from sockethealth_core.resources.sockethealth import EvaluationField, FindingsField, HealthField, Sockets


class Watchpoint(Resource, frozen=True, kw_only=True):
    """Values of a detector whose crossing the agent must report at once, however small the step."""

    detector: Annotated[str, about("The detector whose value is watched.")]
    values: Annotated[list[float], about("Thresholds and clear thresholds in force.", max_items=64)] = []
    parameters: Annotated[dict[str, str], about("The rule's parameters, such as minAge.")] = {}


class DesiredSysctl(Resource, frozen=True, kw_only=True):
    """A sysctl that a profile sets."""

    name: Annotated[str, about("Name with dots, such as net.ipv4.ip_local_port_range.")]
    value: Annotated[str, about("Value to write.")]
    profile: Annotated[str, about("The SysctlProfile that asks for it.")] = ""


class NodeSocketHealthSpec(Resource, frozen=True, kw_only=True):
    """What the operator asks of the node's agent."""

    watchpoints: Annotated[list[Watchpoint], about("Values whose crossing is always reported.", max_items=128)] = []
    sysctls: Annotated[list[DesiredSysctl], about("Sysctls for the node's own namespace.", max_items=64)] = []


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
    sysctls: Annotated[dict[str, str], about("Network sysctls in force in the node's own namespace.")] = {}


class NodeSocketHealthStatus(NodeFacts, frozen=True, kw_only=True):
    """Facts, written by the node agent, and findings, written by the operator."""

    health: HealthField = "Unknown"
    findings: FindingsField = []
    evaluation: EvaluationField = []
    conditions: Conditions = []


class NodeSocketHealth(Resource, frozen=True, kw_only=True):
    """The TCP sockets of one node, its agent's heartbeat, and the sysctls wanted and in force."""

    api_version: str = ""
    kind: str = "NodeSocketHealth"
    metadata: ObjectMeta
    spec: Annotated[NodeSocketHealthSpec, about("What the operator asks of the node's agent.")] = NodeSocketHealthSpec()
    status: Annotated[NodeSocketHealthStatus, about("What was found.")] = NodeSocketHealthStatus()
