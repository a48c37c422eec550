"""What a tenant can do to others: a real token with every right on SocketHealths and policies of one namespace.

The operator runs as an administrator, and at first without the chart's admission policies: what it does not do to
others then, it does not for want of a permission. What those policies refuse comes last.
"""

import itertools
import json
import secrets
from dataclasses import dataclass
from typing import Any

import pytest
import urllib3

from harness import binaries
from harness.cluster import existing_kubeconfig
from harness.images import REPOSITORY
from harness.waiting import until
from operator_lab import OperatorProcess, Stage, running_operator
from sockethealth_core.names import API_VERSION

pytestmark = pytest.mark.api

OURS = f"/apis/{API_VERSION}"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
EPOCH = "1970-01-01T00:00:00Z"
SINCE = "2030-01-01T00:00:00Z"
OBSERVED = "2030-03-17T17:46:40Z"
HOSTILE = '\x1b[2J<img src=x onerror=alert(1)>"} or up{x="\u202e{{ $labels }}\n2026-01-01 ERROR forged'
RULE = {"name": "leak", "detector": "CloseWaitLeak", "threshold": 50, "clearThreshold": 10}
RULE |= {"for": "0s", "clearAfter": "0s", "parameters": {"minAge": "0s"}, "severity": "Critical"}


@dataclass(frozen=True)
class Answer:
    """Status, and the document or the API server's sentence."""

    status: int
    document: Any

    @property
    def text(self) -> str:
        return str(self.document.get("message", ""))


@dataclass(frozen=True)
class Tenant:
    """Who has a Role in one namespace, the neighbour, and the operator of both."""

    namespace: str
    victim: Stage
    victim_pod: str
    cluster_policy: str
    profile: str
    operator: OperatorProcess
    pool: urllib3.PoolManager
    server: str
    token: str

    def ask(self, method: str, path: str, body: Any = None, media: str = MERGE, *, dry_run: bool = False) -> Answer:
        query = "?fieldManager=sockethealth-agent" if method in ("PATCH", "POST") else "?"
        query += "&force=true" if media == APPLY else ""
        answer = self.pool.request(
            method,
            f"{self.server}{path}{query}{'&dryRun=All' if dry_run else ''}",
            body=None if body is None else json.dumps(body),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": media if method == "PATCH" else "application/json",
            },
            retries=False,
            timeout=20,
        )
        return Answer(answer.status, json.loads(answer.data))

    def path(self, plural: str, name: str = "", subresource: str = "") -> str:
        parts = (OURS, "namespaces", self.namespace, plural, name, subresource)
        return "/".join(part for part in parts if part)

    def apply(self, plural: str, kind: str, name: str, fields: dict[str, Any], subresource: str = "") -> Answer:
        metadata = {"name": name, "namespace": self.namespace, **fields.get("metadata", {})}
        body = {"apiVersion": API_VERSION, "kind": kind, **fields, "metadata": metadata}
        answer = self.ask("PATCH", self.path(plural, name, subresource), body, APPLY)
        assert answer.status < 300, answer
        return answer

    def report(self, name: str, status: dict[str, Any], *, uid: str, node: str = "", **metadata: Any) -> Answer:
        """A SocketHealth as only an agent should write it."""
        spec = {"nodeName": node or self.victim.node, "podUID": uid}
        self.apply("sockethealths", "SocketHealth", name, {"metadata": metadata, "spec": spec})
        return self.apply("sockethealths", "SocketHealth", name, {"status": status}, "status")

    def policy(self, name: str, **spec: Any) -> None:
        spec = {"rules": [{**RULE, "threshold": 0, "clearThreshold": 0}], **spec}
        self.apply("sockethealthpolicies", "SocketHealthPolicy", name, {"spec": spec})

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", self.path("sockethealths", name)).document.get("status", {})
        return found

    def own_pod(self, name: str, owner: dict[str, Any] | None = None) -> str:
        """A real pod of the tenant; its UID."""
        own = Stage(self.victim.cluster, self.namespace)
        own.pod(name, owner)
        return str(own.get("pod", name)["metadata"]["uid"])

    def judged(self, name: str) -> None:
        """Wait until the operator has looked at a SocketHealth, and so at all that came before it."""
        self.victim.wait(lambda: bool(self.status(name).get("findings")), f"a finding on {name}", self.operator)


