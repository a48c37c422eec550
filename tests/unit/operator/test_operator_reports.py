"""What people are told of a change: on a pod, and on its workload as a whole."""

import msgspec

from sockethealth_core.resources import Finding
from sockethealth_operator.annotations import Entry
from sockethealth_operator.objects import ObjectRef
from sockethealth_operator.reports import Report, changes, cleared_note, plan

EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"


def finding(**fields):
    base = Finding(
        type="CloseWaitLeak",
        severity="Warning",
        since=EARLY,
        policy="p",
        policy_kind="SocketHealthPolicy",
        rule="warn",
        value=1,
        message="m",
    )
    return msgspec.structs.replace(base, **fields)


def report(pod, **fields):
    return Report(ObjectRef("v1", "Pod", "shop", pod, f"uid-{pod}"), finding(**fields))


def entry(**fields):
    base = Entry(
        type="CloseWaitLeak",
        severity="Warning",
        since=EARLY,
        policy="p",
        policy_kind="SocketHealthPolicy",
        rule="warn",
        pods=1,
        pod="a",
        message="m",
    )
    return msgspec.structs.replace(base, **fields)


def told(before, after):
    return [(change, f.severity) for change, f in changes(before, after)]


def test_raised_escalated_and_cleared_are_news_and_eased_is_not():
    warning, critical = finding(), finding(severity="Critical", rule="crit")
    assert told([], [warning]) == [("Raised", "Warning")]
    assert told([warning], [critical]) == [("Escalated", "Critical")]
    assert told([critical], [warning]) == []
    assert told([warning], []) == [("Cleared", "Warning")]
    assert told([warning], [finding(value=2)]) == []


def test_info_and_audit_are_nobodys_news():
    info, audit = finding(severity="Info"), finding(mode="Audit")
    assert told([], [info, audit]) == []
    assert told([info, audit], []) == []


def test_a_finding_that_becomes_serious_is_raised_and_one_that_becomes_harmless_cleared():
    info, warning = finding(severity="Info", rule="info"), finding()
    assert told([info], [warning]) == [("Raised", "Warning")]
    assert told([warning], [info]) == [("Cleared", "Warning")]


def test_a_policy_that_turns_to_audit_clears_nothing_and_back_to_enforce_is_told():
    enforced, audited = finding(), finding(mode="Audit")
    assert told([enforced], [audited]) == []
    assert told([audited], [enforced]) == [("Raised", "Warning")]


def steps(made):
    return [(step.change, step.entry.severity) for step in made.changes]


def test_a_workload_is_told_of_by_its_first_pod_and_of_the_end_by_its_last():
    first = plan([], [report("a")], [])
    assert steps(first) == [("Raised", "Warning")]
    second = plan(first.entries, [report("a"), report("b", since=LATE)], [])
    assert (steps(second), second.entries[0].pods, second.entries[0].since) == ([], 2, EARLY)
    third = plan(second.entries, [report("b", since=LATE)], [])
    assert (steps(third), third.entries[0].pods, third.entries[0].pod) == ([], 1, "b")
    assert third.entries[0].since == EARLY, "the workload has had it since its first pod did"
    assert steps(plan(third.entries, [], [])) == [("Cleared", "Warning")]


def test_the_worst_pod_speaks_for_the_workload_and_stays_its_speaker():
    made = plan([entry()], [report("a"), report("b", severity="Critical", rule="crit")], [])
    assert steps(made) == [("Escalated", "Critical")]
    assert (made.entries[0].pod, made.entries[0].rule) == ("b", "crit")
    again = plan(made.entries, [report("a", severity="Critical", rule="crit"), made.changes[0].report], [])
    assert again.entries[0].pod == "b"


def test_policies_and_detectors_are_things_of_their_own_worst_first():
    made = plan([], [report("a"), report("a", policy="q", severity="Critical"), report("a", type="Other")], [])
    assert [(e.policy, e.type) for e in made.entries] == [
        ("q", "CloseWaitLeak"),
        ("p", "CloseWaitLeak"),
        ("p", "Other"),
    ]


def test_rules_of_an_expression_are_things_of_their_own():
    made = plan([], [report("a", type="Expression"), report("a", type="Expression", rule="two")], [])
    assert len(made.entries) == 2


def test_an_entry_whose_policy_turned_to_audit_goes_without_a_word():
    made = plan([entry()], [], [finding(mode="Audit")])
    assert (made.entries, made.changes) == ((), ())


def test_a_cleared_note_tells_how_long_it_was():
    note = cleared_note("CloseWaitLeak", "p", EARLY, "pod a holds 200 CLOSE_WAIT.", 1767225600 + 310)
    assert note == "CloseWaitLeak of policy p has cleared after 5m10s. It was: pod a holds 200 CLOSE_WAIT."
