"""What is told of the node itself, where no pod shares its network."""

import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.cluster import OwnCluster
from harness.plugin import skip_or_fail
from harness.waiting import until

pytestmark = pytest.mark.node

LISTENERS = 300
OTHERS = 50
"""More than other tests, which run meanwhile on this machine, open or close within a few seconds."""


def _number(*path):
    return int(Path("/proc/sys/net", *path).read_text())


def test_the_nodes_sockets_and_limits_are_its_own_without_any_pod_on_its_network(product):
    cluster = product.cluster
    if not isinstance(cluster, OwnCluster):
        skip_or_fail("The node is missing on this machine: its own sockets are compared with ss.")

    def on_hosts_network():
        return [
            pod["metadata"]["name"]
            for pod in cluster.get("pods", "-A")["items"]
            if pod["spec"].get("hostNetwork") and "deletionTimestamp" not in pod["metadata"]
        ]

    until(lambda: not on_hosts_network(), "pods of earlier tests to go", seconds=60, poll_seconds=0.5)

    def status():
        return cluster.get("nodesockethealth", cluster.node_name).get("status", {})

    with ExitStack() as stack:
        for _ in range(LISTENERS):
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        listening = len(subprocess.run(["ss", "-tlnH"], capture_output=True, text=True, check=True).stdout.splitlines())
        # An agent reports as soon as it has started, and then once a heartbeat.
        cluster.kubectl("delete", "pod", "-n", product.namespace, product.pod_of("agent")["metadata"]["name"])
        until(
            lambda: abs(status().get("hostSockets", {}).get("listen", 0) - listening) < OTHERS,
            f"hostSockets to have the {listening} listeners of the node",
            seconds=60,
            poll_seconds=0.5,
            explain=product.logs,
        )
    product.await_agents()
    found = status()
    low, pressure, high = (int(word) for word in Path("/proc/sys/net/ipv4/tcp_mem").read_text().split())
    memory = found["tcpMemory"]
    assert (memory["low"], memory["pressure"], memory["high"]) == (low, pressure, high)
    assert found["orphans"]["maximum"] == _number("ipv4", "tcp_max_orphans")
    assert found["conntrack"]["maximum"] == _number("netfilter", "nf_conntrack_max")
    assert found["conntrack"]["entries"] > 0
    assert "network namespace" not in product.logs()
