"""Reading a Prometheus: what is asked, what is made of findings, and what is said of wrong answers."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_cli.report import prometheus
from sockethealth_cli.report.prometheus import Grid, Prometheus, PrometheusError, Row
from sockethealth_core.resources import Finding, Target
from sockethealth_core.units import format_time
from unit.cli.builders import NOW
from unit.cli.report_builders import POD

GRID = Grid(NOW, 15, 10)
LABELS = {"type": "CloseWaitLeak", "policy_kind": "SocketHealthPolicy", "policy": "ours", "mode": "Enforce"}


def row(first: int, last: int, value: float = 60.0, severity: str = "Warning", **labels) -> Row:
    """A finding from one step of the grid to another, both included."""
    values = tuple(value if first <= step <= last else None for step in range(GRID.count))
    return Row({**LABELS, "severity": severity, "rule": severity.lower(), **labels}, values)


def spans(*rows: Row):
    return prometheus.finding_spans(POD, rows, GRID)


def at(step: int) -> float:
    return NOW + 15 * step


def test_a_finding_that_escalates_is_one_with_two_stretches():
    (span,) = spans(row(2, 4), row(5, 7, 1200, "Critical"))
    assert [(one.severity, one.begin, one.end) for one in span.segments] == [
        ("Warning", at(2), at(5)),
        ("Critical", at(5), at(8)),
    ]
    assert [(mark.change, mark.at) for mark in span.marks] == [
        ("Raised", at(2)),
        ("Escalated", at(5)),
        ("Cleared", at(8)),
    ]
    assert (span.finding.value, span.severity, span.lasts) == (1200, "Critical", False)


def test_one_that_is_there_at_the_end_lasts():
    (span,) = spans(row(8, 9))
    assert span.lasts
    assert span.seen_until == at(9)


def test_of_a_policy_of_ones_own_the_threshold_is_not_made_up():
    (span,) = spans(row(0, 9))
    assert span.finding.threshold == 0
    assert "default policy" not in span.finding.message
    assert "pod shop/cart-1 had 60 CLOSE_WAIT sockets" in span.finding.message


def test_what_the_object_tells_is_taken_for_the_words_and_the_series_for_the_numbers():
    told = Finding(
        type="CloseWaitLeak",
        severity="Warning",
        since=format_time(NOW),
        policy_kind="SocketHealthPolicy",
        policy="ours",
        rule="warning",
        value=55,
        threshold=50,
        target=Target(address="10.0.0.9", port=443, name="Service shop/api"),
        evidence={"process": "java"},
        message="pod shop/cart-1 holds 55 CLOSE_WAIT sockets",
        remedy="Fix the code.",
    )
    (span,) = prometheus.in_words_of([told], spans(row(0, 9)))
    assert (span.finding.value, span.finding.threshold) == (60, 50)
    assert (span.finding.message, span.finding.remedy) == (told.message, told.remedy)
    (other,) = prometheus.in_words_of([told], spans(row(0, 9, policy="theirs")))
    assert other.finding.remedy == ""


def test_the_worst_comes_first_and_a_severity_that_nobody_knows_is_left_out():
    found = spans(row(0, 9), row(3, 9, severity="Critical", type="EphemeralPortExhaustion"), row(0, 9, severity="Odd"))
    assert [span.finding.type for span in found] == ["EphemeralPortExhaustion", "CloseWaitLeak"]


@given(st.floats(1e9, 2e9), st.floats(1, 40 * 86400))
def test_a_grid_ends_where_it_was_asked_to_and_has_no_more_moments_than_can_be_seen(begin, length):
    grid = prometheus.grid_of(begin, begin + length)
    assert 1 <= grid.count <= prometheus.MOST_POINTS + 1
    assert grid.times[-1] == pytest.approx(begin + length, abs=1e-3)
    assert begin - 1e-3 <= grid.times[0] < begin + grid.step + 1e-3
    assert grid.step >= prometheus.SHORTEST_STEP_SECONDS


def test_names_cannot_end_a_query():
    assert prometheus.quoted('a"} or up{b="\\') == '"a\\"} or up{b=\\"\\\\"'
    assert prometheus.quoted("a\nb") == '"a\\nb"'


@contextmanager
def answering(answer: Callable[[str], tuple[int, str]]) -> Iterator[tuple[str, list[str]]]:
    """A server on loopback that answers queries; its URL, and the queries it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(parse_qs(urlparse(self.path).query).get("query", [""])[0])
            status, body = answer(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_what_is_no_prometheus_is_told():
    with (
        answering(lambda _: (200, "<html>hello</html>")) as (url, _),
        pytest.raises(PrometheusError, match=r"what answers at .* is no Prometheus"),
    ):
        Prometheus(url).range("up", GRID)


def test_a_refusal_says_what_prometheus_said():
    refusal = json.dumps({"status": "error", "error": "query processing would load too many samples"})
    with answering(lambda _: (422, refusal)) as (url, _), pytest.raises(PrometheusError, match="too many samples"):
        Prometheus(url).range("up", GRID)


def test_a_password_in_the_url_is_sent_and_never_shown():
    with answering(lambda sent: (401, json.dumps({"status": "error", "error": sent}))) as (url, _):
        source = Prometheus(url.replace("//", "//me:secret@"))
        with pytest.raises(PrometheusError, match="Basic bWU6c2VjcmV0") as raised:
            source.range("up", GRID)
    assert "secret" not in source.url
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["localhost:9090", "ftp://localhost", "http://", ""])
def test_an_address_that_is_none_is_told(url):
    with pytest.raises(PrometheusError, match="write it like http://localhost:9090"):
        Prometheus(url)


def test_a_value_that_is_not_finite_or_not_there_is_not_known():
    values = [[NOW, "1"], [NOW + 15, "NaN"], [NOW + 45, "+Inf"], [NOW + 60, "2.5"]]
    body = json.dumps({"status": "success", "data": {"result": [{"metric": {"state": "x"}, "values": values}]}})
    with answering(lambda _: (200, body)) as (url, _):
        (found,) = Prometheus(url).range("up", Grid(NOW, 15, 6))
    assert found.values == (1.0, None, None, None, 2.5, None)


def test_a_pod_of_which_nothing_is_known_is_told_with_the_time_it_was_looked_for():
    empty = json.dumps({"status": "success", "data": {"result": []}})
    with answering(lambda _: (200, empty)) as (url, asked), pytest.raises(PrometheusError) as raised:
        prometheus.read(Prometheus(url), "shop", 'web"', NOW - 3600, NOW, created=NOW)
    assert format_time(NOW) in str(raised.value)
    assert asked == ['max by (state) (sockethealth_pod_sockets{namespace="shop",pod="web\\""})']
