"""Which nodes and pods a profile is for, how long it stays, and what a node's spec says of it."""

import itertools

import pytest

from sockethealth_core.resources import (
    AssignedPod,
    InvalidObjectError,
    Judgement,
    RolloutState,
    SysctlProfileStatus,
    encode,
)
from sockethealth_core.rollout import Assignment, NodeView, content_of
from sockethealth_core.units import format_time
from sockethealth_operator import policies, profiles, turns
from sockethealth_operator.objects import Key, ObjectRef
from sockethealth_operator.world import World

NOW = 1_800_000_000.0
API = "sockethealth.io/v1alpha1"
WIDE = Key("SysctlProfile", "", "wide")

_versions = itertools.count(100)


def metadata(name, uid=None, **fields):
    return {"name": name, "uid": uid or f"uid-of-{name}", "resourceVersion": str(next(_versions)), **fields}


def profile_object(name="wide", uid=None, status=None, generation=1, **spec):
    sysctls = [{"name": "net.ipv4.tcp_fin_timeout", "value": "30"}]
    return {
        "apiVersion": API,
        "kind": "SysctlProfile",
        "metadata": metadata(name, uid, generation=generation),
        "spec": {"mode": "Enforce", "target": "Pods", "sysctls": sysctls, **spec},
        "status": status or {},
    }


def finding(policy="p", kind="ClusterSocketHealthPolicy", since=NOW, **fields):
    base = {"type": "CloseWaitLeak", "severity": "Warning", "since": format_time(since), "rule": "r", "value": 1}
    return {**base, "policy": policy, "policyKind": kind, **fields}


def node_object(name, *, assigned=(), findings=(), reports=(), writer=True, heartbeat=NOW):
    return {
        "apiVersion": API,
        "kind": "NodeSocketHealth",
        "metadata": metadata(name),
        "spec": {"sysctlProfiles": [encode(entry) for entry in assigned]},
        "status": {
            "observedTime": format_time(NOW),
            "agent": {"heartbeatTime": format_time(heartbeat), "intervalSeconds": 600},
            "findings": list(findings),
            "sysctlProfiles": list(reports),
            **({"sysctlWriter": {"version": "1"}} if writer else {}),
        },
    }


def pod_object(name, node="n1", namespace="shop", *, findings=(), labels=None, host_network=False):
    return {
        "apiVersion": API,
        "kind": "SocketHealth",
        "metadata": metadata(name, f"sh-{namespace}-{name}", namespace=namespace, labels=labels or {}),
        "spec": {"nodeName": node, "podUID": f"pod-{name}", "hostNetwork": host_network},
        "status": {"observedTime": format_time(NOW), "findings": list(findings)},
    }


def policy_object(kind="ClusterSocketHealthPolicy", *, profile="wide", mode="Enforce", generation=1):
    place = {} if kind.startswith("Cluster") else {"namespace": "shop"}
    return {
        "apiVersion": API,
        "kind": kind,
        "metadata": metadata("p", f"uid-of-{kind}", generation=generation, **place),
        "spec": {
            "mode": mode,
            "rules": [{"name": "r", "detector": "CloseWaitLeak"}],
            "actions": {"sysctlProfile": profile},
        },
    }


def on_finding(**spec):
    return profile_object(activation="OnFinding", hold="10m", **spec)


@pytest.fixture
def world():
    made = World()
    for node in ("n1", "n2"):
        made.observe_node(node, {"pool": node})
        made.observe_node_health(node_object(node), NOW)
    return made


def selected(world, name="wide", now=NOW):
    return sorted(view.name for view in profiles.sight(world, world.profiles[name], now).views if view.selected)


def planned(world, *nodes, mode="Enforce", name="wide"):
    """As if the roll-out had reached these nodes."""
    record = world.profiles[name]
    record.assignments = {node: Assignment(content_of(record.profile), mode) for node in nodes}


