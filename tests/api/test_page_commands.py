"""What the pages say to type in a cluster where `shop` is in trouble, typed where an API server has just those objects.

Agent, operator and controllers are not needed for what kubectl shows: the test writes what they would.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pages
from harness.binaries import client_path
from harness.cluster import ExistingCluster, OwnCluster
from harness.waiting import until
from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.detectors import Subject
from sockethealth_core.engine import evaluate
from sockethealth_core.names import API_VERSION, OPERATOR_FIELD_MANAGER
from sockethealth_core.policy import compile_policy
from sockethealth_core.resources import (
    CloseWait,
    Destination,
    EphemeralPorts,
    Facts,
    Judgement,
    Owner,
    Sockets,
    Target,
    TimeWait,
    encode,
)
from sockethealth_core.resources.sockethealth import AgeCount, Peer, Rates
from sockethealth_core.units import format_time

pytestmark = pytest.mark.api

NAMESPACE = "shop"
NODE = "node-a"
RAISED_SECONDS_AGO = 754
"""12m34s."""
SECONDS = 60
REPLICA_SET = "cart-5f5b8848c"
REDIS = Destination(
    address="10.96.14.3",
    port=6379,
    used=24_112,
    used_percent=85.4,
    time_wait=24_100,
    closes_per_second=401.7,
    seconds_to_exhaustion=12.0,
)
API = Destination(address="10.96.0.1", port=443, used=3)
CART = Facts(
    sockets=Sockets(established=12, time_wait=24_102, close_wait=180, listen=2),
    time_wait=TimeWait(outbound=24_100, inbound=2, closes_per_second=401.7),
    close_wait=CloseWait(
        oldest_seconds=400,
        receive_queue_bytes=5000,
        ages=[AgeCount(older_than_seconds=60, count=180)],
        owners=[Owner(container="app", process="java", pid=4242, count=180)],
        peers=[Peer(address="10.244.1.9", port=8080, count=180)],
    ),
    ephemeral_ports=EphemeralPorts(destinations=[REDIS, API]),
    rates=Rates(active_opens=402, segments_out=2100, retransmits=1),
)
CHURNING = Facts(
    sockets=Sockets(established=12, time_wait=24_102),
    time_wait=CART.time_wait,
    ephemeral_ports=CART.ephemeral_ports,
)
LEAKING = Facts(
    sockets=Sockets(established=31, time_wait=4, close_wait=200),
    close_wait=CloseWait(oldest_seconds=400, ages=[AgeCount(older_than_seconds=60, count=200)]),
    ephemeral_ports=EphemeralPorts(destinations=[Destination(address="10.96.0.9", port=80, used=30, used_percent=0.1)]),
)
SERVING = Facts(
    sockets=Sockets(established=840, time_wait=1203, listen=1),
    time_wait=TimeWait(inbound=1203, closes_per_second=20),
    ephemeral_ports=EphemeralPorts(
        destinations=[Destination(address="10.96.0.9", port=80, used=640, used_percent=2.3)]
    ),
)
OF_THE_DEPLOYMENT = {f"{REPLICA_SET}-9f925": CART, f"{REPLICA_SET}-sjm6p": Facts(sockets=Sockets(established=3))}
OTHERS = {"cart-7c9f6d5b8-x2x9k": CHURNING, "orders-5d8c9b7f6-9qk4z": LEAKING, "web-6f7d8c9b5-lmn2p": SERVING}
PODS = {"docs/cli.md": OF_THE_DEPLOYMENT, "docs/index.md": OTHERS, "README.md": OTHERS}
"""Those that each page shows."""
_Object = dict[str, Any]
WIDE = {"name": "net.ipv4.ip_local_port_range", "value": "10240 64999"}
AUDITED = "Audit: Enforce would change 2 of 3 nodes; see status.sysctlProfiles of their NodeSocketHealth."
ROLLING = "3 of 5 nodes have the values. Watching node-d for 30 s."


def named(target: Target) -> Target:
    """With the name that the operator knows it by."""
    if target.address != REDIS.address:
        return target
    return Target(address=target.address, port=target.port, name="Service shop/redis")


def judgement(pod: str, facts: Facts, now: float) -> Judgement:
    """What the default policy makes of facts that have lasted."""
    rules = [replace(rule, for_seconds=0.0) for rule in compile_policy(DEFAULT_POLICY).rules]
    subject = Subject("pod", pod, NAMESPACE)
    return evaluate(subject, facts, rules, Judgement(), now - RAISED_SECONDS_AGO, name_target=named).judgement


class Shop:
    """Writes the objects of the pages, and takes away those that are in no namespace."""

    def __init__(self, cluster: OwnCluster | ExistingCluster) -> None:
        self.cluster = cluster
        self._now = time.time()
        self._shown: dict[str, Facts] = {}
        self._uids: dict[str, str] = {}

    def open(self) -> None:
        """Write everything."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        until(lambda: bool(self._named("serviceaccounts")), "the account", seconds=SECONDS)
        self._deployment()
        heartbeat = {"version": "0.1.0", "heartbeatTime": format_time(self._now - 24), "intervalSeconds": 600}
        node = {
            "health": "Healthy",
            "agent": heartbeat,
            "pods": 2,
            "sockets": {"established": 31, "timeWait": 24_102, "closeWait": 180},
            "hostSockets": {"established": 16, "listen": 6},
            "tcpMemory": {"pages": 812, "low": 188_000, "pressure": 251_000, "high": 376_000},
            "orphans": {"count": 3, "maximum": 131_072},
            "conntrack": {"entries": 900, "maximum": 262_144},
            "sysctlWriter": {"version": "0.1.0"},
            "sysctlProfiles": [self._audited(*OF_THE_DEPLOYMENT)],
        }
        other = {"agent": heartbeat, "sysctlWriter": {"version": "0.1.0"}, "sysctlProfiles": [self._audited()]}
        self._write(
            _object("NodeSocketHealth", NODE, status=node),
            _object("NodeSocketHealth", "node-b", status=other),
            self._profile("wider-ports", "Audit", {"selected": 3, "audited": 3}, "False", "Audited", AUDITED),
            self._profile("big-queues", "Enforce", {"selected": 5, "applied": 3}, "True", "RollingOut", ROLLING),
        )

    def show(self, pods: dict[str, Facts]) -> None:
        """Write these pods' objects, and no others."""
        if pods is not self._shown:
            self._shown = pods
            self.cluster.delete("sockethealth", *self._named("sockethealths"), namespace=NAMESPACE)
            self._write(*(self._health(pod, facts) for pod, facts in pods.items()))

    def _named(self, kind: str) -> list[str]:
        """Names of the objects of a kind."""
        return [one["metadata"]["name"] for one in self.cluster.get(kind, "-n", NAMESPACE)["items"]]

    def close(self) -> None:
        """Take everything away."""
        for kind, names in (("nodesockethealth", (NODE, "node-b")), ("sysctlprofile", ("wider-ports", "big-queues"))):
            self.cluster.delete(kind, *names)
        self.cluster.delete("namespace", NAMESPACE)

    def apply(self, *objects: dict[str, Any], subresource: str = "") -> None:
        """Write the objects as the operator does."""
        self.cluster.apply(*objects, manager=OPERATOR_FIELD_MANAGER, subresource=subresource)

    def _write(self, *objects: dict[str, Any]) -> None:
        """Write the objects and then their status."""
        self.apply(*objects)
        self.apply(*objects, subresource="status")

    def _deployment(self) -> None:
        """Two pods with the pages' names, adopted by a ReplicaSet that a Deployment adopts."""
        labels = {"app": "cart"}
        hashed = labels | {"pod-template-hash": REPLICA_SET.removeprefix("cart-")}
        container = {"name": "app", "image": "none.invalid/none", "ports": [{"containerPort": 8080}]}
        container["ports"].append({"containerPort": 15_021})
        spec = {"containers": [container], "nodeSelector": {"nobody": "has-this"}}
        self.apply(*(_object("Pod", pod, {"labels": hashed}, "v1", spec=spec) for pod in OF_THE_DEPLOYMENT))
        for kind, name, chosen in (("ReplicaSet", REPLICA_SET, hashed), ("Deployment", "cart", labels)):
            template = {"metadata": {"labels": chosen}, "spec": spec}
            whole = {"replicas": 2, "selector": {"matchLabels": chosen}, "template": template}
            self.apply(_object(kind, name, {"labels": chosen}, "apps/v1", spec=whole))

        def owner(kind: str, name: str) -> list[str]:
            owners = self.cluster.get(kind, name, "-n", NAMESPACE)["metadata"].get("ownerReferences", [])
            return [one["name"] for one in owners]

        until(lambda: owner("replicaset", REPLICA_SET) == ["cart"], "the Deployment to adopt", seconds=SECONDS)
        for pod in OF_THE_DEPLOYMENT:
            until(lambda pod=pod: owner("pod", pod) == [REPLICA_SET], f"{pod} to be adopted", seconds=SECONDS)
            self._uids[pod] = self.cluster.get("pod", pod, "-n", NAMESPACE)["metadata"]["uid"]

    def _health(self, pod: str, facts: Facts) -> dict[str, Any]:
        status = encode(facts) | encode(judgement(pod, facts, self._now)) | {"observedTime": format_time(self._now - 8)}
        return _object("SocketHealth", pod, spec={"nodeName": NODE, "podUID": self._uids.get(pod, "")}, status=status)

    def _profile(
        self, name: str, mode: str, nodes: dict[str, int], progressing: str, reason: str, message: str
    ) -> _Object:
        condition = {"type": "Progressing", "status": progressing, "reason": reason, "message": message}
        status = {"nodes": nodes, "conditions": [condition | {"lastTransitionTime": format_time(self._now)}]}
        return _object("SysctlProfile", name, spec={"mode": mode, "target": "Pods", "sysctls": [WIDE]}, status=status)

    @staticmethod
    def _audited(*pods: str) -> dict[str, Any]:
        found = {"name": WIDE["name"], "found": "32768 60999", "wanted": WIDE["value"]}
        changes = [{"where": f"{NAMESPACE}/{pod}"} | found for pod in pods]
        return {"profile": "wider-ports", "revision": "r", "state": "Audited", "mode": "Audit", "changes": changes}


