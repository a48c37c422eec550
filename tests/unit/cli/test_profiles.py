"""SysctlProfiles as tables: what each node says, those in trouble first."""

import pytest
from rich.console import Console

from sockethealth_cli import profiles
from sockethealth_core.resources import (
    AssignedProfile,
    Condition,
    NodeSocketHealth,
    NodeSocketHealthSpec,
    NodeSocketHealthStatus,
    ObjectMeta,
    ProfileNodes,
    ProfileSysctl,
    SysctlProfile,
    SysctlProfileReport,
    SysctlProfileSpec,
    SysctlProfileStatus,
)
from sockethealth_core.resources.node import OverriddenSysctl, SysctlChange

RANGE = "net.ipv4.ip_local_port_range"


def condition(name: str, status: str, reason: str, message: str) -> Condition:
    return Condition(
        type=name, status=status, reason=reason, message=message, last_transition_time="2026-01-02T03:04:05Z"
    )


def profile(name="wider-ports", mode="Enforce", conditions=(), warnings=(), **nodes) -> SysctlProfile:
    spec = SysctlProfileSpec(mode=mode, target="Pods", sysctls=[ProfileSysctl(name=RANGE, value="10240 64999")])
    status = SysctlProfileStatus(nodes=ProfileNodes(**nodes), conditions=list(conditions), warnings=list(warnings))
    return SysctlProfile(metadata=ObjectMeta(name=name), spec=spec, status=status)


def node(name: str, report: SysctlProfileReport | None = None, *, asked: bool = True) -> NodeSocketHealth:
    assigned = AssignedProfile(profile="wider-ports", revision="r", mode="Enforce", target="Pods", sysctls=[])
    return NodeSocketHealth(
        metadata=ObjectMeta(name=name),
        spec=NodeSocketHealthSpec(sysctl_profiles=[assigned] if asked else []),
        status=NodeSocketHealthStatus(sysctl_profiles=[report] if report else []),
    )


def report(state: str, **fields) -> SysctlProfileReport:
    return SysctlProfileReport(profile="wider-ports", revision="r", state=state, **fields)


def shown(renderable, width: int = 100) -> str:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(renderable, crop=False)
    return capture.get()


def line_of(text: str, beginning: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(beginning))


def test_a_line_has_mode_target_state_and_how_many_nodes_have_it():
    rolling = condition("Progressing", "True", "RollingOut", "3 of 5 nodes have the values.")
    text = shown(profiles.table([profile(conditions=[rolling], selected=5, applied=3, failed=1, drifted=1)]))
    assert line_of(text, "NAME") == ["NAME", "MODE", "TARGET", "STATE", "APPLIED", "FAILED", "DRIFTED", "MESSAGE"]
    assert line_of(text, "wider-ports")[:7] == ["wider-ports", "Enforce", "Pods", "RollingOut", "3/5", "1", "1"]
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines())


def test_a_long_name_leaves_room_for_the_message():
    text = shown(profiles.table([profile("shop-" + "x" * 80)]))
    assert "x" * 20 in text
    assert "operator has" in text
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines())


def test_what_is_wrong_is_told_before_how_far_it_is():
    stopped = condition("Progressing", "False", "Stopped", "Stopped at node-b.")
    degraded = condition("Degraded", "True", "NodeFailed", "node-b refused.")
    invalid = condition("Accepted", "False", "Invalid", "no such sysctl.")
    assert "node-b refused." in " ".join(shown(profiles.table([profile(conditions=[stopped, degraded])])).split())
    everything = profile(conditions=[stopped, degraded, invalid])
    assert "no such sysctl." in " ".join(shown(profiles.table([everything])).split())


def test_a_profile_that_the_operator_has_not_looked_at_says_so():
    text = " ".join(shown(profiles.table([profile()])).split())
    assert "The operator has not looked at it" in text
    assert shown(profiles.table([])).strip() == "There is no SysctlProfile."


def test_nodes_are_those_asked_or_with_something_to_say_and_trouble_comes_first():
    nodes = [
        node("a", report("Applied")),
        node("b"),
        node("c", report("Failed"), asked=False),
        node("d", asked=False),
        node("e", SysctlProfileReport(profile="another", revision="r", state="Failed"), asked=False),
    ]
    found = profiles.on_nodes("wider-ports", nodes)
    assert [(one.node, one.state) for one in found] == [("c", "Failed"), ("b", "Asked"), ("a", "Applied")]


def test_the_story_has_the_difference_by_node_and_place():
    changes = [
        SysctlChange(where="node", name=RANGE, found="32768 60999", wanted="10240 64999"),
        SysctlChange(where="shop/cart-1", name="net.ipv4.ip_local_reserved_ports", found="", wanted="15021"),
    ]
    states = profiles.on_nodes("wider-ports", [node("node-a", report("Audited", changes=changes, changes_total=7))])
    text = shown(profiles.story(profile(mode="Audit"), states))
    assert line_of(text, "node-a") == ["node-a", "Audited", "node", RANGE, "32768", "60999", "10240", "64999"]
    second = next(line.split() for line in text.splitlines() if "shop/cart-1" in line)
    assert second == ["shop/cart-1", "net.ipv4.ip_local_reserved_ports", "(none)", "15021"]
    assert "node-a: and 5 further changes" in text


@pytest.mark.parametrize("width", [60, 100])
def test_names_are_never_cut(width):
    changes = [SysctlChange(where="shop/" + "x" * 60, name=RANGE, found="32768 60999", wanted="10240 64999")]
    states = profiles.on_nodes("wider-ports", [node("n" * 40, report("Applied", changes=changes, changes_total=1))])
    assert "shop/" + "x" * 60 in shown(profiles.story(profile(), states), width).replace("\n", "")


def test_the_story_has_warnings_failures_and_what_others_set():
    failed = report(
        "Failed",
        message="node-a: listener on port 15021\x1b[2J.",
        overridden=[OverriddenSysctl(name="net.core.somaxconn", by="profile big-queues")],
        unsupported=["net.ipv4.tcp_tw_reuse_delay"],
    )
    told = condition("Accepted", "True", "Valid", "The profile is valid.")
    states = profiles.on_nodes("wider-ports", [node("node-a", failed)])
    text = shown(profiles.story(profile(conditions=[told], warnings=["it will not help"]), states))
    for part in (
        "Mind: it will not help",
        "listener on port 15021\\x1b[2J.",
        "net.core.somaxconn is set by profile big-queues",
        "its kernel does not have net.ipv4.tcp_tw_reuse_delay",
    ):
        assert part in text
    assert "The profile is valid" not in text


def test_a_profile_that_no_node_was_asked_for_says_so():
    assert "No node has been asked for it." in shown(profiles.story(profile(), []))
