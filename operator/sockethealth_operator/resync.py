"""Keeping what is known equal to the cluster: before work begins, after an outage, and every few minutes.

kopf lists and watches, but does not say when its first list is complete, nor what was deleted while a watch was
interrupted. Lists of metadata alone tell both. Kinds that :mod:`watching` follows need neither.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from sockethealth_operator import annotations
from sockethealth_operator.api import Api, ApiError, ForbiddenError, NotFoundError
from sockethealth_operator.expiring import Once
from sockethealth_operator.intake import Intake
from sockethealth_operator.objects import (
    FEW,
    MANY,
    OURS,
    POD,
    PROFILE,
    WORKLOADS,
    Key,
    ResourceType,
    key_of,
    ref_of,
    version_of,
)
from sockethealth_operator.watching import Watching
from sockethealth_operator.workloads import controller_of
from sockethealth_operator.world import World

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 2.0
_RELIST_SECONDS: Final = 5.0
_PING_SECONDS: Final = 10.0
_PING_AWAY_SECONDS: Final = 1.0
_CATCH_UP_SECONDS: Final = 0.05


class Resync:
    """Compares the cluster with what is known.

    Args:
        api: the cluster.
        intake: what is known, and who is told of differences.
        world: what is tracked.
        extra_kinds: kinds that may carry annotations beside those of Kubernetes.
        watching: who follows the kinds that kopf does not.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        api: Api,
        intake: Intake,
        world: World,
        extra_kinds: Sequence[ResourceType],
        watching: Sequence[Watching],
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._intake = intake
        self._world = world
        self._kinds = (*WORKLOADS, POD, *extra_kinds)
        self._watching = watching
        self._once = Once(clock)

    async def definitions(self) -> None:
        """Wait until the operator's own kinds are served."""
        while True:
            try:
                served = {kind.kind for kind in await self._api.served(OURS["SocketHealth"].api_version)}
            except ApiError as error:
                if self._api.present.is_set() and self._once.first("served", error.status):
                    _log.warning("The kinds that are served cannot be asked for, and will be again: %s", error)
                served = set()
            missing = sorted(OURS.keys() - served)
            if not missing:
                return
            if self._once.first("definitions", *missing):
                _log.warning(
                    "The CustomResourceDefinitions of %s are missing: install them, or run sockethealth-operator "
                    "apply-crds. Waiting for them.",
                    ", ".join(missing),
                )
            await asyncio.sleep(_RETRY_SECONDS)

    async def first(self) -> None:
        """Wait until everything there is has been seen: findings judged without their policies would clear."""
        for resource in FEW:
            arrived = False
            while not arrived:
                listed = await self._listed(resource)
                try:
                    async with asyncio.timeout(_RELIST_SECONDS):
                        await self._intake.arrival(set(listed))
                        arrived = True
                except TimeoutError:
                    continue  # slow, or deleted before kopf saw it: the next list tells
        for watching in self._watching:
            await watching.synced.wait()

    async def settled(self) -> None:
        """Wait until every object that is there at this moment has been judged."""
        waiting = list(self._world.tracked)
        tracked = self._world.tracked
        while waiting := [k for k in waiting if k in tracked and not tracked[k].settled]:  # noqa: ASYNC110 (many objects)
            await asyncio.sleep(0.2)

    async def adopt(self) -> None:
        """Find annotations that an earlier run has left, so that those without a finding are removed."""
        for resource in self._kinds:
            await self._until_answered(partial(self._adopt, resource))

    async def caught_up(self) -> None:
        """Wait until all has been seen that was written before this moment.

        The replica that led before may have written a moment ago. What is judged by a status from before that would
        be told a second time, with another time of its beginning.
        """
        for resource in (*MANY, OURS[PROFILE]):
            await self._until_answered(partial(self._catch_up, resource))

    async def run(self, every_seconds: float) -> None:
        """Compare every so often, and at once when a watch had to start over or the API server came back."""
        while True:
            try:
                async with asyncio.timeout(every_seconds):
                    await self._intake.listed_again.wait()
            except TimeoutError:
                pass
            await self._api.present.wait()
            self._intake.listed_again.clear()
            try:
                await self.sweep()
            except ApiError as error:
                _log.warning("The cluster could not be compared with what is known, and will be again: %s", error)
                self._intake.listed_again.set()
                await asyncio.sleep(_RETRY_SECONDS)

    async def sweep(self) -> None:
        """Forget what is not there any more, and look again at what people are told."""
        for resource in FEW:
            # What is known before the list is made, and is not in it, has been deleted: never the reverse.
            known = self._intake.seen(resource)
            listed = await self._listed(resource)
            for key, uid in known.items():
                if listed.get(key) != uid:
                    self._intake.gone(resource, key, uid)
        self._intake.verify_all()

    async def watch_connection(self) -> None:
        """Notice when the API server goes or comes back though nothing is to be written."""
        while True:
            await asyncio.sleep(_PING_SECONDS if self._api.present.is_set() else _PING_AWAY_SECONDS)
            await self._api.ping()

    async def _adopt(self, resource: ResourceType) -> None:
        async for raw in annotated_objects(self._api, resource):
            key = self._world.hold(ref_of(resource, raw))
            self._world.holders[key].controlled = controller_of(raw) is not None
            self._intake.enqueue({key})

    async def _catch_up(self, resource: ResourceType) -> None:
        versions = {key_of(resource.kind, raw): version_of(raw) async for raw in self._api.list_metadata(resource)}
        while self._intake.behind(resource, versions):  # noqa: ASYNC110 (many objects)
            await asyncio.sleep(_CATCH_UP_SECONDS)

    async def _until_answered(self, ask: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await ask()
            except ApiError as error:
                if self._api.present.is_set() and self._once.first("answer", error.status):
                    _log.warning("What is there cannot be listed, and will be asked for again: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _listed(self, resource: ResourceType) -> dict[Key, str]:
        while True:
            try:
                return {
                    key_of(resource.kind, item): item["metadata"]["uid"]
                    async for item in self._api.list_metadata(resource)
                }
            except ForbiddenError as error:
                if self._once.first(resource):
                    _log.error("May not list %s (%s): grant list and watch on it.", resource, error)
                await asyncio.sleep(_RETRY_SECONDS)
            except NotFoundError:
                # The list took so long that its pages have expired (410).
                await asyncio.sleep(_RETRY_SECONDS)
            except ApiError as error:
                # An API server that has just come up refuses some lists for seconds (429).
                if self._api.present.is_set() and self._once.first("list", error.status):
                    _log.warning("%s cannot be listed, and will be asked for again: %s", resource, error)
                await asyncio.sleep(max(_RETRY_SECONDS, error.retry_after_seconds))


async def annotated_objects(api: Api, resource: ResourceType) -> AsyncIterator[dict[str, Any]]:
    """Metadata of the objects of a kind that carry annotations of ours; none where it is not served or forbidden."""
    try:
        async for item in api.list_metadata(resource):
            if annotations.annotated(item["metadata"].get("annotations") or {}):
                yield item
    except NotFoundError:
        return
    except ForbiddenError as error:
        _log.warning("May not list %s (%s): annotations that were left on them are not found.", resource, error)
