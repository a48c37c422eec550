"""Every series the product exposes to Prometheus: the one table behind programs, alerts, dashboards and documentation.

Pure data. Names and units follow prometheus.io/docs/practices/naming: base units, `_total` for counters and for
nothing else. The labels namespace, pod and node name what a series speaks of, not the program that exposes it, so a
scrape has to honour them (`honorLabels: true`). Values of the label `state` are written as in the objects' status.
"""

from dataclasses import dataclass
from typing import Final, Literal

Program = Literal["agent", "sysctl writer", "operator"]
Kind = Literal["gauge", "counter", "histogram"]
Unit = Literal["", "seconds", "ratio", "pages"]
Per = Literal["program", "pod", "node", "profile", "finding"]


@dataclass(frozen=True, slots=True)
class Series:
    """One series of the product.

    Attributes:
        name: as it is queried; of a histogram, without `_bucket`, `_count` and `_sum`.
        unit: the unit its name ends with; empty where it counts things, which the name then names.
        labels: label names, in order.
        help: what it says, in sentences.
        per: what brings more of it: one for each pod of the node, and so on.
        most: how many time series there can be for each of these; of a histogram, without its buckets.
        buckets: upper bounds of a histogram, in its unit.
        switch: the Helm value without which it is not there; empty where it always is.
    """

    name: str
    kind: Kind
    program: Program
    labels: tuple[str, ...]
    help: str
    per: Per
    most: int = 1
    unit: Unit = ""
    buckets: tuple[float, ...] = ()
    switch: str = ""


DESTINATIONS_SWITCH: Final = "metrics.destinations.enabled"
_POD: Final = ("namespace", "pod", "node")
_NODE: Final = ("node",)
_STATES: Final = 10
_MOST_AGES: Final = 16
_MOST_DESTINATIONS: Final = 5
_API_ERRORS_HELP: Final = (
    "Requests to the API server that failed, by HTTP status; 0 is no answer. 404 and 409 are part of normal work. "
    "What is refused because its namespace is being deleted is not counted."
)
_MOST_STATUSES: Final = 24
_MOST_KINDS: Final = 12
_MOST_REASONS: Final = 48
_TYPES_AND_SEVERITIES: Final = 42
_COUNTERS: Final = {
    "active_opens": "connect() calls",
    "passive_opens": "Connections accepted by the kernel",
    "attempt_fails": "Connection attempts that failed",
    "segments_sent": "Segments sent, those sent again left out",
    "segments_retransmitted": "Segments sent again",
    "syn_segments_retransmitted": "Segments sent again that are SYN or SYN/ACK",
    "listen_overflows": "Connections dropped because an accept queue was full",
    "listen_drops": "Connections dropped at listeners, for any reason",
    "time_wait_overflows": "TIME_WAIT sockets destroyed early because tcp_max_tw_buckets was reached",
}
"""Counters of a network namespace since it was made."""


def _pod(
    name: str,
    text: str,
    *,
    labels: tuple[str, ...] = (),
    most: int = 1,
    unit: Unit = "",
    kind: Kind = "gauge",
    switch: str = "",
) -> Series:
    return Series(f"sockethealth_pod_{name}", kind, "agent", (*_POD, *labels), text, "pod", most, unit, switch=switch)


def _pod_counter(counter: str) -> Series:
    text = f"{_COUNTERS[counter]}, in the pod's network namespace since it was made; none for hostNetwork pods."
    return _pod(f"{counter}_total", text, kind="counter")


def _host_counter(counter: str) -> Series:
    text = f"{_COUNTERS[counter]}, in the node's own network namespace since boot, hostNetwork pods included."
    return Series(f"sockethealth_node_host_{counter}_total", "counter", "agent", _NODE, text, "node")


def _node(name: str, text: str, *, labels: tuple[str, ...] = (), most: int = 1, unit: Unit = "") -> Series:
    return Series(f"sockethealth_node_{name}", "gauge", "agent", (*_NODE, *labels), text, "node", most, unit)


def _agent(name: str, kind: Kind, text: str, labels: tuple[str, ...] = (), most: int = 1, unit: Unit = "") -> Series:
    return Series(f"sockethealth_agent_{name}", kind, "agent", (*_NODE, *labels), text, "program", most, unit)


def _operator(name: str, kind: Kind, text: str, labels: tuple[str, ...] = (), most: int = 1, unit: Unit = "") -> Series:
    return Series(f"sockethealth_operator_{name}", kind, "operator", labels, text, "program", most, unit)


# A pod's sockets: there while the pod holds a socket or its counters move, and gone with the pod.

