"""From the API server's events to what is known and what must be looked at: thin, and the same for every kind."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from sockethealth_core.resources import InvalidObjectError
from sockethealth_operator.expiring import Once
from sockethealth_operator.metrics import Metrics
from sockethealth_operator.objects import PROFILE, Key, ResourceType, key_of, version_of
from sockethealth_operator.targets import Targets
from sockethealth_operator.workqueue import WorkQueue
from sockethealth_operator.world import World

_log = logging.getLogger(__name__)

_Object = Mapping[str, Any]


class Intake:
    """Takes in every event, and keeps a list of what it has seen.

    Args:
        world: where it is remembered.
        targets: where names are remembered.
        queue: where keys go that must be looked at.
        metrics: where unreadable objects, errors and interrupted watches are counted.
        now: epoch seconds.
    """

    def __init__(
        self, world: World, targets: Targets, queue: WorkQueue[Key], metrics: Metrics, now: Callable[[], float]
    ) -> None:
        self._world = world
        self._targets = targets
        self._queue = queue
        self._metrics = metrics
        self._now = now
        self._once = Once(now)
        self._seen: dict[str, dict[Key, tuple[str, int]]] = {}
        self._awaited: set[Key] = set()
        self._arrived = asyncio.Event()
        self.listed_again = asyncio.Event()
        """Set when a watch had to start over: what was deleted meanwhile, nobody has said."""
        self._take: Mapping[str, Callable[[_Object], set[Key]]] = {
            "SocketHealth": self._socket_health,
            "NodeSocketHealth": lambda raw: world.observe_node_health(raw, now()),
            "SocketHealthPolicy": world.observe_policy,
            "ClusterSocketHealthPolicy": world.observe_policy,
            PROFILE: world.observe_profile,
            "Namespace": lambda raw: world.observe_namespace(raw["metadata"]["name"], _labels(raw)),
            "Node": self._node,
            "Service": self._named(targets.observe_service),
            "EndpointSlice": self._named(targets.observe_endpoint_slice),
        }

    def event(self, resource: ResourceType, change: str | None, raw: _Object) -> None:
        """Take in one event of a watch; ``change`` is ADDED, MODIFIED, DELETED, or None from a list.

        An object that cannot be taken in is counted and skipped: it must not end the watch of all others.
        """
        try:
            self._event(resource, change, raw)
        except InvalidObjectError as error:
            self.unreadable(resource, str(error))
        except Exception:  # noqa: BLE001 (whatever is wrong with one object; it is logged and counted)
            self._metrics.errors.labels(resource.kind).inc()
            name = (raw.get("metadata") or {}).get("name")
            if self._once.first(resource, name):
                _log.exception("%s %s is skipped until it changes: this is a fault of the operator.", resource, name)

    def unreadable(self, resource: ResourceType, text: str) -> None:
        """Count an object that cannot be read, and say once why."""
        self._metrics.unreadable.labels(resource.kind).inc()
        if self._once.first(text):
            _log.warning("%s. It is skipped until it changes.", text)

    def relisted(self, resource: ResourceType) -> None:
        """Count a list that was made anew because its watch could not be carried on."""
        self._metrics.relists.labels(resource.kind).inc()

    def watch_broke(self, resource: ResourceType) -> None:
        """Count a watch that broke off."""
        self._metrics.watch_restarts.labels(resource.kind).inc()

    def gone(self, resource: ResourceType, key: Key, uid: str) -> None:
        """An object was deleted; nothing happens if another of its name is known by now."""
        seen = self._seen.get(resource.kind, {})
        if key not in seen or seen[key][0] != uid:
            return
        del seen[key]
        self.enqueue(self._forget(resource, key))

    def seen(self, resource: ResourceType) -> dict[Key, str]:
        """UIDs of the objects of a kind that are known to be there, by key: a copy."""
        return {key: uid for key, (uid, _) in self._seen.get(resource.kind, {}).items()}

    def behind(self, resource: ResourceType, versions: Mapping[Key, int]) -> bool:
        """Whether an object that is known has not been seen yet in a version that is listed."""
        seen = self._seen.get(resource.kind, {})
        return any(key in seen and seen[key][1] < version for key, version in versions.items())

    def start_over(self) -> None:
        """Look at everything that is known as if it were seen for the first time: the work begins, or begins again."""
        self._queue.open()
        self.enqueue(self._world.start_over())

    async def arrival(self, keys: set[Key]) -> None:
        """Wait until every one of these has been seen; one wait at a time."""
        self._awaited = {key for key in keys if key not in self._seen.get(key.kind, {})}
        self._arrived.clear()
        if self._awaited:
            await self._arrived.wait()

    def enqueue(self, keys: set[Key]) -> None:
        """Queue keys in a stable order."""
        for key in sorted(keys):
            self._queue.add(key)

    def verify_all(self) -> None:
        """Look at every object again that people are told of: its owners and its annotations."""
        for key, tracked in self._world.tracked.items():
            if tracked.workload is not None or tracked.unannounced:
                tracked.workload_known = False
                self._queue.add(key)
        for key, holder in self._world.holders.items():
            holder.verified = False
            self._queue.add(key)

    def _event(self, resource: ResourceType, change: str | None, raw: _Object) -> None:
        key, uid = key_of(resource.kind, raw), raw["metadata"]["uid"]
        if change == "DELETED":
            self.gone(resource, key, uid)
            return
        seen = self._seen.setdefault(resource.kind, {})
        if change is None and key in seen and seen[key][0] == uid and not self.listed_again.is_set():
            self.relisted(resource)
            self.listed_again.set()
        seen[key] = uid, version_of(raw)
        self._awaited.discard(key)
        if not self._awaited:
            self._arrived.set()
        self.enqueue(self._take[resource.kind](raw))

    def _forget(self, resource: ResourceType, key: Key) -> set[Key]:
        world = self._world
        if key in world.policies:
            return world.forget_policy(key)
        if resource.kind == PROFILE:
            return world.forget_profile(key.name)
        if resource.kind == "Namespace":
            return world.observe_namespace(key.name, None)
        self._targets.forget(key)
        if resource.kind == "Node":
            return world.observe_node(key.name, None)
        return world.forget_tracked(key)

    def _node(self, raw: _Object) -> set[Key]:
        self._targets.observe_node(raw)
        return self._world.observe_node(raw["metadata"]["name"], _labels(raw))

    def _socket_health(self, raw: _Object) -> set[Key]:
        self._targets.observe_pod(raw)
        return self._world.observe_socket_health(raw, self._now())

    @staticmethod
    def _named(observe: Callable[[_Object], None]) -> Callable[[_Object], set[Key]]:
        def take(raw: _Object) -> set[Key]:
            observe(raw)
            return set()

        return take


def _labels(raw: _Object) -> Mapping[str, str]:
    return raw["metadata"].get("labels") or {}
