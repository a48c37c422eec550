"""Bring the API server's picture of this node's sockets up to date, with as few writes as do.

Level-based: each step compares what was measured last with what the API server holds, and writes the difference.
Nothing is queued, so an API server that was away gets the latest facts and no history.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import msgspec

from sockethealth_agent.budget import WriteBudget
from sockethealth_agent.kubeapi import (
    ApiError,
    AwayError,
    ConflictError,
    KubeApi,
    NotFoundError,
    TerminatingError,
    segment,
)
from sockethealth_agent.pods import PodInfo
from sockethealth_agent.sampler import Sweep
from sockethealth_agent.watching import Collection, Mirror, backoff_seconds
from sockethealth_core.bands import CROSSED, SETTLED, History, exact, reason_to_write
from sockethealth_core.crossings import Crossing, Damping, Gauge, Values, crossings, gauges, read
from sockethealth_core.names import AGENT_FIELD_MANAGER, API_VERSION
from sockethealth_core.noteworthy import QUIET_SECONDS, noteworthy
from sockethealth_core.resources import (
    Agent,
    Facts,
    NodeFacts,
    NodeSocketHealth,
    OwnerReference,
    ReportMode,
    SocketHealth,
    SocketHealthSpec,
    Watchpoint,
    encode,
)
from sockethealth_core.units import format_time

LOG = logging.getLogger(__name__)
GROUP_PATH: Final = f"/apis/{API_VERSION}"
MOST_LABELS: Final = 32
MOST_NODE_LABELS: Final = 64
RELIST_SECONDS: Final = 1800.0
"""How often the objects are listed, to find those that someone deleted and those whose pod is gone."""
REFUSED_SECONDS: Final = 60.0
"""A write the server refused is tried again after this."""
STALE_SWEEPS: Final = 3
ROUTINE_PER_SECOND: Final = 3 / 3600
"""Writes of numbers that left their band and crossed no watchpoint, of all pods together, in the long run."""
ROUTINE_BURST: Final = 30.0
MOST_STEPS: Final = 4
SETTLED_PER_SECOND: Final = 1 / 3600
"""Writes of small differences that have stayed, of all pods together, in the long run."""
SETTLED_BURST: Final = 30.0
QUIET: Final = "quiet"
_URGENCY: Final = (CROSSED, "replaced", "first", "")
_OWED: Final = (CROSSED, "replaced", "first", "metadata")
"""Writes that no budget of ordinary ones holds back."""
_NEVER_WRITTEN: Final = Facts().observed_time


class Sink(Protocol):
    """What is told of writes; see metrics.Metrics."""

    def wrote(self, reason: str) -> None:
        """A write was made."""

    def suppressed(self, count: int) -> None:
        """Changes were not worth a write."""


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """Who reports: the node's name, the agent's version, the kernel's boot and release."""

    node_name: str
    version: str
    boot_id: str
    kernel: str


@dataclass(frozen=True, slots=True)
class Submission:
    """What is to be reported: the last sweep, when it was made, all pods known and the watchpoints in force."""

    sweep: Sweep
    at: float
    pods: Mapping[str, PodInfo]
    watchpoints: Sequence[Watchpoint]


@dataclass(frozen=True, slots=True)
class _Existing:
    """A SocketHealth as the API server holds it; `written` is None while it has no facts."""

    uid: str
    spec: SocketHealthSpec
    labels: Mapping[str, str]
    written: Facts | None


@dataclass(frozen=True, slots=True)
class _Compared:
    """The crossings between two facts, and what they were found from; `values` are of the current facts."""

    written: Facts | None
    current: Facts
    by: Sequence[Gauge]
    values_written: Values
    values: Values
    crossed: tuple[Crossing, ...]


@dataclass
class _Record:
    """A pod to report.

    Attributes:
        kept_at: when it was last reason enough to keep an object that is there, in the reporter's seconds.
        noteworthy_at: when it was last noteworthy.
        not_before: a write of it that was refused is not tried again before.
    """

    pod: PodInfo
    facts: Facts
    kept_at: float
    noteworthy_at: float = float("-inf")
    history: History = field(default_factory=History)
    compared: _Compared | None = None
    not_before: float = float("-inf")


_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Action:
    """A write: of a record, or where `delete` is set, away with the object of that pod."""

    why: str
    pod: PodInfo
    record: _Record | None
    delete: bool = False


