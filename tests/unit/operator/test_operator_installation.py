"""What `helm test` finds: sentences for each thing that does not work, and none where all does."""

from dataclasses import replace

import pytest

from sockethealth_core.resources import NodeSocketHealth, decode
from sockethealth_operator.installation import AgentPod, Answer, Seen, faults_of, proofs_of
from sockethealth_operator.objects import OURS

NOW = 1_900_000_000.0
STARTED = NOW - 1000
REFUSAL = Answer("Invalid", "kernel.panic is not in the table")


def report(node: str, *, heartbeat: str, writer: bool = False, interval: float = 150.0) -> NodeSocketHealth:
    status = {"agent": {"heartbeatTime": heartbeat, "intervalSeconds": interval}}
    if writer:
        status["sysctlWriter"] = {"version": "0.1.0"}
    raw = {"apiVersion": "sockethealth.io/v1alpha1", "kind": "NodeSocketHealth", "metadata": {"name": node}}
    return decode(NodeSocketHealth, {**raw, "status": status})


# 1900000000 is 2030-03-17T17:46:40Z.
JUST = "2030-03-17T17:46:00Z"
WORKING = Seen(
    served=frozenset(OURS),
    agents_wanted=2,
    agents=[AgentPod("one", STARTED), AgentPod("two", STARTED)],
    operator_ready=1,
    reports={"one": report("one", heartbeat=JUST), "two": report("two", heartbeat=JUST)},
    good_profile=Answer("Accepted"),
    bad_profile=REFUSAL,
)


def faults(seen: Seen, *, sysctl_writer: bool = False) -> list[str]:
    return faults_of(seen, now=NOW, sysctl_writer=sysctl_writer)


def test_a_working_installation_has_no_fault_and_the_agents_are_counted():
    assert faults(WORKING) == []
    assert "Agents report from every node they are for: 2 of 2." in proofs_of(WORKING)


def test_kinds_that_are_not_served_are_named_and_nothing_is_said_of_what_follows_from_it():
    without = replace(WORKING, served=frozenset(OURS) - {"SysctlProfile", "SocketHealth"}, reports={})
    (said,) = faults(without)
    assert said.startswith("The API server does not serve SocketHealth, SysctlProfile:")


@pytest.mark.parametrize(
    ("heartbeat", "started", "silent"),
    [
        (JUST, STARTED, False),
        ("2030-03-17T17:39:20Z", STARTED, False),  # 440 s ago; three heartbeats are 450 s
        ("2030-03-17T17:39:00Z", STARTED, True),  # 460 s ago
        (JUST, NOW - 30, True),  # of the pod before this one
    ],
)
def test_a_report_counts_that_is_recent_and_of_the_pod_that_runs(heartbeat, started, silent):
    seen = replace(
        WORKING,
        agents=[AgentPod("one", started), AgentPod("two", STARTED)],
        reports={**WORKING.reports, "one": report("one", heartbeat=heartbeat)},
    )
    expected = ["The agent of node one runs and has not reported since it started: look at its log"] if silent else []
    assert faults(seen) == expected


def test_an_agent_that_has_never_reported_is_named_by_its_node():
    assert faults(replace(WORKING, reports={"one": WORKING.reports["one"]})) == [
        "The agent of node two has never reported: look at its log"
    ]


def test_of_many_nodes_five_are_named_and_the_rest_counted():
    agents = [AgentPod(f"node-{number}", STARTED) for number in range(8)]
    (said,) = faults(replace(WORKING, agents_wanted=8, agents=agents, reports={}))
    assert "node-0, node-1, node-2, node-3, node-4 and 3 more has never" in said


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        ({"agents": [AgentPod("one", STARTED), AgentPod("two", None)]}, "1 of 2 nodes run no agent"),
        ({"agents_wanted": 0, "agents": []}, "The agent's DaemonSet is for no node"),
        ({"agents_wanted": None, "agents": []}, "The agent's DaemonSet does not exist"),
        ({"operator_ready": 0}, "No pod of the operator is ready"),
        ({"operator_ready": None}, "The operator's Deployment does not exist"),
        ({"bad_profile": Answer("Accepted")}, "A SysctlProfile with a sysctl outside of the table is not refused"),
        ({"bad_profile": Answer("Failed", "no")}, "Whether a bad SysctlProfile is refused cannot be told: no"),
        ({"good_profile": REFUSAL}, "A SysctlProfile that is right is not taken: kernel.panic"),
    ],
)
def test_each_thing_that_does_not_work_has_a_sentence(change, begins):
    (said,) = faults(replace(WORKING, **change))
    assert said.startswith(begins)


def test_a_sysctl_writer_is_looked_for_where_there_is_to_be_one():
    with_one = {**WORKING.reports, "one": report("one", heartbeat=JUST, writer=True)}
    assert faults(replace(WORKING, reports=with_one), sysctl_writer=True) == [
        "The sysctl writer of node two has not reported: look at its container's log"
    ]
