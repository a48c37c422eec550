"""Conditions of a policy."""

from sockethealth_operator.policies import conditions


def made(faults=(), profile=None, profiles=(), generation=1, previous=(), now=1767225600.0):
    found = conditions(faults, profile, profiles, generation=generation, previous=previous, now=now)
    return {condition.type: condition for condition in found}


def test_a_valid_policy_is_accepted_and_ready():
    found = made()
    assert {name: c.status for name, c in found.items()} == {"Accepted": "True", "Ready": "True"}
    assert found["Accepted"].observed_generation == 1


def test_every_fault_is_in_the_message():
    found = made(faults=("first is wrong", "second too"))
    assert (found["Accepted"].status, found["Accepted"].reason) == ("False", "Invalid")
    assert found["Accepted"].message == "first is wrong; second too"
    assert found["Ready"].status == "False"


def test_a_missing_profile_is_named_with_what_to_do():
    found = made(profile="wide")
    assert (found["ProfileResolved"].status, found["ProfileResolved"].reason) == ("False", "ProfileNotFound")
    assert found["ProfileResolved"].message == (
        "SysctlProfile 'wide' does not exist: create it or remove actions.sysctlProfile"
    )
    assert (found["Accepted"].status, found["Ready"].status) == ("True", "False")
    there = made(profile="wide", profiles={"wide"})
    assert (there["ProfileResolved"].status, there["Ready"].status) == ("True", "True")


def test_the_time_moves_only_with_the_status():
    first = made(faults=("wrong",))
    later = made(faults=("wrong in another way",), previous=list(first.values()), generation=2, now=1767229200.0)
    assert later["Accepted"].last_transition_time == first["Accepted"].last_transition_time
    assert later["Accepted"].observed_generation == 2
    fixed = made(previous=list(later.values()), generation=3, now=1767229200.0)
    assert fixed["Accepted"].last_transition_time == "2026-01-01T01:00:00Z"


def test_nothing_new_is_nothing_to_write():
    first = conditions((), None, (), generation=1, previous=(), now=0)
    assert conditions((), None, (), generation=1, previous=first, now=99) == first


def test_a_rule_that_fails_is_told_and_taken_back():
    failing = conditions((), None, (), "expression x cannot be evaluated", generation=1, previous=(), now=1767225600.0)
    by_type = {condition.type: condition for condition in failing}
    assert (by_type["Evaluated"].status, by_type["Ready"].status) == ("False", "False")
    assert by_type["Evaluated"].message == "expression x cannot be evaluated"
    assert made(previous=failing)["Evaluated"].status == "True"
    assert "Evaluated" not in made()


def test_a_valid_policy_that_waits_for_room_says_so_and_is_not_ready():
    waiting = conditions((), None, (), waiting="Others are older.", generation=1, previous=(), now=0)
    by_type = {condition.type: condition for condition in waiting}
    assert by_type["Accepted"].status == "True"
    assert (by_type["Ready"].status, by_type["Ready"].reason) == ("False", "TooMany")
    assert by_type["Ready"].message == "Others are older."
