"""From a pod to its top-level workload, by controller owner references of any kind.

Kinds are found by discovery. A kind that may not be read, or is of the cluster and not of a namespace, ends the walk,
and one that may not be patched is passed over, so that the highest workload within reach is used.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from sockethealth_operator.api import Api, ForbiddenError, NotFoundError
from sockethealth_operator.expiring import Expiring, Once
from sockethealth_operator.objects import NODE, POD, WORKLOADS, ObjectRef, ResourceType, ref_of

_log = logging.getLogger(__name__)

_DEPTH: Final = 10
_KEEP_SECONDS: Final = 300.0
_REDISCOVER_SECONDS: Final = 30.0
_SIZE: Final = 4096
_FRESH_SECONDS: Final = 2.0
_FRESH_SIZE: Final = 32

_Owner = Mapping[str, Any]


class Workloads:
    """Finds workloads, and remembers for five minutes.

    Args:
        api: where owners are read.
        clock: seconds that only go forward.
    """

    def __init__(self, api: Api, clock: Callable[[], float]) -> None:
        self._api = api
        self._owners: Expiring[str, tuple[ObjectRef, _Owner | None]] = Expiring(clock, _KEEP_SECONDS, _SIZE)
        self._fresh: Expiring[str, Mapping[str, str]] = Expiring(clock, _FRESH_SECONDS, _FRESH_SIZE)
        self._types: Expiring[tuple[str, str], ResourceType] = Expiring(clock, 2 * _KEEP_SECONDS, _SIZE)
        self._asked: Expiring[str, bool] = Expiring(clock, _REDISCOVER_SECONDS, _SIZE)
        self._refused: Expiring[tuple[str, str, str], bool] = Expiring(clock, 2 * _KEEP_SECONDS, _SIZE)
        self._once = Once(clock)

    async def top(self, pod: ObjectRef) -> ObjectRef | None:
        """The pod's highest controller within reach; None for a pod without one, or one that is gone.

        Raises:
            ApiError: when the API server fails; the question may be asked again.
        """
        try:
            raw = await self._api.get_metadata(POD, pod.namespace, pod.name)
        except NotFoundError:
            return None
        except ForbiddenError as error:
            self._missing_permission(POD, "get", error)
            return None
        if raw["metadata"]["uid"] != pod.uid:
            return None
        highest: ObjectRef | None = None
        owner = controller_of(raw)
        for _ in range(_DEPTH):
            # The mirror pod of a static pod is controlled by its Node, which is no workload.
            if owner is None or (owner["apiVersion"], owner["kind"]) == (NODE.api_version, NODE.kind):
                break
            found = self._owners.get(owner["uid"]) or await self._read(owner, pod.namespace)
            if found is None:
                break
            self._owners.put(owner["uid"], found)
            ref, owner = found
            if (ref.api_version, ref.kind, ref.namespace) not in self._refused:
                highest = ref
        return highest

    async def annotations(self, resource: ResourceType, ref: ObjectRef) -> Mapping[str, str]:
        """An object's annotations; once within two seconds of finding it, as they were then.

        Raises:
            NotFoundError: it is gone, or another of its name is there.
            ApiError: when it cannot be read.
        """
        fresh = self._fresh.get(ref.uid)
        self._fresh.drop(ref.uid)
        if fresh is not None:
            return fresh
        metadata = (await self._api.get_metadata(resource, ref.namespace, ref.name))["metadata"]
        if metadata["uid"] != ref.uid:
            raise NotFoundError(f"{ref} is another by now", 404)
        return metadata.get("annotations") or {}

    async def resource(self, api_version: str, kind: str) -> ResourceType | None:
        """How a kind is served, or None when it is not."""
        for known in (POD, *WORKLOADS):
            if (known.api_version, known.kind) == (api_version, kind):
                return known
        if (api_version, kind) not in self._types and api_version not in self._asked:
            for served in await self._api.served(api_version):
                self._types.put((api_version, served.kind), served)
            self._asked.put(api_version, True)
        return self._types.get((api_version, kind))

    def refuse(self, ref: ObjectRef, resource: ResourceType, error: ForbiddenError) -> None:
        """Pass over a kind for a while in a namespace, as it may not be patched there."""
        self._refused.put((ref.api_version, ref.kind, ref.namespace), True)
        self._missing_permission(resource, "patch", error)

    async def _read(self, owner: _Owner, namespace: str) -> tuple[ObjectRef, _Owner | None] | None:
        resource = await self.resource(owner["apiVersion"], owner["kind"])
        if resource is None or not resource.namespaced:
            # Who may create pods may call any object their owner: nothing beyond their namespace is looked at or told.
            return None
        try:
            raw = await self._api.get_metadata(resource, namespace, owner["name"])
        except NotFoundError:
            return None
        except ForbiddenError as error:
            self._missing_permission(resource, "get", error)
            return None
        if raw["metadata"]["uid"] != owner["uid"]:
            return None
        self._fresh.put(owner["uid"], raw["metadata"].get("annotations") or {})
        return ref_of(resource, raw), controller_of(raw)

    def _missing_permission(self, resource: ResourceType, verb: str, error: ForbiddenError) -> None:
        if self._once.first(resource, verb):
            _log.warning(
                "May not %s %s (%s). Findings of its pods are annotated on the highest owner within reach: grant the "
                "operator's service account get and patch on %s to have them there.",
                verb,
                resource,
                error,
                resource,
            )


def controller_of(raw: Mapping[str, Any]) -> _Owner | None:
    """The owner reference to an object's controller, if it has one."""
    owners = raw["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)
