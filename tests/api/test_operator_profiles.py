"""Roll-outs over fifty nodes: real API server, operator process and sysctl writers; only /proc/sys is simulated."""

import errno
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from harness.access import ClusterAccess
from harness.waiting import until
from operator_lab import OperatorProcess, Stage, pod_template, running_operator
from sockethealth_agent.kubeapi import AwayError, Endpoint, KubeApi
from sockethealth_agent.pods import PodInfo, pods_of
from sockethealth_agent.sysctls.applier import Applier
from sockethealth_agent.sysctls.disk import Disk
from sockethealth_agent.sysctls.journal import NODE, Journal
from sockethealth_agent.sysctls.namespaces import Look, Namespace
from sockethealth_agent.sysctls.tree import Tree
from sockethealth_agent.sysctls.writer import SysctlWriter
from sockethealth_agent.watching import Collection, Mirror
from sockethealth_core.names import AGENT_FIELD_MANAGER, ANNOTATION_RETRY, API_VERSION, GROUP, VERSION
from sockethealth_core.resources import NodeSocketHealth
from sockethealth_core.resources import SysctlWriter as WriterIdentity
from sockethealth_core.sysctls import NODE_PORTS, path_of
from sockethealth_core.units import format_time, parse_time

pytestmark = pytest.mark.api

NODES = 50
BATCH = 5
SECONDS = 30
FIN_TIMEOUT = "net.ipv4.tcp_fin_timeout"
SOMAXCONN = "net.core.somaxconn"
KERNEL = {FIN_TIMEOUT: "60", SOMAXCONN: "4096"}
NODE_HEALTHS = f"/apis/{GROUP}/{VERSION}/nodesockethealths"


class Kernel(Disk):
    """Files that take values as /proc/sys does: a write replaces the value, or is refused; each is noted."""

    def __init__(self) -> None:
        self.refuses = False
        self.taken: list[str] = []

    def write(self, file: int, data: bytes) -> int:
        if self.refuses:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.taken.append(data.decode().strip())
        os.ftruncate(file, 0)
        return super().write(file, data)


class SimulatedNode:
    """A node with a tree of its own in place of /proc/sys/net, and the agent's own sysctl writer on it."""

    def __init__(
        self, name: str, folder: Path, api: KubeApi, own: Mirror[NodeSocketHealth], pods: Mirror[PodInfo]
    ) -> None:
        self.name = name
        self.root = folder / "net"
        self.kernel = Kernel()
        for sysctl, value in KERNEL.items():
            file = self.root / path_of(sysctl)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value + "\n")
        (folder / "journal").mkdir()
        journal = Journal(folder / "journal", "boot-1")
        journal.open()
        applier = Applier(self, journal, node_ports=NODE_PORTS, tree=Tree(self.kernel))
        identity = WriterIdentity(version="test", boot_id="boot-1")
        self.writer = SysctlWriter(api, name, applier, identity=identity, own=own, pods=pods)

    def look(self, *, pods: bool) -> Look:  # noqa: ARG002 (as the writer asks)
        """The only network namespace of this node is its own."""
        return Look(Namespace(NODE, self.root, lambda: nullcontext("netns-1"), frozenset))

    def value(self, sysctl: str) -> str:
        return (self.root / path_of(sysctl)).read_text().strip()

    def set(self, sysctl: str, value: str) -> None:
        """As an administrator would."""
        (self.root / path_of(sysctl)).write_text(value + "\n")


class Watching:
    """What the specs of nodes said of one profile while it was watched, in the API server's order.

    Attributes:
        asked: nodes that were ever asked to put it in force.
        most_at_once: most nodes that were asked for a revision and had not said yet that it is in force.
    """

    def __init__(self, profile: str) -> None:
        self._profile = profile
        self._changing: set[str] = set()
        self.asked: set[str] = set()
        self.most_at_once = 0

    def take(self, event: Mapping[str, Any]) -> None:
        name, status = event["object"]["metadata"].get("name", ""), event["object"].get("status") or {}
        assigned = self._mine((event["object"].get("spec") or {}).get("sysctlProfiles"))
        report = self._mine(status.get("sysctlProfiles"))
        self._changing.discard(name)
        if assigned and assigned["mode"] == "Enforce":
            self.asked.add(name)
            if (report or {}).get("revision") != assigned["revision"] or report["state"] != "Applied":
                self._changing.add(name)
        self.most_at_once = max(self.most_at_once, len(self._changing))

    def _mine(self, entries: list[dict[str, Any]] | None) -> dict[str, Any] | None:
        return next((entry for entry in entries or [] if entry["profile"] == self._profile), None)


