"""What a working installation is: the judgement of ``sockethealth-operator verify``. No I/O, no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sockethealth_core.resources import NodeSocketHealth
from sockethealth_core.units import parse_time
from sockethealth_operator.objects import OURS
from sockethealth_operator.world import SILENT_INTERVALS

_NAMED: Final = 5
"""Nodes that a sentence names before it counts the rest."""


@dataclass(frozen=True, slots=True)
class AgentPod:
    """A pod of the agent's DaemonSet.

    Attributes:
        node: name of its node.
        started: when the kubelet has taken it on, seconds since the epoch by the node's clock; None while it has not.
    """

    node: str
    started: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said to a profile sent for a dry run.

    Attributes:
        verdict: Accepted; Invalid, which is a refusal of what it asks for; or Failed for any other reason.
        text: what the server said, empty when it accepted.
    """

    verdict: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """The facts of one look at an installation.

    Attributes:
        served: the kinds of our group that the API server serves.
        agents_wanted: nodes that the agent's DaemonSet is for; None when there is no such DaemonSet.
        agents: the DaemonSet's pods.
        operator_ready: pods of the operator that are ready; None when there is no such Deployment.
        reports: NodeSocketHealths by node.
        good_profile: the answer to a profile that is right.
        bad_profile: the answer to one that asks for a sysctl outside of the table.
    """

    served: frozenset[str]
    agents_wanted: int | None
    agents: Sequence[AgentPod]
    operator_ready: int | None
    reports: Mapping[str, NodeSocketHealth]
    good_profile: Answer
    bad_profile: Answer


def faults_of(seen: Seen, *, now: float, sysctl_writer: bool) -> list[str]:
    """Sentences about what does not work; empty when the installation is proved.

    Args:
        seen: the facts.
        now: seconds since the epoch.
        sysctl_writer: whether each node is to have a sysctl writer.
    """
    missing = sorted(OURS.keys() - seen.served)
    if missing:
        return [
            (
                f"The API server does not serve {', '.join(missing)}: apply the chart's crds folder with "
                "`kubectl apply --server-side -f`, or install the chart again"
            )
        ]
    return [*_operator(seen), *_agents(seen), *_reports(seen, now, sysctl_writer), *_profiles(seen)]


def proofs_of(seen: Seen) -> list[str]:
    """What an installation without faults has shown, in sentences."""
    return [
        f"Served: {', '.join(sorted(seen.served & OURS.keys()))}.",
        "The operator is ready.",
        f"Agents report from every node they are for: {len(seen.agents)} of {seen.agents_wanted}.",
        "A profile with a sysctl outside of the table is refused.",
    ]


def _operator(seen: Seen) -> list[str]:
    if seen.operator_ready is None:
        return ["The operator's Deployment does not exist: run `helm upgrade --install` again"]
    if seen.operator_ready < 1:
        return ["No pod of the operator is ready: `kubectl describe` its Deployment, and look at its log"]
    return []


def _agents(seen: Seen) -> list[str]:
    if seen.agents_wanted is None:
        return ["The agent's DaemonSet does not exist: run `helm upgrade --install` again"]
    if seen.agents_wanted == 0:
        return ["The agent's DaemonSet is for no node: look at agent.nodeSelector and agent.affinity of the values"]
    started = sum(agent.started is not None for agent in seen.agents)
    if started < seen.agents_wanted:
        return [
            (
                f"{seen.agents_wanted - started} of {seen.agents_wanted} nodes run no agent: "
                "`kubectl describe` the DaemonSet, whose events say why"
            )
        ]
    return []


def _reports(seen: Seen, now: float, sysctl_writer: bool) -> list[str]:
    running = [(agent.node, agent.started) for agent in seen.agents if agent.started is not None]
    absent = [node for node, _ in running if node not in seen.reports]
    silent = [
        node
        for node, started in running
        if node in seen.reports and not _recent(seen.reports[node], started=started, now=now)
    ]
    faults = []
    if absent:
        faults.append(f"The agent of {_names(absent)} has never reported: look at its log")
    if silent:
        faults.append(f"The agent of {_names(silent)} runs and has not reported since it started: look at its log")
    if sysctl_writer:
        without = [
            node for node, _ in running if node in seen.reports and seen.reports[node].status.sysctl_writer is None
        ]
        if without:
            faults.append(f"The sysctl writer of {_names(without)} has not reported: look at its container's log")
    return faults


def _recent(report: NodeSocketHealth, *, started: float, now: float) -> bool:
    agent = report.status.agent
    heard = parse_time(agent.heartbeat_time)
    # Both are of the node's clock; the API keeps whole seconds of a start, rounded down.
    return heard >= started and now - heard <= SILENT_INTERVALS * agent.interval_seconds


def _profiles(seen: Seen) -> list[str]:
    if seen.good_profile.verdict != "Accepted":
        return [f"A SysctlProfile that is right is not taken: {seen.good_profile.text}"]
    if seen.bad_profile.verdict == "Accepted":
        return [
            (
                "A SysctlProfile with a sysctl outside of the table is not refused: the definitions are others; "
                "apply the chart's crds folder with `kubectl apply --server-side -f`"
            )
        ]
    if seen.bad_profile.verdict != "Invalid":
        return [f"Whether a bad SysctlProfile is refused cannot be told: {seen.bad_profile.text}"]
    return []


def _names(nodes: Sequence[str]) -> str:
    shown = sorted(nodes)[:_NAMED]
    more = f" and {len(nodes) - len(shown)} more" if len(nodes) > len(shown) else ""
    return f"node {', '.join(shown)}{more}"
