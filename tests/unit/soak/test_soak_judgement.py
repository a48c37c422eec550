"""What a soak calls flat, on series whose answer is known."""

import random

import pytest

from soak import record
from soak.judgement import Always, Increase, Point, Reading, Rise, Spread, judge, slope_per_second
from soak.limits import BUDGET, MEBIBYTE, WORK, Limits
from sockethealth_core.metrics import SERIES

HOUR = [15.0 * n for n in range(241)]
WARM_UP = 600.0


def readings(figure, value, container="agent", at=HOUR):
    return [Reading(seconds, container, {figure: float(value(seconds))}) for seconds in at]


def faults(figure, value, *limits):
    (verdict,) = judge(readings(figure, value), lambda _: limits, WARM_UP)
    return verdict.faults


def test_the_slope_of_a_line_is_its_slope_and_spikes_do_not_move_it():
    line = [Point(t, 3 + 0.25 * t) for t in HOUR]
    assert slope_per_second(line) == pytest.approx(0.25)
    spiky = [Point(one.at_seconds, one.value + (1e6 if n % 5 == 2 else 0)) for n, one in enumerate(line)]
    assert slope_per_second(spiky) == pytest.approx(0.25, rel=0.1)


def test_the_slope_of_one_moment_is_none():
    assert slope_per_second([Point(7, 1)]) == 0
    assert slope_per_second([Point(7, 1), Point(7, 5)]) == 0


def test_noise_about_a_level_is_flat_and_a_creep_beneath_the_same_noise_is_not():
    noise = random.Random(8)  # noqa: S311 (a fixed sequence is what is wanted)
    wobble = {t: noise.uniform(-2, 2) * MEBIBYTE for t in HOUR}
    limit = Rise(1 * MEBIBYTE)
    assert faults("bytes", lambda t: 40 * MEBIBYTE + wobble[t], limit) == ()
    (said,) = faults("bytes", lambda t: 40 * MEBIBYTE + wobble[t] + t / 3600 * 3 * MEBIBYTE, limit)
    assert said.startswith("bytes of agent rises by ")
    assert said.endswith("in 50 min; the limit is rise 1,048,576.")


def test_what_fills_during_the_warm_up_is_no_rise():
    assert faults("bytes", lambda t: min(t, WARM_UP) * 1e6, Rise(1)) == ()


@pytest.mark.parametrize("since", [700, 2000, 3500])
def test_one_thread_that_stays_is_told_whenever_it_comes(since):
    assert faults("threads", lambda _: 5, Spread(0)) == ()
    assert faults("threads", lambda t: 5 + (t > since), Spread(0)) == (
        "threads of agent is from 5 to 6; the limit is spread 0.",
    )


def test_a_counter_of_errors_is_judged_from_the_first_reading_on():
    assert faults("errors_total", lambda _: 4, Increase()) == ()
    assert faults("errors_total", lambda t: 4 + (t > 30), Increase()) == (
        "errors_total of agent counts 1 in 60 min; the limit is 0.",
    )


def test_a_counter_that_appears_late_counts_from_zero():
    series = [Reading(t, "agent", {"errors_total": 2.0} if t > 3000 else {}) for t in HOUR]
    (verdict,) = judge(series, lambda _: (Increase(),), WARM_UP)
    assert (verdict.start, verdict.end) == (0, 2)
    assert verdict.faults == ("errors_total of agent counts 2 in 60 min; the limit is 0.",)


def test_a_rate_is_bounded_by_the_minute():
    assert faults("log_lines", lambda t: 9 + 2 * t / 60, Increase(most=20, per_minute=2)) == ()
    assert faults("log_lines", lambda t: 9 + 3 * t / 60, Increase(most=20, per_minute=2)) == (
        "log_lines of agent counts 180 in 60 min; the limit is 20 + 2 a minute.",
    )


def test_a_state_that_must_hold_is_told_with_the_moment_it_did_not():
    assert faults("up", lambda _: 1, Always(1)) == ()
    assert faults("up", lambda t: t != 120, Always(1)) == ("up of agent is 0 at 120 s; the limit is always 1.",)


def test_containers_are_judged_apart_and_each_is_named():
    both = [*readings("threads", lambda _: 5), *readings("threads", lambda t: t, container="operator")]
    verdicts = judge(both, lambda _: (Spread(0),), WARM_UP)
    assert [(one.container, bool(one.faults)) for one in verdicts] == [("agent", False), ("operator", True)]
    assert "threads of operator" in verdicts[1].faults[0]


def test_a_run_that_ends_in_its_warm_up_tells_nothing():
    with pytest.raises(ValueError, match=r"agent has no two readings after a warm-up of 600 s: run longer\."):
        judge(readings("threads", lambda _: 5, at=[0.0, 15.0, 615.0]), lambda _: (), WARM_UP)


@pytest.mark.parametrize(
    "figure",
    [
        'sockethealth_agent_api_errors_total{status="0"}',
        'sockethealth_operator_api_errors_total{status="500"}',
        'sockethealth_operator_handler_errors_total{kind="Pod"}',
        'sockethealth_sysctl_writes_total{result="failed"}',
        "sockethealth_agent_some_later_counter_total",
        "restarts",
        "log_warnings",
    ],
)
def test_errors_have_a_budget_of_zero(figure):
    assert Limits(1).of(figure) == (Increase(),)


def test_work_and_what_churn_must_cause_has_none():
    for figure in (*WORK, *BUDGET, 'sockethealth_agent_writes_total{reason="raised"}'):
        assert Limits(1).of(figure) == ()


def test_every_allowance_is_for_a_counter_that_there_is():
    counters = {one.name for one in SERIES if one.kind == "counter"}
    assert {sample.partition("{")[0] for sample in BUDGET} | WORK <= counters


def test_the_table_has_every_figure_and_says_what_is_wrong(tmp_path):
    series = readings("anonymous_bytes", lambda t: 32 * MEBIBYTE + t * MEBIBYTE / 60)
    verdicts = judge(series, Limits(MEBIBYTE).of, WARM_UP)
    record.write_readings(tmp_path, series, ["agent: something"])
    record.write_verdicts(tmp_path, verdicts)
    (_, row) = (tmp_path / "table.txt").read_text().splitlines()
    assert row.split()[:6] == ["agent", "anonymous_bytes", "32.00", "92.00", "92.00", "60.00"]
    assert "anonymous_bytes of agent rises by 52,428,800 in 50 min" in row
    lines = (tmp_path / "readings.csv").read_text().splitlines()
    assert lines[:2] == ["at_seconds,container,figure,value", "0.0,agent,anonymous_bytes,33554432.0"]
    assert len(lines) == 1 + len(HOUR)
    assert (tmp_path / "warnings.txt").read_text() == "agent: something\n"
