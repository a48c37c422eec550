"""What a fleet of agents costs a real API server and the operator: writes, CPU time and memory, at three sizes.

Each node has a reporter of its own, the agent's code as it is, over pretended pods and a clock of its own, which runs
as fast as the machine lets it. Before it meets the API server it reports to a stand-in for some hours of its clock, so
that the budgets it begins with are spent and what follows is what a day looks like.
"""

import gc
import json
import logging
import os
import random
import re
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import linear_regression, median
from typing import Any, Final, Protocol, cast

import click
import msgspec
import urllib3

from benchmarks.apiserver import NODES_PATH, ApiServer, api_server, bare_node, cpu_seconds, memory_mib
from benchmarks.counting_api import CountingApi
from benchmarks.operator_sync import _Operator, _operator
from benchmarks.pretend import PretendNode, node
from benchmarks.report import Missing, Report, Row, Series
from benchmarks.writes import HEARTBEAT_SECONDS, LEAKED_PER_SECOND, VirtualClock, default_watchpoints
from sockethealth_agent.kubeapi import AwayError, Endpoint, KubeApi, NotFoundError
from sockethealth_agent.reporter import GROUP_PATH, AgentIdentity, Reporter
from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.names import GROUP
from sockethealth_core.resources import ReportMode, encode

