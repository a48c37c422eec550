"""The operator's other commands, and what it may do with no more rights than it needs."""

import base64
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from operator_lab import OperatorProcess, Stage, running_operator

pytestmark = pytest.mark.api

OURS = ["sockethealths", "nodesockethealths", "sockethealthpolicies", "clustersockethealthpolicies", "sysctlprofiles"]
RULES = [
    {"apiGroups": ["sockethealth.io"], "resources": OURS, "verbs": ["list", "watch"]},
    {
        "apiGroups": ["sockethealth.io"],
        "resources": ["nodesockethealths", *(f"{name}/status" for name in OURS)],
        "verbs": ["patch"],
    },
    {"apiGroups": [""], "resources": ["namespaces", "nodes", "services"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "patch"]},
    {
        "apiGroups": ["apps"],
        "resources": ["deployments", "statefulsets", "daemonsets", "replicasets"],
        "verbs": ["get", "list", "patch"],
    },
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "patch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "patch"]},
]
"""What the operator needs, but for CronJobs: those stand for a kind that nobody has granted."""


def run_command(control_plane, *arguments):
    program = Path(sys.executable).parent / "sockethealth-operator"
    return subprocess.run(
        [program, *arguments, f"--kubeconfig={control_plane.kubeconfig}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def stage(control_plane, crds, namespace):
    with Stage.set_up(control_plane, namespace) as made:
        yield made


def test_cleanup_removes_every_annotation_and_says_how_many(stage, control_plane, tmp_path):
    (pod,) = stage.deployment("web")
    stage.policy(actions={"annotate": {"workload": True, "pod": True}})
    with running_operator(control_plane, tmp_path) as operator:
        stage.report(pod, close_wait=200)
        stage.wait(lambda: stage.entries("deployment", "web") != [], "the annotation", operator)
        stage.wait(lambda: stage.entries("pod", pod) != [], "the pod's annotation", operator)
    team = {"metadata": {"annotations": {"team": "shop"}}}
    stage.cluster.merge("deployment", "web", team, namespace=stage.namespace)
    done = run_command(control_plane, "cleanup", "--timeout=30s")
    assert (done.returncode, done.stderr) == (0, "")
    count = re.fullmatch(r"Annotations removed from (\d+) objects\.\n", done.stdout)
    assert count is not None, done.stdout
    assert int(count[1]) >= 2, "other tests may have left some, but these two are there"
    assert stage.annotations("deployment", "web") == {}
    assert stage.annotations("pod", pod) == {}
    assert stage.get("deployment", "web")["metadata"]["annotations"]["team"] == "shop"


def test_cleanup_deletes_the_agents_reports_when_asked_and_keeps_what_people_wrote(stage, control_plane):
    (pod,) = stage.deployment("web")
    stage.policy()
    stage.report(pod, close_wait=3)
    assert run_command(control_plane, "cleanup").returncode == 0
    assert stage.cluster.get("sockethealths", "-n", stage.namespace)["items"] != []
    done = run_command(control_plane, "cleanup", "--delete-reports")
    assert (done.returncode, done.stderr) == (0, "")
    assert stage.cluster.get("sockethealths,nodesockethealths", "-A")["items"] == []
    assert stage.cluster.get("sockethealthpolicies", "-n", stage.namespace)["items"] != []


def test_cleanup_deletes_what_would_annotate_again_and_waits_until_it_is_gone(stage, control_plane):
    stage.deployment("operator")
    missing = f"--delete-daemonset={stage.namespace}/none"
    done = run_command(control_plane, "cleanup", f"--delete-deployment={stage.namespace}/operator", missing)
    assert done.returncode == 0, done.stderr
    assert stage.cluster.get("deployments", "-n", stage.namespace)["items"] == []
    assert stage.cluster.get("pods", "-n", stage.namespace)["items"] == []


def test_cleanup_deletes_the_lease_that_operators_have_taken(stage, control_plane, tmp_path):
    lease = f"{stage.namespace}/operator"
    operator = OperatorProcess(control_plane.kubeconfig, tmp_path / "operator.log", lease=lease)
    operator.start()
    try:
        stage.wait(operator.leads, "it to lead", operator)
    finally:
        operator.stop()
    assert stage.get("lease", "operator")["metadata"]["name"] == "operator"
    for _ in range(2):
        done = run_command(control_plane, "cleanup", f"--delete-lease={lease}")
        assert (done.returncode, done.stderr) == (0, "")
        assert stage.cluster.get("leases", "-n", stage.namespace)["items"] == []


def test_cleanup_that_is_not_done_in_time_says_so(stage, control_plane):
    stage.deployment("stuck")
    pause = ["-n", stage.namespace, "deployment", "stuck", "--type=merge", "-p"]
    stage.cluster.kubectl("patch", *pause, '{"metadata":{"finalizers":["stage.example.com/wait"]}}')
    done = run_command(control_plane, "cleanup", f"--delete-deployment={stage.namespace}/stuck", "--timeout=2s")
    stage.cluster.kubectl("patch", *pause, '{"metadata":{"finalizers":null}}')
    assert done.returncode == 1
    assert "Not done within 2 s" in done.stderr


def test_definitions_are_applied_and_applying_them_again_changes_nothing(crds, control_plane):
    first = run_command(control_plane, "apply-crds")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == [f"{name}.sockethealth.io applied" for name in OURS]
    name = "sockethealths.sockethealth.io"
    version = control_plane.get("crd", name)["metadata"]["resourceVersion"]
    assert run_command(control_plane, "apply-crds").returncode == 0
    assert control_plane.get("crd", name)["metadata"]["resourceVersion"] == version


def test_without_an_api_server_a_command_says_so_in_a_sentence(tmp_path):
    nowhere = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:9"}}],
        "users": [{"name": "x", "user": {"token": "x"}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(nowhere))
    program = Path(sys.executable).parent / "sockethealth-operator"
    done = subprocess.run(
        [program, "apply-crds", f"--kubeconfig={file}"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "The API server does not answer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def restricted(stage, control_plane, tmp_path):
    """A kubeconfig of a service account with just the rules above."""
    name = f"operator-{stage.namespace}"
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}}
    stage.cluster.kubectl("create", "serviceaccount", "operator", "-n", stage.namespace)
    stage.apply(role | {"rules": RULES})
    account = f"--serviceaccount={stage.namespace}:operator"
    stage.cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", account)
    authority = base64.b64encode(control_plane.ca_file.read_bytes()).decode()
    token = control_plane.token_for("operator", stage.namespace)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [
            {"name": "x", "cluster": {"server": control_plane.server, "certificate-authority-data": authority}}
        ],
        "users": [{"name": "x", "user": {"token": token}}],
    }
    file = tmp_path / "restricted.kubeconfig"
    file.write_text(yaml.safe_dump(config))
    yield file
    stage.cluster.kubectl("delete", "clusterrolebinding,clusterrole", name)


def test_with_the_documented_rights_alone_it_works_and_names_the_one_it_lacks(stage, restricted, tmp_path):
    template = {"metadata": {"labels": {"app": "work"}}, "spec": _pod_spec() | {"restartPolicy": "Never"}}
    spec = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}}
    stage.apply({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "work"}, "spec": spec})
    stage.cluster.kubectl("create", "job", "once", "--from=cronjob/work", "-n", stage.namespace)
    (pod,) = stage.pods_of("work")
    stage.policy()
    operator = OperatorProcess(restricted, tmp_path / "operator.log", lease=f"{stage.namespace}/operator")
    operator.start()
    try:
        stage.report(pod, close_wait=200)
        stage.wait(lambda: stage.entries("job", "once") != [], "the annotation of the highest owner in reach", operator)
        stage.wait(lambda: len(stage.events("Job", "once", "CloseWaitLeak")) == 1, "its Event", operator)
        stage.wait(lambda: stage.finding_types(pod) == [("CloseWaitLeak", "Warning")], "the finding", operator)
        assert stage.annotations("cronjob", "work") == {}
        assert "May not get cronjobs.batch" in operator.log_text()
        assert "grant the operator's service account get and patch on cronjobs.batch" in operator.log_text()
    finally:
        operator.stop()


def _pod_spec():
    return {
        "nodeSelector": {"sockethealth.io/no-such-node": "true"},
        "containers": [{"name": "main", "image": "none.invalid/none:1"}],
    }
