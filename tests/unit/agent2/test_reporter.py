"""What the reporter writes over hours of virtual time, to an API of its own that holds objects in memory."""

import json
from dataclasses import replace

import msgspec
import pytest

from agent_builders import facts, pod, submission
from sockethealth_agent import reporter as reporting
from sockethealth_agent.kubeapi import NotFoundError
from sockethealth_agent.reporter import (
    MOST_STEPS,
    QUIET,
    ROUTINE_BURST,
    ROUTINE_PER_SECOND,
    SETTLED_BURST,
    SETTLED_PER_SECOND,
    AgentIdentity,
    Reporter,
)
from sockethealth_core.noteworthy import QUIET_SECONDS
from sockethealth_core.resources import Conntrack, Watchpoint
from sockethealth_core.units import format_time

SWEEP_SECONDS = 10.0
HEARTBEAT_SECONDS = 120.0
HOUR = int(3600 / SWEEP_SECONDS)
LEAK = Watchpoint(detector="CloseWaitLeak", values=[10, 50], parameters={"minAge": "60s"}, severity="Warning")
TRACKED = Watchpoint(detector="ConntrackPressure", values=[80], severity="Warning")
EXPLAINED = Watchpoint(detector="ConntrackPressure", values=[80], severity="Info")


class HeldApi:
    """Stands for the agent's client, and holds what is applied."""

    def __init__(self):
        self.objects = {}
        self.applied = []

    def get(self, path, _parameters=None):
        if path.startswith("/api/v1/nodes/"):
            return b'{"metadata": {"uid": "n", "labels": {"pool": "blue"}}}'
        if path not in self.objects:
            raise NotFoundError("not there", status=404)
        return json.dumps(self.objects[path]).encode()

    def pages(self, path, _parameters=None, **_more):
        kind = path.rpartition("/")[2]
        yield json.dumps({"items": [held for at, held in self.objects.items() if f"/{kind}/" in at]}).encode()

    def apply(self, path, body, **_more):
        self.applied.append(path)
        bare = path.removesuffix("/status")
        if bare != path and bare not in self.objects:
            raise NotFoundError("not there", status=404)
        held = self.objects.setdefault(bare, {"metadata": {}})
        given = json.loads(msgspec.json.encode(body))
        metadata = {"uid": f"uid of {given['metadata']['name']}", **held["metadata"], **given["metadata"]}
        held.update({**given, "status": {**held.get("status", {}), **given.get("status", {})}, "metadata": metadata})
        return self.get(bare)

    def delete(self, path, **_more):
        self.objects.pop(path, None)


class Node:
    """A reporter whose sweeps are made by the test."""

    def __init__(self, mode="All"):
        self.api, self.now, self.writes = HeldApi(), 0.0, []
        self.mode = mode
        self.restart()

    def restart(self):
        self.reporter = Reporter(
            self.api,
            AgentIdentity("node-a", "0", "b", "6"),
            sink=self,
            interval_seconds=SWEEP_SECONDS,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            mode=self.mode,
            clock=lambda: self.now,
            wall_clock=lambda: 1_800_000_000 + self.now,
        )

    def wrote(self, reason):
        self.writes.append((self.now, reason))

    def suppressed(self, count):
        pass

    def sweep(self, found, watchpoints=(), node=None):
        """One sweep, and what was written for it; `found` is facts by the pod's name."""
        self.now += SWEEP_SECONDS
        observed = format_time(1_800_000_000 + self.now)
        made = submission(
            [
                (pod(name=name, uid=f"uid-{name}"), msgspec.structs.replace(one, observed_time=observed))
                for name, one in found.items()
            ],
            watchpoints=watchpoints,
            at=self.now,
        )
        if node is not None:
            changed = msgspec.structs.replace(made.sweep.node, **node)
            made = replace(made, sweep=replace(made.sweep, node=changed))
        before = len(self.writes)
        self.reporter.submit(made)
        self.reporter.step()
        return [reason for _, reason in self.writes[before:]]

    def object(self, name):
        return self.api.objects.get(f"{reporting.GROUP_PATH}/namespaces/shop/sockethealths/{name}")

    @property
    def node_status(self):
        return self.api.objects[f"{reporting.GROUP_PATH}/nodesockethealths/node-a"]["status"]


@pytest.fixture
def node():
    return Node()