def written(world, node, now=NOW):
    """What the operator would write, remembered as written."""
    entries = profiles.wanted_on(world, node, now)
    world.spec_written(world.hosts[node], [], entries, {"metadata": {"resourceVersion": str(next(_versions))}})
    return {entry.profile: entry for entry in entries}


def clear(world, namespace, name):
    """The operator finds nothing more on a pod."""
    tracked = world.tracked[Key("SocketHealth", namespace, name)]
    return world.judged(tracked, Judgement(), {"metadata": {"resourceVersion": str(next(_versions))}})


# Selection


def test_a_profile_is_for_the_nodes_whose_labels_it_selects(world):
    world.observe_profile(profile_object())
    assert selected(world) == ["n1", "n2"]
    world.observe_profile(profile_object(nodeSelector={"matchLabels": {"pool": "n2"}}, generation=2))
    assert selected(world) == ["n2"]
    assert WIDE in world.observe_node("n1", {"pool": "n2"})
    assert selected(world) == ["n1", "n2"]
    assert WIDE in world.observe_node("n2", None)
    assert selected(world) == ["n1"], "its Node is gone"


@pytest.mark.parametrize(
    ("kind", "mode", "severity", "names", "active"),
    [
        ("ClusterSocketHealthPolicy", "Enforce", "Warning", "wide", True),
        ("ClusterSocketHealthPolicy", "Enforce", "Critical", "wide", True),
        ("ClusterSocketHealthPolicy", "Enforce", "Info", "wide", False),
        ("ClusterSocketHealthPolicy", "Audit", "Critical", "wide", False),
        ("ClusterSocketHealthPolicy", "Enforce", "Critical", "other", False),
        ("SocketHealthPolicy", "Enforce", "Critical", "wide", False),
    ],
)
def test_only_an_enforced_cluster_policy_that_names_it_activates(world, kind, mode, severity, names, active):
    world.observe_profile(on_finding())
    world.observe_policy(policy_object(kind, profile=names, mode=mode))
    world.observe_socket_health(pod_object("web", findings=[finding(kind=kind, mode=mode, severity=severity)]), NOW)
    assert selected(world) == (["n1"] if active else [])


def test_a_policy_that_names_a_profile_no_more_activates_it_no_more(world):
    world.observe_profile(on_finding())
    world.observe_policy(policy_object())
    world.observe_socket_health(pod_object("web", findings=[finding()]), NOW)
    assert selected(world) == ["n1"]
    assert WIDE in world.observe_policy(policy_object(profile=None, generation=2))
    assert selected(world) == []


def test_only_selected_pods_with_a_finding_are_named_and_never_host_network(world):
    selectors = {"podSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": {"matchLabels": {"team": "a"}}}
    world.observe_profile(on_finding(**selectors))
    world.observe_policy(policy_object())
    world.observe_namespace("shop", {"team": "a"})
    web = {"app": "web"}
    world.observe_socket_health(pod_object("found", labels=web, findings=[finding()]), NOW)
    world.observe_socket_health(pod_object("well", labels=web), NOW)
    world.observe_socket_health(pod_object("other", labels={"app": "db"}, findings=[finding()]), NOW)
    world.observe_socket_health(pod_object("host", labels=web, findings=[finding()], host_network=True), NOW)
    world.observe_socket_health(pod_object("away", namespace="elsewhere", labels=web, findings=[finding()]), NOW)
    planned(world, "n1")
    entry = written(world, "n1")["wide"]
    assert entry.pods == [AssignedPod(namespace="shop", name="found", uid="pod-found")]
    assert entry.namespaces == ["shop"]


def test_on_target_node_a_finding_of_any_of_its_pods_activates(world):
    world.observe_profile(on_finding(target="Node"))
    world.observe_policy(policy_object())
    world.observe_socket_health(pod_object("host", node="n2", findings=[finding()], host_network=True), NOW)
    assert selected(world) == ["n2"]
    world.observe_node_health(node_object("n1", findings=[finding()]), NOW)
    assert selected(world) == ["n1", "n2"]


# Hold


