"""Findings of a running operator: raised, told of, cleared, on workloads of every kind."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.reading import NotThereError
from operator_lab import Stage, pod_template, running_operator

pytestmark = pytest.mark.api


@pytest.fixture(scope="module")
def operator(control_plane, crds, tmp_path_factory):
    with running_operator(control_plane, tmp_path_factory.mktemp("operator")) as process:
        yield process


@pytest.fixture
def stage(control_plane, namespace, operator):
    with Stage.set_up(control_plane, namespace) as made:
        yield made


def test_a_leak_is_found_told_of_once_and_taken_back(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.entries("deployment", "web") != [], "the Deployment's annotation", operator)
    stage.wait(lambda: stage.events("Deployment", "web", "CloseWaitLeak") != [], "the Deployment's Event", operator)

    status = stage.status(pod)
    assert status["health"] == "Warning"
    (finding,) = status["findings"]
    assert (finding["type"], finding["value"], finding["policy"]) == ("CloseWaitLeak", 200, "stage")
    assert status["sockets"]["closeWait"] == 200, "the agent's facts were touched"

    (entry,) = stage.entries("deployment", "web")
    assert (entry["type"], entry["severity"], entry["pods"], entry["pod"]) == ("CloseWaitLeak", "Warning", 1, pod)
    assert stage.annotations("deployment", "web")["sockethealth.io/health"] == "Warning"
    template = stage.get("deployment", "web")["spec"]["template"]["metadata"]
    assert "annotations" not in template, "the pod template was touched: that restarts the workload"

    (on_pod,) = stage.events("Pod", pod, "CloseWaitLeak")
    assert on_pod["type"] == "Warning"
    assert on_pod["reportingController"] == "sockethealth.io/operator"
    assert on_pod["note"].startswith(f"pod {stage.namespace}/{pod} holds 200 CLOSE_WAIT")
    (on_workload,) = stage.events("Deployment", "web", "CloseWaitLeak")
    assert on_workload["related"]["name"] == pod

    stage.report(pod, close_wait=0)
    stage.wait(lambda: stage.events("Deployment", "web", "CloseWaitLeakCleared") != [], "the end of it", operator)
    stage.wait(lambda: stage.annotations("deployment", "web") == {}, "the annotations to go", operator)
    (cleared,) = stage.events("Pod", pod, "CloseWaitLeakCleared")
    assert cleared["type"] == "Normal"
    assert "has cleared after" in cleared["note"]
    assert stage.status(pod)["health"] == "Healthy"
    assert stage.status(pod)["findings"] == []


def test_a_workload_is_told_of_once_however_many_pods_it_has(stage, operator):
    pods = stage.deployment("web", replicas=3)
    stage.policy()
    for pod in pods:
        stage.report(pod, close_wait=100)
    stage.wait(lambda: [e["pods"] for e in stage.entries("deployment", "web")] == [3], "three pods", operator)
    for pod in pods:
        stage.wait(lambda pod=pod: len(stage.events("Pod", pod, "CloseWaitLeak")) == 1, f"the Event on {pod}", operator)
    assert len(stage.events("Deployment", "web", "CloseWaitLeak")) == 1

    stage.report(pods[0], close_wait=0)
    stage.wait(lambda: [e["pods"] for e in stage.entries("deployment", "web")] == [2], "two pods", operator)
    assert stage.events("Deployment", "web", "CloseWaitLeakCleared") == []


def test_a_service_is_named_where_a_person_would_see_an_address(stage, operator):
    service = {"ports": [{"port": 6379}], "selector": {"app": "redis"}}
    stage.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "redis"}, "spec": service})
    address = stage.get("service", "redis")["spec"]["clusterIP"]
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200, peer=address)
    stage.wait(lambda: stage.finding_types(pod) != [], "the finding", operator)
    (finding,) = stage.status(pod)["findings"]
    assert finding["target"]["name"] == f"Service {stage.namespace}/redis"
    assert f"Service {stage.namespace}/redis ({address}:6379)" in finding["message"]


@pytest.mark.parametrize("kind", ["statefulset", "job", "cronjob", "daemonset", "widget"])
def test_the_top_level_workload_of_any_kind_is_annotated(stage, operator, kind, request):
    pod = request.getfixturevalue(f"pod_of_{kind}")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.entries(kind, "work") != [], f"the annotation of the {kind}", operator)
    stage.report(pod, close_wait=0)
    stage.wait(lambda: stage.annotations(kind, "work") == {}, "it to go again", operator)


@pytest.fixture
def pod_of_statefulset(stage):
    spec = {"serviceName": "work", "selector": {"matchLabels": {"app": "work"}}, "template": pod_template("work")}
    stage.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "work"}, "spec": spec})
    return stage.pods_of("work")[0]


@pytest.fixture
def pod_of_job(stage):
    template = pod_template("work")
    template["spec"]["restartPolicy"] = "Never"
    stage.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"}, "spec": {"template": template}})
    return stage.pods_of("work")[0]


@pytest.fixture
def pod_of_cronjob(stage):
    template = pod_template("work")
    template["spec"]["restartPolicy"] = "Never"
    spec = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}}
    stage.apply({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "work"}, "spec": spec})
    stage.cluster.kubectl("create", "job", "once", "--from=cronjob/work", "-n", stage.namespace)
    return stage.pods_of("work")[0]


@pytest.fixture
def pod_of_daemonset(stage):
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": stage.node, "labels": {"stage": stage.node}}}
    stage.apply(node)
    template = pod_template("work")
    template["spec"]["nodeSelector"] = {"stage": stage.node}
    spec = {"selector": {"matchLabels": {"app": "work"}}, "template": template}
    stage.apply({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "work"}, "spec": spec})
    yield stage.pods_of("work")[0]
    stage.cluster.delete("node", stage.node)


@pytest.fixture
def pod_of_widget(stage):
    stage.apply(widget_definition())
    stage.cluster.kubectl("wait", "--for=condition=Established", "--timeout=20s", "crd/widgets.stage.example.com")
    document = {"apiVersion": "stage.example.com/v1", "kind": "Widget", "metadata": {"name": "work"}}
    stage.wait(lambda: _accepted(stage, document), "widgets to be served")
    uid = stage.get("widget", "work")["metadata"]["uid"]
    owner = {"apiVersion": "stage.example.com/v1", "kind": "Widget", "name": "work", "uid": uid, "controller": True}
    return stage.pod("work-1", owner)


def _accepted(stage, document):
    try:
        stage.apply(document)
    except NotThereError:
        return False
    return True


def widget_definition():
    schema = {"openAPIV3Schema": {"type": "object"}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.stage.example.com"},
        "spec": {
            "group": "stage.example.com",
            "scope": "Namespaced",
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def test_a_pod_without_an_owner_gets_its_event_and_its_annotation_where_asked_for(stage, operator):
    pod = stage.pod("alone")
    stage.policy(actions={"annotate": {"pod": True}})
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.entries("pod", pod) != [], "the pod's annotation", operator)
    stage.wait(lambda: len(stage.events("Pod", pod, "CloseWaitLeak")) == 1, "the pod's Event", operator)
    stage.report(pod, close_wait=0)
    stage.wait(lambda: stage.annotations("pod", pod) == {}, "the pod's annotation to go", operator)


@pytest.mark.parametrize(
    ("rule", "spec", "health"),
    [
        ({"severity": "Info"}, {}, "Healthy"),
        ({}, {"mode": "Audit"}, "Warning"),
        ({}, {"actions": {"annotate": {"workload": False}, "event": {"enabled": False}}}, "Warning"),
    ],
    ids=["info", "audit", "no-actions"],
)
def test_what_nobody_is_told_of_still_shows_in_status(stage, operator, rule, spec, health):
    (pod,) = stage.deployment("web")
    stage.policy(rule=rule, **spec)
    stage.policy("loud", rule={"name": "later", "for": "3s", "severity": "Critical"}, podSelector={})
    stage.report(pod, close_wait=200)
    stage.wait(lambda: len(stage.finding_types(pod)) == 1, "the first finding", operator)
    assert stage.status(pod)["health"] == health
    # Once the second policy's Event is there, the first one's would be there too.
    stage.wait(lambda: len(stage.events("Deployment", "web", "CloseWaitLeak")) == 1, "the other's Event", operator)
    assert [entry["policy"] for entry in stage.entries("deployment", "web")] == ["loud"]
    assert len(stage.events("Pod", pod, "CloseWaitLeak")) == 1


def test_a_finding_goes_with_its_policy(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.entries("deployment", "web") != [], "the annotation", operator)
    stage.cluster.delete("sockethealthpolicy", "stage", namespace=stage.namespace, wait=True)
    stage.wait(lambda: stage.events("Deployment", "web", "CloseWaitLeakCleared") != [], "the end of it", operator)
    stage.wait(lambda: stage.annotations("deployment", "web") == {}, "the annotations to go", operator)
    assert stage.finding_types(pod) == []
    assert stage.status(pod)["evaluation"] == []


def test_a_policy_turned_to_audit_takes_its_annotation_back_and_calls_nothing_cleared(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.events("Deployment", "web", "CloseWaitLeak") != [], "the Event", operator)
    stage.policy(mode="Audit")
    stage.wait(lambda: stage.annotations("deployment", "web") == {}, "the annotations to go", operator)
    assert stage.finding_types(pod) == [("CloseWaitLeak", "Warning")]
    assert stage.events("Deployment", "web", "CloseWaitLeakCleared") == []
    assert stage.events("Pod", pod, "CloseWaitLeakCleared") == []


def test_the_annotation_goes_when_the_last_pod_with_the_finding_is_deleted(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.entries("deployment", "web") != [], "the annotation", operator)
    stage.cluster.delete("sockethealth", pod, namespace=stage.namespace, wait=True)
    stage.wait(lambda: stage.annotations("deployment", "web") == {}, "the annotations to go", operator)


def test_a_worse_finding_of_the_same_thing_is_told_of_too(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=60)
    stage.wait(lambda: len(stage.events("Pod", pod, "CloseWaitLeak")) == 1, "the Warning", operator)
    stage.policy(rule={"severity": "Critical"})
    stage.wait(lambda: stage.finding_types(pod) == [("CloseWaitLeak", "Critical")], "Critical", operator)
    stage.wait(lambda: len(stage.events("Pod", pod, "CloseWaitLeak")) == 2, "the second Event", operator)
    stage.wait(
        lambda: [entry["severity"] for entry in stage.entries("deployment", "web")] == ["Critical"],
        "the annotation to say so",
        operator,
    )


def conditions(stage, name="stage", kind="sockethealthpolicy"):
    found = stage.get(kind, name).get("status", {}).get("conditions", [])
    return {condition["type"]: condition for condition in found}


def test_a_policy_says_whether_it_is_in_force(stage, operator):
    stage.policy()
    stage.wait(lambda: "Ready" in conditions(stage), "conditions", operator)
    found = conditions(stage)
    assert (found["Accepted"]["status"], found["Accepted"]["reason"]) == ("True", "Valid")
    assert found["Ready"]["status"] == "True"
    assert found["Ready"]["observedGeneration"] == 1


def test_a_missing_profile_is_named_until_it_is_there(stage, operator):
    profile = f"profile-{stage.node}"
    stage.policy(actions={"sysctlProfile": profile})
    stage.wait(lambda: "ProfileResolved" in conditions(stage), "conditions", operator)
    missing = conditions(stage)["ProfileResolved"]
    assert (missing["status"], missing["reason"]) == ("False", "ProfileNotFound")
    assert missing["message"] == (
        f"SysctlProfile '{profile}' does not exist: create it or remove actions.sysctlProfile"
    )
    sysctls = [{"name": "net.ipv4.tcp_fin_timeout", "value": "30"}]
    stage.apply(
        {
            "apiVersion": "sockethealth.io/v1alpha1",
            "kind": "SysctlProfile",
            "metadata": {"name": profile},
            "spec": {"target": "Node", "sysctls": sysctls},
        }
    )
    stage.wait(lambda: conditions(stage)["ProfileResolved"]["status"] == "True", "the profile to be seen", operator)
    stage.cluster.delete("sysctlprofile", profile, wait=True)
    stage.wait(lambda: conditions(stage)["ProfileResolved"]["status"] == "False", "its absence to be seen", operator)


def test_an_invalid_policy_says_why_and_does_not_stop_the_others(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy("wrong", rule={"parameters": {"minAge": "soon"}})
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.finding_types(pod) == [("CloseWaitLeak", "Warning")], "the other's finding", operator)
    stage.wait(lambda: "Accepted" in conditions(stage, "wrong"), "conditions", operator)
    refused = conditions(stage, "wrong")["Accepted"]
    assert (refused["status"], refused["reason"]) == ("False", "Invalid")
    assert refused["message"].startswith("rule 'leak': parameter minAge: 'soon' is not a duration: write a number")
    assert conditions(stage, "wrong")["Ready"]["status"] == "False"


def test_agents_are_told_which_values_matter(stage, operator):
    stage.policy(rule={"threshold": 77, "clearThreshold": 33, "parameters": {"minAge": "90s"}})

    def values():
        points = stage.cluster.get("nodesockethealth", stage.node).get("spec", {}).get("watchpoints", [])
        return [p["values"] for p in points if p.get("parameters") == {"minAge": "90s"}]

    stage.wait(lambda: values() == [[33, 77]], "the watchpoints", operator)
    stage.cluster.delete("sockethealthpolicy", "stage", namespace=stage.namespace, wait=True)
    stage.wait(lambda: values() == [], "the watchpoints to go", operator)


def test_an_agent_that_falls_silent_makes_its_pods_unknown_and_nothing_clears(stage, operator):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=200)
    stage.wait(lambda: stage.finding_types(pod) != [], "the finding", operator)
    stage.heartbeat(interval_seconds=1)
    stage.wait(lambda: stage.status(pod)["health"] == "Unknown", "Unknown", operator)
    stage.report(pod, close_wait=0)
    assert stage.finding_types(pod) == [("CloseWaitLeak", "Warning")]
    stage.heartbeat()
    stage.wait(lambda: stage.status(pod)["health"] == "Healthy", "the facts to be judged again", operator)
    assert stage.finding_types(pod) == []


def test_a_cluster_policy_selects_by_namespace(stage, operator):
    (pod,) = stage.deployment("web")
    name = f"of-{stage.namespace}"
    rule = {"name": "leak", "detector": "CloseWaitLeak", "threshold": 50, "for": "0s", "parameters": {"minAge": "0s"}}
    selector = {"matchLabels": {"team": stage.namespace}}
    stage.apply(
        {
            "apiVersion": "sockethealth.io/v1alpha1",
            "kind": "ClusterSocketHealthPolicy",
            "metadata": {"name": name},
            "spec": {"namespaceSelector": selector, "rules": [rule | {"clearThreshold": 10}]},
        }
    )
    try:
        stage.report(pod, close_wait=200)
        stage.wait(lambda: stage.status(pod).get("health") == "Healthy", "a first judgement", operator)
        stage.cluster.merge("namespace", stage.namespace, {"metadata": {"labels": {"team": stage.namespace}}})
        stage.wait(lambda: stage.finding_types(pod) == [("CloseWaitLeak", "Warning")], "the finding", operator)
    finally:
        stage.cluster.delete("clustersockethealthpolicy", name, wait=True)


def test_a_healthy_cluster_is_quiet(stage, operator):
    (pod,) = stage.deployment("web")
    stage.report(pod, close_wait=0)
    stage.wait(lambda: stage.status(pod).get("health") == "Healthy", "a judgement", operator)
    version = stage.get("sockethealth", pod)["metadata"]["resourceVersion"]
    written = operator.metric('sockethealth_operator_writes_total{what="status"}')
    for _ in range(3):
        stage.heartbeat()
    stage.wait(lambda: operator.metric("sockethealth_operator_queue_keys") == 0, "the queue to be empty")
    assert stage.get("sockethealth", pod)["metadata"]["resourceVersion"] == version
    assert operator.metric('sockethealth_operator_writes_total{what="status"}') == written


def test_the_command_line_refuses_what_it_does_not_understand():
    program = Path(sys.executable).parent / "sockethealth-operator"
    wrong = subprocess.run([program, "run", "--resync", "5 minutes"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "'5 minutes' is not a duration: write a number and a unit, such as 30s, 2m or 1h30m" in wrong.stderr