class _NodeMetadata(msgspec.Struct, frozen=True):
    uid: str
    labels: dict[str, str] = {}


class _Node(msgspec.Struct, frozen=True):
    metadata: _NodeMetadata


class _Items(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw] = []


def copied_labels(labels: Mapping[str, str], most: int = MOST_LABELS) -> dict[str, str]:
    """A pod's or node's labels for its object, so that selectors work on it; the first by name where there are many."""
    return dict(sorted(labels.items())[:most])


class Reporter:
    """Writes SocketHealths and the NodeSocketHealth of one node, from a thread of its own or step by step."""

    def __init__(
        self,
        api: KubeApi,
        identity: AgentIdentity,
        *,
        sink: Sink,
        interval_seconds: float = 15.0,
        heartbeat_seconds: float = 120.0,
        writes_per_second: float = 5.0,
        burst: float = 50.0,
        mode: ReportMode = "All",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Writes nothing yet.

        Args:
            api: its credentials are those of the agent.
            identity: goes into status.agent.
            sink: told of each write.
            interval_seconds: time between sweeps; without one for three of them there is no heartbeat.
            heartbeat_seconds: time between heartbeats; one is early when a fact of the node crosses a watched value.
            writes_per_second: long-run limit of writes, heartbeats not counted.
            burst: writes at once.
            mode: whether every pod gets an object, or only those that are noteworthy.
            clock: monotonic seconds.
            wall_clock: epoch seconds.
        """
        self._api = api
        self._identity = identity
        self._sink = sink
        self._fresh_seconds = STALE_SWEEPS * interval_seconds + heartbeat_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._budget = WriteBudget(writes_per_second, burst)
        self._routine = WriteBudget(ROUTINE_PER_SECOND, ROUTINE_BURST)
        self._settled = WriteBudget(SETTLED_PER_SECOND, SETTLED_BURST)
        self._mode: Final = mode
        self._clock = clock
        self._wall_clock = wall_clock
        self._wake = threading.Condition()
        self._submitted: Submission | None = None
        self._considered: Submission | None = None
        self._counted: Submission | None = None
        self._watchpoints: Sequence[Watchpoint] = ()
        self._gauges: tuple[Gauge, ...] = ()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._records: dict[str, _Record] = {}
        self._existing: dict[_Key, _Existing] = {}
        self._node: _Node | None = None
        self._node_known = False
        self._node_object = False
        self._node_written: NodeFacts | None = None
        self._node_damping = Damping()
        self._early = False
        self._next_heartbeat = float("-inf")
        self._next_list = float("-inf")
        self._refusals: set[int] = set()
        self._away_since: float | None = None
        self._failures = 0
        self.reported = threading.Event()
        """Set once the node has reported for the first time."""

    def submit(self, submission: Submission) -> None:
        """Take in what was measured; only the latest counts."""
        with self._wake:
            self._submitted = submission
            self._wake.notify()

    def start(self) -> None:
        """Begin to write in a thread."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 1.5) -> None:
        """End the thread; a write on its way may still arrive."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        due = 0.0
        while True:
            with self._wake:
                while not self._stopping and not self._may_step(due):
                    self._wake.wait(max(0.01, due - time.monotonic()) if self._submitted else None)
                if self._stopping:
                    return
            due = time.monotonic() + self.step()

    def _may_step(self, due: float) -> bool:
        if self._submitted is None:
            return False
        # A new submission is reason to look again, unless the API server has asked for a pause.
        fresh = self._submitted is not self._considered and not self._failures
        return fresh or time.monotonic() >= due

    def step(self) -> float:
        """Write what is to be written and affordable; returns the seconds after which there may be more.

        Every failure is handled here: after one of the API server's the next step is due after a pause.
        """
        submission = self._submitted
        if submission is None:
            return self._heartbeat_seconds
        if submission is not self._considered:
            self._consider(submission)
            self._considered = submission
        try:
            pause = self._work(submission)
        except AwayError as error:
            self._failures += 1
            if not error.status:
                # Without an answer it is not known whether the write arrived.
                self._next_list = float("-inf")
            self._report_away(error)
            return backoff_seconds(self._failures, error.retry_after_seconds, random.random())  # noqa: S311 (spreads load)
        except ApiError as error:
            if isinstance(error, NotFoundError):
                # With the node's object, or its kind, all others may be gone too, and nobody tells of those.
                self._look_again()
            self._refused("The node's report", error)
            return REFUSED_SECONDS / 4
        self._failures = 0
        self._report_back()
        return max(pause, 0.05)

    @property
    def idle(self) -> bool:
        """Whether the API server holds everything that was submitted and is worth a write."""
        with self._wake:
            submission, considered = self._submitted, self._considered
        return submission is not None and submission is considered and self.reported.is_set() and not self._todo()

    def _consider(self, submission: Submission) -> None:
        now = self._clock()
        if submission.watchpoints != self._watchpoints:
            if not submission.watchpoints:
                # Withdrawn, or gone with the node's object: to write to that tells.
                self._next_heartbeat = float("-inf")
            self._watchpoints, self._gauges = submission.watchpoints, gauges(submission.watchpoints)
        records: dict[str, _Record] = {}
        for uid, observation in submission.sweep.pods.items():
            record = self._records.get(uid) or _Record(observation.pod, observation.facts, kept_at=now)
            # The API server's word is newer than the sweep's where a pod was changed meanwhile.
            record.pod = submission.pods.get(uid, observation.pod)
            record.facts = observation.facts
            records[uid] = record
            existing = self._existing.get(_key(record.pod))
            written = None if existing is None else existing.written
            if observation.fresh:
                compared = self._compared(record, written)
                record.history = record.history.observe(record.facts, compared.crossed, now)
                if self._mode == "Noteworthy" and noteworthy(record.facts, compared.values, self._gauges):
                    record.noteworthy_at = record.kept_at = now
        self._records = records
        self._consider_node(submission, now)

    def _look_again(self) -> None:
        self._node_object = False
        self._next_list = self._next_heartbeat = float("-inf")

    def _consider_node(self, submission: Submission, now: float) -> None:
        crossed = self._crossed_by_node(submission)
        self._node_damping = self._node_damping.observe(crossed, now)
        self._early = self._node_damping.due(crossed) is not None

    def _crossed_by_node(self, submission: Submission) -> tuple[Crossing, ...]:
        if self._node_written is None:
            return ()
        written, current = read(self._node_written, self._gauges), read(submission.sweep.node, self._gauges)
        crossed = crossings(written, current, self._gauges)
        # What only Info rules watch waits for the next heartbeat.
        return tuple(crossing for crossing in crossed if crossing.watched.urgent)

    def _compared(self, record: _Record, written: Facts | None) -> _Compared:
        known, by = record.compared, self._gauges
        if known is not None and known.by is by and known.written is written and known.current is record.facts:
            return known
        values = read(record.facts, by)
        if known is not None and known.by is by and known.written is written:
            values_written = known.values_written
        else:
            values_written = values if written is None else read(written, by)
        crossed = crossings(values_written, values, by)
        record.compared = _Compared(written, record.facts, by, values_written, values, crossed)
        return record.compared

    def _work(self, submission: Submission) -> float:
        if self._clock() >= self._next_list:
            self._list(submission)
        self._beat()
        actions = self._todo()
        if submission is not self._counted:
            self._counted = submission
            self._sink.suppressed(self._suppressed(actions))
        for action in actions:
            budget = self._budget_of(action)
            if budget is not None and (budget.left(self._clock()) < 1 or not self._stands(action)):
                continue
            wait = self._budget.take(self._clock())
            if wait > 0:
                return wait
            if self._stopping:
                return 0.0
            if budget is not None:
                budget.take(self._clock())
            self._perform(action)
            self._beat()
        return min(self._next_heartbeat, self._next_list) - self._clock()

    def _suppressed(self, actions: Sequence[_Action]) -> int:
        """How many pods' facts differ from what is written without being worth a write."""
        chosen = {id(action.record) for action in actions}
        held = [
            (record.history.seen, existing.written)
            for record in self._records.values()
            if id(record) not in chosen and (existing := self._existing.get(_key(record.pod))) is not None
        ]
        return sum(written is not None and seen != exact(written) for seen, written in held)

    def _budget_of(self, action: _Action) -> WriteBudget | None:
        """What the action is paid from beside the limit of all writes; None: nothing."""
        if action.delete or action.why.startswith(_OWED):
            return None
        return self._settled if action.why == SETTLED else self._routine

    def _stands(self, action: _Action) -> bool:
        """Whether it is still worth a write: each that was made since made the bands wider."""
        record, existing = action.record, self._existing.get(_key(action.pod))
        return record is not None and existing is not None and self._reason(record, existing) is not None

    def _steps(self) -> int:
        """How wide bands are: one step while the budget for routine writes is full, none counts when it is spent.

        So the numbers that have changed most are always written first, and where many go up and down all the time the
        bands become as wide as that, with the last part of the budget left for what really changes.
        """
        left = self._routine.left(self._clock())
        if left < 1:
            return 0
        return MOST_STEPS - min(MOST_STEPS - 1, int(MOST_STEPS * left / ROUTINE_BURST))

    def _todo(self) -> list[_Action]:
        """What differs, most urgent first, and of equals that first which was not written for longest."""
        submission = self._considered
        if submission is None:
            return []
        now = self._clock()
        found: list[_Action] = []
        for record in list(self._records.values()):
            if record.not_before > now or record.pod.completed:
                continue
            existing = self._existing.get(_key(record.pod))
            action = self._wanted(record, existing, now)
            if action is not None:
                found.append(action)
        for pod in submission.pods.values():
            existing = self._existing.get(_key(pod))
            if pod.completed and existing is not None and existing.spec.pod_uid == pod.uid:
                found.append(_Action("completed", pod, None, delete=True))
        found.sort(key=lambda action: (_urgency(action.why), self._written_time(action.pod)))
        return found

    def _wanted(self, record: _Record, existing: _Existing | None, now: float) -> _Action | None:
        if self._mode == "Noteworthy":
            mine = existing is not None and existing.spec.pod_uid == record.pod.uid
            if now - (record.kept_at if mine else record.noteworthy_at) >= QUIET_SECONDS:
                return None if existing is None else _Action(QUIET, record.pod, record, delete=True)
        why = self._reason(record, existing)
        return None if why is None else _Action(why, record.pod, record)

    def _written_time(self, pod: PodInfo) -> str:
        existing = self._existing.get(_key(pod))
        return "" if existing is None or existing.written is None else existing.written.observed_time

    def _reason(self, record: _Record, existing: _Existing | None) -> str | None:
        if existing is None:
            return "first"
        if existing.spec.pod_uid != record.pod.uid:
            return "replaced"
        crossed = self._compared(record, existing.written).crossed
        why = reason_to_write(existing.written, record.facts, crossed, record.history, self._steps())
        if why == SETTLED and self._settled.left(self._clock()) < 1:
            why = None
        if why is None and not self._described(record.pod, existing):
            return "metadata"
        return why

    def _described(self, pod: PodInfo, existing: _Existing) -> bool:
        return existing.spec == self._spec(pod) and existing.labels == copied_labels(pod.labels)

    def _spec(self, pod: PodInfo) -> SocketHealthSpec:
        # Addresses of a pod in the node's namespace are the node's, and the node is known by them.
        addresses = [] if pod.host_network else list(pod.ips)
        return SocketHealthSpec(
            node_name=self._identity.node_name, pod_uid=pod.uid, pod_ips=addresses, host_network=pod.host_network
        )

    def _perform(self, action: _Action) -> None:
        key, record = _key(action.pod), action.record
        try:
            if record is not None and not action.delete:
                self._bring_up_to_date(action.why, key, record)
            elif record is not None and self._is_judged(key, record):
                # Its findings clear first, as those of any pod do.
                record.kept_at = self._clock()
                return
            else:
                self._delete(key)
        except (NotFoundError, ConflictError):
            # Someone deleted or replaced the object: the next step sees what is there.
            self._look(key)
        except AwayError:
            raise
        except ApiError as error:
            if record is not None:
                record.not_before = self._clock() + REFUSED_SECONDS
            # A pod goes with its namespace: until then it has no report, which nobody need be told.
            if not isinstance(error, TerminatingError):
                self._refused(f"The report of {action.pod}", error)
        else:
            self._sink.wrote(action.why)
            self._refusals.clear()

    def _is_judged(self, key: _Key, record: _Record) -> bool:
        """Whether the pod's object holds findings of its own, or rules that are pending or clearing."""
        held = msgspec.json.decode(self._api.get(_path(key)), type=SocketHealth, strict=False)
        return held.spec.pod_uid == record.pod.uid and bool(held.status.findings or held.status.evaluation)

    def _delete(self, key: _Key) -> None:
        existing = self._existing.get(key)
        if existing is not None:
            self._api.delete(_path(key), uid=existing.uid)
            self._existing.pop(key, None)

    def _bring_up_to_date(self, why: str, key: _Key, record: _Record) -> None:
        pod = record.pod
        existing = self._existing.get(key)
        if existing is not None and existing.spec.pod_uid != pod.uid:
            # Findings of the pod before must not stick to this one, so its object goes first.
            self._delete(key)
            existing = None
        if existing is None or not self._described(pod, existing):
            existing = self._describe(pod, existing)
        if why != "metadata":
            crossed = self._compared(record, existing.written).crossed
            self._write_facts(key, existing, record.facts)
            record.history = record.history.wrote(crossed, self._clock())

    def _describe(self, pod: PodInfo, before: _Existing | None) -> _Existing:
        owner = OwnerReference(api_version="v1", kind="Pod", name=pod.name, uid=pod.uid)
        answer = self._api.apply(
            _path(_key(pod)),
            {
                "apiVersion": API_VERSION,
                "kind": "SocketHealth",
                "metadata": {
                    "name": pod.name,
                    "namespace": pod.namespace,
                    "labels": copied_labels(pod.labels),
                    "ownerReferences": [encode(owner)],
                },
                "spec": encode(self._spec(pod)),
            },
            manager=AGENT_FIELD_MANAGER,
        )
        # Labels that others put there are theirs to keep, and no reason to write again.
        made = replace(_existing(answer), labels=copied_labels(pod.labels))
        if before is not None and before.uid == made.uid:
            made = replace(made, written=before.written)
        self._existing[_key(pod)] = made
        return made

    def _write_facts(self, key: _Key, existing: _Existing, facts: Facts) -> None:
        namespace, name = key
        self._api.apply(
            _path(key) + "/status",
            {
                "apiVersion": API_VERSION,
                "kind": "SocketHealth",
                "metadata": {"name": name, "namespace": namespace, "uid": existing.uid},
                "status": encode(facts),
            },
            manager=AGENT_FIELD_MANAGER,
        )
        self._existing[key] = replace(existing, written=facts)

    def _look(self, key: _Key) -> None:
        try:
            self._existing[key] = _existing(self._api.get(_path(key)))
        except NotFoundError:
            self._existing.pop(key, None)

    def _list(self, submission: Submission) -> None:
        selector = {"fieldSelector": f"spec.nodeName={self._identity.node_name}"}
        found: dict[_Key, _Existing] = {}
        abandoned: list[tuple[_Key, str]] = []
        known = submission.pods
        for page in self._api.pages(f"{GROUP_PATH}/sockethealths", selector):
            for raw in msgspec.json.decode(page, type=_Items).items:
                described = msgspec.json.decode(raw, type=_Described).metadata
                key = (described.namespace, described.name)
                found[key] = _existing(bytes(raw))
                if found[key].spec.pod_uid not in known:
                    abandoned.append((key, found[key].uid))
        self._existing = found
        for key, uid in abandoned:
            # Garbage collection removes them too; here it is for a cluster in which it lags or the owner was edited.
            if key not in {_key(pod) for pod in known.values()}:
                self._api.delete(_path(key), uid=uid)
                found.pop(key, None)
        # Spread, so that the agents of many nodes do not list at the same moment.
        self._next_list = self._clock() + RELIST_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311 (spreads load)
        self._node_known = False

    def _beat(self) -> None:
        submission = self._submitted
        now = self._clock()
        if submission is None or now - submission.at > self._fresh_seconds:
            return
        if now < self._next_heartbeat and not self._early:
            return
        if not self._node_known or not self._node_object:
            self._describe_node()
        agent = Agent(
            version=self._identity.version,
            heartbeat_time=format_time(self._wall_clock()),
            interval_seconds=self._heartbeat_seconds,
            boot_id=self._identity.boot_id,
            kernel=self._identity.kernel,
            report_mode=self._mode,
        )
        facts = msgspec.structs.replace(submission.sweep.node, agent=agent)
        answer = self._api.apply(
            self._node_path + "/status",
            {
                "apiVersion": API_VERSION,
                "kind": "NodeSocketHealth",
                "metadata": {"name": self._identity.node_name},
                "status": encode(facts),
            },
            manager=AGENT_FIELD_MANAGER,
        )
        held = msgspec.json.decode(answer, type=_Node).metadata.labels
        if self._node is not None and not _node_labels(self._node).items() <= held.items():
            self._node_object = False  # someone took labels away: they are put back with the next heartbeat
        self._node_damping = self._node_damping.wrote(self._crossed_by_node(submission), now)
        self._node_written, self._early = submission.sweep.node, False
        first = not self.reported.is_set()
        # The first interval is cut at a random place, so that nodes started together do not beat together.
        self._next_heartbeat = now + self._heartbeat_seconds * (random.random() if first else 1.0)  # noqa: S311 (spreads load)
        self._sink.wrote("heartbeat")
        self.reported.set()

    def _describe_node(self) -> None:
        name = self._identity.node_name
        node = msgspec.json.decode(self._api.get(f"/api/v1/nodes/{segment(name)}"), type=_Node)
        self._node_known = True
        if self._node_object and node == self._node:
            return
        owner = OwnerReference(api_version="v1", kind="Node", name=name, uid=node.metadata.uid)
        self._api.apply(
            self._node_path,
            {
                "apiVersion": API_VERSION,
                "kind": "NodeSocketHealth",
                "metadata": {
                    "name": name,
                    "labels": _node_labels(node),
                    "ownerReferences": [encode(owner)],
                },
            },
            manager=AGENT_FIELD_MANAGER,
        )
        self._node, self._node_object = node, True

    @property
    def _node_path(self) -> str:
        return f"{GROUP_PATH}/nodesockethealths/{segment(self._identity.node_name)}"

    def _refused(self, what: str, error: ApiError) -> None:
        # One line for each kind of refusal, however many pods it meets, until a write succeeds.
        if error.status not in self._refusals:
            self._refusals.add(error.status)
            LOG.warning("%s was refused and is tried again every %.0f s: %s", what, REFUSED_SECONDS, error)

    def _report_away(self, error: ApiError) -> None:
        if self._away_since is None:
            self._away_since = self._clock()
            LOG.warning("Nothing can be reported; sockets are read on, and the latest is written later: %s", error)

    def _report_back(self) -> None:
        if self._away_since is not None:
            LOG.info("Reporting again after %.0f s.", self._clock() - self._away_since)
            self._away_since = None


class _Names(msgspec.Struct, frozen=True):
    name: str
    namespace: str = ""


class _Described(msgspec.Struct, frozen=True):
    metadata: _Names


def _node_labels(node: _Node) -> dict[str, str]:
    return copied_labels(node.metadata.labels, MOST_NODE_LABELS)


def _key(pod: PodInfo) -> _Key:
    return pod.namespace, pod.name


def _path(key: _Key) -> str:
    namespace, name = key
    return f"{GROUP_PATH}/namespaces/{segment(namespace)}/sockethealths/{segment(name)}"


def _urgency(why: str) -> int:
    return next(index for index, prefix in enumerate(_URGENCY) if why.startswith(prefix))


class _Bare(msgspec.Struct, frozen=True):
    uid: str = ""


class _BareObject(msgspec.Struct, frozen=True):
    metadata: _Bare = _Bare()


def _existing(raw: bytes) -> _Existing:
    try:
        held = msgspec.json.decode(raw, type=SocketHealth, strict=False)
    except msgspec.ValidationError:
        # Written by another version or by hand: an object without facts, which are then written over it.
        uid = msgspec.json.decode(raw, type=_BareObject).metadata.uid
        return _Existing(uid, SocketHealthSpec(), {}, None)
    facts = Facts(**{name: getattr(held.status, name) for name in Facts.__struct_fields__})
    return _Existing(
        uid=held.metadata.uid or "",
        spec=held.spec,
        labels=held.metadata.labels,
        written=None if facts.observed_time == _NEVER_WRITTEN else facts,
    )


def own_node(api: KubeApi, node_name: str, on_change: Callable[[], None] = lambda: None) -> Mirror[NodeSocketHealth]:
    """The node's own NodeSocketHealth, by name; not started yet. Its spec.watchpoints are what is wanted of it."""
    collection = Collection(
        f"{GROUP_PATH}/nodesockethealths", {"fieldSelector": f"metadata.name={node_name}"}, _read_node, _node_name
    )
    return Mirror(api, collection, on_change=on_change)


def watchpoints_of(mirror: Mirror[NodeSocketHealth]) -> tuple[Watchpoint, ...]:
    """The watchpoints in force, none until the operator has written some."""
    return tuple(watchpoint for node in mirror.items.values() for watchpoint in node.spec.watchpoints)


def _read_node(raw: bytes) -> NodeSocketHealth:
    return msgspec.json.decode(raw, type=NodeSocketHealth, strict=False)


def _node_name(node: NodeSocketHealth) -> str:
    return node.metadata.name
