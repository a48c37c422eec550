"""The dashboard of the whole fleet."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from sockethealth_core import metrics
from sockethealth_core.detectors.close_wait_leak import MIN_AGE
from sockethealth_monitoring.dashboards.shared import AGED, OF_POD, by_state, findings
from sockethealth_monitoring.panels import (
    COUNT,
    FLEET,
    GOOD_AT_ZERO,
    INTERVAL,
    PER_SECOND,
    PLAIN,
    RATIO,
    Panel,
    Query,
    chosen,
    dashboard_of,
    limits,
    number,
    over_time,
    rows_of,
    with_severities_colored,
)
from sockethealth_monitoring.promql import one_per, rate, retransmitted_ratio, select


def build() -> Dashboard:
    """Which pods and nodes are in trouble."""
    here = {"namespace": "~$namespace"}
    ratio, _ = retransmitted_ratio(OF_POD, INTERVAL, **here)
    in_namespaces = one_per(f"{OF_POD}, state", select(metrics.POD_SOCKETS, state="!listen", **here))
    return dashboard_of(
        FLEET,
        "Fleet",
        "Which pods and nodes are in trouble with their TCP sockets.",
        (chosen("namespace", metrics.POD_SOCKETS, several=True),),
        {
            "In short": (
                _count("Critical", "red"),
                _count("Warning", "orange"),
                _count("Info", "blue"),
                number(
                    "Nodes that report",
                    f"count({one_per('node', select(metrics.AGENT_LAST_SWEEP))})",
                    "Nodes whose agent Prometheus scrapes.",
                ),
                number(
                    "Silent nodes",
                    f"sum({one_per('node', select(metrics.NODE_SILENT))})",
                    "Nodes whose agent has missed its heartbeats; their pods are Unknown.",
                    steps=GOOD_AT_ZERO,
                ),
                number(
                    "Pods read",
                    f"sum({one_per('node', select(metrics.AGENT_PODS))})",
                    "Pods whose sockets are read.",
                ),
            ),
            "Findings": (
                findings("What the operator has found; a pod or node leads to its dashboard.", here),
                with_severities_colored(
                    over_time(
                        "Findings over time",
                        [Query(f"sum by (type, severity) ({select(metrics.FINDINGS)}) > 0", "{{type}} ({{severity}})")],
                        "Active findings by type, in all namespaces.",
                        span=24,
                        stacked=True,
                    )
                ),
            ),
            "Worst pods": (
                _worst(
                    "Ephemeral ports used",
                    one_per(OF_POD, select(metrics.POD_PORTS_USED, **here)),
                    "used",
                    RATIO,
                    "EphemeralPortExhaustion",
                    0.01,
                    "Share of the usable ports taken toward the worst destination. At 100% connect() to it fails.",
                ),
                _worst(
                    f"CLOSE_WAIT older than {MIN_AGE}",
                    one_per(OF_POD, select(metrics.POD_CLOSE_WAIT_AGED, older_than_seconds=AGED, **here)),
                    "sockets",
                    COUNT,
                    "CloseWaitLeak",
                    1,
                    "Connections that peers have closed and the application has not: a leak in its code.",
                ),
                _worst(
                    "Outbound TIME_WAIT to one destination",
                    one_per(OF_POD, select(metrics.POD_WORST_DESTINATION, **here)),
                    "sockets",
                    COUNT,
                    "OutboundTimeWait",
                    1,
                    "Each holds an ephemeral port for 60 s: a client that opens a connection a request.",
                ),
                _worst(
                    "Retransmitted segments",
                    ratio,
                    "again",
                    RATIO,
                    "RetransmissionStorm",
                    0.01,
                    "Share of segments that were sent again: the path loses packets.",
                ),
                _worst(
                    "Connections dropped at accept queues",
                    one_per(OF_POD, rate(metrics.POD_LISTEN_OVERFLOWS, INTERVAL, **here)),
                    "dropped/s",
                    PER_SECOND,
                    "AcceptQueueOverflow",
                    1,
                    "The server does not call accept() fast enough.",
                ),
                _worst(
                    "Fullest SYN backlogs",
                    one_per(OF_POD, select(metrics.POD_SYN_BACKLOG, **here)),
                    "full",
                    RATIO,
                    "SynBacklogPressure",
                    0.01,
                    "Half-open connections at the fullest listener of a pod.",
                ),
            ),
            "Sockets": (
                by_state("Sockets of pods by state", metrics.POD_SOCKETS, "Of the chosen namespaces.", **here),
                over_time(
                    "Sockets by namespace",
                    [Query(f"topk(10, sum by (namespace) ({in_namespaces}))", "{{namespace}}")],
                    "The ten namespaces with most, listeners left out.",
                ),
            ),
            "Nodes": (_nodes(),),
        },
    )


def _count(severity: str, color: str) -> Panel:
    return number(
        f"{severity} findings",
        f"sum({select(metrics.FINDINGS, severity=severity)})",
        f"Active findings of severity {severity}, in all namespaces.",
        steps=((None, "green"), (1, color)),
    )


def _nodes() -> Panel:
    columns = {
        "sockets": (f"sum by (node) ({one_per('node, state', select(metrics.NODE_SOCKETS))})", COUNT, PLAIN),
        "TCP memory": (
            one_per("node", select(metrics.NODE_TCP_MEMORY_USED)),
            RATIO,
            limits("TcpMemoryPressure", 0.01),
        ),
        "conntrack": (one_per("node", select(metrics.NODE_CONNTRACK_USED)), RATIO, limits("ConntrackPressure", 0.01)),
        "orphans": (one_per("node", select(metrics.NODE_ORPHANS)), COUNT, PLAIN),
        "pods": (one_per("node", select(metrics.AGENT_PODS)), COUNT, PLAIN),
        "silent": (one_per("node", select(metrics.NODE_SILENT)), COUNT, GOOD_AT_ZERO),
    }
    return rows_of(
        "Nodes",
        [Query(expression, column) for column, (expression, _, _) in columns.items()],
        "TCP memory is the share of the mark above which the kernel saves memory; conntrack the share of its limit.",
        {column: (unit, steps) for column, (_, unit, steps) in columns.items()},
        sort_by="sockets",
        joined_by="node",
        span=24,
    )


def _worst(title: str, value: str, column: str, unit: str, detector: str, per_unit: float, description: str) -> Panel:
    return rows_of(
        title,
        [Query(f"topk(10, {value} > 0)", column)],
        description,
        {column: (unit, limits(detector, per_unit))},
        sort_by=column,
        order=("namespace", "pod", "node", column),
        height=6,
    )
