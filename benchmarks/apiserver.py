"""A real API server for a benchmark, from the tests' harness, and thousands of objects in it within seconds.

Objects are put into etcd as the API server itself would store them, which takes a thousandth of the time of as many
requests; it serves, lists and watches them like all others.
"""

import base64
import http.client
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.pretend import node as pretend_node
from benchmarks.report import Missing
from sockethealth_core.names import AGENT_FIELD_MANAGER, API_VERSION, GROUP, OPERATOR_FIELD_MANAGER
from sockethealth_core.resources import SocketHealthSpec, Watchpoint, encode
from sockethealth_core.units import format_time

_TESTS: Final = Path(__file__).parents[1] / "tests"
_PUTS: Final = 100
NODES_PATH: Final = "/registry/minions/"
"""Where Nodes are in etcd; kube-apiserver keeps their first name there."""
NAMESPACES: Final = 20
PODS_A_NODE: Final = 30
_QUIET_SECONDS: Final = 1.0
_START: Final = 1_800_000_000.0

Item = tuple[str, dict[str, Any]]
"""Where an object is in etcd, and the object."""


class ApiServer:
    """A control plane of our own.

    Attributes:
        cluster: the harness's.
    """

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        ports = json.loads((cluster.directory.path / "ports.json").read_text())
        self._etcd = http.client.HTTPConnection("127.0.0.1", ports["etcd_client"], timeout=60)

    def put(self, items: Iterable[Item]) -> None:
        """Store objects, new or changed."""
        stored = [{"requestPut": {"key": _text(path), "value": _text(json.dumps(one))}} for path, one in items]
        # The last has a version of its own: a list of at least that version has everything before it.
        for start in range(0, len(stored) - 1, _PUTS):
            self._ask("/v3/kv/txn", {"success": stored[start : min(start + _PUTS, len(stored) - 1)]})
        self._ask("/v3/kv/txn", {"success": stored[-1:]})

    def clear(self) -> None:
        """Remove all of our objects that an agent writes."""
        for kind in ("sockethealths", "nodesockethealths"):
            first = f"/registry/{GROUP}/{kind}/"
            end = first[:-1] + chr(ord("/") + 1)
            self._ask("/v3/kv/deleterange", {"key": _text(first), "range_end": _text(end)})

    def until_quiet(self) -> None:
        """Wait until the API server has taken in what was put: its caches, and all who watch, follow etcd."""
        pid = self.pid("kube-apiserver")
        busy = _QUIET_SECONDS
        while busy > _QUIET_SECONDS / 5:
            before = cpu_seconds(pid)
            time.sleep(_QUIET_SECONDS)
            busy = cpu_seconds(pid) - before

    def pid(self, component: str) -> int:
        """The pid of a component of the control plane."""
        return next(pid for pid, name in self.processes().items() if name == component)

    def processes(self) -> dict[int, str]:
        """The components of the control plane, by pid."""
        from harness.processes import marked  # noqa: PLC0415 - see api_server

        return dict(marked(self.cluster.directory))

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._etcd.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._etcd.getresponse()
        document: dict[str, Any] = json.loads(answer.read())
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"etcd refused {path}: {document}")
        return document


