"""Judging namespaces of the lab by the default policy, and keeping the score.

A Watch reads one namespace as the agent does, at moments of a clock of its own: what takes the kernel a minute (a
CLOSE_WAIT that has to be a minute old) takes a test none. Rates are of the counters between two readings, per second
of that clock. Each judgement is entered into the Score with the findings expected, before it is asserted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pytest

import lab
from sockethealth_agent.folding import Reader
from sockethealth_agent.reading import Memory, new_reader, read_netns
from sockethealth_core import engine
from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.detectors import DETECTORS, Subject
from sockethealth_core.detectors.base import AnyFacts
from sockethealth_core.policy import CompiledRule, compile_policy
from sockethealth_core.resources import Facts, Judgement

SWEEP_SECONDS = 15.0
"""From one reading to the next, as the agent's default interval has it."""
NOON = 1_800_000_000.0
DEFAULT_RULES = compile_policy(DEFAULT_POLICY).rules


@dataclass(frozen=True, order=True)
class Found:
    """A finding as a scenario states it; `where` is its target, `address` or `address port`."""

    detector: str
    severity: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.severity} {self.detector}" + (f" ({self.where})" if self.where else "")


def place(of: lab.Listener | tuple[str, int]) -> str:
    """A listener or address and port as `Found.where` has it."""
    address, port = of.target if isinstance(of, lab.Listener) else of
    return f"{address} {port}" if port else address


def found_in(judgement: Judgement) -> Counter[Found]:
    """The findings of a judgement."""
    return Counter(
        Found(one.type, one.severity, place((one.target.address, one.target.port)) if one.target else "")
        for one in judgement.findings
    )


@dataclass(frozen=True)
class Verdict:
    """One judgement of one subject: what was expected, and what was found."""

    scenario: str
    expected: Counter[Found]
    got: Counter[Found]

    @property
    def missing(self) -> Counter[Found]:
        """Expected and not found."""
        return self.expected - self.got

    @property
    def extra(self) -> Counter[Found]:
        """Found and not expected."""
        return self.got - self.expected

    @property
    def is_benign(self) -> bool:
        """Whether nothing above Info is expected."""
        return all(one.severity == "Info" for one in self.expected)


@dataclass
class Score:
    """All verdicts of a run."""

    verdicts: list[Verdict] = field(default_factory=list)

    def check(self, scenario: str, who: str, judgement: Judgement, expected: Iterable[Found]) -> None:
        """Enter a judgement, and assert that its findings are exactly those expected."""
        verdict = Verdict(scenario, Counter(expected), found_in(judgement))
        self.verdicts.append(verdict)
        said = [f"{one.type}: {one.message}" for one in judgement.findings]
        assert verdict.missing == Counter(), f"{who} lacks {_listed(verdict.missing)}; it has {said}"
        assert verdict.extra == Counter(), (
            f"{who} has, beyond what is expected, {_listed(verdict.extra)}; it has {said}"
        )

    def found(self) -> set[tuple[str, str]]:
        """(detector, severity) of all findings that were expected and found."""
        return {(one.detector, one.severity) for verdict in self.verdicts for one in verdict.expected & verdict.got}

    def table(self) -> list[str]:
        """What the run prints at its end, in 80 columns."""
        rows = [f"{'detector':26}{'expected':>10}{'found':>8}{'missed':>8}{'false alarms':>14}"]
        sums: Counter[str] = Counter()
        for detector in DETECTORS:
            counts = {
                "expected": self._count(detector, lambda verdict: verdict.expected),
                "found": self._count(detector, lambda verdict: verdict.expected & verdict.got),
                "missed": self._count(detector, lambda verdict: verdict.missing),
                "extra": self._count(detector, lambda verdict: verdict.extra),
            }
            sums.update(counts)
            rows.append(
                f"{detector:26}{counts['expected']:10}{counts['found']:8}{counts['missed']:8}{counts['extra']:14}"
            )
        benign = [verdict for verdict in self.verdicts if verdict.is_benign]
        alarmed = sum(any(one.severity != "Info" for one in verdict.got) for verdict in benign)
        recall = 100 * sums["found"] / sums["expected"] if sums["expected"] else 100.0
        judged = f"{len({verdict.scenario for verdict in self.verdicts})} scenarios, {len(self.verdicts)} judgements"
        found = f"recall {recall:.1f} % ({sums['found']} of {sums['expected']} findings)"
        rows += [
            f"{judged}: {found}, {sums['extra']} false alarms",
            f"{len(benign)} of the judgements are of benign sockets: {alarmed} above Info",
        ]
        return rows

    def _count(self, detector: str, chosen: Callable[[Verdict], Counter[Found]]) -> int:
        return sum(
            count for verdict in self.verdicts for one, count in chosen(verdict).items() if one.detector == detector
        )