POD_SOCKETS: Final = _pod("sockets", "TCP sockets of the pod, by state.", labels=("state",), most=_STATES)
POD_TIME_WAIT: Final = _pod(
    "time_wait_sockets",
    "TIME_WAIT sockets by role: inbound ones are harmless, outbound ones hold an ephemeral port each.",
    labels=("role",),
    most=2,
)
POD_CLOSES: Final = _pod(
    "time_wait_closes_per_second", "Active closes per second over the recent past, from the ages of TIME_WAIT sockets."
)
POD_WORST_SOURCE: Final = _pod(
    "worst_source_closes_per_second", "Inbound active closes per second of the source address with most."
)
POD_CLOSE_WAIT_OLDEST: Final = _pod(
    "close_wait_oldest_seconds", "Age of the oldest CLOSE_WAIT socket, at least; 0 without one.", unit="seconds"
)
POD_CLOSE_WAIT_AGED: Final = _pod(
    "close_wait_aged_sockets",
    "CLOSE_WAIT sockets at least so old, for 60 s and for each minAge that policies ask for.",
    labels=("older_than_seconds",),
    most=_MOST_AGES,
)
POD_PORTS_USED: Final = _pod(
    "ephemeral_ports_used_ratio",
    "Share of the usable ephemeral ports taken toward the worst destination; at 1 connect() to it fails.",
    unit="ratio",
)
POD_PORTS_EXHAUSTION: Final = _pod(
    "ephemeral_ports_exhaustion_seconds",
    "Seconds until connect() to the first destination fails if the rate stays; absent if it never does.",
    unit="seconds",
)
POD_WORST_DESTINATION: Final = _pod(
    "worst_destination_time_wait_sockets", "Outbound TIME_WAIT sockets to the destination with most."
)
POD_LISTEN_QUEUE: Final = _pod(
    "listen_queue_used_ratio",
    "Connections waiting for accept() as share of the backlog, at the fullest listener.",
    unit="ratio",
)
POD_SYN_BACKLOG: Final = _pod(
    "syn_backlog_used_ratio",
    "Half-open connections as share of what a listener may hold, at the fullest listener.",
    unit="ratio",
)
POD_ACTIVE_OPENS: Final = _pod_counter("active_opens")
POD_PASSIVE_OPENS: Final = _pod_counter("passive_opens")
POD_ATTEMPT_FAILS: Final = _pod_counter("attempt_fails")
POD_SEGMENTS_SENT: Final = _pod_counter("segments_sent")
POD_SEGMENTS_RETRANSMITTED: Final = _pod_counter("segments_retransmitted")
POD_SYN_SEGMENTS_RETRANSMITTED: Final = _pod_counter("syn_segments_retransmitted")
POD_LISTEN_OVERFLOWS: Final = _pod_counter("listen_overflows")
POD_LISTEN_DROPS: Final = _pod_counter("listen_drops")
POD_TIME_WAIT_OVERFLOWS: Final = _pod_counter("time_wait_overflows")
POD_DESTINATION_PORTS: Final = _pod(
    "destination_ports_used",
    "Ephemeral ports in use toward a destination, for those of the pod's status.",
    labels=("destination",),
    most=_MOST_DESTINATIONS,
    switch=DESTINATIONS_SWITCH,
)
POD_DESTINATION_TIME_WAIT: Final = _pod(
    "destination_time_wait_sockets",
    "TIME_WAIT sockets toward a destination, for those of the pod's status.",
    labels=("destination",),
    most=_MOST_DESTINATIONS,
    switch=DESTINATIONS_SWITCH,
)

# The node.

