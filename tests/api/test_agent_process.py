"""The agent as a process against a real API server: reports, probes, memory, and its end."""

import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from harness.network import free_ports
from harness.waiting import until

pytestmark = pytest.mark.api

MOST_RESIDENT_KIB = 60 * 1024


@pytest.fixture
def node(control_plane, crds):
    name = f"process-{secrets.token_hex(3)}"
    manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    control_plane.add(manifest)
    yield name
    control_plane.delete("node", name)


@pytest.fixture
def agent(control_plane, node, tmp_path):
    """Starts agents; `agent.port` is where they answer."""
    (port,) = free_ports(1)
    log = tmp_path / "agent.log"
    started = []

    def start(*arguments):
        with log.open("a") as out:
            process = subprocess.Popen(
                [
                    # A killed test run leaves no agent behind.
                    "setpriv",
                    "--pdeathsig=KILL",
                    sys.executable,
                    "-m",
                    "sockethealth_agent.main",
                    f"--node-name={node}",
                    f"--kubeconfig={control_plane.kubeconfig}",
                    f"--metrics-port={port}",
                    "--metrics-address=127.0.0.1",
                    *arguments,
                ],
                stderr=out,
            )
        started.append(process)
        return process

    start.log = log
    start.get = lambda path: fetch(f"http://127.0.0.1:{port}{path}")
    yield start
    for process in started:
        process.kill()
        process.wait()


def fetch(url):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


def sweeps(agent):
    (line,) = [
        line
        for line in agent.get("/metrics")[1].splitlines()
        if line.startswith("sockethealth_agent_sweep_seconds_count")
    ]
    return float(line.split()[1])


def resident_kib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def test_it_reports_is_ready_stays_small_and_ends_when_told(agent, control_plane, node):
    process = agent("--interval=0.5")
    until(lambda: agent.get("/readyz")[0] == 200, "the agent to be ready", seconds=20, explain=agent.log.read_text)
    assert agent.get("/healthz") == (200, "ok\n")
    found = control_plane.get("nodesockethealth", node)
    assert found["status"]["agent"]["bootId"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert found["status"]["agent"]["kernel"] == os.uname().release
    until(lambda: sweeps(agent) >= 3, "three sweeps", seconds=10)
    metrics = agent.get("/metrics")[1]
    assert f'sockethealth_agent_writes_total{{node="{node}",reason="heartbeat"}}' in metrics
    assert f'sockethealth_node_sockets{{node="{node}",state="timeWait"}}' in metrics
    assert agent.get("/else")[0] == 404
    resident = resident_kib(process.pid)
    assert resident < MOST_RESIDENT_KIB, f"{resident} KiB"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0  # far below the 30 s after which a kubelet kills
    for line in agent.log.read_text().splitlines():
        assert json.loads(line)["level"] in {"INFO", "WARNING"}, line


def test_once_reports_and_ends(agent, control_plane, node):
    process = agent("--once", "--log-format=text", "--report-mode=Noteworthy")
    assert process.wait(timeout=30) == 0, agent.log.read_text()
    said = control_plane.get("nodesockethealth", node)["status"]["agent"]
    assert said["version"]
    assert said["reportMode"] == "Noteworthy"


def test_without_credentials_it_says_what_is_missing():
    done = subprocess.run(
        [sys.executable, "-m", "sockethealth_agent.main", "--node-name=none", "--metrics-port=0"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "KUBERNETES_SERVICE_HOST"},
    )
    assert done.returncode == 1
    assert "give --kubeconfig FILE" in json.loads(done.stderr)["message"]
