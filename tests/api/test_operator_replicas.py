"""Two replicas of the operator: one does the work, the other takes over, and nothing is done twice.

Each replica has a service account of its own, by which the API server's audit log tells who has written what.
"""

import base64
import json
import secrets
import time
from collections import Counter
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus

import pytest
import yaml

from harness.cluster import OwnCluster
from harness.plugin import skip_or_fail
from harness.waiting import until
from operator_lab import OperatorProcess, Stage
from sockethealth_core.names import AGENT_FIELD_MANAGER, API_VERSION, GROUP, VERSION
from sockethealth_core.units import format_time, parse_time

pytestmark = [pytest.mark.api, pytest.mark.timeout(180)]

TAKEOVER_SECONDS = 20
"""What is promised, from the end of a leader that released nothing until another has done its first work."""
GRACEFUL_SECONDS = 5
"""The same for one that was asked to end."""
PATIENCE_SECONDS = 60
POLL_SECONDS = 0.2
FOR_SECONDS = 30
PATHS = f"/apis/{GROUP}/{VERSION}"


class Replica:
    """An operator process with a service account of its own."""

    def __init__(self, stage, name, folder):
        self.user = f"system:serviceaccount:{stage.namespace}:{name}"
        self.name = name
        self._cluster, self._namespace = stage.cluster, stage.namespace
        file = folder / f"{name}.kubeconfig"
        file.write_text(yaml.safe_dump(_kubeconfig(stage.cluster, stage.cluster.token_for(name, stage.namespace))))
        lease = f"{stage.namespace}/operator"
        self.process = OperatorProcess(file, folder / f"{name}.log", lease=lease, instance=name)

    def wait_until_it_leads(self):
        until(
            self.process.leads,
            f"{self.name} to lead",
            seconds=PATIENCE_SECONDS,
            poll_seconds=POLL_SECONDS,
            explain=self.process.log_text,
        )

    def wait_until_it_stands_by(self):
        stands_by = f"Stands by: {'b' if self.name == 'a' else 'a'}_"
        until(
            lambda: stands_by in self.process.log_text(),
            f"{self.name} to stand by",
            seconds=PATIENCE_SECONDS,
            explain=self.process.log_text,
        )

    def writes(self):
        """All writes it sent that were answered, but those of the Lease.

        Namespaces of earlier tests are on their way out, and what is left in them is judged like all else.
        """
        return [
            one
            for one in self._cluster.audited(self.user)
            if one["objectRef"]["resource"] != "leases"
            and one["objectRef"].get("namespace", "default") in {self._namespace, "default"}
        ]

    def times(self):
        """When the first and the last of these were received, epoch seconds."""
        stamps = [datetime.fromisoformat(one["requestReceivedTimestamp"]).timestamp() for one in self.writes()]
        return min(stamps), max(stamps)

    def done(self, resource, name=None, subresource=None):
        """How many writes of a resource succeeded, of one object or of all."""
        return sum(
            one["responseStatus"]["code"] < HTTPStatus.MULTIPLE_CHOICES
            and one["objectRef"]["resource"] == resource
            and one["objectRef"].get("subresource") == subresource
            and name in {None, one["objectRef"].get("name")}
            for one in self.writes()
        )


def _kubeconfig(cluster, token):
    authority = base64.b64encode(cluster.ca_file.read_bytes()).decode()
    server = {"server": cluster.server, "certificate-authority-data": authority}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": server}],
        "users": [{"name": "x", "user": {"token": token}}],
    }


@pytest.fixture
def stage(control_plane, crds, namespace):
    if not isinstance(control_plane, OwnCluster):
        skip_or_fail("The audit log of an existing cluster is not ours to read: unset SOCKETHEALTH_TEST_KUBECONFIG.")
    with Stage.set_up(control_plane, namespace) as made:
        yield made