NODE_SOCKETS: Final = _node(
    "sockets",
    "TCP sockets of all pods and of the node's own network namespace, by state.",
    labels=("state",),
    most=_STATES,
)
NODE_HOST_SOCKETS: Final = _node(
    "host_sockets", "TCP sockets of the node's own network namespace, by state.", labels=("state",), most=_STATES
)
NODE_TCP_MEMORY: Final = _node("tcp_memory_pages", "Pages of memory that TCP uses on the whole node.", unit="pages")
NODE_TCP_MEMORY_PRESSURE: Final = _node(
    "tcp_memory_pressure_pages", "Pages above which TCP saves memory: the second value of tcp_mem.", unit="pages"
)
NODE_TCP_MEMORY_LIMIT: Final = _node(
    "tcp_memory_limit_pages", "Pages above which connections are reset: the third value of tcp_mem.", unit="pages"
)
NODE_TCP_MEMORY_USED: Final = _node(
    "tcp_memory_pressure_used_ratio", "TCP's pages as share of the pressure mark.", unit="ratio"
)
NODE_ORPHANS: Final = _node("orphan_sockets", "TCP sockets of the whole node that no process holds any more.")
NODE_ORPHANS_LIMIT: Final = _node("orphan_sockets_limit", "Orphans above which they are reset: tcp_max_orphans.")
NODE_CONNTRACK: Final = _node("conntrack_entries", "Connections tracked in the node's own network namespace.")
NODE_CONNTRACK_LIMIT: Final = _node("conntrack_entries_limit", "Connections that can be tracked: nf_conntrack_max.")
NODE_CONNTRACK_USED: Final = _node("conntrack_used_ratio", "Tracked connections as share of their limit.", unit="ratio")
HOST_ACTIVE_OPENS: Final = _host_counter("active_opens")
HOST_PASSIVE_OPENS: Final = _host_counter("passive_opens")
HOST_ATTEMPT_FAILS: Final = _host_counter("attempt_fails")
HOST_SEGMENTS_SENT: Final = _host_counter("segments_sent")
HOST_SEGMENTS_RETRANSMITTED: Final = _host_counter("segments_retransmitted")
HOST_SYN_SEGMENTS_RETRANSMITTED: Final = _host_counter("syn_segments_retransmitted")
HOST_LISTEN_OVERFLOWS: Final = _host_counter("listen_overflows")
HOST_LISTEN_DROPS: Final = _host_counter("listen_drops")
HOST_TIME_WAIT_OVERFLOWS: Final = _host_counter("time_wait_overflows")

# The agent itself.

