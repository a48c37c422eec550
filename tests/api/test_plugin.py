"""`kubectl sockethealth` against a real API server, with objects as agent and operator write them."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

import plugin_program
from harness.waiting import until
from sockethealth_core.names import API_VERSION
from sockethealth_core.resources import encode
from unit.cli.builders import exhausted, judged, leaking, quiet

pytestmark = pytest.mark.api

HEARTBEAT = "2026-01-02T03:04:05Z"
SECONDS = 30


@dataclass(frozen=True)
class Stage:
    cluster: Any
    namespace: str

    @property
    def node(self) -> str:
        """A node's name that no other test uses: namespaces of finished tests are still on their way out."""
        return f"node-{self.namespace}"

    def kubectl(self, *arguments: str, document: Any = None) -> str:
        return self.cluster.kubectl(*arguments, input=None if document is None else json.dumps(document)).stdout

    def report(self, name: str, facts, uid: str = "", **status: Any) -> None:
        """A SocketHealth as agent and operator write it together."""
        made = encode(judged(name, facts))
        made["metadata"] = {"name": name, "namespace": self.namespace}
        made["spec"] = {"nodeName": self.node, "podUID": uid}
        made["status"] |= status
        self.write("sockethealth", made)

    def write(self, kind: str, made: Mapping[str, Any]) -> None:
        name, namespace = made["metadata"]["name"], made["metadata"].get("namespace", "")
        self.cluster.add(made)
        self.cluster.merge(kind, name, {"status": made["status"]}, namespace=namespace, subresource="status")

    def run(self, *arguments: str, kubeconfig: str | None = None) -> "subprocess.CompletedProcess[str]":
        return plugin_program.run(*arguments, kubeconfig=kubeconfig or self.cluster.kubeconfig)

    def told(self, *arguments: str) -> str:
        """Standard output on one line, of a run that must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())

    def refused(self, *arguments: str, kubeconfig: str | None = None) -> str:
        """The one sentence of a run that must fail with 2."""
        done = self.run(*arguments, kubeconfig=kubeconfig)
        assert done.returncode == 2, done.stdout
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        return line


@pytest.fixture
def stage(control_plane, crds, namespace) -> Stage:
    return Stage(control_plane, namespace)


@pytest.fixture
def reporting_node(stage):
    """A node whose agent said its last long ago."""
    agent = {"version": "0.1.0", "heartbeatTime": HEARTBEAT, "intervalSeconds": 60}
    status = {"health": "Healthy", "agent": agent, "conntrack": {"entries": 900, "maximum": 1000}}
    made = {"apiVersion": API_VERSION, "kind": "NodeSocketHealth", "metadata": {"name": stage.node}, "status": status}
    stage.write("nodesockethealth", made)
    yield stage.node
    stage.kubectl("delete", "nodesockethealth", stage.node)


def deployment(name: str, replicas: int) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "app", "image": "none.invalid/none"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


@pytest.fixture
def cart(stage) -> list[dict[str, Any]]:
    """The two pods of a Deployment, made by the cluster's own controllers through a ReplicaSet."""
    stage.cluster.add(deployment("cart", 2), namespace=stage.namespace)

    def pods() -> list[dict[str, Any]]:
        found = stage.cluster.get("pods", "-n", stage.namespace, "-l", "app=cart")
        return sorted(found["items"], key=lambda pod: pod["metadata"]["name"])

    until(lambda: len(pods()) == 2, "the Deployment's two pods", seconds=SECONDS)
    return pods()


def named(pod: Mapping[str, Any]) -> tuple[str, str]:
    return pod["metadata"]["name"], pod["metadata"]["uid"]


def test_the_list_has_the_worst_first_and_its_exit_code_tells_of_it(stage):
    stage.report("idle", quiet())
    stage.report("leaky", leaking())
    done = stage.run("-n", stage.namespace, "--exit-code")
    assert done.returncode == 0, "Warning is not Critical"
    stage.report("web", exhausted())
    done = plugin_program.run_as_installed("-n", stage.namespace, "--exit-code", kubeconfig=stage.cluster.kubeconfig)
    assert done.returncode == 1, done.stderr
    names = [line.split()[1] for line in done.stdout.splitlines()[1:4]]
    assert names == ["web", "leaky", "idle"]


def test_the_story_of_a_pod_has_finding_evidence_owner_rule_and_destination(stage, reporting_node):
    stage.report("web", exhausted(used=25_409))
    story = stage.told("pod", "web", "-n", stage.namespace)
    for part in (
        f"Pod {stage.namespace}/web on node {stage.node}: Critical",
        "uses 25,409 of 28,232 ephemeral ports",
        "What helps Reuse connections",
        "ClusterSocketHealthPolicy sockethealth-default, rule ephemeral-ports-critical: 90 against a threshold of 80",
        "10.0.0.9:6379 25,409 90.0% 25,409 430 12s",
        "25,409 outbound (hold ports)",
        "kubectl sockethealth explain EphemeralPortExhaustion",
    ):
        assert part in story, story


def test_a_silent_agent_is_told_with_the_time_since_when(stage, reporting_node):
    stage.report("leaky", leaking(), health="Unknown")
    story = stage.told("pod", f"{stage.namespace}/leaky")
    assert f"The agent of node {stage.node} is silent since {HEARTBEAT}" in story
    assert ": Unknown" in story
    assert "80 held by java (pid 4711)" in story


