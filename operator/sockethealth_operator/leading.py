"""Holding the Lease on the API server, and working only while it is held: a thin shell of :mod:`election`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sockethealth_operator.api import (
    Api,
    ApiError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
)
from sockethealth_operator.election import Candidate, Claim, Record
from sockethealth_operator.expiring import Once
from sockethealth_operator.objects import LEASE

_log = logging.getLogger(__name__)

_RELEASE_SECONDS: Final = 3.0


class NotLeadingError(Exception):
    """Another replica may lead by now, so nothing is written."""


class Leadership:
    """This replica's part in the election.

    Args:
        api: where the Lease is.
        lease: its namespace and name.
        candidate: this replica, before its first look.
        clock: seconds that go forward at the pace of real time, also while the machine sleeps.
        now: epoch seconds, for what the Lease shows to people.
    """

    def __init__(
        self,
        api: Api,
        lease: tuple[str, str],
        candidate: Candidate,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._api = api
        self._namespace, self._name = lease
        self._candidate = candidate
        self._clock = clock
        self._now = now
        self._once = Once(clock)

    @property
    def leading(self) -> bool:
        """Whether this replica leads at this very moment."""
        return self._candidate.seconds_left(self._clock()) > 0

    def require(self) -> None:
        """Do nothing while this replica leads.

        Raises:
            NotLeadingError: it does not.
        """
        if not self.leading:
            raise NotLeadingError(f"{self._candidate.identity} does not hold the Lease {self._namespace}/{self._name}")

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Work whenever this replica leads, for ever. Cancelled, it ends the work and then releases the Lease.

        Args:
            work: is begun anew each time the Lease is taken, and cancelled when it is lost.

        Raises:
            Exception: what the work fails with.
        """
        try:
            while True:
                asked_at = await self._stand_by()
                await self._lead(work, asked_at)
        finally:
            await self._release()

    async def _stand_by(self) -> float:
        """Returns when the attempt began that succeeded."""
        while True:
            began = self._clock()
            await self._attempt()
            if self.leading:
                return began
            await asyncio.sleep(self._candidate.seconds_to_wait(self._clock(), began))

    async def _lead(self, work: Callable[[], Awaitable[None]], began: float) -> None:
        _log.info("Leads: %s has the Lease %s/%s.", self._candidate.identity, self._namespace, self._name)
        working = asyncio.ensure_future(work())
        try:
            while self.leading and not working.done():
                await asyncio.wait({working}, timeout=self._candidate.seconds_to_wait(self._clock(), began))
                began = self._clock()
                await self._renew()
        finally:
            self._candidate = self._candidate.stepped_down()
            working.cancel()
            await asyncio.wait({working})
        if not working.cancelled():
            working.result()
        _log.warning(
            "Leads no longer: the Lease %s/%s %s. Nothing is written until this replica leads again.",
            self._namespace,
            self._name,
            self._state(),
        )

    async def _renew(self) -> None:
        try:
            # Not one moment longer: an answer that comes too late must not keep the work going.
            async with asyncio.timeout(self._candidate.seconds_left(self._clock())):
                await self._attempt()
        except TimeoutError:
            return

    async def _attempt(self) -> None:
        try:
            if not self.leading:
                await self._look()
            if not await self._claim():
                await self._look()
                await self._claim()
        except UnreachableError:
            return  # said by the Api, once
        except ForbiddenError as error:
            self._tell_refused(f"{error}: grant get, create and patch on {LEASE}")
        except ApiError as error:
            self._tell_refused(str(error))

    async def _claim(self) -> bool:
        """Take or renew the Lease if it can be had; False when it is another than was last seen."""
        claim = self._candidate.claim(self._clock(), _text(self._now()))
        if claim is None:
            self._tell_who_leads()
            return True
        sent_at = self._clock()
        try:
            version = await self._write(claim)
        except ConflictError:
            return False
        except NotFoundError:
            if claim.version is None:
                raise  # its namespace is not there
            return False
        self._candidate = self._candidate.claimed(claim, version, sent_at)
        return True

    async def _look(self) -> None:
        try:
            raw = await self._api.get(LEASE, self._namespace, self._name)
        except NotFoundError:
            self._candidate = self._candidate.seen(None, None, self._clock())
        else:
            self._candidate = self._candidate.seen(_record(raw), raw["metadata"]["resourceVersion"], self._clock())

    async def _write(self, claim: Claim) -> str:
        spec = _spec(claim.record)
        if claim.version is None:
            metadata = {"name": self._name, "namespace": self._namespace}
            body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
            written = await self._api.create(LEASE, self._namespace, body)
        else:
            fields = {"metadata": {"resourceVersion": claim.version}, "spec": spec}
            written = await self._api.merge(LEASE, self._namespace, self._name, fields)
        return str(written["metadata"]["resourceVersion"])

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                while (claim := self._candidate.release(_text(self._now()))) is not None:
                    try:
                        await self._write(claim)
                    except ConflictError:
                        await self._look()  # a renewal that was cut short has arrived after all
                    else:
                        return
        except (ApiError, TimeoutError) as error:
            _log.info("The Lease %s/%s is not released, and runs out: %s", self._namespace, self._name, error)

    def _tell_who_leads(self) -> None:
        record = self._candidate.record
        if record is not None and record.holder and self._once.first("leads", record.holder):
            _log.info("Stands by: %s has the Lease %s/%s.", record.holder, self._namespace, self._name)

    def _tell_refused(self, reason: str) -> None:
        if self._once.first("refused", reason):
            _log.warning(
                "The Lease %s/%s cannot be had, and without it this replica does nothing: %s",
                self._namespace,
                self._name,
                reason,
            )

    def _state(self) -> str:
        record = self._candidate.record
        if record is not None and record.holder not in {"", self._candidate.identity}:
            return f"is held by {record.holder}"
        return f"could not be renewed for {self._candidate.terms.deadline_seconds:g} s"


def _record(raw: Mapping[str, Any]) -> Record:
    spec = raw.get("spec") or {}
    return Record(
        holder=spec.get("holderIdentity") or "",
        duration_seconds=spec.get("leaseDurationSeconds") or 0,
        acquired=spec.get("acquireTime") or "",
        renewed=spec.get("renewTime") or "",
        transitions=spec.get("leaseTransitions") or 0,
    )


def _spec(record: Record) -> dict[str, Any]:
    return {
        "holderIdentity": record.holder or None,
        "leaseDurationSeconds": record.duration_seconds,
        "acquireTime": record.acquired,
        "renewTime": record.renewed,
        "leaseTransitions": record.transitions,
    }


def _text(epoch_seconds: float) -> str:
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
