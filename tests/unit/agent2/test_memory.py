"""What the agent keeps between sweeps: counters, first sightings, ports that listened, holders, the write budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_agent.budget import WriteBudget
from sockethealth_agent.conntrack import parse_insert_failed
from sockethealth_agent.folding import CloseWaitFacts, TrackedSocket
from sockethealth_agent.netns import NetnsId
from sockethealth_agent.procfs import NetCounters, ProcLayoutError
from sockethealth_agent.rates import Reading, rates
from sockethealth_agent.reading import LONGEST_UNDUMPED_SECONDS, Memory, may_have_changed
from sockethealth_agent.sightings import Ages, first_sightings
from sockethealth_core.resources import Rates

ONE, OTHER = NetnsId(4, 1), NetnsId(4, 2)


def reading(at, opens=0, overflows=0, netns=ONE):
    return Reading(netns, at, NetCounters({"ActiveOpens": opens}, {"ListenOverflows": overflows}))


def test_a_rate_is_what_came_in_between():
    found = rates(reading(100.0, 50, 4), reading(110.0, 150, 9))
    assert (found.active_opens, found.listen_overflows) == (10.0, 0.5)


def test_the_first_reading_has_no_rate():
    assert rates(None, reading(100.0, 5_000_000)) == Rates()


def test_a_new_namespace_of_the_pod_has_no_spike():
    assert rates(reading(100.0, 10), reading(110.0, 5_000_000, netns=OTHER)) == Rates()


def test_a_counter_that_was_reset_is_still():
    assert rates(reading(100.0, 5_000), reading(110.0, 3)).active_opens == 0.0


def test_missed_sweeps_are_averaged():
    assert rates(reading(100.0, 0), reading(400.0, 3000)).active_opens == 10.0


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 2**40), st.integers(0, 2**40))
def test_no_rate_is_negative(then, now, before, after):
    assert rates(reading(then, before), reading(now, after)).active_opens >= 0.0


def tracked(cookie, at_least_ms=0):
    return TrackedSocket(cookie, cookie, at_least_ms)


def ages(sockets, seen, now):
    seconds = [one.at_least_ms // 1000 for one in sockets]
    found = CloseWaitFacts(
        count=len(sockets),
        oldest_ms=max((one.at_least_ms for one in sockets), default=0),
        ages_seconds=tuple((age, seconds.count(age)) for age in sorted(set(seconds))),
        tracked=tuple(sockets),
    )
    return Ages(found, seen, now)


def test_a_sighting_lasts_as_long_as_its_socket():
    first = first_sightings({}, [tracked(1), tracked(2)], 100.0)
    assert first_sightings(first, [tracked(2), tracked(3)], 115.0) == {2: 100.0, 3: 115.0}


def test_sockets_seen_for_a_minute_are_a_minute_old_though_the_kernel_says_less():
    sockets = [tracked(1, 2000), tracked(2, 90_000)]
    found = ages(sockets, {1: 100.0, 2: 155.0}, 160.0)
    assert found.older_than(60) == 2
    assert found.older_than(61) == 1
    assert found.oldest_seconds == 90.0


def test_sockets_beyond_those_followed_count_by_the_kernels_bound():
    found = CloseWaitFacts(count=5, oldest_ms=70_000, ages_seconds=((0, 2), (70, 3)), tracked=(tracked(1, 70_000),))
    assert Ages(found, {1: 0.0}, 0.0).older_than(60) == 3


@given(
    st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 300)), max_size=20),
    st.integers(0, 300),
)
def test_each_socket_counts_once(sockets, age):
    now = 1000.0
    seen = {index: now - since for index, (_, since) in enumerate(sockets)}
    found = ages([tracked(index, at_least) for index, (at_least, _) in enumerate(sockets)], seen, now)
    assert found.older_than(age) <= len(sockets)
    assert found.older_than(0) == len(sockets)
    assert found.older_than(age) >= found.older_than(age + 1)


def test_a_port_counts_as_listening_for_a_minute_after_it_stopped():
    memory = Memory()
    assert memory.listening([80, 443], 0.0) == {80, 443}
    assert memory.listening([443], 600.0) == {80, 443}
    assert memory.listening([443], 659.0) == {80, 443}
    assert memory.listening([443], 660.0) == {443}
    assert memory.listening([80, 443], 661.0) == {80, 443}


def test_a_quiet_namespace_is_not_read_again_until_something_moves():
    memory = Memory(moved=(1, 2), dumped_at=100.0)
    assert may_have_changed(memory, (1, 2), 101.0), "nothing is kept"
    memory.kept = object()
    assert not may_have_changed(memory, (1, 2), 101.0)
    assert may_have_changed(memory, (1, 3), 101.0)
    assert may_have_changed(memory, (1, 2), 100.0 + LONGEST_UNDUMPED_SECONDS)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_no_more_is_written_than_the_budget_allows(pauses):
    budget = WriteBudget(per_second=2.0, burst=5.0)
    now, taken = 1000.0, 0
    for pause in pauses:
        now += pause
        taken += budget.take(now) == 0.0
    assert taken <= 5 + 2 * (now - 1000.0) + 1e-6


def test_the_budget_says_when_to_come_back():
    budget = WriteBudget(per_second=2.0, burst=1.0)
    assert budget.take(10.0) == 0.0
    assert budget.take(10.0) == 0.5
    assert budget.take(10.5) == 0.0


def test_failed_inserts_are_added_up_over_all_cpus():
    text = "entries  found insert_failed drop\n04b6  00 0a 00\n04b6  00 10 00\n"
    assert parse_insert_failed(text) == 26
    assert parse_insert_failed("entries found\n1 2\n") is None
    assert parse_insert_failed("") is None
    with pytest.raises(ProcLayoutError):
        parse_insert_failed("insert_failed\nmany\n")
