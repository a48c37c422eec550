"""The queue: each key once, one worker a key, retries and due times in virtual time."""

import asyncio

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
    queue = WorkQueue(Clock())
    pauses = []
    for _ in range(10):
        queue.add("a")
        take(queue)
        pauses.append(queue.failed("a"))
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    queue.add("a")
    take(queue)
    queue.done("a")
    queue.add("a")
    take(queue)
    assert queue.failed("a") == 0.5, "success must end the count"


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
    queue = WorkQueue(Clock())
    queue.add("a")
    take(queue)
    queue.failed("a")
    queue.add("a")
    take(queue)
    queue.put_back("a")
    assert take(queue) == "a"
    assert queue.failed("a") == 1


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