class Fleet:
    """Fifty nodes whose writers are stepped by one thread, and the profiles of one test."""

    def __init__(self, cluster: ClusterAccess, folder: Path) -> None:
        self.cluster = cluster
        self.pool = f"pool-{secrets.token_hex(4)}"
        self.api = KubeApi(Endpoint(cluster.server, ca_file=str(cluster.ca_file), token=cluster.admin_token))
        # One mirror of all nodes in place of one for each: fifty threads less, and the writers cannot tell.
        own = Collection(NODE_HEALTHS, {}, self._read, lambda node: node.metadata.name)
        self._own, self._pods = Mirror(self.api, own), pods_of(self.api, self.pool)
        self.nodes = [
            SimulatedNode(f"{self.pool}-{number:02}", folder / str(number), self.api, self._own, self._pods)
            for number in range(NODES)
        ]
        self._stop = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        for node in self.nodes:
            labels = {"pool": self.pool, "number": node.name[-2:]}
            self._apply("/api/v1/nodes", "v1", "Node", node.name, {"metadata": {"labels": labels}})
            self._apply(NODE_HEALTHS, API_VERSION, "NodeSocketHealth", node.name, {})
            agent = {"version": "test", "heartbeatTime": format_time(time.time()), "intervalSeconds": 3600}
            status = {"observedTime": format_time(time.time()), "agent": agent}
            self._apply(NODE_HEALTHS, API_VERSION, "NodeSocketHealth", node.name, {"status": status}, "/status")
        for mirror in (self._own, self._pods):
            mirror.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for mirror in (self._own, self._pods):
            mirror.stop()
        for node in self.nodes:
            self.api.delete(f"{NODE_HEALTHS}/{node.name}")
            self.api.delete(f"/api/v1/nodes/{node.name}")
        self.api.close()
        if self.error:
            raise self.error

    @staticmethod
    def _read(raw: bytes) -> NodeSocketHealth:
        return msgspec.json.decode(raw, type=NodeSocketHealth, strict=False)

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.02):
                for node in self.nodes:
                    node.writer.step()
        except BaseException as error:  # noqa: BLE001 (shown at the end, by the thread that can)
            self.error = error

    def _apply(
        self, path: str, api_version: str, kind: str, name: str, fields: Mapping[str, Any], subresource: str = ""
    ) -> None:
        metadata = {"name": name, **fields.get("metadata", {})}
        body = {"apiVersion": api_version, "kind": kind, **fields, "metadata": metadata}
        self.api.apply(f"{path}/{name}{subresource}", body, manager=AGENT_FIELD_MANAGER)

    def values(self, sysctl: str) -> list[str]:
        return [node.value(sysctl) for node in self.nodes]

    def changed(self, sysctl: str) -> list[str]:
        """Nodes whose value is not the kernel's."""
        return [node.name for node in self.nodes if node.value(sysctl) != KERNEL[sysctl]]

    def spec_of(self, node: str, profile: str) -> dict[str, Any] | None:
        raw = json.loads(self.api.get(f"{NODE_HEALTHS}/{node}"))
        return next((e for e in raw.get("spec", {}).get("sysctlProfiles", []) if e["profile"] == profile), None)

    def report_of(self, node: str, profile: str) -> dict[str, Any] | None:
        raw = json.loads(self.api.get(f"{NODE_HEALTHS}/{node}"))
        return next((r for r in raw["status"].get("sysctlProfiles", []) if r["profile"] == profile), None)

    @contextmanager
    def watched(self, profile: str) -> Iterator[Watching]:
        """Watch every version of the nodes' specs from before the block to its end."""
        seen = Watching(profile)
        version = json.loads(self.api.get(NODE_HEALTHS, {"limit": "1"}))["metadata"]["resourceVersion"]
        watch = self.api.watch(NODE_HEALTHS, {"resourceVersion": version}, server_seconds=240)

        def read() -> None:
            try:
                for line in watch:
                    seen.take(json.loads(line))
            except AwayError:
                return  # interrupted

        with watch:
            thread = threading.Thread(target=read)
            thread.start()
            try:
                yield seen
            finally:
                watch.interrupt()
                thread.join()


