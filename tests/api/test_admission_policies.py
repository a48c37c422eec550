"""What a stolen token can do: the chart's ValidatingAdmissionPolicies against real tokens and the chart's own RBAC.

Every attack is made twice: as a release without the policies, to see that RBAC alone allows it, and as one with them.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Any

import pytest
import urllib3
import yaml

from agent_builders import Counted, facts, pod, submission
from harness import binaries
from harness.cluster import existing_kubeconfig
from harness.images import REPOSITORY
from harness.waiting import until
from sockethealth_agent.kubeapi import Endpoint, KubeApi
from sockethealth_agent.reporter import AgentIdentity, Reporter
from sockethealth_core.names import (
    AGENT_FIELD_MANAGER,
    API_VERSION,
    GROUP,
    OPERATOR_FIELD_MANAGER,
    SYSCTL_FIELD_MANAGER,
    WORKLOAD_ANNOTATIONS,
)

pytestmark = pytest.mark.api

CHART = REPOSITORY / "charts" / "sockethealth"
OURS = f"/apis/{API_VERSION}"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
NAMESPACED_KINDS = ("ServiceAccount", "Role", "RoleBinding")
CLUSTER_KINDS = (
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
)
POD_SPEC = {"containers": [{"name": "main", "image": "none"}], "nodeSelector": {"no-such": "node"}}
# Not the label of the Pod, which a ReplicaSet of no replicas would adopt and delete.
TEMPLATE_LABELS = {"app": "template"}
TEMPLATE = {"metadata": {"labels": TEMPLATE_LABELS}, "spec": POD_SPEC}
JOB_TEMPLATE = {"metadata": {"labels": TEMPLATE_LABELS}, "spec": {**POD_SPEC, "restartPolicy": "Never"}}
SELECTED = {"selector": {"matchLabels": TEMPLATE_LABELS}, "template": TEMPLATE}
WORKLOADS = {
    "pods": ("v1", "Pod", POD_SPEC),
    "deployments": ("apps/v1", "Deployment", {"replicas": 0, **SELECTED}),
    "replicasets": ("apps/v1", "ReplicaSet", {"replicas": 0, **SELECTED}),
    "statefulsets": ("apps/v1", "StatefulSet", {"replicas": 0, "serviceName": "shop", **SELECTED}),
    "daemonsets": ("apps/v1", "DaemonSet", SELECTED),
    "jobs": ("batch/v1", "Job", {"suspend": True, "template": JOB_TEMPLATE}),
    "cronjobs": (
        "batch/v1",
        "CronJob",
        {"suspend": True, "schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": JOB_TEMPLATE}}},
    ),
}
WATCHPOINTS = {"watchpoints": [{"detector": "CloseWaitLeak", "values": [50.0]}]}
PROFILE = {
    "profile": "evil",
    "revision": "1",
    "mode": "Enforce",
    "target": "Node",
    "sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "5"}],
}
FINDING = {
    "type": "CloseWaitLeak",
    "severity": "Critical",
    "since": "2030-01-01T00:00:00Z",
    "policy": "made-up",
    "rule": "leak",
    "value": 1.0,
}


@dataclass(frozen=True)
class Answer:
    """Status, what the API server said, and its warnings."""

    status: int
    text: str
    warnings: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return self.status < 300


@dataclass(frozen=True)
class Caller:
    """One who has a token."""

    pool: urllib3.PoolManager
    server: str
    token: str

    def ask(
        self, method: str, path: str, body: Any = None, media: str = MERGE, *, dry_run: bool = False, manager: str = ""
    ) -> Answer:
        query = {"dryRun": "All"} if dry_run else {}
        if method == "PATCH":
            query |= {"fieldManager": manager or "test"} | ({"force": "true"} if media == APPLY else {})
        answer = self.pool.request(
            method,
            f"{self.server}{path}?" + "&".join(f"{key}={value}" for key, value in query.items()),
            body=None if body is None else json.dumps(body),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": media if method == "PATCH" else "application/json",
            },
            retries=False,
            timeout=20,
        )
        said = json.loads(answer.data)
        text = said.get("message", "") if said.get("kind") == "Status" else answer.data.decode()
        return Answer(answer.status, text, tuple(answer.headers.getlist("Warning")))


@dataclass(frozen=True)
class Release:
    """The tokens of one installation. `agent` is the agent's of node `Lab.mine`."""

    name: str
    agent: Caller
    agent_without_node: Caller
    operator: Caller
    cleanup: Caller


