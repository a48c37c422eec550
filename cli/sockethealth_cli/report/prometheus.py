"""The source of a report on a pod: a Prometheus that scrapes the agents and the operator, over its HTTP API.

prometheus.io/docs/prometheus/latest/querying/api. Series are those of sockethealth_core.metrics.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from msgspec.structs import replace as with_fields

from sockethealth_cli.report import changes, outlook
from sockethealth_cli.report.page import Report
from sockethealth_cli.report.timeline import (
    MOST_DESTINATIONS,
    STATE_LABELS,
    FindingSpan,
    Incident,
    Mark,
    Outlook,
    Phase,
    Segment,
    Series,
    began,
)
from sockethealth_cli.text import counted, printable
from sockethealth_core import metrics
from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.detectors import DETECTORS, Subject
from sockethealth_core.engine import SEVERITY_ORDER, identity_of
from sockethealth_core.names import runbook_url
from sockethealth_core.policy import CompiledRule, compile_policy
from sockethealth_core.resources import Finding, Severity
from sockethealth_core.units import format_count, format_time

MOST_POINTS: Final = 240
"""Moments asked for: as many as a picture can tell apart."""
SHORTEST_STEP_SECONDS: Final = 15
RATE_WINDOW_SECONDS: Final = 120
"""Rates of counters are over at least this long: four scrapes, 30 s apart, so that one may fail."""
_TIMEOUT_SECONDS: Final = 30.0

Labels = Mapping[str, str]


class PrometheusError(Exception):
    """Prometheus did not answer as asked; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The moments that are asked for: from the first on, so many, so many seconds apart."""

    begin: float
    step: int
    count: int

    @property
    def times(self) -> tuple[float, ...]:
        """Each of them, epoch seconds."""
        return tuple(self.begin + index * self.step for index in range(self.count))


def grid_of(begin: float, end: float) -> Grid:
    """At most MOST_POINTS moments, the last one at the end."""
    step = max(SHORTEST_STEP_SECONDS, ceil((end - begin) / MOST_POINTS))
    count = int((end - begin) // step) + 1
    return Grid(end - (count - 1) * step, step, count)


@dataclass(frozen=True, slots=True)
class Row:
    """One time series of an answer, on the moments of the grid; None where it was not there."""

    labels: Labels
    values: tuple[float | None, ...]


class Prometheus:
    """A Prometheus, asked with GET.

    Args:
        url: as a browser has it, such as http://localhost:9090; a path before /api is kept.

    Raises:
        PrometheusError: that is no such URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise PrometheusError(f"'{url}' is no address of a Prometheus: write it like http://localhost:9090")
        authority = parts.netloc.rpartition("@")[2]
        self.url = f"{parts.scheme}://{authority}{parts.path.rstrip('/')}"
        headers = urllib3.make_headers(basic_auth=f"{parts.username}:{parts.password or ''}") if parts.username else {}
        self._pool = urllib3.PoolManager(
            headers=headers,
            timeout=_TIMEOUT_SECONDS,
            # A person waits and can ask again; a redirect, as of a proxy that adds a slash, is followed.
            retries=urllib3.Retry(None, connect=0, read=0, status=0, other=0, redirect=3),
        )

    def range(self, query: str, grid: Grid) -> tuple[Row, ...]:
        """The answer to a query at each moment of the grid.

        Raises:
            PrometheusError: it did not answer, or refused the query.
        """
        fields = {
            "query": query,
            "start": f"{grid.begin:.3f}",
            "end": f"{grid.begin + (grid.count - 1) * grid.step:.3f}",
            "step": str(grid.step),
        }
        try:
            answer = self._pool.request("GET", f"{self.url}/api/v1/query_range", fields=fields)
        except urllib3.exceptions.HTTPError as error:
            raise PrometheusError(f"the Prometheus at {self.url} does not answer: {_reason(error)}") from error
        try:
            body = json.loads(answer.data)
            if answer.status != 200 or body["status"] != "success":
                said = body.get("error", "") or f"HTTP status {answer.status}"
                raise PrometheusError(f"the Prometheus at {self.url} refused a query: {said}")
            return tuple(_row(one, grid) for one in body["data"]["result"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PrometheusError(
                f"what answers at {self.url} is no Prometheus (HTTP status {answer.status}): check the URL"
            ) from error


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    return _reason(inner) if isinstance(inner, BaseException) else str(error).rpartition(": ")[2]


def _row(raw: Any, grid: Grid) -> Row:
    found: dict[int, float] = {}
    for at, text in raw["values"]:
        value = float(text)
        if isfinite(value):
            found[round((float(at) - grid.begin) / grid.step)] = value
    labels = {str(key): str(value) for key, value in raw["metric"].items()}
    return Row(labels, tuple(found.get(index) for index in range(grid.count)))


def quoted(text: str) -> str:
    """A label's value as PromQL has it in double quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def read(
    source: Prometheus,
    namespace: str,
    pod: str,
    begin: float,
    end: float,
    *,
    created: float,
    told: Sequence[Finding] = (),
) -> Report:
    """A pod's story between two moments.

    Args:
        source: the Prometheus.
        namespace: of the pod.
        pod: its name.
        begin: epoch seconds.
        end: epoch seconds.
        created: epoch seconds, when the report is made.
        told: findings of the pod's SocketHealth, whose words say more than the series can.

    Raises:
        PrometheusError: it does not answer, or has nothing of the pod in that time.
    """
    grid = grid_of(begin, end)
    where = f"namespace={quoted(namespace)},pod={quoted(pod)}"
    asked = _Asking(source, grid, where)
    sockets = asked.by(metrics.POD_SOCKETS, "state")
    if not sockets:
        raise PrometheusError(
            f"the Prometheus at {source.url} has no sockets of pod {namespace}/{pod} between {format_time(begin)} and "
            f"{format_time(end)}: check the names and --since, that it scrapes the agents, and that the scrape honours "
            "their labels (honorLabels: true)"
        )
    subject = Subject("pod", pod, namespace)
    states = _states(sockets, asked.by(metrics.POD_TIME_WAIT, "role"))
    share = _scaled(asked.one(metrics.POD_PORTS_USED), "ports.usedPercent", "worst destination", "percent", 100)
    destinations = tuple(
        sorted(
            (
                Series(f"ports.{name}", printable(name), "ports", _zeros(values))
                for name, values in asked.by(metrics.POD_DESTINATION_PORTS, "destination").items()
            ),
            key=lambda one: -one.peak,
        )
    )[:MOST_DESTINATIONS]
    flows = _present(
        (
            asked.rate(metrics.POD_ACTIVE_OPENS, "activeOpens", "opened (connect)"),
            asked.rate(metrics.POD_PASSIVE_OPENS, "passiveOpens", "accepted"),
            _scaled(asked.one(metrics.POD_CLOSES), "rates.closes", "closed first by this side", "per second"),
        )
    )
    troubles = _present(
        (
            asked.rate(metrics.POD_ATTEMPT_FAILS, "attemptFails", "attempts failed"),
            asked.rate(metrics.POD_SEGMENTS_RETRANSMITTED, "retransmits", "segments sent again"),
            asked.rate(metrics.POD_LISTEN_OVERFLOWS, "listenOverflows", "accept queue overflows"),
            asked.rate(metrics.POD_LISTEN_DROPS, "listenDrops", "drops at listeners"),
            asked.rate(metrics.POD_TIME_WAIT_OVERFLOWS, "timeWaitOverflows", "TIME_WAIT destroyed early"),
        )
    )
    queue = _scaled(asked.one(metrics.POD_LISTEN_QUEUE), "queue.usedPercent", "fullest accept queue", "percent", 100)
    queues = () if queue is None or queue.peak == 0 else (queue, _constant("its limit", "percent", 100.0, grid))
    further = _present(
        (
            _scaled(asked.one(metrics.POD_CLOSE_WAIT_OLDEST), "closeWait.oldest", "oldest CLOSE_WAIT", "seconds"),
            _scaled(
                asked.one(metrics.POD_SYN_BACKLOG), "synBacklog.usedPercent", "fullest SYN backlog", "percent", 100
            ),
        )
    )
    spans = in_words_of(told, finding_spans(subject, asked.findings(), grid))
    worst = spans[0] if spans else None
    compared = (*states, *([share] if share else []), *destinations, *flows, *troubles, *queues[:1], *further)
    incident = Incident(
        subject=subject,
        times=grid.times,
        states=states,
        destinations=destinations,
        port_share=share,
        flows=flows,
        troubles=troubles,
        queues=queues,
        further=further,
        findings=spans,
        changes=changes.of_series(grid.times, compared, began(spans))[: changes.MOST_CHANGES],
        outlook=None if worst is None else _outlook(worst, grid, asked.one(metrics.POD_PORTS_EXHAUSTION)),
    )
    return Report(
        incidents=(incident,),
        source=f"Read from the Prometheus at {source.url}: {counted(grid.count, 'moment')}, {grid.step} s apart.",
        created=created,
    )


class _Asking:
    """Queries about one pod. Labels of the scrape, such as instance, are taken away: a restarted agent is the same."""

    def __init__(self, source: Prometheus, grid: Grid, where: str) -> None:
        self._source = source
        self._grid = grid
        self._where = where

    def by(self, series: metrics.Series, label: str) -> dict[str, tuple[float | None, ...]]:
        rows = self._source.range(f"max by ({label}) ({series.name}{{{self._where}}})", self._grid)
        return {row.labels.get(label, ""): row.values for row in rows}

    def one(self, series: metrics.Series) -> tuple[float | None, ...] | None:
        rows = self._source.range(f"max({series.name}{{{self._where}}})", self._grid)
        return rows[0].values if rows else None

    def rate(self, series: metrics.Series, key: str, label: str) -> Series | None:
        window = max(RATE_WINDOW_SECONDS, self._grid.step)
        rows = self._source.range(f"max(rate({series.name}{{{self._where}}}[{window}s]))", self._grid)
        return Series(f"rates.{key}", label, "per second", rows[0].values) if rows else None

    def findings(self) -> tuple[Row, ...]:
        labels = "type, severity, policy_kind, policy, rule, mode"
        return self._source.range(f"max by ({labels}) ({metrics.FINDING.name}{{{self._where}}})", self._grid)


def _states(
    sockets: Mapping[str, tuple[float | None, ...]], time_wait: Mapping[str, tuple[float | None, ...]]
) -> tuple[Series, ...]:
    sources: dict[str, Sequence[tuple[float | None, ...] | None]] = {
        "established": [sockets.get("established")],
        "timeWaitOutbound": [time_wait.get("outbound")],
        "timeWaitInbound": [time_wait.get("inbound")],
        "closeWait": [sockets.get("closeWait")],
        "finWait2": [sockets.get("finWait2")],
        "opening": [sockets.get("synSent"), sockets.get("synRecv")],
        "closing": [sockets.get("finWait1"), sockets.get("lastAck"), sockets.get("closing")],
    }
    made = []
    for key, parts in sources.items():
        known = [part for part in parts if part is not None]
        if known:
            values = tuple(_sum(column) for column in zip(*known, strict=True))
            made.append(Series(f"sockets.{key}", STATE_LABELS[key], "sockets", values))
    return tuple(one for one in made if one.peak > 0) or tuple(made[:1])


def _sum(column: Sequence[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return sum(known) if known else None


def _zeros(values: Sequence[float | None]) -> tuple[float | None, ...]:
    # A destination that is not among a pod's worst has no series, and next to no ports.
    return tuple(value or 0.0 for value in values)


def _scaled(
    values: tuple[float | None, ...] | None, key: str, label: str, unit: str, factor: float = 1
) -> Series | None:
    if values is None:
        return None
    return Series(key, label, unit, tuple(None if value is None else value * factor for value in values))


def _constant(label: str, unit: str, value: float, grid: Grid) -> Series:
    return Series(f"limit.{label}", label, unit, (value,) * grid.count)


def _present(several: Sequence[Series | None]) -> tuple[Series, ...]:
    return tuple(one for one in several if one is not None and one.peak > 0)


def finding_spans(subject: Subject, rows: Sequence[Row], grid: Grid) -> tuple[FindingSpan, ...]:
    """Findings of a pod from the series of the operator, worst first. Of a finding they have value and rule."""
    identities: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        labels = row.labels
        rule = labels.get("rule", "") if labels.get("type") == "Expression" else ""
        key = (labels.get("policy_kind", ""), labels.get("policy", ""), labels.get("type", ""), rule)
        if labels.get("severity") in SEVERITY_ORDER and any(value is not None for value in row.values):
            identities.setdefault(key, []).append(row)
    spans = [_span(subject, group, grid) for group in identities.values()]
    return tuple(sorted(spans, key=lambda span: (SEVERITY_ORDER[span.severity], span.began)))


def in_words_of(told: Sequence[Finding], spans: Sequence[FindingSpan]) -> tuple[FindingSpan, ...]:
    """The same findings, those that are also told with their message, remedy, other party and evidence."""
    by_identity = {identity_of(finding): finding for finding in told}
    return tuple(_in_words_of(by_identity.get(identity_of(span.finding)), span) for span in spans)


def _in_words_of(told: Finding | None, span: FindingSpan) -> FindingSpan:
    if told is None:
        return span
    finding = with_fields(
        span.finding,
        message=told.message,
        remedy=told.remedy,
        target=told.target,
        evidence=told.evidence,
        threshold=told.threshold,
    )
    return replace(span, finding=finding)


def _span(subject: Subject, rows: Sequence[Row], grid: Grid) -> FindingSpan:
    times = grid.times
    ordered = sorted(rows, key=lambda row: SEVERITY_ORDER[_severity(row)])
    segments: list[Segment] = []
    marks: list[Mark] = []
    before: Severity | None = None
    active: Phase = "Active"
    for index, at in enumerate(times):
        row = next((one for one in ordered if one.values[index] is not None), None)
        now = None if row is None else _severity(row)
        change = _change(before, now)
        if change is not None:
            marks.append(Mark(at, change, now or before or "Info"))
        if now is not None:
            until = times[min(index + 1, len(times) - 1)]
            last = segments[-1] if segments else None
            if last is not None and last.end == at and last.severity == now:
                segments[-1] = Segment(last.begin, until, now, active)
            else:
                segments.append(Segment(at, until, now, active))
        before = now
    worst_row = ordered[0]
    value, worst_index = max((value, index) for index, value in enumerate(worst_row.values) if value is not None)
    finding = _finding(subject, worst_row.labels, _severity(worst_row), value, segments[0].begin)
    return FindingSpan(finding, times[worst_index], tuple(segments), tuple(marks), before is not None)


def _severity(row: Row) -> Severity:
    return next(severity for severity in SEVERITY_ORDER if severity == row.labels["severity"])


def _change(before: Severity | None, now: Severity | None) -> Any:
    if before == now:
        return None
    if before is None:
        return "Raised"
    if now is None:
        return "Cleared"
    return "Escalated" if SEVERITY_ORDER[now] < SEVERITY_ORDER[before] else "Eased"


def _finding(subject: Subject, labels: Labels, severity: Severity, value: float, began: float) -> Finding:
    kind, rule = labels.get("type", ""), labels.get("rule", "")
    detector = DETECTORS.get(kind)
    default = _default_rule(labels)
    unit = f" {detector.unit}" if detector else ""
    raised = f", which the default policy's rule raises at {format_count(default.threshold)}" if default else ""
    remedy = f" {detector.summary}" if detector else ""
    return Finding(
        type=kind,
        severity=severity,
        since=format_time(began),
        policy=labels.get("policy", ""),
        policy_kind=labels.get("policy_kind", ""),
        rule=rule,
        mode="Audit" if labels.get("mode") == "Audit" else "Enforce",
        value=round(value, 2),
        threshold=default.threshold if default else 0.0,
        message=f"{subject} had {format_count(value)}{unit} at its worst{raised}.{remedy}",
        runbook=runbook_url(kind),
    )


def _default_rule(labels: Labels) -> CompiledRule | None:
    if (labels.get("policy_kind"), labels.get("policy")) != (DEFAULT_POLICY.kind, DEFAULT_POLICY.metadata.name):
        return None
    return next((one for one in compile_policy(DEFAULT_POLICY).rules if one.key.rule == labels.get("rule", "")), None)


def _outlook(worst: FindingSpan, grid: Grid, seconds_left: tuple[float | None, ...] | None) -> Outlook | None:
    if worst.finding.type != "EphemeralPortExhaustion":
        return outlook.of_failure(worst, grid.times)
    # Where the series is absent the rate was no danger, as its help says.
    values = seconds_left or (None,) * grid.count
    return outlook.of_ports([(at, values[index]) for index, at in enumerate(grid.times)])