def test_an_agent_that_never_reported_is_told(stage):
    stage.report("leaky", leaking())
    assert f"The agent of node {stage.node} has never reported" in stage.told("pod", "leaky", "-n", stage.namespace)


def test_the_story_of_a_node_has_its_limits_its_agent_and_its_pods_that_are_not_well(stage, reporting_node):
    stage.report("leaky", leaking())
    stage.report("idle", quiet())
    story = stage.told("node", stage.node)
    assert "900 of at most 1,000 entries" in story
    assert f"silent since {HEARTBEAT}" in story
    assert "2 pods: 1 Warning, 1 Healthy." in story
    assert f"{stage.namespace} leaky Warning" in story
    assert f"{stage.namespace} idle" not in story


def test_the_story_of_a_deployment_has_its_pods_through_the_replica_set_and_no_others(stage, reporting_node, cart):
    (first, first_uid), (second, second_uid) = map(named, cart)
    stage.report(first, quiet(), first_uid)
    stage.report(second, leaking(), second_uid)
    stage.report("stranger", exhausted())
    for called in ("deployment/cart", "deploy/cart", "deployments.apps/cart", "Deployment/cart"):
        story = stage.told("workload", called, "-n", stage.namespace)
        assert f"Deployment {stage.namespace}/cart: Warning" in story
        assert "2 pods: 1 Warning, 1 Healthy." in story
        assert "stranger" not in story
        assert story.index(f"{second} Warning") < story.index(f"{first} Healthy")


def test_a_pod_that_was_made_anew_under_its_name_is_not_mistaken_for_the_one_before(stage, cart):
    (first, first_uid), (second, _) = map(named, cart)
    stage.report(first, quiet(), first_uid)
    stage.report(second, leaking(), "00000000-0000-0000-0000-000000000000")
    story = stage.told("workload", "deployment/cart", "-n", stage.namespace)
    assert f"Without a report: {second}." in story
    assert "Warning" not in story


def test_json_and_yaml_are_the_objects_themselves(stage, reporting_node, cart):
    name, uid = named(cart[0])
    stage.report(name, leaking(), uid)
    one = json.loads(stage.run("pod", name, "-n", stage.namespace, "-o", "json").stdout)
    assert (one["kind"], one["metadata"]["name"]) == ("SocketHealth", name)
    assert one["metadata"]["resourceVersion"]
    several = yaml.safe_load(stage.run("workload", "deploy/cart", "-n", stage.namespace, "-o", "yaml").stdout)
    assert several["kind"] == "List"
    assert several["items"] == [one]
    node = yaml.safe_load(stage.run("node", stage.node, "-o", "yaml").stdout)
    assert (node["kind"], node["metadata"]["name"]) == ("NodeSocketHealth", stage.node)


def test_a_pod_that_is_not_there_is_told_with_those_called_nearly_so(stage, cart):
    name, _ = named(cart[0])
    sentence = stage.refused("pod", name[:-1] + "_", "-n", stage.namespace)
    assert f"there is no pod {name[:-1]}_ in namespace {stage.namespace}" in sentence
    assert name in sentence


def test_a_pod_that_nobody_has_reported_is_told_from_one_that_is_not_there(stage, cart):
    sentence = stage.refused("pod", named(cart[0])[0], "-n", stage.namespace)
    assert "is not on a node yet" in sentence


def test_a_workload_without_pods_is_told_with_those_that_have_some(stage, cart):
    sentence = stage.refused("workload", "deployment/car", "-n", stage.namespace)
    assert f"no pod in namespace {stage.namespace} belongs to deployment/car" in sentence
    assert "Deployment/cart" in sentence


def test_a_node_that_nobody_has_reported_is_told_with_those_that_are(stage, reporting_node):
    sentence = stage.refused("node", stage.node[:-1])
    assert f"no agent has reported a node {stage.node[:-1]};" in sentence
    assert stage.node in sentence


@pytest.fixture
def limited(stage, tmp_path) -> str:
    """The kubeconfig of someone who may read the SocketHealths of one namespace, and nothing else."""
    here = ("-n", stage.namespace)
    stage.kubectl("create", "serviceaccount", "limited", *here)
    stage.kubectl("create", "role", "reader", "--verb=list", "--resource=sockethealths.sockethealth.io", *here)
    account = f"{stage.namespace}:limited"
    stage.kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={account}", *here)
    token = stage.kubectl("create", "token", "limited", *here).strip()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": stage.namespace}}],
        "clusters": [
            {
                "name": "here",
                "cluster": {"server": stage.cluster.server, "certificate-authority": str(stage.cluster.ca_file)},
            }
        ],
        "users": [{"name": "me", "user": {"token": token}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def test_who_may_not_read_is_told_which_verb_and_resource_are_missing(stage, limited):
    sentence = stage.refused("pod", "web", kubeconfig=limited)
    assert f"you may not get sockethealths.sockethealth.io in namespace {stage.namespace}" in sentence
    assert f"kubectl auth can-i get sockethealths.sockethealth.io -n {stage.namespace}" in sentence
    assert "you may not list pods" in stage.refused("workload", "deploy/cart", kubeconfig=limited)
    assert "in all namespaces" in stage.refused("list", "-A", kubeconfig=limited)


def test_who_may_read_one_namespace_sees_that_and_is_told(stage, limited):
    stage.report("leaky", leaking())
    done = stage.run(kubeconfig=limited)
    assert done.returncode == 0, done.stderr
    assert "leaky" in done.stdout
    assert f"Shown is namespace {stage.namespace}, your context's" in done.stderr