@dataclass(frozen=True)
class Lab:
    """Two nodes, one with the agent whose token is stolen, each with a pod; workloads; an installation of each sort."""

    namespace: str
    mine: str
    other: str
    admin: Caller
    guarded: Release
    unguarded: Release

    def node(self, name: str = "", subresource: str = "") -> str:
        return f"{OURS}/nodesockethealths/{name or self.mine}{subresource}"

    def pod(self, name: str = "mine", subresource: str = "") -> str:
        return f"{OURS}/namespaces/{self.namespace}/sockethealths/{name}{subresource}"

    def workload(self, plural: str) -> str:
        version = {**WORKLOADS, "configmaps": ("v1",)}[plural][0]
        root = "/api/v1" if version == "v1" else f"/apis/{version}"
        return f"{root}/namespaces/{self.namespace}/{plural}/shop"

    def node_object(self, name: str = "", **fields: Any) -> dict[str, Any]:
        return _object("NodeSocketHealth", {"name": name or self.mine}, fields)

    def pod_object(self, name: str = "mine", **fields: Any) -> dict[str, Any]:
        return _object("SocketHealth", {"name": name, "namespace": self.namespace}, fields)


def _object(kind: str, metadata: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {**metadata, **fields.pop("metadata", {})}, **fields}


def _install(cluster: Any, namespace: str, name: str, *, guarded: bool) -> list[dict[str, Any]]:
    values = f"fullnameOverride={name},sysctls.enabled=true,admissionPolicies.create={str(guarded).lower()}"
    where = ("--namespace", namespace, "--kube-version", "1.34.0")
    rendered = cluster.helm("template", name, str(CHART), *where, "--set", values).stdout
    objects = [one for one in yaml.safe_load_all(rendered) if one]
    kept = [one for one in objects if one["kind"] in (*NAMESPACED_KINDS, *CLUSTER_KINDS)]
    cluster.apply(*kept)
    return kept


def _release(cluster: Any, caller: Any, namespace: str, name: str, node: str) -> Release:
    account = f"{name}-agent"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": account, "namespace": namespace},
        "spec": {"serviceAccountName": account, "nodeName": node, "containers": POD_SPEC["containers"]},
    }
    cluster.add(pod)
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={account}")
    return Release(
        name,
        agent=caller(cluster.token_for(account, namespace, *bound)),
        agent_without_node=caller(cluster.token_for(account, namespace)),
        operator=caller(cluster.token_for(f"{name}-operator", namespace)),
        cleanup=caller(cluster.token_for(f"{name}-cleanup", namespace)),
    )


@pytest.fixture(scope="module")
def installation(control_plane, crds):
    if not existing_kubeconfig():
        binaries.ensure(("helm",))
    mark = secrets.token_hex(3)
    namespace, mine, other = f"policies-{mark}", f"mine-{mark}", f"other-{mark}"
    pool = urllib3.PoolManager(ca_certs=str(control_plane.ca_file))

    def caller(token):
        return Caller(pool, control_plane.server, token)

    installed = []
    control_plane.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        control_plane.kubectl(
            *("wait", "--for=create", "serviceaccount/default", "-n", namespace, "--timeout=60s"), timeout=90
        )
        # No pod of another test is to be placed there.
        cordoned = {"apiVersion": "v1", "kind": "Node", "spec": {"unschedulable": True}}
        for node in (mine, other):
            control_plane.add({**cordoned, "metadata": {"name": node}})
        releases = {}
        for guarded in (True, False):
            name = f"{'guarded' if guarded else 'plain'}-{mark}"
            installed += _install(control_plane, namespace, name, guarded=guarded)
            releases[guarded] = _release(control_plane, caller, namespace, name, mine)
        made = Lab(namespace, mine, other, caller(control_plane.admin_token), releases[True], releases[False])
        _create_workloads(control_plane, made)
        _report(made)
        _await_policies(made)
        yield made
    finally:
        cluster_wide = [one for one in installed if one["kind"] in CLUSTER_KINDS]
        if cluster_wide:
            for one in cluster_wide:
                control_plane.delete(f"{one['apiVersion']}/{one['kind']}", one["metadata"]["name"])
        for what in (("node", mine, other), ("nodesockethealth", mine, other), ("namespace", namespace)):
            control_plane.delete(*what)
        pool.clear()


