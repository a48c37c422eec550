"""The agent killed in each of its phases, and a node that is restarted: what the API server holds, and how soon again.

The agent's own program, a real API server, and a real process with leaking sockets in a network namespace that nothing
but this process keeps: once it ends, the far end of its veth pair is gone as soon as nobody else holds the namespace.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import lab
from agent_builders import Counted, submission
from harness.waiting import until
from killed_agent import PHASES
from shown_proc import CONTAINER, ShownProc
from sockethealth_agent import netns
from sockethealth_agent.kubeapi import KubeApi, NotFoundError, from_kubeconfig
from sockethealth_agent.reporter import AgentIdentity, Reporter
from sockethealth_core.names import API_VERSION, OPERATOR_FIELD_MANAGER
from sockethealth_core.units import format_time

pytestmark = [
    pytest.mark.api,
    pytest.mark.skipif(os.geteuid() != 0, reason="root is missing, to make and enter a network namespace"),
]

GROUP = f"/apis/{API_VERSION}"
LEAK = """
import ctypes, signal, socket, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
sys.stdin.readline()
server = socket.create_server(("127.0.0.1", 7000), backlog=128)
held = []
leaks = int(sys.argv[1])
for number in range(leaks + 5):
    held.append(socket.create_connection(("127.0.0.1", 7000)))
    held.append(server.accept()[0])
    if number < leaks:
        held[-2].shutdown(socket.SHUT_WR)
        held[-1].recv(1)
print("ready", flush=True)
signal.pause()
"""
CREATING = [phase for phase, (_place, name, _moment, path) in PHASES.items() if name == "apply" and "health" in path]
FINDING = {
    "type": "CloseWaitLeak",
    "severity": "Critical",
    "since": "2026-01-01T00:00:00Z",
    "policy": "p",
    "rule": "r",
    "value": 12,
}


@contextmanager
def leaking(host, leaks=12):
    """A process with so many sockets in CLOSE_WAIT, alone in its namespace."""
    command = ["unshare", "--net", "--", "/usr/bin/env", "python3", "-I", "-S", "-c", LEAK, str(leaks)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            own, path = netns.identity(), f"/proc/{process.pid}/ns/net"
            until(lambda: netns.identity(path) != own, "unshare", seconds=20)
            host.ip("link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
            subprocess.run(["nsenter", f"--net={path}", "ip", "link", "set", "lo", "up"], check=True)
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


class Node:
    """A node whose one pod leaks: what runs on it, what the API server holds of it, and agents of which each ends."""

    def __init__(self, control_plane, folder, name):
        self.control_plane, self.name, self.namespace = control_plane, name, name
        self.api = KubeApi(from_kubeconfig(control_plane.kubeconfig))
        self.shown = ShownProc(folder / "proc")
        self.log = folder / "agent.log"
        self.path = f"{GROUP}/namespaces/{name}/sockethealths/web"
        self.uid = ""
        self.host = None
        with self.log.open("a") as log:
            self._agents = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent.parent / "killed_agent.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def create(self):
        core = self.control_plane.core
        core.create_node({"metadata": {"name": self.name}})
        core.create_namespace({"metadata": {"name": self.name}})
        pod = {
            "metadata": {"name": "web"},
            "spec": {
                "nodeName": self.name,
                "automountServiceAccountToken": False,
                "containers": [{"name": "app", "image": "none"}],
            },
        }
        until(self._service_account, "the service account", seconds=60)
        self.uid = core.create_namespaced_pod(self.name, pod).metadata.uid
        status = {
            "name": "app",
            "containerID": f"containerd://{CONTAINER}",
            "image": "none",
            "imageID": "",
            "ready": True,
            "restartCount": 0,
        }
        core.patch_namespaced_pod_status(
            "web", self.name, {"status": {"phase": "Running", "containerStatuses": [status]}}
        )

    def _service_account(self):
        found = self.control_plane.core.list_namespaced_service_account(self.name).items
        return any(one.metadata.name == "default" for one in found)

    def agent(self, phase=None):
        """Run the agent until it has reported, or is killed; its exit code, as subprocess has it."""
        arguments = [
            f"--node-name={self.name}",
            f"--kubeconfig={self.control_plane.kubeconfig}",
            f"--proc-root={self.shown.root}",
            f"--host-netns={self.host.path}",
            "--metrics-address=127.0.0.1",
            "--metrics-port=0",
            "--once",
        ]
        self._agents.stdin.write(json.dumps({"phase": phase, "node": self.name, "arguments": arguments}) + "\n")
        self._agents.stdin.flush()
        return os.waitstatus_to_exitcode(int(self._agents.stdout.readline()))

    def held(self):
        """The pod's SocketHealth; None where there is none."""
        try:
            return json.loads(self.api.get(self.path))
        except NotFoundError:
            return None

    def all_held(self):
        pages = self.api.pages(f"{GROUP}/sockethealths", {"fieldSelector": f"spec.nodeName={self.name}"})
        return [item["metadata"]["name"] for page in pages for item in json.loads(page)["items"]]

    def own(self, name=None):
        """The NodeSocketHealth's status."""
        return json.loads(self.api.get(f"{GROUP}/nodesockethealths/{name or self.name}"))["status"]

    def judge(self):
        body = {
            "apiVersion": API_VERSION,
            "kind": "SocketHealth",
            "metadata": {"name": "web", "namespace": self.name},
            "status": {"health": "Critical", "findings": [FINDING]},
        }
        self.api.apply(self.path + "/status", body, manager=OPERATOR_FIELD_MANAGER)

    def close(self):
        self._agents.kill()
        self._agents.communicate()
        self.control_plane.core.delete_namespace(self.name)
        self.control_plane.core.delete_node(self.name)
        self.api.close()


