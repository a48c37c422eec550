import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_builders import facts
from sockethealth_core import crossings as crossing
from sockethealth_core.bands import SETTLED, SETTLED_SWEEPS, History, reason_to_write
from sockethealth_core.crossings import RISE_SWEEPS
from sockethealth_core.detectors import DETECTORS
from sockethealth_core.resources import Listener, Owner, Watchpoint

LEAK = Watchpoint(detector="CloseWaitLeak", values=[10, 50], parameters={"minAge": "60s"})
PORTS = Watchpoint(detector="EphemeralPortExhaustion", values=[40, 50])
SWEEP_SECONDS = 15
counts = st.integers(0, 100_000)


def crossings(written, current, watchpoints):
    by = crossing.gauges(watchpoints)
    return crossing.crossings(crossing.read(written, by), crossing.read(current, by), by)


def material(written, current, watchpoints, steps=1):
    """Why facts are written of which nothing was known before."""
    crossed = () if written is None else crossings(written, current, watchpoints)
    return reason_to_write(written, current, crossed, History(), steps)


def test_what_was_never_written_is_written():
    assert material(None, facts(), []) == "first"


def test_the_same_facts_are_never_written_again():
    one = facts(established=12, close_wait=60, older=60, time_wait=700, used=900)
    assert material(one, one, [LEAK, PORTS]) is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"established": 10}, {"established": 30}, None),
        ({"established": 10}, {"established": 31}, "established"),
        ({"established": 1000}, {"established": 1250}, None),
        ({"established": 1000}, {"established": 1251}, "established"),
        ({"established": 1000}, {"established": 749}, "established"),
        ({"close_wait": 0}, {"close_wait": 5}, None),
        ({"close_wait": 0}, {"close_wait": 6}, "close_wait"),
        ({"time_wait": 0}, {"time_wait": 20}, None),
        ({"time_wait": 0}, {"time_wait": 21}, "time_wait"),
        ({"close_wait": 200}, {"close_wait": 200, "older": 200}, "CLOSE_WAIT age"),
    ],
)
def test_a_count_is_written_when_it_leaves_its_band(before, after, expected):
    assert material(facts(**before), facts(**after), []) == expected


def test_ports_are_written_by_five_points():
    before = facts(used=2823)
    assert material(before, facts(used=2823 + 1411), []) is None
    assert material(before, facts(used=2823 + 1440), []) == "ports"


def test_running_out_of_ports_is_written_when_it_begins_and_ends():
    calm, running_out = facts(used=2000), facts(used=2000, seconds_to_exhaustion=50.0)
    assert material(calm, running_out, []) == "secondsToExhaustion"
    assert material(running_out, calm, []) == "secondsToExhaustion"
    sooner = facts(used=2000, seconds_to_exhaustion=10.0)
    assert material(running_out, sooner, []) is None


def test_time_going_by_is_no_change():
    before = facts(close_wait=20, older=20, oldest=90.0)
    later = facts(close_wait=20, older=20, oldest=900.0, observed="2026-01-01T01:00:00Z")
    assert material(before, later, [LEAK]) is None


def test_settings_are_written_at_once():
    assert material(facts(), facts(sysctls={"net.ipv4.tcp_tw_reuse": "1"}), []) == "sysctls"


def test_an_accept_queue_that_overflows_is_written():
    waiting = facts(listeners=[Listener(address="::", port=80, queue=4, backlog=4)])
    over = facts(listeners=[Listener(address="::", port=80, queue=5, backlog=4)])
    assert material(waiting, over, []) == "accept queue"
    assert material(facts(), waiting, []) is None


def _held_by(*owners):
    found = facts(close_wait=100)
    held = [Owner(process=process, pid=pid, count=50) for process, pid in owners]
    return msgspec.structs.replace(found, close_wait=msgspec.structs.replace(found.close_wait, owners=held))


def test_another_holder_of_many_close_waits_is_written():
    assert material(_held_by(("java", 1)), _held_by(("python", 1)), []) == "CLOSE_WAIT owner"


def test_the_process_that_followed_the_one_that_was_told_is_written():
    assert material(_held_by(("java", 1)), _held_by(("java", 2)), []) == "CLOSE_WAIT owner"


def test_of_two_workers_the_other_one_holding_most_is_not_written():
    assert material(_held_by(("java", 1), ("java", 2)), _held_by(("java", 2), ("java", 1)), []) is None