def _create_workloads(cluster: Any, lab: Lab) -> None:
    metadata = {"name": "shop", "namespace": lab.namespace, "labels": {"app": "shop"}, "annotations": {"team": "shop"}}
    workloads = [
        {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
        for version, kind, spec in WORKLOADS.values()
    ]
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"key": "value"}}
    cluster.add(*workloads, config)


@pytest.fixture
def lab(installation):
    """The installation, with the reports as each test expects them, whatever the one before has done."""
    _report(installation)
    return installation


def _report(lab: Lab) -> None:
    for name, node in (("mine", lab.mine), ("others", lab.other)):
        for path, body in (
            (lab.node(node), lab.node_object(node, spec=WATCHPOINTS)),
            (lab.node(node, "/status"), lab.node_object(node, status={"pods": 1, "health": "Healthy"})),
            (lab.pod(name), lab.pod_object(name, spec={"nodeName": node})),
            (lab.pod(name, "/status"), lab.pod_object(name, status={"health": "Critical", "findings": [FINDING]})),
        ):
            answer = lab.admin.ask("PATCH", path, body, APPLY)
            assert answer.accepted, answer


def _await_policies(lab: Lab) -> None:
    """The API server takes in policies in its own time."""
    for attack in (another_nodes_object, another_nodes_pod, a_deployments_replicas, a_pods_facts):
        until(
            lambda attack=attack: not attack(lab, lab.guarded, dry_run=True).accepted,
            f"a policy that refuses {attack.__name__}",
            seconds=30,
        )


def another_nodes_object(lab: Lab, by: Release, **options: Any) -> Answer:
    return by.agent.ask("PATCH", lab.node(lab.other), {"metadata": {"labels": {"x": "y"}}}, **options)


def another_nodes_pod(lab: Lab, by: Release, **options: Any) -> Answer:
    return by.agent.ask("PATCH", lab.pod("others"), {"metadata": {"labels": {"x": "y"}}}, **options)


def a_deployments_replicas(lab: Lab, by: Release, **options: Any) -> Answer:
    return by.operator.ask("PATCH", lab.workload("deployments"), {"spec": {"replicas": 9}}, **options)


def a_pods_facts(lab: Lab, by: Release, **options: Any) -> Answer:
    facts = {"status": {"sockets": {"closeWait": 9}}}
    return by.operator.ask("PATCH", lab.pod("mine", "/status"), facts, **options)


def of_the_agent(path, body=None, media=MERGE, method="PATCH"):
    """An attack with the agent's token; path and body are functions of the Lab."""

    def attack(lab, by, **options):
        return by.agent.ask(method, path(lab), body(lab) if body else None, media, **options)

    return attack


