"""The sysctl writer as a process against a real API server: profiles in, reports out, and what it does at its end."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import urllib.request

import pytest

import lab
from harness.network import free_ports
from harness.waiting import until
from sockethealth_agent.kubeapi import KubeApi, from_kubeconfig
from sockethealth_agent.sysctls.journal import NODE
from sockethealth_core.names import API_VERSION, OPERATOR_FIELD_MANAGER
from sockethealth_core.resources import encode
from sysctl_lab import SimulatedNode, assigned

pytestmark = [
    pytest.mark.api,
    pytest.mark.skipif(os.geteuid() != 0, reason="root is missing, to make and enter a network namespace"),
]

FIN, TW = "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_tw_reuse"


class Wanted:
    """What the operator asks of a node, and what its writer says."""

    def __init__(self, control_plane, api, name):
        self.control_plane, self.api, self.name = control_plane, api, name
        self.path = f"/apis/{API_VERSION}/nodesockethealths/{name}"

    def ask(self, *profiles):
        body = {
            "apiVersion": API_VERSION,
            "kind": "NodeSocketHealth",
            "metadata": {"name": self.name},
            "spec": {"sysctlProfiles": [encode(one) for one in profiles]},
        }
        self.api.apply(self.path, body, manager=OPERATOR_FIELD_MANAGER)

    def status(self):
        return json.loads(self.api.get(self.path)).get("status", {})

    def version(self):
        return json.loads(self.api.get(self.path))["metadata"]["resourceVersion"]

    def states(self):
        return {one["profile"]: one["state"] for one in self.status().get("sysctlProfiles", [])}


@pytest.fixture
def wanted(control_plane, crds):
    name = f"sysctls-{secrets.token_hex(3)}"
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": "blue"}}}
    control_plane.add(node)
    api = KubeApi(from_kubeconfig(control_plane.kubeconfig))
    yield Wanted(control_plane, api, name)
    api.close()
    control_plane.delete("nodesockethealth", name, wait=True)
    control_plane.delete("node", name)


@pytest.fixture
def daemonset(control_plane, namespace):
    """A DaemonSet with the writer's container, that needs no node to run on."""
    labels = {"app": "writer"}
    body = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {"pool": "blue"},
                    "containers": [{"name": "sysctl-writer", "image": "none"}],
                },
            },
        },
    }
    control_plane.add(body)
    return f"{namespace}/agent"


@pytest.fixture
def host():
    with lab.netns("host") as made:
        yield made


def value(host, name):
    return host.run("cat", "/proc/sys/" + name.replace(".", "/")).strip()


@pytest.fixture
def start(control_plane, wanted, daemonset, host, tmp_path):
    """Starts writers of the node whose own namespace is a throw-away one."""
    (port,) = free_ports(1)
    started = []

    def begin(*arguments):
        with (tmp_path / "log").open("a") as log:
            process = subprocess.Popen(
                [
                    # A killed test run leaves no writer behind.
                    "setpriv",
                    "--pdeathsig=KILL",
                    sys.executable,
                    "-m",
                    "sockethealth_agent.sysctls.main",
                    f"--node-name={wanted.name}",
                    f"--kubeconfig={control_plane.kubeconfig}",
                    f"--journal={tmp_path / 'journal'}",
                    f"--host-netns={host.path}",
                    f"--daemonset={daemonset}",
                    f"--metrics-port={port}",
                    "--metrics-address=127.0.0.1",
                    "--interval=1",
                    *arguments,
                ],
                stderr=log,
            )
        started.append(process)
        return process

    begin.log = tmp_path / "log"
    begin.address = f"http://127.0.0.1:{port}"
    yield begin
    for process in started:
        process.kill()
        process.wait()


def ended(process):
    process.send_signal(signal.SIGTERM)
    return process.wait(25)