SCORE_KEY = pytest.StashKey[Score]()


@dataclass
class Watch:
    """One namespace, read as the agent reads a pod's.

    Attributes:
        namespace: whose sockets.
        score: where verdicts go.
        scenario: the test's name.
        rules: of the policies in force.
        memory: what the agent keeps from reading to reading.
        seconds: the clock.
        facts: as read last.
        judgement: as `evaluated` last.
    """

    namespace: lab.Namespace
    score: Score
    scenario: str
    rules: tuple[CompiledRule, ...] = DEFAULT_RULES
    memory: Memory = field(default_factory=Memory)
    reader: Reader = field(default_factory=new_reader)
    seconds: float = 0.0
    facts: Facts = field(default_factory=Facts)
    judgement: Judgement = field(default_factory=Judgement)

    def read(self, after: float = SWEEP_SECONDS, pids: Mapping[int, str | None] | None = None) -> Facts:
        """Read, `after` seconds of the clock from the reading before."""
        self.seconds += after
        self.facts = read_netns(
            self.namespace.path,
            self.memory,
            self.reader,
            now=self.seconds,
            observed_at=NOON + self.seconds,
            pids=pids if pids is not None else {self.namespace.pid: None},
        )
        return self.facts

    def expect(self, *expected: Found, after: float = SWEEP_SECONDS) -> Judgement:
        """Read, and judge this moment by itself: exactly these findings."""
        self.read(after)
        judgement = engine.snapshot(self._subject, self.facts, self.rules, NOON + self.seconds)
        self.score.check(self.scenario, self.namespace.name, judgement, expected)
        return judgement

    def expect_in_time(self, *expected: Found, after: float = SWEEP_SECONDS) -> Judgement:
        """Read, and judge by what was judged before, `for` and `clearAfter` included: exactly these findings."""
        self.read(after)
        self.judgement = engine.evaluate(
            self._subject, self.facts, self.rules, self.judgement, NOON + self.seconds
        ).judgement
        self.score.check(self.scenario, f"{self.namespace.name} at {self.seconds:g} s", self.judgement, expected)
        return self.judgement

    @property
    def _subject(self) -> Subject:
        return Subject("netns", self.namespace.name)


@dataclass(frozen=True)
class Judge:
    """Hands out watches for one test."""

    score: Score
    scenario: str

    def watch(self, namespace: lab.Namespace, rules: tuple[CompiledRule, ...] = DEFAULT_RULES) -> Watch:
        """A watch that has read once, so that the next reading has rates."""
        made = Watch(namespace, self.score, self.scenario, rules)
        made.read(after=0)
        return made

    def expect(self, subject: Subject, facts: AnyFacts, *expected: Found) -> Judgement:
        """Judge facts that something else read: exactly these findings."""
        judgement = engine.snapshot(subject, facts, DEFAULT_RULES, NOON)
        self.score.check(self.scenario, str(subject), judgement, expected)
        return judgement


def _listed(some: Counter[Found]) -> str:
    return ", ".join(str(one) for one in sorted(some.elements()))