ATTACKS_OF_AN_AGENT = {
    "another's node object is changed": (another_nodes_object, "is another node's: the agent of node 'mine-"),
    "another's node object is applied": (
        of_the_agent(lambda lab: lab.node(lab.other), lambda lab: lab.node_object(lab.other), APPLY),
        "is another node's",
    ),
    "an object is created for a node that has none": (
        of_the_agent(lambda lab: lab.node("none-yet"), lambda lab: lab.node_object("none-yet"), APPLY),
        "NodeSocketHealth 'none-yet' is another node's",
    ),
    "an object is posted for a node that has none": (
        of_the_agent(lambda _: f"{OURS}/nodesockethealths", lambda lab: lab.node_object("none-yet"), method="POST"),
        "NodeSocketHealth 'none-yet' is another node's",
    ),
    "another's heartbeat is forged": (
        of_the_agent(
            lambda lab: lab.node(lab.other, "/status"),
            lambda lab: lab.node_object(lab.other, status={"agent": {"heartbeatTime": "2030-01-01T00:00:00Z"}}),
            APPLY,
        ),
        "is another node's",
    ),
    "its own node is asked for sysctls": (
        of_the_agent(lambda lab: lab.node(), lambda _: {"spec": {"sysctlProfiles": [PROFILE]}}),
        "spec of a NodeSocketHealth is what the operator asks of the node",
    ),
    "its own watchpoints are taken away": (
        of_the_agent(lambda lab: lab.node(), lambda _: {"spec": None}),
        "an agent may not change it",
    ),
    "its own node gets findings": (
        of_the_agent(lambda lab: lab.node(subresource="/status"), lambda _: {"status": {"findings": [FINDING]}}),
        "health, findings, evaluation and conditions of a status are the operator's judgement",
    ),
    "its own node is said to be healthy": (
        of_the_agent(lambda lab: lab.node(subresource="/status"), lambda _: {"status": {"health": "Critical"}}),
        "the operator's judgement",
    ),
    "its own node's object is kept from deletion": (
        of_the_agent(lambda lab: lab.node(), lambda _: {"metadata": {"finalizers": ["evil.example/keep"]}}),
        "an agent may not set finalizers",
    ),
    "another's pod is labelled": (another_nodes_pod, "' may write those of pods on 'mine-"),
    "a pod of another node is created": (
        of_the_agent(
            lambda lab: lab.pod("none-yet"),
            lambda lab: lab.pod_object("none-yet", spec={"nodeName": lab.other}),
            APPLY,
        ),
        "has spec.nodeName 'other-",
    ),
    "a pod of no node is created": (
        of_the_agent(lambda lab: lab.pod("none-yet"), lambda lab: lab.pod_object("none-yet"), APPLY),
        "has spec.nodeName ''",
    ),
    "another's pod is taken over": (
        of_the_agent(lambda lab: lab.pod("others"), lambda lab: {"spec": {"nodeName": lab.mine}}),
        "has spec.nodeName 'other-",
    ),
    "its own pod is foisted on another": (
        of_the_agent(lambda lab: lab.pod("mine"), lambda lab: {"spec": {"nodeName": lab.other}}),
        "has spec.nodeName 'other-",
    ),
    "facts of another's pod are forged": (
        of_the_agent(lambda lab: lab.pod("others", "/status"), lambda _: {"status": {"sockets": {"closeWait": 9}}}),
        "has spec.nodeName 'other-",
    ),
    "another's pod is deleted": (
        of_the_agent(lambda lab: lab.pod("others"), method="DELETE"),
        "has spec.nodeName 'other-",
    ),
    "its own pod's findings are wiped": (
        of_the_agent(lambda lab: lab.pod("mine", "/status"), lambda _: {"status": {"findings": []}}),
        "an agent may not change them",
    ),
    "its own pod's health is wiped": (
        of_the_agent(lambda lab: lab.pod("mine", "/status"), lambda _: {"status": {"health": None}}),
        "an agent may not change them",
    ),
    "conditions are made up": (
        of_the_agent(
            lambda lab: lab.pod("mine", "/status"),
            lambda lab: lab.pod_object(
                status={
                    "conditions": [
                        {
                            "type": "Evaluated",
                            "status": "True",
                            "reason": "MadeUp",
                            "message": "",
                            "lastTransitionTime": "2030-01-01T00:00:00Z",
                        }
                    ]
                }
            ),
            APPLY,
        ),
        "an agent may not change them",
    ),
}


@pytest.mark.parametrize(("attack", "sentence"), ATTACKS_OF_AN_AGENT.values(), ids=ATTACKS_OF_AN_AGENT.keys())
def test_an_agent_is_refused_what_rbac_alone_would_allow(lab, attack, sentence):
    alone = attack(lab, lab.unguarded, dry_run=True)
    assert alone.accepted, alone
    answer = attack(lab, lab.guarded)
    assert answer.status == 403, answer
    assert sentence in answer.text


