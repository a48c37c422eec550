"""What is done for each key of the queue: judge, compare with what is there, write the difference.

Nothing is lost or told twice when the operator is killed between any two writes, or another replica takes over:

- Raised: status first, then annotation, then Event. What the status says is the operator's memory: at a start,
  findings are taken from there, and for those that are young the Event is made sure of. Its name is a hash of
  what it says, so it cannot be there twice.
- Cleared: Event first, then status and annotation. Killed in between, the finding is still in the status with its
  ``clearAfter`` over, so it is cleared again, and its Event is there already.
- A workload's own Event follows its annotation in the same way, and so once for all of its pods.

What remains: a finding that is cleared, killed in between, and back above its threshold before the operator
is, has a Normal Event too many; and a policy that does not annotate leaves no memory of the workload, so a restart
within the first quarter of an hour can repeat its Event if the pod that had it first has none any more.
"""

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterable
from typing import Final

from sockethealth_core.detectors import DETECTORS
from sockethealth_core.engine import transitions
from sockethealth_core.resources import Finding, Judgement, PolicyActions
from sockethealth_core.units import parse_time
from sockethealth_operator import annotations, events, policies, reports
from sockethealth_operator.annotations import Entry
from sockethealth_operator.api import Api, ApiError, ConflictError, ForbiddenError, InvalidError, NotFoundError
from sockethealth_operator.expiring import Once
from sockethealth_operator.leading import NotLeadingError
from sockethealth_operator.metrics import Metrics
from sockethealth_operator.objects import HOLDER, NODE_HEALTH, POD, PROFILE, Key, ResourceType
from sockethealth_operator.records import Holder, Tracked
from sockethealth_operator.rollouts import Rollouts
from sockethealth_operator.targets import Targets
from sockethealth_operator.workloads import Workloads
from sockethealth_operator.workqueue import WorkQueue
from sockethealth_operator.world import World
from sockethealth_operator.writer import Writer

_log = logging.getLogger(__name__)

_NOT_LEADING_SECONDS: Final = 0.5