def memory_mib(pid: int, name: str = "VmRSS") -> float:
    """Memory of a process by one of the names of proc_pid_status(5)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used, proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """A control plane with our CustomResourceDefinitions; it ends with this process, however that ends.

    Raises:
        Missing: it cannot be built or started here.
    """
    # The harness is the tests', and they are no part of what is installed.
    if str(_TESTS) not in sys.path:
        sys.path.append(str(_TESTS))
    from harness import requirements  # noqa: PLC0415
    from harness.cluster import OwnCluster  # noqa: PLC0415
    from harness.state import Owner  # noqa: PLC0415

    lacking = requirements.missing("api")
    if lacking:
        raise Missing(lacking)
    cluster = OwnCluster.create(f"bench-{os.getpid()}", Owner.this_process())
    try:
        cluster.start_control_plane()
        cluster.kubectl("apply", "--server-side", "-f", str(_TESTS.parent / "crds"))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        # Its watch cache of a kind begins with the first request for it, and would read all objects once more.
        cluster.kubectl("get", "sockethealths,nodesockethealths", "--all-namespaces")
        yield ApiServer(cluster)
    finally:
        cluster.close()


def objects(nodes: int, pods: int, watchpoints: Iterable[Watchpoint], health: str = "Healthy") -> Iterator[Item]:
    """NodeSocketHealths and SocketHealths of so many nodes and pods, as agents and operator leave them."""
    points = [encode(point) for point in watchpoints]
    for index in range(nodes):
        yield node_health(f"node-{index}", points)
    templates = _statuses()
    for index in range(pods):
        yield socket_health(index, f"node-{index % nodes}", templates[index % len(templates)], health)


def bare_node(name: str) -> dict[str, Any]:
    """A Node of which no more is known."""
    metadata = {"name": name, "uid": _uid(name), "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}, "status": {}}


def node_health(name: str, watchpoints: list[Any]) -> Item:
    """A NodeSocketHealth whose agent is heard of once an hour, so that nobody is silent while it is measured."""
    agent = {
        "version": "bench",
        "heartbeatTime": format_time(time.time()),
        "intervalSeconds": 3600,
        "bootID": "00000000-0000-4000-8000-000000000000",
        "kernel": "6.18.0",
    }
    status = {"observedTime": format_time(time.time()), "pods": PODS_A_NODE, "agent": agent, "health": "Healthy"}
    return (
        f"/registry/{GROUP}/nodesockethealths/{name}",
        _stored("NodeSocketHealth", "", name, {"spec": {"watchpoints": watchpoints}, "status": status}),
    )


def socket_health(index: int, node_name: str, status: Mapping[str, Any], health: str = "Healthy") -> Item:
    """A SocketHealth."""
    namespace, name = f"bench-{index % NAMESPACES}", f"app-{index % 997}-6d4cf56db6-{index}"
    spec = encode(
        SocketHealthSpec(node_name=node_name, pod_uid=_uid(index), pod_ips=[f"10.{index >> 8}.{index & 255}"])
    )
    fields = {"spec": spec, "status": {**status, **({"health": health} if health else {})}}
    return (
        f"/registry/{GROUP}/sockethealths/{namespace}/{name}",
        _stored("SocketHealth", namespace, name, fields),
    )


def _statuses() -> list[dict[str, Any]]:
    node = pretend_node("template", 1, 10.0, idle=90, steady=10, churning=10)
    for index in range(8):
        last = node.sweep(_START + 10.0 * index, (), 0.0)
    return [encode(one.facts) for one in last.sweep.pods.values() if one.facts.sockets.time_wait < 450]


def _stored(kind: str, namespace: str, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "uid": _uid(name),
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"app": name.rpartition("-")[0], "pod-template-hash": "6d4cf56db6"},
        "managedFields": [
            _managed(AGENT_FIELD_MANAGER, "", {"spec": fields["spec"]}),
            _managed(AGENT_FIELD_MANAGER, "status", {"status": fields["status"]}),
            _managed(OPERATOR_FIELD_MANAGER, "status", {"status": {"health": ""}}),
        ],
    }
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, **fields}


def _managed(manager: str, subresource: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": API_VERSION,
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": _owned(fields),
        **({"subresource": subresource} if subresource else {}),
    }


def _owned(fields: Any) -> dict[str, Any]:
    return {f"f:{name}": _owned(value) for name, value in fields.items()} if isinstance(fields, Mapping) else {}


def _uid(name: str | int) -> str:
    return f"{hash(str(name)) & 0xFFFFFFFF:08x}-0000-4000-8000-{abs(hash(('uid', name))) & 0xFFFFFFFFFFFF:012x}"


def _text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()
