"""The page itself: one HTML document that needs nothing from anywhere and works without JavaScript. Pure.

Its Content-Security-Policy allows the one style sheet and the one script in it by their hashes, and no request at all.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any, Final

from markdown_it import MarkdownIt

from sockethealth_cli import runbooks
from sockethealth_cli.report import figures, words
from sockethealth_cli.report.markup import Markup, element, joined, void
from sockethealth_cli.report.timeline import Change, FindingSpan, Incident
from sockethealth_cli.text import counted
from sockethealth_core.detectors import DETECTORS
from sockethealth_core.units import format_count, format_duration, format_time

FORMAT: Final = "sockethealth-report/v1"
"""What the embedded data calls its shape."""
MOST_ROWS: Final = 200
"""Rows of raw data in the page; the embedded data has all."""
_SIGNS: Final = {"Critical": "!!", "Warning": "!", "Info": "i", "Healthy": "✓"}


@dataclass(frozen=True, slots=True)
class Other:
    """A namespace that was looked at too and has no part of its own in the page."""

    name: str
    health: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a page is made of.

    Attributes:
        incidents: worst first; at least one.
        source: where it was read, as a sentence.
        created: epoch seconds.
        others: looked at and left out.
        notes: sentences about what could not be done.
    """

    incidents: tuple[Incident, ...]
    source: str
    created: float
    others: tuple[Other, ...] = ()
    notes: tuple[str, ...] = ()


def render(report: Report) -> str:
    """The document.

    Raises:
        ValueError: there is no incident to show.
    """
    if not report.incidents:
        raise ValueError("a report needs at least one incident")
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    first = report.incidents[0]
    head = element(
        "head",
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=policy),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", name="color-scheme", content="light dark"),
        void("meta", name="referrer", content="no-referrer"),
        void("link", rel="icon", href="data:,"),
        element("title", f"{_title(first)} - SocketHealth report"),
        element("style", Markup(style)),
    )
    body = element(
        "body",
        figures.patterns(),
        element(
            "main",
            element("h1", "Incident report"),
            *([_contents(report.incidents)] if len(report.incidents) > 1 else []),
            *(_incident(index, one) for index, one in enumerate(report.incidents)),
            _about(report),
        ),
        element("script", Markup(script)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


@cache
def _asset(name: str) -> str:
    return (resources.files("sockethealth_cli") / "report" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}"


def _title(incident: Incident) -> str:
    worst = incident.worst
    name = str(incident.subject)
    return f"{worst.finding.type} in {name}" if worst else f"{name}: nothing found"


def _severity(incident: Incident) -> str:
    return incident.worst.severity if incident.worst else "Healthy"


def _chip(severity: str) -> Markup:
    sign = element("span", _SIGNS[severity], class_="sign", aria_hidden="true")
    return element("span", sign, f" {severity}", class_=f"chip c-{severity}")


def _contents(incidents: Sequence[Incident]) -> Markup:
    links = (
        element("li", _chip(_severity(one)), " ", element("a", _title(one), href=f"#incident-{index}"))
        for index, one in enumerate(incidents)
    )
    return element("nav", element("ol", *links), aria_label="Incidents in this report")


def _incident(index: int, incident: Incident) -> Markup:
    begin, end = incident.times[0], incident.times[-1]
    looks = f"{counted(len(incident.times), 'look')} from {format_time(begin)} to {format_time(end)}"
    span = f"{looks} ({format_duration(end - begin)}). All times are UTC."
    return element(
        "section",
        element("h2", _chip(_severity(incident)), " ", _title(incident)),
        element("p", words.headline(incident), class_="lead"),
        element("p", span, class_="quiet"),
        _answers(incident),
        figures.of_incident(index, incident),
        _changes(incident),
        *_findings(incident),
        _raw(index, incident),
        id=f"incident-{index}",
        class_="incident",
        data_begin=repr(begin),
        data_end=repr(end),
    )


def _answers(incident: Incident) -> Markup:
    rows: list[str] = []
    for answer in words.answers(incident):
        rows.append(element("dt", answer.question))
        rows.append(element("dd", *(element("p", text) for text in answer.sentences)))
    worst = incident.worst
    if worst is not None and worst.finding.type in DETECTORS:
        page = words.sections(runbooks.page(worst.finding.type))
        for question, heading in (("Why", "What it means"), ("What does not help", "What does not")):
            if heading in page:
                rows.append(element("dt", question))
                rows.append(element("dd", _markdown(page[heading])))
    return element("dl", *rows, class_="answers") if rows else Markup("")


def _markdown(text: str) -> Markup:
    # Runbooks are our own; HTML in them would be text all the same.
    html: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return Markup(html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>"))


def _changes(incident: Incident) -> Markup:
    if not incident.changes:
        return joined(element("h3", "What changed"), element("p", "Nothing of note changed while it was looked at."))
    began = incident.began
    if began is None:
        compared = "Compared: the first half of the time, and the second."
    elif began <= incident.times[0]:
        compared = "It was there from the first look on: compared are the first look and what came after."
    else:
        compared = (
            f"Compared: what was usual before {words.clock(began, incident.times)} (the median), and the "
            "peak since then, or the median since then where that is further away."
        )
    rows = (
        element(
            "tr",
            element("th", one.what, scope="row"),
            element("td", one.before),
            element("td", one.after),
            element("td", _how_much(one, incident.times)),
        )
        for one in incident.changes
    )
    heads = (element("th", text, scope="col") for text in ("What", "Before", "Since", "How much"))
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows), class_="changes")
    return element(
        "div",
        element("h3", "What changed"),
        element("p", compared, class_="quiet"),
        element("div", table, class_="scroll"),
    )


def _how_much(change: Change, times: Sequence[float]) -> str:
    if change.at is not None:
        return f"at {words.clock(change.at, times)}"
    if change.factor is None:
        return "from 0" if change.before.startswith("0") else "to 0"
    return f"{format_count(change.factor)} times"


def _findings(incident: Incident) -> list[Markup]:
    if not incident.findings:
        return []
    return [
        element("h3", "Every finding"),
        *(_finding(span, is_open=place == 0) for place, span in enumerate(incident.findings)),
    ]


def _finding(span: FindingSpan, *, is_open: bool) -> Markup:
    finding = span.finding
    parts: list[str] = [element("summary", _chip(span.severity), " ", element("strong", finding.type))]
    parts.append(element("p", finding.message[:1].upper() + finding.message[1:]))
    if finding.remedy:
        parts.append(element("p", element("strong", "What helps: "), finding.remedy))
    page = words.sections(runbooks.page(finding.type)) if finding.type in DETECTORS else {}
    for heading in ("Confirm by hand", "What fixes it", "What does not"):
        if heading in page:
            parts.append(element("h4", heading))
            parts.append(_markdown(page[heading]))
    if finding.runbook.startswith("https://"):
        link = element("a", finding.runbook, href=finding.runbook, rel="noreferrer noopener")
        parts.append(element("p", "Runbook: ", link))
    return element("details", *parts, class_="finding", open=is_open)


def _raw(index: int, incident: Incident) -> Markup:
    series = incident.series
    count = len(incident.times)
    chosen = range(count) if count <= MOST_ROWS else [count * row // MOST_ROWS for row in range(MOST_ROWS)]
    heads = (element("th", text, scope="col") for text in ("Time (UTC)", *(f"{s.label} ({s.unit})" for s in series)))
    rows = (
        element(
            "tr",
            element("th", format_time(incident.times[row]), scope="row"),
            *(element("td", _plain(one.values[row])) for one in series),
        )
        for row in chosen
    )
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows), class_="numbers raw")
    data = json.dumps(as_data(incident), separators=(",", ":"), allow_nan=False).encode()
    less = "" if count <= MOST_ROWS else f" The table has {MOST_ROWS} of the {count:,} looks; the file has all."
    download = element(
        "a",
        "Download as JSON",
        class_="download",
        download=f"sockethealth-{index + 1}.json",
        href=f"data:application/json;base64,{b64encode(data).decode('ascii')}",
    )
    return element(
        "details",
        element("summary", element("strong", "Raw data")),
        element("p", download, f" ({FORMAT}).{less}"),
        element("div", table, class_="scroll", tabindex="0", role="region", aria_label="Raw data"),
    )


