"""The dashboard of one pod."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from sockethealth_core import metrics
from sockethealth_core.detectors.close_wait_leak import MIN_AGE
from sockethealth_core.metrics import Series
from sockethealth_monitoring.dashboards.shared import AGED, OF_POD, by_state, findings
from sockethealth_monitoring.panels import (
    INTERVAL,
    PER_SECOND,
    POD,
    RATIO,
    SECONDS,
    Query,
    chosen,
    dashboard_of,
    limits,
    number,
    over_time,
)
from sockethealth_monitoring.promql import one_per, rate, retransmitted_ratio, select


def build() -> Dashboard:
    """The sockets of one pod."""
    this = {"namespace": "$namespace", "pod": "$pod"}
    ratio, _ = retransmitted_ratio(OF_POD, INTERVAL, **this)

    def value(series: Series, **labels: str) -> str:
        return one_per("pod", select(series, **this, **labels))

    def per_second(series: Series) -> str:
        return one_per("pod", rate(series, INTERVAL, **this))

    return dashboard_of(
        POD,
        "Pod",
        "The TCP sockets of one pod.",
        (
            chosen("namespace", metrics.POD_SOCKETS),
            chosen("pod", metrics.POD_SOCKETS, among={"namespace": "$namespace"}),
        ),
        {
            "In short": (
                number(
                    "Ports used",
                    value(metrics.POD_PORTS_USED),
                    "Toward the destination that uses most. At 100% connect() to it fails.",
                    RATIO,
                    limits("EphemeralPortExhaustion", 0.01),
                ),
                number(
                    "Ports run out in",
                    value(metrics.POD_PORTS_EXHAUSTION),
                    "If connections are opened and closed as they are at the moment.",
                    SECONDS,
                    ((None, "red"), (60, "orange")),
                    nothing="never",
                    nothing_color="green",
                ),
                number(
                    "Old CLOSE_WAIT",
                    value(metrics.POD_CLOSE_WAIT_AGED, older_than_seconds=AGED),
                    f"Closed by the peer {MIN_AGE} ago and not by the application: a leak in its code.",
                    steps=limits("CloseWaitLeak"),
                ),
                number(
                    "Oldest CLOSE_WAIT",
                    value(metrics.POD_CLOSE_WAIT_OLDEST),
                    "At least so old; 0 without one.",
                    SECONDS,
                ),
                number(
                    "Fullest accept queue",
                    value(metrics.POD_LISTEN_QUEUE),
                    "Connections that wait for accept(), as share of the listener's backlog.",
                    RATIO,
                    ((None, "green"), (1, "red")),
                ),
                number(
                    "Fullest SYN backlog",
                    value(metrics.POD_SYN_BACKLOG),
                    "Half-open connections, as share of what the listener may hold.",
                    RATIO,
                    limits("SynBacklogPressure", 0.01),
                ),
                findings("What the operator has found on this pod.", this, 5),
            ),
            "Sockets": (
                by_state("Sockets by state", metrics.POD_SOCKETS, "All TCP sockets of the pod.", **this),
                over_time(
                    "TIME_WAIT by role",
                    [Query(one_per("role", select(metrics.POD_TIME_WAIT, **this)), "{{role}}")],
                    "Inbound ones cost next to nothing; outbound ones hold an ephemeral port for 60 s each.",
                    stacked=True,
                ),
                over_time(
                    "CLOSE_WAIT by age",
                    [
                        Query(
                            one_per("older_than_seconds", select(metrics.POD_CLOSE_WAIT_AGED, **this)),
                            "older than {{older_than_seconds}} s",
                        )
                    ],
                    "Old ones are leaked; young ones may be load.",
                    steps=limits("CloseWaitLeak"),
                ),
                over_time(
                    "Active closes",
                    [
                        Query(value(metrics.POD_CLOSES), "all"),
                        Query(value(metrics.POD_WORST_SOURCE), "inbound, of the source with most"),
                    ],
                    "Connections that this side closed first, and that leave a TIME_WAIT here.",
                    PER_SECOND,
                ),
                over_time(
                    "Ephemeral ports used",
                    [Query(value(metrics.POD_PORTS_USED), "worst destination")],
                    "Share of the usable ports toward the destination that uses most.",
                    RATIO,
                    greatest=1,
                    steps=limits("EphemeralPortExhaustion", 0.01),
                ),
                over_time(
                    "By destination",
                    [
                        Query(
                            one_per("destination", select(metrics.POD_DESTINATION_PORTS, **this)),
                            "ports to {{destination}}",
                        ),
                        Query(
                            one_per("destination", select(metrics.POD_DESTINATION_TIME_WAIT, **this)),
                            "TIME_WAIT to {{destination}}",
                        ),
                    ],
                    f"Needs the chart's value {metrics.DESTINATIONS_SWITCH}.",
                ),
            ),
            "Rates": (
                over_time(
                    "Connections",
                    [
                        Query(per_second(metrics.POD_ACTIVE_OPENS), "opened by the pod"),
                        Query(per_second(metrics.POD_PASSIVE_OPENS), "accepted"),
                        Query(per_second(metrics.POD_ATTEMPT_FAILS), "attempts that failed"),
                    ],
                    "Per second; a pod of the host network has none of its own.",
                    PER_SECOND,
                ),
                over_time(
                    "Dropped at listeners",
                    [
                        Query(per_second(metrics.POD_LISTEN_OVERFLOWS), "accept queue full"),
                        Query(per_second(metrics.POD_LISTEN_DROPS), "for any reason"),
                        Query(per_second(metrics.POD_TIME_WAIT_OVERFLOWS), "TIME_WAIT destroyed early"),
                    ],
                    "Each is a connection that a client did not get, or a TIME_WAIT that ended too early.",
                    PER_SECOND,
                ),
                over_time(
                    "Segments",
                    [
                        Query(per_second(metrics.POD_SEGMENTS_SENT), "sent"),
                        Query(per_second(metrics.POD_SEGMENTS_RETRANSMITTED), "sent again"),
                        Query(per_second(metrics.POD_SYN_SEGMENTS_RETRANSMITTED), "of these SYN and SYN/ACK"),
                    ],
                    "Per second.",
                    PER_SECOND,
                ),
                over_time(
                    "Retransmitted",
                    [Query(ratio, "{{pod}}")],
                    "Share of segments that the path lost, without SYN/ACKs that clients leave unanswered.",
                    RATIO,
                    steps=limits("RetransmissionStorm", 0.01),
                ),
            ),
        },
    )
