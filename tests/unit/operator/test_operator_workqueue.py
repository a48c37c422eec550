"""The queue: each key once, one worker a key, retries and due times in virtual time."""

import asyncio

import pytest

from sockethealth_operator.expiring import Expiring, Once
from sockethealth_operator.workqueue import WorkQueue


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def take(queue):
    return asyncio.run(asyncio.wait_for(queue.get(), 1))


def test_a_key_that_waits_is_not_queued_twice():
    queue = WorkQueue(Clock())
    for key in "abab":
        queue.add(key)
    assert [take(queue), take(queue), len(queue)] == ["a", "b", 0]


def test_a_key_that_is_worked_on_comes_back_once_afterwards():
    queue = WorkQueue(Clock())
    queue.add("a")
    take(queue)
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0, "two workers had the same key"
    queue.done("a")
    assert [take(queue), len(queue)] == ["a", 0]


def test_a_failed_key_waits_twice_as_long_each_time_up_to_a_minute():
    clock = Clock()
    queue = WorkQueue(clock)
    pauses = []
    for _ in range(10):
        queue.add("a")
        take(queue)
        pauses.append(queue.failed("a"))
        clock.now += pauses[-1]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    queue.add("a")
    take(queue)
    queue.done("a")
    queue.add("a")
    take(queue)
    assert queue.failed("a") == 0.5, "success must end the count"


def test_what_changes_during_its_pause_and_fails_again_waits_no_longer_for_it():
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add("a")
    take(queue)
    queue.failed("a")
    for ahead, left in ((0.1, 0.4), (0.3, 0.1)):
        clock.now += ahead
        queue.add("a")
        take(queue)
        assert queue.failed("a") == pytest.approx(left)
    clock.now += 0.1
    assert queue.release_due() is None
    take(queue)
    assert queue.failed("a") == 1


def test_what_was_deferred_has_not_gone_well():
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add("a")
    take(queue)
    clock.now += queue.failed("a")
    queue.add("a")
    take(queue)
    queue.defer("a")
    queue.done("a")
    take(queue)
    assert queue.failed("a") == 1


def test_what_the_server_asks_for_is_waited_for():
    queue = WorkQueue(Clock())
    queue.add("a")
    take(queue)
    assert queue.failed("a", 7) == 7


def test_a_key_comes_when_it_is_due_and_the_earliest_time_wins():
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add_after("a", 10)
    queue.add_after("a", 5)
    queue.add_after("a", 20)
    queue.add_after("b", 7)
    assert (queue.release_due(), len(queue)) == (5, 0)
    clock.now = 5
    assert (queue.release_due(), take(queue)) == (2, "a")
    queue.done("a")
    clock.now = 100
    assert (queue.release_due(), take(queue), len(queue)) == (None, "b", 0)


def test_the_timer_wakes_for_a_key_that_is_due_earlier():
    async def scenario():
        queue = WorkQueue(asyncio.get_running_loop().time)
        timer = asyncio.create_task(queue.run_timer())
        queue.add_after("late", 3600)
        await asyncio.sleep(0)
        queue.add_after("soon", 0.01)
        got = await asyncio.wait_for(queue.get(), 5)
        timer.cancel()
        return got

    assert asyncio.run(scenario()) == "soon"


def test_a_key_that_is_put_back_keeps_its_count():
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add("a")
    take(queue)
    clock.now += queue.failed("a")
    queue.add("a")
    take(queue)
    queue.put_back("a")
    assert take(queue) == "a"
    assert queue.failed("a") == 1


def test_what_can_wait_is_taken_when_nothing_else_is_ready():
    queue = WorkQueue(Clock())
    queue.add("well")
    queue.add("ill")
    assert (take(queue), queue.deferred("well"), queue.pressed) == ("well", False, True)
    queue.defer("well")
    assert len(queue) == 2
    queue.done("well")
    assert (take(queue), queue.pressed, len(queue)) == ("ill", False, 1)
    assert (take(queue), queue.deferred("well"), len(queue)) == ("well", True, 0)


def test_what_is_worked_on_while_it_is_deferred_is_not_taken_by_another_worker():
    async def scenario():
        queue = WorkQueue(Clock())
        queue.add("a")
        await queue.get()
        queue.defer("a")
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.done("a")
        return await asyncio.wait_for(waiting, 1)

    assert asyncio.run(scenario()) == "a"


def test_a_change_brings_forward_what_was_deferred_and_it_is_there_once():
    queue = WorkQueue(Clock())
    for key in "abc":
        queue.add(key)
    for key in "ab":
        assert take(queue) == key
        queue.defer(key)
        queue.done(key)
    queue.add("b")
    assert len(queue) == 3
    assert [take(queue), take(queue), take(queue), len(queue)] == ["c", "b", "a", 0]


def test_what_can_wait_has_its_turn_although_something_else_is_always_ready():
    queue = WorkQueue(Clock())
    queue.add("well")
    queue.add("first")
    take(queue)
    queue.defer("well")
    queue.done("well")
    taken = 0
    while (key := take(queue)) != "well":
        queue.add(taken)
        queue.done(key)
        taken += 1
        assert taken < 20, "it starves"


def test_what_was_deferred_is_put_back_to_where_it_was():
    queue = WorkQueue(Clock())
    queue.add("a")
    take(queue)
    queue.defer("a")
    queue.done("a")
    assert take(queue) == "a"
    queue.put_back("a")
    queue.add("b")
    assert [take(queue), take(queue)] == ["b", "a"]


def test_times_that_are_brought_forward_again_and_again_take_no_room():
    queue = WorkQueue(Clock())
    for seconds in range(10_000, 0, -1):
        queue.add_after("a", seconds)
    assert len(queue._heap) < 100
    assert queue.release_due() == 1


def test_a_key_that_fails_lets_others_pass():
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add("broken")
    queue.add("fine")
    take(queue)
    queue.failed("broken")
    assert (take(queue), len(queue)) == ("fine", 0)
    queue.release_due()
    assert len(queue) == 0, "it is back before its pause is over"
    clock.now = 0.5
    queue.release_due()
    assert take(queue) == "broken"


def test_a_memory_expires_and_is_bounded():
    clock = Clock()
    memory = Expiring(clock, 10, 2)
    for key in "abc":
        memory.put(key, key.upper())
    assert [memory.get(key) for key in "abc"] == [None, "B", "C"]
    clock.now = 10
    assert memory.get("c") is None


def test_a_thing_is_said_once_in_a_while():
    clock = Clock()
    once = Once(clock, seconds=60)
    assert [once.first("a", 1), once.first("a", 1), once.first("a", 2)] == [True, False, True]
    clock.now = 61
    assert once.first("a", 1)


def test_closed_it_drops_what_it_has_and_takes_nothing_in():
    clock = Clock()
    queue = WorkQueue(clock)
    for key in "abc":
        queue.add(key)
    take(queue)
    queue.defer("a")
    queue.add_after("d", 5)
    queue.close()
    clock.now = 10
    queue.add("e")
    queue.add_after("f", 0)
    assert (queue.release_due(), len(queue), queue.longest_wait_seconds()) == (None, 0, 0)
    queue.open()
    queue.add("a")
    assert take(queue) == "a", "a key that was worked on when it was closed can be worked on again"
