"""SocketHealth: the TCP sockets of one pod, as facts, and what policies made of them."""

from typing import Annotated, Literal

import msgspec

from sockethealth_core.resources.base import Conditions, ObjectMeta, Resource, about

Severity = Literal["Info", "Warning", "Critical"]
Health = Literal["Healthy", "Warning", "Critical", "Unknown"]
Mode = Literal["Enforce", "Audit"]

Count = int


class SocketHealthSpec(Resource, frozen=True, kw_only=True):
    """Which pod the object speaks of."""

    node_name: Annotated[str, about("Node the pod runs on.")] = ""
    pod_uid: Annotated[str, about("UID of the pod, so that a pod of the same name is not mistaken for it.")] = (
        msgspec.field(default="", name="podUID")
    )
    pod_ips: Annotated[
        list[Annotated[str, about("An address.", max_length=45)]],
        about("Addresses of the pod, by which findings of other pods name it; empty with hostNetwork.", max_items=8),
    ] = msgspec.field(default_factory=list, name="podIPs")
    host_network: Annotated[
        bool,
        about(
            "The pod shares its node's network namespace: its sockets are told apart by cgroup, its ports "
            "and TIME_WAIT are the node's."
        ),
    ] = False


class Sockets(Resource, frozen=True, kw_only=True):
    """TCP sockets by state, IPv4 and IPv6 together, as `ss -tan` shows them."""

    established: Annotated[Count, about("ESTABLISHED: open connections.")] = 0
    syn_sent: Annotated[Count, about("SYN_SENT: connecting, no answer yet.")] = 0
    syn_recv: Annotated[Count, about("SYN_RECV: a client connects, its last ACK is awaited.")] = 0
    fin_wait1: Annotated[Count, about("FIN_WAIT_1: closed here, the peer has not acknowledged.")] = 0
    fin_wait2: Annotated[
        Count, about("FIN_WAIT_2: closed here and acknowledged, the peer has not closed; with orphaned ones.")
    ] = 0
    time_wait: Annotated[
        Count, about("TIME_WAIT: closed first by this side; held for 60 s. Normal; what matters is the role.")
    ] = 0
    close_wait: Annotated[
        Count, about("CLOSE_WAIT: the peer has closed and the application here has not called close().")
    ] = 0
    last_ack: Annotated[Count, about("LAST_ACK: closed by both, the peer's last ACK is awaited.")] = 0
    closing: Annotated[Count, about("CLOSING: both sides closed at once.")] = 0
    listen: Annotated[Count, about("LISTEN: sockets that accept connections.")] = 0


class Source(Resource, frozen=True, kw_only=True):
    """A peer whose connections this pod closed first."""

    address: Annotated[str, about("The peer's address.")]
    time_wait: Annotated[Count, about("TIME_WAIT sockets with this peer.")] = 0
    closes_per_second: Annotated[float, about("Active closes per second toward this peer.")] = 0.0


class TimeWait(Resource, frozen=True, kw_only=True):
    """TIME_WAIT by role. Outbound ones hold an ephemeral port each; inbound ones only a little memory."""

    inbound: Annotated[
        Count,
        about("Local port is one the pod listens on: the server closed first. Harmless to new clients."),
    ] = 0
    outbound: Annotated[
        Count,
        about("Local port is ephemeral: the client closed first. Each holds a port to one destination."),
    ] = 0
    closes_per_second: Annotated[
        float, about("Active closes per second over the recent past, from the ages of the sockets.")
    ] = 0.0
    sources: Annotated[
        list[Source], about("Peers of inbound TIME_WAIT, most closes first; at most 3.", max_items=3)
    ] = []


class Owner(Resource, frozen=True, kw_only=True):
    """A process that holds sockets."""

    container: Annotated[str, about("Name of the container, or its ID where the name is not known.")] = ""
    process: Annotated[str, about("The process's command name (/proc/PID/comm).")] = ""
    pid: Annotated[int, about("PID on the node.")] = 0
    count: Annotated[Count, about("Sockets it holds.")] = 0


class Peer(Resource, frozen=True, kw_only=True):
    """The other end of sockets."""

    address: Annotated[str, about("The peer's address.")]
    port: Annotated[int, about("The peer's port; 0 when the sockets have many.")] = 0
    count: Annotated[Count, about("Sockets with this peer.")] = 0


class AgeCount(Resource, frozen=True, kw_only=True):
    """How many sockets are older than an age."""

    older_than_seconds: Annotated[float, about("The age.")]
    count: Annotated[Count, about("Sockets at least this old.")] = 0


