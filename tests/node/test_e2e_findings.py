"""From real sockets in real pods to what people see, with the product installed by its chart."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from harness.cluster import OwnCluster
from harness.plugin import skip_or_fail
from product_lab import Place, pids_of

pytestmark = [pytest.mark.node, pytest.mark.usefixtures("watched_leak")]

FOR_SECONDS = 5
LEAKED = 200
LEAKING_USER = 1234
PORTS = 1000
POLICY = {
    "apiVersion": "sockethealth.io/v1alpha1",
    "kind": "SocketHealthPolicy",
    "metadata": {"name": "quick"},
    "spec": {
        "rules": [
            {
                "name": "leak",
                "detector": "CloseWaitLeak",
                "threshold": 100,
                "clearThreshold": 10,
                "for": f"{FOR_SECONDS}s",
                "clearAfter": "5s",
                "parameters": {"minAge": "5s"},
            },
            {
                "name": "ports",
                "detector": "EphemeralPortExhaustion",
                "threshold": 50,
                "clearThreshold": 40,
                "for": "2s",
                "clearAfter": "5s",
            },
        ]
    },
}

# Both ends of every connection are here, so nothing moves but the TIME_WAIT sockets' end after 60 s.
SOCKETS_OF_ALL_KINDS = """
import socket, time
kept = []
def pair(server, address):
    client = socket.create_connection(address)
    kept.extend((client, server.accept()[0]))
    return kept[-2:]
def fill(server, address, open, half_closed, closed):
    for _ in range(open):
        pair(server, address)
    for _ in range(half_closed):
        pair(server, address)[0].shutdown(socket.SHUT_WR)
    for _ in range(closed):
        client, accepted = pair(server, address)
        client.close()
        accepted.recv(1)
        accepted.close()
def listen(family, host, backlog=64):
    server = socket.create_server((host, 0), family=family, backlog=backlog, dualstack_ipv6=host == "::")
    kept.append(server)
    return server, server.getsockname()[1]
server, port = listen(socket.AF_INET, "127.0.0.1")
fill(server, ("127.0.0.1", port), open=7, half_closed=3, closed=5)
server, port = listen(socket.AF_INET6, "::1")
fill(server, ("::1", port), open=4, half_closed=2, closed=6)
server, port = listen(socket.AF_INET6, "::")
fill(server, ("127.0.0.1", port), open=2, half_closed=1, closed=1)
# One connection fills the queue of a listener that never accepts; the kernel drops what follows.
server, port = listen(socket.AF_INET6, "::1", backlog=0)
kept.append(socket.create_connection(("::1", port)))
for _ in range(3):
    waiting = socket.socket(socket.AF_INET6)
    waiting.setblocking(False)
    waiting.connect_ex(("::1", port))
    kept.append(waiting)
print("ready", flush=True)
time.sleep(3600)
"""
LISTEN_AND_CONNECT = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
kept = [server]
for _ in range(17):
    kept.append(socket.create_connection(server.getsockname()))
    kept.append(server.accept()[0])
print("ready", flush=True)
time.sleep(3600)
"""
SS_NAMES = {
    "ESTAB": "established",
    "SYN-SENT": "synSent",
    "SYN-RECV": "synRecv",
    "FIN-WAIT-1": "finWait1",
    "FIN-WAIT-2": "finWait2",
    "TIME-WAIT": "timeWait",
    "CLOSE-WAIT": "closeWait",
    "LAST-ACK": "lastAck",
    "CLOSING": "closing",
    "LISTEN": "listen",
}