def test_a_profile_comes_is_reported_and_goes(wanted, host, start):
    process = start()
    wanted.ask(assigned(values={FIN: "31", TW: "1"}))
    until(lambda: wanted.states() == {"tuned": "Applied"}, "the profile in force", seconds=20)
    assert (value(host, FIN), value(host, TW)) == ("31", "1")
    status = wanted.status()
    assert status["sysctlWriter"]["bootId"]
    (report,) = status["sysctlProfiles"]
    assert [(one["where"], one["found"], one["wanted"]) for one in report["changes"]] == [
        ("node", "60", "31"),
        ("node", "2", "1"),
    ]
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{start.address}/healthz", timeout=5) as answer:
        assert answer.status == 200
    with direct.open(f"{start.address}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert re.search(r'^sockethealth_sysctl_writes_total{node="[^"]+",result="applied"} 2.0$', metrics, re.MULTILINE)
    state = r'^sockethealth_sysctl_profile_state{node="[^"]+",profile="tuned",state="Applied"} 1.0$'
    assert re.search(state, metrics, re.MULTILINE)
    wanted.ask()
    until(lambda: wanted.states() == {}, "no profile in the report", seconds=20)
    assert (value(host, FIN), value(host, TW)) == ("60", "2")
    assert process.poll() is None
    lines = [json.loads(line) for line in start.log.read_text().splitlines()]
    assert [line["sysctl"] for line in lines if "sysctl" in line] == [FIN, TW, TW, FIN]


def test_a_writer_that_is_replaced_leaves_everything_and_the_next_one_takes_over(wanted, host, start):
    process = start()
    wanted.ask(assigned(values={FIN: "31"}))
    until(lambda: wanted.states() == {"tuned": "Applied"}, "the profile in force", seconds=20)
    assert ended(process) == 0
    assert value(host, FIN) == "31"
    assert wanted.states() == {"tuned": "Applied"}
    wanted.ask()
    start()
    until(lambda: wanted.states() == {}, "no profile in the report", seconds=20)
    assert value(host, FIN) == "60"


@pytest.mark.parametrize("how", ["deleted", "without the writer", "for other nodes"])
def test_a_writer_that_goes_for_good_puts_everything_back(control_plane, wanted, daemonset, host, start, how):
    process = start()
    wanted.ask(assigned(values={FIN: "31"}))
    until(lambda: wanted.states() == {"tuned": "Applied"}, "the profile in force", seconds=20)
    namespace, _, name = daemonset.partition("/")
    if how == "deleted":
        control_plane.delete("daemonset", name, namespace=namespace, wait=True)
    else:
        path, content = {
            "without the writer": ("containers/0/name", "agent"),
            "for other nodes": ("nodeSelector/pool", "red"),
        }[how]
        patch = json.dumps([{"op": "replace", "path": f"/spec/template/spec/{path}", "value": content}])
        control_plane.kubectl("patch", "daemonset", name, "-n", namespace, "--type=json", "-p", patch)
    assert ended(process) == 0
    assert value(host, FIN) == "60"
    assert wanted.states() == {}
    assert "sysctlWriter" not in wanted.status()


def test_restore_by_hand_needs_no_api_server(wanted, host, start):
    process = start()
    wanted.ask(assigned(values={FIN: "31"}))
    until(lambda: wanted.states() == {"tuned": "Applied"}, "the profile in force", seconds=20)
    assert start("--restore").wait(25) == 1, "while another writer is at work"
    process.kill()
    process.wait()
    assert value(host, FIN) == "31"
    assert start("--restore", "--kubeconfig=/nowhere").wait(25) == 0
    assert value(host, FIN) == "60"


def test_steps_of_a_simulated_node_report_only_what_changed(wanted, tmp_path):
    node = SimulatedNode(tmp_path)
    node.add(NODE)
    with node.writer(wanted.api, wanted.name) as writer:
        assert writer.step().sysctl_profiles == []
        wanted.ask(assigned(values={FIN: "31"}), assigned("audit", mode="Audit", values={TW: "1"}))
        writer.step()
        assert wanted.states() == {"tuned": "Applied", "audit": "Audited"}
        version = wanted.version()
        for _ in range(3):
            writer.step()
        assert wanted.version() == version
        wanted.control_plane.delete("nodesockethealth", wanted.name, wait=True)
        writer.step()
        assert node.value(NODE, FIN) == "60"
        wanted.ask(assigned(values={FIN: "33"}))
        writer.step()
        assert wanted.states() == {"tuned": "Applied"}
        assert node.value(NODE, FIN) == "33"


def test_while_the_api_server_is_away_what_is_known_stays_in_force(wanted, tmp_path):
    class Away(KubeApi):
        def __init__(self, endpoint):
            super().__init__(endpoint)
            self.there = True

        def _open(self, *arguments, **more):
            if not self.there:
                raise self._away("GET", "/", OSError("unplugged"))
            return super()._open(*arguments, **more)

    api = Away(from_kubeconfig(wanted.control_plane.kubeconfig))
    node = SimulatedNode(tmp_path)
    node.add(NODE)
    wanted.ask(assigned(values={FIN: "31"}))
    with node.writer(api, wanted.name) as writer:
        api.there = False
        assert writer.step() is None
        assert node.value(NODE, FIN) == "60"
        api.there = True
        writer.step()
        api.there = False
        node.set(NODE, FIN, "77")
        writer.step()
        assert node.value(NODE, FIN) == "31"
        node.set(NODE, FIN, "78")
        assert writer.step().sysctl_profiles[0].state == "Drifted"
        assert wanted.states() == {"tuned": "Applied"}
        api.there = True
        writer.step()
        assert wanted.states() == {"tuned": "Drifted"}
    api.close()
