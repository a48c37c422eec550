"""The node of the harness: pods run as in a real cluster, and nothing of it outlives a killed run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import hostchanges, network, processes, sweep
from harness.cluster import OwnCluster
from harness.images import PAUSE_IMAGE
from harness.state import ClusterDir, clusters_lock, state_root
from harness.waiting import until

pytestmark = pytest.mark.node
TESTS = Path(__file__).parents[1]


def _pod(name, image, *command):
    container = {"name": "main", "image": image, "command": list(command)}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


@pytest.fixture
def pod(cluster_node, namespace):
    cluster_node.kubectl(
        "apply", "-n", namespace, "-f", "-", input=_pod("idle", cluster_node.workload_image, "sleep", "inf")
    )
    cluster_node.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/idle", "--timeout=60s", timeout=70)
    return "idle"


@pytest.fixture
def own_node(no_node_yet):
    """A node in a process of its own; its Popen and its cluster."""
    directory = ClusterDir(state_root() / f"killed-{os.getpid()}")
    with subprocess.Popen(
        [sys.executable, "-m", "harness", "up", "node", "--name", directory.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    ) as run:
        try:
            assert run.stdout.readline().startswith("export KUBECONFIG=")
            yield run, OwnCluster(directory)
        finally:
            run.kill()
    sweep.sweep(directory)


def _traces():
    """What a node leaves on a machine if nobody takes it away."""
    chains = "".join(hostchanges.rules_without_ours(processes.run([f"{t}-save"], t)) for t in ("iptables", "ip6tables"))
    return {
        "sysctls": {name: hostchanges._sysctl_file(name).read_text() for name in WRITTEN_SYSCTLS},
        "cgroups of pods": hostchanges._kubepods(),
        "bridge": Path(f"/sys/class/net/{network.BRIDGE}").exists(),
        "address": network.API_ADDRESS in processes.run(["ip", "addr", "show", "dev", "lo"], "ip"),
        "packet filter": chains,
        "mounts": hostchanges.mounts_below(state_root()),
        "folders": [path for path in hostchanges._PATHS if Path(path).exists()],
    }


# Written by kubelet (vm and kernel ones) and by the node for its pods.
WRITTEN_SYSCTLS = ("vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "net.ipv4.ip_forward")


@pytest.fixture
def traces_before(no_node_yet):
    # What an earlier killed run left would be taken for the machine's own state, and go while this test looks.
    with clusters_lock():
        sweep.sweep_leftovers()
    return _traces()


def test_nothing_of_a_node_outlives_a_killed_run(traces_before, own_node):
    run, cluster = own_node
    cluster.kubectl("apply", "-f", "-", input=_pod("idle", PAUSE_IMAGE, "/pause"))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/idle", "--timeout=60s", timeout=70)
    during = _traces()
    unchanged = [name for name, trace in during.items() if trace == traces_before[name]]
    assert unchanged == [], "a node that changes nothing makes this test prove nothing"

    run.send_signal(signal.SIGKILL)

    until(lambda: not cluster.directory.path.exists(), "the state of the killed run to be gone", seconds=30)
    assert processes.marked(cluster.directory) == {}
    assert _traces() == traces_before


def test_a_pod_reaches_the_api_server_through_its_service(cluster_node, namespace, pod):
    program = (
        "import os, ssl, urllib.request as r\n"
        "url = f\"https://{os.environ['KUBERNETES_SERVICE_HOST']}/healthz\"\n"
        "ca = '/var/run/secrets/kubernetes.io/serviceaccount/ca.crt'\n"
        "print(r.urlopen(url, context=ssl.create_default_context(cafile=ca), timeout=10).read().decode())\n"
    )
    assert cluster_node.exec(namespace, pod, "python3", "-", input=program).strip() == "ok"


def test_a_pod_has_a_network_namespace_and_an_address_of_its_own(cluster_node, namespace, pod):
    address = cluster_node.get("pod", pod, "-n", namespace)["status"]["podIP"]
    assert address.startswith(network.POD_CIDR.rpartition(".")[0])
    inside = cluster_node.exec(namespace, pod, "readlink", "/proc/self/ns/net").strip()
    assert inside != str(Path("/proc/self/ns/net").readlink())


SAVED = """\
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:MINE - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j MINE
-A KUBE-SERVICES -d 10.0.0.1/32 -j RETURN
-A MINE -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p tcp -m comment --comment "mentions KUBE-SERVICES" -j ACCEPT
COMMIT
"""


def test_only_the_nodes_own_chains_are_removed_from_the_packet_filter():
    assert hostchanges.rules_without_ours(SAVED) == (
        "*nat\n"
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
        "-F KUBE-SERVICES\n"
        "-X KUBE-SERVICES\n"
        "COMMIT\n"
    )