def test_a_token_of_the_agents_account_that_no_pod_has_mounted_may_write_nothing(lab):
    for path, body in ((lab.node(), lab.node_object()), (lab.pod(), lab.pod_object(spec={"nodeName": lab.mine}))):
        assert lab.unguarded.agent_without_node.ask("PATCH", path, body, APPLY, dry_run=True).accepted
        answer = lab.guarded.agent_without_node.ask("PATCH", path, body, APPLY)
        assert answer.status == 403, answer
        assert f"serviceaccount:{lab.namespace}:{lab.guarded.name}-agent' names no node" in answer.text


def test_an_agent_writes_all_of_its_own(lab):
    agent = lab.guarded.agent

    def applied(path, body, manager=AGENT_FIELD_MANAGER):
        answer = agent.ask("PATCH", path, body, APPLY, manager=manager)
        assert answer.accepted, answer
        return json.loads(answer.text)

    assert lab.admin.ask("DELETE", lab.node()).accepted
    made = applied(lab.node(), lab.node_object(metadata={"labels": {"pool": "blue"}}))
    applied(lab.node(subresource="/status"), lab.node_object(status={"pods": 3}))
    applied(lab.node(subresource="/status"), lab.node_object(status={"sysctlWriter": {}}), SYSCTL_FIELD_MANAGER)
    spec = {"nodeName": lab.mine, "podUID": "1"}
    applied(lab.pod("own"), lab.pod_object("own", spec=spec))
    applied(lab.pod("own", "/status"), lab.pod_object("own", status={"sockets": {"closeWait": 3}}))
    judged = lab.guarded.operator.ask(
        "PATCH",
        lab.pod("own", "/status"),
        lab.pod_object("own", status={"health": "Critical", "findings": [FINDING]}),
        APPLY,
        manager=OPERATOR_FIELD_MANAGER,
    )
    assert judged.accepted, judged
    after = applied(lab.pod("own", "/status"), lab.pod_object("own", status={"sockets": {"closeWait": 4}}))
    assert after["status"]["sockets"]["closeWait"] == 4
    assert after["status"]["findings"][0]["policy"] == FINDING["policy"]
    applied(lab.pod("own"), lab.pod_object("own", spec=spec, metadata={"labels": {"app": "shop"}}))
    precondition = {"preconditions": {"uid": after["metadata"]["uid"]}}
    assert agent.ask("DELETE", lab.pod("own"), precondition).accepted
    assert made["metadata"]["labels"] == {"pool": "blue"}


def test_the_agents_own_reporter_is_refused_nothing(control_plane, lab, caplog):
    endpoint = Endpoint(url=control_plane.server, ca_file=str(control_plane.ca_file), token=lab.guarded.agent.token)
    api, noted = KubeApi(endpoint), Counted()
    identity = AgentIdentity(node_name=lab.mine, version="0.0", boot_id="b", kernel="6")
    reporter = Reporter(api, identity, sink=noted, heartbeat_seconds=600)
    first = pod("reported", lab.namespace)
    second = pod("reported", lab.namespace, uid="22222222-2222-4222-8222-222222222222")
    ended = pod("reported", lab.namespace, uid=second.uid, phase="Succeeded")
    other = pod("mine", lab.namespace, uid="33333333-3333-4333-8333-333333333333")
    try:
        for what in (
            submission([(first, facts(established=7))], known=[other]),
            submission([(second, facts(established=7))], known=[other]),
            submission([], known=[other, ended]),
        ):
            reporter.submit(what)
            until(lambda: bool(reporter.step()) and reporter.idle, "all to be written", seconds=20)
    finally:
        api.close()
    # Pods and node are not there, so the garbage collector may have been at their objects before the reporter.
    assert noted.writes[0] == "heartbeat"
    first, again, *completed = [reason for reason in noted.writes if reason != "heartbeat"]
    assert first == "first"
    assert again in {"replaced", "first"}
    assert completed in (["completed"], [])
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == []


def of_the_operator(plural, body, media=MERGE):
    """An attack with the operator's token on a workload."""

    def attack(lab, by, **options):
        return by.operator.ask("PATCH", lab.workload(plural), body, media, **options)

    return attack


