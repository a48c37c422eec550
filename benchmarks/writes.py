"""What a node writes to the API server in an hour: the real reporting code over pretended pods, in virtual time."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.counting_api import CountingApi, Write, counting_api
from benchmarks.pretend import moments, node
from benchmarks.report import Report, Row, Series
from sockethealth_agent.kubeapi import Endpoint, KubeApi
from sockethealth_agent.reporter import GROUP_PATH, AgentIdentity, Reporter
from sockethealth_core.bands import exact
from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.policy import read_policy, watchpoints
from sockethealth_core.resources import Facts, ReportMode, Watchpoint, encode

TITLE: Final = "writes of one node in an hour: 110 pods, some come and go, and one incident"
IDLE, STEADY, CHURNING = 90, 10, 10
REPLACED: Final = 6
INTERVAL_SECONDS: Final = 10.0
"""The chart's agent.intervalSeconds."""
HEARTBEAT_SECONDS: Final = 120.0
"""The chart's agent.heartbeatSeconds."""
WARM_UP_SECONDS: Final = 7200.0
"""What an agent has left of its budgets after so long is what it has on any day."""
BEFORE_RESTART_SECONDS: Final = 600.0
HOUR_SECONDS: Final = 3600.0
INCIDENT_AT_SECONDS, INCIDENT_SECONDS = 1500.0, 900.0
LEAKED_PER_SECOND: Final = 1.0
RUNS: Final = 3
START: Final = 1_800_000_000.0
MOST_PER_SECOND, MOST_SWEEPS = 0.02, 2


def run() -> Report:
    """Measure."""
    hours = [_Hour(seed) for seed in range(RUNS)]
    sparing = [_Hour(seed, "Noteworthy") for seed in range(RUNS)]
    for hour in (*hours, *sparing):
        hour.run()
    every = Series("report.mode All", "/s", tuple(len(hour.writes) / HOUR_SECONDS for hour in hours))
    peer = Series("each change written", "/s", tuple(hour.changes / HOUR_SECONDS for hour in hours))
    reasons = sum((hour.reasons for hour in hours), Counter[str]())
    return Report(
        "writes",
        TITLE,
        (
            Row(
                Series("all writes of the node", "/s", tuple(len(hour.writes) / HOUR_SECONDS for hour in hours)),
                most=MOST_PER_SECOND,
            ),
            Row(Series("the same, by the peer", "/s", tuple(len(hour.writes) / HOUR_SECONDS for hour in hours)), peer),
            Row(Series("incident begins to API shows it", "sweeps", tuple(h.seen for h in hours)), most=MOST_SWEEPS),
            Row(
                Series("threshold crossed to API shows it", "sweeps", tuple(h.crossed for h in hours)), most=MOST_SWEEPS
            ),
            Row(
                Series("report.mode Noteworthy", "/s", tuple(len(hour.writes) / HOUR_SECONDS for hour in sparing)),
                every,
            ),
            Row(
                Series("the same: objects held at the end", "", tuple(float(hour.objects) for hour in sparing)),
                Series("report.mode All", "", tuple(float(hour.objects) for hour in hours)),
            ),
            Row(
                Series(
                    "the same: first threshold crossed to API shows it", "sweeps", tuple(h.noticed for h in sparing)
                ),
                most=MOST_SWEEPS,
            ),
            Row(Series("an agent's restart, before its hour", "writes", tuple(float(h.restart) for h in hours))),
            Row(Series("a node's first report, before its hour", "writes", tuple(float(h.first) for h in hours))),
        ),
        (
            (
                f"{IDLE} idle pods, {STEADY} with kept connections, {CHURNING} with one a request, of 1 to 100 "
                f"requests/s; {REPLACED} are replaced; one leaks {LEAKED_PER_SECOND:g} connection/s for "
                f"{INCIDENT_SECONDS / 60:g} minutes."
            ),
            (
                "Demand swings by 5 to 25 % by itself within minutes and by half with the day; 1 segment in 5,000 is "
                "sent again; of the idle pods, one in three sees a connection come or go within ten minutes."
            ),
            f"Writes of each seed, All: {_each(hours)}; Noteworthy: {_each(sparing)}.",
            f"Counted: every write that a server got within the hour, heartbeats (every {HEARTBEAT_SECONDS:g} s) too.",
            "By reason, of all runs: " + ", ".join(f"{why} {count}" for why, count in reasons.most_common(12)) + ".",
            "The peer writes a pod's object whenever a number in it differs from the sweep before.",
        ),
    )


@dataclass
class _Sink:
    reasons: list[str] = field(default_factory=list)

    def wrote(self, reason: str) -> None:
        self.reasons.append(reason.partition(" ")[0])

    def suppressed(self, count: int) -> None:
        """Nothing is made of it: the peer's writes are counted instead."""