@pytest.fixture
def replicas(stage, tmp_path):
    """Replica `a`, which leads, and `b`, which stands by."""
    accounts = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": stage.namespace}}
        for name in "ab"
    ]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": stage.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "Group", "name": f"system:serviceaccounts:{stage.namespace}"}],
    }
    stage.cluster.add(*accounts, binding)
    made = [Replica(stage, name, tmp_path) for name in "ab"]
    try:
        made[0].process.start()
        made[0].wait_until_it_leads()
        made[1].process.start()
        made[1].wait_until_it_stands_by()
        yield made
    finally:
        for replica in made:
            replica.process.stop()
        stage.cluster.delete("clusterrolebinding", stage.namespace)


def read(stage, path):
    """One object, or a list; much cheaper than a kubectl for what is asked again and again."""
    return json.loads(stage.cluster.dynamic.request("get", path, serialize=False).data)


def evaluation_of(stage, pod):
    path = f"{PATHS}/namespaces/{stage.namespace}/sockethealths/{pod}"
    return read(stage, path).get("status", {}).get("evaluation", [])


def wait_until_pending(stage, pod, replica):
    """When the rule began to hold, epoch seconds."""
    until(
        lambda: evaluation_of(stage, pod) != [],
        "the rule to be pending",
        seconds=PATIENCE_SECONDS,
        poll_seconds=POLL_SECONDS,
        explain=replica.process.log_text,
    )
    return parse_time(evaluation_of(stage, pod)[0]["since"])


def leak(stage, app):
    """A workload with a pod that leaks connections; the pod's name."""
    (pod,) = stage.deployment(app)
    stage.report(pod, close_wait=200)
    return pod


def wait_for_event(stage, app, replica):
    def there():
        found = read(stage, f"/apis/events.k8s.io/v1/namespaces/{stage.namespace}/events")["items"]
        regarding = [one["regarding"] for one in found if one["reason"] == "CloseWaitLeak"]
        return ("Deployment", app) in [(one["kind"], one["name"]) for one in regarding]

    until(
        there,
        f"the Event of {app}",
        seconds=PATIENCE_SECONDS,
        poll_seconds=POLL_SECONDS,
        explain=replica.process.log_text,
    )


def events_created(*replicas):
    """How often each Event was created, by its name."""
    return Counter(
        (one["objectRef"]["namespace"], one["objectRef"]["name"])
        for replica in replicas
        for one in replica.writes()
        if one["objectRef"]["resource"] == "events" and one["responseStatus"]["code"] == HTTPStatus.CREATED
    )


def lease_of(stage):
    return stage.get("lease", "operator")["spec"]


def assert_one_after_the_other(first, second):
    ended, began = first.times()[1], second.times()[0]
    assert ended < began, f"{second.name} began {ended - began:.1f} s before {first.name} had ended"


def test_killed_in_the_middle_of_for_the_other_goes_on_within_20_seconds(stage, replicas, record_property):
    a, b = replicas
    stage.policy(podSelector={"matchExpressions": [{"key": "app", "operator": "In", "values": ["old", "new"]}]})
    stage.policy("slow", rule={"for": f"{FOR_SECONDS}s"}, podSelector={"matchLabels": {"app": "slow"}})
    old = leak(stage, "old")
    wait_for_event(stage, "old", a)
    slow = leak(stage, "slow")
    began = wait_until_pending(stage, slow, a)
    before = stage.status(old)["findings"]
    assert b.writes() == [], "who stands by has written"

    killed, transitions = time.monotonic(), lease_of(stage)["leaseTransitions"]
    a.process.kill()
    new = leak(stage, "new")
    wait_for_event(stage, "new", b)
    recovered = time.monotonic() - killed
    record_property("recovered_seconds", round(recovered, 1))
    assert recovered < TAKEOVER_SECONDS
    wait_for_event(stage, "slow", b)
    since = parse_time(stage.status(slow)["findings"][0]["since"])
    assert FOR_SECONDS - 1 <= since - began <= FOR_SECONDS + TAKEOVER_SECONDS, "the time before the kill was lost"

    b.process.stop()  # what it has begun is in the log by then
    assert_one_after_the_other(a, b)
    assert set(events_created(a, b).values()) == {1}
    assert len(events_created(a, b)) == 6, f"one for each pod and for each workload: {sorted(events_created(a, b))}"
    for app in ("old", "slow", "new"):
        assert a.done("deployments", app) + b.done("deployments", app) == 1, f"annotations of {app}"
    assert (b.done("deployments", "old"), b.done("sockethealths", old, "status")) == (0, 0), "it is told already"
    assert stage.status(old)["findings"] == before
    assert b.done("sockethealths", slow, "status") == 1, "from pending to active"
    assert b.done("sockethealths", new, "status") <= 2, "to pending, and to active"
    lease = lease_of(stage)
    assert (lease["leaseTransitions"], lease.get("holderIdentity")) == (transitions + 1, None)