def leases(lab, name=""):
    return f"/apis/coordination.k8s.io/v1/namespaces/{lab.namespace}/leases/{name}".rstrip("/")


def a_lease_of_another_name(lab, by, **options):
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": f"others-{by.name}"},
        "spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600},
    }
    return by.operator.ask("POST", leases(lab), body, **options)


def _image(path):
    return [{"op": "replace", "path": f"{path}/spec/containers/0/image", "value": "evil"}]


def _labels(**labels):
    return {"metadata": {"labels": labels}}


OURS_AND_MORE = {"metadata": {"annotations": {WORKLOAD_ANNOTATIONS[0]: "Critical", "other.example/x": "y"}}}
STRANGER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "00000000-0000-0000-0000-000000000000"}
ATTACKS_OF_THE_OPERATOR = {
    "a Deployment's image": (of_the_operator("deployments", _image("/spec/template"), JSON_PATCH), "not spec"),
    "a Deployment's replicas": (a_deployments_replicas, "not spec"),
    "a Deployment's labels": (of_the_operator("deployments", _labels(x="y")), "not metadata.labels"),
    "a Deployment's pod template": (
        of_the_operator("deployments", {"spec": {"template": {"metadata": {"annotations": {"x": "y"}}}}}),
        "not spec",
    ),
    "another annotation": (
        of_the_operator("deployments", {"metadata": {"annotations": {"other.example/x": "y"}}}),
        "not annotation 'other.example/x'",
    ),
    "another annotation beside its own": (
        of_the_operator("deployments", OURS_AND_MORE),
        "not annotation 'other.example/x'",
    ),
    "an annotation of the same group": (
        of_the_operator("deployments", {"metadata": {"annotations": {f"{GROUP}/retry": "1"}}}),
        f"not annotation '{GROUP}/retry'",
    ),
    "the owner's annotation, changed": (
        of_the_operator("deployments", {"metadata": {"annotations": {"team": "evil"}}}),
        "not annotation 'team'",
    ),
    "the owner's annotation, removed": (
        of_the_operator("deployments", {"metadata": {"annotations": {"team": None}}}),
        "not annotation 'team'",
    ),
    "a finalizer": (
        of_the_operator("deployments", {"metadata": {"finalizers": ["evil.example/keep"]}}),
        "not metadata.finalizers",
    ),
    "an owner that is gone, so that the Deployment is collected": (
        of_the_operator("deployments", {"metadata": {"ownerReferences": [STRANGER]}}),
        "not metadata.ownerReferences",
    ),
    "a ReplicaSet's replicas": (of_the_operator("replicasets", {"spec": {"replicas": 9}}), "not spec"),
    "a StatefulSet's replicas": (of_the_operator("statefulsets", {"spec": {"replicas": 9}}), "not spec"),
    "a DaemonSet's image": (of_the_operator("daemonsets", _image("/spec/template"), JSON_PATCH), "not spec"),
    "a suspended Job": (of_the_operator("jobs", {"spec": {"suspend": False}}), "not spec"),
    "a CronJob's schedule": (of_the_operator("cronjobs", {"spec": {"schedule": "* * * * *"}}), "not spec"),
    "a CronJob's image": (
        of_the_operator("cronjobs", _image("/spec/jobTemplate/spec/template"), JSON_PATCH),
        "not spec",
    ),
    "a CronJob's labels": (of_the_operator("cronjobs", _labels(app=None)), "not metadata.labels"),
    "a Pod's image": (of_the_operator("pods", _image(""), JSON_PATCH), "not spec"),
    "a Pod's label, so that its ReplicaSet lets it go": (
        of_the_operator("pods", _labels(app="other")),
        "not metadata.labels",
    ),
    "a Pod's finalizers": (
        of_the_operator("pods", {"metadata": {"finalizers": ["evil.example/keep"]}}),
        "not metadata.finalizers",
    ),
    "a Lease that another program of the namespace is to have": (a_lease_of_another_name, "is another's"),
    "facts of a pod": (a_pods_facts, "not status.sockets"),
    "facts of a node": (
        lambda lab, by, **options: by.operator.ask(
            "PATCH", lab.node(lab.other, "/status"), {"status": {"pods": 9}}, **options
        ),
        "not status.pods",
    ),
    "a sysctl report": (
        lambda lab, by, **options: by.operator.ask(
            "PATCH",
            lab.node(lab.other, "/status"),
            {"status": {"sysctlProfiles": [{"profile": "evil", "revision": "1", "state": "Applied"}]}},
            **options,
        ),
        "not status.sysctlProfiles",
    ),
    "a node object's finalizers": (
        lambda lab, by, **options: by.operator.ask(
            "PATCH", lab.node(lab.other), {"metadata": {"finalizers": ["evil.example/keep"]}}, **options
        ),
        "not metadata.finalizers",
    ),
    "a workload, by the clean-up": (
        lambda lab, by, **options: by.cleanup.ask(
            "PATCH", lab.workload("deployments"), {"spec": {"replicas": 9}}, **options
        ),
        "-cleanup' may change the annotations",
    ),
}