class VirtualClock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time by it."""
        return self.now


class _Hour:
    """One hour on one node, and what became of it."""

    def __init__(self, seed: int, mode: ReportMode = "All") -> None:
        self._mode = mode
        self._node: Final = node(f"node-{seed}", seed, INTERVAL_SECONDS, idle=IDLE, steady=STEADY, churning=CHURNING)
        self._seed = seed
        self._clock = VirtualClock()
        self._watchpoints = default_watchpoints()
        self._before: dict[str, tuple[Any, ...]] = {}
        self._leaked: list[tuple[float, int]] = []
        self.changes = 0
        self.first = self.restart = self.objects = 0
        self.seen = self.noticed = self.crossed = float("inf")
        self.writes: list[Write] = []
        self.reasons: Counter[str] = Counter()

    def run(self) -> None:
        random.seed(self._seed)
        with counting_api(self._clock) as api:
            with _reporter(api, self._node.name, self._clock, self._mode) as (reporter, _sink):
                self._sweeps(reporter, INTERVAL_SECONDS)
                self.first = len(api.writes)
                self._sweeps(reporter, BEFORE_RESTART_SECONDS)
            with _reporter(api, self._node.name, self._clock, self._mode) as (reporter, sink):
                before = len(api.writes)
                self._sweeps(reporter, INTERVAL_SECONDS)
                self.restart = len(api.writes) - before
                self._sweeps(reporter, WARM_UP_SECONDS)
                self._count_hour(api, reporter, sink)
                self.objects = sum("/sockethealths/" in path for path in api.objects)

    def _count_hour(self, api: CountingApi, reporter: Reporter, sink: _Sink) -> None:
        before, told, self.changes = len(api.writes), len(sink.reasons), 0
        began = self._clock.now
        chance = random.Random(self._seed)  # noqa: S311 - load, not secrets
        replacements = sorted(chance.uniform(0, HOUR_SECONDS) for _ in range(REPLACED))
        patient = IDLE + chance.randrange(STEADY)
        leaking = self._node.pods[patient]

        def happen() -> None:
            passed = self._clock.now - began
            while replacements and passed >= replacements[0]:
                replacements.pop(0)
                index = chance.randrange(len(self._node.pods))
                # Not the one that is to leak: without the incident there would be less to write.
                self._replace(api, index + 1 if index == patient else index)
            if passed == INCIDENT_AT_SECONDS:
                leaking.leaking = LEAKED_PER_SECOND
            if passed == INCIDENT_AT_SECONDS + INCIDENT_SECONDS:
                self._replace(api, patient)

        self._sweeps(reporter, HOUR_SECONDS, happen)
        self.writes = api.writes[before:]
        self.reasons.update(sink.reasons[told:])
        path = _path(leaking.pod.namespace, leaking.pod.name) + "/status"
        of_incident = [write for write in self.writes if write.path == path]
        since = began + INCIDENT_AT_SECONDS
        shown = (_sweeps_since(since, write) for write in of_incident if _close_wait(write) > 0)
        self.seen = next(shown, float("inf"))
        self.noticed, self.crossed = (self._shown(of_incident, watched) for watched in (10, 50))

    def _shown(self, of_incident: list[Write], watched: int) -> float:
        """Sweeps from when so many connections were old enough to when a write says so."""
        due = next(at for at, count in self._leaked if count >= watched)
        return next((_sweeps_since(due, write) for write in of_incident if _aged(write) >= watched), float("inf"))

    def _sweeps(self, reporter: Reporter, seconds: float, happen: Callable[[], None] = lambda: None) -> None:
        for at in moments(self._clock.now, INTERVAL_SECONDS, seconds):
            self._clock.now = at
            happen()
            submission = self._node.sweep(START + at, self._watchpoints, at)
            self._note_changes({uid: one.facts for uid, one in submission.sweep.pods.items()})
            self._note_leak(at, [one.facts for one in submission.sweep.pods.values()])
            reporter.submit(submission)
            while self._clock.now < at + INTERVAL_SECONDS:
                self._clock.now = min(at + INTERVAL_SECONDS, self._clock.now + reporter.step())
        self._clock.now = round(self._clock.now)

    def _replace(self, api: CountingApi, index: int) -> None:
        gone = self._node.turn_over(index)
        api.collect(_path(gone.namespace, gone.name))

    def _note_changes(self, facts: dict[str, Facts]) -> None:
        found = {uid: exact(one) for uid, one in facts.items()}
        self.changes += sum(self._before.get(uid) != numbers for uid, numbers in found.items())
        self._before = found

    def _note_leak(self, at: float, facts: list[Facts]) -> None:
        aged = max(age.count for one in facts for age in one.close_wait.ages)
        self._leaked.append((at, aged))


def _each(hours: list[_Hour]) -> str:
    return ", ".join(str(len(hour.writes)) for hour in hours)


def default_watchpoints() -> tuple[Watchpoint, ...]:
    """What the operator publishes for the chart's default policy."""
    policy = {
        "apiVersion": DEFAULT_POLICY.api_version,
        "kind": DEFAULT_POLICY.kind,
        "metadata": {"name": DEFAULT_POLICY.metadata.name},
        "spec": encode(DEFAULT_POLICY.spec),
    }
    return tuple(watchpoints([read_policy(policy)]))


@contextmanager
def _reporter(api: CountingApi, name: str, clock: VirtualClock, mode: ReportMode) -> Iterator[tuple[Reporter, _Sink]]:
    sink = _Sink()
    kube = KubeApi(Endpoint(url=api.url))
    reporter = Reporter(
        kube,
        AgentIdentity(name, "bench", "00000000-0000-4000-8000-000000000000", "6.18.0"),
        sink=sink,
        interval_seconds=INTERVAL_SECONDS,
        heartbeat_seconds=HEARTBEAT_SECONDS,
        mode=mode,
        clock=clock,
        wall_clock=lambda: START + clock.now,
    )
    try:
        yield reporter, sink
    finally:
        kube.close()


def _path(namespace: str, name: str) -> str:
    return f"{GROUP_PATH}/namespaces/{namespace}/sockethealths/{name}"


def _close_wait(write: Write) -> int:
    return int(write.body["status"].get("sockets", {}).get("closeWait", 0))


def _aged(write: Write) -> int:
    ages = write.body["status"].get("closeWait", {}).get("ages", [])
    return max((int(age.get("count", 0)) for age in ages), default=0)


def _sweeps_since(at: float, write: Write) -> float:
    """1: with the first sweep that could have seen it."""
    return (write.at - at) // INTERVAL_SECONDS + 1