@pytest.fixture
def held(world):
    """A profile in force for one pod of n1 whose finding has just cleared."""
    world.observe_profile(on_finding())
    world.observe_policy(policy_object())
    world.observe_socket_health(pod_object("web", findings=[finding()]), NOW)
    planned(world, "n1")
    assert written(world, "n1")["wide"].pods[0].held_until is None
    assert WIDE in clear(world, "shop", "web")
    return world


def test_after_the_last_finding_it_is_held_and_then_put_back(held):
    sight = profiles.sight(held, held.profiles["wide"], NOW + 5)
    assert sight.changed == {"n1"}
    assert sight.next_due == NOW + 605
    until = written(held, "n1", NOW + 5)["wide"].pods[0].held_until
    assert until == format_time(NOW + 605)
    assert written(held, "n1", NOW + 300)["wide"].pods[0].held_until == until, "the time does not move"
    assert selected(held, now=NOW + 604) == ["n1"]
    assert selected(held, now=NOW + 605) == []
    assert written(held, "n1", NOW + 605) == {}


def test_a_finding_that_comes_back_ends_the_hold(held):
    written(held, "n1", NOW)
    assert WIDE in held.observe_socket_health(pod_object("web", findings=[finding()]), NOW + 60)
    assert written(held, "n1", NOW + 60)["wide"].pods[0].held_until is None


def test_a_hold_survives_a_restart(held):
    entries = list(written(held, "n1", NOW).values())
    anew = World()
    anew.observe_node("n1", {})
    anew.observe_node_health(node_object("n1", assigned=entries), NOW + 60)
    anew.observe_profile(on_finding())
    anew.observe_socket_health(pod_object("web"), NOW + 60)
    sight = profiles.sight(anew, anew.profiles["wide"], NOW + 60)
    assert (sight.changed, sight.next_due) == (set(), NOW + 600)
    assert list(written(anew, "n1", NOW + 60).values()) == entries


def test_a_pod_that_is_gone_is_not_held(held):
    assert Key("NodeSocketHealth", "", "n1") in held.forget_tracked(Key("SocketHealth", "shop", "web"))
    assert written(held, "n1") == {}


def test_a_node_is_held_like_a_pod(world):
    world.observe_profile(on_finding(target="Node"))
    world.observe_policy(policy_object())
    world.observe_socket_health(pod_object("web", findings=[finding()]), NOW)
    planned(world, "n1")
    assert written(world, "n1")["wide"].held_until is None
    clear(world, "shop", "web")
    assert written(world, "n1", NOW)["wide"].held_until == format_time(NOW + 600)
    assert selected(world, now=NOW + 599) == ["n1"]
    assert selected(world, now=NOW + 600) == []


def test_old_facts_neither_activate_nor_clear(held):
    silence = NOW + 3 * 600
    assert profiles.wanted_on(held, "n1", silence)[0].pods[0].held_until is None, "cleared by nobody who can see it"
    held.observe_socket_health(pod_object("late", findings=[finding()]), silence)
    assert [pod.name for pod in profiles.wanted_on(held, "n1", silence)[0].pods] == ["web"]


def test_an_unusable_hold_is_a_fault_and_does_not_stop_the_rest(world):
    world.observe_profile(on_finding() | {"spec": on_finding()["spec"] | {"hold": "soon"}})
    (fault,) = profiles.faults(world.profiles["wide"].profile)
    assert fault.startswith("spec.hold: 'soon' is not a duration")
    assert selected(world) == []


def test_values_that_admission_should_have_refused_are_faults(world):
    sysctls = [{"name": "net.ipv4.tcp_tw_recycle", "value": "1"}, {"name": "net.ipv4.ip_forward", "value": "1"}]
    world.observe_profile(profile_object(sysctls=sysctls))
    assert len(profiles.faults(world.profiles["wide"].profile)) == 2
    wide = [{"name": "net.ipv4.ip_local_port_range", "value": "10240 65000"}]
    world.observe_profile(profile_object(target="Node", sysctls=wide, generation=2))
    (together,) = profiles.faults(world.profiles["wide"].profile)
    assert "NodePorts" in together


