"""Policies as people write them, right and wrong."""

import pytest

from sockethealth_core.detectors import DETECTORS
from sockethealth_core.policy import PolicyError, Scene, read_policy, watchpoints

SCENE = Scene("shop", {"app": "web"}, {"team": "a"}, {"zone": "x"})


def document(kind="ClusterSocketHealthPolicy", **spec):
    rules = spec.pop("rules", [{"name": "leak", "detector": "CloseWaitLeak"}])
    return {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "p", "namespace": "shop"} if kind == "SocketHealthPolicy" else {"name": "p"},
        "spec": {"rules": rules, **spec},
    }


def faults(**rule):
    with pytest.raises(PolicyError) as refused:
        read_policy(document(rules=[{"name": "r", "detector": "CloseWaitLeak"} | rule]))
    return str(refused.value)


def test_an_unknown_detector_is_refused_with_the_known_ones():
    text = faults(detector="CloseWaitLeek")
    assert "unknown detector 'CloseWaitLeek'" in text
    assert all(name in text for name in DETECTORS)


def test_a_clear_threshold_above_the_threshold_is_refused_with_both_numbers():
    assert "clearThreshold 60 is above threshold 50" in faults(threshold=50, clearThreshold=60)


def test_a_malformed_duration_is_refused_with_the_field_and_what_to_write():
    text = faults(**{"for": "2 minutes"})
    assert "for: '2 minutes' is not a duration" in text
    assert "2m" in text


def test_a_parameter_of_another_detector_is_refused():
    assert "has no parameter 'maxAge'; it has minAge" in faults(parameters={"maxAge": "1m"})


def test_a_wrong_type_is_refused_with_its_place():
    assert "$.spec.rules[0].threshold" in faults(threshold="many")


def test_a_rule_name_twice_is_refused():
    with pytest.raises(PolicyError, match="'r' is there twice"):
        read_policy(document(rules=[{"name": "r", "detector": "CloseWaitLeak"}] * 2))


def test_every_fault_is_told_at_once():
    with pytest.raises(PolicyError) as refused:
        read_policy(
            document(
                rules=[
                    {"name": "a", "detector": "CloseWaitLeak", "for": "x"},
                    {"name": "b", "detector": "CloseWaitLeak", "clearAfter": "y"},
                ]
            )
        )
    assert len(refused.value.faults) == 2


def test_what_is_left_out_is_the_detectors_default_for_the_severity():
    critical = read_policy(document(rules=[{"name": "r", "detector": "CloseWaitLeak", "severity": "Critical"}])).rules[
        0
    ]
    assert (critical.threshold, critical.clear_threshold) == (1000, 500)
    half = read_policy(document(rules=[{"name": "r", "detector": "CloseWaitLeak", "threshold": 100}])).rules[0]
    assert half.clear_threshold == 20
    assert (half.for_seconds, half.clear_after_seconds, half.parameters) == (120, 60, {"minAge": "60s"})


@pytest.mark.parametrize(
    ("spec", "selected"),
    [
        ({}, True),
        ({"podSelector": {"matchLabels": {"app": "web"}}}, True),
        ({"podSelector": {"matchLabels": {"app": "db"}}}, False),
        ({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a"]}]}}, True),
        ({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}}, False),
        ({"nodeSelector": {"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}}, True),
        ({"nodeSelector": {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}}, False),
    ],
)
def test_selectors(spec, selected):
    assert read_policy(document(**spec)).selects(SCENE) is selected


def test_a_namespaced_policy_is_for_its_namespace_only():
    policy = read_policy(document("SocketHealthPolicy"))
    assert policy.selects(SCENE)
    assert not policy.selects(Scene("other", {}, {}, {}))


def test_watchpoints_are_every_threshold_once_and_in_a_stable_order():
    one = read_policy(document(rules=[{"name": "a", "detector": "CloseWaitLeak", "parameters": {"minAge": "5s"}}]))
    two = read_policy(
        document(rules=[{"name": "b", "detector": "CloseWaitLeak"}, {"name": "c", "detector": "InboundTimeWait"}])
    )
    found = [(w.detector, w.parameters, w.values) for w in watchpoints([one, two])]
    assert found == [
        ("CloseWaitLeak", {"minAge": "5s"}, [10, 50]),
        ("CloseWaitLeak", {"minAge": "60s"}, [10, 50]),
        ("InboundTimeWait", {}, [500, 1000]),
    ]
    assert watchpoints([two, one]) == watchpoints([one, two])


def test_a_watchpoint_has_the_worst_severity_of_its_values_and_those_of_info_rules_come_last():
    def rule(name, threshold, clear, severity, detector="CloseWaitLeak"):
        return {
            "name": name,
            "detector": detector,
            "threshold": threshold,
            "clearThreshold": clear,
            "severity": severity,
        }

    policy = read_policy(
        document(
            rules=[
                rule("explained", 20, 5, "Info"),
                rule("warned", 50, 20, "Warning"),
                rule("alarmed", 1000, 50, "Critical"),
                rule("other", 1000, 500, "Warning", "OutboundTimeWait"),
            ]
        )
    )
    assert [(w.detector, w.severity, w.values) for w in watchpoints([policy])] == [
        ("CloseWaitLeak", "Critical", [50, 1000]),
        ("CloseWaitLeak", "Warning", [20]),
        ("OutboundTimeWait", "Warning", [500, 1000]),
        ("CloseWaitLeak", "Info", [5]),
    ]
