"""One alert for each default rule that wants a person.

Thresholds and ``for`` are the default policy's, remedies the detectors'. Alerts read the agents' series, not the
operator's findings, so they work while the operator is down. What no series tells, and what people's own policies find,
is taken from the operator's ``sockethealth_finding``.
"""

from dataclasses import dataclass
from typing import Final

from sockethealth_core.default_policy import default_rules
from sockethealth_core.detectors import DETECTORS, Detector, Reading, Subject
from sockethealth_core.detectors.close_wait_leak import MIN_AGE
from sockethealth_core.detectors.retransmission_storm import MINIMUM_SEGMENTS
from sockethealth_core.metrics import (
    FINDING,
    NODE_CONNTRACK_USED,
    NODE_TCP_MEMORY_USED,
    POD_CLOSE_WAIT_AGED,
    POD_LISTEN_OVERFLOWS,
    POD_PORTS_EXHAUSTION,
    POD_PORTS_USED,
    POD_SOCKETS,
    POD_SYN_BACKLOG,
    POD_TIME_WAIT_OVERFLOWS,
)
from sockethealth_core.names import DEFAULT_POLICY_NAME, RUNBOOK_BASE_URL
from sockethealth_core.resources import Facts, NodeFacts, PolicyRule
from sockethealth_core.units import parse_duration
from sockethealth_monitoring.own_alerts import OWN_ALERTS
from sockethealth_monitoring.promql import one_per, rate, retransmitted_ratio, select
from sockethealth_monitoring.rules import Alert, Group, Severity, rule_file

PREFIX: Final = "SocketHealth"
PER_POD: Final = "cluster, namespace, pod, node"
"""``cluster`` is there where one Prometheus evaluates rules for several clusters, and is empty elsewhere."""
PER_NODE: Final = "cluster, node"
SEVERITIES: Final[dict[str, Severity]] = {"Warning": "warning", "Critical": "critical"}

_PERCENT: Final = "{{ $value | humanizePercentage }}"
_COUNT: Final = '{{ $value | printf "%.0f" }}'
_RATE: Final = '{{ $value | printf "%.2f" }}'
_POD: Final = "{{ $labels.namespace }}/{{ $labels.pod }}"
_NODE: Final = "{{ $labels.node }}"
_SECONDS_LEFT: Final = (
    f"{{{{ with printf \"{POD_PORTS_EXHAUSTION.name}{{namespace='%s', pod='%s'}}\" "
    "$labels.namespace $labels.pod | query }}"
    "At this rate they run out in {{ . | first | value | humanizeDuration }}, and connect() fails. {{ end }}"
)


@dataclass(frozen=True, slots=True)
class _Measure:
    """How a detector's value is had from series.

    Attributes:
        value: PromQL, one series a pod or node.
        says: of the pod or node, with the number, to end a sentence.
        per_unit: what the detector's unit is in the series: 0.01 where it counts percent and the series is a ratio.
        only: a further condition, in PromQL.
        further: a sentence, with a space after it.
    """

    value: str
    says: str
    per_unit: float = 1
    only: str = ""
    further: str = ""


_LOST, _SENT = retransmitted_ratio(PER_POD)
MEASURES: Final = {
    "EphemeralPortExhaustion": _Measure(
        one_per(PER_POD, select(POD_PORTS_USED)),
        f"uses {_PERCENT} of its ephemeral ports toward one destination",
        per_unit=0.01,
        further=_SECONDS_LEFT,
    ),
    "CloseWaitLeak": _Measure(
        one_per(PER_POD, select(POD_CLOSE_WAIT_AGED, older_than_seconds=f"{parse_duration(MIN_AGE):g}")),
        f"holds {_COUNT} CLOSE_WAIT sockets older than {MIN_AGE}",
        further="Its peers have closed those connections, and it has not called close(). ",
    ),
    "FinWait2Buildup": _Measure(
        one_per(PER_POD, select(POD_SOCKETS, state="finWait2")),
        f"holds {_COUNT} FIN_WAIT_2 sockets",
        further="It has closed those connections, and its peers have not. ",
    ),
    "AcceptQueueOverflow": _Measure(
        one_per(PER_POD, rate(POD_LISTEN_OVERFLOWS)),
        f"drops {_RATE} connections/s because an accept queue is full",
        further="Clients see slow or timed-out connects. ",
    ),
    "SynBacklogPressure": _Measure(
        one_per(PER_POD, select(POD_SYN_BACKLOG)),
        f"has a listener whose SYN backlog is {_PERCENT} full of half-open connections",
        per_unit=0.01,
    ),
    "TimeWaitTableOverflow": _Measure(
        one_per(PER_POD, rate(POD_TIME_WAIT_OVERFLOWS)),
        f"drops {_RATE} TIME_WAIT sockets/s early, as it holds all that tcp_max_tw_buckets allows",
    ),
    "RetransmissionStorm": _Measure(
        _LOST,
        f"sends {_PERCENT} of its segments again",
        per_unit=0.01,
        only=f"{_SENT} >= {MINIMUM_SEGMENTS:g}",
        further="The path loses packets or acknowledgements. ",
    ),
    "UnsafeSysctl": _Measure(
        one_per(PER_POD, select(FINDING, type="UnsafeSysctl", severity="!Info")),
        f"runs with {_COUNT} network sysctls that are unsafe or cannot work",
    ),
    "TcpMemoryPressure": _Measure(
        one_per(PER_NODE, select(NODE_TCP_MEMORY_USED)),
        f"has TCP buffers of {_PERCENT} of the mark above which the kernel saves memory",
        per_unit=0.01,
        further="Above it windows shrink, and later connections are reset. ",
    ),
    "ConntrackPressure": _Measure(
        one_per(PER_NODE, select(NODE_CONNTRACK_USED)),
        f"tracks {_PERCENT} of the connections it can",
        per_unit=0.01,
        further="When the table is full, new connections of every pod are dropped. ",
    ),
}
"""By detector, each that has a default rule above Info."""