# Namespaces


def test_namespaces_are_those_of_the_nodes_own_pods(world):
    world.observe_profile(profile_object(namespaceSelector={"matchLabels": {"team": "a"}}))
    for namespace, team in (("shop", "a"), ("blog", "a"), ("bank", "b"), ("unused", "a")):
        world.observe_namespace(namespace, {"team": team})
    for namespace in ("shop", "blog", "bank"):
        world.observe_socket_health(pod_object("web", namespace=namespace), NOW)
    planned(world, "n1", "n2")
    assert written(world, "n1")["wide"].namespaces == ["blog", "shop"]
    assert written(world, "n2")["wide"].namespaces == []


def test_without_a_namespace_selector_no_namespaces_are_named(world):
    world.observe_profile(profile_object())
    world.observe_socket_health(pod_object("web"), NOW)
    planned(world, "n1")
    assert written(world, "n1")["wide"].namespaces is None
    assert world.observe_socket_health(pod_object("new", namespace="new"), NOW) == {Key("SocketHealth", "new", "new")}


def test_a_pod_in_a_new_namespace_concerns_its_node(world):
    world.observe_profile(profile_object(namespaceSelector={"matchLabels": {"team": "a"}}))
    world.observe_namespace("shop", {"team": "a"})
    planned(world, "n1")
    assert written(world, "n1")["wide"].namespaces == []
    node = Key("NodeSocketHealth", "", "n1")
    assert node in world.observe_socket_health(pod_object("web"), NOW)
    assert written(world, "n1")["wide"].namespaces == ["shop"]
    assert node in world.observe_namespace("shop", {"team": "b"})
    assert written(world, "n1")["wide"].namespaces == []


# What a node's spec says


def test_what_nobody_has_looked_at_yet_stays_and_what_is_gone_goes(world):
    world.observe_profile(profile_object())
    planned(world, "n1")
    entries = profiles.wanted_on(world, "n1", NOW)
    anew = World()
    anew.observe_node_health(node_object("n1", assigned=entries), NOW)
    assert profiles.wanted_on(anew, "n1", NOW) == [], "its profile was deleted while nobody looked"
    anew.observe_profile(profile_object())
    assert profiles.wanted_on(anew, "n1", NOW) == entries
    planned(anew)
    assert profiles.wanted_on(anew, "n1", NOW) == []


def test_an_unreadable_profile_leaves_nodes_as_they_are(world):
    world.observe_profile(profile_object())
    planned(world, "n1")
    entries = profiles.wanted_on(world, "n1", NOW)
    broken = profile_object(sysctls="all of them")
    with pytest.raises(InvalidObjectError, match="SysctlProfile wide"):
        world.observe_profile(broken)
    assert profiles.wanted_on(world, "n1", NOW) == entries
    anew = World()
    anew.observe_node_health(node_object("n1", assigned=entries), NOW)
    with pytest.raises(InvalidObjectError):
        anew.observe_profile(broken)
    assert profiles.wanted_on(anew, "n1", NOW) == entries
    assert Key("NodeSocketHealth", "", "n1") in anew.forget_profile("wide")
    assert profiles.wanted_on(anew, "n1", NOW) == []


def test_a_deleted_profile_concerns_the_nodes_that_have_it(world):
    world.observe_profile(profile_object())
    planned(world, "n1")
    written(world, "n1")
    assert world.forget_profile("wide") == {WIDE, Key("NodeSocketHealth", "", "n1")}


def test_more_profiles_than_a_spec_can_hold_keep_those_of_the_highest_priority(world):
    for number in range(40):
        world.observe_profile(profile_object(f"p{number:02}", priority=number))
        planned(world, "n1", name=f"p{number:02}")
    assert [entry.profile for entry in profiles.wanted_on(world, "n1", NOW)] == [f"p{n:02}" for n in range(8, 40)]


# What is looked at again


def report(state="Applied", **fields):
    return {"profile": "wide", "revision": "r1", "state": state, **fields}


