"""What the operator remembers, and what it looks at again when something changes."""

import itertools

import pytest

from sockethealth_core.resources import InvalidObjectError, Judgement
from sockethealth_core.units import format_time
from sockethealth_operator.objects import HOLDER, Key, ObjectRef
from sockethealth_operator.world import World

NOW = 1_800_000_000.0
NODE = Key("NodeSocketHealth", "", "node-a")
POD = Key("SocketHealth", "shop", "web-1")
POLICY = Key("SocketHealthPolicy", "shop", "p")

_versions = itertools.count(100)


def same(target):
    return target


def socket_health(name="web-1", *, close_wait=0, uid="u1", labels=None, version=None, status=None):
    facts = {"observedTime": format_time(NOW), "sockets": {"closeWait": close_wait}}
    return {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "SocketHealth",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid,
            "resourceVersion": str(next(_versions) if version is None else version),
            "labels": labels or {},
        },
        "spec": {"nodeName": "node-a", "podUID": f"pod-of-{uid}"},
        "status": facts | (status or {}),
    }


def node_health(heartbeat=NOW, interval=10):
    return {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "NodeSocketHealth",
        "metadata": {"name": "node-a", "uid": "n1", "resourceVersion": str(next(_versions))},
        "status": {
            "observedTime": format_time(NOW),
            "agent": {"heartbeatTime": format_time(heartbeat), "intervalSeconds": interval},
        },
    }


def policy(kind="SocketHealthPolicy", generation=1, **spec):
    rule = {"name": "r", "detector": "CloseWaitLeak", "threshold": 50, "clearThreshold": 10, "for": "0s"}
    rule["parameters"] = {"minAge": "0s"}
    metadata = {"name": "p", "uid": f"uid-of-{kind}", "generation": generation}
    if kind == "SocketHealthPolicy":
        metadata["namespace"] = "shop"
    return {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": kind,
        "metadata": metadata,
        "spec": {"rules": [rule], **spec},
    }


