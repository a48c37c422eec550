"""Watched values: which are crossed, when that is written, and what a value that goes up and down may cost."""

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_builders import facts
from sockethealth_core import crossings as of_core
from sockethealth_core.crossings import (
    INFO_SWEEPS,
    REMEMBERED_SECONDS,
    RISE_SWEEPS,
    Damping,
    gauges,
    read,
)
from sockethealth_core.resources import Conntrack, NodeFacts, Sockets, Watchpoint

SWEEP_SECONDS = 15.0
HOUR = int(3600 / SWEEP_SECONDS)
LOW, HIGH = 40, 60
LEAK = Watchpoint(detector="CloseWaitLeak", values=[50], parameters={"minAge": "60s"}, severity="Warning")
MOST_SWEEPS = RISE_SWEEPS[-1]
WINDOW = int(REMEMBERED_SECONDS / SWEEP_SECONDS)
examples = settings(deadline=None, max_examples=60)


def crossings(written, current, watchpoints):
    by = gauges(watchpoints)
    return of_core.crossings(read(written, by), read(current, by), by)


def reached(found, watchpoints):
    by = gauges(watchpoints)
    return of_core.reached(read(found, by), by)


@cache
def of(value):
    return facts(close_wait=value, older=value, sockets=Sockets(fin_wait2=value))


@cache
def between(held, value, severity):
    watchpoint = Watchpoint(detector="FinWait2Buildup", values=[50], severity=severity)
    return crossings(of(held), of(value), [watchpoint])


def hour_of(values, severity="Warning", written=LOW):
    """What is written after each sweep of such a history."""
    damping, held, found = Damping(), written, []
    for index, value in enumerate(values):
        now = index * SWEEP_SECONDS
        crossed = between(held, value, severity)
        damping = damping.observe(crossed, now)
        if damping.due(crossed):
            damping, held = damping.wrote(crossed, now), value
        found.append(held)
    return found


def writes(values, severity="Warning", written=LOW):
    return sum(one != other for one, other in pairwise([written, *hour_of(values, severity, written)]))


@st.composite
def histories(draw):
    """An hour of a value about its watched one, from one that turns each sweep to one that stays for long."""
    runs = draw(st.lists(st.one_of(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=30))
    values = []
    for index, length in enumerate(runs):
        values += [(LOW, HIGH)[index % 2]] * length
    return (values * HOUR)[:HOUR] if draw(st.booleans()) else values[:HOUR]


@examples
@given(histories(), st.sampled_from([LOW, HIGH]))
def test_what_is_written_is_never_above_when_the_value_is_below(values, written):
    assert not any(held >= 50 > value for held, value in zip(hour_of(values, "Warning", written), values, strict=True))


@examples
@given(histories())
def test_a_rise_that_stays_is_written_at_once_unless_the_value_has_gone_up_and_down(before):
    values = [*before, LOW, *[HIGH] * MOST_SWEEPS]
    found = hour_of(values)
    rise = len(before) + 1
    since = max(0, rise - WINDOW)
    earlier = sum(one < 50 <= other for one, other in pairwise([LOW, *values][since : rise + 1]))
    if earlier < 3:
        assert found[rise] == HIGH
    assert found[rise + MOST_SWEEPS - 1] == HIGH


def test_a_value_that_turns_each_sweep_is_written_three_times_up_and_down_in_half_an_hour():
    assert writes([HIGH, LOW] * (HOUR // 2)) == 2 * 3 * 2


@examples
@given(histories())
def test_whatever_a_value_does_its_writes_are_few(values):
    """After five rises within half an hour each takes 12 sweeps above, and one below before."""
    rises = 5 + WINDOW // (MOST_SWEEPS + 1) + 1
    assert writes(values) <= 2 * 2 * rises


def test_what_was_flapping_is_forgotten_in_half_an_hour():
    flapping = [HIGH, LOW] * 10
    assert hour_of([*flapping, *[LOW] * WINDOW, HIGH])[-1] == HIGH
    assert hour_of([*flapping, *[LOW] * (WINDOW // 2), HIGH])[-1] == LOW


@examples
@given(histories(), st.sampled_from([LOW, HIGH]))
def test_a_crossing_of_an_info_rule_is_written_within_its_time(before, value):
    found = hour_of([*before, *[value] * INFO_SWEEPS[-1]], "Info")
    assert (found[-1] >= 50) == (value >= 50)


def test_a_crossing_of_an_info_rule_has_to_last_both_ways_and_longer_when_it_comes_back():
    short, long = INFO_SWEEPS
    up = hour_of([*[HIGH] * short, *[LOW] * long], "Info")
    assert up == [*[LOW] * (short - 1), *[HIGH] * long, LOW]
    assert writes([*[HIGH] * (short - 1), LOW] * 10, "Info") == 0


def test_only_the_value_that_goes_up_and_down_is_damped():
    watchpoint = Watchpoint(detector="CloseWaitLeak", values=[50, 1000], parameters={"minAge": "60s"})
    damping = Damping()
    for _ in range(5):
        damping = damping.wrote(crossings(of(LOW), of(HIGH), [watchpoint]), 0.0)
    assert damping.due(crossings(of(LOW), of(HIGH), [watchpoint])) is None
    due = damping.due(crossings(of(LOW), of(2000), [watchpoint]))
    assert str(due.watched) == "CloseWaitLeak 1000"


def test_an_object_of_an_earlier_version_has_watchpoints_that_are_urgent():
    (crossing,) = crossings(of(LOW), of(HIGH), [Watchpoint(detector="FinWait2Buildup", values=[50])])
    assert crossing.watched.urgent


@pytest.mark.parametrize(("entries", "crossed"), [(70, 0), (90, 1)])
def test_a_fact_that_was_not_there_was_below(entries, crossed):
    watched = Watchpoint(detector="ConntrackPressure", values=[80])
    loaded = NodeFacts(conntrack=Conntrack(entries=entries, maximum=100))
    assert len(crossings(NodeFacts(), loaded, [watched])) == crossed
    assert not crossings(loaded, NodeFacts(), [watched]), "what is not known changes nothing"


def test_a_value_is_reached_from_there_on_and_zero_tells_nothing():
    assert reached(of(50), [LEAK])
    assert not reached(of(49), [LEAK])
    assert not reached(of(0), [Watchpoint(detector="CloseWaitLeak", values=[0], parameters={"minAge": "60s"})])