def _object(
    kind: str, name: str, metadata: dict[str, Any] | None = None, version: str = API_VERSION, **parts: Any
) -> dict[str, Any]:
    place = {} if kind in {"NodeSocketHealth", "SysctlProfile"} else {"namespace": NAMESPACE}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name} | place | (metadata or {})} | parts


@pytest.fixture(scope="module")
def shop(control_plane: OwnCluster | ExistingCluster, crds: Path) -> Iterator[Shop]:
    made = Shop(control_plane)
    try:
        made.open()
        yield made
    finally:
        made.close()


def form(line: str) -> str:
    """A line without times, ages, and the width of columns."""
    line = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", line)
    return " ".join(re.sub(r"\b(\d+[dhms])+\b", "AGE", line).split())


@pytest.mark.parametrize("block", pages.that_run("objects"), ids=lambda block: f"{block.page}:{block.line}")
def test_the_commands_run_and_print_what_the_page_shows(block, shop):
    shop.show(PODS[block.page])
    folders = [Path(sys.executable).parent, client_path("kubectl").parent]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.script],
        env={
            **os.environ,
            "PATH": ":".join([*map(str, folders), os.environ["PATH"]]),
            "KUBECONFIG": str(shop.cluster.kubeconfig),
            "COLUMNS": "100" if "profiles" in block.script else "80",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == block.exit_code, done.stdout
    printed = [form(line) for line in done.stdout.splitlines()]
    for line in block.output.splitlines():
        if not line.strip().startswith("["):
            assert form(line) in printed, f"no line like {line!r} in\n{done.stdout}"