class Profile:
    """A SysctlProfile of a test."""

    def __init__(self, fleet: Fleet, operator: OperatorProcess, name: str) -> None:
        self.name = f"{name}-{secrets.token_hex(3)}"
        self._fleet = fleet
        self._operator = operator

    def apply(
        self, *, numbers: frozenset[str] | set[str] = frozenset(), values: Mapping[str, str] | None = None, **spec: Any
    ) -> None:
        rollout = {"maxConcurrentNodes": BATCH, "pauseSeconds": 0, **spec.pop("rollout", {})}
        selector: dict[str, Any] = {"matchLabels": {"pool": self._fleet.pool}}
        if numbers:
            selector["matchExpressions"] = [{"key": "number", "operator": "In", "values": sorted(numbers)}]
        document = {
            "apiVersion": API_VERSION,
            "kind": "SysctlProfile",
            "metadata": {"name": self.name},
            "spec": {
                "mode": "Enforce",
                "target": "Node",
                "nodeSelector": selector,
                "sysctls": [{"name": n, "value": v} for n, v in (values or {FIN_TIMEOUT: "30"}).items()],
                "rollout": rollout,
                **spec,
            },
        }
        self._fleet.cluster.apply(document)

    def delete(self) -> None:
        self._fleet.cluster.delete("sysctlprofile", self.name, wait=True)

    @property
    def status(self) -> dict[str, Any]:
        raw = json.loads(self._fleet.api.get(f"/apis/{GROUP}/{VERSION}/sysctlprofiles/{self.name}"))
        status: dict[str, Any] = raw.get("status", {})
        return status

    def phase(self) -> str:
        phase: str = self.status.get("rollout", {}).get("phase", "")
        return phase

    def condition(self, kind: str) -> dict[str, Any]:
        conditions = self.status.get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def events(self, reason: str) -> list[dict[str, Any]]:
        return [
            event
            for event in self._fleet.cluster.get("events.events.k8s.io", "-n", "default")["items"]
            if event["regarding"]["name"] == self.name and event["reason"] == reason
        ]

    def wait_phase(self, phase: str) -> None:
        self.wait(lambda: self.phase() == phase, f"phase {phase}")

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        def met() -> bool:
            if self._fleet.error:
                raise self._fleet.error
            return bool(condition())

        until(met, what, seconds=SECONDS, explain=lambda: json.dumps(self.status) + self._operator.log_text())


@pytest.fixture(scope="module")
def fleet(control_plane, crds, tmp_path_factory):
    with Fleet(control_plane, tmp_path_factory.mktemp("fleet")) as made:
        yield made


@pytest.fixture(scope="module")
def operator(control_plane, crds, tmp_path_factory):
    with running_operator(control_plane, tmp_path_factory.mktemp("operator")) as process:
        yield process


@pytest.fixture
def profile(fleet, operator):
    made = []

    def make(name="wide"):
        made.append(Profile(fleet, operator, name))
        return made[-1]

    yield make
    for one in made:
        one.delete()
    for node in fleet.nodes:
        node.kernel.refuses = False

    def all_back():
        return not fleet.changed(FIN_TIMEOUT) and not fleet.changed(SOMAXCONN)

    until(all_back, "all values to be put back", seconds=SECONDS, explain=operator.log_text)


def test_a_failing_node_stops_it_within_its_batch_and_once_mended_it_completes(fleet, operator, profile):
    wide = profile()
    broken = fleet.nodes[BATCH + 2]
    broken.kernel.refuses = True
    for node in fleet.nodes:
        node.kernel.taken.clear()
    with fleet.watched(wide.name) as seen:
        wide.apply()
        wide.wait_phase("Stopped")
        wide.wait(lambda: fleet.changed(FIN_TIMEOUT) == [], "the roll-back")
    written = [node.name for node in fleet.nodes if "30" in node.kernel.taken]
    assert len(written) <= 2 * BATCH - 1, "the batch before, and the four beside the broken one in its batch"
    assert seen.asked == {node.name for node in fleet.nodes[: 2 * BATCH]}, "no further batch was begun"
    assert seen.most_at_once <= BATCH
    degraded = wide.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "NodeFailed")
    assert broken.name in degraded["message"]
    assert wide.condition("Progressing").get("status", "") == "False"
    (event,) = wide.events("RolloutStopped")
    assert event["type"] == "Warning"
    assert broken.name in event["note"]
    wide.wait(lambda: fleet.spec_of(broken.name, wide.name) is None, "the broken node to be asked no more")

    broken.kernel.refuses = False
    fleet.cluster.merge("sysctlprofile", wide.name, {"metadata": {"annotations": {ANNOTATION_RETRY: "mended"}}})
    wide.wait_phase("Complete")
    assert fleet.values(FIN_TIMEOUT) == ["30"] * NODES
    assert wide.condition("Degraded").get("status", "") == "False"
    assert wide.status["nodes"]["applied"] == NODES
    assert [len(wide.events(reason)) for reason in ("RolloutStarted", "RolloutCompleted")] == [2, 1]

    wide.delete()
    until(lambda: fleet.changed(FIN_TIMEOUT) == [], "every value to be put back", seconds=SECONDS)
    assert fleet.values(FIN_TIMEOUT) == ["60"] * NODES