@pytest.fixture(scope="module")
def node(control_plane, crds, tmp_path_factory):
    made = Node(control_plane, tmp_path_factory.mktemp("node"), f"kills-{secrets.token_hex(3)}")
    try:
        made.create()
        yield made
    finally:
        made.close()


@pytest.fixture
def leak(node):
    """Its pod's process, in a namespace of the test's own."""
    with lab.netns("host") as node.host, leaking(node.host) as process:
        node.shown.show(process.pid, node.uid)
        try:
            yield process
        finally:
            node.shown.hide(process.pid)


def reported(node, leaks=12):
    """What is held of the pod once the agent has ended, which is all of it."""
    found = node.held()
    assert {state: count for state, count in found["status"]["sockets"].items() if count} == {
        "established": 10,
        "closeWait": leaks,
        "finWait2": leaks,
        "listen": 1,
    }
    (owner,) = found["status"]["closeWait"]["owners"]
    assert (owner["container"], owner["count"]) == ("app", leaks)
    assert node.all_held() == ["web"]
    return found


def test_killed_in_each_phase_the_next_agent_reports_the_same_and_nothing_is_lost_or_doubled(
    node, leak, record_property
):
    slowest = 0.0
    for phase in PHASES:
        if phase in CREATING and node.held() is not None:
            node.api.delete(node.path)
        elif phase not in CREATING and node.held() is None:
            assert node.agent() == 0, node.log.read_text()
        before = node.held()
        if before is not None:
            node.judge()
        heard = node.own()["agent"]["heartbeatTime"] if before is not None else ""
        assert node.agent(phase) == -signal.SIGKILL, f"{phase}: {node.log.read_text()}"
        between = node.held()
        assert before is None or between is not None, f"{phase}: the object is gone"
        began = time.monotonic()
        assert node.agent() == 0, f"{phase}: {node.log.read_text()}"
        slowest = max(slowest, time.monotonic() - began)
        found = reported(node)
        assert found["status"]["closeWait"]["owners"][0]["pid"] == leak.pid
        if between is not None:
            assert found["metadata"]["uid"] == between["metadata"]["uid"], f"{phase}: another object in its place"
        if before is not None:
            assert found["status"]["findings"] == [FINDING], f"{phase}: the finding is lost"
        assert node.own()["agent"]["heartbeatTime"] >= heard
    host = node.host
    leak.kill()
    leak.wait()
    until(lambda: "pod0" not in host.ip("link"), "the namespace to go: a killed agent holds it", seconds=30)
    record_property("phases", len(PHASES))
    record_property("recovered_seconds", round(slowest, 1))


def test_a_restarted_node_says_so_and_tells_of_its_new_sockets_without_a_rate(node, record_property):
    for boot, leaks in (("boot-1", 12), ("boot-2", 60)):
        with lab.netns("host") as node.host, leaking(node.host, leaks) as process:
            node.shown.boot(boot)
            node.shown.show(process.pid, node.uid)
            before, began = node.held(), time.monotonic()
            assert node.agent() == 0, node.log.read_text()
            seconds = time.monotonic() - began
            found = reported(node, leaks)
            assert node.own()["agent"]["bootId"] == boot
            assert not any(found["status"]["rates"].values())
            if before is not None:
                assert found["metadata"]["uid"] == before["metadata"]["uid"]
            node.shown.hide(process.pid)
    record_property("recovered_seconds", round(seconds, 1))


def test_heartbeats_keep_their_interval_when_the_wall_clock_steps(control_plane, node):
    name = f"{node.name}-clock"
    control_plane.core.create_node({"metadata": {"name": name}})
    clock, wall, sink = [1000.0], [1_800_000_000.0], Counted()
    reporter = Reporter(
        node.api,
        AgentIdentity(node_name=name, version="0", boot_id="b", kernel="6"),
        sink=sink,
        interval_seconds=15,
        heartbeat_seconds=120,
        clock=lambda: clock[0],
        wall_clock=lambda: wall[0],
    )

    def after(seconds, step=0):
        clock[0] += seconds
        wall[0] += seconds + step
        reporter.submit(submission([], at=clock[0]))
        reporter.step()
        return len(sink.writes)

    assert after(0) == 1
    after(120)  # the first interval is cut at a random place
    beats = len(sink.writes)
    for step in (3600, -7200, 3600):
        assert after(60, step) == beats, "a step alone is no reason to write"
        assert after(60) == beats + 1
        assert node.own(name)["agent"]["heartbeatTime"] == format_time(wall[0])
        beats += 1
    control_plane.core.delete_node(name)
