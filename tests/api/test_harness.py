"""The harness itself: what it hands out works, and nothing outlives a killed run."""

import os
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from kubernetes import client

from harness import processes, sweep
from harness.cluster import OwnCluster
from harness.errors import HarnessError
from harness.reading import NotThereError
from harness.state import ClusterDir, clusters_lock, state_root
from harness.waiting import until

pytestmark = pytest.mark.api
TESTS = Path(__file__).parents[1]


def test_kubectl_and_the_python_client_see_the_same_cluster(control_plane, namespace):
    with_kubectl = control_plane.get("namespace", namespace)["metadata"]["uid"]
    with_client = client.CoreV1Api(control_plane.client()).read_namespace(namespace).metadata.uid
    assert with_kubectl == with_client


def test_a_failing_kubectl_raises_what_the_server_said(control_plane):
    with pytest.raises(HarnessError, match='namespaces "no-such" not found'):
        control_plane.kubectl("get", "namespace", "no-such")


def config_map(**data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "written"}, "data": data}


def test_objects_are_written_without_kubectl(control_plane, namespace):
    def data():
        return control_plane.get("configmap", "written", "-n", namespace)["data"]

    (trial,) = control_plane.add(config_map(a="1"), namespace=namespace, dry_run=True)
    assert trial["data"] == {"a": "1"}
    with pytest.raises(NotThereError, match='configmaps "written" not found'):
        data()
    control_plane.add(config_map(a="1"), namespace=namespace)
    with pytest.raises(HarnessError, match="already exists"):
        control_plane.add(config_map(a="1"), namespace=namespace)
    control_plane.apply(config_map(a="2", b="3"), namespace=namespace)
    control_plane.merge("ConfigMap", "written", {"data": {"c": "4"}}, namespace=namespace)
    assert data() == {"a": "2", "b": "3", "c": "4"}
    control_plane.apply(config_map(a="2"), namespace=namespace)
    assert data() == {"a": "2", "c": "4"}, "what was applied once, and is not again, goes"
    for write in (control_plane.add, control_plane.apply):
        with pytest.raises(HarnessError, match=r'unknown field "dat"|field not declared in schema'):
            write({**config_map(), "metadata": {"name": "other"}, "dat": {}}, namespace=namespace)
    finalizers = {"metadata": {"finalizers": ["example.com/wait"]}}
    control_plane.merge("configmap", "written", finalizers, namespace=namespace)
    control_plane.delete("configmap", "written", "never-there", namespace=namespace)
    assert data() == {"a": "2", "c": "4"}, "it is not waited for"
    control_plane.merge("configmap", "written", {"metadata": {"finalizers": None}}, namespace=namespace)
    control_plane.delete("configmap", "written", namespace=namespace, wait=True)
    with pytest.raises(NotThereError):
        data()


def test_a_service_account_token_has_only_that_accounts_rights(control_plane, namespace):
    token = control_plane.token_for("default", namespace)
    refused = control_plane.kubectl(
        "auth",
        "can-i",
        "list",
        "pods",
        "--token",
        token,
        "--kubeconfig",
        os.devnull,
        "--server",
        control_plane.server,
        "--certificate-authority",
        str(control_plane.ca_file),
        check=False,
    )
    assert refused.stdout.strip() == "no"


def test_certificates_pass_the_strict_checks_of_python_313(control_plane):
    context = ssl.create_default_context(cafile=str(control_plane.ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with opener.open(f"{control_plane.server}/healthz", timeout=5) as answer:
        assert answer.read() == b"ok"


def test_data_outlives_an_outage_of_the_api_server(control_plane, namespace):
    if not isinstance(control_plane, OwnCluster):
        pytest.skip("the API server of an existing cluster is not ours to stop")
    control_plane.kubectl("create", "configmap", "kept", "-n", namespace, "--from-literal=a=1")
    control_plane.stop_apiserver()
    try:
        assert control_plane.kubectl("get", "--raw", "/readyz", check=False).returncode != 0
    finally:
        control_plane.start_apiserver()
    assert control_plane.get("configmap", "kept", "-n", namespace)["data"] == {"a": "1"}


@pytest.fixture
def killed_run():
    """Brings up a control plane in a process of its own; ends it with SIGKILL, and its watchdog too if asked."""

    def bring_up_and_kill(*, watchdog_too):
        with subprocess.Popen(
            [sys.executable, "-m", "harness", "up", "control-plane", "--name", f"killed-{os.getpid()}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        ) as run:
            assert run.stdout.readline().startswith("export KUBECONFIG=")
            components = set(processes.marked(directory).values())
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            watchdogs = [pid for pid in map(int, children) if b"harness.watchdog" in _command_line(pid)]
            assert len(watchdogs) == 1
            if watchdog_too:
                os.kill(watchdogs[0], signal.SIGKILL)
            run.kill()
        assert components == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
        return directory

    directory = ClusterDir(state_root() / f"killed-{os.getpid()}")
    yield bring_up_and_kill
    sweep.sweep(directory)


def _command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_nothing_outlives_a_killed_run(killed_run):
    directory = killed_run(watchdog_too=False)
    until(lambda: not processes.marked(directory), "all processes of the killed run to be gone", seconds=20)
    until(lambda: not directory.path.exists(), "the state of the killed run to be gone", seconds=20)


def test_the_next_start_takes_away_what_a_run_left_that_was_killed_with_its_watchdog(killed_run):
    directory = killed_run(watchdog_too=True)
    assert processes.marked(directory)
    with clusters_lock():
        sweep.sweep_leftovers()
    assert not processes.marked(directory)
    assert not directory.path.exists()
