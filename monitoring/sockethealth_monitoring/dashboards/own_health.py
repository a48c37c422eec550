"""The dashboard of the product itself."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from sockethealth_core import metrics
from sockethealth_core.metrics import Series
from sockethealth_monitoring.panels import (
    COUNT,
    GOOD_AT_ONE,
    GOOD_AT_ZERO,
    INTERVAL,
    OWN_HEALTH,
    PER_SECOND,
    SECONDS,
    Panel,
    Query,
    dashboard_of,
    number,
    over_time,
    rows_of,
)
from sockethealth_monitoring.promql import one_per, rate, select


def build() -> Dashboard:
    """How agents, operator and sysctl writers fare."""

    def summed(series: Series, by: str, **labels: str) -> str:
        return f"sum by ({by}) ({rate(series, INTERVAL, **labels)})"

    def slow(series: Series, by: str, quantile: float) -> str:
        buckets = f"rate({series.name}_bucket[{INTERVAL}])"
        return f"histogram_quantile({quantile}, sum by (le{', ' + by if by else ''}) ({buckets}))"

    builds = {
        "Agents": metrics.AGENT_BUILD,
        "Operators": metrics.OPERATOR_BUILD,
        "Sysctl writers": metrics.WRITER_BUILD,
    }
    age = f"max(time() - {one_per('node', select(metrics.AGENT_LAST_SWEEP))})"
    report = f"max(time() - {one_per('node', select(metrics.AGENT_LAST_REPORT))})"
    return dashboard_of(
        OWN_HEALTH,
        "Own health",
        "How agents, operator and sysctl writers fare.",
        (),
        {
            "In short": (
                number(
                    "Operator leading",
                    f"max({select(metrics.OPERATOR_LEADING)})",
                    "1 while a replica does the work.",
                    steps=GOOD_AT_ONE,
                    nothing="absent",
                ),
                number(
                    "API server answers",
                    f"min({select(metrics.OPERATOR_API_UP)})",
                    "As the operator sees it.",
                    steps=GOOD_AT_ONE,
                    nothing="absent",
                ),
                number(
                    "Operator behind",
                    f"max({select(metrics.OPERATOR_QUEUE_OLDEST)})",
                    "How long the object has waited that has waited longest.",
                    SECONDS,
                    ((None, "green"), (60, "red")),
                ),
                number("Oldest sweep", age, "Of all nodes, how long ago the agent read the sockets.", SECONDS),
                number(
                    "Oldest report",
                    report,
                    "Of all nodes, how long ago the API server took a write of the agent.",
                    SECONDS,
                ),
                number(
                    "Unreadable pods",
                    f"sum({one_per('node', select(metrics.AGENT_PODS_FAILED))})",
                    "At the last sweep.",
                    steps=GOOD_AT_ZERO,
                ),
            ),
            "Operator": (
                over_time(
                    "Objects",
                    [
                        Query(f"max({select(metrics.OPERATOR_TRACKED)})", "SocketHealths and NodeSocketHealths"),
                        Query(f"max({select(metrics.OPERATOR_POLICIES)})", "policies"),
                        Query(f"max({select(metrics.OPERATOR_QUEUE)})", "waiting for a worker"),
                    ],
                    "What the operator knows, and what waits.",
                    span=8,
                ),
                over_time(
                    "Writes",
                    [Query(summed(metrics.OPERATOR_WRITES, "what"), "{{what}}")],
                    "Writes of the operator to the API server.",
                    PER_SECOND,
                    span=8,
                ),
                over_time(
                    "Findings that change",
                    [Query(summed(metrics.OPERATOR_TRANSITIONS, "type, change"), "{{type}} {{change}}")],
                    "Raised, escalated, eased, cleared.",
                    PER_SECOND,
                    span=8,
                ),
                over_time(
                    "Time of requests (99th percentile)",
                    [Query(slow(metrics.OPERATOR_REQUESTS, "method", 0.99), "{{method}}")],
                    "Of the operator to the API server; watches left out.",
                    SECONDS,
                    span=8,
                ),
                over_time(
                    "Failures",
                    [
                        Query(summed(metrics.OPERATOR_ERRORS, "kind"), "handling of {{kind}}"),
                        Query(summed(metrics.OPERATOR_UNREADABLE, "kind"), "unreadable {{kind}}"),
                        Query(summed(metrics.OPERATOR_API_ERRORS, "status"), "answers {{status}}"),
                    ],
                    "404 and 409 are part of normal work.",
                    PER_SECOND,
                    span=8,
                ),
                over_time(
                    "Watches",
                    [
                        Query(summed(metrics.OPERATOR_RELISTS, "kind"), "listed anew: {{kind}}"),
                        Query(summed(metrics.OPERATOR_WATCH_RESTARTS, "kind"), "begun again: {{kind}}"),
                    ],
                    "Begun again is usual every few minutes; listed anew is not.",
                    PER_SECOND,
                    span=8,
                ),
            ),
            "Agents": (
                over_time(
                    "Time of a sweep",
                    [Query(slow(metrics.AGENT_SWEEP, "", quantile), f"{quantile:.0%}") for quantile in (0.5, 0.99)],
                    "Over all nodes: half of the sweeps, and 99% of them, took no longer.",
                    SECONDS,
                    span=8,
                ),
                over_time(
                    "Writes by reason",
                    [
                        Query(summed(metrics.AGENT_WRITES, "reason"), "{{reason}}"),
                        Query(f"sum({rate(metrics.AGENT_SUPPRESSED, INTERVAL)})", "not worth a write"),
                    ],
                    "Writes of all agents to the API server, and changes that were not written.",
                    PER_SECOND,
                    span=8,
                ),
                over_time(
                    "Answers that are errors",
                    [
                        Query(summed(metrics.AGENT_API_ERRORS, "status"), "agents: {{status}}"),
                        Query(summed(metrics.WRITER_API_ERRORS, "status"), "sysctl writers: {{status}}"),
                    ],
                    "Of the API server, by HTTP status; 0 is no answer.",
                    PER_SECOND,
                    span=8,
                ),
                over_time(
                    "Full dumps",
                    [Query(f"sum({rate(metrics.AGENT_DUMPS, INTERVAL)})", "all nodes")],
                    "Dumps of all sockets of a network namespace, made where something moved.",
                    PER_SECOND,
                    span=8,
                ),
                over_time(
                    "Nodes with the oldest sweep",
                    [Query(f"topk(5, time() - {one_per('node', select(metrics.AGENT_LAST_SWEEP))})", "{{node}}")],
                    "How long ago the agent read the sockets.",
                    SECONDS,
                    span=8,
                ),
                over_time(
                    "Silent nodes",
                    [Query(f"sum({one_per('node', select(metrics.NODE_SILENT))})", "silent")],
                    "Nodes whose agent has missed its heartbeats.",
                    span=8,
                ),
            ),
            "Sysctl profiles": (
                over_time(
                    "Nodes of profiles",
                    [Query(one_per("profile, state", select(metrics.PROFILE_NODES)), "{{profile}} {{state}}")],
                    "Nodes that each SysctlProfile is for, by state of the roll-out.",
                    span=6,
                ),
                over_time(
                    "Conditions that hold",
                    [
                        Query(
                            f"{one_per('profile, type', select(metrics.PROFILE_CONDITION, status='True'))} == 1",
                            "{{profile}} {{type}}",
                        )
                    ],
                    "Degraded wants a person.",
                    span=6,
                ),
                over_time(
                    "Sysctls written",
                    [Query(summed(metrics.SYSCTL_WRITES, "result"), "{{result}}")],
                    "By all writers.",
                    PER_SECOND,
                    span=6,
                ),
                over_time(
                    "Oldest pass of a sysctl writer",
                    [Query(f"topk(5, time() - {one_per('node', select(metrics.WRITER_LAST_PASS))})", "{{node}}")],
                    "How long ago every value was looked at.",
                    SECONDS,
                    span=6,
                ),
            ),
            "Versions": [_versions(title, series) for title, series in builds.items()],
        },
    )


def _versions(title: str, series: Series) -> Panel:
    return rows_of(
        title,
        [Query(f"count by (version) ({select(series)})", "count")],
        "By version.",
        {"count": (COUNT, ())},
        sort_by="count",
        hidden=("pod", "node"),
        span=8,
        height=5,
    )
