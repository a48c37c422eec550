"""What a report makes of samples, in virtual time."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_cli.policies import default_rule_set
from sockethealth_cli.report import incident, words
from sockethealth_cli.report.timeline import (
    Descriptors,
    Segment,
    Series,
    calm_and_incident,
    finding_spans,
    grows_per_second,
    judge,
)
from sockethealth_core.resources import Facts, Listener, Rates
from sockethealth_core.units import format_time
from unit.cli.builders import NOW, exhausted, leaking, quiet
from unit.cli.report_builders import POD, of, running_out, sampled

RULES = default_rule_set().rules


def spans_of(facts, step=10.0):
    return finding_spans(judge(POD, sampled(facts, step), RULES))


def test_a_finding_is_pending_for_its_for_then_raised_then_clearing_then_cleared():
    ports, *_ = spans_of([quiet()] * 3 + [exhausted()] * 10 + [quiet()] * 12)
    assert ports.finding.type == "EphemeralPortExhaustion"
    began, raised, over, cleared = (NOW + seconds for seconds in (30, 60, 130, 190))
    assert [(one.phase, one.begin, one.end) for one in ports.segments] == [
        ("Pending", began, raised),
        ("Active", raised, over),
        ("Clearing", over, cleared),
    ]
    assert [(one.change, one.at) for one in ports.marks] == [("Began", began), ("Raised", raised), ("Cleared", cleared)]


def test_a_warning_that_becomes_critical_is_one_finding_that_escalates():
    warning, critical = exhausted(used=17_000), exhausted()
    (ports,) = [
        one for one in spans_of([warning] * 15 + [critical] * 5) if one.finding.type == "EphemeralPortExhaustion"
    ]
    assert [one.change for one in ports.marks] == ["Began", "Raised", "Escalated"]
    assert ports.severity == "Critical"
    assert {one.severity for one in ports.segments} == {"Warning", "Critical"}


def test_what_never_lasted_as_long_as_its_for_is_shown_and_not_called_raised():
    made = of([quiet(), exhausted(), exhausted(), quiet()], step=5.0)
    (ports,) = [one for one in made.findings if one.finding.type == "EphemeralPortExhaustion"]
    assert not ports.raised
    assert [one.phase for one in ports.segments] == ["Pending"]
    told = {one.question: " ".join(one.sentences) for one in words.answers(made)}
    assert "no alarm would be raised" in told["When it began"]
    assert "It was over at" in told["When it began"]


def test_a_problem_that_flickers_is_one_finding_with_a_gap():
    ports, *_ = spans_of([exhausted(), quiet(), exhausted(), quiet()])
    assert [(one.begin - NOW, one.end - NOW) for one in ports.segments] == [(0, 10), (20, 30)]


def test_the_finding_that_wants_a_person_comes_before_the_one_that_explains():
    made = running_out()
    assert [one.finding.type for one in made.findings] == ["EphemeralPortExhaustion", "OutboundTimeWait"]
    assert made.worst is made.findings[0]
    assert "uses 26,000 of 28,232 ephemeral ports" in words.headline(made)
    assert "pod shop/cart-1" in words.headline(made).lower()


def test_the_answers_name_the_other_party_the_rule_and_when():
    told = {one.question: " ".join(one.sentences) for one in words.answers(running_out())}
    assert "ephemeral-ports-critical of sockethealth-default calls 80 or more Critical" in told["What broke"]
    assert "10.0.0.9:6379" in told["Who"]
    assert "Reuse connections" in told["What helps"]
    assert format_time(NOW + 60)[11:19] in told["When it began"]


def test_without_a_finding_it_says_so_and_has_no_answers():
    made = of([quiet()] * 3)
    assert made.findings == ()
    assert words.headline(made) == "Pod shop/cart-1: no rule found anything wrong."
    assert words.answers(made) == ()


def test_ports_that_run_out_have_a_time_when_they_will():
    made = of([exhausted(seconds=50.0), exhausted(seconds=40.0)])
    assert made.outlook is not None
    assert made.outlook.state == "WillBreak"
    assert made.outlook.at == NOW + 10 + 40


def test_ports_that_ran_out_have_a_time_when_they_did():
    made = of([exhausted(seconds=20.0), exhausted(28_232, seconds=0.0), exhausted(seconds=None)])
    assert made.outlook is not None
    assert (made.outlook.state, made.outlook.at) == ("Broke", NOW + 10)
    assert "It was so last at" in made.outlook.sentence


def test_a_leak_breaks_when_the_process_has_all_the_files_it_may_have():
    growing = [leaking(100 + 10 * step) for step in range(20)]
    made = of(growing, descriptors=(Descriptors("java", 4711, 424, 1024),))
    assert made.outlook is not None
    assert made.outlook.state == "WillBreak"
    # 600 files are left, and each second takes one.
    assert made.outlook.at == pytest.approx(NOW + 190 + 600)
    assert "java (4711) has 424 of at most 1,024 files open" in made.outlook.sentence


def test_a_leak_that_stands_still_breaks_nothing():
    made = of([leaking(100)] * 20, descriptors=(Descriptors("java", 4711, 424, 1024),))
    assert made.outlook is not None
    assert made.outlook.state == "Holds"
    assert "did not grow" in made.outlook.sentence


def test_a_leak_with_no_file_left_broke():
    made = of([leaking(100)] * 20, descriptors=(Descriptors("java", 4711, 1024, 1024),))
    assert made.outlook is not None
    assert made.outlook.state == "Broke"


def test_dropped_connections_are_broken_since_they_began():
    dropping = Facts(
        rates=Rates(listen_overflows=5.0),
        listeners=[Listener(address="0.0.0.0", port=8080, queue=129, backlog=128, process="gunicorn")],
    )
    made = of([quiet(), *[dropping] * 5])
    assert made.outlook is not None
    assert (made.outlook.state, made.outlook.at) == ("Broke", NOW + 10)
    queue, limit = made.queues
    assert (queue.peak, limit.peak) == (129, 128)
    told = {one.question: " ".join(one.sentences) for one in words.answers(made)}
    assert "The process is gunicorn." in told["Who"]


def test_rates_of_counters_are_not_known_at_the_first_look():
    busy = Facts(rates=Rates(active_opens=30.0))
    (opened,) = of([busy, busy]).flows
    assert opened.values == (None, 30.0)


def test_an_incident_needs_a_sample():
    with pytest.raises(ValueError, match="at least one"):
        incident.of_samples(POD, [], RULES)


@given(
    st.lists(st.sampled_from(["quiet", "warning", "critical", "leak"]), min_size=1, max_size=40),
    st.sampled_from([0.5, 5.0, 20.0, 120.0]),
)
def test_a_span_is_whole_whatever_happens(kinds, step):
    facts = {"quiet": quiet(), "warning": exhausted(17_000), "critical": exhausted(), "leak": leaking(300)}
    samples = sampled([facts[kind] for kind in kinds], step)
    for span in finding_spans(judge(POD, samples, RULES)):
        assert samples[0].at <= span.began <= span.worst_at <= samples[-1].at
        assert span.seen_until <= samples[-1].at
        assert span.seen_until == samples[-1].at or not span.lasts
        assert all(isinstance(one, Segment) and one.begin <= one.end for one in span.segments)
        assert all(one.end <= following.begin for one, following in pairwise(span.segments))
        assert all(
            (one.phase, one.severity) != (following.phase, following.severity) or one.end < following.begin
            for one, following in pairwise(span.segments)
        )
        assert [mark.at for mark in span.marks] == sorted(mark.at for mark in span.marks)
        assert span.raised == any(mark.change == "Raised" for mark in span.marks)


def test_calm_is_before_it_began_and_never_empty():
    times = [0.0, 10.0, 20.0, 30.0]
    assert [list(part) for part in calm_and_incident(times, 20.0)] == [[0, 1], [2, 3]]
    assert [list(part) for part in calm_and_incident(times, 0.0)] == [[0], [0, 1, 2, 3]]
    assert [list(part) for part in calm_and_incident(times, None)] == [[0, 1], [2, 3]]
    assert [list(part) for part in calm_and_incident([5.0], None)] == [[0], [0]]


def test_growth_is_the_slope_of_late_and_nothing_where_it_cannot_be_told():
    times = tuple(float(second) for second in range(100))
    late = Series("", "", "", tuple(0.0 if at < 40 else 2 * (at - 40) for at in times))
    assert grows_per_second(times, late) == pytest.approx(2.0)
    assert grows_per_second((1.0,), Series("", "", "", (5.0,))) == 0
    assert grows_per_second((1.0, 2.0), Series("", "", "", (None, 5.0))) == 0
    assert grows_per_second((1.0, 1.0), Series("", "", "", (1.0, 5.0))) == 0
