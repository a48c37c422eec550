"""What an operator that is killed, or left alone by the API server, must not lose and not say twice."""

import time

import pytest

from faulty_api import gate
from harness.cluster import OwnCluster
from harness.plugin import skip_or_fail
from harness.waiting import until
from operator_lab import Stage, running_operator
from sockethealth_core.names import API_VERSION, OPERATOR_FIELD_MANAGER
from sockethealth_core.units import format_time, parse_time

pytestmark = pytest.mark.api

OUTAGE_SECONDS = 15
"""Two minutes of it, with an API server that really ends, are in tests/faults."""


@pytest.fixture
def operator(control_plane, crds, tmp_path):
    with running_operator(control_plane, tmp_path) as process:
        yield process


@pytest.fixture
def stage(control_plane, crds, namespace):
    with Stage.set_up(control_plane, namespace) as made:
        yield made


def write_status_as_operator(stage, pod, status):
    """What the operator would have written just before it was killed."""
    document = {
        "apiVersion": API_VERSION,
        "kind": "SocketHealth",
        "metadata": {"name": pod, "namespace": stage.namespace},
        "status": status,
    }
    stage.cluster.apply(document, manager=OPERATOR_FIELD_MANAGER, subresource="status")


def raised_status(since, state="Active", state_since=None):
    finding = {
        "type": "CloseWaitLeak",
        "severity": "Warning",
        "since": format_time(since),
        "policy": "stage",
        "policyKind": "SocketHealthPolicy",
        "rule": "leak",
        "mode": "Enforce",
        "value": 200,
        "message": "pod holds 200 CLOSE_WAIT",
    }
    evaluation = {
        "policyKind": "SocketHealthPolicy",
        "policy": "stage",
        "rule": "leak",
        "state": state,
        "since": format_time(since if state_since is None else state_since),
        "raised": format_time(since),
    }
    return {"health": "Warning", "findings": [finding], "evaluation": [evaluation]}


def finish_a_finding(stage, operator, name):
    """Raise a finding on another workload and wait for its last Event: by then what came before is done too."""
    (pod,) = stage.deployment(name)
    stage.report(pod, close_wait=200)
    stage.wait(lambda: len(stage.events("Deployment", name, "CloseWaitLeak")) == 1, f"the Event of {name}", operator)


def test_a_restart_in_the_middle_of_for_neither_loses_nor_repeats_the_time(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy(rule={"for": "8s"})
    stage.report(pod, close_wait=200)

    def pending():
        return [s for s in stage.status(pod).get("evaluation", []) if s["state"] == "Pending"]

    stage.wait(lambda: pending() != [], "the rule to be pending", operator)
    began = parse_time(pending()[0]["since"])
    operator.kill()
    assert stage.finding_types(pod) == []
    operator.start()
    back = time.time()
    stage.wait(lambda: stage.events("Deployment", "web", "CloseWaitLeak") != [], "the Event", operator)
    since = parse_time(stage.status(pod)["findings"][0]["since"])
    due = max(began + 8, back)
    assert began + 8 - 1 <= since <= due + 4, (
        f"raised {since - began:.0f} s after it began, due after {due - began:.0f}"
    )
    assert len(stage.events("Pod", pod, "CloseWaitLeak")) == 1


def test_a_restart_while_a_finding_is_active_repeats_nothing(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.events("Deployment", "web", "CloseWaitLeak") != [], "the Event", operator)
    before = stage.status(pod)["findings"]
    version = stage.get("deployment", "web")["metadata"]["resourceVersion"]
    operator.kill()
    operator.start()
    finish_a_finding(stage, operator, "other")
    assert len(stage.events("Deployment", "web", "CloseWaitLeak")) == 1
    assert len(stage.events("Pod", pod, "CloseWaitLeak")) == 1
    assert stage.events("Pod", pod, "CloseWaitLeakCleared") == []
    assert stage.status(pod)["findings"] == before
    assert stage.get("deployment", "web")["metadata"]["resourceVersion"] == version, "the annotation was written again"


def test_killed_between_status_and_event_the_event_is_made_up_for(stage, control_plane, tmp_path):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    write_status_as_operator(stage, pod, raised_status(time.time() - 60))
    with running_operator(control_plane, tmp_path) as operator:
        stage.wait(lambda: len(stage.events("Deployment", "web", "CloseWaitLeak")) == 1, "its Event", operator)
        stage.wait(lambda: len(stage.events("Pod", pod, "CloseWaitLeak")) == 1, "the pod's Event", operator)
        assert stage.entries("deployment", "web")[0]["pods"] == 1


def test_a_finding_that_is_older_than_its_event_would_be_is_not_told_of_again(stage, control_plane, tmp_path):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    write_status_as_operator(stage, pod, raised_status(time.time() - 3 * 3600))
    with running_operator(control_plane, tmp_path) as operator:
        stage.wait(lambda: stage.entries("deployment", "web") != [], "the annotation", operator)
        finish_a_finding(stage, operator, "other")
        assert stage.events("Deployment", "web", "CloseWaitLeak") == []
        assert stage.events("Pod", pod, "CloseWaitLeak") == []


def test_killed_while_clearing_it_is_cleared_once(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.events("Deployment", "web", "CloseWaitLeak") != [], "the Event", operator)
    active = stage.status(pod)
    annotations = stage.annotations("deployment", "web")
    stage.report(pod, close_wait=0)
    stage.wait(lambda: stage.events("Deployment", "web", "CloseWaitLeakCleared") != [], "the end of it", operator)
    stage.wait(lambda: stage.annotations("deployment", "web") == {}, "the annotations to go", operator)
    operator.kill()

    # As if it had been killed after the Events, before status and annotations.
    since = parse_time(active["findings"][0]["since"])
    status = raised_status(since, "Clearing", state_since=since + 1) | {"findings": active["findings"]}
    write_status_as_operator(stage, pod, status)
    stage.cluster.merge("deployment", "web", {"metadata": {"annotations": annotations}}, namespace=stage.namespace)
    operator.start()
    stage.wait(lambda: stage.finding_types(pod) == [], "the finding to go", operator)
    stage.wait(lambda: stage.annotations("deployment", "web") == {}, "the annotations to go", operator)
    assert len(stage.events("Deployment", "web", "CloseWaitLeakCleared")) == 1
    assert len(stage.events("Pod", pod, "CloseWaitLeakCleared")) == 1


def test_an_annotation_that_outlived_its_finding_is_removed_at_the_start(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.entries("deployment", "web") != [], "the annotation", operator)
    operator.kill()
    stage.cluster.delete("sockethealth", pod, namespace=stage.namespace, wait=True)
    operator.start()
    stage.wait(lambda: stage.annotations("deployment", "web") == {}, "the annotations to go", operator)


def test_a_policy_deleted_while_the_operator_is_down_takes_its_findings_with_it(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.entries("deployment", "web") != [], "the annotation", operator)
    operator.kill()
    stage.cluster.delete("sockethealthpolicy", "stage", namespace=stage.namespace, wait=True)
    operator.start()
    stage.wait(lambda: stage.finding_types(pod) == [], "the finding to go", operator)
    stage.wait(lambda: stage.annotations("deployment", "web") == {}, "the annotations to go", operator)


def test_a_recreated_workload_of_the_same_name_is_not_given_the_old_ones_annotations(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.entries("deployment", "web") != [], "the annotation", operator)
    stage.cluster.kubectl("delete", "deployment", "web", "-n", stage.namespace, "--cascade=orphan")
    document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "new"}},
            "template": {"metadata": {"labels": {"app": "new"}}, "spec": stage.get("pods", pod)["spec"]},
        },
    }
    stage.apply(document)
    stage.report(pod, close_wait=300)
    finish_a_finding(stage, operator, "other")
    assert stage.annotations("deployment", "web") == {}