@pytest.fixture(scope="module")
def place(product):
    """All workloads of this file, started together: the tests await what each must lead to."""
    place = Place(product, "test-findings")
    place.apply(POLICY)
    impatient, patient = place.service("impatient"), place.service("patient")
    place.deployment("impatient", "python3", "/scripts/server.py", "--close-after=1")
    place.deployment("patient", "python3", "/scripts/server.py")
    place.deployment("all-kinds", "python3", "-c", SOCKETS_OF_ALL_KINDS)
    place.deployment("on-host", "python3", "-c", LISTEN_AND_CONNECT, hostNetwork=True)
    place.deployment(
        *("leaking", "python3", "/scripts/leaking_client.py", impatient, f"--count={LEAKED}", "--rate=400"),
        securityContext={"runAsUser": LEAKING_USER, "runAsNonRoot": True},
    )
    place.deployment(
        "churning",
        *("python3", "/scripts/churning_client.py", patient, "--burst=600", "--rate=8"),
        securityContext={"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": f"40000 {40000 + PORTS - 1}"}]},
    )
    yield place
    place.delete()


def test_a_client_that_uses_up_its_ports_learns_the_service_the_percentage_and_the_time_left(place):
    pod = place.pod("churning")["metadata"]["name"]
    place.until(lambda: "ports" in place.findings(pod), "the finding", seconds=FOR_SECONDS + 30)
    finding = place.findings(pod)["ports"]
    assert finding["type"] == "EphemeralPortExhaustion"
    assert finding["target"]["name"] == f"Service {place.namespace}/patient"
    assert 50 <= finding["value"] <= 100, finding
    assert int(finding["evidence"]["usable"]) == PORTS
    assert finding["value"] == pytest.approx(100 * int(finding["evidence"]["used"]) / PORTS)
    assert 0 < float(finding["evidence"]["secondsToExhaustion"]) <= 60, finding
    message = finding["message"]
    assert f"{place.namespace}/{pod}" in message
    assert f"Service {place.namespace}/patient" in message
    assert f"({finding['value']:.0f}%)" in message
    assert re.search(r"run out in \d+", message), message
    place.until(
        lambda: place.annotations("deployment", "churning").get("sockethealth.io/health") == "Warning",
        "the Deployment to be annotated",
        seconds=10,
    )


def _ss(pid):
    """TCP sockets by state in the network namespace of a process, as SocketHealth names the states."""
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "ss", "-tanH"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = Counter(SS_NAMES[line.split()[0]] for line in lines)
    return {name: found[name] for name in SS_NAMES.values()}


def test_counts_equal_what_ss_shows_in_the_pod_state_by_state(place):
    if not isinstance(place.cluster, OwnCluster):
        skip_or_fail("The node is missing on this machine: ss has to run in the pod's namespace.")
    pod = place.pod("all-kinds")
    name = pod["metadata"]["name"]
    pid = next(pids_of(pod))
    compared = []

    def equal():
        before = _ss(pid)
        seen = place.socket_health(name).get("status", {}).get("sockets", {})
        compared[:] = [before, seen]
        return _ss(pid) == before == {state: seen.get(state, 0) for state in before}

    place.until(equal, "SocketHealth to equal ss", seconds=35)
    counts, _ = compared
    assert counts == {
        "established": 2 * (7 + 4 + 2) + 2,
        "synSent": 3,
        "synRecv": 0,
        "finWait1": 0,
        "finWait2": 3 + 2 + 1,
        "timeWait": 5 + 6 + 1,
        "closeWait": 3 + 2 + 1,
        "lastAck": 0,
        "closing": 0,
        "listen": 4,
    }


def test_sockets_on_the_hosts_network_belong_to_the_pod_whose_cgroup_they_have(place):
    pod = place.pod("on-host")["metadata"]["name"]
    place.until(
        lambda: place.socket_health(pod).get("status", {}).get("sockets", {}).get("established") == 2 * 17,
        "the pod's 17 connections to be counted",
        seconds=30,
    )
    found = place.socket_health(pod)
    assert found["spec"]["hostNetwork"] is True
    assert found["status"]["sockets"]["listen"] == 1


