"""What the operator shows to Prometheus."""

import pytest

import exposition
from exposition import scraped
from sockethealth_core import metrics as table
from sockethealth_core.units import format_time
from sockethealth_operator.metrics import Metrics
from sockethealth_operator.objects import Key
from sockethealth_operator.samples import Standing
from sockethealth_operator.workqueue import WorkQueue
from sockethealth_operator.world import World

NOW = 1_800_000_000.0


def found(
    severity="Warning", detector="CloseWaitLeak", *, policy="default", kind="ClusterSocketHealthPolicy", **fields
):
    finding = {
        "type": detector,
        "severity": severity,
        "since": format_time(NOW),
        "policy": policy,
        "policyKind": kind,
        "rule": f"{detector}-{severity}",
        "value": 73.5,
    }
    return {**finding, **fields}


def of_pod(name, *findings, node="node-a", namespace="shop"):
    return {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "SocketHealth",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": "7"},
        "spec": {"nodeName": node, "podUID": f"pod-{name}"},
        "status": {"observedTime": format_time(NOW), "findings": list(findings)},
    }


def of_node(name, *findings, heartbeat=NOW):
    return {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "NodeSocketHealth",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "7"},
        "status": {
            "observedTime": format_time(NOW),
            "agent": {"heartbeatTime": format_time(heartbeat), "intervalSeconds": 60},
            "findings": list(findings),
        },
    }


def profile(name="tuned"):
    conditions = [
        {"type": kind, "status": status, "reason": "R", "message": "m", "lastTransitionTime": format_time(NOW)}
        for kind, status in (("Accepted", "True"), ("Progressing", "False"), ("Degraded", "True"))
    ]
    return {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "SysctlProfile",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "7"},
        "spec": {"target": "Node", "sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "30"}]},
        "status": {"nodes": {"selected": 5, "applied": 3, "failed": 2}, "conditions": conditions},
    }


class Parts:
    """What is scraped, with a clock that stands still until it is moved."""

    def __init__(self):
        self.now, self.present, self.leading = NOW, True, True
        self.world, self.metrics = World(), Metrics()
        self.queue = WorkQueue(lambda: self.now)
        standing = Standing(self.world, self.queue, lambda: self.present, lambda: self.leading, lambda: self.now)
        self.metrics.registry.register(standing)

    def scraped(self):
        return scraped(self.metrics.registry)


@pytest.fixture
def parts():
    return Parts()


def test_it_shows_every_series_of_the_table_and_nothing_else(parts):
    parts.world.observe_socket_health(of_pod("web-1", found()), NOW)
    parts.world.observe_node_health(of_node("node-a"), NOW)
    parts.world.observe_profile(profile())
    metrics = parts.metrics
    metrics.answered("GET", 0.01)
    metrics.api_error(404)
    metrics.transitions.labels("CloseWaitLeak", "Raised").inc()
    metrics.writes.labels("status").inc()
    for by_kind in (metrics.errors, metrics.unreadable, metrics.relists, metrics.watch_restarts):
        by_kind.labels("SocketHealth").inc()
    shown = parts.scraped()
    exposition.assert_as_in_the_table(shown, "operator")
    exposition.lint(shown)


def test_a_finding_is_there_with_its_value_until_it_clears(parts):
    parts.world.observe_socket_health(of_pod("web-1", found(mode="Audit")), NOW)
    labels = {
        "namespace": "shop",
        "pod": "web-1",
        "node": "node-a",
        "type": "CloseWaitLeak",
        "severity": "Warning",
        "policy_kind": "ClusterSocketHealthPolicy",
        "policy": "default",
        "rule": "CloseWaitLeak-Warning",
        "mode": "Audit",
    }
    assert parts.scraped().value(table.FINDING, **labels) == 73.5
    assert parts.scraped().samples(table.FINDINGS)["CloseWaitLeak", "Warning"] == 1
    parts.world.observe_socket_health(of_pod("web-1"), NOW)
    assert parts.scraped().samples(table.FINDING) == {}
    assert parts.scraped().samples(table.FINDINGS)["CloseWaitLeak", "Warning"] == 0


def test_a_nodes_finding_has_an_empty_namespace_and_pod(parts):
    parts.world.observe_node_health(of_node("node-a", found("Critical", "TcpMemoryPressure")), NOW)
    assert parts.scraped().value(table.FINDING, node="node-a", namespace="", pod="") == 73.5


