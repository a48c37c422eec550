"""Running kopf for as long as the operator runs, although kopf takes some faults for the end of everything.

kopf asks again after no answer and after 403, 429 and 5xx. Any other fault of one watch ends all of its tasks: 404 for
a kind whose CustomResourceDefinition was removed, or an error that is not 410 within a watch
(kopf/_cogs/clients/watching.py). Then it is begun anew here, while leadership, probes and all other work go on.
"""

import asyncio
import logging
import platform
import random
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, cast

import kopf

from sockethealth_core.backoff import backoff_seconds
from sockethealth_operator import handlers
from sockethealth_operator.expiring import Once

_log = logging.getLogger(__name__)

_LAST_PAUSE_SECONDS: Final = 60.0
_WELL_SECONDS: Final = 120.0
"""Having run for so long, kopf counts as well: its next end is told, and the pauses begin with the shortest."""

_CANCEL_AGAIN_SECONDS: Final = 0.5


class Observing:
    """kopf, begun anew whenever it ends.

    Args:
        registry: what it watches, and with which credentials.
        definitions: waits until the kinds are there that it watches.
        missed: told that changes may have been missed, before kopf is begun anew.
        take_signals: has the signals that end the process go where they belong: kopf takes them for itself.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        registry: kopf.OperatorRegistry,
        definitions: Callable[[], Awaitable[None]],
        missed: Callable[[], None],
        take_signals: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._definitions = definitions
        self._missed = missed
        self._take_signals = take_signals
        self._clock = clock
        self._once = Once(clock)

    async def run(self) -> None:
        """Observe for ever."""
        failures = 0
        while True:
            began = self._clock()
            error = await self._until_its_end()
            ended = self._clock()
            if ended - began > _WELL_SECONDS:
                failures = 0
            failures += 1
            tell = self._once.first(type(error).__name__) or failures == 1
            if tell:
                _log.warning(
                    "kopf has stopped watching, and is begun anew (%s: %s). What is known stays, and work goes on.",
                    type(error).__name__,
                    error,
                )
            _log.debug("Why kopf has stopped:", exc_info=error)
            await asyncio.sleep(backoff_seconds(failures, 0.0, random.random(), _LAST_PAUSE_SECONDS))  # noqa: S311 (spreads load)
            await self._definitions()
            if tell:
                _log.info("kopf watches again after %.0f s.", self._clock() - ended)
            self._missed()

    async def _until_its_end(self) -> BaseException | None:
        # Not kopf.operator(): at its end that cancels every task of the loop that is younger than its own.
        tasks = await kopf.spawn_tasks(
            # kopf would ask for the name of the user, and a container's user need not have one.
            identity=cast("Any", platform.node()),
            registry=self._registry,
            settings=handlers.settings(),
            standalone=True,
            clusterwide=True,
        )
        self._take_signals()
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _stop(tasks)
        return next((task.exception() for task in tasks if not task.cancelled() and task.exception()), None)


async def _stop(tasks: Collection[asyncio.Task[Any]]) -> None:
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        # Where a request is under way kopf takes a cancellation for the end of that alone, and asks again.
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_SECONDS)