@pytest.mark.parametrize(("attack", "sentence"), ATTACKS_OF_THE_OPERATOR.values(), ids=ATTACKS_OF_THE_OPERATOR.keys())
def test_the_operator_is_refused_what_rbac_alone_would_allow(lab, attack, sentence):
    alone = attack(lab, lab.unguarded, dry_run=True)
    assert alone.accepted, alone
    answer = attack(lab, lab.guarded)
    assert answer.status == 403, answer
    assert sentence in answer.text
    # The operator reads a refusal with this word as a permission that is missing for the whole kind.
    assert " cannot " not in answer.text


def test_the_operator_makes_takes_and_releases_its_own_lease(lab):
    by = lab.guarded
    name = f"{by.name}-operator"
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}
    made = by.operator.ask("POST", leases(lab), lease)
    assert made.accepted, made
    try:
        for holder in ("operator-1", None):
            written = by.operator.ask("PATCH", leases(lab, name), {"spec": {"holderIdentity": holder}})
            assert written.accepted, written
        assert by.operator.ask("GET", leases(lab, name)).accepted
        removed = by.operator.ask("DELETE", leases(lab, name))
        assert removed.status == 403, removed
    finally:
        assert lab.admin.ask("DELETE", leases(lab, name)).accepted


def test_rbac_alone_refuses_the_operator_the_leases_of_others_and_of_other_namespaces(lab):
    others = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "others"}}
    assert lab.admin.ask("POST", leases(lab), others).accepted
    theirs = {"spec": {"holderIdentity": "thief"}}
    node = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{lab.mine}"
    elsewhere = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    for by in (lab.guarded, lab.unguarded):
        for answer in (
            by.operator.ask("PATCH", leases(lab, "others"), theirs),
            by.operator.ask("GET", leases(lab)),
            by.operator.ask("PATCH", node, theirs),
            by.operator.ask("POST", elsewhere, others),
        ):
            assert answer.status == 403, answer
            assert " cannot " in answer.text


@pytest.mark.parametrize("plural", WORKLOADS)
def test_the_operator_sets_and_the_clean_up_removes_the_three_annotations(lab, plural):
    path = lab.workload(plural)
    uid = json.loads(lab.admin.ask("GET", path).text)["metadata"]["uid"]

    def annotated(by, value):
        body = {"metadata": {"uid": uid, "annotations": dict.fromkeys(WORKLOAD_ANNOTATIONS, value)}}
        answer = by.ask("PATCH", path, body, manager=OPERATOR_FIELD_MANAGER)
        assert answer.accepted, answer
        present = json.loads(answer.text)["metadata"]["annotations"]
        return {name: present[name] for name in WORKLOAD_ANNOTATIONS if name in present}

    operator, cleanup = lab.guarded.operator, lab.guarded.cleanup
    assert annotated(operator, "first") == dict.fromkeys(WORKLOAD_ANNOTATIONS, "first")
    assert annotated(operator, "second") == dict.fromkeys(WORKLOAD_ANNOTATIONS, "second")
    assert annotated(operator, None) == {}
    assert annotated(operator, "third") == dict.fromkeys(WORKLOAD_ANNOTATIONS, "third")
    assert annotated(cleanup, None) == {}