def test_the_agent_has_two_capabilities_and_is_not_privileged(product):
    pod = product.pod_of("agent")
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    context = container["securityContext"]
    assert not context.get("privileged", False)
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN", "SYS_PTRACE"]}
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert not spec.get("hostNetwork", False)
    assert [volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume] == ["/sys/fs/cgroup"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/host/cgroup"]["readOnly"]
    # Bits of include/uapi/linux/capability.h.
    status = Path(f"/proc/{product.pid_of('agent', container['name'], '/sockethealth-agent')}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 1 << 21 | 1 << 19
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2", "a filter"


def _row(place, pod):
    """The pod's row of `kubectl get sockethealth`, by column."""
    table = place.cluster.kubectl("get", "sockethealth", "-n", place.namespace).stdout.splitlines()
    columns = [(match[0].strip(), match.start(), match.end()) for match in re.finditer(r"\S+\s*", table[0])]
    line = next(line for line in table if line.startswith(f"{pod} "))
    return {name: line[start:end].strip() for name, start, end in columns}


def test_a_leak_is_found_said_once_and_forgotten_when_repaired(place):
    pod = place.pod("leaking")["metadata"]["name"]
    place.until(
        lambda: f"holding {LEAKED}" in place.cluster.kubectl("logs", "-n", place.namespace, pod).stdout,
        "the leak",
        seconds=30,
    )
    min_age = 5 + 1  # the rule's, and the server's second before it closes
    place.until(lambda: "leak" in place.findings(pod), "the finding", seconds=min_age + FOR_SECONDS + 30)

    # What is found first are those that were old enough at that sweep; all of them follow.
    place.until(lambda: place.findings(pod)["leak"]["value"] == LEAKED, "all of the leak to be counted", seconds=60)
    finding = place.findings(pod)["leak"]
    assert f"{LEAKED} CLOSE_WAIT" in finding["message"]
    assert re.search(r"process python3 \(pid \d+\) in container main", finding["message"]), finding["message"]
    assert (finding["evidence"]["process"], finding["evidence"]["container"]) == ("python3", "main")
    (owner,) = place.socket_health(pod)["status"]["closeWait"]["owners"]
    assert owner["count"] == LEAKED
    if isinstance(place.cluster, OwnCluster):
        assert Path(f"/proc/{owner['pid']}").stat().st_uid == LEAKING_USER
    row = _row(place, pod)
    assert (row["CLOSE-WAIT"], row["FINDING"], row["HEALTH"]) == (str(LEAKED), "CloseWaitLeak", "Warning")

    def annotated():
        return place.annotations("deployment", "leaking")

    place.until(lambda: bool(annotated()), "the Deployment to be annotated", seconds=10)
    assert annotated()["sockethealth.io/health"] == "Warning"
    assert "CloseWaitLeak" in json.dumps(json.loads(annotated()["sockethealth.io/findings"]))
    assert annotated()["sockethealth.io/since"] == finding["since"]

    def events(type_):
        return {
            kind: [
                event["reason"] for event in place.events(kind, type_) if event["regarding"]["name"] in (pod, "leaking")
            ]
            for kind in ("Pod", "Deployment")
        }

    said_once = {"Pod": ["CloseWaitLeak"], "Deployment": ["CloseWaitLeak"]}
    place.until(lambda: all(events("Warning").values()), "Warning Events on pod and Deployment", seconds=10)
    assert events("Warning") == said_once

    place.cluster.exec(place.namespace, pod, "sh", "-c", "kill -USR1 1")
    place.until(lambda: place.findings(pod) == {}, "the finding to clear", seconds=45)
    assert place.socket_health(pod)["status"]["sockets"]["closeWait"] == 0
    assert place.socket_health(pod)["status"]["health"] == "Healthy"
    place.until(lambda: annotated() == {}, "the annotations to go", seconds=10)
    place.until(lambda: all(events("Normal").values()), "Normal Events on pod and Deployment", seconds=10)
    assert events("Normal") == {"Pod": ["CloseWaitLeakCleared"], "Deployment": ["CloseWaitLeakCleared"]}
    assert events("Warning") == said_once
    revisions = place.cluster.get("replicasets", "-n", place.namespace, "-l", "app=leaking")["items"]
    assert len(revisions) == 1, "the pod template was changed"
    assert place.pod("leaking")["metadata"]["name"] == pod