class CloseWait(Resource, frozen=True, kw_only=True):
    """CLOSE_WAIT sockets: how old, held by whom, toward whom."""

    oldest_seconds: Annotated[
        float,
        about("Age of the oldest at observedTime; a lower bound, as the kernel does not keep the time."),
    ] = 0.0
    receive_queue_bytes: Annotated[int, about("Bytes received that the application has not read.")] = 0
    ages: Annotated[
        list[AgeCount],
        about("Counts by age, for the ages that policies ask for (parameters.minAge).", max_items=16),
    ] = []
    owners: Annotated[list[Owner], about("Processes that hold them, most first; at most 5.", max_items=5)] = []
    peers: Annotated[list[Peer], about("Who closed, most first; at most 5.", max_items=5)] = []


class Destination(Resource, frozen=True, kw_only=True):
    """Ephemeral ports in use toward one address and port."""

    address: Annotated[str, about("Remote address, as the pod's socket has it: a Service's ClusterIP stays one.")]
    port: Annotated[int, about("Remote port.")]
    used: Annotated[Count, about("Local ports of the ephemeral range in use toward it, in any state.")] = 0
    reusable: Annotated[
        Count,
        about("Those of used that connect() may take over at once, because tcp_tw_reuse is in force for them."),
    ] = 0
    used_percent: Annotated[float, about("used less reusable, as percent of the usable ports.")] = 0.0
    time_wait: Annotated[Count, about("Sockets toward it in TIME_WAIT.")] = 0
    closes_per_second: Annotated[float, about("Active closes per second toward it, over the recent past.")] = 0.0
    seconds_to_exhaustion: Annotated[
        float | None,
        about("Seconds until connect() fails with EADDRNOTAVAIL if the rate stays; absent if it never does."),
    ] = None


class EphemeralPorts(Resource, frozen=True, kw_only=True):
    """The ports connect() picks from, and the destinations that use most of them."""

    low: Annotated[int, about("First port of net.ipv4.ip_local_port_range in the pod.")] = 32768
    high: Annotated[int, about("Last port of net.ipv4.ip_local_port_range in the pod.")] = 60999
    reserved: Annotated[Count, about("Ports of the range in net.ipv4.ip_local_reserved_ports.")] = 0
    listening: Annotated[Count, about("Further ports of the range that listeners hold.")] = 0
    usable: Annotated[Count, about("Ports left for connecting: the range less reserved and listening ports.")] = 28232
    destinations: Annotated[
        list[Destination], about("Destinations that use most ports, worst first; at most 5.", max_items=5)
    ] = []


class Listener(Resource, frozen=True, kw_only=True):
    """A listening socket that queues or overflows."""

    address: Annotated[str, about("Local address; 0.0.0.0 or :: for all.")]
    port: Annotated[int, about("Local port.")]
    queue: Annotated[Count, about("Connections complete and waiting for accept().")] = 0
    backlog: Annotated[Count, about("Limit of the queue: the lower of listen(backlog) and somaxconn.")] = 0
    syn_recv: Annotated[Count, about("Connections half open at this port.")] = 0
    syn_backlog: Annotated[
        Count, about("How many may be half open: the smaller of backlog and net.ipv4.tcp_max_syn_backlog.")
    ] = 0
    process: Annotated[str, about("Command name of the process that listens.")] = ""


class Rates(Resource, frozen=True, kw_only=True):
    """Counters of the namespace (/proc/net/snmp and netstat) as events per second."""

    active_opens: Annotated[float, about("connect() calls.")] = 0.0
    passive_opens: Annotated[float, about("Connections accepted by the kernel.")] = 0.0
    attempt_fails: Annotated[float, about("Connection attempts that failed.")] = 0.0
    retransmits: Annotated[float, about("Segments sent again.")] = 0.0
    syn_retransmits: Annotated[
        float, about("Those of retransmits that are SYN or SYN/ACK: the kernel counts the two as one.")
    ] = 0.0
    segments_out: Annotated[float, about("Segments sent.")] = 0.0
    listen_overflows: Annotated[float, about("Connections dropped because an accept queue was full.")] = 0.0
    listen_drops: Annotated[float, about("Connection requests dropped at listeners, for any reason.")] = 0.0
    time_wait_overflows: Annotated[
        float, about("TIME_WAIT sockets destroyed early because tcp_max_tw_buckets was reached.")
    ] = 0.0


