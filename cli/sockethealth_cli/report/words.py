"""What an incident is in sentences: what, when, who, why, and what helps. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sockethealth_cli.render import sentence
from sockethealth_cli.report.timeline import FindingSpan, Incident, Mark, Outlook, Series
from sockethealth_cli.text import printable
from sockethealth_core.detectors import DETECTORS, describe
from sockethealth_core.units import format_count, format_duration

_MOST_NAMES: Final = 6
_A_DAY: Final = 86400
_CHANGES: Final = {
    "Began": "the condition was first seen",
    "Raised": "raised",
    "Escalated": "escalated",
    "Eased": "eased",
    "Cleared": "cleared",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A question that a person has, and the answer in sentences, each a paragraph."""

    question: str
    sentences: tuple[str, ...]


def clock(at: float, times: Sequence[float]) -> str:
    """A moment in the fewest words: the time of day (UTC) in an incident of hours, with the date in a longer one."""
    form = "%H:%M:%S" if max(at, times[-1]) - times[0] < _A_DAY else "%d %b %H:%M"
    return datetime.fromtimestamp(at, UTC).strftime(form)


def headline(incident: Incident) -> str:
    """The whole incident in a sentence."""
    worst = incident.worst
    if worst is None:
        return sentence(f"{printable(str(incident.subject))}: no rule found anything wrong.")
    return sentence(printable(worst.finding.message))


def answers(incident: Incident) -> tuple[Answer, ...]:
    """What people ask first, about the worst finding; empty without one."""
    worst = incident.worst
    if worst is None:
        return ()
    rows = (
        Answer("What broke", (_value(worst, incident.times),)),
        Answer("When it began", _began(worst, incident.times)),
        Answer(_breaks(incident.outlook), () if incident.outlook is None else (incident.outlook.sentence,)),
        Answer("Who", who(worst, incident)),
        Answer("What helps", (printable(worst.finding.remedy),) if worst.finding.remedy else ()),
    )
    return tuple(row for row in rows if row.sentences)


def _breaks(outlook: Outlook | None) -> str:
    return "When it broke" if outlook is not None and outlook.state == "Broke" else "When it breaks"


def _value(span: FindingSpan, times: Sequence[float]) -> str:
    finding = span.finding
    detector = DETECTORS.get(finding.type)
    unit = f" {detector.unit}" if detector else ""
    return (
        f"At its worst, at {clock(span.worst_at, times)}: {format_count(finding.value)}{unit}. Rule "
        f"{printable(finding.rule)} of {printable(finding.policy)} calls {format_count(finding.threshold)} or more "
        f"{finding.severity}."
    )


def _began(span: FindingSpan, times: Sequence[float]) -> tuple[str, ...]:
    if span.began <= times[0]:
        began = f"Before the first look at {clock(times[0], times)}, which shows it already."
    else:
        began = f"At {clock(span.began, times)}, {format_duration(span.began - times[0])} after the first look."
    if not span.raised:
        state = (
            f"It was seen to hold for {format_duration(span.seen_until - span.began)}, which is "
            "shorter than its rule waits: no alarm would be raised of it yet."
        )
    else:
        raised = next((mark.at for mark in span.marks if mark.change == "Raised"), span.began)
        state = f"Its rule raised it at {clock(raised, times)}."
    if not span.lasts:
        over = f"It was over at {clock(span.seen_until, times)}."
    elif span.segments[-1].phase == "Clearing":
        over = f"The condition is over since {clock(span.segments[-1].begin, times)}; its rule waits before it clears."
    else:
        over = f"It lasted when it was last looked at, at {clock(times[-1], times)}."
    return f"{began} {state} {over}".strip(), *_old(span, times)


def _old(span: FindingSpan, times: Sequence[float]) -> tuple[str, ...]:
    oldest = span.finding.evidence.get("oldestSeconds", "")
    if not oldest.replace(".", "", 1).isdigit() or span.worst_at - float(oldest) >= times[0]:
        return ()
    return (f"The oldest of these sockets is there since {clock(span.worst_at - float(oldest), times)} at the latest.",)


def who(span: FindingSpan, incident: Incident) -> tuple[str, ...]:
    """The other party, the process where the kernel tells it, and else the processes there are."""
    finding = span.finding
    told = []
    if finding.target is not None and (finding.target.address or finding.target.name):
        told.append(f"The other party is {printable(describe(finding.target))}.")
    process = finding.evidence.get("process", "")
    if process:
        container = finding.evidence.get("container", "")
        told.append(
            f"The process is {printable(process)}{f' in container {printable(container)}' if container else ''}."
        )
    if finding.type == "CloseWaitLeak":
        told += [
            f"{printable(one.process)} (pid {one.pid}) holds them: {one.used:,} of at most {one.limit:,} files open."
            for one in incident.descriptors
        ]
    names = incident.processes
    if names:
        rest = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        told.append(f"Processes there: {', '.join(names[:_MOST_NAMES])}{rest}.")
    return tuple(told)


def label(span: FindingSpan) -> str:
    """A finding in a line of the timeline."""
    return f"{printable(span.finding.type)}: {_at_its_end(span)}"


def _at_its_end(span: FindingSpan) -> str:
    if not span.raised:
        return f"{span.severity}, not raised yet"
    return span.severity


def events(span: FindingSpan) -> tuple[tuple[float, str], ...]:
    """What happened to a finding, each with its time."""
    return tuple((mark.at, _event(mark)) for mark in span.marks)


def _event(mark: Mark) -> str:
    what = _CHANGES[mark.change]
    return what if mark.change in {"Began", "Cleared"} else f"{what}, {mark.severity}"


def course(series: Series) -> str:
    """A series for who cannot see it."""
    known = series.known
    if not known:
        return f"{series.label}: not known."
    percent = "%" if series.unit == "percent" else ""
    first, peak, last = (f"{format_count(value)}{percent}" for value in (known[0], series.peak, known[-1]))
    return f"{series.label}: {first} at first, {peak} at most, {last} at last."


def sections(page: str) -> Mapping[str, str]:
    """The parts of a Markdown page by their second-level headings."""
    found: dict[str, str] = {}
    for part in ("\n" + page).split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        found[heading.strip()] = body.strip()
    return found