def test_the_operator_writes_its_judgement_and_what_it_asks_of_a_node(lab):
    node = lab.node_object(lab.other, spec={**WATCHPOINTS, "sysctlProfiles": [PROFILE]})
    judgement = {"health": "Critical", "findings": [FINDING], "evaluation": [], "conditions": []}
    for path, body in (
        (lab.node(lab.other), node),
        (lab.node(lab.other, "/status"), lab.node_object(lab.other, status=judgement)),
        (lab.pod("others", "/status"), lab.pod_object("others", status=judgement)),
    ):
        answer = lab.guarded.operator.ask("PATCH", path, body, APPLY, manager=OPERATOR_FIELD_MANAGER)
        assert answer.accepted, answer
    asked_for = lab.node_object(lab.other, spec={"sysctlProfiles": []})
    answer = lab.guarded.cleanup.ask("PATCH", lab.node(lab.other), asked_for, APPLY, manager=OPERATOR_FIELD_MANAGER)
    assert answer.accepted, answer
    assert json.loads(answer.text)["spec"].get("sysctlProfiles", []) == []


def test_a_kind_granted_beside_the_release_is_bound_too(control_plane, lab):
    grant = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {
            "name": f"{lab.namespace}-kind",
            "labels": {"rbac.sockethealth.io/aggregate-to-workloads": "true"},
        },
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch"]}],
    }
    path, attack = lab.workload("configmaps"), {"data": {"key": "evil"}}
    control_plane.add(grant)
    try:
        for release in (lab.unguarded, lab.guarded):
            until(
                lambda by=release: by.operator.ask("GET", path).accepted,
                "the kind to be granted to the operator",
                seconds=30,
            )
        assert lab.unguarded.operator.ask("PATCH", path, attack, dry_run=True).accepted
        answer = lab.guarded.operator.ask("PATCH", path, attack)
        assert answer.status == 403, answer
        assert "and not data" in answer.text
        ours = {"metadata": {"annotations": dict.fromkeys(WORKLOAD_ANNOTATIONS, "x")}}
        assert lab.guarded.operator.ask("PATCH", path, ours).accepted
    finally:
        control_plane.delete("clusterrole", grant["metadata"]["name"], wait=True)


def test_people_are_not_bound(lab):
    assert lab.admin.ask("PATCH", lab.pod("others"), {"spec": {"nodeName": lab.mine}}, dry_run=True).accepted
    assert lab.admin.ask("PATCH", lab.workload("deployments"), {"spec": {"replicas": 9}}, dry_run=True).accepted


def test_a_profile_that_will_not_help_is_accepted_with_a_warning(lab):
    def warnings(target, name, value):
        spec = {"target": target, "sysctls": [{"name": name, "value": value}]}
        profile = _object("SysctlProfile", {"name": "advice"}, {"spec": spec})
        answer = lab.admin.ask("POST", f"{OURS}/sysctlprofiles", profile, dry_run=True)
        assert answer.accepted, answer
        return [warning for warning in answer.warnings if f"{lab.guarded.name}-profile-advice" in warning]

    useful = ("Node", "net.core.netdev_max_backlog", "2000")
    until(lambda: bool(warnings("Node", "net.ipv4.tcp_fin_timeout", "30")), "advice to be given", seconds=30)
    assert "does not shorten TIME_WAIT" in " ".join(warnings("Node", "net.ipv4.tcp_fin_timeout", "30"))
    assert warnings(*useful) == []


def test_the_api_server_finds_no_fault_with_the_types_of_any_expression(control_plane, lab):
    def policies():
        found = control_plane.get("validatingadmissionpolicies")["items"]
        return [one for one in found if one["metadata"]["name"].startswith(lab.guarded.name)]

    until(
        lambda: all("typeChecking" in one.get("status", {}) for one in policies()),
        "the policies to be type-checked",
        seconds=30,
    )
    assert len(policies()) >= 4
    warnings = {one["metadata"]["name"]: one["status"]["typeChecking"].get("expressionWarnings") for one in policies()}
    assert not any(warnings.values()), warnings