def test_an_operator_killed_in_the_middle_goes_on_within_its_limit_and_a_deletion_it_missed_is_made_up_for(
    fleet, operator, profile
):
    wide = profile()
    wanted = {FIN_TIMEOUT: "30", SOMAXCONN: "8192"}
    with fleet.watched(wide.name) as seen:
        wide.apply(values=wanted)
        wide.wait(lambda: len(fleet.changed(SOMAXCONN)) >= NODES // 3, "a third of the nodes")
        operator.kill()
        done = len(fleet.changed(SOMAXCONN))
        assert NODES // 3 <= done <= NODES - BATCH, f"it had changed {done} nodes when it was killed"
        operator.start()
        wide.wait_phase("Complete")
    assert seen.most_at_once == BATCH
    for sysctl, value in wanted.items():
        assert fleet.values(sysctl) == [value] * NODES
    assert operator.metric(f'sockethealth_operator_profile_nodes{{profile="{wide.name}",state="applied"}}') == NODES
    assert len(wide.events("RolloutCompleted")) == 1

    operator.kill()
    wide.delete()
    assert len(fleet.changed(FIN_TIMEOUT)) == NODES, "nobody has asked the nodes to put it back yet"
    operator.start()
    wide.wait(lambda: not fleet.changed(FIN_TIMEOUT) and not fleet.changed(SOMAXCONN), "every value to be put back")


def test_audit_changes_nothing_and_says_what_enforce_would(fleet, operator, profile):
    wide = profile()
    for node in fleet.nodes:
        node.kernel.taken.clear()
    fleet.nodes[3].set(FIN_TIMEOUT, "30")
    try:
        wide.apply(mode="Audit")
        wide.wait(lambda: wide.status.get("nodes", {}).get("audited") == NODES, "every node's answer")
        nodes = wide.status["nodes"]
        assert (nodes["wouldChange"], nodes["applied"]) == (NODES - 1, 0)
        report = fleet.report_of(fleet.nodes[0].name, wide.name)
        assert report["state"] == "Audited"
        assert report["changes"] == [{"where": "node", "name": FIN_TIMEOUT, "found": "60", "wanted": "30"}]
        assert fleet.report_of(fleet.nodes[3].name, wide.name)["changesTotal"] == 0
        assert [node.name for node in fleet.nodes if node.kernel.taken] == []
        assert wide.condition("Progressing").get("reason", "") == "Audited"
    finally:
        fleet.nodes[3].set(FIN_TIMEOUT, "60")


@pytest.fixture
def stage(control_plane, fleet, namespace):
    """A namespace whose pods are on one of the nodes."""
    made = Stage(control_plane, namespace)
    made.node = fleet.nodes[1].name
    return made


def test_a_finding_on_a_changed_node_stops_it_and_takes_the_batch_back(fleet, operator, profile, stage, activating):
    wide = profile()
    pod = stage.pod("web")
    stage.report(pod, close_wait=1)
    activating(wide.name, severity="Critical")
    wide.apply(numbers={"00", "01", "02"}, rollout={"maxConcurrentNodes": 2, "pauseSeconds": 3600})
    wide.wait(lambda: wide.status.get("rollout", {}).get("settledSince"), "the first batch")
    assert fleet.changed(FIN_TIMEOUT) == [node.name for node in fleet.nodes[:2]]
    stage.report(pod, close_wait=200)
    wide.wait_phase("Stopped")
    wide.wait(lambda: fleet.changed(FIN_TIMEOUT) == [], "the roll-back")
    degraded = wide.condition("Degraded")
    assert degraded["reason"] == "FindingRaised"
    assert f"CloseWaitLeak on pod {stage.namespace}/{pod}" in degraded["message"]
    assert stage.node in wide.events("RolloutStopped")[0]["note"]


@pytest.fixture
def activating(fleet, namespace):
    """A ClusterSocketHealthPolicy for the pods of one namespace; its name is that of the namespace."""

    def make(profile, mode="Enforce", severity="Warning"):
        rule = {"name": "leak", "detector": "CloseWaitLeak", "threshold": 50, "clearThreshold": 10}
        rule |= {"severity": severity}
        rule |= {"for": "0s", "clearAfter": "0s", "parameters": {"minAge": "0s"}}
        document = {
            "apiVersion": API_VERSION,
            "kind": "ClusterSocketHealthPolicy",
            "metadata": {"name": namespace},
            "spec": {
                "mode": mode,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [rule],
                "actions": {"sysctlProfile": profile},
            },
        }
        fleet.cluster.apply(document)

    yield make
    fleet.cluster.delete("clustersockethealthpolicy", namespace, wait=True)


def test_on_finding_it_comes_with_the_finding_and_goes_a_while_after_it(fleet, operator, profile, stage, activating):
    wide = profile()
    pod = stage.pod("web")
    stage.report(pod, close_wait=200)
    activating(wide.name, mode="Audit")
    wide.apply(activation="OnFinding", hold="3s", rollout={"stopOn": "Never"})
    stage.wait(lambda: stage.finding_types(pod) == [("CloseWaitLeak", "Warning")], "the finding", operator)
    wide.wait(lambda: wide.status.get("conditions"), "the roll-out to be looked at")
    assert wide.status["nodes"]["selected"] == 0, "an Audit policy has activated it"
    activating(wide.name)
    wide.wait(lambda: fleet.changed(FIN_TIMEOUT) == [stage.node], "the node with the finding, and no other")
    assert "heldUntil" not in fleet.spec_of(stage.node, wide.name)
    stage.report(pod, close_wait=0)
    cleared = time.time()
    wide.wait(lambda: "heldUntil" in (fleet.spec_of(stage.node, wide.name) or {}), "the hold")
    until_time = parse_time(fleet.spec_of(stage.node, wide.name)["heldUntil"])
    operator.kill()
    operator.start()
    wide.wait(lambda: fleet.changed(FIN_TIMEOUT) == [], "the values to be put back")
    assert time.time() >= until_time >= cleared + 2, "times are in whole seconds"
    assert wide.status["nodes"]["selected"] == 0


def test_pods_and_namespaces_of_a_profile_for_pods_are_named_in_the_specs(fleet, operator, profile, stage, activating):
    """Which pods is for the operator; that their writers find their namespaces is shown on a real node."""
    wide, plain = profile(), profile("plain")
    first, second = stage.pod("first"), stage.pod("second")
    stage.report(first, close_wait=200)
    stage.report(second)
    activating(wide.name)
    wide.apply(target="Pods", activation="OnFinding", hold="0s", rollout={"stopOn": "Never"})

    def named():
        return [pod["name"] for pod in (fleet.spec_of(stage.node, wide.name) or {}).get("pods", [])]

    wide.wait(lambda: named() == [first], "the pod with the finding")
    plain.apply(numbers={"01"}, target="Pods", namespaceSelector={"matchLabels": {"team": stage.namespace}})

    def namespaces():
        return (fleet.spec_of(stage.node, plain.name) or {}).get("namespaces")

    plain.wait(lambda: namespaces() == [], "no namespace at first")
    fleet.cluster.merge("namespace", stage.namespace, {"metadata": {"labels": {"team": stage.namespace}}})
    plain.wait(lambda: namespaces() == [stage.namespace], "the namespace once it has the label")
    stage.report(second, close_wait=200)
    wide.wait(lambda: named() == [first, second], "the second pod too")
    for pod in (first, second):
        fleet.cluster.delete("sockethealth", pod, namespace=stage.namespace, wait=True)
    plain.wait(lambda: namespaces() == [], "no namespace without pods")
    wide.wait(lambda: fleet.spec_of(stage.node, wide.name) is None, "nothing without pods")


def test_of_two_profiles_over_one_sysctl_the_higher_priority_wins_and_the_loser_says_so(fleet, operator, profile):
    low, high = profile("low"), profile("high")
    low.apply(numbers={"00"}, values={FIN_TIMEOUT: "30", SOMAXCONN: "8192"}, priority=1)
    low.wait_phase("Complete")
    high.apply(numbers={"00"}, values={FIN_TIMEOUT: "20"}, priority=2)
    high.wait_phase("Complete")
    node = fleet.nodes[0]
    assert (node.value(FIN_TIMEOUT), node.value(SOMAXCONN)) == ("20", "8192")
    low.wait(lambda: low.condition("Overridden").get("status", "") == "True", "the loser to say so")
    assert high.name in low.condition("Overridden").get("message", "")
    assert fleet.report_of(node.name, low.name)["overridden"] == [{"name": FIN_TIMEOUT, "by": high.name}]
    high.delete()
    low.wait(lambda: node.value(FIN_TIMEOUT) == "30", "the loser's value once the winner is gone")
    low.delete()
    low.wait(lambda: (node.value(FIN_TIMEOUT), node.value(SOMAXCONN)) == ("60", "4096"), "what was found")


def test_drift_is_told_once_and_counted(fleet, operator, profile):
    wide = profile()
    wide.apply(numbers={"00", "01"})
    wide.wait_phase("Complete")
    node = fleet.nodes[1]
    node.set(FIN_TIMEOUT, "45")
    wide.wait(lambda: node.value(FIN_TIMEOUT) == "30", "it to be applied once more")
    node.set(FIN_TIMEOUT, "45")
    wide.wait(lambda: wide.status["nodes"]["drifted"] == 1, "the drift to be counted")
    wide.wait(lambda: wide.events("Drifted") != [], "its Event")
    (event,) = wide.events("Drifted")
    assert (event["type"], node.name in event["note"]) == ("Warning", True)
    assert wide.condition("Degraded").get("reason", "") == "Drifted"
    node.set(FIN_TIMEOUT, "60")


def test_a_profile_that_will_not_help_says_so_and_a_policy_that_cannot_activate_it(
    fleet, operator, profile, activating
):
    wide = profile()
    wide.apply(numbers={"00"}, mode="Audit")
    activating(wide.name)
    wide.wait(lambda: wide.status.get("warnings"), "warnings")
    assert any("TIME_WAIT" in warning for warning in wide.status["warnings"])

    def resolved():
        items = fleet.cluster.get("clustersockethealthpolicies")["items"]
        policy = next(item for item in items if item["spec"].get("actions", {}).get("sysctlProfile") == wide.name)
        conditions = policy.get("status", {}).get("conditions", [])
        return next((c["message"] for c in conditions if c["type"] == "ProfileResolved"), "")

    wide.wait(lambda: "activation is Always" in resolved(), "the policy's condition")


def test_cleanup_has_the_nodes_put_everything_back_and_says_what_they_could_not(fleet, operator, profile, stage):
    wide = profile()
    wide.apply(numbers={"00", "01", "02"}, values={FIN_TIMEOUT: "30", SOMAXCONN: "8192"})
    wide.wait_phase("Complete")
    template = pod_template("agent")
    spec = {"selector": {"matchLabels": {"app": "agent"}}, "template": template}
    stage.apply({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": spec})
    broken = fleet.nodes[1]
    broken.kernel.refuses = True
    operator.kill()
    program = Path(sys.executable).parent / "sockethealth-operator"
    options = ["--restore-sysctls", "--restore-timeout=2s", f"--delete-daemonset={stage.namespace}/agent"]
    kubeconfig = f"--kubeconfig={fleet.cluster.kubeconfig}"
    done = subprocess.run(
        [program, "cleanup", *options, kubeconfig], capture_output=True, text=True, check=False, timeout=60
    )
    operator.start()
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"node {broken.name}: profile {wide.name} still has "), sentence
    assert FIN_TIMEOUT in sentence
    assert SOMAXCONN in sentence
    assert sentence.endswith("run `sockethealth-sysctl-writer --restore` there")
    left = fleet.cluster.get("daemonsets", "-n", stage.namespace)["items"]
    assert left == [], "what could not be put back keeps nothing else from being removed"
    assert "Annotations removed from" in done.stdout
