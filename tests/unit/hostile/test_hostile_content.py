"""Names and texts of strangers are data wherever they are written: log lines, annotations, pages, links, queries.

What a terminal gets is held by tests/unit/cli, Events and metrics by tests/unit/operator and tests/unit/agent2.
"""

import io
import json
import logging
import sys
from dataclasses import replace

import msgspec
import pytest

from report_page import Document
from sockethealth_cli import runbooks
from sockethealth_cli.report import page, prometheus
from sockethealth_cli.report.page import Report
from sockethealth_core import logs
from sockethealth_core.names import ANNOTATION_FINDINGS, RUNBOOK_BASE_URL, runbook_url
from sockethealth_core.policy import PolicyError, read_policy
from sockethealth_operator import annotations, events
from sockethealth_operator.objects import ObjectRef
from unit.cli.builders import NOW
from unit.cli.report_builders import HOSTILE, running_out

LINES = "\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"
FORGED = '2026-01-01T00:00:00Z ERROR   forged\n{"level":"ERROR","message":"forged"}'
SINCE = "2026-11-21T00:00:00Z"


def raise_hostile():
    raise ValueError(f"{FORGED}\x1b[2J")


@pytest.fixture
def logged(monkeypatch):
    """Log to a text that can be looked at; whatever was configured is put back."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level

    def start(*, as_json):
        written = io.StringIO()
        monkeypatch.setattr(sys, "stderr", written)
        logs.configure("info", json=as_json)
        return written

    yield start
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize("line", LINES)
def test_a_line_break_in_a_name_makes_no_second_log_line(logged, line):
    written = logged(as_json=True)
    logging.getLogger("x").info("Pod %s.", f"web{line}{FORGED}", extra={"pod": f"web{line}", f"odd{line}key": HOSTILE})
    (only,) = written.getvalue().splitlines()
    event = json.loads(only)
    assert event["level"] == "INFO"
    assert event["message"] == f"Pod web{line}{FORGED}."
    assert event["pod"] == f"web{line}"
    assert only.isascii()
    assert only.isprintable()


def test_an_exceptions_text_makes_no_second_log_line(logged):
    written = logged(as_json=True)
    try:
        raise_hostile()
    except ValueError:
        logging.getLogger("x").exception("Failed.")
    (only,) = written.getvalue().splitlines()
    assert "forged" in json.loads(only)["exc_info"]
    assert only.isprintable()


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_text_shows_line_breaks_and_escapes_as_they_are_written(logged, line):
    written = logged(as_json=False)
    logging.getLogger("x").info("Pod %s.", f"web{line}{FORGED}\x1b[2J\u202e")
    (only,) = written.getvalue().removesuffix("\n").splitlines()
    assert only.isprintable()
    assert "\\x1b[2J\\u202e" in only
    assert f"web{line.encode('unicode_escape').decode()}2026" in only


def test_a_trace_of_text_cannot_forge_an_event_of_its_own(logged):
    written = logged(as_json=False)
    try:
        raise_hostile()
    except ValueError:
        logging.getLogger("x").exception("Failed.")
    first, *trace = written.getvalue().splitlines()
    assert first.endswith("Failed.")
    assert trace
    assert all(line.startswith("  ") and line.isprintable() for line in trace)


def test_a_finding_of_which_every_text_is_hostile_is_text_on_the_page():
    made = running_out()
    texts = dict.fromkeys(("type", "policy", "rule", "policy_kind", "message", "remedy"), HOSTILE)
    spans = tuple(
        replace(span, finding=msgspec.structs.replace(span.finding, **texts, runbook=f"https://{HOSTILE}"))
        for span in made.findings
    )
    assert spans
    html = page.render(Report((replace(made, findings=spans),), HOSTILE, NOW + 500))
    assert "<img" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert html.count("</script>") == 1
    assert not any("onerror" in attributes for _, attributes, _ in Document(html).elements)


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "data:text/html,x", " https://a", "HTTPS://a", "//a", "\x01javascript:a"]
)
def test_only_a_web_address_becomes_a_link(link):
    made = running_out()
    spans = tuple(replace(span, finding=msgspec.structs.replace(span.finding, runbook=link)) for span in made.findings)
    html = page.render(Report((replace(made, findings=spans),), "Test.", NOW + 500))
    targets = {attributes["href"] for _, attributes, _ in Document(html).elements if "href" in attributes}
    assert not {one for one in targets if link.strip("\x01 ") in one}


@pytest.mark.parametrize(
    "kind", ["../../evil", "a?b#c", 'x" onclick="y', "\x1b[2J", "//evil.example", "a\nb", "\u202ea"]
)
def test_a_runbooks_address_is_one_of_ours_whatever_the_finding_is_called(kind):
    url = runbook_url(kind)
    assert url.startswith(f"{RUNBOOK_BASE_URL}/")
    rest = url.removeprefix(f"{RUNBOOK_BASE_URL}/")
    assert rest.isascii()
    assert rest.isprintable()
    assert not set(rest) & set("/?#\"' <>\\")


@pytest.mark.parametrize("name", ["../../pyproject", "/etc/passwd", "index", "CloseWaitLeak/../index", "\x1b[2J", ""])
def test_a_runbook_is_found_by_the_name_of_a_finding_and_by_no_path(name):
    with pytest.raises(runbooks.UnknownFindingError):
        runbooks.named(name)


@pytest.mark.parametrize("name", ['a"} or up{b="', "a\\", "a\nb", 'a\\"b', "{{x}}", "$1", "\u202e"])
def test_a_name_ends_no_text_of_a_query(name):
    text = prometheus.quoted(name)
    assert text[0] == text[-1] == '"'
    assert "\n" not in text
    assert json.loads(text, strict=False) == name


@pytest.mark.parametrize("depth", [500, 2_000, 60_000])
def test_an_annotation_of_great_depth_is_read_as_nothing_or_without_what_is_unknown(depth):
    entry = {"type": "CloseWaitLeak", "severity": "Warning", "since": SINCE, "policy": "p"}
    text = json.dumps([entry])[:-2] + ', "x": ' + "[" * depth + "]" * depth + "}]"
    assert len(text) < 256 * 1024
    assert len(annotations.parse({ANNOTATION_FINDINGS: text})) in (0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '[{"type":"a","severity":"Warning","since":"x","policy":"p"}]',
        '[{"type":"a","severity":"<b>","since":"2026-11-21T00:00:00Z","policy":"p"}]',
        "x" * 1_048_576,
        "\x00",
        "null",
        '{"type":"a"}',
    ],
)
def test_an_annotation_that_is_not_ours_is_read_as_nothing(text):
    assert annotations.parse({ANNOTATION_FINDINGS: text}) == []


@pytest.mark.parametrize("text", [HOSTILE, FORGED, *LINES, "\x00"])
def test_an_annotation_and_an_event_hold_nothing_that_steers_whoever_prints_them(text):
    name = annotations.Entry(
        type=text, severity="Critical", since=SINCE, policy=text, rule=text, pod=text, message=text
    )
    written = annotations.render([name])[ANNOTATION_FINDINGS]
    assert written.isascii()
    assert written.isprintable()
    web = ObjectRef("apps/v1", "Deployment", "shop", "web", "u")
    event = events.body(events.raised(web, None, name, SINCE, f"{text} leaks {text}"), "operator", NOW)
    assert event["note"].isprintable()
    assert event["metadata"]["name"].startswith("web.")


@pytest.mark.parametrize("text", [HOSTILE, FORGED, "\x1b]0;x\x07", "\u202e"])
def test_a_policys_faults_can_be_logged_on_one_line(text, logged):
    rules = [{"name": text, "detector": "Expression", "for": text, "parameters": {"expression": text}}]
    with pytest.raises(PolicyError) as refused:
        read_policy({"kind": "SocketHealthPolicy", "metadata": {"name": text}, "spec": {"rules": rules}})
    written = logged(as_json=True)
    logging.getLogger("x").warning("%s", refused.value)
    (only,) = written.getvalue().splitlines()
    assert only.isprintable()
