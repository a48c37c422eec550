"""What tests of the operator share: the operator as a process of its own, and an agent that states what it is told."""

import itertools
import json
import os
import secrets
import signal
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kubernetes.client import ApiException, CoordinationV1Api
from kubernetes.dynamic import DynamicClient

from forked import Forked
from harness import network
from harness.access import ClusterAccess
from harness.waiting import until
from sockethealth_core.names import (
    AGENT_FIELD_MANAGER,
    ANNOTATION_FINDINGS,
    API_VERSION,
    GROUP,
    VERSION,
    WORKLOAD_ANNOTATIONS,
)
from sockethealth_core.units import format_time

SECONDS = 20
_OURS = f"/apis/{GROUP}/{VERSION}"
_CLOSE_WAIT_RULE = {
    "name": "leak",
    "detector": "CloseWaitLeak",
    "threshold": 50,
    "clearThreshold": 10,
    "for": "1s",
    "clearAfter": "1s",
    "severity": "Warning",
    "parameters": {"minAge": "0s"},
}


class OperatorProcess:
    """The operator's own program, with the options that a pod gives it, with its log in a file.

    Args:
        kubeconfig: who it is, and on which cluster.
        log: the file.
        lease: the Lease it takes, as namespace/name. By default a new one at each start, so that it leads at once
            although the one that was killed before has not released its own.
        instance: its name in Events and in the Lease.
        options: further options of the command line.

    Attributes:
        leases: names of the Leases it was told, as above.
    """

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *,
        lease: str = "",
        instance: str = "operator-of-a-test",
        options: Sequence[str] = (),
    ) -> None:
        self._kubeconfig = kubeconfig
        self._log = log
        self._lease = lease
        self._instance = instance
        self._options = options
        self.leases: list[str] = []
        self._process: Forked | None = None
        self._health, self._metrics = network.free_ports(2)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.leases.append(self._lease or f"default/operator-of-a-test-{secrets.token_hex(4)}")
        arguments = [
            "run",
            f"--kubeconfig={self._kubeconfig}",
            f"--health-address=127.0.0.1:{self._health}",
            f"--metrics-address=127.0.0.1:{self._metrics}",
            f"--instance={self._instance}",
            f"--lease={self.leases[-1]}",
            *self._options,
        ]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("KUBE")}
        self._process = Forked("sockethealth_operator.main", arguments, self._log, environment)
        until(self._ready, "the operator to be ready", seconds=SECONDS, explain=self.log_text)

    @property
    def pid(self) -> int:
        """Of its process, once it is started."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it without warning, as a crash would."""
        self.hit()
        self.wait_for_the_end()

    def hit(self) -> None:
        """Kill it and return at once; :meth:`wait_for_the_end` waits until it is gone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)

    def wait_for_the_end(self) -> int:
        """Wait until the process has ended; its exit code, negative for a signal."""
        assert self._process is not None
        return self._process.wait(timeout=SECONDS)

    def freeze(self) -> None:
        """Have it stand still, as a machine does that is paused."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on where it stood still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it as kubelet does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self.wait_for_the_end()

    def leads(self) -> bool:
        """Whether it says that it leads."""
        return self.metric("sockethealth_operator_leading") == 1

    def log_text(self) -> str:
        """Everything it has logged."""
        return self._log.read_text()

    def log_lines(self, logger: str = "") -> list[dict[str, Any]]:
        """What it has logged, of one logger or of all."""
        lines = [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["logger"].startswith(logger)]

    def metric(self, sample: str) -> float:
        """One sample of its metrics, named with its labels; 0 when it is not there."""
        text = _fetch(f"http://127.0.0.1:{self._metrics}/metrics")
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(sample + " ")), 0.0)

    def _ready(self) -> bool:
        try:
            return _fetch(f"http://127.0.0.1:{self._health}/readyz") == "ok\n"
        except OSError:
            return False