def test_a_small_step_over_a_watchpoint_is_written():
    assert material(facts(close_wait=10, older=9), facts(close_wait=10, older=10), [LEAK]) == "crossed CloseWaitLeak 10"


def test_ageing_alone_crosses_a_watchpoint():
    young, old = facts(close_wait=200, older=0), facts(close_wait=200, older=200)
    assert material(young, old, [LEAK]) == "crossed CloseWaitLeak 10"


@pytest.mark.parametrize(
    "watchpoint",
    [
        Watchpoint(detector="OfALaterVersion", values=[1]),
        Watchpoint(detector="CloseWaitLeak", values=[1], parameters={"minAge": "soon"}),
        Watchpoint(detector="CloseWaitLeak", values=[1], parameters={"other": "60s"}),
    ],
)
def test_a_watchpoint_that_means_nothing_here_is_passed_over(watchpoint):
    assert material(facts(), facts(close_wait=2, older=2), [watchpoint]) is None


@given(
    before=st.tuples(counts, counts, counts),
    after=st.tuples(counts, counts, counts),
    values=st.lists(st.integers(0, 100_000), max_size=5),
)
def test_no_band_hides_a_crossing(before, after, values):
    def of(numbers):
        close_wait, older, established = numbers
        return facts(close_wait=close_wait, older=min(older, close_wait), established=established)

    one, other = of(before), of(after)
    watchpoint = Watchpoint(detector="CloseWaitLeak", values=values, parameters={"minAge": "60s"})
    measure = DETECTORS["CloseWaitLeak"].measure
    low, high = sorted(measure(found, watchpoint.parameters).value for found in (one, other))
    crossed = any(low < value <= high for value in values)
    assert (material(one, other, [watchpoint]) or "").startswith("crossed") == crossed


@given(written=counts, current=counts)
def test_facts_are_as_good_as_their_band(written, current):
    """What is not written differs by no more than a quarter and the floor."""
    if material(facts(established=written), facts(established=current), []) is None:
        assert abs(written - current) <= max(20, written / 4)


def sweeps(written, numbers):
    """Observe a pod sweep by sweep; what is written, and why."""
    history, reasons = History(), []
    for number in numbers:
        current = facts(established=number)
        history = history.observe(current, (), 0.0)
        reason = reason_to_write(written, current, (), history)
        if reason is not None:
            written = current
            reasons.append(reason)
    return reasons, written


def test_a_small_difference_is_written_once_it_has_stayed():
    written = facts(established=10)
    assert sweeps(written, [12] * (SETTLED_SWEEPS - 1)) == ([], written)
    assert sweeps(written, [12] * 20) == ([SETTLED], facts(established=12))


def test_a_flickering_number_is_never_written():
    assert sweeps(facts(established=10), [11, 12] * 50)[0] == []


def test_a_rise_that_is_damped_takes_no_other_number_with_it():
    """Else each write of a band would write the rise too, and its fall right after."""
    low, high = facts(close_wait=40, older=40), facts(close_wait=60, older=60, established=5000)
    history = History()
    for _ in range(3):
        history = history.wrote(crossings(low, high, [LEAK]), 0.0).wrote(crossings(high, low, [LEAK]), 0.0)
    found = []
    for _ in range(RISE_SWEEPS[3]):
        crossed = crossings(low, high, [LEAK])
        history = history.observe(high, crossed, 0.0)
        found.append(reason_to_write(low, high, crossed, history))
    assert found == [None, None, "crossed CloseWaitLeak 50"]


def test_a_crossing_of_an_info_rule_does_not_settle_before_its_time():
    watched = Watchpoint(detector="OutboundTimeWait", values=[1000], severity="Info")
    low, high = facts(used=990, time_wait=990), facts(used=1010, time_wait=1010)
    history, found = History(), []
    for _ in range(6):
        crossed = crossings(low, high, [watched])
        history = history.observe(high, crossed, 0.0)
        found.append(reason_to_write(low, high, crossed, history))
    assert found == [None] * 5 + ["crossed OutboundTimeWait 1000"]


@given(steps=st.integers(1, 4), written=counts, current=counts)
def test_a_wider_band_holds_all_that_a_narrower_one_does(steps, written, current):
    before, after = facts(established=written), facts(established=current)
    if material(before, after, [], steps) is None:
        assert material(before, after, [], steps + 1) is None


def test_even_the_widest_band_shows_what_has_trebled_or_gone():
    assert material(facts(established=200), facts(established=600), [], 4) == "established"
    assert material(facts(established=200), facts(established=0), [], 4) == "established"