def spend_routine(node, pods=40):
    """Leave nothing of the routine budget, by numbers that multiply in turns."""
    names = [f"busy-{index}" for index in range(pods)]
    established = 100
    while node.reporter._routine.left(node.now) >= 1:
        established *= 10
        node.sweep({name: facts(established=established) for name in names})
    return names, established


def routine(node, since=0.0):
    return [why for at, why in node.writes if at > since and why == "established"]


def test_routine_writes_of_all_pods_together_keep_to_one_budget(node):
    for index in range(HOUR):
        node.sweep({f"web-{number}": facts(established=(100, 100_000)[index % 2]) for number in range(20)})
    most = ROUTINE_BURST + 3600 * ROUTINE_PER_SECOND
    assert most - 2 <= len(routine(node)) <= most


def test_a_budget_refills_while_nothing_is_written(node):
    names, established = spend_routine(node)
    changed = {name: facts(established=established * 1000) for name in names}
    spent = node.now
    assert not {"established"} & set(node.sweep(changed))
    for passed in range(1, 5):
        node.now = spent + passed / ROUTINE_PER_SECOND
        node.sweep(changed)
    assert len(routine(node, spent)) == 4


def test_what_crosses_a_threshold_waits_for_no_budget(node):
    names, established = spend_routine(node)
    calm = {name: facts(established=established) for name in names}
    for sick in names[:10]:
        calm[sick] = facts(established=established, close_wait=60, older=60)
    assert node.sweep(calm, [LEAK]).count("crossed CloseWaitLeak 10") == 10
    for name in names:
        calm[name] = facts(established=established)
    assert node.sweep(calm, [LEAK]).count("crossed CloseWaitLeak 10") == 10, "and back"


def test_bands_are_a_quarter_while_the_budget_is_full_and_wider_when_it_is_not(node):
    node.sweep({"web": facts(established=1000)})
    assert "established" in node.sweep({"web": facts(established=1300)})
    names, established = spend_routine(node)
    known = {name: facts(established=established) for name in names}
    node.sweep(known | {"web": facts(established=1000)})
    node.now += 1.5 / ROUTINE_PER_SECOND
    assert 1 <= node.reporter._routine.left(node.now) < 2
    held = node.object("web")["status"]["sockets"]["established"]
    some, much = round(held * 1.25 ** (MOST_STEPS - 1)), round(held * 1.25 ** (MOST_STEPS + 1))
    assert "established" not in node.sweep({"web": facts(established=some)})
    assert "established" in node.sweep({"web": facts(established=much)})


def test_of_several_the_one_not_written_for_longest_comes_first(node):
    names, established = spend_routine(node)
    node.now += 1.5 / ROUTINE_PER_SECOND
    times = {name: node.object(name)["status"]["observedTime"] for name in names}
    oldest = min(times.values())
    node.sweep({name: facts(established=established * 1000) for name in names})
    changed = [name for name in names if node.object(name)["status"]["observedTime"] != times[name]]
    assert [times[name] for name in changed] == [oldest]