def test_asked_to_end_it_hands_over_within_5_seconds(stage, replicas, record_property):
    a, b = replicas
    stage.policy()
    leak(stage, "old")
    wait_for_event(stage, "old", a)
    leak(stage, "new")
    asked = time.monotonic()
    a.process.stop()
    b.wait_until_it_leads()
    led = time.monotonic() - asked
    wait_for_event(stage, "new", b)
    record_property("recovered_seconds", round(led, 1))
    assert led < GRACEFUL_SECONDS
    b.process.stop()
    assert_one_after_the_other(a, b)
    assert set(events_created(a, b).values()) == {1}
    assert len(events_created(a, b)) == 4
    for app in ("old", "new"):
        assert a.done("deployments", app) + b.done("deployments", app) == 1, f"annotations of {app}"


def test_stopped_for_longer_than_its_lease_and_let_go_on_it_writes_nothing(stage, replicas, record_property):
    a, b = replicas
    stage.policy(rule={"for": "5s"})
    pod = leak(stage, "web")
    wait_until_pending(stage, pod, a)
    frozen = time.monotonic()
    a.process.freeze()
    try:
        b.wait_until_it_leads()
        wait_for_event(stage, "web", b)
        record_property("recovered_seconds", round(time.monotonic() - frozen, 1))
    finally:
        a.process.thaw()
    # Its `for` has run out while it stood still: it is due the moment it goes on.
    a.wait_until_it_stands_by()
    other = leak(stage, "other")
    wait_for_event(stage, "other", b)
    assert not a.process.leads()
    assert a.process.metric("sockethealth_operator_queue_keys") == 0
    assert stage.finding_types(other) == [("CloseWaitLeak", "Warning")]
    a.process.stop()
    b.process.stop()
    assert_one_after_the_other(a, b)
    assert "Traceback" not in a.process.log_text()
    assert set(events_created(a, b).values()) == {1}
    assert len(events_created(a, b)) == 4


