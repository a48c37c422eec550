"""Writes to the API server, one method each. They say whether a write arrived; what to write is decided elsewhere."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sockethealth_core.resources import (
    AssignedProfile,
    Condition,
    Judgement,
    NodeSocketHealthSpec,
    SysctlProfileStatus,
    Watchpoint,
    encode,
)
from sockethealth_operator import events
from sockethealth_operator.api import Api, ConflictError, ForbiddenError, InvalidError, NotFoundError, TerminatingError
from sockethealth_operator.events import Announcement
from sockethealth_operator.expiring import Once
from sockethealth_operator.metrics import Metrics
from sockethealth_operator.objects import EVENT, OURS, ObjectRef, ResourceType

_log = logging.getLogger(__name__)


class Writer:
    """Performs what was decided.

    Args:
        api: where it is written.
        metrics: where writes are counted.
        instance: name of this operator in Events.
        clock: seconds that only go forward.
        permit: asked before every write; what it raises is raised instead of writing.
    """

    def __init__(
        self, api: Api, metrics: Metrics, instance: str, clock: Callable[[], float], permit: Callable[[], None]
    ) -> None:
        self._api = api
        self._metrics = metrics
        self._instance = instance
        self._permit = permit
        self._once = Once(clock)

    async def judgement(self, ref: ObjectRef, judgement: Judgement) -> dict[str, Any] | None:
        """Write the operator's part of a status; the object as it is then, or None when it is gone or refused."""
        return await self._apply(ref, {"status": encode(judgement)}, "status")

    async def conditions(self, ref: ObjectRef, conditions: Sequence[Condition]) -> dict[str, Any] | None:
        """Write a policy's conditions; the policy as it is then, or None when it is gone or refused."""
        return await self._apply(ref, {"status": {"conditions": [encode(c) for c in conditions]}}, "status")

    async def profile_status(self, ref: ObjectRef, status: SysctlProfileStatus) -> dict[str, Any] | None:
        """Write a SysctlProfile's status; the profile as it is then, or None when it is gone or refused."""
        return await self._apply(ref, {"status": encode(status)}, "status")

    async def node_spec(
        self, ref: ObjectRef, points: Sequence[Watchpoint], profiles: Sequence[AssignedProfile]
    ) -> dict[str, Any] | None:
        """Write what the agent of a node is asked for; the object as it is then, or None when it is gone or refused.

        All of it in one apply: what a field manager leaves out is removed.
        """
        spec = NodeSocketHealthSpec(watchpoints=list(points), sysctl_profiles=list(profiles))
        return await self._apply(ref, {"spec": encode(spec)}, "")

    async def annotations(self, resource: ResourceType, ref: ObjectRef, wanted: Mapping[str, str | None]) -> None:
        """Set and remove annotations.

        Raises:
            ApiError: NotFoundError or ConflictError when the object is gone, ForbiddenError when it may not be written.
        """
        self._permit()
        await self._api.annotate(resource, ref, wanted)
        self._metrics.writes.labels("annotations").inc()

    async def announce(self, announcement: Announcement, now: float) -> None:
        """Make sure that an Event is there; one whose namespace or object is going is left out."""
        namespace = events.namespace_of(announcement.regarding)
        self._permit()
        try:
            await self._api.create(EVENT, namespace, events.body(announcement, self._instance, now))
        except ConflictError as error:
            if not error.already_exists:
                raise
        except (NotFoundError, TerminatingError):
            return
        except ForbiddenError as error:
            if self._once.first("events", str(error)):
                _log.warning("May not create Events (%s): grant create on events.events.k8s.io.", error)
        except InvalidError as error:
            if self._once.first("event", announcement.reason):
                _log.exception(
                    "The Event %s for %s is refused.", announcement.reason, announcement.regarding, exc_info=error
                )
        else:
            self._metrics.writes.labels("events").inc()

    async def _apply(self, ref: ObjectRef, fields: Mapping[str, Any], subresource: str) -> dict[str, Any] | None:
        self._permit()
        try:
            written = await self._api.apply(OURS[ref.kind], ref, fields, subresource)
        except (NotFoundError, ConflictError):
            return None  # gone, or another of its name: the watch tells
        except InvalidError as error:
            if self._once.first(ref, str(error)):
                _log.error("%s: the API server refuses what the operator writes (%s); it is left as it is.", ref, error)
            return None
        self._metrics.writes.labels(subresource or "spec").inc()
        return written
