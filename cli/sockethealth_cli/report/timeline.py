"""What happened to one network namespace or pod, over time. Pure: samples and rules in, an Incident out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import linear_regression
from typing import Final, Literal

from sockethealth_cli.text import printable
from sockethealth_core.detectors import Subject
from sockethealth_core.engine import SEVERITY_ORDER, evaluate, identity_of, snapshot, transitions
from sockethealth_core.policy import CompiledRule
from sockethealth_core.resources import Destination, Facts, Finding, Judgement, Listener, Severity

Phase = Literal["Pending", "Active", "Clearing"]
"""Pending: the condition holds and the rule's `for` runs. Clearing: it is over and `clearAfter` runs."""

MOST_DESTINATIONS: Final = 5
"""Destinations that a page tells apart: those that used most ports at any time."""

_RECENT_VALUES: Final = 60


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Open files of a process that holds sockets: how many, and how many it may have (getrlimit(2) RLIMIT_NOFILE)."""

    process: str
    pid: int
    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a network namespace.

    Attributes:
        at: epoch seconds.
        facts: what was read.
        processes: those in it, as ``nginx (4711)``, oldest first.
        descriptors: of the processes that hold CLOSE_WAIT sockets.
    """

    at: float
    facts: Facts
    processes: tuple[str, ...] = ()
    descriptors: tuple[Descriptors, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """A quantity over the times of its Incident; None where it is not known.

    Attributes:
        key: what programs call it.
        label: what people call it.
        unit: what it counts.
        values: one for each time.
    """

    key: str
    label: str
    unit: str
    values: tuple[float | None, ...]

    @property
    def known(self) -> tuple[float, ...]:
        """Its values without those that are not known."""
        return tuple(value for value in self.values if value is not None)

    @property
    def peak(self) -> float:
        """The highest value; 0 where none is known."""
        return max(self.known, default=0.0)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a finding in which neither phase nor severity changed."""

    begin: float
    end: float
    severity: Severity
    phase: Phase


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment at which a finding changed."""

    at: float
    change: Literal["Began", "Raised", "Escalated", "Eased", "Cleared"]
    severity: Severity


@dataclass(frozen=True, slots=True)
class FindingSpan:
    """A finding from its first sign to its end.

    Attributes:
        finding: as it was at its worst.
        worst_at: when that was.
        segments: the stretches that it is made of, in order.
        marks: what happened to it, in order.
        lasts: the last look shows it.
    """

    finding: Finding
    worst_at: float
    segments: tuple[Segment, ...]
    marks: tuple[Mark, ...]
    lasts: bool

    @property
    def began(self) -> float:
        """When the condition was first seen to hold."""
        return self.segments[0].begin

    @property
    def seen_until(self) -> float:
        """Until when it was seen to last."""
        return self.segments[-1].end

    @property
    def raised(self) -> bool:
        """Whether its rule raised it: the condition lasted as long as `for`."""
        return any(segment.phase != "Pending" for segment in self.segments)

    @property
    def severity(self) -> Severity:
        """The worst it had."""
        return min((segment.severity for segment in self.segments), key=SEVERITY_ORDER.__getitem__)


def began(spans: Sequence[FindingSpan]) -> float | None:
    """When the trouble began: with the first finding that wants a person, or else the first that explains; or None."""
    wanting = [span for span in spans if span.severity != "Info"]
    return min((span.began for span in wanting or spans), default=None)


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between the calm and the incident.

    Attributes:
        what: the thing that changed.
        before: what it was.
        after: what it became.
        factor: how many times as much, at least 1, of what can be counted; None of what is there or is not.
        at: when it was first seen; None of a quantity, which changes all the time.
    """

    what: str
    before: str
    after: str
    factor: float | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Outlook:
    """When it breaks.

    Attributes:
        state: it broke, will break, or does not if nothing changes.
        at: epoch seconds when it broke or will.
        sentence: the same for a person.
    """

    state: Literal["Broke", "WillBreak", "Holds"]
    at: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Incident:
    """Everything that a page tells of one namespace or pod.

    Attributes:
        subject: what messages call it.
        times: when it was looked at, epoch seconds, rising; each Series has a value for each.
        states: sockets by state, to be stacked.
        destinations: local ports in use toward each destination.
        port_limit: ports usable toward one destination, where their number is known.
        port_share: percent of them taken toward the worst destination, where only that is known.
        flows: connections opened, accepted and closed per second.
        troubles: what goes wrong per second.
        queues: the accept queue of listeners that had one, each followed by its limit.
        further: what else is known over time, such as processes and open files; not drawn.
        findings: worst first.
        changes: what is there or is not first, then the largest difference.
        processes: that were seen in it.
        descriptors: open files of who held CLOSE_WAIT sockets, at the last look.
        outlook: when the worst finding breaks; None without one, or where it cannot be told.
    """

    subject: Subject
    times: tuple[float, ...]
    states: tuple[Series, ...]
    destinations: tuple[Series, ...] = ()
    port_limit: Series | None = None
    port_share: Series | None = None
    flows: tuple[Series, ...] = ()
    troubles: tuple[Series, ...] = ()
    queues: tuple[Series, ...] = ()
    further: tuple[Series, ...] = ()
    findings: tuple[FindingSpan, ...] = ()
    changes: tuple[Change, ...] = ()
    processes: tuple[str, ...] = ()
    descriptors: tuple[Descriptors, ...] = ()
    outlook: Outlook | None = None

    @property
    def series(self) -> tuple[Series, ...]:
        """All of them, in the order of the raw data."""
        return (
            *self.states,
            *self.destinations,
            *(one for one in (self.port_limit, self.port_share) if one is not None),
            *self.flows,
            *self.troubles,
            *self.queues,
            *self.further,
        )

    @property
    def began(self) -> float | None:
        """When the first finding began that wants a person, or the first that explains if there is no such; or None."""
        return began(self.findings)

    @property
    def worst(self) -> FindingSpan | None:
        """The finding that the page is about: one that wants a person before one that explains."""
        return self.findings[0] if self.findings else None


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample with what the rules made of it: ``active`` with their `for`, ``instant`` as if it were zero."""

    sample: Sample
    active: tuple[Finding, ...]
    instant: tuple[Finding, ...]


STATE_LABELS: Final = {
    "established": "ESTABLISHED",
    "timeWaitOutbound": "TIME_WAIT, outbound",
    "timeWaitInbound": "TIME_WAIT, inbound",
    "closeWait": "CLOSE_WAIT",
    "finWait2": "FIN_WAIT_2",
    "opening": "SYN_SENT, SYN_RECV",
    "closing": "FIN_WAIT_1, LAST_ACK, CLOSING",
}
"""Sockets as they are stacked, from the bottom: keys of programs, and names of people."""


def judge(subject: Subject, samples: Iterable[Sample], rules: Sequence[CompiledRule]) -> list[Judged]:
    """Judge each sample in time: a rule's `for` counts from the first sample on, as the operator counts it."""
    judged = []
    state = Judgement()
    for sample in samples:
        state = evaluate(subject, sample.facts, rules, state, sample.at).judgement
        instant = snapshot(subject, sample.facts, rules, sample.at).findings
        judged.append(Judged(sample, tuple(state.findings), tuple(instant)))
    return judged


def finding_spans(judged: Sequence[Judged]) -> tuple[FindingSpan, ...]:
    """The findings of judged samples, worst first.

    One that ended and came back is one span with a gap, as a person sees one problem that flickers.
    """
    identities = dict.fromkeys(identity_of(one) for look in judged for one in (*look.active, *look.instant))
    spans = [_span(identity, judged) for identity in identities]
    return tuple(sorted(spans, key=lambda span: (SEVERITY_ORDER[span.severity], not span.raised, span.began)))


def _span(identity: tuple[str, ...], judged: Sequence[Judged]) -> FindingSpan:
    looks = [(look.sample.at, *_phase_of(identity, look)) for look in judged]
    segments: list[Segment] = []
    for (at, phase, finding), following in zip(looks, [*(one[0] for one in looks[1:]), looks[-1][0]], strict=True):
        if phase is None or finding is None:
            continue
        last = segments[-1] if segments else None
        if last is not None and (last.end, last.phase, last.severity) == (at, phase, finding.severity):
            segments[-1] = Segment(last.begin, following, last.severity, last.phase)
        else:
            segments.append(Segment(at, following, finding.severity, phase))
    holding = [(at, finding) for at, phase, finding in looks if finding is not None and phase != "Clearing"]
    worst_at, worst = max(
        holding or [(at, finding) for at, _, finding in looks if finding is not None],
        key=lambda one: (-SEVERITY_ORDER[one[1].severity], one[1].value, one[0]),
    )
    return FindingSpan(
        worst, worst_at, tuple(segments), _marks(identity, judged, segments[0]), looks[-1][1] is not None
    )


def _phase_of(identity: tuple[str, ...], look: Judged) -> tuple[Phase | None, Finding | None]:
    active = next((one for one in look.active if identity_of(one) == identity), None)
    instant = next((one for one in look.instant if identity_of(one) == identity), None)
    if active is None:
        return ("Pending", instant) if instant is not None else (None, None)
    return ("Clearing" if instant is None else "Active"), active


def _marks(identity: tuple[str, ...], judged: Sequence[Judged], first: Segment) -> tuple[Mark, ...]:
    marks = [Mark(first.begin, "Began", first.severity)]
    before: tuple[Finding, ...] = ()
    for look in judged:
        marks += [
            Mark(look.sample.at, one.change, one.finding.severity)
            for one in transitions(before, look.active)
            if identity_of(one.finding) == identity
        ]
        before = look.active
    return tuple(marks)


def place(address: str, port: int) -> str:
    """An address and port as people write them, with the port left out where there is none."""
    host = f"[{address}]" if ":" in address else address
    return printable(f"{host}:{port}" if port else host)


def series_of(samples: Sequence[Sample], key: str, label: str, unit: str, read: Callable[[Facts], float]) -> Series:
    """A quantity of the facts over time."""
    return Series(key, label, unit, tuple(float(read(one.facts)) for one in samples))


def states_of(samples: Sequence[Sample]) -> tuple[Series, ...]:
    """Sockets by state, those that never were left out, without LISTEN, which is no connection."""
    readers: dict[str, Callable[[Facts], float]] = {
        "established": lambda facts: facts.sockets.established,
        "timeWaitOutbound": lambda facts: facts.time_wait.outbound,
        "timeWaitInbound": lambda facts: facts.time_wait.inbound,
        "closeWait": lambda facts: facts.sockets.close_wait,
        "finWait2": lambda facts: facts.sockets.fin_wait2,
        "opening": lambda facts: facts.sockets.syn_sent + facts.sockets.syn_recv,
        "closing": lambda facts: facts.sockets.fin_wait1 + facts.sockets.last_ack + facts.sockets.closing,
    }
    made = [series_of(samples, f"sockets.{key}", STATE_LABELS[key], "sockets", read) for key, read in readers.items()]
    return tuple(one for one in made if one.peak > 0) or (made[0],)


def destinations_of(samples: Sequence[Sample]) -> tuple[Series, ...]:
    """Ports in use toward the destinations that used most at any time; 0 where one is not among a sample's worst."""
    peaks: dict[tuple[str, int], int] = {}
    for sample in samples:
        for one in sample.facts.ephemeral_ports.destinations:
            known = (one.address, one.port)
            peaks[known] = max(peaks.get(known, 0), taken(one))
    chosen = sorted((known for known, peak in peaks.items() if peak), key=lambda known: (-peaks[known], known))
    return tuple(
        series_of(
            samples,
            f"ports.{place(address, port)}",
            place(address, port),
            "ports",
            lambda facts, address=address, port=port: _toward(facts, address, port),  # type: ignore[misc]  # defaults bind the loop's values
        )
        for address, port in chosen[:MOST_DESTINATIONS]
    )


def taken(one: Destination) -> int:
    """Local ports toward a destination that connect() cannot take."""
    return one.used - one.reusable


def _toward(facts: Facts, address: str, port: int) -> float:
    return next(
        (taken(one) for one in facts.ephemeral_ports.destinations if (one.address, one.port) == (address, port)), 0
    )


def rates_of(samples: Sequence[Sample]) -> tuple[tuple[Series, ...], tuple[Series, ...]]:
    """Flows and troubles per second. A counter's rate is not known at the first sample, as it needs one before."""
    flows = (
        _rate(samples, "activeOpens", "opened (connect)", lambda facts: facts.rates.active_opens),
        _rate(samples, "passiveOpens", "accepted", lambda facts: facts.rates.passive_opens),
        series_of(
            samples, "rates.closes", "closed first by this side", "per second", lambda f: f.time_wait.closes_per_second
        ),
    )
    troubles = (
        _rate(samples, "attemptFails", "attempts failed", lambda facts: facts.rates.attempt_fails),
        _rate(samples, "retransmits", "segments sent again", lambda facts: facts.rates.retransmits),
        _rate(samples, "listenOverflows", "accept queue overflows", lambda facts: facts.rates.listen_overflows),
        _rate(samples, "listenDrops", "drops at listeners", lambda facts: facts.rates.listen_drops),
        _rate(samples, "timeWaitOverflows", "TIME_WAIT destroyed early", lambda facts: facts.rates.time_wait_overflows),
    )
    return tuple(one for one in flows if one.peak > 0), tuple(one for one in troubles if one.peak > 0)


def _rate(samples: Sequence[Sample], key: str, label: str, read: Callable[[Facts], float]) -> Series:
    made = series_of(samples, f"rates.{key}", label, "per second", read)
    return Series(made.key, made.label, made.unit, (None, *made.values[1:]))


def queues_of(samples: Sequence[Sample]) -> tuple[Series, ...]:
    """The accept queue of the listener that had the longest one for its limit, and that limit."""
    worst: Listener | None = None
    for sample in samples:
        for one in sample.facts.listeners:
            if worst is None or one.queue * max(1, worst.backlog) > worst.queue * max(1, one.backlog):
                worst = one
    if worst is None or worst.queue == 0:
        return ()
    known = (worst.address, worst.port)

    def queue(facts: Facts) -> float:
        return next((one.queue for one in facts.listeners if (one.address, one.port) == known), 0)

    where = f"{place(*known)} ({printable(worst.process)})" if worst.process else place(*known)
    limit = Series(f"backlog.{place(*known)}", "its limit", "connections", (float(worst.backlog),) * len(samples))
    return series_of(samples, f"queue.{place(*known)}", f"waiting at {where}", "connections", queue), limit


def further_of(samples: Sequence[Sample]) -> tuple[Series, ...]:
    """Processes, open files of who leaks, and the listeners."""
    made = [
        Series("processes", "processes in the namespace", "processes", tuple(float(len(s.processes)) for s in samples)),
        series_of(samples, "sockets.listen", "LISTEN", "sockets", lambda facts: facts.sockets.listen),
    ]
    holders = dict.fromkeys((one.process, one.pid) for sample in samples for one in sample.descriptors)
    for process, pid in holders:
        used = tuple(
            next((float(one.used) for one in sample.descriptors if one.pid == pid), None) for sample in samples
        )
        made.append(Series(f"files.{pid}", f"open files of {printable(process)} ({pid})", "files", used))
    return tuple(one for one in made if one.peak > 0)


def calm_and_incident(times: Sequence[float], began: float | None) -> tuple[range, range]:
    """Indices of the samples before it began and from then on.

    Without a calm before, the first sample stands for it; without a finding, the first half.
    """
    everything = range(len(times))
    if began is None:
        half = max(1, len(times) // 2)
        return everything[:half], everything[half:] or everything[-1:]
    start = next((index for index, at in enumerate(times) if at >= began), len(times) - 1)
    return everything[: max(1, start)], everything[start:]


def grows_per_second(times: Sequence[float], series: Series) -> float:
    """How fast a quantity grew of late: the slope of a line through its last values, 0 where that cannot be told."""
    known = [(at, value) for at, value in zip(times, series.values, strict=True) if value is not None]
    recent = known[-_RECENT_VALUES:]
    if len({at for at, _ in recent}) < 2:
        return 0.0
    return linear_regression(*zip(*recent, strict=True)).slope