class Played:
    """Nodes whose sysctl writers are played here: they say that a profile is in force when they are told to."""

    def __init__(self, stage, profile, numbers):
        self.stage, self.profile = stage, profile
        self.names = [f"{profile}-{number}" for number in range(numbers)]

    def set_up(self):
        for name in self.names:
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": self.profile}}}
            self.stage.apply(node | {"spec": {"unschedulable": True}})
            self._apply(name, {})
            self.report(name, [])
        spec = {
            "mode": "Enforce",
            "target": "Node",
            "nodeSelector": {"matchLabels": {"pool": self.profile}},
            "sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "30"}],
            "rollout": {"maxConcurrentNodes": 1, "pauseSeconds": 0},
        }
        document = {"apiVersion": API_VERSION, "kind": "SysctlProfile", "metadata": {"name": self.profile}}
        self.stage.apply(document | {"spec": spec})

    def tear_down(self):
        for kind, *names in (("sysctlprofile", self.profile), ("nodesockethealth", *self.names), ("node", *self.names)):
            self.stage.cluster.delete(kind, *names)

    def asked(self):
        """Nodes that are asked to have it, in order, and the revision."""
        raw = {name: read(self.stage, f"{PATHS}/nodesockethealths/{name}") for name in self.names}
        entries = {name: one.get("spec", {}).get("sysctlProfiles", []) for name, one in raw.items()}
        return {name: found[0]["revision"] for name, found in entries.items() if found}

    def report(self, name, reports):
        time_text = format_time(time.time())
        status = {
            "observedTime": time_text,
            "agent": {"version": "test", "heartbeatTime": time_text, "intervalSeconds": 3600},
            "sysctlWriter": {"version": "test", "bootId": "boot-1"},
            "sysctlProfiles": reports,
        }
        self._apply(name, {"status": status}, "status")

    def in_force(self, name):
        report = {"profile": self.profile, "revision": self.asked()[name], "mode": "Enforce", "state": "Applied"}
        self.report(name, [report])

    def wait_for_next(self, known, replica):
        """Wait until a node is asked beside those known; its name."""
        until(
            lambda: self.asked().keys() > set(known),
            f"a node beside {known} to be asked",
            seconds=PATIENCE_SECONDS,
            poll_seconds=POLL_SECONDS,
            explain=replica.process.log_text,
        )
        (name,) = self.asked().keys() - set(known)
        return name

    def wait_for_the_end(self, replica):
        """Wait until the roll-out is complete; the profile's status."""

        def status():
            return read(self.stage, f"{PATHS}/sysctlprofiles/{self.profile}").get("status", {})

        until(
            lambda: status().get("rollout", {}).get("phase") == "Complete",
            "the roll-out to be complete",
            seconds=PATIENCE_SECONDS,
            poll_seconds=POLL_SECONDS,
            explain=replica.process.log_text,
        )
        return status()

    def _apply(self, name, fields, subresource=""):
        body = {"apiVersion": API_VERSION, "kind": "NodeSocketHealth", "metadata": {"name": name}, **fields}
        self.stage.cluster.dynamic.request(
            "patch",
            "/".join(part for part in (f"{PATHS}/nodesockethealths", name, subresource) if part),
            body=body,
            content_type="application/apply-patch+yaml",
            field_manager=AGENT_FIELD_MANAGER,
            force_conflicts=True,
            query_params=[],
        )


@contextmanager
def played(stage, numbers):
    made = Played(stage, f"tuned-{secrets.token_hex(3)}", numbers)
    try:
        made.set_up()
        yield made
    finally:
        made.tear_down()


def test_killed_in_the_middle_of_a_roll_out_the_other_carries_it_on(stage, replicas, record_property):
    a, b = replicas
    with played(stage, 3) as nodes:
        first = nodes.wait_for_next([], a)
        nodes.in_force(first)
        second = nodes.wait_for_next([first], a)
        killed = time.monotonic()
        a.process.kill()
        nodes.in_force(second)
        third = nodes.wait_for_next([first, second], b)
        recovered = time.monotonic() - killed
        record_property("recovered_seconds", round(recovered, 1))
        assert recovered < TAKEOVER_SECONDS
        nodes.in_force(third)

        status = nodes.wait_for_the_end(b)
        b.process.stop()
        assert_one_after_the_other(a, b)
        assert set(events_created(a, b).values()) == {1}
        asked = {name: (a.done("nodesockethealths", name), b.done("nodesockethealths", name)) for name in nodes.names}
        assert asked == {first: (1, 0), second: (1, 0), third: (0, 1)}, "by a and by b"
        told = [name for _, name in events_created(a, b) if name.startswith(nodes.profile)]
        assert len(told) == 2, "it began, and it is complete"
        degraded = [one["status"] for one in status["conditions"] if one["type"] == "Degraded"]
        assert "True" not in degraded
