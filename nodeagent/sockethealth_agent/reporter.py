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
from sockethealth_agent.kubeapi import ApiError, AwayError, ConflictError, KubeApi, NotFoundError, segment
from sockethealth_agent.pods import PodInfo
from sockethealth_agent.sampler import Sweep
from sockethealth_agent.watching import Collection, Mirror, backoff_seconds
from sockethealth_core.bands import SETTLED, Settling, exact, reason_to_write
from sockethealth_core.names import AGENT_FIELD_MANAGER, API_VERSION
from sockethealth_core.resources import (
    Agent,
    Facts,
    NodeSocketHealth,
    OwnerReference,
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
RELIST_SECONDS: Final = 600.0
"""How often the objects are listed, to find those that someone deleted and those whose pod is gone."""
REFUSED_SECONDS: Final = 60.0
"""A write the server refused is tried again after this."""
STALE_SWEEPS: Final = 3
_URGENCY: Final = ("crossed", "replaced", "first", "")
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


@dataclass
class _Record:
    """A pod to report."""

    pod: PodInfo
    facts: Facts
    settling: Settling = field(default_factory=Settling)
    not_before: float = float("-inf")


_Key = tuple[str, str]


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
        heartbeat_seconds: float = 60.0,
        writes_per_second: float = 5.0,
        burst: float = 50.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Writes nothing yet.

        Args:
            api: its credentials are those of the agent.
            identity: goes into status.agent.
            sink: told of each write.
            interval_seconds: time between sweeps; without one for three of them there is no heartbeat.
            heartbeat_seconds: time between heartbeats.
            writes_per_second: long-run limit of writes, heartbeats not counted.
            burst: writes at once.
            clock: monotonic seconds.
            wall_clock: epoch seconds.
        """
        self._api = api
        self._identity = identity
        self._sink = sink
        self._fresh_seconds = STALE_SWEEPS * interval_seconds + heartbeat_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._budget = WriteBudget(writes_per_second, burst)
        self._clock = clock
        self._wall_clock = wall_clock
        self._wake = threading.Condition()
        self._submitted: Submission | None = None
        self._considered: Submission | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._records: dict[str, _Record] = {}
        self._existing: dict[_Key, _Existing] = {}
        self._node: _Node | None = None
        self._node_object = False
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
        suppressed = 0
        records: dict[str, _Record] = {}
        for uid, observation in submission.sweep.pods.items():
            record = self._records.get(uid) or _Record(observation.pod, observation.facts)
            # The API server's word is newer than the sweep's where a pod was changed meanwhile.
            record.pod = submission.pods.get(uid, observation.pod)
            record.facts = observation.facts
            if observation.fresh:
                record.settling = record.settling.observe(observation.facts, now)
            records[uid] = record
            existing = self._existing.get(_key(record.pod))
            if existing is not None and existing.written is not None and self._reason(record, existing) is None:
                suppressed += exact(existing.written) != exact(record.facts)
        self._records = records
        self._sink.suppressed(suppressed)

    def _work(self, submission: Submission) -> float:
        if self._clock() >= self._next_list:
            self._list(submission)
        self._beat()
        for action in self._todo():
            wait = self._budget.take(self._clock())
            if wait > 0:
                return wait
            if self._stopping:
                return 0.0
            self._perform(*action)
            self._beat()
        return min(self._next_heartbeat, self._next_list) - self._clock()

    def _todo(self) -> list[tuple[str, _Key, PodInfo, _Record | None]]:
        """What differs, most urgent first: (why, key, pod, its record; None to delete)."""
        submission = self._considered
        if submission is None:
            return []
        now = self._clock()
        found: list[tuple[str, _Key, PodInfo, _Record | None]] = []
        for record in list(self._records.values()):
            if record.not_before > now or record.pod.completed:
                continue
            existing = self._existing.get(_key(record.pod))
            why = self._reason(record, existing)
            if why is not None:
                found.append((why, _key(record.pod), record.pod, record))
        for pod in submission.pods.values():
            existing = self._existing.get(_key(pod))
            if pod.completed and existing is not None and existing.spec.pod_uid == pod.uid:
                found.append(("completed", _key(pod), pod, None))
        found.sort(key=lambda action: _urgency(action[0]))
        return found

    def _reason(self, record: _Record, existing: _Existing | None) -> str | None:
        if existing is None:
            return "first"
        if existing.spec.pod_uid != record.pod.uid:
            return "replaced"
        watchpoints = self._submitted.watchpoints if self._submitted else ()
        why = reason_to_write(existing.written, record.facts, watchpoints, record.settling)
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

    def _perform(self, why: str, key: _Key, pod: PodInfo, record: _Record | None) -> None:
        try:
            if record is None:
                self._delete(key)
            else:
                self._bring_up_to_date(why, key, record)
        except (NotFoundError, ConflictError):
            # Someone deleted or replaced the object: the next step sees what is there.
            self._look(key)
        except AwayError:
            raise
        except ApiError as error:
            if record is not None:
                record.not_before = self._clock() + REFUSED_SECONDS
            self._refused(f"The report of {pod}", error)
        else:
            self._sink.wrote(why)
            self._refusals.clear()

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
            self._write_facts(key, existing, record.facts)
        if why == SETTLED:
            record.settling = record.settling.spent()

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
        self._node = None

    def _beat(self) -> None:
        submission = self._submitted
        now = self._clock()
        if submission is None or now < self._next_heartbeat or now - submission.at > self._fresh_seconds:
            return
        if self._node is None or not self._node_object:
            self._describe_node()
        agent = Agent(
            version=self._identity.version,
            heartbeat_time=format_time(self._wall_clock()),
            interval_seconds=self._heartbeat_seconds,
            boot_id=self._identity.boot_id,
            kernel=self._identity.kernel,
        )
        facts = msgspec.structs.replace(submission.sweep.node, agent=agent)
        try:
            self._api.apply(
                self._node_path + "/status",
                {
                    "apiVersion": API_VERSION,
                    "kind": "NodeSocketHealth",
                    "metadata": {"name": self._identity.node_name},
                    "status": encode(facts),
                },
                manager=AGENT_FIELD_MANAGER,
            )
        except NotFoundError:
            self._node_object = False
            raise
        first = not self.reported.is_set()
        # The first interval is cut at a random place, so that nodes started together do not beat together.
        self._next_heartbeat = now + self._heartbeat_seconds * (random.random() if first else 1.0)  # noqa: S311 (spreads load)
        self._sink.wrote("heartbeat")
        self.reported.set()

    def _describe_node(self) -> None:
        name = self._identity.node_name
        node = msgspec.json.decode(self._api.get(f"/api/v1/nodes/{segment(name)}"), type=_Node)
        owner = OwnerReference(api_version="v1", kind="Node", name=name, uid=node.metadata.uid)
        self._api.apply(
            self._node_path,
            {
                "apiVersion": API_VERSION,
                "kind": "NodeSocketHealth",
                "metadata": {
                    "name": name,
                    "labels": copied_labels(node.metadata.labels, MOST_NODE_LABELS),
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
