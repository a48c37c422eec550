"""Alerts about the product itself. Their runbook is one page, a section each."""

from typing import Final

from sockethealth_core.metrics import (
    AGENT_API_ERRORS,
    AGENT_BUILD,
    AGENT_LAST_REPORT,
    AGENT_LAST_SWEEP,
    AGENT_PODS_FAILED,
    NODE_SILENT,
    OPERATOR_API_ERRORS,
    OPERATOR_API_UP,
    OPERATOR_BUILD,
    OPERATOR_ERRORS,
    OPERATOR_LEADING,
    OPERATOR_QUEUE_OLDEST,
    OPERATOR_UNREADABLE,
    PROFILE_CONDITION,
    PROFILE_STATE,
    WRITER_API_ERRORS,
    WRITER_LAST_PASS,
    Series,
)
from sockethealth_monitoring.promql import one_per, select
from sockethealth_monitoring.rules import Alert, Severity

PAGE: Final = "OwnHealth"
"""The runbook page of all of these."""

SWEEPS_MISSED: Final = "(30 * 10)"
"""Sweeps by the seconds between them; the chart puts agent.intervalSeconds for the second number."""
HEARTBEATS_MISSED: Final = "(4 * 120)"
"""One more than makes a node silent, by the seconds between them: agent.heartbeatSeconds."""
PASSES_MISSED: Final = "(60 * 5)"
"""Passes of the sysctl writer, by the seconds between them: sysctls.intervalSeconds."""

_REFUSED: Final = "~401|403"
_ON: Final = "on node {{ $labels.node }}"
_AGE: Final = "{{ $value | humanizeDuration }}"
_NUMBER: Final = '{{ $value | printf "%.0f" }}'
_LOG_OF_AGENT: Final = "Look at the log of the agent's pod there."
_REFUSED_WITH: Final = "with {{ $labels.status }} within 10m"
_PERMISSIONS: Final = (
    "Its permissions are not those of the chart: compare roles and admission policies with what `helm template` "
    "renders."
)
_LOG_OF_OPERATOR: Final = "Look at the log of the operator."


def _own(
    name: str,
    expression: str,
    for_: str,
    severity: Severity,
    summary: str,
    follows: str,
    *,
    keep_firing_for: str = "0s",
) -> Alert:
    name = f"SocketHealth{name}"
    return Alert(
        name, expression, for_, keep_firing_for, severity, summary, f"{summary} {follows}", f"{PAGE}#{name.lower()}"
    )


def _age(series: Series, labels: str, missed: str) -> str:
    return f"time() - {one_per(labels, select(series))} > {missed}"


def _more(series: Series, labels: str, window: str, least: int, **matchers: str) -> str:
    return f"sum by ({labels}) (increase({select(series, **matchers)}[{window}])) >= {least}"


