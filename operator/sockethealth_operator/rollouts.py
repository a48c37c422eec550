"""What is done for SysctlProfiles: look at a roll-out, remember what it has come to, and ask the nodes for it.

The status is written first, then the specs of nodes: what a node is asked for is always part of a batch that is
remembered. Killed in between, the operator makes the same step again from what the API server holds. Events come
before the status that says the same, so none is lost; their names keep them from being there twice.

A node's spec is written by the worker that has the node's key, whichever profiles it is about: two profiles never
write over each other.
"""

import logging
from collections.abc import Callable
from typing import Final

from sockethealth_core import rollout
from sockethealth_core.resources import ProfileContent, SysctlProfile, SysctlProfileSpec, SysctlProfileStatus
from sockethealth_core.sysctl_rules import advice
from sockethealth_operator import profiles, turns
from sockethealth_operator.objects import NODE_HEALTH, Key
from sockethealth_operator.profiles import Sight
from sockethealth_operator.records import ProfileRecord
from sockethealth_operator.workqueue import WorkQueue
from sockethealth_operator.world import World
from sockethealth_operator.writer import Writer

_log = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 0.2
"""Between two looks at one roll-out: reports of many nodes are one step of it."""

_MAX_WARNINGS: Final = 32


class Rollouts:
    """Performs roll-outs.

    Args:
        world: what is known.
        queue: where keys go that must be looked at.
        writer: writes what shall be there.
        now: epoch seconds.
    """

    def __init__(self, world: World, queue: WorkQueue[Key], writer: Writer, now: Callable[[], float]) -> None:
        self._world = world
        self._queue = queue
        self._writer = writer
        self._now = now

    async def profile(self, key: Key) -> None:
        """Take the next step of a roll-out.

        Raises:
            ApiError: when the API server fails; the key may be worked on again.
        """
        record = self._world.profiles.get(key.name)
        if record is None:
            return
        now = self._now()
        since = now - record.looked_at
        if 0 <= since < _PAUSE_SECONDS:
            self._queue.add_after(key, _PAUSE_SECONDS - since)
            return
        record.looked_at = now
        profile = record.profile
        seen = profiles.sight(self._world, record, now)
        plan = rollout.advance(profile, seen.views, now, faults=profiles.faults(profile))
        values = {sysctl.name: sysctl.value for sysctl in profile.spec.sysctls}
        status = SysctlProfileStatus(
            nodes=plan.nodes,
            rollout=plan.state,
            warnings=advice(values, profile.spec.target)[:_MAX_WARNINGS],
            conditions=list(plan.conditions),
        )
        await self._announce(record, seen, status, now)
        if status != profile.status:
            written = await self._writer.profile_status(record.ref, status)
            if written is None:
                return  # gone, or refused and said so: what is not remembered is not asked for
            if self._world.profiles.get(key.name) is not record:
                return
            self._world.profile_written(record, status, written)
            _log_step(record, profile.status, status)
            if _asks(record.profile) != _asks(profile):
                return  # edited meanwhile: its next look is queued, and decides
        record.assignments = plan.assignments
        for node in self._differing(key.name, seen, plan):
            self._queue.add(Key(NODE_HEALTH, "", node))
        for due in (plan.next_due, seen.next_due):
            if due is not None:
                self._queue.add_after(key, due - now)

    async def node(self, name: str) -> None:
        """Write a node's spec until it says what is wanted: that may change at every await.

        Raises:
            ApiError: when the API server fails; the key may be worked on again.
        """
        world = self._world
        while (host := world.hosts.get(name)) is not None:
            points = world.wanted_watchpoints()
            wanted = profiles.wanted_on(world, name, self._now())
            if host.watchpoints == points and host.assigned == {entry.profile: entry for entry in wanted}:
                return
            written = await self._writer.node_spec(host.ref, points, wanted)
            if written is None:
                return
            for key in sorted(world.spec_written(host, points, wanted, written)):
                self._queue.add(key)

    async def _announce(self, record: ProfileRecord, seen: Sight, status: SysctlProfileStatus, now: float) -> None:
        before = record.profile.status
        drifted = frozenset(view.name for view in seen.views if view.drifted)
        if record.drifted is None and len(drifted) <= before.nodes.drifted:
            record.drifted = drifted  # told of before the operator was restarted
        news = turns.turns(record.ref, record.profile.metadata.generation, before, status)
        drift = turns.drift(record.ref, seen.views, record.drifted or ())
        for announcement in [*news, drift] if drift else news:
            await self._writer.announce(announcement, now)
        record.drifted = drifted

    def _differing(self, profile: str, seen: Sight, plan: rollout.Plan) -> list[str]:
        """Nodes whose spec is not as the plan has it."""
        found = []
        for name, host in self._world.hosts.items():
            assigned, planned = host.assigned.get(profile), plan.assignments.get(name)
            has = (assigned.revision, assigned.mode) if assigned else None
            shall = (planned.content.revision, planned.mode) if planned else None
            if has != shall or (assigned and name in seen.changed):
                found.append(name)
        return sorted(found)


def _asks(profile: SysctlProfile) -> tuple[SysctlProfileSpec, ProfileContent]:
    return profile.spec, rollout.content_of(profile)


def _log_step(record: ProfileRecord, before: SysctlProfileStatus, after: SysctlProfileStatus) -> None:
    old, new = before.rollout, after.rollout
    if (old.phase, old.revision) == (new.phase, new.revision):
        return
    level = logging.WARNING if new.phase == "Stopped" else logging.INFO
    because = f": {new.stopped_because}" if new.stopped_because else ""
    _log.log(level, "%s, revision %s: %s%s", record.ref, new.revision or "(none)", new.phase, because)