@contextmanager
def running_operator(cluster: ClusterAccess, folder: Path, kubeconfig: Path | None = None) -> Iterator[OperatorProcess]:
    """An operator on a cluster, as its administrator or as the kubeconfig says."""
    process = OperatorProcess(kubeconfig or cluster.kubeconfig, folder / "operator.log")
    process.start()
    try:
        yield process
    finally:
        process.stop()
        delete_leases(cluster, process.leases)


def delete_leases(cluster: ClusterAccess, names: Iterable[str]) -> None:
    """Delete Leases, each named as namespace/name, as far as they are there."""
    coordination = CoordinationV1Api(cluster.core.api_client)
    for lease in set(names):
        namespace, _, name = lease.partition("/")
        try:
            coordination.delete_namespaced_lease(name, namespace)
        except ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise


class Stage:
    """One namespace with pods on a node of its own, whose agent is played here."""

    def __init__(self, cluster: ClusterAccess, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.node = f"stage-{secrets.token_hex(4)}"
        self._beats = itertools.count()
        self._api: DynamicClient = cluster.dynamic

    @classmethod
    @contextmanager
    def set_up(cls, cluster: ClusterAccess, namespace: str) -> Iterator["Stage"]:
        """A stage whose node reports, and is taken away at the end."""
        stage = cls(cluster, namespace)
        stage.heartbeat()
        try:
            yield stage
        finally:
            cluster.delete("nodesockethealth", stage.node)
            # Of any namespace, a policy counts for what is watched on all nodes; its namespace takes a while to go.
            policies = cluster.get("sockethealthpolicies", "-n", namespace)["items"]
            cluster.delete("sockethealthpolicy", *(one["metadata"]["name"] for one in policies), namespace=namespace)

    def heartbeat(self, interval_seconds: float = 600, at: float | None = None) -> None:
        """What the agent writes once an interval.

        Args:
            interval_seconds: the interval it states; the default lets no test see it silent.
            at: epoch seconds it states; the default grows with each call.
        """
        time = 1_900_000_000 + next(self._beats) if at is None else at
        agent = {"version": "test", "heartbeatTime": format_time(time), "intervalSeconds": interval_seconds}
        self._apply(f"{_OURS}/nodesockethealths", "NodeSocketHealth", self.node, {})
        self._apply(f"{_OURS}/nodesockethealths", "NodeSocketHealth", self.node, {"status": {"agent": agent}}, "status")

    def report(self, pod: str, *, close_wait: int = 0, peer: str = "10.9.8.7", port: int = 6379) -> None:
        """What the agent writes of a pod whose application has not closed so many connections."""
        metadata = self.get("pods", pod)["metadata"]
        uid, labels = metadata["uid"], metadata.get("labels", {})
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        self._apply(
            self._health_path,
            "SocketHealth",
            pod,
            {
                "metadata": {"labels": labels, "ownerReferences": [owner]},
                "spec": {"nodeName": self.node, "podUID": uid},
            },
        )
        facts = {
            "observedTime": format_time(1_900_000_000),
            "sockets": {"closeWait": close_wait, "established": 1},
            "closeWait": {"peers": [{"address": peer, "port": port, "count": close_wait}]},
        }
        self._apply(self._health_path, "SocketHealth", pod, {"status": facts}, "status")

    def policy(self, name: str = "stage", *, rule: Mapping[str, Any] | None = None, **spec: Any) -> None:
        """A SocketHealthPolicy with one rule; by default a Warning for 50 CLOSE_WAIT held for a second."""
        rules = [{**_CLOSE_WAIT_RULE, **(rule or {})}]
        document = {
            "apiVersion": API_VERSION,
            "kind": "SocketHealthPolicy",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"rules": rules, **spec},
        }
        self.apply(document)

    def apply(self, document: Mapping[str, Any]) -> None:
        """Apply one object, in the namespace where it names none."""
        self.cluster.apply(document, namespace=self.namespace)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object of the namespace."""
        return self.cluster.get(kind, name, "-n", self.namespace)

    def pod(self, name: str, owner: Mapping[str, Any] | None = None) -> str:
        """A pod that no scheduler places; its name."""
        metadata = {"name": name, "namespace": self.namespace}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata | ({"ownerReferences": [owner]} if owner else {}),
                "spec": pod_template()["spec"],
            }
        )
        return name

    def pods_of(self, app: str, count: int = 1) -> list[str]:
        """Names of the pods with a label, once there are so many."""
        names: list[str] = []

        def there() -> bool:
            items = self.cluster.get("pods", "-n", self.namespace, "-l", f"app={app}")["items"]
            names[:] = sorted(item["metadata"]["name"] for item in items)
            return len(names) == count

        # The controllers take a while to come back after an outage of the API server.
        until(there, f"{count} pods of {app}", seconds=3 * SECONDS)
        return names

    def deployment(self, name: str = "web", replicas: int = 1) -> list[str]:
        """A Deployment whose pods no scheduler places; their names."""
        spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pod_template(name)}
        self.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
        return self.pods_of(name, replicas)

    def status(self, pod: str) -> dict[str, Any]:
        """Status of a pod's SocketHealth."""
        status: dict[str, Any] = self.get("sockethealth", pod).get("status", {})
        return status

    def finding_types(self, pod: str) -> list[tuple[str, str]]:
        """Type and severity of a pod's findings."""
        return [(finding["type"], finding["severity"]) for finding in self.status(pod).get("findings", [])]

    def annotations(self, kind: str, name: str) -> dict[str, str]:
        """The project's annotations of an object."""
        annotations = self.get(kind, name)["metadata"].get("annotations", {})
        return {key: value for key, value in annotations.items() if key in WORKLOAD_ANNOTATIONS}

    def entries(self, kind: str, name: str) -> list[dict[str, Any]]:
        """What an object's annotation says is found on its pods."""
        found: list[dict[str, Any]] = json.loads(self.annotations(kind, name).get(ANNOTATION_FINDINGS, "[]"))
        return found

    def events(self, kind: str, name: str, reason: str) -> list[dict[str, Any]]:
        """The operator's Events of one reason on one object."""
        return [
            event
            for event in self.cluster.get("events.events.k8s.io", "-n", self.namespace)["items"]
            if (event["regarding"]["kind"], event["regarding"]["name"], event["reason"]) == (kind, name, reason)
        ]

    def wait(self, condition: Callable[[], bool], what: str, operator: OperatorProcess | None = None) -> None:
        """Wait for what the operator does; its log is shown when it does not."""
        # Each look is several requests: what a test waits for must not be what keeps the API server busy.
        explain = operator.log_text if operator else lambda: ""
        until(condition, what, seconds=SECONDS, poll_seconds=0.2, explain=explain)

    @property
    def _health_path(self) -> str:
        return f"{_OURS}/namespaces/{self.namespace}/sockethealths"

    def _apply(self, path: str, kind: str, name: str, fields: Mapping[str, Any], subresource: str = "") -> None:
        metadata = {"name": name, **fields.get("metadata", {})}
        body = {"apiVersion": API_VERSION, "kind": kind, **fields, "metadata": metadata}
        self._api.request(
            "patch",
            "/".join(part for part in (path, name, subresource) if part),
            body=body,
            content_type="application/apply-patch+yaml",
            field_manager=AGENT_FIELD_MANAGER,
            force_conflicts=True,
            query_params=[],
        )


def pod_template(app: str = "") -> dict[str, Any]:
    """A pod that asks for a node nobody has, so that it stays where it is."""
    spec = {
        "nodeSelector": {"sockethealth.io/no-such-node": "true"},
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "none.invalid/none:1"}],
    }
    return {"metadata": {"labels": {"app": app}}, "spec": spec}


def _fetch(url: str) -> str:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text