OWN_ALERTS: Final = (
    _own(
        "AgentSilent",
        f"{one_per('cluster, node', select(NODE_SILENT))} == 1",
        "5m",
        "warning",
        "The agent of node {{ $labels.node }} has missed its heartbeats.",
        "All pods of the node are Unknown: findings on them are neither raised nor cleared. See whether the "
        "agent's pod runs "
        "there, and what it logs.",
    ),
    _own(
        "AgentDown",
        # By what a target has exposed, and not by a job's name, which depends on how Prometheus was told of it.
        f"max by (cluster, node, instance) (max_over_time({select(AGENT_BUILD)}[1h]) and on (job, instance) up == 0)",
        "5m",
        "warning",
        "Prometheus cannot scrape the agent of node {{ $labels.node }} at {{ $labels.instance }}.",
        "Alerts on the node's pods cannot fire. See whether the agent's pod runs there, and whether a "
        "network policy keeps "
        "Prometheus away.",
    ),
    _own(
        "AgentsAbsent",
        f"absent({select(AGENT_BUILD)})",
        "10m",
        "critical",
        "Prometheus has no series of any SocketHealth agent.",
        "No alert on sockets can fire. See whether the DaemonSet has pods, and whether Prometheus is told of "
        "them (PodMonitor "
        "or ServiceMonitor, network policy).",
    ),
    _own(
        "AgentCannotSweep",
        _age(AGENT_LAST_SWEEP, "cluster, node", SWEEPS_MISSED),
        "2m",
        "warning",
        f"The agent {_ON} has read no sockets for {_AGE}.",
        f"What is shown of the node's pods is old. {_LOG_OF_AGENT}",
    ),
    _own(
        "AgentCannotReadPods",
        f"{one_per('cluster, node', select(AGENT_PODS_FAILED))} > 0",
        "10m",
        "warning",
        f"The agent {_ON} cannot read the sockets of {_NUMBER} pods.",
        f"These pods are not judged. {_LOG_OF_AGENT}",
    ),
    _own(
        "AgentCannotReport",
        _age(AGENT_LAST_REPORT, "cluster, node", HEARTBEATS_MISSED),
        "2m",
        "warning",
        f"The API server has taken no write of the agent {_ON} for {_AGE}.",
        f"The operator judges by old facts, or not at all. {_LOG_OF_AGENT}",
    ),
    _own(
        "AgentRefused",
        _more(AGENT_API_ERRORS, "cluster, node, status", "10m", 1, status=_REFUSED),
        "5m",
        "warning",
        f"The API server has refused {_NUMBER} requests of the agent {_ON} {_REFUSED_WITH}.",
        _PERMISSIONS,
    ),
    _own(
        "OperatorAbsent",
        f"absent({select(OPERATOR_BUILD)})",
        "5m",
        "critical",
        "Prometheus has no series of the SocketHealth operator.",
        "Nothing is judged: findings, annotations and Events stand still. See whether the Deployment has a "
        "running pod, and "
        "whether Prometheus is told of it.",
    ),
    _own(
        "OperatorNotLeading",
        f"{one_per('cluster', select(OPERATOR_LEADING))} == 0",
        "5m",
        "critical",
        "No replica of the SocketHealth operator is leading.",
        "Nothing is judged. Look at the Lease in the operator's namespace, and why no replica can take it. "
        f"{_LOG_OF_OPERATOR}",
    ),
    _own(
        "OperatorTwoLeaders",
        f"sum by (cluster) ({select(OPERATOR_LEADING)}) > 1",
        "5m",
        "warning",
        f"{_NUMBER} replicas of the SocketHealth operator are leading.",
        "Each writes over the other. Install one release a cluster: each has a Lease of its own.",
    ),
    _own(
        "OperatorCannotReachApi",
        f"min by (cluster) ({select(OPERATOR_API_UP)}) == 0",
        "5m",
        "critical",
        "The SocketHealth operator gets no answer from the API server.",
        f"Nothing is judged. {_LOG_OF_OPERATOR}",
    ),
    _own(
        "OperatorFallingBehind",
        f"{one_per('cluster', select(OPERATOR_QUEUE_OLDEST))} > 60",
        "5m",
        "warning",
        f"The SocketHealth operator is behind by {_AGE}.",
        "Findings come late by as much. Give the operator CPU, and see whether the API server answers slowly "
        "or throttles it.",
        keep_firing_for="5m",
    ),
    _own(
        "OperatorHandlerErrors",
        _more(OPERATOR_ERRORS, "cluster, kind", "10m", 3),
        "10m",
        "warning",
        f"The SocketHealth operator has failed {_NUMBER} times within 10m at {{{{ $labels.kind }}}} objects.",
        f"It tries again, and what these objects need is not done. {_LOG_OF_OPERATOR}",
    ),
    _own(
        "OperatorUnreadableObjects",
        _more(OPERATOR_UNREADABLE, "cluster, kind", "15m", 1),
        "0s",
        "warning",
        f"The SocketHealth operator has skipped {_NUMBER} objects of kind {{{{ $labels.kind }}}} that it cannot read.",
        f"They are not judged, or not followed. See whether definitions, agents and operator are of one version. "
        f"{_LOG_OF_OPERATOR}",
    ),
    _own(
        "OperatorRefused",
        _more(OPERATOR_API_ERRORS, "cluster, status", "10m", 1, status=_REFUSED),
        "5m",
        "warning",
        f"The API server has refused {_NUMBER} requests of the SocketHealth operator {_REFUSED_WITH}.",
        _PERMISSIONS,
    ),
    _own(
        "RolloutDegraded",
        f"{one_per('cluster, profile', select(PROFILE_CONDITION, type='Degraded', status='True'))} == 1",
        "1m",
        "warning",
        "The roll-out of SysctlProfile {{ $labels.profile }} is degraded.",
        "A node failed or drifted, or the roll-out has stopped. The condition says why: kubectl describe sysctlprofile "
        "{{ $labels.profile }}",
        keep_firing_for="1m",
    ),
    _own(
        "SysctlDrift",
        f"{one_per('cluster, node, profile', select(PROFILE_STATE, state='Drifted'))} == 1",
        "5m",
        "warning",
        f"Someone else has changed a sysctl of profile {{{{ $labels.profile }}}} {_ON}.",
        "It was set again once, and is left as they set it. Find who sets it (sysctl.d, tuned, another "
        "DaemonSet): kubectl "
        "describe nodesockethealth {{ $labels.node }}",
    ),
    _own(
        "SysctlFailed",
        f"{one_per('cluster, node, profile', select(PROFILE_STATE, state='Failed'))} == 1",
        "5m",
        "warning",
        f"A sysctl of profile {{{{ $labels.profile }}}} cannot be set {_ON}.",
        "The kernel refuses the value or does not have the sysctl: kubectl describe nodesockethealth {{ "
        "$labels.node }}",
    ),
    _own(
        "SysctlWriterStuck",
        _age(WRITER_LAST_PASS, "cluster, node", PASSES_MISSED),
        "2m",
        "warning",
        f"The sysctl writer {_ON} has looked at no value for {_AGE}.",
        "Profiles are neither applied nor put back there. Look at the log of the container sysctl-writer of "
        "the agent's pod.",
    ),
    _own(
        "SysctlWriterRefused",
        _more(WRITER_API_ERRORS, "cluster, node, status", "10m", 1, status=_REFUSED),
        "5m",
        "warning",
        f"The API server has refused {_NUMBER} requests of the sysctl writer {_ON} {_REFUSED_WITH}.",
        _PERMISSIONS,
    ),
)
