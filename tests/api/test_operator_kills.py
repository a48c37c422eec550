"""The operator killed at each of its writes, which has arrived while its answer never comes; and refused at its start.

Whatever is written before and whatever is not, the next one makes all of it true, and nobody is told twice.
"""

import signal
import time
from collections import Counter

import pytest

from faulty_api import TOO_MANY, WRITES, Scope, gate
from operator_lab import OperatorProcess, Stage, delete_leases

pytestmark = pytest.mark.api

REASON = "CloseWaitLeak"
RAISED = ("patch sockethealths/status", "patch deployments", "post events", "post events")
"""Status, annotation, and an Event each on the pod and on its workload, in some order."""
TAKEOVER_SECONDS = 20
WATCHED = {
    "sockethealths",
    "nodesockethealths",
    "sockethealthpolicies",
    "clustersockethealthpolicies",
    "sysctlprofiles",
}


class Killer:
    """Kills an operator when so many writes about a finding have arrived.

    Attributes:
        writes: what has arrived since it was armed.
    """

    def __init__(self, operator):
        self.writes = []
        self._operator = operator
        self._at = None

    def arm(self, at=None):
        """From here on the `at`th write is the last; None for none."""
        self.writes, self._at = [], at

    def __call__(self, method, path):
        if method not in WRITES:
            return
        parts = path.split("/")
        kind = parts[parts.index("namespaces") + 2] if "namespaces" in parts else parts[-1]
        write = f"{method.lower()} {kind}{'/status' if path.endswith('/status') else ''}"
        if write not in RAISED:
            return  # of the policy, or of the node that is to watch its thresholds
        self.writes.append(write)
        if len(self.writes) == self._at:
            self._operator.hit()


@pytest.fixture
def stage(control_plane, crds, namespace):
    with Stage.set_up(control_plane, namespace) as made:
        yield made


@pytest.fixture
def way(control_plane, stage):
    """How an operator reaches the API server that sees the stage alone."""
    with gate(control_plane.server, control_plane.directory.pki) as ways:
        yield ways.way(Scope(f"metadata.namespace={stage.namespace}", f"metadata.name={stage.node}"))


@pytest.fixture
def operator(control_plane, way, tmp_path):
    """It, not started yet."""
    kubeconfig = way.kubeconfig(tmp_path / "operator.kubeconfig", control_plane.admin_token)
    process = OperatorProcess(kubeconfig, tmp_path / "operator.log")
    yield process
    process.stop()
    delete_leases(control_plane, process.leases)


def told(stage, app, pod):
    """How many Events there are: raised on pod and workload, and cleared."""
    ours = [("Pod", pod), ("Deployment", app)]
    return tuple(len(stage.events(*one, reason)) for reason in (REASON, f"{REASON}Cleared") for one in ours)


def is_raised(stage, app, pod):
    return (
        stage.finding_types(pod) == [(REASON, "Warning")]
        and [entry["pods"] for entry in stage.entries("deployment", app)] == [1]
        and told(stage, app, pod) == (1, 1, 0, 0)
    )


def is_cleared(stage, app, pod):
    return (
        stage.finding_types(pod) == []
        and stage.annotations("deployment", app) == {}
        and told(stage, app, pod) == (1, 1, 1, 1)
    )


def test_refused_while_it_starts_it_asks_again(stage, way, operator):
    asked = Counter()

    def refuse_each_list_once(method, path):
        if method != "GET":
            return None
        asked[path] += 1
        return TOO_MANY if asked[path] == 1 else None

    way.refuse = refuse_each_list_once
    operator.start()
    assert {path.rpartition("/")[2] for path, times in asked.items() if times > 1} >= WATCHED


def test_killed_at_each_write_of_a_finding_and_of_its_end_nothing_is_missing_or_told_twice(
    stage, way, operator, record_property
):
    way.arrived = killer = Killer(operator)
    operator.start()
    # Nothing settles by itself before this has an object that it is about.
    stage.policy(rule={"for": "0s", "clearAfter": "0s"})
    (pod,) = stage.deployment("whole")
    for close_wait, done in ((200, is_raised), (0, is_cleared)):
        killer.arm()
        stage.report(pod, close_wait=close_wait)
        stage.wait(lambda done=done: done(stage, "whole", pod), f"{close_wait} CLOSE_WAIT to be judged", operator)
        assert sorted(killer.writes) == sorted(RAISED)

    slowest = 0.0
    for at in range(1, len(RAISED) + 1):
        app = f"at-{at}"
        (pod,) = stage.deployment(app)
        for close_wait, done in ((200, is_raised), (0, is_cleared)):
            killer.arm(at)
            stage.report(pod, close_wait=close_wait)
            assert operator.wait_for_the_end() == -signal.SIGKILL
            # Others may have been under way.
            assert len(killer.writes) >= at
            killer.arm()
            began = time.monotonic()
            operator.start()
            stage.wait(lambda done=done, app=app, pod=pod: done(stage, app, pod), f"{app} to be told of", operator)
            slowest = max(slowest, time.monotonic() - began)
    record_property("recovered_seconds", round(slowest, 1))
    assert slowest < TAKEOVER_SECONDS
    for at in range(1, len(RAISED) + 1):
        (pod,) = stage.pods_of(f"at-{at}")
        assert is_cleared(stage, f"at-{at}", pod), "told again, or undone, after it was told"