def groups() -> tuple[Group, ...]:
    """All alerts, in the order of the chart."""
    detected = [
        (DETECTORS[rule.detector].scope, _detected(DETECTORS[rule.detector], rule))
        for rule in default_rules()
        if rule.severity in SEVERITIES
    ]
    return (
        Group("sockethealth-pods", tuple(alert for scope, alert in detected if scope == "pod")),
        Group("sockethealth-nodes", tuple(alert for scope, alert in detected if scope == "node")),
        Group("sockethealth-policies", tuple(_of_policies(severity) for severity in SEVERITIES)),
        Group("sockethealth-itself", OWN_ALERTS),
    )


def derived() -> dict[str, object]:
    """The rule file of the chart."""
    return rule_file(groups(), RUNBOOK_BASE_URL)


def _detected(detector: Detector, rule: PolicyRule) -> Alert:
    measure = MEASURES[detector.name]
    if rule.threshold is None:
        raise ValueError(f"rule {rule.name} of the default policy has no threshold")
    threshold = f"{rule.threshold * measure.per_unit:g}"
    of_pod = detector.scope == "pod"
    subject = f"Pod {_POD}" if of_pod else f"Node {_NODE}"
    limit = f"{rule.threshold:g}%" if measure.per_unit != 1 else f"{rule.threshold:g}"
    look = (
        "kubectl describe sockethealth -n {{ $labels.namespace }} {{ $labels.pod }}"
        if of_pod
        else f"kubectl describe nodesockethealth {_NODE}"
    )
    where = f" on node {_NODE}" if of_pod else ""
    return Alert(
        name=PREFIX + detector.name,
        expression=f"{measure.value} >= {threshold}" + (f" and {measure.only}" if measure.only else ""),
        for_=rule.for_,
        keep_firing_for=rule.clear_after,
        severity=SEVERITIES[rule.severity],
        summary=f"{subject} {measure.says}.",
        description=f"{subject}{where} {measure.says}; the limit is {limit}. {measure.further}{_next_step(detector)} "
        f"Who and where: {look}",
        runbook=detector.name,
    )


def _next_step(detector: Detector) -> str:
    """The first sentence of the detector's remedy, which begins with the one next step."""
    nobody = Subject(detector.scope, "")
    facts = Facts() if detector.scope == "pod" else NodeFacts()
    first, _, _ = detector.advise(nobody, facts, Reading(0)).remedy.partition(". ")
    return first.removesuffix(".") + "."


def _of_policies(severity: str) -> Alert:
    found = select(FINDING, policy=f"!{DEFAULT_POLICY_NAME}", type="!UnsafeSysctl", severity=severity, mode="Enforce")
    where = f"{{{{ if $labels.pod }}}}Pod {_POD} on node {_NODE}{{{{ else }}}}Node {_NODE}{{{{ end }}}}"
    return Alert(
        name=f"{PREFIX}PolicyFinding",
        expression=one_per(f"{PER_POD}, type, policy, rule", found),
        for_="0s",
        keep_firing_for="1m",
        severity=SEVERITIES[severity],
        summary=f"{where}: {{{{ $labels.type }}}} by policy {{{{ $labels.policy }}}}.",
        description=f"{where}: rule {{{{ $labels.rule }}}} of policy {{{{ $labels.policy }}}} holds, at the value "
        '{{ $value | printf "%.4g" }}. '
        "Message and remedy: kubectl describe {{ if $labels.pod }}sockethealth -n {{ $labels.namespace }} "
        "{{ $labels.pod }}{{ else }}nodesockethealth {{ $labels.node }}{{ end }}",
        runbook="{{ $labels.type }}",
    )
