"""What is logged of objects whose handling fails: one line for each kind of failure, however many objects it meets."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from sockethealth_operator.api import ApiError
from sockethealth_operator.metrics import Metrics
from sockethealth_operator.objects import Key
from sockethealth_operator.reconcile import Reconciler
from sockethealth_operator.workqueue import WorkQueue
from sockethealth_operator.world import World

PODS = 50
ERRORS = "sockethealth_operator_handler_errors_total"


class Failing(Reconciler):
    """Whatever it is to look at fails; its fault depends on the object."""

    fault = None
    tried = 0

    async def reconcile(self, key):
        self.tried += 1
        raise self.fault(key)


@pytest.fixture
def tell(caplog):
    """What is logged when this happens to each of many pods, twice."""

    async def work(fault):
        clock = SimpleNamespace(now=0.0)
        queue, present = WorkQueue(lambda: clock.now), asyncio.Event()
        present.set()
        api, metrics = SimpleNamespace(present=present), Metrics()
        reconciler = Failing(World(), queue, None, None, api, None, metrics, lambda: clock.now)
        reconciler.fault = fault
        worker = asyncio.create_task(reconciler.work())
        for _ in range(2):
            for number in range(PODS):
                queue.add(Key("SocketHealth", "shop", f"pod-{number}"))
            async with asyncio.timeout(5):
                while reconciler.tried < PODS:  # noqa: ASYNC110 (the worker tells nobody)
                    await asyncio.sleep(0)
            reconciler.tried = 0
            clock.now += 1.0
        worker.cancel()
        count = metrics.registry.get_sample_value(
            "sockethealth_operator_handler_errors_total", {"kind": "SocketHealth"}
        )
        return count, [record for record in caplog.records if record.levelno >= logging.WARNING]

    return lambda fault: asyncio.run(work(fault))


def test_an_api_server_that_refuses_is_told_of_once_with_an_example(tell):
    count, records = tell(lambda key: ApiError(f"etcdserver: no space for {key.name}", 500))
    (record,) = records
    assert count == 2 * PODS, "all are tried, and counted"
    text = record.getMessage()
    assert "SocketHealth shop/pod-0 is tried again in 0.5 s: etcdserver: no space for pod-0." in text
    assert "handler_errors_total" in text


def test_each_kind_of_refusal_is_told_of(tell):
    statuses = {"pod-0": 500, "pod-1": 503}
    _, records = tell(lambda key: ApiError("refused", statuses.get(key.name, 429)))
    assert len(records) == 3


def test_a_fault_of_the_operator_is_told_of_once_for_the_place_it_is_at(tell):
    def fault(key):
        return KeyError(key.name)

    count, records = tell(fault)
    assert count == 2 * PODS
    assert [record.exc_info[0] for record in records] == [KeyError]
