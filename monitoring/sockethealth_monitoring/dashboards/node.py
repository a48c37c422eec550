"""The dashboard of one node."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from sockethealth_core import metrics
from sockethealth_core.metrics import Series
from sockethealth_monitoring.dashboards.shared import OF_POD, by_state, findings
from sockethealth_monitoring.panels import (
    COUNT,
    GOOD_AT_ZERO,
    INTERVAL,
    NODE,
    PER_SECOND,
    RATIO,
    SECONDS,
    Query,
    chosen,
    dashboard_of,
    limits,
    number,
    over_time,
    rows_of,
)
from sockethealth_monitoring.promql import one_per, rate, select


def build() -> Dashboard:
    """The sockets of one node, its limits, and its pods."""
    this = {"node": "$node"}

    def value(series: Series) -> str:
        return one_per("node", select(series, **this))

    def per_second(series: Series) -> str:
        return one_per("node", rate(series, INTERVAL, **this))

    states = one_per(f"{OF_POD}, state", select(metrics.POD_SOCKETS, state="!listen", **this))
    state = one_per("profile, state", select(metrics.PROFILE_STATE, **this))
    return dashboard_of(
        NODE,
        "Node",
        "The TCP sockets of one node, its limits, and its pods.",
        (chosen("node", metrics.NODE_SOCKETS),),
        {
            "In short": (
                number(
                    "TCP memory",
                    value(metrics.NODE_TCP_MEMORY_USED),
                    "Share of the mark above which the kernel saves memory and windows shrink.",
                    RATIO,
                    limits("TcpMemoryPressure", 0.01),
                    decimals=1,
                ),
                number(
                    "Connection tracking",
                    value(metrics.NODE_CONNTRACK_USED),
                    "Share of nf_conntrack_max; when it is full, new connections of every pod are dropped.",
                    RATIO,
                    limits("ConntrackPressure", 0.01),
                    decimals=1,
                ),
                number("Orphans", value(metrics.NODE_ORPHANS), "Sockets that no process holds any more."),
                number("Pods read", value(metrics.AGENT_PODS), "Pods whose sockets are read."),
                number(
                    "Last sweep",
                    f"time() - {value(metrics.AGENT_LAST_SWEEP)}",
                    "How long ago the agent read the sockets.",
                    SECONDS,
                ),
                number(
                    "Agent silent",
                    value(metrics.NODE_SILENT),
                    "1 when the operator has missed its heartbeats.",
                    steps=GOOD_AT_ZERO,
                ),
                findings("What the operator has found on this node and its pods.", this, 6),
            ),
            "Sockets": (
                by_state("All sockets by state", metrics.NODE_SOCKETS, "Of all pods and the node itself.", **this),
                by_state(
                    "Sockets of the node's own namespace",
                    metrics.NODE_HOST_SOCKETS,
                    "Pods of the host network included.",
                    **this,
                ),
                over_time(
                    "Pods with most sockets",
                    [Query(f"topk(10, sum by (namespace, pod) ({states}))", "{{namespace}}/{{pod}}")],
                    "Listeners left out.",
                    span=24,
                ),
            ),
            "Limits": (
                over_time(
                    "Pages of TCP memory",
                    [
                        Query(value(metrics.NODE_TCP_MEMORY), "used"),
                        Query(value(metrics.NODE_TCP_MEMORY_PRESSURE), "pressure"),
                        Query(value(metrics.NODE_TCP_MEMORY_LIMIT), "limit"),
                    ],
                    "Above pressure windows shrink; above the limit connections are reset.",
                    span=8,
                ),
                over_time(
                    "Connections tracked",
                    [
                        Query(value(metrics.NODE_CONNTRACK), "tracked"),
                        Query(value(metrics.NODE_CONNTRACK_LIMIT), "limit"),
                    ],
                    "In the node's own network namespace.",
                    span=8,
                ),
                over_time(
                    "Orphans",
                    [Query(value(metrics.NODE_ORPHANS), "orphans"), Query(value(metrics.NODE_ORPHANS_LIMIT), "limit")],
                    "Above the limit they are reset at once.",
                    span=8,
                ),
            ),
            "Rates of the node's own namespace": (
                over_time(
                    "Connections",
                    [
                        Query(per_second(metrics.HOST_ACTIVE_OPENS), "opened"),
                        Query(per_second(metrics.HOST_PASSIVE_OPENS), "accepted"),
                        Query(per_second(metrics.HOST_ATTEMPT_FAILS), "attempts that failed"),
                    ],
                    "Per second; pods of the host network included.",
                    PER_SECOND,
                    span=8,
                ),
                over_time(
                    "Dropped",
                    [
                        Query(per_second(metrics.HOST_LISTEN_OVERFLOWS), "accept queue full"),
                        Query(per_second(metrics.HOST_LISTEN_DROPS), "at listeners, for any reason"),
                        Query(per_second(metrics.HOST_TIME_WAIT_OVERFLOWS), "TIME_WAIT destroyed early"),
                    ],
                    "Per second.",
                    PER_SECOND,
                    span=8,
                ),
                over_time(
                    "Segments",
                    [
                        Query(per_second(metrics.HOST_SEGMENTS_SENT), "sent"),
                        Query(per_second(metrics.HOST_SEGMENTS_RETRANSMITTED), "sent again"),
                        Query(per_second(metrics.HOST_SYN_SEGMENTS_RETRANSMITTED), "of these SYN and SYN/ACK"),
                    ],
                    "Per second.",
                    PER_SECOND,
                    span=8,
                ),
            ),
            "Sysctl profiles": (
                rows_of(
                    "Profiles on this node",
                    [Query(f"{state} == 1", "is")],
                    "Needs the chart's value sysctls.enabled.",
                    {"is": (COUNT, ())},
                    sort_by="state",
                    hidden=("is", "pod", "node"),
                    span=24,
                    height=5,
                ),
            ),
        },
    )