def test_a_heartbeat_concerns_no_profile_and_a_report_does(world):
    world.observe_profile(profile_object())
    assert WIDE not in world.observe_node_health(node_object("n1", heartbeat=NOW + 10), NOW + 10)
    assert WIDE in world.observe_node_health(node_object("n1", reports=[report()]), NOW + 20)
    assert WIDE not in world.observe_node_health(node_object("n1", reports=[report()], heartbeat=NOW + 30), NOW + 30)
    assert WIDE in world.observe_node_health(node_object("n1", reports=[report("Drifted")]), NOW + 40)
    assert WIDE in world.observe_node_health(node_object("n1", reports=[report("Drifted")], writer=False), NOW + 50)


def test_silence_is_noticed_once_and_so_is_its_end(world):
    world.observe_profile(profile_object())
    assert WIDE in world.hush("n1")
    assert WIDE not in world.hush("n1")
    late = NOW + 3 * 600 + 1
    assert world.silent("n1", late)
    assert WIDE in world.observe_node_health(node_object("n1", heartbeat=late), late)
    assert WIDE in world.hush("n1")


def test_findings_concern_roll_outs_that_go_on_and_profiles_that_wait_for_them(world):
    done = {"rollout": {"revision": "r", "phase": "Complete"}}
    world.observe_profile(profile_object(status=done))
    found = pod_object("web", findings=[finding()])
    assert WIDE not in world.observe_socket_health(found, NOW)
    going = {"rollout": {"revision": "r", "phase": "Progressing", "batch": ["n1"]}}
    world.observe_profile(profile_object(status=going, generation=2))
    assert WIDE not in world.observe_socket_health(found, NOW), "it is the same finding"
    assert WIDE in world.observe_socket_health(pod_object("web", findings=[finding(severity="Critical")]), NOW)


def test_a_status_from_before_the_last_write_does_not_take_it_back(world):
    world.observe_profile(profile_object())
    record = world.profiles["wide"]
    stale = profile_object()
    after = SysctlProfileStatus(rollout=RolloutState(revision="r1", batch=["n1"]))
    raw = profile_object()
    world.profile_written(record, after, raw)
    assert world.observe_profile(stale) == set()
    assert record.profile.status == after
    own = profile_object(status=encode(after))
    own["metadata"]["resourceVersion"] = raw["metadata"]["resourceVersion"]
    assert world.observe_profile(own) == set(), "its own write is no news"


def test_a_spec_from_before_the_last_write_does_not_take_it_back(world):
    world.observe_profile(profile_object())
    planned(world, "n1")
    stale = node_object("n1")
    written(world, "n1")
    assert WIDE not in world.observe_node_health(stale, NOW)
    assert "wide" in world.hosts["n1"].assigned
    assert WIDE in world.observe_node_health(node_object("n1"), NOW), "somebody has taken it out since"
    assert world.hosts["n1"].assigned == {}


def test_what_is_on_a_node_follows_the_pods(world):
    world.observe_socket_health(pod_object("a"), NOW)
    world.observe_socket_health(pod_object("b"), NOW)
    world.observe_socket_health(pod_object("b", node="n2"), NOW)
    world.forget_tracked(Key("SocketHealth", "shop", "a"))
    assert world.on_node("n1") == {Key("NodeSocketHealth", "", "n1")}
    assert world.on_node("n2") == {Key("NodeSocketHealth", "", "n2"), Key("SocketHealth", "shop", "b")}


def test_a_view_has_the_findings_people_are_told_of(world):
    world.observe_profile(profile_object())
    audit = finding(mode="Audit", type="InboundTimeWait")
    world.observe_socket_health(pod_object("web", findings=[finding(severity="Critical", since=NOW - 5), audit]), NOW)
    view = next(v for v in profiles.sight(world, world.profiles["wide"], NOW).views if v.name == "n1")
    assert [(f.severity, f.since, f.what) for f in view.findings] == [
        ("Critical", NOW - 5, "CloseWaitLeak on pod shop/web")
    ]


# What people are told