def test_findings_vanish_with_their_pod(parts):
    parts.world.observe_socket_health(of_pod("web-1", found()), NOW)
    parts.world.forget_tracked(Key("SocketHealth", "shop", "web-1"))
    assert parts.scraped().samples(table.FINDING) == {}


def test_policies_of_one_name_and_two_kinds_are_two_series(parts):
    both = [found(kind=kind) for kind in ("ClusterSocketHealthPolicy", "SocketHealthPolicy")]
    parts.world.observe_socket_health(of_pod("web-1", *both), NOW)
    assert len(parts.scraped().families[table.FINDING.name].samples) == 2
    assert parts.scraped().samples(table.FINDINGS)["CloseWaitLeak", "Warning"] == 2


@pytest.mark.parametrize("name", ['a"b', "a\\b", 'x"} 1\nsockethealth_findings{type="forged'])
def test_hostile_names_stay_values(parts, name):
    parts.world.observe_socket_health(of_pod(name, found(policy=name, rule=name)), NOW)
    assert parts.scraped().value(table.FINDING, pod=name, policy=name, rule=name) == 73.5


def test_a_node_is_silent_after_three_heartbeats(parts):
    parts.world.observe_node_health(of_node("node-a"), NOW)
    parts.world.observe_node_health(of_node("node-b", heartbeat=NOW - 100), NOW)
    parts.now = NOW + 100
    by_node = {s.labels["node"]: s.value for s in parts.scraped().families[table.NODE_SILENT.name].samples}
    assert by_node == {"node-a": 0, "node-b": 1}


def test_a_degraded_roll_out_is_told_until_its_profile_is_gone(parts):
    parts.world.observe_profile(profile())
    shown = parts.scraped()
    true = {(kind, status) for (_, kind, status), value in shown.samples(table.PROFILE_CONDITION).items() if value}
    assert true == {("Accepted", "True"), ("Progressing", "False"), ("Degraded", "True")}
    assert len(shown.samples(table.PROFILE_CONDITION)) == 9
    assert shown.samples(table.PROFILE_NODES)["tuned", "failed"] == 2
    assert shown.samples(table.PROFILE_NODES)["tuned", "wouldChange"] == 0
    parts.world.forget_profile("tuned")
    assert parts.scraped().samples(table.PROFILE_CONDITION) == parts.scraped().samples(table.PROFILE_NODES) == {}


def test_the_queue_tells_its_length_and_how_long_the_first_has_waited(parts):
    assert parts.scraped().value(table.OPERATOR_QUEUE_OLDEST) == 0
    parts.queue.add("a")
    parts.now += 5
    parts.queue.add("b")
    parts.queue.add("a")  # again: it has waited since it was first there
    parts.now += 2
    shown = parts.scraped()
    assert (shown.value(table.OPERATOR_QUEUE), shown.value(table.OPERATOR_QUEUE_OLDEST)) == (2, 7)


def test_leading_and_the_api_server_are_told_as_they_are(parts):
    parts.leading, parts.present = False, False
    shown = parts.scraped()
    assert (shown.value(table.OPERATOR_LEADING), shown.value(table.OPERATOR_API_UP)) == (0, 0)
    parts.leading, parts.present = True, True
    shown = parts.scraped()
    assert (shown.value(table.OPERATOR_LEADING), shown.value(table.OPERATOR_API_UP)) == (1, 1)


def test_who_stands_by_speaks_of_itself_only(parts):
    parts.world.observe_socket_health(of_pod("web-1", found()), NOW)
    parts.world.observe_node_health(of_node("node-a"), NOW)
    parts.world.observe_profile(profile())
    told = (table.FINDING, table.FINDINGS, table.PROFILE_CONDITION, table.PROFILE_NODES, table.NODE_SILENT)
    assert all(parts.scraped().families[series.name].samples for series in told)
    parts.leading = False
    shown = parts.scraped()
    assert [series.name for series in told if shown.families[series.name].samples] == []
    assert shown.value(table.OPERATOR_TRACKED) == 2


def test_requests_are_timed_and_those_that_failed_counted_by_status(parts):
    for _ in range(5):
        parts.metrics.answered("PATCH", 0.2)
    for status in (409, 0, 0):
        parts.metrics.api_error(status)
    assert parts.scraped().samples(table.OPERATOR_API_ERRORS) == {("409",): 1, ("0",): 2}
    samples = parts.metrics.registry.get_sample_value
    assert samples("sockethealth_operator_api_request_seconds_count", {"method": "PATCH"}) == 5
    assert samples("sockethealth_operator_api_request_seconds_bucket", {"method": "PATCH", "le": "0.1"}) == 0
