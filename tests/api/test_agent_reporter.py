"""The agent's writes to a real API server, with the permissions it has in a cluster and no more."""

import json
import secrets
import time

import pytest
from msgspec.structs import replace

from agent_builders import Counted, facts, pod, submission
from faulty_api import gate
from harness.cluster import OwnCluster
from harness.plugin import skip_or_fail
from harness.waiting import until
from sockethealth_agent.kubeapi import Endpoint, KubeApi
from sockethealth_agent.pods import pods_of, read_pod
from sockethealth_agent.reporter import RELIST_SECONDS, AgentIdentity, Reporter, own_node, watchpoints_of
from sockethealth_core.resources import Watchpoint

pytestmark = pytest.mark.api

AGENT_RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
    {
        "apiGroups": ["sockethealth.io"],
        "resources": ["sockethealths"],
        "verbs": ["get", "list", "create", "patch", "delete"],
    },
    {"apiGroups": ["sockethealth.io"], "resources": ["sockethealths/status"], "verbs": ["patch"]},
    {
        "apiGroups": ["sockethealth.io"],
        "resources": ["nodesockethealths"],
        "verbs": ["list", "watch", "create", "patch"],
    },
    {"apiGroups": ["sockethealth.io"], "resources": ["nodesockethealths/status"], "verbs": ["patch"]},
]


class Clock:
    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead


@pytest.fixture
def node(control_plane):
    name = f"agent-{secrets.token_hex(3)}"
    manifest = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"pool": "blue"}},
    }
    control_plane.add(manifest)
    yield name
    control_plane.delete("node", name)


@pytest.fixture
def failures():
    """The status of each request that failed."""
    return []


@pytest.fixture
def way(control_plane):
    """The agent's way to the API server, which can be cut; None to an existing cluster, whose keys are not ours."""
    if not isinstance(control_plane, OwnCluster):
        yield None
        return
    with gate(control_plane.server, control_plane.directory.pki) as ways:
        yield ways.way()


@pytest.fixture
def outage(way):
    """The same, for a test that cuts it."""
    if way is None:
        skip_or_fail("The keys of the API server are missing: a way to it that can be cut needs them.")
    return way


@pytest.fixture
def api(control_plane, crds, namespace, failures, way):
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent", "namespace": namespace}}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": namespace},
        "rules": AGENT_RULES,
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": namespace},
        "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": namespace}],
    }
    control_plane.apply(account, role, binding)
    endpoint = Endpoint(
        url=control_plane.server if way is None else way.url,
        ca_file=str(control_plane.ca_file),
        token=control_plane.token_for("agent", namespace),
    )
    made = KubeApi(endpoint, on_error=failures.append)
    yield made
    made.close()
    for kind in ("clusterrole", "clusterrolebinding"):
        control_plane.delete(kind, namespace)


@pytest.fixture
def create_pod(control_plane, namespace, node):
    def create(name="web-0", labels=None):
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels or {"app": "web"}},
            "spec": {
                "nodeName": node,
                "automountServiceAccountToken": False,
                "containers": [{"name": "main", "image": "none"}],
            },
        }
        control_plane.add(manifest)
        return look(name)

    def look(name="web-0"):
        return read_pod(json.dumps(control_plane.get("pod", name, "-n", namespace)).encode())

    create.look = look
    return create


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sink():
    return Counted()


@pytest.fixture
def reporter(api, node, sink, clock):
    identity = AgentIdentity(node_name=node, version="0.0", boot_id="b", kernel="6")
    return Reporter(api, identity, sink=sink, interval_seconds=1, heartbeat_seconds=60, clock=clock)


@pytest.fixture
def held(control_plane, namespace):
    """What the API server holds for the pod web-0; None when there is nothing."""

    def get(*flags):
        answer = control_plane.kubectl(
            "get", "sockethealths.sockethealth.io", "web-0", "-n", namespace, "-o", "json", "--ignore-not-found", *flags
        ).stdout
        return json.loads(answer) if answer else None

    return get