class Facts(Resource, frozen=True, kw_only=True):
    """What the agent states of a network namespace: measured, never judged."""

    observed_time: Annotated[
        str,
        about(
            "When the facts were read. Facts are written when they change materially, so an old time on a "
            "node whose agent reports means nothing has changed.",
            date_time=True,
        ),
    ] = "1970-01-01T00:00:00Z"
    sockets: Annotated[Sockets, about("TCP sockets by state.")] = Sockets()
    time_wait: Annotated[TimeWait, about("TIME_WAIT by role: who closed first.")] = TimeWait()
    close_wait: Annotated[CloseWait, about("CLOSE_WAIT by age, owner and peer.")] = CloseWait()
    ephemeral_ports: Annotated[
        EphemeralPorts, about("Ephemeral ports per destination: the limit clients run into.")
    ] = EphemeralPorts()
    listeners: Annotated[
        list[Listener], about("Listeners with connections waiting or half open, worst first; at most 5.", max_items=5)
    ] = []
    rates: Annotated[Rates, about("Events per second, between the last two readings.")] = Rates()
    sysctls: Annotated[
        dict[str, str],
        about(
            "Network sysctls in force in the pod that differ from the kernel's defaults.",
            max_properties=32,
            atomic=True,
        ),
    ] = {}


class Target(Resource, frozen=True, kw_only=True):
    """The other party of a finding."""

    address: Annotated[str, about("Its address.")] = ""
    port: Annotated[int, about("Its port; 0 when there is none.")] = 0
    name: Annotated[
        str, about("What it is in the cluster, such as Service shop/redis, Pod shop/web-1 or Node node-a.")
    ] = ""


class Finding(Resource, frozen=True, kw_only=True):
    """A rule of a policy that holds, with the numbers that made it hold and what helps."""

    type: Annotated[str, about("The detector that found it, such as CloseWaitLeak.")]
    severity: Annotated[Severity, about("Info explains; Warning and Critical want a person.")]
    since: Annotated[str, about("When it was raised.", date_time=True)]
    policy: Annotated[str, about("Name of the policy.")]
    policy_kind: Annotated[str, about("SocketHealthPolicy or ClusterSocketHealthPolicy.")] = ""
    rule: Annotated[str, about("Name of the rule in the policy.")]
    mode: Annotated[Mode, about("Mode of the policy: an Audit finding causes no annotation and no Event.")] = "Enforce"
    value: Annotated[float, about("The value compared, in the detector's unit.")]
    threshold: Annotated[float, about("The rule's threshold.")] = 0.0
    target: Annotated[Target | None, about("The destination, source or peer concerned.")] = None
    evidence: Annotated[dict[str, str], about("Further numbers, by name.")] = {}
    message: Annotated[str, about("What is wrong, in plain words with the numbers.")] = ""
    remedy: Annotated[str, about("What helps, and what does not.")] = ""
    runbook: Annotated[str, about("Page that explains how to confirm and fix it.")] = ""


class RuleState(Resource, frozen=True, kw_only=True):
    """Where a rule stands that is neither idle nor freshly cleared: how `for` survives a restart."""

    policy_kind: Annotated[str, about("Kind of the policy.")]
    policy: Annotated[str, about("Name of the policy.")]
    rule: Annotated[str, about("Name of the rule.")]
    state: Annotated[
        Literal["Pending", "Active", "Clearing"],
        about("Pending: above the threshold, `for` runs. Active. Clearing: below, `clearAfter` runs."),
    ]
    since: Annotated[str, about("When this state began.", date_time=True)]
    raised: Annotated[str | None, about("When the rule was raised, once it was.", date_time=True)] = None


HealthField = Annotated[Health, about("The worst active finding above Info; Unknown when the agent is silent.")]
FindingsField = Annotated[list[Finding], about("Rules that hold, worst first.", max_items=64)]
EvaluationField = Annotated[list[RuleState], about("Rules that are pending, active or clearing.", max_items=128)]


class Judgement(Resource, frozen=True, kw_only=True):
    """What the operator makes of the facts: the part of a status that it alone writes."""

    health: HealthField = "Unknown"
    findings: FindingsField = []
    evaluation: EvaluationField = []
    conditions: Conditions = []


class SocketHealthStatus(Facts, frozen=True, kw_only=True):
    """Facts, written by the node agent, and findings, written by the operator."""

    health: HealthField = "Unknown"
    findings: FindingsField = []
    evaluation: EvaluationField = []
    conditions: Conditions = []


class SocketHealth(Resource, frozen=True, kw_only=True):
    """The TCP sockets of one pod: how many in which state, which ports are running out, and what is wrong."""

    api_version: str = ""
    kind: str = "SocketHealth"
    metadata: ObjectMeta
    spec: Annotated[SocketHealthSpec, about("Which pod this is.")] = SocketHealthSpec()
    status: Annotated[SocketHealthStatus, about("What was found.")] = SocketHealthStatus()
