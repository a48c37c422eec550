"""Following the two kinds of which there are many: one object a pod, one a node.

kopf keeps every object it sees and starts a task for each that changes, which for ten thousand of them costs seconds
and some 200 MiB; and it says neither when its first list is complete nor what was deleted meanwhile. Here an object
goes straight from the page of a list, or the line of a watch, to those who take it in, and nothing of it is kept. The
order of things is that of every client of the API: a paged list, then a watch from its version, carried on by events
and bookmarks; a version that is too old means listing again (kubernetes.io/docs/reference/using-api/api-concepts,
"Efficient detection of changes").
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from sockethealth_core.backoff import backoff_seconds
from sockethealth_operator.api import (
    UNREADABLE,
    Api,
    ApiError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnreachableError,
)
from sockethealth_operator.expiring import Once
from sockethealth_operator.intake import Intake
from sockethealth_operator.objects import ResourceType, key_of

_log = logging.getLogger(__name__)

_LAST_PAUSE_SECONDS: Final = 5.0
_GONE: Final = 410
_BREATH: Final = 25
"""Objects taken in at most before others have their turn, such as probes: a page or a chunk can hold hundreds."""


class Watching:
    """A list and a watch of one kind, for as long as :meth:`run` runs.

    Args:
        api: the cluster.
        resource: the kind.
        intake: takes in each object, and is told which are gone.
        clock: seconds that only go forward.

    Attributes:
        synced: set once the first list has been taken in.
    """

    def __init__(self, api: Api, resource: ResourceType, intake: Intake, clock: Callable[[], float]) -> None:
        self._api = api
        self._resource = resource
        self._intake = intake
        self._once = Once(clock)
        self._version = ""
        self._failures = 0
        self._taken = 0
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                await self._follow()
                # A watch that ends without a word, not even a bookmark, must not be asked for in a tight loop.
                pause = _pause_seconds(self._failures, 0.0) if self._failures else 0.0
                self._failures += 1
            except ApiError as error:
                self._failures += 1
                pause = _pause_seconds(self._failures, error.retry_after_seconds)
                self._tell(error)
                if isinstance(error, NotFoundError | InvalidError):
                    self._version = ""  # too old (410), not one at all (400), or the kind is gone: the list tells
                elif self._version:
                    self._intake.watch_broke(self._resource)
            await asyncio.sleep(pause)

    async def _list(self) -> str:
        # Nothing else tells of this kind meanwhile, so what was known before and is not in the list is gone.
        before = self._intake.seen(self._resource)
        version = ""
        async with aclosing(self._api.pages(self._resource)) as pages:
            async for page in pages:
                version = version or page["metadata"]["resourceVersion"]
                for raw in page.get("items") or []:
                    await self._take("ADDED", raw | self._type)
                    key = key_of(self._resource.kind, raw)
                    if before.get(key) == raw["metadata"]["uid"]:
                        del before[key]
        for key, uid in before.items():
            self._intake.gone(self._resource, key, uid)
        if self.synced.is_set():
            self._intake.relisted(self._resource)
        self.synced.set()
        return version

    @property
    def _type(self) -> dict[str, str]:
        # Items of a list carry no type where the server leaves it to the list's own.
        return {"apiVersion": self._resource.api_version, "kind": self._resource.kind}

    async def _follow(self) -> None:
        async with aclosing(self._api.watch(self._resource, self._version)) as changes:
            async for change, raw in changes:
                self._failures = 0
                if change == UNREADABLE:
                    self._intake.unreadable(self._resource, "A watch sent a line that is no change of an object")
                    continue
                if change != "BOOKMARK":
                    await self._take(change, raw)
                self._version = raw["metadata"]["resourceVersion"]

    async def _take(self, change: str, raw: Mapping[str, Any]) -> None:
        self._intake.event(self._resource, change, raw)
        self._taken += 1
        if self._taken % _BREATH == 0:
            await asyncio.sleep(0)

    def _tell(self, error: ApiError) -> None:
        if isinstance(error, UnreachableError) or error.status == _GONE:
            return  # said once by the Api, for all; and to list again is what a version that is too old means
        if isinstance(error, ForbiddenError):
            if self._once.first("forbidden"):
                _log.error("May not list or watch %s (%s): grant both on it.", self._resource, error)
        elif self._once.first(error.status):
            _log.warning("%s cannot be followed, which is tried again until it can: %s", self._resource, error)


def _pause_seconds(failures: int, retry_after_seconds: float) -> float:
    return backoff_seconds(failures, retry_after_seconds, random.random(), _LAST_PAUSE_SECONDS)  # noqa: S311 (spreads load)