def report(reporter, *observed, **more):
    """Have it written, with as many attempts as a fresh API server takes."""
    reporter.submit(submission(observed, **more))

    def done():
        reporter.step()
        return reporter.idle

    until(done, "the report to be written", seconds=20)


def judge(control_plane, namespace, name="web-0"):
    """Write a status as the operator does."""
    judgement = {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "SocketHealth",
        "metadata": {"name": name, "namespace": namespace},
        "status": {
            "health": "Critical",
            "findings": [
                {
                    "type": "CloseWaitLeak",
                    "severity": "Critical",
                    "since": "2026-01-01T00:00:00Z",
                    "policy": "p",
                    "rule": "r",
                    "value": 1000,
                }
            ],
        },
    }
    control_plane.kubectl(
        "apply",
        "--server-side",
        "--subresource=status",
        "--field-manager=sockethealth-operator",
        "-f",
        "-",
        input=json.dumps(judgement),
    )


def test_a_pods_object_names_it_is_owned_by_it_and_has_its_labels_and_facts(reporter, create_pod, held, node):
    web = create_pod()
    report(reporter, (web, facts(established=7, close_wait=2)))
    found = held()
    owner = found["metadata"]["ownerReferences"]
    assert [(one["kind"], one["name"], one["uid"]) for one in owner] == [("Pod", "web-0", web.uid)]
    assert found["metadata"]["labels"] == {"app": "web"}
    assert found["spec"] == {"nodeName": node, "podUID": web.uid, "podIPs": [], "hostNetwork": False}
    assert found["status"]["sockets"]["established"] == 7
    assert found["status"]["sockets"]["closeWait"] == 2


def test_the_node_reports_with_its_owner_labels_and_heartbeat(reporter, control_plane, node):
    report(reporter)
    found = control_plane.get("nodesockethealth", node)
    uid = control_plane.get("node", node)["metadata"]["uid"]
    assert [(one["kind"], one["uid"]) for one in found["metadata"]["ownerReferences"]] == [("Node", uid)]
    assert found["metadata"]["labels"]["pool"] == "blue"
    assert found["status"]["agent"]["intervalSeconds"] == 60
    assert found["status"]["agent"]["heartbeatTime"] > "2026"
    assert reporter.reported.is_set()


def test_facts_and_findings_keep_out_of_each_others_way(reporter, create_pod, held, control_plane, namespace):
    web = create_pod()
    report(reporter, (web, facts(established=7)))
    judge(control_plane, namespace)
    report(reporter, (web, facts(established=700)))
    status = held()["status"]
    assert status["sockets"]["established"] == 700
    assert (status["health"], status["findings"][0]["type"]) == ("Critical", "CloseWaitLeak")
    managers = {one["manager"] for one in held("--show-managed-fields")["metadata"]["managedFields"]}
    assert managers == {"sockethealth-agent", "sockethealth-operator"}


def test_a_sysctl_that_is_the_kernels_default_again_goes(reporter, create_pod, held):
    web = create_pod()
    report(reporter, (web, replace(facts(established=7), sysctls={"net.core.somaxconn": "99"})))
    assert held()["status"]["sysctls"] == {"net.core.somaxconn": "99"}
    report(reporter, (web, facts(established=700)))
    assert held()["status"]["sockets"]["established"] == 700
    assert not held()["status"].get("sysctls")


def test_facts_within_their_bands_cause_no_write(reporter, create_pod, held, sink):
    web = create_pod()
    report(reporter, (web, facts(established=100)))
    version = held()["metadata"]["resourceVersion"]
    report(reporter, (web, facts(established=110, observed="2026-01-01T00:00:15Z")))
    assert held()["metadata"]["resourceVersion"] == version
    assert sink.suppressed_writes == 1