TITLE: Final = "a fleet of agents on one API server: what it writes and what all sides need"
NODES: Final = max(4, int(os.environ.get("SOCKETHEALTH_BENCH_FLEET_NODES", "1000")))
"""Nodes of the largest fleet; fewer for a quick look."""
IDLE, STEADY, CHURNING = 24, 3, 3
PODS: Final = IDLE + STEADY + CHURNING
PROJECTED_NODES: Final = 5000
INTERVAL_SECONDS: Final = 60.0
"""Between sweeps. One process cannot sweep a thousand nodes as often as an agent sweeps one, and the number of writes
hardly depends on it."""
WARM_UP_INTERVAL_SECONDS: Final = 300.0
WARM_UP_SECONDS: Final = 9000.0
SPAN_SECONDS: Final = 900.0
REPLACED_AN_HOUR: Final = 6 / 110
"""Of a pod: as on the node of benchmarks/writes.py."""
LEAKING_SHARE: Final = 0.01
LEASE_SECONDS, LEASE_EVERY_SECONDS = 60.0, 10.0
LISTS: Final = 20
FLAT_MOST: Final = 1.25
THREADS: Final = 4
_IDLE_SECONDS: Final = 5.0
_SAMPLES: Final = 5
_WRITES: Final = re.compile(r'verb="(APPLY|PATCH|PUT|POST|DELETE)"')
_NAMESPACES: Final = 10
_GIVE_UP_SECONDS: Final = 300.0
_COMPONENTS: Final = ("kube-apiserver", "etcd")
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def run() -> Report:
    """Measure.

    Raises:
        Missing: there is no API server to be had here, or a program did not do what it is there for.
    """
    # Each agent would say that it lost its first API server and found the next.
    logging.getLogger("sockethealth_agent").setLevel(logging.ERROR)
    with _control_plane("All", NODES) as everything:
        stages = [everything.grow(size) for size in (NODES // 4, NODES // 2, NODES)]
        span = everything.span()
        leases = everything.leases()
        watches = everything.watches()
        kept_bytes = everything.object_bytes()
    with _control_plane("Noteworthy", NODES) as few:
        few_stage = few.grow(NODES)
        few_span = few.span()
    rows = [
        *_installation(stages, few_stage),
        *_steady(span, few_span, leases),
        *_memory([everything.empty, *stages], span, few_stage, few_span),
        Row(Series("API server memory, the two watches of an agent", "KiB", (watches,))),
        Row(Series("a SocketHealth, as JSON", "bytes", (kept_bytes,))),
    ]
    return Report("fleet", TITLE, tuple(rows), _notes(span, few_span))


@dataclass(frozen=True)
class _Stage:
    """A fleet that has reported and is at rest.

    Attributes:
        nodes: how many agents.
        objects: SocketHealths and NodeSocketHealths.
        seconds: from the first agent's first report of this stage until the operator had nothing left to do.
        agent_writes: of the agents within that time.
        all_writes: these and those of the operator.
        api_mib: resident memory of the API server, several times.
        heap_mib: what is left of the API server's heap after a collection.
        etcd_mib: resident memory of etcd, the mapped part of its file included.
        database_mib: what is in use of etcd's file.
        operator_mib: resident memory of the operator.
        list_ms: CPU time of the API server for one agent's list of its own objects.
    """

    nodes: int
    objects: int
    seconds: float
    agent_writes: int
    all_writes: float
    api_mib: tuple[float, ...]
    heap_mib: float
    etcd_mib: float
    database_mib: float
    operator_mib: float
    list_ms: float


@dataclass(frozen=True)
class _Span:
    """What happened while the fleet went on.

    Attributes:
        nodes: how many agents.
        writes: of the agents.
        reasons: what the agents wrote for; an object that is new takes two writes.
        operator_writes: of the operator.
        wall_seconds: how long it took.
        cpu_seconds: by program, less what it takes at rest.
        api_mib: resident memory of the API server, once a second.
        etcd_mib: of etcd.
        operator_mib: of the operator.
        database_mib: size of etcd's file at the end.
        failures: requests that failed, by status.
        leaks: pods that leaked, and of these those with 50 CLOSE_WAIT or more in the API at the end.
    """

    nodes: int
    writes: int
    reasons: Counter[str]
    operator_writes: float
    wall_seconds: float
    cpu_seconds: Mapping[str, float]
    api_mib: tuple[float, ...]
    etcd_mib: tuple[float, ...]
    operator_mib: tuple[float, ...]
    database_mib: float
    failures: Counter[int]
    leaks: tuple[int, int]

    @property
    def per_second(self) -> float:
        """Writes of the agents a second of their clock, without heartbeats."""
        return (self.writes - self.reasons["heartbeat"]) / SPAN_SECONDS

    @property
    def heartbeats_per_second(self) -> float:
        """Their heartbeats."""
        return self.reasons["heartbeat"] / SPAN_SECONDS

    @property
    def write_ms(self) -> float:
        """CPU time of API server and etcd for one write of an agent, with all else that comes of it."""
        return 1000 * sum(self.cpu_seconds[name] for name in _COMPONENTS) / self.writes


def _installation(stages: Sequence[_Stage], few: _Stage) -> Iterator[Row]:
    taken = tuple(stage.all_writes / stage.seconds for stage in stages)
    yield Row(Series("writes the API server took while they came", "/s", taken))
    before, last = stages[-2], stages[-1]
    yield Row(Series(f"the last {last.nodes - before.nodes} agents' first reports", "s", (last.seconds,)))
    yield Row(
        Series("first writes of a node, Noteworthy", "", (few.agent_writes / few.nodes,)),
        Series("All", "", (sum(stage.agent_writes for stage in stages) / last.nodes,)),
    )


def _steady(span: _Span, few: _Span, lease_ms: float) -> Iterator[Row]:
    for name, one in (("All", span), ("Noteworthy", few)):
        leases = Series("Lease renewals", "/s", (one.nodes / LEASE_EVERY_SECONDS,))
        yield Row(Series(f"heartbeats, {name}", "/s", (one.heartbeats_per_second,)), leases)
        yield Row(Series(f"other writes, {name}", "/s", (one.per_second,)), leases)
    yield Row(
        Series("CPU of API server and etcd, a write", "ms", (span.write_ms,)),
        Series("of a Lease", "ms", (lease_ms,)),
    )
    for name, one in (("All", span), ("Noteworthy", few)):
        for program, used in one.cpu_seconds.items():
            yield Row(Series(f"CPU of {program} in an hour, {name}", "s", (used * 3600 / SPAN_SECONDS,)))


def _memory(stages: Sequence[_Stage], span: _Span, few: _Stage, few_span: _Span) -> Iterator[Row]:
    empty, last = stages[0], stages[-1]
    yield Row(Series("API server without our objects", "MiB", empty.api_mib))
    yield Row(Series(f"with {last.objects:,}, at rest", "MiB", last.api_mib))
    yield Row(Series("while their agents write, All", "MiB", span.api_mib))
    yield Row(
        Series(f"the same, Noteworthy ({few.objects:,} objects)", "MiB", few_span.api_mib),
        Series("All", "MiB", span.api_mib),
    )
    yield Row(Series("etcd before, All", "MiB", (empty.etcd_mib,)))
    yield Row(Series("etcd while they write, All", "MiB", span.etcd_mib))
    yield Row(Series("the same, Noteworthy", "MiB", few_span.etcd_mib), Series("All", "MiB", span.etcd_mib))
    yield Row(
        Series("etcd's file at the end, Noteworthy", "MiB", (few_span.database_mib,)),
        Series("All", "MiB", (span.database_mib,)),
    )
    yield Row(Series("operator while they write, All", "MiB", span.operator_mib))
    yield Row(Series("the same, Noteworthy", "MiB", few_span.operator_mib), Series("All", "MiB", span.operator_mib))
    heap = [(stage.objects, stage.heap_mib) for stage in stages]
    kept = [(stage.objects, stage.operator_mib) for stage in stages]
    for what, points in (("API server's live heap", heap), ("operator's memory", kept)):
        yield Row(
            _each(f"{what} an object, the larger half", points[-2:]),
            _each("the smaller half", [points[0], points[-2]]),
            most=FLAT_MOST,
        )
    yield from _formula(stages)
    listed = stages[1:]
    yield Row(
        Series(f"CPU of the API server for one agent's list, of {listed[-1].objects:,}", "ms", (listed[-1].list_ms,)),
        Series(f"of {listed[0].objects:,}", "ms", (listed[0].list_ms,)),
    )


def _formula(stages: Sequence[_Stage]) -> Iterator[Row]:
    """The straight line through all sizes, for each program, and what it says of a larger fleet."""
    objects = [stage.objects for stage in stages]
    many = PROJECTED_NODES * (PODS + 1)
    measures = {
        "API server": [median(stage.api_mib) for stage in stages],
        "API server's live heap": [stage.heap_mib for stage in stages],
        "etcd": [stage.etcd_mib for stage in stages],
        "etcd's file": [stage.database_mib for stage in stages],
        "operator": [stage.operator_mib for stage in stages],
    }
    for what, mib in measures.items():
        line = linear_regression(objects, mib)
        yield Row(Series(f"{what}, by the line without objects", "MiB", (line.intercept,)))
        yield Row(Series(f"{what}, by the line each object", "KiB", (line.slope * 1024,)))
        expected = line.intercept + line.slope * many
        yield Row(Series(f"{what}, computed for {PROJECTED_NODES:,} nodes, {many:,} objects", "MiB", (expected,)))


def _each(what: str, points: Sequence[tuple[int, float]]) -> Series:
    (few, less), (many, more) = points
    return Series(what, "KiB", ((more - less) * 1024 / (many - few),))


def _notes(span: _Span, few: _Span) -> tuple[str, ...]:
    def reasons(one: _Span) -> str:
        return ", ".join(f"{why} {count}" for why, count in one.reasons.most_common())

    return (
        (
            f"{PODS} pods a node: {IDLE} idle, {STEADY} with kept connections, {CHURNING} with one a request; "
            f"{REPLACED_AN_HOUR:.1%} of the pods are replaced in an hour; 1 % of the nodes have a pod that leaks."
        ),
        (
            f"{SPAN_SECONDS / 60:g} minutes of the agents' clocks took {span.wall_seconds:.0f} s (All) and "
            f"{few.wall_seconds:.0f} s; before came {WARM_UP_SECONDS / 3600:g} hours without an API server."
        ),
        f"All: {reasons(span)}; the operator {span.operator_writes:g}; failed {dict(span.failures) or 'none'}.",
        f"Noteworthy: {reasons(few)}; the operator {few.operator_writes:g}; failed {dict(few.failures) or 'none'}.",
        (
            f"Leaks with 50 or more CLOSE_WAIT in the API at the end: {span.leaks[1]} of {span.leaks[0]} (All), "
            f"{few.leaks[1]} of {few.leaks[0]} (Noteworthy)."
        ),
        "CPU is less what a program takes at rest, and includes lists, watches and the operator's writes.",
        "Leases are renewed with JSON over kept connections, as agents write; kubelets use protobuf.",
        "No controller manager runs: its garbage collector would remove objects of pods that are not there.",
    )


class _Api(Protocol):
    """What a reporter asks of its client."""

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> bytes: ...

    def pages(self, path: str, parameters: Mapping[str, str] | None = None) -> Iterator[bytes]: ...

    def apply(self, path: str, body: Mapping[str, Any], *, manager: str, force: bool = True) -> bytes: ...

    def delete(self, path: str, *, uid: str | None = None) -> None: ...


class _StandIn:
    """An API server within this process."""

    def __init__(self, clock: VirtualClock) -> None:
        self._held = CountingApi(clock)

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> bytes:
        del parameters  # it holds the objects of one node
        return self._ask("GET", path, {})

    def pages(self, path: str, parameters: Mapping[str, str] | None = None) -> Iterator[bytes]:
        yield self.get(path, parameters)

    def apply(self, path: str, body: Mapping[str, Any], *, manager: str, force: bool = True) -> bytes:
        del manager, force  # there is one
        return self._ask("PATCH", path, dict(body))

    def delete(self, path: str, *, uid: str | None = None) -> None:
        del uid
        self._ask("DELETE", path, {})

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> bytes:
        status, document = self._held.answer(method, path, body)
        self._held.writes.clear()
        if status >= 300:
            raise NotFoundError(str(document["message"]), status=status)
        return msgspec.json.encode(document)


class _Line:
    """A reporter's client, which can be connected to another server.

    Attributes:
        writes: requests that change something.
    """

    def __init__(self, to: _Api) -> None:
        self._to = to
        self._broken = False
        self.writes = 0

    def connect(self, to: _Api) -> None:
        """Go on with another server; the next request finds that the connection to this one is gone."""
        self._to = to
        self._broken = True

    def _server(self) -> _Api:
        if self._broken:
            self._broken = False
            raise AwayError("The server is not there any more.")
        return self._to

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> bytes:
        return self._server().get(path, parameters)

    def pages(self, path: str, parameters: Mapping[str, str] | None = None) -> Iterator[bytes]:
        return self._server().pages(path, parameters)

    def apply(self, path: str, body: Mapping[str, Any], *, manager: str, force: bool = True) -> bytes:
        server = self._server()
        self.writes += 1
        return server.apply(path, body, manager=manager, force=force)

    def delete(self, path: str, *, uid: str | None = None) -> None:
        server = self._server()
        self.writes += 1
        server.delete(path, uid=uid)


@dataclass
class _Sink:
    reasons: Counter[str] = field(default_factory=Counter)

    def wrote(self, reason: str) -> None:
        self.reasons[reason.partition(" ")[0]] += 1

    def suppressed(self, count: int) -> None:
        """Not of interest here."""


class _Member:
    """A node of the fleet with its agent.

    Args:
        index: which.
        mode: of its reports.
        began: epoch seconds at which its clock is 0.
    """

    def __init__(self, index: int, mode: ReportMode, began: float) -> None:
        name = f"node-{index}"
        self.node: Final[PretendNode] = node(
            name, index, WARM_UP_INTERVAL_SECONDS, idle=IDLE, steady=STEADY, churning=CHURNING
        )
        self.clock: Final = VirtualClock()
        self.sink: Final = _Sink()
        self.line: Final = _Line(_StandIn(self.clock))
        self.leaking: int | None = None
        self._began = began
        self._reporter: Final = Reporter(
            cast("KubeApi", self.line),
            AgentIdentity(name, "bench", "00000000-0000-4000-8000-000000000000", "6.18.0"),
            sink=self.sink,
            interval_seconds=INTERVAL_SECONDS,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            mode=mode,
            clock=self.clock,
            wall_clock=self._now,
        )

    def _now(self) -> float:
        # Its clock runs ahead of the operator's, and never behind it, so that it does not count as silent.
        return max(time.time(), self._began + self.clock.now)

    def advance(self, watchpoints: Any, seconds: float = 0.0) -> None:
        """Sweep once, and let the reporter work until so much time has passed by its clock; 0: one interval."""
        began = self.clock.now
        end = began + (seconds or self.node.interval_seconds)
        self._reporter.submit(self.node.sweep(self._now(), watchpoints, began))
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + self._reporter.step())


class _Fleet:
    """Agents, some of which report to a real API server."""

    def __init__(self, mode: ReportMode, nodes: int) -> None:
        self.mode: Final = mode
        self.watchpoints: Final = default_watchpoints()
        began = time.time() - WARM_UP_SECONDS
        random.seed(0)
        self.members: Final = [_Member(index, mode, began) for index in range(nodes)]
        self._pool: Final = ThreadPoolExecutor(THREADS)

    def warm_up(self) -> None:
        sweeps = round(WARM_UP_SECONDS / WARM_UP_INTERVAL_SECONDS)
        for member in self.members:
            for _ in range(sweeps):
                member.advance(self.watchpoints)
            member.node.interval_seconds = INTERVAL_SECONDS
        # What is there stays until the end, and need not be looked through again and again.
        gc.collect()
        gc.freeze()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        gc.unfreeze()

    def connect(self, members: Sequence[_Member], api: KubeApi) -> None:
        for member in members:
            member.line.connect(api)

    def advance(self, members: Sequence[_Member], seconds: float = 0.0) -> None:
        for _ in self._pool.map(lambda member: member.advance(self.watchpoints, seconds), members):
            pass

    def writes(self) -> int:
        return sum(member.line.writes for member in self.members)

    def reasons(self) -> Counter[str]:
        return sum((member.sink.reasons for member in self.members), Counter[str]())


class _Bench:
    """A fleet, an API server and the operator."""

    def __init__(self, server: ApiServer, operator: _Operator, fleet: _Fleet) -> None:
        self._server = server
        self._operator = operator
        self._fleet = fleet
        self._failures: Counter[int] = Counter()
        cluster = server.cluster
        self._endpoint = Endpoint(url=cluster.server, ca_file=str(cluster.ca_file), token=cluster.admin_token)
        ports = json.loads((cluster.directory.path / "ports.json").read_text())
        self._etcd = f"http://127.0.0.1:{ports['etcd_client']}"
        self._api = self._client()
        self._collector = KubeApi(self._endpoint)
        self._pids = {**{name: server.pid(name) for name in _COMPONENTS}, "operator": operator.process.pid}
        self._reporting = 0
        self._warm = fleet.writes()
        self._collected = 0
        self._at_rest: Mapping[str, float] = {}
        self.empty: Final = self._stage(0.0, 0, 0.0)

    def _client(self) -> KubeApi:
        return KubeApi(self._endpoint, on_error=lambda status: self._failures.update([status]))

    def close(self) -> None:
        """Close the connections."""
        self._api.close()
        self._collector.close()

    def grow(self, nodes: int) -> _Stage:
        """Let agents report until there are so many."""
        fleet, before = self._fleet, self._fleet.writes()
        there, coming = fleet.members[: self._reporting], fleet.members[self._reporting : nodes]
        # Those that are there would count as silent by the time the last have come.
        fleet.advance(there, HEARTBEAT_SECONDS)
        operator_writes = self._operator_writes()
        began = time.monotonic()
        fleet.connect(coming, self._api)
        # Time enough for each to beat, and so to find that its objects are not there.
        fleet.advance(coming, HEARTBEAT_SECONDS + INTERVAL_SECONDS)
        _tell(f"{fleet.mode}: {nodes} agents have reported, {time.monotonic() - began:.0f} s")
        self._reporting = nodes
        self._until_taken_in()
        seconds = time.monotonic() - began
        agent_writes = fleet.writes() - before
        stage = self._stage(seconds, agent_writes, agent_writes + self._operator_writes() - operator_writes)
        _tell(f"{fleet.mode}: {stage}")
        return stage

    def _until_taken_in(self) -> None:
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        expected = self._objects()
        while self._operator.metric("sockethealth_operator_tracked_objects") < expected:
            if time.monotonic() > deadline:
                raise Missing(f"The operator does not see all of {expected} objects.\n{self._operator.log()}")
            time.sleep(0.2)
        self._operator.until_idle()
        self._server.until_quiet()

    def _objects(self) -> int:
        document = msgspec.json.decode(self._api.get(f"{GROUP_PATH}/sockethealths", {"limit": "1"}))
        rest = document["metadata"].get("remainingItemCount", 0)
        return len(document["items"]) + int(rest) + self._reporting

    def _operator_writes(self) -> float:
        """Writes of our objects that no agent of those connected and no garbage collector made."""
        text = self._api.get("/metrics").decode()
        counted = sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("apiserver_request_total{") and f'group="{GROUP}"' in line and _WRITES.search(line)
        )
        return counted - self._collected - (self._fleet.writes() - self._warm)

    def _stage(self, seconds: float, agent_writes: int, all_writes: float) -> _Stage:
        listed = self._list_ms() if self._reporting else 0.0
        for _ in range(2):  # what is pooled survives one collection
            self._api.get("/debug/pprof/heap", {"gc": "1"})
        heap = _metric(self._api.get("/metrics").decode(), "go_memstats_heap_alloc_bytes") / 2**20
        used = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        samples = []
        for _ in range(_SAMPLES):
            time.sleep(_IDLE_SECONDS / _SAMPLES)
            samples.append(memory_mib(self._pids["kube-apiserver"]))
        self._at_rest = {name: (cpu_seconds(pid) - used[name]) / _IDLE_SECONDS for name, pid in self._pids.items()}
        return _Stage(
            self._reporting,
            self._objects(),
            seconds,
            agent_writes,
            all_writes,
            tuple(samples),
            heap,
            memory_mib(self._pids["etcd"]),
            self._database_mib("etcd_mvcc_db_total_size_in_use_in_bytes"),
            memory_mib(self._pids["operator"]),
            listed,
        )

    def _database_mib(self, metric: str) -> float:
        answer = urllib3.request("GET", f"{self._etcd}/metrics")
        return _metric(answer.data.decode(), metric) / 2**20

    def _list_ms(self) -> float:
        before = cpu_seconds(self._pids["kube-apiserver"])
        for index in range(LISTS):
            for _ in self._api.pages(f"{GROUP_PATH}/sockethealths", {"fieldSelector": f"spec.nodeName=node-{index}"}):
                pass
        return 1000 * (cpu_seconds(self._pids["kube-apiserver"]) - before) / LISTS

    def span(self) -> _Span:
        """Let the agents go on."""
        fleet, members = self._fleet, self._fleet.members
        reasons, writes, operator_writes = fleet.reasons(), fleet.writes(), self._operator_writes()
        chance = random.Random(0)  # noqa: S311 - load, not secrets
        ill = chance.sample(members, max(1, round(len(members) * LEAKING_SHARE)))
        patients = {}
        for member in ill:
            one = member.node.pods[chance.randrange(IDLE, IDLE + STEADY)]
            one.leaking = LEAKED_PER_SECOND
            patients[one.pod.uid] = one.pod
        self._failures.clear()
        with self._measured() as measured:
            ticks = round(SPAN_SECONDS / INTERVAL_SECONDS)
            for tick in range(ticks):
                self._replace(chance, patients)
                fleet.advance(members)
                _tell(f"{fleet.mode}: minute {tick + 1} of {ticks}")
            self._operator.until_idle()
        found = [self._facts(pod.namespace, pod.name) for pod in patients.values()]
        span = _Span(
            len(members),
            fleet.writes() - writes,
            fleet.reasons() - reasons,
            self._operator_writes() - operator_writes,
            measured.wall_seconds,
            measured.cpu_seconds,
            tuple(measured.memory["kube-apiserver"]),
            tuple(measured.memory["etcd"]),
            tuple(measured.memory["operator"]),
            self._database_mib("etcd_mvcc_db_total_size_in_bytes"),
            Counter(self._failures),
            (len(patients), sum(count >= 50 for count in found)),
        )
        _tell(f"{fleet.mode}: {span.reasons}, {span.wall_seconds:.0f} s")
        return span

    def _replace(self, chance: random.Random, patients: Mapping[str, Any]) -> None:
        share = REPLACED_AN_HOUR * INTERVAL_SECONDS / 3600
        for member in self._fleet.members:
            for index in range(PODS):
                if chance.random() < share and member.node.pods[index].pod.uid not in patients:
                    gone = member.node.turn_over(index)
                    # As the garbage collector does once the pod is gone.
                    self._collected += 1
                    self._collector.delete(f"{GROUP_PATH}/namespaces/{gone.namespace}/sockethealths/{gone.name}")

    def _facts(self, namespace: str, name: str) -> int:
        try:
            document = msgspec.json.decode(self._api.get(f"{GROUP_PATH}/namespaces/{namespace}/sockethealths/{name}"))
        except NotFoundError:
            return 0
        return int(document.get("status", {}).get("sockets", {}).get("closeWait", 0))

    @contextmanager
    def _measured(self) -> Iterator["_Measured"]:
        measured = _Measured(self._pids, self._at_rest)
        measured.start()
        try:
            yield measured
        finally:
            measured.stop()

    def leases(self) -> float:
        """CPU time, in ms, of API server and etcd for one renewal of a Lease, at the rate of so many kubelets."""
        cluster, names = self._server.cluster, [member.node.name for member in self._fleet.members]
        pool = urllib3.PoolManager(ca_certs=str(cluster.ca_file), maxsize=THREADS)
        headers = {"Authorization": f"Bearer {cluster.admin_token}", "Content-Type": "application/json"}

        def send(method: str, path: str, document: Any) -> Any:
            answer = pool.request(method, cluster.server + path, body=json.dumps(document), headers=headers)
            if answer.status >= 300:
                raise Missing(f"The API server does not take a Lease: {answer.data.decode()[:300]}")
            return answer.json()

        def renew(share: Sequence[Any]) -> int:
            began, held = time.monotonic(), list(share)
            rounds = round(LEASE_SECONDS / LEASE_EVERY_SECONDS)
            for turn in range(rounds * len(held)):
                time.sleep(max(0.0, began + turn * LEASE_EVERY_SECONDS / len(held) - time.monotonic()))
                lease = held[turn % len(held)]
                lease["spec"]["renewTime"] = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
                held[turn % len(held)] = send("PUT", f"{_LEASES}/{lease['metadata']['name']}", lease)
            return rounds * len(held)

        made = [send("POST", _LEASES, _lease(name)) for name in names]
        with self._measured() as measured, ThreadPoolExecutor(THREADS) as threads:
            shares = [made[index::THREADS] for index in range(THREADS)]
            count = sum(threads.map(renew, [share for share in shares if share]))
        pool.clear()
        _tell(f"{count} renewals of Leases in {measured.wall_seconds:.0f} s")
        return 1000 * sum(measured.cpu_seconds[name] for name in _COMPONENTS) / count

    def watches(self) -> float:
        """Memory of the API server, in KiB, for what an agent watches: its node's pods, and its node's object."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        version = msgspec.json.decode(self._api.get(f"{GROUP_PATH}/nodesockethealths", {"limit": "1"}))
        since = {"resourceVersion": version["metadata"]["resourceVersion"]}
        api, pid = self._client(), self._pids["kube-apiserver"]
        before = memory_mib(pid)
        with ExitStack() as opened:
            for member in self._fleet.members:
                name = member.node.name
                for path, selector in (
                    ("/api/v1/pods", f"spec.nodeName={name}"),
                    (f"{GROUP_PATH}/nodesockethealths", f"metadata.name={name}"),
                ):
                    watch = api.watch(path, {**since, "fieldSelector": selector}, server_seconds=600)
                    opened.enter_context(watch)
            time.sleep(1)
            taken = memory_mib(pid) - before
        api.close()
        return taken * 1024 / len(self._fleet.members)

    def object_bytes(self) -> float:
        """The mean of some objects as the API server sends them."""
        page = self._api.get(f"{GROUP_PATH}/sockethealths", {"limit": "500"})
        return len(page) / len(msgspec.json.decode(page)["items"])


class _Measured(threading.Thread):
    """CPU time and memory of programs while something goes on."""

    def __init__(self, pids: Mapping[str, int], at_rest: Mapping[str, float]) -> None:
        super().__init__(daemon=True)
        self._pids = pids
        self._at_rest = at_rest
        self._ended = threading.Event()
        self._before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        self._began = time.monotonic()
        self.memory: Final[dict[str, list[float]]] = {name: [] for name in pids}
        self.wall_seconds = 0.0
        self.cpu_seconds: dict[str, float] = {}

    def run(self) -> None:
        while not self._ended.wait(1.0):
            self._look()

    def _look(self) -> None:
        for name, pid in self._pids.items():
            self.memory[name].append(memory_mib(pid))

    def stop(self) -> None:
        """End it, and see what was used."""
        self._ended.set()
        self.join()
        self._look()
        self.wall_seconds = time.monotonic() - self._began
        for name, pid in self._pids.items():
            rest = self._at_rest[name] * self.wall_seconds
            self.cpu_seconds[name] = max(0.0, cpu_seconds(pid) - self._before[name] - rest)


@contextmanager
def _control_plane(mode: ReportMode, nodes: int) -> Iterator[_Bench]:
    fleet = _Fleet(mode, nodes)
    began = time.monotonic()
    try:
        fleet.warm_up()
        _tell(f"{mode}: {nodes} agents warmed up in {time.monotonic() - began:.0f} s")
        with api_server() as server:
            _prepare(server, [member.node.name for member in fleet.members])
            with _operator(server) as operator:
                bench = _Bench(server, operator, fleet)
                try:
                    yield bench
                finally:
                    bench.close()
    finally:
        fleet.close()


def _prepare(server: ApiServer, names: Sequence[str]) -> None:
    for index in range(_NAMESPACES):
        server.cluster.kubectl("create", "namespace", f"bench-{index}")
    document = {
        "apiVersion": DEFAULT_POLICY.api_version,
        "kind": DEFAULT_POLICY.kind,
        "metadata": {"name": "default"},
        "spec": encode(DEFAULT_POLICY.spec),
    }
    server.cluster.kubectl("apply", "-f", "-", input=json.dumps(document))
    os.kill(server.pid("kube-controller-manager"), signal.SIGKILL)
    server.put([(NODES_PATH + name, bare_node(name)) for name in names])


def _lease(name: str) -> dict[str, Any]:
    spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"}
    metadata = {"name": name, "namespace": "kube-node-lease"}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def _metric(text: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))


def _tell(what: str) -> None:
    click.echo(f"fleet: {what}", err=True)
    sys.stderr.flush()
