"""What the operator remembers of policies and reports that come, wait for room, and go."""

import pytest

from sockethealth_core.policies_in_force import MAXIMUM_RULES
from sockethealth_core.resources import PolicyActions
from sockethealth_core.units import format_time
from sockethealth_operator.objects import Key
from sockethealth_operator.world import World

NOW = 1_800_000_000.0
API = "sockethealth.io/v1alpha1"


def key(name):
    return Key("SocketHealthPolicy", "shop", name)


def policy(name, second=0, **spec):
    rule = {"name": "r", "detector": "CloseWaitLeak", "threshold": 50, "clearThreshold": 10}
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-of-{name}", "generation": 1}
    metadata["creationTimestamp"] = f"2026-01-01T00:00:{second:02}Z"
    return {"apiVersion": API, "kind": "SocketHealthPolicy", "metadata": metadata, "spec": {"rules": [rule], **spec}}


@pytest.fixture
def world():
    return World()


def test_reports_of_nodes_that_are_not_there_leave_nothing_behind(world):
    for number in range(50):
        metadata = {"name": f"web-{number}", "namespace": "shop", "uid": f"u{number}"}
        spec = {"nodeName": f"made-up-{number}", "podUID": "u"}
        status = {"observedTime": format_time(NOW)}
        raw = {"apiVersion": API, "kind": "SocketHealth", "metadata": metadata, "spec": spec, "status": status}
        world.observe_socket_health(raw, NOW)
        assert world.seconds_to_silence(f"made-up-{number}", NOW) is not None
        world.forget_tracked(Key("SocketHealth", "shop", f"web-{number}"))
        assert world.seconds_to_silence(f"made-up-{number}", NOW) is None


def test_what_a_deleted_policy_did_is_remembered_and_not_for_ever(world):
    world.observe_policy(policy("quiet", actions={"event": {"enabled": False}}))
    world.forget_policy(key("quiet"))
    assert not world.actions("SocketHealthPolicy", "quiet", "shop").event.enabled
    for number in range(1000):
        world.observe_policy(policy(f"p{number}"))
        world.forget_policy(key(f"p{number}"))
    assert world.actions("SocketHealthPolicy", "quiet", "shop") == PolicyActions()


def test_a_policy_that_leaves_makes_room_for_one_that_waits_and_both_are_looked_at(world):
    for number in range(MAXIMUM_RULES):
        world.observe_policy(policy(f"p{number:03}"))
    world.observe_policy(policy("late", second=59))
    assert "not among the oldest" in world.waiting(key("late"))
    assert key("late") in world.forget_policy(key("p000"))
    assert world.waiting(key("late")) == ""
    assert key("late") in world.observe_policy(policy("p000"))
    assert "not among the oldest" in world.waiting(key("late"))