class Reconciler:
    """Works on keys.

    Args:
        world: what is known.
        queue: where keys come from and go to.
        targets: names of addresses.
        workloads: finds owners.
        api: reads what is there.
        writer: writes what shall be there.
        metrics: where transitions and errors are counted.
        now: epoch seconds.
    """

    def __init__(
        self,
        world: World,
        queue: WorkQueue[Key],
        targets: Targets,
        workloads: Workloads,
        api: Api,
        writer: Writer,
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        self._world = world
        self._queue = queue
        self._targets = targets
        self._workloads = workloads
        self._api = api
        self._writer = writer
        self._metrics = metrics
        self._now = now
        self._once = Once(now)
        self._rollouts = Rollouts(world, queue, writer, now)

    async def work(self) -> None:
        """Work on keys for as long as this replica leads; while the API server is away, wait."""
        while True:
            key = await self._queue.get()
            if not self._api.present.is_set():
                self._queue.put_back(key)
                await self._api.present.wait()
                continue
            # Judging awaits nothing where nothing has changed, and after a start that is every object.
            await asyncio.sleep(0)
            try:
                await self.reconcile(key)
            except NotLeadingError:
                # The process stood still for so long that its time was over: who leads decides what comes next.
                self._queue.put_back(key)
                await asyncio.sleep(_NOT_LEADING_SECONDS)
            except ApiError as error:
                self._metrics.errors.labels(key.kind).inc()
                pause = self._queue.failed(key, error.retry_after_seconds)
                if self._api.present.is_set() and self._once.first(key.kind, error.status, error.reason):
                    _log.warning(
                        "%s is tried again in %.1f s: %s. Of others that fail so nothing is said for an hour, but they "
                        "are counted: sockethealth_operator_handler_errors_total.",
                        _name(key),
                        pause,
                        error,
                    )
            except Exception as error:  # noqa: BLE001 (one object must not stop all others; it is logged and counted)
                self._metrics.errors.labels(key.kind).inc()
                pause = self._queue.failed(key)
                if self._once.first(key.kind, *_place(error)):
                    _log.exception("%s is tried again in %.1f s: this is a fault of the operator.", _name(key), pause)
            else:
                self._queue.done(key)

    async def reconcile(self, key: Key) -> None:
        """Look at one object and write what is different.

        Raises:
            ApiError: when the API server fails; the key may be worked on again.
        """
        if key.kind == HOLDER:
            await self._holder(key)
        elif key in self._world.policies:
            await self._policy(key)
        elif key.kind == PROFILE:
            await self._rollouts.profile(key)
        elif key.kind == NODE_HEALTH:
            await self._node(key)
        else:
            await self._subject(key)

    async def _subject(self, key: Key) -> None:
        world, tracked = self._world, self._world.tracked.get(key)
        now = self._now()
        outcome = world.judge(key, now, self._targets.name)
        if tracked is None or outcome is None:
            return
        self._enqueue(world.note_errors(key, outcome.errors))
        before, after = tracked.judgement, outcome.judgement
        changes = reports.changes(before.findings, after.findings)
        for change, finding in changes:
            if change == "Cleared" and self._actions(finding, key.namespace).event.enabled:
                await self._writer.announce(self._cleared(tracked, finding, now), now)
        if after != before:
            if _says_little(before, after) and self._queue.pressed and not self._queue.deferred(key):
                # There may be thousands of these after an installation: what is wrong is said before what is well.
                self._queue.defer(key)
                return
            if not await self._write(tracked, after, now):
                return
        fresh = [finding for change, finding in changes if change != "Cleared"]
        if not tracked.settled:
            # Killed between status and Event, the one before may not have created it.
            fresh = [f for f in after.findings if reports.reportable(f) and _young(f, now)]
        # Noted before anything else can fail: by the next attempt the status says nothing is new.
        waiting = {announcement.name for announcement in tracked.unannounced}
        wanted = [self._raised(tracked, f) for f in fresh if self._actions(f, key.namespace).event.enabled]
        tracked.unannounced += [announcement for announcement in wanted if announcement.name not in waiting]
        await self._link(key, tracked)
        await self._announce(tracked.unannounced, now)
        tracked.settled = True
        self._look_again(key, tracked, outcome.next_due, now)

    async def _write(self, tracked: Tracked, judgement: Judgement, now: float) -> bool:
        before = tracked.judgement
        written = await self._writer.judgement(tracked.ref, judgement)
        if written is None:
            tracked.settled = True
            return False
        self._enqueue(self._world.judged(tracked, judgement, written))
        for step in transitions(before.findings, judgement.findings):
            if step.finding.type in DETECTORS:
                # Others may have written the status: their types would be labels without end.
                self._metrics.transitions.labels(step.finding.type, step.change).inc()
            _log.debug(
                "%s %s on %s: %s",
                step.finding.type,
                step.change.lower(),
                tracked.subject,
                step.finding.message,
                extra={
                    "finding": step.finding.type,
                    "change": step.change,
                    "severity": step.finding.severity,
                    "policy": step.finding.policy,
                    "subject": str(tracked.subject),
                    "seconds": round(now - parse_time(step.finding.since)),
                },
            )
        return True

    async def _link(self, key: Key, tracked: Tracked) -> None:
        # The workload is looked for only when there is something to say on it.
        if tracked.subject.kind != "pod":
            return
        world = self._world
        told = [finding for finding in tracked.judgement.findings if reports.reportable(finding)]
        if told:
            workload = tracked.workload
            if not tracked.workload_known:
                workload = await self._workloads.top(tracked.regarding)
            if world.tracked.get(key) is not tracked:
                return  # deleted while its owners were read
            self._enqueue(world.link(key, workload))
        elif tracked.workload is not None:
            self._enqueue({Key(HOLDER, tracked.workload.namespace, tracked.workload.uid)} & world.holders.keys())
        itself = Key(HOLDER, tracked.regarding.namespace, tracked.regarding.uid)
        if any(self._actions(finding, key.namespace).annotate.pod for finding in told):
            world.hold(tracked.regarding, key)
        self._enqueue({itself} & world.holders.keys())

    def _look_again(self, key: Key, tracked: Tracked, next_due: float | None, now: float) -> None:
        if next_due is not None:
            self._queue.add_after(key, next_due - now)
        left = self._world.seconds_to_silence(tracked.node, now)
        if left is not None and left > 0:
            self._queue.add_after(Key(NODE_HEALTH, "", tracked.node), left)

    async def _node(self, key: Key) -> None:
        now = self._now()
        if self._world.silent(key.name, now):
            # Its pods are Unknown from now on; those that are so already are not written again.
            self._enqueue(self._world.hush(key.name) - {key})
        tracked = self._world.tracked.get(key)
        if tracked is None:
            left = self._world.seconds_to_silence(key.name, now)
            if left is not None and left > 0:
                self._queue.add_after(key, left)
            return
        await self._rollouts.node(key.name)
        await self._subject(key)

    async def _policy(self, key: Key) -> None:
        world, record = self._world, self._world.policies[key]
        profile = world.profiles.get(record.profile or "")
        wanted = policies.conditions(
            record.faults,
            record.profile,
            world.profiles.keys() | world.unreadable_profiles,
            world.rule_error(key),
            waiting=world.waiting(key),
            remark=policies.profile_remark(key.kind, profile.profile if profile else None),
            generation=record.generation,
            previous=record.conditions,
            now=self._now(),
        )
        if wanted == list(record.conditions):
            return
        if self._queue.pressed and not self._queue.deferred(key):
            # Whoever may write policies may write thousands: what is wrong with pods is said before.
            self._queue.defer(key)
            return
        if record.faults:
            _log.warning("%s is not in force: %s", record.ref, "; ".join(record.faults))
        await self._writer.conditions(record.ref, wanted)

    async def _holder(self, key: Key) -> None:
        holder = self._world.holders.get(key)
        if holder is None:
            return
        now = self._now()
        if holder.loaded and holder.verified:
            told, all_findings = self._world.reports(holder)
            plan = reports.plan(holder.entries, told, all_findings)
            same = not annotations.differs(self._text(holder, holder.entries), self._text(holder, plan.entries))
            if same and not plan.changes and not holder.unannounced:
                return
        resource = await self._workloads.resource(holder.ref.api_version, holder.ref.kind)
        if resource is None:
            self._world.release(key)
            return
        try:
            await self._bring_up_to_date(holder, resource, now)
        except (NotFoundError, ConflictError):
            # Gone, or recreated under its name: its pods, if any are left, have another owner by now.
            self._world.release(key)
            self._find_owners_anew(holder)
            return
        except ForbiddenError as error:
            self._workloads.refuse(holder.ref, resource, error)
            self._world.release(key)
            self._find_owners_anew(holder)
            return
        if not holder.entries and not self._world.reports(holder)[0]:
            self._world.release(key)

    async def _bring_up_to_date(self, holder: Holder, resource: ResourceType, now: float) -> None:
        present = await self._workloads.annotations(resource, holder.ref)
        first = not holder.loaded
        # From here on nothing is awaited before the plan is made: pods may change at every await.
        told, all_findings = self._world.reports(holder)
        recorded = annotations.parse(present) if first else list(holder.entries)
        plan = reports.plan(recorded, told, all_findings)
        # A Deployment's annotations are copied to its ReplicaSets, and stay there: what became of that is told of it.
        copied = holder.controlled and not holder.members
        with_events = resource != POD and not copied
        if with_events:
            for change in plan.changes:
                if change.change == "Cleared" and self._actions(change.entry, holder.ref.namespace).event.enabled:
                    await self._writer.announce(self._cleared_entry(holder, change.entry, now), now)
        wanted = self._text(holder, plan.entries)
        if annotations.differs(present, wanted):
            await self._annotate(resource, holder, wanted)
        if with_events:
            holder.unannounced += self._news(holder, plan, told, first=first, now=now)
        holder.entries, holder.loaded, holder.verified = plan.entries, True, True
        await self._announce(holder.unannounced, now)

    async def _annotate(self, resource: ResourceType, holder: Holder, wanted: dict[str, str | None]) -> None:
        try:
            await self._writer.annotations(resource, holder.ref, wanted)
        except (ForbiddenError, InvalidError) as error:
            if isinstance(error, ForbiddenError) and error.lacks_permission:
                raise
            # An admission webhook, or an object that is invalid as it stands: the same would be refused again.
            if self._once.first(holder.ref):
                _log.warning("%s is not annotated: %s", holder.ref, error)

    def _news(
        self, holder: Holder, plan: reports.Plan, told: list[reports.Report], *, first: bool, now: float
    ) -> list[events.Announcement]:
        # Read for the first time, what was told is known from the annotation only, which may be cut short or
        # missing: what is not young was told of long ago.
        kinds = ("Escalated",) if first else ("Raised", "Escalated")
        changed = {change.entry.identity for change in plan.changes if change.change in kinds}
        news = []
        for entry in plan.entries:
            due = entry.identity in changed or (first and _young(entry, now))
            if due and self._actions(entry, holder.ref.namespace).event.enabled:
                news.append(self._raised_entry(holder, entry, told))
        return news

    def _text(self, holder: Holder, entries: Iterable[Entry]) -> dict[str, str | None]:
        pod = holder.ref.kind == POD.kind
        shown = []
        for entry in entries:
            annotate = self._actions(entry, holder.ref.namespace).annotate
            if annotate.pod if pod else annotate.workload:
                shown.append(entry)
        return annotations.render(shown)

    def _find_owners_anew(self, holder: Holder) -> None:
        for key in holder.members:
            tracked = self._world.tracked.get(key)
            if tracked is not None and tracked.workload == holder.ref:
                tracked.workload, tracked.workload_known = None, False
                self._queue.add(key)

    async def _announce(self, waiting: list[events.Announcement], now: float) -> None:
        while waiting:
            await self._writer.announce(waiting[0], now)
            waiting.pop(0)

    def _enqueue(self, keys: Iterable[Key]) -> None:
        for key in sorted(keys):
            self._queue.add(key)

    def _actions(self, cause: Finding | Entry, namespace: str) -> PolicyActions:
        return self._world.actions(cause.policy_kind, cause.policy, namespace)

    def _raised(self, tracked: Tracked, finding: Finding) -> events.Announcement:
        note = reports.raised_note(finding.message, finding.remedy)
        return events.raised(tracked.regarding, None, finding, finding.since, note)

    def _cleared(self, tracked: Tracked, finding: Finding, now: float) -> events.Announcement:
        note = reports.cleared_note(finding.type, finding.policy, finding.since, finding.message, now)
        return events.cleared(tracked.regarding, finding, note)

    def _raised_entry(self, holder: Holder, entry: Entry, told: list[reports.Report]) -> events.Announcement:
        report = next(r for r in told if r.pod.name == entry.pod and r.finding.type == entry.type)
        note = reports.raised_note(entry.message, report.finding.remedy)
        return events.raised(holder.ref, report.pod, entry, entry.since, note)

    def _cleared_entry(self, holder: Holder, entry: Entry, now: float) -> events.Announcement:
        note = reports.cleared_note(entry.type, entry.policy, entry.since, entry.message, now)
        return events.cleared(holder.ref, entry, note)


def _says_little(before: Judgement, after: Judgement) -> bool:
    return not (before.findings or before.evaluation or after.findings or after.evaluation)


def _young(cause: Finding | Entry, now: float) -> bool:
    return now - parse_time(cause.since) < events.ENSURE_SECONDS


def _place(error: BaseException) -> tuple[str, str, int]:
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return type(error).__name__, frame.f_code.co_filename, line


def _name(key: Key) -> str:
    if key.kind == HOLDER:
        return f"Annotating the workload with UID {key.name} in namespace {key.namespace}"
    return f"{key.kind} {key.namespace}/{key.name}" if key.namespace else f"{key.kind} {key.name}"
