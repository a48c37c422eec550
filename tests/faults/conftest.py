"""A control plane of the lane's own, and pairs of agent and operator that reach it by ways which fail when told to.

Each pair has a node, a namespace and pods of its own. The pods are processes in network namespaces, and what is found
on them are real sockets: the agent is shown a /proc in which those processes are in pods' cgroups.
"""

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
import urllib3

import lab
from faulty_api import FaultyApi, Gate, Scope, gate
from harness import network
from harness.cluster import OwnCluster, existing_kubeconfig
from harness.controlplane import ControlPlane
from harness.errors import HarnessError
from harness.images import REPOSITORY
from harness.plugin import skip_or_fail
from harness.state import Owner
from harness.waiting import until
from operator_lab import OperatorProcess
from sockethealth_core.names import API_VERSION, GROUP, VERSION, WORKLOAD_ANNOTATIONS

CONTAINER: Final = "e" * 64
LEAK: Final = "CloseWaitLeak"
CLEARED: Final = "CloseWaitLeakCleared"
LEAKED: Final = 60
SWEEP_SECONDS: Final = 1
TWO_SWEEPS_SECONDS: Final = 20
"""Of the agent as it is installed. It sweeps more often here, so that what is seen is the API server's part."""
PATIENCE_SECONDS: Final = 60
_QUOTA_BYTES: Final = 16 * 2**20
_OURS: Final = f"/apis/{GROUP}/{VERSION}"


