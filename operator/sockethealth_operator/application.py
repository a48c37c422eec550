"""The operator as a whole: its parts put together, started in order, stopped together."""

import asyncio
import gc
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final

from sockethealth_operator import handlers, probes
from sockethealth_operator.api import Api
from sockethealth_operator.election import Candidate
from sockethealth_operator.expiring import Once
from sockethealth_operator.intake import Intake
from sockethealth_operator.leading import Leadership
from sockethealth_operator.metrics import Metrics
from sockethealth_operator.objects import MANY, Key
from sockethealth_operator.observing import Observing
from sockethealth_operator.reconcile import Reconciler
from sockethealth_operator.resync import Resync
from sockethealth_operator.samples import Standing
from sockethealth_operator.settings import Settings
from sockethealth_operator.targets import Targets
from sockethealth_operator.watching import Watching
from sockethealth_operator.workloads import Workloads
from sockethealth_operator.workqueue import WorkQueue
from sockethealth_operator.world import World
from sockethealth_operator.writer import Writer

_log = logging.getLogger(__name__)

_END_SECONDS: Final = 20.0
"""Whatever hangs at the end, the process is over by then: before kubelet's 30 s."""
_COLLECT_AFTER: Final = (5_000, 20, 20)
"""Thresholds of gc.set_threshold. A page of a list is some 75,000 containers, which die by their reference counts; but
each probe, and each change that kopf takes in, leaves some sixty in cycles: 5,000 of them are less than 1 MB."""
_COLLECT_AFTER_AT_FIRST: Final = (2_000_000, 20, 20)
"""Until everything there is has been seen: nearly all of it stays, and to search it again and again finds nothing."""


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ApiError: when there are no credentials.
        Exception: when a part fails for good; all others are stopped first.
    """
    async with await Api.connect(settings.kubeconfig) as api:
        await _run(settings, api)


async def _run(settings: Settings, api: Api) -> None:
    clock = asyncio.get_running_loop().time
    gc.set_threshold(*_COLLECT_AFTER_AT_FIRST)
    world, targets, metrics = World(), Targets(), Metrics()
    queue: WorkQueue[Key] = WorkQueue(clock)
    queue.close()
    intake = Intake(world, targets, queue, metrics, time.time)
    leadership = Leadership(api, settings.lease, _candidate(settings), _real_time, time.time)
    writer = Writer(api, metrics, settings.instance, clock, leadership.require)
    following = [Watching(api, resource, intake, clock) for resource in MANY]
    resync = Resync(api, intake, world, settings.workload_kinds, following, clock)
    ready, stopping = asyncio.Event(), asyncio.Event()

    def works() -> bool:
        return leadership.leading and not queue.closed

    metrics.registry.register(Standing(world, queue, api.present.is_set, works, time.time))
    api.on_answer = metrics.answered
    api.on_error = metrics.api_error
    api.on_away = lambda: world.away(time.time())

    def returned() -> None:
        world.back(time.time())
        intake.listed_again.set()

    api.on_return = returned
    _quieten_kopf(clock)

    take_signals = partial(_take_signals, stopping)
    registry = handlers.registry(intake, api)
    observing = Observing(registry, resync.definitions, intake.listed_again.set, take_signals, clock)

    async def begin() -> None:
        await resync.first()
        _log.info(
            "Ready: %d SocketHealths and NodeSocketHealths, %d policies.", len(world.tracked), len(world.policies)
        )
        # What is known stays, and has no cycles: to search it for some stops everything for tenths of a second.
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
        ready.set()

    async def work() -> None:
        # Made anew each time, as nothing that it remembers holds once another replica has led.
        reconciler = Reconciler(world, queue, targets, Workloads(api, clock), api, writer, metrics, time.time)
        await _work(reconciler, settings.workers, queue, intake, resync)

    async def once_ready(part: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await ready.wait()
        await part()

    async def follow() -> None:
        await resync.definitions()
        async with asyncio.TaskGroup() as group:
            for watching in following:
                group.create_task(watching.run())
            group.create_task(observing.run())
            group.create_task(begin())

    _take_signals(stopping)
    async with asyncio.TaskGroup() as group:
        background = [
            group.create_task(
                probes.serve(settings.health_address, settings.metrics_address, ready.is_set, metrics.registry)
            ),
            group.create_task(resync.watch_connection()),
            group.create_task(follow()),
            group.create_task(once_ready(lambda: resync.run(settings.resync_seconds))),
        ]
        # Only then: who takes the Lease from another must be able to do its work.
        leading = group.create_task(once_ready(lambda: leadership.run(work)))
        await stopping.wait()
        await _end(leading, background)


def _take_signals(stopping: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)


async def _end(leading: asyncio.Task[None], background: Iterable[asyncio.Task[None]]) -> None:
    asyncio.get_running_loop().call_later(_END_SECONDS, os.kill, os.getpid(), signal.SIGKILL)
    # First of all, so that another replica can have the Lease while the rest ends.
    leading.cancel()
    await asyncio.wait({leading})
    for task in background:
        task.cancel()


async def _work(reconciler: Reconciler, workers: int, queue: WorkQueue[Key], intake: Intake, resync: Resync) -> None:
    """What only the replica that leads does, until it is cancelled."""
    await resync.caught_up()
    intake.start_over()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(queue.run_timer())
            for _ in range(workers):
                group.create_task(reconciler.work())
            await resync.settled()
            await resync.adopt()
    finally:
        queue.close()


def _quieten_kopf(clock: Callable[[], float]) -> None:
    for handler in logging.getLogger().handlers:
        handler.addFilter(handlers.QuietKopf(Once(clock)))
    logging.getLogger("kopf").setLevel(logging.WARNING)


def _candidate(settings: Settings) -> Candidate:
    # A container that is started again has the name of the one before, which may not be at its end yet.
    return Candidate(f"{settings.instance}_{secrets.token_hex(4)}", settings.lease_terms)


def _real_time() -> float:
    """Seconds since the machine was booted, those included in which it slept: others do not sleep with it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