AGENT_BUILD: Final = _agent("build_info", "gauge", "Version of the agent.", ("version",))
AGENT_SWEEP: Final = Series(
    "sockethealth_agent_sweep_seconds",
    "histogram",
    "agent",
    _NODE,
    "Time one sweep over the node's network namespaces took.",
    "program",
    unit="seconds",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
AGENT_LAST_SWEEP: Final = _agent(
    "last_sweep_timestamp_seconds", "gauge", "When the last sweep ended, in seconds since 1970.", unit="seconds"
)
AGENT_LAST_REPORT: Final = _agent(
    "last_report_timestamp_seconds",
    "gauge",
    "When the API server last took a write of the agent, in seconds since 1970.",
    unit="seconds",
)
AGENT_DUMPS: Final = _agent("dumps_total", "counter", "Full socket dumps made.")
AGENT_PODS: Final = _agent("pods", "gauge", "Pods whose sockets are read.")
AGENT_PODS_FAILED: Final = _agent("pods_failed", "gauge", "Pods whose sockets could not be read at the last sweep.")
AGENT_WRITES: Final = _agent(
    "writes_total", "counter", "Writes to the API server, by what caused them.", ("reason",), _MOST_REASONS
)
AGENT_SUPPRESSED: Final = _agent(
    "writes_suppressed_total",
    "counter",
    "Changed facts that were not worth a write, one for each pod and sweep.",
)
AGENT_API_ERRORS: Final = _agent(
    "api_errors_total",
    "counter",
    _API_ERRORS_HELP,
    ("status",),
    _MOST_STATUSES,
)

# The sysctl writer.

WRITER_BUILD: Final = Series(
    "sockethealth_sysctl_writer_build_info",
    "gauge",
    "sysctl writer",
    (*_NODE, "version"),
    "Version of the sysctl writer.",
    "program",
)
WRITER_LAST_PASS: Final = Series(
    "sockethealth_sysctl_writer_last_pass_timestamp_seconds",
    "gauge",
    "sysctl writer",
    _NODE,
    "When every value was last looked at, in seconds since 1970.",
    "program",
    unit="seconds",
)
WRITER_API_ERRORS: Final = Series(
    "sockethealth_sysctl_writer_api_errors_total",
    "counter",
    "sysctl writer",
    (*_NODE, "status"),
    "Requests to the API server that failed, by HTTP status; 0 is no answer.",
    "program",
    _MOST_STATUSES,
)
SYSCTL_WRITES: Final = Series(
    "sockethealth_sysctl_writes_total",
    "counter",
    "sysctl writer",
    (*_NODE, "result"),
    "Sysctls written (applied, restored), refused by the kernel (failed), or left to who set them (left).",
    "program",
    4,
)
PROFILE_STATE: Final = Series(
    "sockethealth_sysctl_profile_state",
    "gauge",
    "sysctl writer",
    (*_NODE, "profile", "state"),
    "1 for the state in which a SysctlProfile is on this node, 0 for the others.",
    "profile",
    6,
)

# Findings and profiles, as the operator knows them.

FINDING: Final = Series(
    "sockethealth_finding",
    "gauge",
    "operator",
    (*_POD, "type", "severity", "policy_kind", "policy", "rule", "mode"),
    "The value that an active finding compares, in its detector's unit; a node's has an empty namespace and pod.",
    "finding",
)
FINDINGS: Final = Series(
    "sockethealth_findings",
    "gauge",
    "operator",
    ("type", "severity"),
    "Active findings, those of Audit policies included; 0 where there is none.",
    "program",
    _TYPES_AND_SEVERITIES,
)
PROFILE_CONDITION: Final = Series(
    "sockethealth_sysctl_profile_condition",
    "gauge",
    "operator",
    ("profile", "type", "status"),
    "1 for the status (True, False, Unknown) of each condition of a SysctlProfile, 0 for the others.",
    "profile",
    12,
)
PROFILE_NODES: Final = Series(
    "sockethealth_operator_profile_nodes",
    "gauge",
    "operator",
    ("profile", "state"),
    "Nodes that a SysctlProfile is for (selected), and of these by state of the roll-out.",
    "profile",
    7,
)
NODE_SILENT: Final = Series(
    "sockethealth_operator_node_silent",
    "gauge",
    "operator",
    _NODE,
    "1 for a node whose agent has missed three heartbeats, so that its pods are Unknown, else 0.",
    "node",
)

# The operator itself.

OPERATOR_BUILD: Final = _operator("build_info", "gauge", "Version of the operator.", ("version",))
OPERATOR_LEADING: Final = _operator("leading", "gauge", "1 while this replica does the work, 0 while it stands by.")
OPERATOR_API_UP: Final = _operator("api_server_up", "gauge", "1 while the API server answers.")
OPERATOR_TRACKED: Final = _operator("tracked_objects", "gauge", "SocketHealths and NodeSocketHealths known.")
OPERATOR_POLICIES: Final = _operator("policies", "gauge", "Policies known.")
OPERATOR_QUEUE: Final = _operator("queue_keys", "gauge", "Objects that wait for a worker.")
OPERATOR_QUEUE_OLDEST: Final = _operator(
    "queue_oldest_key_seconds",
    "gauge",
    "How long the object has waited that has waited for a worker longest; 0 when none does.",
    unit="seconds",
)
OPERATOR_TRANSITIONS: Final = _operator(
    "transitions_total",
    "counter",
    "Findings that were raised, escalated, eased or cleared.",
    ("type", "change"),
    56,
)
OPERATOR_ERRORS: Final = _operator(
    "handler_errors_total",
    "counter",
    "Objects whose handling failed and is tried again, by kind.",
    ("kind",),
    _MOST_KINDS,
)
OPERATOR_UNREADABLE: Final = _operator(
    "unreadable_objects_total",
    "counter",
    "Versions of objects that could not be read and were skipped, by kind.",
    ("kind",),
    _MOST_KINDS,
)
OPERATOR_WRITES: Final = _operator(
    "writes_total", "counter", "Writes to the API server: status, spec, annotations, events.", ("what",), 4
)
OPERATOR_REQUESTS: Final = Series(
    "sockethealth_operator_api_request_seconds",
    "histogram",
    "operator",
    ("method",),
    "Time a request to the API server took until its answer was read, by HTTP method; watches are left out.",
    "program",
    6,
    "seconds",
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
OPERATOR_API_ERRORS: Final = _operator(
    "api_errors_total",
    "counter",
    _API_ERRORS_HELP,
    ("status",),
    _MOST_STATUSES,
)
OPERATOR_RELISTS: Final = _operator(
    "watch_relists_total",
    "counter",
    "Lists that were made anew because a watch could not be carried on, by kind.",
    ("kind",),
    _MOST_KINDS,
)
OPERATOR_WATCH_RESTARTS: Final = _operator(
    "watch_restarts_total", "counter", "Watches that broke off and were begun again, by kind.", ("kind",), _MOST_KINDS
)

SERIES: Final[tuple[Series, ...]] = tuple(value for value in list(vars().values()) if isinstance(value, Series))
"""All of them, in the order of documentation."""


def exposed_by(program: Program) -> tuple[Series, ...]:
    """The series of one program, those that need a switch included."""
    return tuple(one for one in SERIES if one.program == program)


def of_pods() -> tuple[Series, ...]:
    """The series that each pod of a node brings: they bound what a scrape of its agent can cost."""
    return tuple(one for one in SERIES if one.per == "pod")