def test_a_restarted_agent_takes_up_what_is_written(reporter, api, node, create_pod, held, clock):
    web = create_pod()
    report(reporter, (web, facts(established=100)))
    version = held()["metadata"]["resourceVersion"]
    again = Counted()
    identity = AgentIdentity(node_name=node, version="0.0", boot_id="b", kernel="6")
    report(Reporter(api, identity, sink=again, clock=clock), (web, facts(established=100)))
    assert again.writes == ["heartbeat"]
    assert held()["metadata"]["resourceVersion"] == version


def test_a_pod_made_anew_under_its_name_starts_without_the_old_findings(
    reporter, create_pod, held, control_plane, namespace
):
    first = create_pod()
    report(reporter, (first, facts(close_wait=1000, older=1000)))
    judge(control_plane, namespace)
    control_plane.kubectl("delete", "pod", "web-0", "-n", namespace, "--force", "--grace-period=0")
    second = create_pod()
    report(reporter, (second, facts(established=1)))
    found = held()
    assert found["spec"]["podUID"] == second.uid
    assert [one["uid"] for one in found["metadata"]["ownerReferences"]] == [second.uid]
    assert found["status"]["sockets"]["closeWait"] == 0
    assert "findings" not in found["status"]
    assert "health" not in found["status"]


def test_a_replaced_pod_is_seen_though_its_old_object_was_not_collected(reporter, create_pod, held, namespace):
    old = create_pod()
    report(reporter, (old, facts(established=5)))
    new = pod("web-0", namespace, uid="22222222-2222-4222-8222-222222222222")
    uid = held()["metadata"]["uid"]
    report(reporter, (new, facts(established=9)))
    # The collector may be quicker than this look, as the new owner is none that exists.
    found = held()
    assert found is None or (found["metadata"]["uid"] != uid and found["spec"]["podUID"] == new.uid)


def test_the_object_of_a_completed_pod_goes(reporter, create_pod, held, control_plane, namespace):
    web = create_pod()
    report(reporter, (web, facts(established=5)))
    ended = {"status": {"phase": "Succeeded"}}
    control_plane.merge("pod", "web-0", ended, namespace=namespace, subresource="status")
    report(reporter, known=[create_pod.look()])
    assert held() is None


def test_labels_of_the_pod_are_followed_removed_ones_too(reporter, create_pod, held, control_plane, namespace):
    web = create_pod(labels={"app": "web", "tier": "front"})
    report(reporter, (web, facts(established=5)))
    labels = {"metadata": {"labels": {"tier": None, "app": "api"}}}
    control_plane.merge("pod", "web-0", labels, namespace=namespace)
    report(reporter, (create_pod.look(), facts(established=5)))
    assert held()["metadata"]["labels"] == {"app": "api"}
    assert held()["status"]["sockets"]["established"] == 5


def test_an_object_that_someone_deleted_comes_back(reporter, create_pod, held, control_plane, namespace, clock):
    web = create_pod()
    report(reporter, (web, facts(established=5)))
    control_plane.delete("sockethealths.sockethealth.io", "web-0", namespace=namespace, wait=True)
    clock.ahead += 2 * RELIST_SECONDS
    report(reporter, (web, facts(established=5)), at=clock())
    assert held()["status"]["sockets"]["established"] == 5


def test_a_write_to_an_object_that_someone_deleted_makes_it_anew(reporter, create_pod, held, control_plane, namespace):
    web = create_pod()
    report(reporter, (web, facts(established=5)))
    control_plane.delete("sockethealths.sockethealth.io", "web-0", namespace=namespace, wait=True)
    report(reporter, (web, facts(established=500)))
    assert held()["status"]["sockets"]["established"] == 500


def test_an_object_whose_pod_is_unknown_goes(reporter, create_pod, held, clock):
    report(reporter, (create_pod(), facts(established=5)))
    clock.ahead += 2 * RELIST_SECONDS
    report(reporter, at=clock())
    assert held() is None


