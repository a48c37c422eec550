"""When a dear dump is due: never oftener than its share of a core allows, never later than a minute."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sockethealth_agent.pace import (
    CHEAP_SECONDS,
    EVERY_TIME,
    LONGEST_WAIT_SECONDS,
    SHARE,
    STEADY_PACE,
    URGENT_SHARE,
    Pace,
    Signs,
    is_urgent,
)

costs = st.floats(0, 20)
sweeps = st.lists(st.tuples(st.floats(0.5, 120), st.booleans(), costs), min_size=1, max_size=200)
PORTS = 28_232
CALM = Signs(
    at=1000.0,
    mini_sockets=500_000,
    in_use=20_000,
    opens=10_000_000,
    opens_per_second=8000.0,
    overflows=7,
    overflowing=False,
    roles=(frozenset({80}), 32_768, 60_999),
)


def dumps(history, pace=STEADY_PACE):
    """(when, what it cost) of each dump of a history of sweeps: (seconds since the one before, urgent, cost)."""
    now, made = 0.0, []
    for pause, urgent, cost in history:
        now += pause
        if not made or pace.is_due(made[-1][1], now - made[-1][0], urgent=urgent):
            made.append((now, cost))
    return made


def test_what_is_cheap_is_dumped_in_each_sweep():
    assert STEADY_PACE.is_due(CHEAP_SECONDS, 0.0, urgent=False)


def test_half_a_second_of_dump_waits_a_minute_or_ten_seconds_at_an_urgent_sign():
    assert not STEADY_PACE.is_due(0.5, 59.9, urgent=False)
    assert STEADY_PACE.is_due(0.5, 60.0, urgent=False)
    assert not STEADY_PACE.is_due(0.5, 9.9, urgent=True)
    assert STEADY_PACE.is_due(0.5, 10.0, urgent=True)


def test_a_tenth_of_a_second_waits_twenty():
    assert [STEADY_PACE.is_due(0.1, since, urgent=False) for since in (10.0, 20.0)] == [False, True]


@settings(deadline=None)
@given(sweeps)
def test_dumps_take_no_more_than_their_share_whatever_happens(history):
    made = dumps(history)
    for (before, cost), (after, _) in pairwise(made):
        if cost > CHEAP_SECONDS:
            assert cost / (after - before) <= max(URGENT_SHARE, cost / LONGEST_WAIT_SECONDS) * (1 + 1e-9)


@settings(deadline=None)
@given(sweeps)
def test_without_urgent_signs_the_share_is_the_small_one(history):
    made = dumps([(pause, False, cost) for pause, _urgent, cost in history])
    for (before, cost), (after, _) in pairwise(made):
        if cost > CHEAP_SECONDS:
            assert cost / (after - before) <= max(SHARE, cost / LONGEST_WAIT_SECONDS) * (1 + 1e-9)


@settings(deadline=None)
@given(sweeps)
def test_no_sweep_tells_of_a_dump_a_minute_old(history):
    made = dumps(history)
    now = 0.0
    for pause, _urgent, _cost in history:
        now += pause
        last = max(when for when, _ in made if when <= now)
        assert now - last < LONGEST_WAIT_SECONDS


@settings(deadline=None)
@given(sweeps)
def test_an_urgent_sign_never_has_a_dump_made_later(history):
    calm = [(pause, False, 0.4) for pause, _urgent, _cost in history]
    urgent = [(pause, True, 0.4) for pause, _urgent, _cost in history]
    assert len(dumps(urgent)) >= len(dumps(calm))


@settings(deadline=None)
@given(sweeps)
def test_every_time_is_every_time(history):
    assert len(dumps(history, EVERY_TIME)) == len(history)


@settings(deadline=None)
@given(costs, st.floats(0, 200), st.booleans())
def test_once_due_stays_due(cost, since, urgent):
    assume(STEADY_PACE.is_due(cost, since, urgent=urgent))
    assert STEADY_PACE.is_due(cost, since + 1, urgent=urgent)
    assert STEADY_PACE.is_due(cost, since, urgent=True)


def urgent(seen, dumped=CALM, *, exhausting=False):
    return is_urgent(dumped, seen, usable_ports=PORTS, exhausting=exhausting)


def after(seconds, **changed):
    """The signs so much later if connections are opened at the rate of before."""
    usual = CALM.opens + round(CALM.opens_per_second * seconds)
    return replace(CALM, at=CALM.at + seconds, opens=usual + changed.pop("more_opens", 0), **changed)


@pytest.mark.parametrize("seconds", [10, 20, 50])
def test_a_steady_crowd_is_not_urgent(seconds):
    assert not urgent(after(seconds, mini_sockets=520_000, in_use=19_000, more_opens=2000))


@pytest.mark.parametrize(
    "changed",
    [
        {"mini_sockets": 550_001},
        {"mini_sockets": 449_999},
        {"in_use": 22_001},
        {"in_use": 17_999},
        {"overflows": 8},
        {"close_wait": 1},
        {"roles": (frozenset({80, 443}), 32_768, 60_999)},
        {"more_opens": 8001},
        {"more_opens": -8001},
    ],
)
def test_what_leaves_its_band_is_urgent(changed):
    assert urgent(after(10, **changed))


def test_an_overflow_that_goes_on_is_not_urgent_for_ever():
    dumped = replace(CALM, overflowing=True)
    assert not urgent(after(10, overflows=5000, overflowing=True), dumped)


def test_ports_that_run_out_are_urgent_until_they_do_not():
    assert urgent(after(10), exhausting=True)
    assert not urgent(after(10), exhausting=False)


@settings(deadline=None)
@given(
    st.floats(0, 20_000),
    st.floats(PORTS / 60, 20_000),
    st.floats(10, 15),
)
def test_another_destination_whose_ports_would_run_out_is_seen_within_two_sweeps(usual, more, interval):
    """Any rate beside the usual that can take all ports within a minute; or they are half taken by the second sweep."""
    dumped = replace(CALM, opens=0, opens_per_second=usual)
    spent = [round((usual + more) * interval * sweep) for sweep in (1, 2)]
    seen = [replace(dumped, at=dumped.at + interval * (sweep + 1), opens=spent[sweep]) for sweep in range(2)]
    within_band = more <= 0.1 * usual
    taken = more * interval * 2
    assert any(urgent(one, dumped) for one in seen) or (within_band and taken <= PORTS / 2 + 1)


@settings(deadline=None)
@given(st.floats(0.001, 0.05), st.floats(0.05, 1), st.floats(1, 300), sweeps)
def test_any_pace_keeps_to_its_own_bounds(share, urgent_share, longest, history):
    pace = Pace(share=share, urgent_share=urgent_share, longest_seconds=longest, cheap_seconds=0.0)
    made = dumps(history, pace)
    for (before, cost), (then, _) in pairwise(made):
        assert cost <= max(urgent_share * (then - before), cost / longest * (then - before)) * (1 + 1e-9)
