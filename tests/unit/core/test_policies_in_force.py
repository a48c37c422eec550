"""What a namespace's policies can ask of the operator, and of all agents, and what that costs the others."""

import sys
from dataclasses import replace

import pytest

from sockethealth_core.detectors.expression import MAXIMUM_STEPS, steps_of
from sockethealth_core.policies_in_force import (
    MAXIMUM_POINTS,
    MAXIMUM_RULES,
    MAXIMUM_VALUES,
    PoliciesInForce,
    shared_watchpoints,
)
from sockethealth_core.policy import PolicyError, Scene, read_policy

DEAR = "status.sysctls.all(a,status.sysctls.all(b,a!=b))"


def rule(name="r", detector="CloseWaitLeak", **fields):
    return {"name": name, "detector": detector, "threshold": 50, "clearThreshold": 10, **fields}


def policy(name="p", namespace="shop", rules=None, **spec):
    kind = "SocketHealthPolicy" if namespace else "ClusterSocketHealthPolicy"
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return read_policy({"kind": kind, "metadata": metadata, "spec": {"rules": rules or [rule()], **spec}})


def created(number):
    return f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z"


def rules_in(made, namespace="shop"):
    return [(r.key.policy, r.key.rule) for r in made.rules_of_pod(Scene(namespace, {}, {}, {}))]


def test_the_oldest_that_fit_are_in_force_whatever_order_they_come_in():
    made = PoliciesInForce()
    for number in reversed(range(MAXIMUM_RULES + 5)):
        made.put(policy(f"p{number:03}"), created(number))
    in_force = {name for name, _ in rules_in(made)}
    assert in_force == {f"p{number:03}" for number in range(MAXIMUM_RULES)}
    assert made.waiting("shop", "p000") == ""
    assert f"more than {MAXIMUM_RULES} rules" in made.waiting("shop", f"p{MAXIMUM_RULES:03}")
    assert made.waiting("shop", "unknown") == made.waiting(None, "unknown") == ""


def test_what_waits_comes_into_force_when_there_is_room_and_is_named():
    made = PoliciesInForce()
    for number in range(MAXIMUM_RULES + 1):
        made.put(policy(f"p{number:03}"), created(number))
    assert made.drop("shop", "p000") == {"p000", "p100"}
    assert made.waiting("shop", "p100") == ""
    assert made.put(policy("first"), created(0)) == {"first", "p100"}
    assert made.put(policy("first"), created(0)) == set()


def test_of_the_same_second_the_first_by_name_is_the_older():
    made = PoliciesInForce()
    many = [rule(f"r{number}") for number in range(60)]
    assert made.put(policy("b", rules=many), created(1)) == {"b"}
    assert made.put(policy("a", rules=many), created(1)) == {"a", "b"}


def test_dear_expressions_count_by_their_steps():
    made = PoliciesInForce()
    steps = steps_of({"expression": DEAR})
    fit = MAXIMUM_STEPS // steps
    assert 1 < fit < 60
    for number in range(fit + 1):
        dear = rule("dear", "Expression", parameters={"expression": DEAR})
        made.put(policy(f"p{number:03}", rules=[dear]), created(number))
    assert len(rules_in(made)) == fit
    with pytest.raises(PolicyError, match="too many steps together"):
        policy(rules=[rule(f"r{n}", "Expression", parameters={"expression": DEAR}) for n in range(fit + 1)])


def test_cluster_policies_have_no_bound_and_come_first():
    made = PoliciesInForce()
    for number in range(MAXIMUM_RULES + 5):
        made.put(policy(f"c{number:03}", namespace=None), created(number))
    made.put(policy("a"), created(0))
    found = rules_in(made)
    assert len(found) == MAXIMUM_RULES + 6
    assert found[-1] == ("a", "r")
    assert made.put(policy("c000", namespace=None), "") == set()
    assert made.drop(None, "c000") == made.drop(None, "c000") == made.drop("none", "c000") == set()
    assert len(rules_in(made)) == MAXIMUM_RULES + 5


def test_a_pod_is_judged_by_its_namespaces_policies_and_a_node_by_the_clusters():
    made = PoliciesInForce()
    node = rule("pages", "TcpMemoryPressure")
    made.put(policy("own", rules=[rule(), node]), created(0))
    made.put(policy("all", namespace=None, rules=[rule(), node], nodeSelector={"matchLabels": {"a": "b"}}), created(0))
    assert rules_in(made) == [("own", "r")]
    assert rules_in(made, "other") == []
    assert [r.key.policy for r in made.rules_of_node({"a": "b"})] == ["all"]
    assert made.rules_of_node({}) == []


def calls(function):
    """How many calls a function makes: what it costs, whatever else the machine does."""
    count = 0

    def note(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_ten_thousand_policies_of_a_tenant_cost_a_pod_of_another_nothing():
    made = PoliciesInForce()
    made.put(policy("all", namespace=None), created(0))
    made.put(policy("own"), created(0))
    theirs = policy("theirs", namespace="evil")
    scene = Scene("shop", {}, {}, {})
    before = calls(lambda: made.rules_of_pod(scene))
    first = calls(lambda: made.put(theirs, created(0)))
    for number in range(10_000):
        made.put(policy(f"p{number:05}", namespace="evil") if number < MAXIMUM_RULES else _named(theirs, number), "x")
    assert calls(lambda: made.rules_of_pod(scene)) == before
    # To take in one more costs as much as a namespace's share is large, not as many policies as there are.
    assert calls(lambda: made.put(_named(theirs, 10_001), "x")) < first + 20 * MAXIMUM_RULES
    assert len(rules_in(made, "evil")) == MAXIMUM_RULES + 1


def _named(template, number):
    return replace(template, name=f"p{number:05}")


def points(groups):
    return {(p.detector, p.parameters.get("minAge", ""), p.severity): p.values for p in shared_watchpoints(groups)}


def test_nobodys_thresholds_push_out_those_of_the_cluster_or_of_another_namespace():
    def flood(namespace):
        ages = [
            rule(f"r{n}", parameters={"minAge": f"{n + 1}s"}, threshold=n + 1, clearThreshold=n) for n in range(140)
        ]
        values = [rule(f"v{n}", threshold=n / 8, clearThreshold=n / 8) for n in range(1, 61)]
        return [policy(f"a{n}", namespace, [*ages[n::4], *values[n::4]]) for n in range(4)]

    everybody = policy("default", None, [rule("c", severity="Critical", threshold=1000, clearThreshold=500)])
    quiet = policy("quiet", "zoo", [rule("mine", "FinWait2Buildup", threshold=7, clearThreshold=6)])
    groups = [[everybody], flood("evil"), flood("evil2"), [quiet]]
    found = points(groups)
    assert len(found) <= MAXIMUM_POINTS
    assert all(len(values) <= MAXIMUM_VALUES for values in found.values())
    assert found["CloseWaitLeak", "60s", "Critical"] == [500, 1000]
    assert found["FinWait2Buildup", "", "Warning"] == [6, 7]
    assert sum(len(values) for values in found.values()) > MAXIMUM_VALUES


def test_what_fits_is_said_in_full_and_only_once_made():
    made = PoliciesInForce()
    made.put(policy("all", namespace=None), created(0))
    made.put(policy("own", rules=[rule(threshold=7, clearThreshold=3, severity="Critical")]), created(0))
    assert {p.severity: p.values for p in made.watchpoints()} == {"Critical": [3, 7], "Warning": [10, 50]}
    assert made.watchpoints() is made.watchpoints()
    made.drop("shop", "own")
    assert {p.severity: p.values for p in made.watchpoints()} == {"Warning": [10, 50]}