def test_a_watchpoint_reaches_the_agent_and_its_crossing_is_written(
    reporter, api, create_pod, held, control_plane, node, sink
):
    web = create_pod()
    report(reporter, (web, facts(established=10, close_wait=3, older=1)))
    mirror = own_node(api, node)
    mirror.start()
    try:
        wanted = [{"detector": "CloseWaitLeak", "values": [2], "parameters": {"minAge": "60s"}}]
        patch = json.dumps({"spec": {"watchpoints": wanted}})
        control_plane.kubectl("patch", "nodesockethealth", node, "--type=merge", "-p", patch)
        until(lambda: watchpoints_of(mirror) != (), "the watchpoint to arrive", seconds=10)
        watchpoints = watchpoints_of(mirror)
    finally:
        mirror.stop()
    assert watchpoints == (Watchpoint(detector="CloseWaitLeak", values=[2], parameters={"minAge": "60s"}),)
    report(reporter, (web, facts(established=10, close_wait=3, older=3)), watchpoints=watchpoints)
    assert sink.writes[-1] == "crossed CloseWaitLeak 2"
    assert held()["status"]["closeWait"]["ages"] == [{"olderThanSeconds": 60, "count": 3}]


def test_an_api_server_that_was_away_gets_the_latest_facts(reporter, create_pod, held, outage, sink, clock, caplog):
    caplog.set_level("INFO", logger="sockethealth_agent")
    web = create_pod()
    report(reporter, (web, facts(established=10)))
    outage.go_away()
    for established in (100, 200, 300):
        reporter.submit(submission([(web, facts(established=established))]))
        reporter.step()
    outage.come_back()
    report(reporter, (web, facts(established=300)))
    assert held()["status"]["sockets"]["established"] == 300
    assert sink.writes.count("established") == 1
    said = [record.message for record in caplog.records if record.name == "sockethealth_agent.reporter"]
    assert len(said) == 2, said
    assert "Nothing can be reported" in said[0]
    assert said[1].startswith("Reporting again after")


def test_a_pod_whose_namespace_is_on_its_way_out_gets_no_report_and_nobody_is_bothered(
    reporter, create_pod, held, end_namespace, sink, failures, caplog
):
    going = create_pod()
    end_namespace()
    report(reporter, (going, facts(established=10)))
    assert held() is None
    assert sink.writes == ["heartbeat"]
    assert 403 not in failures
    assert [message for message in caplog.messages if "refused" in message] == []


def test_pods_of_the_node_are_known_and_followed(api, create_pod, node, control_plane, namespace):
    other = pod("elsewhere")
    first = create_pod("web-0")
    mirror = pods_of(api, node)
    mirror.start()
    try:
        assert mirror.synced.wait(10)
        assert set(mirror.items) == {first.uid}
        second = create_pod("web-1", labels={"app": "two"})
        until(lambda: second.uid in mirror.items, "the second pod to be seen", seconds=10)
        assert mirror.items[second.uid].labels == {"app": "two"}
        control_plane.kubectl("delete", "pod", "web-0", "-n", namespace, "--force", "--grace-period=0")
        until(lambda: first.uid not in mirror.items, "the first pod to be gone", seconds=10)
        assert other.uid not in mirror.items
    finally:
        mirror.stop()


def test_a_version_too_old_to_watch_from_is_answered_by_listing_again(api, create_pod, node):
    web = create_pod()
    mirror = pods_of(api, node)
    mirror._version = "1"
    mirror.start()
    try:
        until(lambda: web.uid in mirror.items, "the pods to be listed again", seconds=10)
        assert int(mirror._version) > 1
    finally:
        mirror.stop()


def test_pods_stay_known_while_the_api_server_is_away(api, create_pod, node, outage):
    first = create_pod("web-0")
    mirror = pods_of(api, node)
    mirror.start()
    try:
        assert mirror.synced.wait(10)
        outage.go_away()
        until(lambda: mirror._watch is None, "the watch to break", seconds=10)
        assert set(mirror.items) == {first.uid}
        outage.come_back()
        second = create_pod("web-1")
        until(lambda: second.uid in mirror.items, "a pod made after the outage to be seen", seconds=40)
    finally:
        mirror.stop()