@pytest.mark.timeout(180)
def test_an_api_server_that_is_away_is_waited_for_and_nothing_is_lost(stage, control_plane, tmp_path):
    if not isinstance(control_plane, OwnCluster):
        skip_or_fail("The keys of the API server are missing: a way to it that can be cut needs them.")
    with gate(control_plane.server, control_plane.directory.pki) as ways:
        way = ways.way()
        kubeconfig = way.kubeconfig(tmp_path / "operator.kubeconfig", control_plane.admin_token)
        with running_operator(control_plane, tmp_path, kubeconfig) as operator:
            survives_an_outage(stage, operator, way)


def survives_an_outage(stage, operator, way):
    (pod,) = stage.deployment("web")
    (other,) = stage.deployment("other")
    stage.policy(rule={"for": "6s"})
    stage.report(other, close_wait=200)
    stage.wait(lambda: stage.entries("deployment", "other") != [], "the annotation of the other", operator)
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.status(pod).get("evaluation", []) != [], "the rule to be pending", operator)
    began = parse_time(stage.status(pod)["evaluation"][0]["since"])

    way.go_away()
    stage.wait(lambda: "does not answer" in operator.log_text(), "the operator to notice", operator)
    back = max(began + 6, time.time() + OUTAGE_SECONDS)
    # The length of the outage is what is tested: the finding is due in it, while nobody can write it down.
    until(lambda: time.time() > back, "the outage to be over", seconds=OUTAGE_SECONDS + 30)
    way.come_back()
    # At once, while the operator's watches are still down: it hears of it from its own comparison only.
    stage.cluster.delete("sockethealth", other, namespace=stage.namespace, wait=True)
    stage.wait(lambda: len(stage.events("Deployment", "web", "CloseWaitLeak")) == 1, "the finding", operator)
    stage.wait(lambda: stage.annotations("deployment", "other") == {}, "the other's annotation to go", operator)
    assert len(stage.events("Pod", pod, "CloseWaitLeak")) == 1
    assert stage.status(pod)["health"] == "Warning"
    lines = [line["message"] for line in operator.log_lines("sockethealth_operator.api")]
    assert sum("does not answer" in line for line in lines) == 1, lines
    assert sum("answers again" in line for line in lines) == 1, lines
    noise = [line["message"] for line in operator.log_lines("kopf") if "ClientConnector" in line["message"]]
    assert noise == []