def profile(name):
    return {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "SysctlProfile",
        "metadata": {"name": name, "uid": f"uid-of-{name}", "generation": 1},
        "spec": {"target": "Node", "sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "30"}]},
    }


@pytest.fixture
def world():
    made = World()
    made.observe_node_health(node_health(), NOW)
    return made


def found(world, now=NOW):
    return [f.type for f in world.judge(POD, now, same).judgement.findings]


def test_findings_need_a_policy_that_selects_the_pod(world):
    world.observe_socket_health(socket_health(close_wait=60, labels={"app": "web"}), NOW)
    assert found(world) == []
    world.observe_policy(policy(podSelector={"matchLabels": {"app": "db"}}))
    assert found(world) == []
    world.observe_policy(policy(generation=2, podSelector={"matchLabels": {"app": "web"}}))
    assert found(world) == ["CloseWaitLeak"]


def test_a_change_concerns_just_what_it_can_change(world):
    assert world.observe_socket_health(socket_health(), NOW) == {POD}
    assert world.observe_policy(policy()) == {POLICY, POD, NODE}
    assert world.observe_policy(policy()) == {POLICY}, "a write to its status is no change of the policy"
    assert world.observe_namespace("shop", {"team": "a"}) == {POD}
    assert world.observe_namespace("shop", {"team": "a"}) == set()
    assert world.observe_namespace("elsewhere", {"team": "a"}) == set()
    assert world.observe_node("node-a", {"zone": "1"}) == {POD, NODE}
    assert world.observe_node("node-a", {"zone": "1"}) == set()
    assert world.forget_policy(POLICY) == {POD, NODE}


def test_namespace_and_node_labels_select_for_cluster_policies(world):
    world.observe_socket_health(socket_health(close_wait=60), NOW)
    selectors = {
        "namespaceSelector": {"matchLabels": {"team": "a"}},
        "nodeSelector": {"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]},
    }
    world.observe_policy(policy("ClusterSocketHealthPolicy", **selectors))
    assert found(world) == []
    world.observe_namespace("shop", {"team": "a"})
    assert found(world) == ["CloseWaitLeak"]
    world.observe_node("node-a", {"gpu": "yes"})
    assert found(world) == []


def test_the_first_judgement_is_that_of_the_status(world):
    pending = {"policyKind": "SocketHealthPolicy", "policy": "p", "rule": "r", "state": "Pending"}
    status = {"evaluation": [pending | {"since": format_time(NOW - 100)}]}
    rule = policy()["spec"]["rules"][0] | {"for": "90s"}
    world.observe_policy(policy(rules=[rule]))
    world.observe_socket_health(socket_health(close_wait=60, status=status), NOW)
    assert found(world) == ["CloseWaitLeak"], "the time before the restart was lost"


def test_an_event_from_before_the_last_write_does_not_take_it_back(world):
    world.observe_socket_health(socket_health(version=10), NOW)
    tracked = world.tracked[POD]
    world.judged(tracked, Judgement(health="Critical"), {"metadata": {"resourceVersion": "12"}})
    world.observe_socket_health(socket_health(close_wait=7, version=11), NOW)
    assert tracked.judgement.health == "Critical"
    assert tracked.facts.sockets.close_wait == 7, "its facts are news all the same"
    world.observe_socket_health(socket_health(version=13, status={"health": "Healthy"}), NOW)
    assert tracked.judgement.health == "Healthy", "what somebody wrote over it must be seen, to be put right"


def test_an_object_of_the_same_name_starts_anew(world):
    world.observe_socket_health(socket_health(version=10), NOW)
    world.judged(world.tracked[POD], Judgement(health="Critical"), {"metadata": {"resourceVersion": "12"}})
    world.observe_socket_health(socket_health(uid="u2", version=11), NOW)
    assert world.tracked[POD].judgement.health == "Unknown"


def test_an_unreadable_object_leaves_what_was_known(world):
    world.observe_socket_health(socket_health(close_wait=5), NOW)
    broken = socket_health(status={"sockets": {"closeWait": "many"}})
    with pytest.raises(InvalidObjectError, match="SocketHealth shop/web-1"):
        world.observe_socket_health(broken, NOW)
    assert world.tracked[POD].facts.sockets.close_wait == 5


def test_without_facts_nothing_is_judged(world):
    world.observe_policy(policy())
    world.observe_socket_health(socket_health(status={"observedTime": "1970-01-01T00:00:00Z"}), NOW)
    assert world.judge(POD, NOW, same).judgement == Judgement()


def test_an_agent_is_silent_after_three_intervals_without_a_heartbeat(world):
    world.observe_socket_health(socket_health(), NOW)
    assert not world.silent("node-a", NOW + 29)
    assert world.silent("node-a", NOW + 30)
    assert world.judge(POD, NOW + 30, same).judgement.health == "Unknown"
    assert world.observe_node_health(node_health(heartbeat=NOW + 40), NOW + 40) == {NODE, POD}
    assert world.judge(POD, NOW + 41, same).judgement.health == "Healthy"


def test_a_repeated_heartbeat_time_is_no_heartbeat(world):
    world.observe_node_health(node_health(), NOW + 25)
    assert world.silent("node-a", NOW + 31)


@pytest.mark.parametrize("skew", [-7200, 7200])
def test_a_node_whose_clock_is_wrong_is_not_taken_for_silent(world, skew):
    for second in range(0, 300, 10):
        world.observe_node_health(node_health(heartbeat=NOW + second + 1 + skew), NOW + second)
        assert not world.silent("node-a", NOW + second + 9), f"silent after {second} s"


def test_an_agent_that_was_silent_before_the_operator_started_is_so_at_once():
    world = World()
    world.observe_node_health(node_health(heartbeat=NOW - 600), NOW)
    assert world.silent("node-a", NOW)


def test_a_pod_whose_node_was_never_heard_of_becomes_unknown():
    world = World()
    world.observe_socket_health(socket_health(), NOW)
    assert not world.silent("node-a", NOW + 100)
    assert world.silent("node-a", NOW + 180)


def test_while_the_api_server_is_away_nobody_becomes_silent(world):
    world.away(NOW + 20)
    assert not world.silent("node-a", NOW + 500)
    world.back(NOW + 500)
    assert not world.silent("node-a", NOW + 509)
    assert world.silent("node-a", NOW + 510), "the ten seconds left before the outage are left after it"


def test_actions_of_a_deleted_policy_stay_known(world):
    world.observe_policy(policy(actions={"event": {"enabled": False}}))
    world.forget_policy(POLICY)
    assert not world.actions("SocketHealthPolicy", "p", "shop").event.enabled
    assert world.actions("SocketHealthPolicy", "p", "elsewhere").event.enabled, "another namespace's policy"


def test_an_invalid_policy_is_kept_with_its_faults_and_judges_nothing(world):
    world.observe_socket_health(socket_health(close_wait=60), NOW)
    rule = policy()["spec"]["rules"][0] | {"parameters": {"minAge": "soon"}}
    world.observe_policy(policy(rules=[rule]))
    assert "'soon' is not a duration" in world.policies[POLICY].faults[0]
    assert found(world) == []


def test_policies_that_name_a_profile_are_concerned_by_it(world):
    world.observe_policy(policy(actions={"sysctlProfile": "wide"}))
    wide, other = Key("SysctlProfile", "", "wide"), Key("SysctlProfile", "", "other")
    assert world.observe_profile(profile("wide")) == {wide, POLICY}
    assert world.observe_profile(profile("wide")) == set()
    assert world.observe_profile(profile("other")) == {other}
    assert world.forget_profile("wide") == {wide, POLICY}


def test_a_deleted_pod_concerns_its_workload(world):
    world.observe_socket_health(socket_health(), NOW)
    first = ObjectRef("apps/v1", "Deployment", "shop", "web", "d1")
    second = ObjectRef("apps/v1", "Deployment", "shop", "web", "d2")
    assert world.link(POD, first) == {Key(HOLDER, "shop", "d1")}
    assert world.link(POD, second) == {Key(HOLDER, "shop", "d1"), Key(HOLDER, "shop", "d2")}
    assert world.forget_tracked(POD) == {Key(HOLDER, "shop", "d2")}
    assert world.reports(world.holders[Key(HOLDER, "shop", "d2")]) == ([], [])


def test_watchpoints_are_those_of_all_valid_policies(world):
    world.observe_policy(policy())
    world.observe_policy(policy("ClusterSocketHealthPolicy"))
    (point,) = world.wanted_watchpoints()
    assert (point.detector, point.values, point.parameters) == ("CloseWaitLeak", [10, 50], {"minAge": "0s"})


def expression(text, name="p"):
    rule = {"name": "e", "detector": "Expression", "for": "0s", "parameters": {"expression": text}}
    return policy(rules=[rule])


def errors_of(world, key):
    outcome = world.judge(key, NOW, same)
    assert outcome is not None
    return world.note_errors(key, outcome.errors)


def test_a_rule_that_cannot_be_applied_is_said_of_its_policy_until_it_can(world_with_a_node):
    world = world_with_a_node
    world.observe_policy(expression("status.closeWait.owners[0].count > 5"))
    world.observe_socket_health(socket_health(), NOW)
    assert errors_of(world, POD) == {POLICY}
    sentence = world.rule_error(POLICY)
    assert "status.closeWait.owners[0].count > 5" in sentence
    assert "shop/web-1" in sentence
    assert errors_of(world, POD) == set(), "nothing new to say"
    owned = {"closeWait": {"owners": [{"process": "java", "pid": 1, "count": 9}]}}
    world.observe_socket_health(socket_health(status=owned), NOW)
    assert errors_of(world, POD) == {POLICY}
    assert world.rule_error(POLICY) is None


def test_a_deleted_pod_takes_its_error_with_it(world_with_a_node):
    world = world_with_a_node
    world.observe_policy(expression("status.closeWait.owners[0].count > 5"))
    world.observe_socket_health(socket_health(), NOW)
    errors_of(world, POD)
    assert POLICY in world.forget_tracked(POD)
    assert world.rule_error(POLICY) is None


@pytest.fixture
def world_with_a_node():
    world = World()
    world.observe_node_health(node_health(), NOW)
    return world


def test_starting_over_looks_at_all_and_keeps_what_was_seen_and_nothing_of_what_was_done(world):
    world.observe_policy(policy())
    world.observe_profile(profile("wide"))
    world.observe_socket_health(socket_health(close_wait=60), NOW)
    deployment = ObjectRef("apps/v1", "Deployment", "shop", "web", "d1")
    world.link(POD, deployment)
    tracked, record = world.tracked[POD], world.profiles["wide"]
    tracked.settled = True
    tracked.unannounced.append("an Event that could not be created")
    record.assignments, record.drifted, record.looked_at = {}, frozenset({"node-a"}), NOW
    assert world.start_over() == {POD, NODE, POLICY, Key("SysctlProfile", "", "wide")}
    assert (tracked.settled, tracked.unannounced, tracked.workload_known) == (False, [], False)
    assert (record.assignments, record.drifted, record.looked_at) == (None, None, 0.0)
    assert world.holders == {}
    assert found(world) == ["CloseWaitLeak"]


def test_who_stands_by_takes_every_judgement_from_the_objects(world):
    world.observe_policy(policy())
    for version, health in enumerate(("Warning", "Healthy", "Critical"), 100):
        world.observe_socket_health(socket_health(version=version, status={"health": health}), NOW)
        assert world.tracked[POD].judgement.health == health