def _plain(value: float | None) -> str:
    return "" if value is None else f"{round(value, 2):g}" if abs(value) < 100_000 else f"{value:.0f}"


def as_data(incident: Incident) -> dict[str, Any]:
    """The incident for programs: times and series as columns, findings, changes. Shape: FORMAT."""
    return {
        "format": FORMAT,
        "subject": {
            "kind": incident.subject.kind,
            "namespace": incident.subject.namespace,
            "name": incident.subject.name,
        },
        "times": [round(at, 3) for at in incident.times],
        "series": [
            {
                "key": one.key,
                "label": one.label,
                "unit": one.unit,
                "values": [None if value is None else round(value, 4) for value in one.values],
            }
            for one in incident.series
        ],
        "findings": [
            {
                "type": span.finding.type,
                "severity": span.severity,
                "policy": span.finding.policy,
                "rule": span.finding.rule,
                "value": span.finding.value,
                "threshold": span.finding.threshold,
                "message": span.finding.message,
                "remedy": span.finding.remedy,
                "runbook": span.finding.runbook,
                "evidence": dict(span.finding.evidence),
                "target": None
                if span.finding.target is None
                else {
                    "address": span.finding.target.address,
                    "port": span.finding.target.port,
                    "name": span.finding.target.name,
                },
                "worstAt": format_time(span.worst_at),
                "segments": [
                    {
                        "begin": format_time(segment.begin),
                        "end": format_time(segment.end),
                        "severity": segment.severity,
                        "phase": segment.phase,
                    }
                    for segment in span.segments
                ],
            }
            for span in incident.findings
        ],
        "changes": [
            {"what": one.what, "before": one.before, "after": one.after, "factor": one.factor}
            for one in incident.changes
        ],
        "outlook": None
        if incident.outlook is None
        else {
            "state": incident.outlook.state,
            "at": None if incident.outlook.at is None else format_time(incident.outlook.at),
            "sentence": incident.outlook.sentence,
        },
        "processes": list(incident.processes),
    }


def _about(report: Report) -> Markup:
    parts: list[str] = []
    if report.others:
        names = ", ".join(f"{one.name} ({one.health})" for one in report.others)
        parts.append(element("p", f"Looked at too: {names}."))
    parts += [element("p", f"Note: {sentence}") for sentence in report.notes]
    parts.append(
        element(
            "p",
            f"{report.source} Made at {format_time(report.created)} by sockethealth report. This page is one file and "
            "asks nobody for anything.",
        )
    )
    return element("footer", *parts)