LEAK = {"observedTime": OBSERVED, "sockets": {"closeWait": 900}}


@pytest.fixture(scope="module")
def tenant(control_plane, crds, tmp_path_factory):
    mark = secrets.token_hex(3)
    mine, theirs = f"tenant-{mark}", f"victim-{mark}"
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tenant", "namespace": mine}}
    named = {"name": "tenant", "namespace": mine}
    resources = ["sockethealths", "sockethealths/status", "sockethealthpolicies", "sockethealthpolicies/status"]
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": named,
        "rules": [{"apiGroups": ["sockethealth.io"], "resources": resources, "verbs": ["*"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": named,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
        "subjects": [{"kind": "ServiceAccount", **named}],
    }
    both = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": [mine, theirs]}]}
    cluster_policy = {
        "apiVersion": API_VERSION,
        "kind": "ClusterSocketHealthPolicy",
        "metadata": {"name": f"all-{mark}"},
        "spec": {"namespaceSelector": both, "rules": [RULE]},
    }
    profile = {
        "apiVersion": API_VERSION,
        "kind": "SysctlProfile",
        "metadata": {"name": f"on-finding-{mark}"},
        "spec": {
            "mode": "Enforce",
            "target": "Node",
            "activation": "OnFinding",
            "sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "30"}],
        },
    }
    for namespace in (mine, theirs):
        control_plane.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    pool = urllib3.PoolManager(ca_certs=str(control_plane.ca_file))
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": ""}, "spec": {"unschedulable": True}}
    try:
        for namespace in (mine, theirs):
            control_plane.kubectl(
                *("wait", "--for=create", "serviceaccount/default", "-n", namespace, "--timeout=60s"), timeout=90
            )
        documents = [account, role, binding, cluster_policy, profile]
        control_plane.add(*documents)
        with Stage.set_up(control_plane, theirs) as victim:
            node["metadata"]["name"] = victim.node
            control_plane.add(node)
            pod = victim.pod("web")
            victim.report(pod, close_wait=5)
            with running_operator(control_plane, tmp_path_factory.mktemp("tenants")) as operator:
                victim.wait(lambda: victim.status(pod).get("health") == "Healthy", "the victim's health", operator)
                yield Tenant(
                    namespace=mine,
                    victim=victim,
                    victim_pod=pod,
                    cluster_policy=cluster_policy["metadata"]["name"],
                    profile=profile["metadata"]["name"],
                    operator=operator,
                    pool=pool,
                    server=control_plane.server,
                    token=control_plane.token_for("tenant", mine),
                )
    finally:
        for what in (
            ("clustersockethealthpolicy", cluster_policy["metadata"]["name"]),
            ("sysctlprofile", profile["metadata"]["name"]),
            ("node", node["metadata"]["name"] or "none"),
            ("namespace", mine, theirs),
        ):
            control_plane.delete(*what)
        pool.clear()


@pytest.fixture(autouse=True)
def _nothing_happens_to_others(tenant):
    """After each attack: what the neighbour has, and what is of the cluster, is as it was."""
    cluster, victim = tenant.victim.cluster, tenant.victim
    yield
    status = victim.status(tenant.victim_pod)
    assert (status["health"], status.get("findings", [])) == ("Healthy", [])
    assert victim.annotations("pod", tenant.victim_pod) == {}
    events = cluster.get("events.events.k8s.io", "-A")["items"]
    ours = [one for one in events if one["reportingController"] == "sockethealth.io/operator"]
    regarding = {one["regarding"].get("namespace", "") for one in ours} & {"", victim.namespace}
    about_the_cluster = [one for one in ours if tenant.namespace in json.dumps(one) and not _within(one, tenant)]
    assert (regarding - {""}, about_the_cluster) == (set(), [])
    spec = cluster.get("nodesockethealth", victim.node).get("spec", {})
    assert spec.get("sysctlProfiles", []) == []
    faults = [one for one in tenant.operator.log_lines() if "fault of the operator" in one["message"]]
    assert faults == []


def _within(event: dict[str, Any], tenant: Tenant) -> bool:
    return bool(event["metadata"]["namespace"] == event["regarding"].get("namespace") == tenant.namespace)


def test_the_role_is_for_one_namespace(tenant):
    theirs = f"{OURS}/namespaces/{tenant.victim.namespace}/sockethealths/{tenant.victim_pod}"
    for method, path in (
        ("GET", theirs),
        ("PATCH", f"{theirs}/status"),
        ("PATCH", f"{OURS}/nodesockethealths/{tenant.victim.node}"),
        ("PATCH", f"{OURS}/clustersockethealthpolicies/{tenant.cluster_policy}"),
        ("PATCH", f"{OURS}/sysctlprofiles/{tenant.profile}"),
    ):
        assert tenant.ask(method, path, {"metadata": {"labels": {"x": "y"}}}).status == 403, path


def test_a_report_that_names_anothers_pod_speaks_of_that_pod_nowhere(tenant):
    uid = tenant.victim.get("pod", tenant.victim_pod)["metadata"]["uid"]
    tenant.report(tenant.victim_pod, LEAK, uid=uid)
    tenant.judged(tenant.victim_pod)
    assert tenant.status(tenant.victim_pod)["findings"][0]["policy"] == tenant.cluster_policy


def test_an_owner_in_another_namespace_is_none(tenant):
    theirs = tenant.victim.get("pod", tenant.victim_pod)["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": tenant.victim_pod, "uid": theirs, "controller": True}
    spec = {"nodeName": tenant.victim.node, "podUID": tenant.own_pod("owned")}
    tenant.apply("sockethealths", "SocketHealth", "owned", {"metadata": {"ownerReferences": [owner]}, "spec": spec})
    path = tenant.path("sockethealths", "owned")

    def seen():
        # An owner of another namespace is absent for the garbage collector, which comes at a time of its own.
        if tenant.ask("PATCH", f"{path}/status", {"status": LEAK}).status == 404:
            return True
        found = tenant.ask("GET", path)
        return found.status == 404 or bool(found.document.get("status", {}).get("findings"))

    tenant.victim.wait(seen, "the report to be judged or collected", tenant.operator)
    assert tenant.victim.get("pod", tenant.victim_pod)["metadata"]["uid"] == theirs


@pytest.mark.parametrize("kind", ["namespace", "clustersockethealthpolicy"])
def test_a_pod_that_calls_an_object_of_the_cluster_its_owner_has_nothing_said_there(tenant, kind):
    cluster = tenant.victim.cluster
    name = tenant.victim.namespace if kind == "namespace" else tenant.cluster_policy
    raw = cluster.get(kind, name)
    owner = {"apiVersion": raw["apiVersion"], "kind": raw["kind"], "name": name, "uid": raw["metadata"]["uid"]}
    pod = f"child-of-{kind}"
    tenant.report(pod, LEAK, uid=tenant.own_pod(pod, {**owner, "controller": True}))
    tenant.judged(pod)
    # The Event of the pod comes after its owners were looked for.
    own = Stage(cluster, tenant.namespace)
    own.wait(lambda: bool(own.events("Pod", pod, "CloseWaitLeak")), "the pod's Event", tenant.operator)
    assert cluster.get(kind, name)["metadata"].get("annotations", {}) == raw["metadata"].get("annotations", {})


def test_a_made_up_judgement_stays_with_its_pod_and_is_cut_to_size(tenant):
    finding = {
        "type": "MadeUp",
        "severity": "Critical",
        "since": SINCE,
        "policy": tenant.cluster_policy,
        "policyKind": "ClusterSocketHealthPolicy",
        "rule": RULE["name"],
        "value": 1e308,
        "target": {"address": "10.0.0.1", "port": 1, "name": f"Service {tenant.victim.namespace}/{HOSTILE}"},
        "message": HOSTILE + "x" * 400_000,
        "remedy": "y" * 400_000,
        "runbook": "javascript:alert(1)",
    }
    state = {
        "policyKind": "ClusterSocketHealthPolicy",
        "policy": tenant.cluster_policy,
        "rule": RULE["name"],
        "state": "Active",
        "since": SINCE,
        "raised": SINCE,
    }
    own = Stage(tenant.victim.cluster, tenant.namespace)
    uid = tenant.own_pod("made-up")
    # Facts that were never observed: so nothing clears it.
    tenant.report("made-up", {"observedTime": EPOCH, "findings": [finding], "evaluation": [state]}, uid=uid)
    tenant.report("witness", LEAK, uid="none")
    tenant.judged("witness")
    # Facts at last: what was made up clears, and the policy's own finding comes.
    tenant.report("made-up", {**LEAK, "findings": [finding], "evaluation": [state]}, uid=uid)
    types = lambda: [one["type"] for one in tenant.status("made-up").get("findings", [])]  # noqa: E731
    own.wait(lambda: types() == ["CloseWaitLeak"], "the made-up finding to be replaced", tenant.operator)
    for event in own.cluster.get("events.events.k8s.io", "-n", tenant.namespace)["items"]:
        assert len(event.get("note", "").encode()) <= 1024
        assert event.get("note", "").isprintable()
    counted = 'sockethealth_operator_transitions_total{{change="{}",type="{}"}}'
    assert tenant.operator.metric(counted.format("Raised", "CloseWaitLeak")) > 0
    assert tenant.operator.metric(counted.format("Cleared", "MadeUp")) == 0


@pytest.mark.parametrize(
    "spec",
    [
        {"namespaceSelector": {}},
        {"nodeSelector": {}, "podSelector": {}},
        {"actions": {"annotate": {"workload": True, "pod": True}}},
    ],
    ids=str,
)
def test_a_policy_selects_no_pod_of_another_namespace(tenant, spec):
    name = f"wide-{secrets.token_hex(3)}"
    metadata = {"name": name, "namespace": tenant.namespace}
    rules = [{**RULE, "threshold": 0, "clearThreshold": 0}]
    body = {"apiVersion": API_VERSION, "kind": "SocketHealthPolicy", "metadata": metadata}
    # Posted, as apply refuses the fields that this kind does not have, and this drops them.
    made = tenant.ask("POST", tenant.path("sockethealthpolicies"), {**body, "spec": {"rules": rules, **spec}})
    assert made.status == 201, made
    assert not {"namespaceSelector", "nodeSelector"} & made.document["spec"].keys()
    pod = f"pod-{name}"
    tenant.report(pod, {"observedTime": OBSERVED}, uid="none")
    tenant.judged(pod)
    assert {one["policyKind"] for one in tenant.status(pod)["findings"]} == {"SocketHealthPolicy"}
    tenant.ask("DELETE", tenant.path("sockethealthpolicies", name))


def test_a_policy_of_a_namespace_activates_no_profile(tenant):
    tenant.policy("activating", actions={"sysctlProfile": tenant.profile})
    pod = "activating"
    tenant.report(pod, LEAK, uid="none")
    tenant.judged(pod)
    path = tenant.path("sockethealthpolicies", "activating")

    def remark():
        conditions = tenant.ask("GET", path).document.get("status", {}).get("conditions", [])
        return next((one["message"] for one in conditions if one["type"] == "ProfileResolved"), "")

    tenant.victim.wait(lambda: "do not activate it" in remark(), "the policy to say so", tenant.operator)
    nodes = tenant.victim.cluster.get("sysctlprofile", tenant.profile)["status"].get("nodes", {})
    assert nodes.get("selected", 0) == 0
    tenant.ask("DELETE", path)


def test_a_status_that_would_make_conditions_of_others_dear_is_refused(tenant):
    tenant.report("dear", LEAK, uid="none")
    sysctls = {f"net.k{number}": "1" for number in range(33)}
    answer = tenant.ask("PATCH", tenant.path("sockethealths", "dear", "status"), {"status": {"sysctls": sysctls}})
    assert answer.status == 422, answer
    assert "at most 32" in answer.text


def test_a_workload_with_no_room_for_annotations_is_told_of_once_and_left(tenant):
    own = Stage(tenant.victim.cluster, tenant.namespace)
    (pod,) = own.deployment("full")
    refused = 'sockethealth_operator_api_errors_total{status="422"}'
    # All annotations of an object have room for 256 KiB together.
    taken = sum(map(len, itertools.chain(*own.get("deployment", "full")["metadata"]["annotations"].items())))
    full = json.dumps({"metadata": {"annotations": {"example.com/full": "x" * (256 * 1024 - taken - 50)}}})
    own.cluster.kubectl(
        *("patch", "deployment", "full", "-n", own.namespace, "--type=merge", "--patch-file=/dev/stdin"), input=full
    )
    before = tenant.operator.metric(refused)
    tenant.report(pod, LEAK, uid=own.get("pod", pod)["metadata"]["uid"])
    own.wait(lambda: bool(own.events("Deployment", "full", "CloseWaitLeak")), "the Event", tenant.operator)
    assert own.annotations("deployment", "full") == {}
    asked = tenant.operator.metric(refused) - before
    assert asked == 1
    for close_wait in (1200, 0, 1500):
        tenant.report(pod, {**LEAK, "sockets": {"closeWait": close_wait}}, uid=own.get("pod", pod)["metadata"]["uid"])
        found = bool(close_wait)
        own.wait(lambda found=found: bool(own.finding_types(pod)) == found, "the next judgement", tenant.operator)
    # Once more for the finding that came again, and no more than that by the time other work is done.
    own.wait(lambda: tenant.operator.metric(refused) - before >= 2, "the next attempt", tenant.operator)
    tenant.report("after-full", LEAK, uid="none")
    tenant.judged("after-full")
    assert tenant.operator.metric(refused) - before == 2
    told = [one for one in tenant.operator.log_lines() if "is not annotated" in one["message"]]
    assert len(told) == 1
    assert f"Deployment {own.namespace}/full" in told[0]["message"]


def test_with_the_charts_admission_policies_a_tenant_writes_no_report_at_all(tenant):
    cluster = tenant.victim.cluster
    if not existing_kubeconfig():
        binaries.ensure(("helm",))
    name = f"tenants-{secrets.token_hex(3)}"
    chart = str(REPOSITORY / "charts" / "sockethealth")
    where = ("--namespace", tenant.namespace, "--kube-version", "1.34.0")
    only = ("--show-only", "templates/admission/reports.yaml", "--set", f"fullnameOverride={name}")
    rendered = cluster.helm("template", name, chart, *where, *only).stdout
    path = tenant.path("sockethealths", "refused")
    body = {
        "apiVersion": API_VERSION,
        "kind": "SocketHealth",
        "metadata": {"name": "refused", "namespace": tenant.namespace},
        "spec": {"nodeName": tenant.victim.node, "podUID": "none", "podIPs": ["10.9.8.7"]},
    }
    known = tenant.path("sockethealths", "dear")
    attacks = {
        "creates": ("PATCH", path, body, APPLY),
        "posts": ("POST", tenant.path("sockethealths"), body, MERGE),
        "names another node": ("PATCH", known, {"spec": {"nodeName": tenant.victim.node}}, MERGE),
        "takes addresses": ("PATCH", known, {"spec": {"podIPs": ["10.9.8.7"]}}, MERGE),
        "states facts": ("PATCH", f"{known}/status", {"status": {"sockets": {"closeWait": 9}}}, MERGE),
        "judges": ("PATCH", f"{known}/status", {"status": {"health": "Critical"}}, MERGE),
    }
    tenant.report("dear", LEAK, uid="none")
    before = {name: tenant.ask(*attack, dry_run=True).status for name, attack in attacks.items()}
    assert all(status < 300 for status in before.values()), before
    cluster.kubectl("apply", "-f", "-", input=rendered)
    try:
        until(
            lambda: tenant.ask(*attacks["judges"], dry_run=True).status == 403,
            "the policy to be in force",
            seconds=30,
        )
        for attack in attacks.values():
            answer = tenant.ask(*attack)
            assert answer.status == 403, answer
            assert "states facts of a node, which its agent writes" in answer.text
            assert f"system:serviceaccount:{tenant.namespace}:tenant" in answer.text
        tenant.victim.report(tenant.victim_pod, close_wait=4)
        tenant.policy("allowed")
        assert tenant.ask("DELETE", known).status == 200
    finally:
        cluster.kubectl("delete", "--wait=false", "-f", "-", input=rendered, check=False)