class FaultsCluster(OwnCluster):
    """A control plane whose etcd has a small quota, and can be made to fill it."""

    def __init__(self, directory: Any) -> None:
        super().__init__(directory)
        self._control_plane = _SmallEtcd(directory, self._components)
        self._pool = urllib3.PoolManager(ca_certs=str(directory.pki / "ca.crt"))

    def close(self) -> None:
        """Take the cluster away."""
        self._pool.clear()
        super().close()

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> dict[str, Any] | None:
        """One request as administrator; None for what is not there.

        Raises:
            HarnessError: it was refused for another reason.
        """
        answer = self._pool.request(
            method,
            self.server + path,
            body=None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {self.admin_token}", "Content-Type": content_type},
        )
        if answer.status == 404:
            return None
        if answer.status >= 400:
            raise HarnessError(f"{method} {path}: {answer.status} {answer.data.decode()}")
        document: dict[str, Any] = answer.json()
        return document

    def make(self, path: str, document: Any) -> dict[str, Any]:
        """Create an object."""
        created = self.request("POST", path, document)
        assert created is not None, path
        return created

    def etcd(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        """One request to etcd's JSON gateway (etcd.io/docs, api_grpc_gateway): its status and document."""
        url = f"http://127.0.0.1:{self._control_plane._ports.etcd_client}/v3/{path}"
        answer = self._pool.request("POST", url, body=json.dumps(body))
        document: dict[str, Any] = answer.json()
        return answer.status, document

    def fill_etcd(self) -> None:
        """Write to etcd until it takes no more; the alarm NOSPACE is then raised."""
        value = base64.b64encode(os.urandom(2**20)).decode()
        for number in range(2 * _QUOTA_BYTES // 2**20):
            status, said = self.etcd("kv/put", {"key": _etcd_key(f"/filler/{number}"), "value": value})
            if status != 200:
                assert "database space exceeded" in json.dumps(said), said
                return
        pytest.fail("etcd took twice its quota")

    def empty_etcd(self) -> None:
        """Make room as etcd's manual says: delete, compact, defragment, disarm the alarm."""
        begin, end = _etcd_key("/filler/"), _etcd_key("/filler0")
        self.etcd("kv/deleterange", {"key": begin, "range_end": end})
        self.compact_etcd()
        assert self.etcd("maintenance/defragment", {})[0] == 200
        _, found = self.etcd("maintenance/alarm", {"action": "GET"})
        (alarm,) = found["alarms"]
        assert self.etcd("maintenance/alarm", {**alarm, "action": "DEACTIVATE"})[0] == 200

    def compact_etcd(self) -> None:
        """Throw away all history."""
        _, found = self.etcd("kv/range", {"key": _etcd_key("/")})
        status, said = self.etcd("kv/compaction", {"revision": found["header"]["revision"], "physical": True})
        assert status == 200, said

    def start_apiserver_only(self) -> None:
        """Start the API server again; its controllers have not noticed a stop of seconds."""
        self._control_plane._start_apiserver()


class _SmallEtcd(ControlPlane):
    def _spawn(self, component: str, *arguments: str) -> None:
        more = (f"--quota-backend-bytes={_QUOTA_BYTES}",) if component == "etcd" else ()
        super()._spawn(component, *arguments, *more)


def _etcd_key(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class AgentProcess:
    """The agent's own program, with its log in a file."""

    def __init__(self, node: str, kubeconfig: Path, proc: Path, host: lab.Namespace, log: Path) -> None:
        self.log = log
        (port,) = network.free_ports(1)
        self._argv = [
            *("setpriv", "--pdeathsig=KILL", "--", sys.executable, "-m", "sockethealth_agent.main"),
            *(f"--node-name={node}", f"--kubeconfig={kubeconfig}"),
            *(f"--proc-root={proc}", f"--host-netns={host.path}"),
            *(f"--interval={SWEEP_SECONDS}", "--heartbeat=30"),
            *(f"--metrics-port={port}", "--metrics-address=127.0.0.1"),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass
class FaultyPod:
    """A pod of a pair: a process in a network namespace, and a Deployment that is its owner.

    Attributes:
        events: how many Events there are to be, by the kind they are about and their reason.
    """

    namespace: str
    name: str
    netns: lab.Namespace
    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    held: list[Any] = field(default_factory=list)

    def leak(self) -> None:
        """Have its application not close what its peers have closed."""
        self.held.append(self.netns.close_wait(self.netns.listen(), LEAKED))
        self.events.update([("Pod", LEAK), ("Deployment", LEAK)])

    def heal(self) -> None:
        """Have it close them."""
        for held in self.held:
            held.close()
        self.held.clear()
        self.events.update([("Pod", CLEARED), ("Deployment", CLEARED)])


class Pair:
    """An agent and an operator as processes, each with its own way to the API server.

    Attributes:
        agent_way: what the agent reaches the API server by.
        operator_way: what the operator reaches it by.
        pods: those that have leaked, and those that have not yet.
    """

    def __init__(
        self, cluster: FaultsCluster, ways: Gate, name: str, scope: Scope, folder: Path, host: lab.Namespace
    ) -> None:
        folder.mkdir()
        self.cluster, self.name, self.node = cluster, name, f"node-{name}"
        self.agent_way, self.operator_way = ways.way(), ways.way(scope)
        self.pods: list[FaultyPod] = []
        self._proc = folder / "proc"
        self._stack = ExitStack()
        token = cluster.admin_token
        agent_config = self.agent_way.kubeconfig(folder / "agent.kubeconfig", token)
        operator_config = self.operator_way.kubeconfig(folder / "operator.kubeconfig", token)
        self.agent = AgentProcess(self.node, agent_config, self._proc, host, folder / "agent.log")
        self.operator = OperatorProcess(operator_config, folder / "operator.log")

    @property
    def ways(self) -> tuple[FaultyApi, FaultyApi]:
        """Both."""
        return self.agent_way, self.operator_way

    def start(self, pods: int, environment: dict[str, str] | None = None) -> None:
        """Make the node and so many pods, and start both programs; the first pod leaks, and people are told."""
        self._proc.mkdir()
        for file in ("uptime", "thread-self", "sys"):
            (self._proc / file).symlink_to(f"/proc/{file}")
        self.cluster.make("/api/v1/nodes", {"metadata": {"name": self.node}})
        self.make_namespace(self.name)
        for _ in range(pods):
            self.add_pod()
        self.policy("leaks", LEAKED - 10)
        with mock.patch.dict(os.environ, environment or {}):
            self._stack.callback(self.agent.stop)
            self.agent.start()
            self._stack.callback(self.operator.stop)
            self.operator.start()
        self.pods[0].leak()
        self.wait_settled()

    def stop(self) -> None:
        """End both programs and all processes of pods."""
        self._stack.close()

    def make_namespace(self, name: str) -> None:
        """A namespace in which pods can be made."""
        self.cluster.make("/api/v1/namespaces", {"metadata": {"name": name}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        until(
            lambda: self.cluster.request("GET", account) is not None,
            account,
            seconds=PATIENCE_SECONDS,
            poll_seconds=0.2,
        )

    def add_pod(self, namespace: str = "") -> FaultyPod:
        """A pod on the node, and its Deployment, which makes none itself."""
        namespace = namespace or self.name
        name = f"{namespace}-{len(self.pods)}"
        pod = FaultyPod(namespace, name, self._stack.enter_context(lab.netns()))
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
        deployment = self.cluster.make(
            f"/apis/apps/v1/namespaces/{namespace}/deployments",
            {
                "metadata": {"name": name},
                "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
            },
        )
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "controller": True}
        owner["uid"] = deployment["metadata"]["uid"]
        made = self.cluster.make(
            f"/api/v1/namespaces/{namespace}/pods",
            {
                "metadata": {"name": name, "labels": {"pod": name}, "ownerReferences": [owner]},
                "spec": {
                    "nodeName": self.node,
                    "automountServiceAccountToken": False,
                    "tolerations": [{"operator": "Exists"}],
                    **template["spec"],
                },
            },
        )
        self._show(pod.netns.pid, made["metadata"]["uid"])
        self.pods.append(pod)
        return pod

    def _show(self, pid: int, uid: str) -> None:
        entry = self._proc / str(pid)
        entry.mkdir()
        (entry / "cgroup").write_text(f"0::/kubepods/burstable/pod{uid}/{CONTAINER}\n")
        for file in ("stat", "ns", "fd", "fdinfo", "comm", "net", "status"):
            (entry / file).symlink_to(f"/proc/{pid}/{file}")

    def policy(self, name: str, threshold: int, namespace: str = "") -> None:
        """A SocketHealthPolicy that warns of so many CLOSE_WAIT that last a second."""
        times = {"for": "1s", "clearAfter": "1s", "severity": "Warning", "parameters": {"minAge": "0s"}}
        rule = {"name": "leak", "detector": LEAK, "threshold": threshold, "clearThreshold": 10, **times}
        path = f"{_OURS}/namespaces/{namespace or self.name}/sockethealthpolicies"
        policy = {"apiVersion": API_VERSION, "kind": "SocketHealthPolicy", "metadata": {"name": name}}
        self.cluster.make(path, policy | {"spec": {"rules": [rule]}})

    def policy_named(self, name: str) -> dict[str, Any]:
        """A policy of the pair's namespace."""
        found = self.cluster.request("GET", f"{_OURS}/namespaces/{self.name}/sockethealthpolicies/{name}")
        assert found is not None
        return found

    def next_pod(self) -> FaultyPod:
        """The first that has not leaked yet."""
        return next(pod for pod in self.pods if not pod.events)

    def move_on(self) -> FaultyPod:
        """All pods that leak are healed, and the next one leaks."""
        for pod in self.pods:
            if pod.held:
                pod.heal()
        pod = self.next_pod()
        pod.leak()
        return pod

    def health(self, pod: FaultyPod) -> dict[str, Any] | None:
        """A pod's SocketHealth."""
        return self.cluster.request("GET", self.health_path(pod))

    def health_path(self, pod: FaultyPod) -> str:
        """Where it is."""
        return f"{_OURS}/namespaces/{pod.namespace}/sockethealths/{pod.name}"

    def findings(self, pod: FaultyPod) -> list[dict[str, Any]]:
        """What is found on a pod."""
        found: list[dict[str, Any]] = (self.health(pod) or {}).get("status", {}).get("findings", [])
        return found

    def is_reported(self, pod: FaultyPod) -> bool:
        """Whether the agent has written what there is."""
        status = (self.health(pod) or {}).get("status", {})
        close_wait = status.get("sockets", {}).get("closeWait", -1)
        return bool(close_wait == LEAKED if pod.held else close_wait == 0)

    def wait_reported(self) -> None:
        """Wait until the agent has written what there is of every pod."""

        def reported() -> bool:
            return all(self.is_reported(pod) for pod in self.pods)

        until(reported, "the agent's reports", seconds=PATIENCE_SECONDS, poll_seconds=0.3, explain=self.logs)

    def is_annotated(self, pod: FaultyPod) -> bool:
        """Whether a pod's Deployment is."""
        found = self.cluster.request("GET", f"/apis/apps/v1/namespaces/{pod.namespace}/deployments/{pod.name}")
        assert found is not None
        return not set(WORKLOAD_ANNOTATIONS).isdisjoint(found["metadata"].get("annotations", {}))

    def events(self, namespace: str = "") -> Counter[tuple[str, str, str]]:
        """How many Events of the operator there are, by what they are about and their reason."""
        found = self.cluster.request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace or self.name}/events") or {}
        return Counter(
            (event["regarding"]["name"], event["regarding"]["kind"], event["reason"])
            for event in found["items"]
            if event["reason"] in {LEAK, CLEARED}
        )

    def is_settled(self, pod: FaultyPod) -> bool:
        """Whether people are told everywhere of what there is, and of nothing else."""
        told = [finding["type"] for finding in self.findings(pod)]
        return (
            told == ([LEAK] if pod.held else [])
            and self.is_reported(pod)
            and self.is_annotated(pod) == bool(pod.held)
            and self._wanted_events(pod) <= self.events(pod.namespace)
        )

    def wait_settled(self, seconds: float = 2 * PATIENCE_SECONDS) -> None:
        """Wait until that holds for every pod; it takes some time, as nothing is awaited that is promised sooner."""
        waiting = [pod for pod in self.pods if pod.events]

        def settled() -> bool:
            while waiting and self.is_settled(waiting[0]):
                waiting.pop(0)
            return not waiting

        def explain() -> str:
            pod = waiting[0]
            told = [finding["type"] for finding in self.findings(pod)]
            missing = self._wanted_events(pod) - self.events(pod.namespace)
            return (
                f"{pod.name} {'leaks' if pod.held else 'is well'}: told {told}, reported {self.is_reported(pod)}, "
                f"annotated {self.is_annotated(pod)}, missing Events {dict(missing)}\n{self.logs()}"
            )

        until(settled, "people to be told what there is", seconds=seconds, poll_seconds=0.4, explain=explain)

    def _wanted_events(self, pod: FaultyPod) -> Counter[tuple[str, str, str]]:
        return Counter({(pod.name, *what): count for what, count in pod.events.items()})

    def expect_nothing_lost_or_doubled(self) -> None:
        """Both processes live on, and there is exactly one Event for each thing that happened."""
        assert self.agent.process is not None
        assert self.operator._process is not None
        assert self.agent.process.poll() is None, self.agent.log.read_text()
        assert self.operator._process.poll() is None, self.operator.log_text()
        wanted: Counter[tuple[str, str, str]] = Counter()
        for pod in self.pods:
            wanted += self._wanted_events(pod)
        assert self.events() == wanted

    def log_lines(self) -> tuple[int, int]:
        """How many lines agent and operator have logged."""
        return len(self.agent.log.read_text().splitlines()), len(self.operator.log_text().splitlines())

    def logs(self) -> str:
        """The ends of both logs."""
        logs = (self.agent.log.read_text(), self.operator.log_text())
        return "\n".join(line[:400] for log in logs for line in log.splitlines()[-20:])


@pytest.fixture(scope="session")
def faults_cluster() -> Iterator[FaultsCluster]:
    """The lane's control plane, with the project's kinds."""
    if existing_kubeconfig():
        skip_or_fail("A control plane of the harness is missing: etcd of an existing cluster is not ours to fill.")
    cluster = FaultsCluster.create(f"run-{os.getpid()}-faults", Owner.this_process())
    assert isinstance(cluster, FaultsCluster)
    try:
        cluster.start_control_plane()
        _apply_kinds(cluster)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def apply_kinds(faults_cluster: FaultsCluster) -> Callable[[], None]:
    """Has the project's kinds served."""
    return lambda: _apply_kinds(faults_cluster)


def _apply_kinds(cluster: OwnCluster) -> None:
    folder = str(REPOSITORY / "crds")
    cluster.kubectl("apply", "--server-side", "-f", folder)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", folder)


@pytest.fixture(scope="session")
def make_pair(faults_cluster: FaultsCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pair]]:
    """Makes a pair whose operator sees its own namespace only, or all but some."""
    with ExitStack() as stack:
        ways = stack.enter_context(gate(faults_cluster.server, faults_cluster.directory.pki))
        host = stack.enter_context(lab.netns("host"))
        folder = tmp_path_factory.mktemp("faults")

        def make(name: str, pods: int, others: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> Pair:
            if others:
                scope = Scope(
                    ",".join(f"metadata.namespace!={other}" for other in others),
                    ",".join(f"metadata.name!=node-{other}" for other in others),
                )
            else:
                scope = Scope(f"metadata.namespace={name}", f"metadata.name=node-{name}")
            pair = Pair(faults_cluster, ways, name, scope, folder / name, host)
            stack.callback(pair.stop)
            pair.start(pods, environment)
            return pair

        yield make