REF = ObjectRef(API, "SysctlProfile", "", "wide", "uid-of-wide")


def status(phase="Progressing", revision="r1", batch=(), because="", **nodes):
    rollout = {"phase": phase, "revision": revision, "batch": list(batch), "stoppedBecause": because}
    return profile_status({"rollout": rollout, "nodes": nodes})


def profile_status(raw):
    made = World()
    made.observe_profile(profile_object(status=raw))
    return made.profiles["wide"].profile.status


def reasons(before, after, generation=1):
    return [(turn.type, turn.reason) for turn in turns.turns(REF, generation, before, after)]


def test_turns_of_a_roll_out_are_told_and_nothing_between():
    nothing, begun = status(revision=""), status(batch=["n1"], selected=2)
    further, complete = status(batch=["n2"], selected=2), status("Complete", selected=2, applied=2)
    stopped = status("Stopped", batch=["n2"], because="node n2 could not be changed")
    assert reasons(nothing, begun) == [("Normal", "RolloutStarted")]
    assert reasons(begun, further) == []
    assert reasons(further, complete) == [("Normal", "RolloutCompleted")]
    assert reasons(complete, complete) == []
    assert reasons(further, stopped) == [("Warning", "RolloutStopped")]
    assert reasons(stopped, status(batch=["n1"], revision="r2")) == [("Normal", "RolloutStarted")]
    assert reasons(nothing, status("Complete")) == [], "a profile for no node completes nothing"
    (turn,) = turns.turns(REF, 1, further, stopped)
    assert turn.note == "Revision r1 is taken back: node n2 could not be changed."


def test_a_turn_has_one_name_however_often_it_is_tried():
    before, after = status(revision=""), status(batch=["n1"])
    (first,) = turns.turns(REF, 1, before, after)
    (again,) = turns.turns(REF, 1, before, status(batch=["n2"], selected=9))
    (edited,) = turns.turns(REF, 2, before, after)
    assert first.name == again.name != edited.name


def drifted(*names):
    text = {"profile": "wide", "revision": "r1", "state": "Drifted", "message": "It is 60 once more."}
    made = World()
    for name in names:
        made.observe_node_health(node_object(name, reports=[text]), NOW)
    return [NodeView(name, True, "r1", "Enforce", made.hosts[name].reports["wide"]) for name in names]


def test_drift_is_told_of_nodes_that_were_well():
    views = drifted("n1", "n2")
    told = turns.drift(REF, views, {"n1"})
    assert (told.type, told.reason) == ("Warning", "Drifted")
    assert told.note == "Someone else has changed values on n2. Node n2: It is 60 once more."
    assert turns.drift(REF, views, {"n1", "n2"}) is None
    many = turns.drift(REF, drifted(*(f"n{n}" for n in range(9))), ())
    assert "n0, n1, n2, n3, n4 and 4 more" in many.note


# What a policy's condition says of its profile


def resolved(kind, profile):
    remark = policies.profile_remark(kind, profile)
    found = policies.conditions((), "wide", {"wide"}, remark=remark, generation=1, previous=(), now=NOW)
    return next(condition for condition in found if condition.type == "ProfileResolved")


def test_a_policy_that_names_a_profile_it_does_not_activate_says_so(world):
    world.observe_profile(profile_object())
    always = resolved("ClusterSocketHealthPolicy", world.profiles["wide"].profile)
    assert always.status == "True"
    assert "activation is Always" in always.message
    world.observe_profile(on_finding(generation=2))
    assert resolved("ClusterSocketHealthPolicy", world.profiles["wide"].profile).message == (
        "SysctlProfile 'wide' exists."
    )
    assert "ClusterSocketHealthPolicy" in resolved("SocketHealthPolicy", world.profiles["wide"].profile).message


def test_policies_are_concerned_when_activation_changes(world):
    world.observe_policy(policy_object())
    world.observe_profile(profile_object())
    policy = Key("ClusterSocketHealthPolicy", "", "p")
    assert policy in world.observe_profile(on_finding(generation=2))