def test_small_differences_that_stay_have_a_budget_of_their_own(node):
    spend_routine(node)
    since = node.now
    for index in range(HOUR):
        node.sweep({f"web-{number}": facts(established=10 + index // 4 % 2) for number in range(10)})
    settled = [why for at, why in node.writes if at > since and why == "settled"]
    most = SETTLED_BURST + 3600 * SETTLED_PER_SECOND
    assert most - 2 <= len(settled) <= most


def beats(node, since):
    return [at - since for at, why in node.writes if why == "heartbeat" and at > since]


def settle_heartbeat(node, **facts_of_node):
    """The time of a heartbeat after the first, which are a whole interval apart."""
    while len(beats(node, 0.0)) < 2:
        node.sweep({}, node=facts_of_node)
    return node.now


def tracked(entries):
    return {"conntrack": Conntrack(entries=entries, maximum=100)}


def test_a_nodes_fact_that_crosses_a_threshold_does_not_wait_for_the_heartbeat(node):
    since = settle_heartbeat(node, **tracked(10))
    node.sweep({}, [TRACKED], tracked(10))
    node.sweep({}, [TRACKED], tracked(90))
    assert beats(node, since) == [20]
    assert node.node_status["conntrack"]["entries"] == 90
    node.sweep({}, [TRACKED], tracked(10))
    assert beats(node, since) == [20, 30], "nor does its fall"


def test_one_that_only_an_info_rule_watches_does(node):
    since = settle_heartbeat(node, **tracked(10))
    for _ in range(int(HEARTBEAT_SECONDS / SWEEP_SECONDS)):
        node.sweep({}, [EXPLAINED], tracked(90))
    assert beats(node, since) == [HEARTBEAT_SECONDS]


def test_a_nodes_fact_that_flaps_is_never_above_for_long_and_costs_little(node):
    since = settle_heartbeat(node, **tracked(10))
    for index in range(HOUR):
        entries = (90, 10)[index % 2]
        node.sweep({}, [TRACKED], tracked(entries))
        assert node.node_status["conntrack"]["entries"] <= entries
    assert len(beats(node, since)) <= 2 * 3600 / HEARTBEAT_SECONDS + 12


def test_the_nodes_object_is_described_once_and_again_when_it_has_lost_its_labels(node):
    path = f"{reporting.GROUP_PATH}/nodesockethealths/node-a"
    node.sweep({})
    for _ in range(HOUR):
        node.sweep({})
    assert node.api.applied.count(path) == 1
    node.api.objects[path]["metadata"]["labels"] = {}
    for _ in range(int(2 * HEARTBEAT_SECONDS / SWEEP_SECONDS)):
        node.sweep({})
    assert node.api.objects[path]["metadata"]["labels"] == {"pool": "blue"}


def test_an_agent_that_reports_all_says_so(node):
    node.sweep({"web": facts(established=1)})
    assert node.node_status["agent"]["reportMode"] == "All"
    assert node.object("web") is not None


@pytest.fixture
def sparing():
    return Node("Noteworthy")


SICK = facts(close_wait=60, older=60)
WELL = facts(established=5)


def test_only_a_noteworthy_pod_has_an_object_and_the_node_says_why(sparing):
    sparing.sweep({"web": SICK, "idle": WELL}, [LEAK])
    assert sparing.object("web")["status"]["sockets"]["closeWait"] == 60
    assert sparing.object("idle") is None
    assert sparing.node_status["agent"]["reportMode"] == "Noteworthy"


def test_its_object_shows_that_it_is_well_and_goes_ten_minutes_later(sparing):
    sparing.sweep({"web": SICK}, [LEAK])
    assert "crossed CloseWaitLeak 10" in sparing.sweep({"web": WELL}, [LEAK])
    for _ in range(int(QUIET_SECONDS / SWEEP_SECONDS) - 2):
        sparing.sweep({"web": WELL}, [LEAK])
        assert sparing.object("web") is not None
    assert QUIET in sparing.sweep({"web": WELL}, [LEAK])
    assert sparing.object("web") is None
    assert not {"first", QUIET} & set(sparing.sweep({"web": WELL}, [LEAK]))
    assert "first" in sparing.sweep({"web": SICK}, [LEAK])


def test_an_object_with_a_finding_waits_until_that_is_cleared(sparing):
    sparing.sweep({"web": SICK}, [LEAK])
    sparing.object("web")["status"]["evaluation"] = [
        {"policyKind": "SocketHealthPolicy", "policy": "p", "rule": "r", "state": "Clearing", "since": format_time(0)}
    ]
    for _ in range(2 * int(QUIET_SECONDS / SWEEP_SECONDS) - 2):
        sparing.sweep({"web": WELL}, [LEAK])
    assert sparing.object("web") is not None
    sparing.object("web")["status"]["evaluation"] = []
    for _ in range(4):
        sparing.sweep({"web": WELL}, [LEAK])
    assert sparing.object("web") is None


def test_what_an_agent_before_has_written_goes_ten_minutes_after_the_start(sparing):
    sparing.mode = "All"
    sparing.restart()
    sparing.sweep({"web": WELL})
    sparing.mode = "Noteworthy"
    sparing.restart()
    started = sparing.now
    while sparing.object("web") is not None and sparing.now < started + 2 * QUIET_SECONDS:
        sparing.sweep({"web": WELL}, [LEAK])
    assert sparing.now - started == QUIET_SECONDS + SWEEP_SECONDS


def test_the_object_of_a_pod_before_goes_though_the_pod_of_its_name_is_well(sparing):
    sparing.sweep({"web": SICK}, [LEAK])
    sparing.object("web")["spec"]["podUID"] = "another"
    sparing.restart()
    sparing.sweep({"web": WELL}, [LEAK])
    assert sparing.object("web") is None
