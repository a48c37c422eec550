"""The annotations' text: what is read back is what was written, whatever strangers put in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_operator.annotations import MAX_BYTES, MAX_ENTRIES, REMOVED, Entry, annotated, differs, parse, render

HEALTH, FINDINGS, SINCE = "sockethealth.io/health", "sockethealth.io/findings", "sockethealth.io/since"


def entry(number=0, **fields):
    base = {
        "type": "CloseWaitLeak",
        "severity": "Warning",
        "since": f"2026-01-01T00:0{number % 10}:00Z",
        "policy": f"policy-{number}",
        "policy_kind": "SocketHealthPolicy",
        "rule": "r",
        "pods": 2,
        "pod": "web-1",
        "message": "pod shop/web-1 holds 200 CLOSE_WAIT sockets",
    }
    return Entry(**{**base, **fields})


def test_the_list_is_compact_json_with_the_names_of_the_contract():
    text = render([entry()])[FINDINGS]
    assert " " not in text.replace(entry().message, "")
    (written,) = json.loads(text)
    assert written == {
        "type": "CloseWaitLeak",
        "severity": "Warning",
        "since": "2026-01-01T00:00:00Z",
        "policy": "policy-0",
        "policyKind": "SocketHealthPolicy",
        "rule": "r",
        "pods": 2,
        "pod": "web-1",
        "message": "pod shop/web-1 holds 200 CLOSE_WAIT sockets",
    }


def test_health_is_the_worst_and_since_the_earliest():
    made = render([entry(5, severity="Critical"), entry(3)])
    assert (made[HEALTH], made[SINCE]) == ("Critical", "2026-01-01T00:03:00Z")
    assert render([entry()])[HEALTH] == "Warning"


def test_nothing_found_means_nothing_annotated():
    assert render([]) == {HEALTH: None, FINDINGS: None, SINCE: None}
    assert not annotated({"team": "shop"})
    assert annotated({HEALTH: "Warning"})


@given(
    st.lists(st.builds(entry, st.integers(0, 9), message=st.text(max_size=400), pod=st.text(max_size=250)), max_size=20)
)
def test_any_text_stays_within_bounds_prints_plainly_and_is_read_back(entries):
    text = render(entries)[FINDINGS]
    if not entries:
        assert text is None
        return
    read = parse({FINDINGS: text})
    assert text.isascii()
    assert text.isprintable()
    assert 1 <= len(read) <= MAX_ENTRIES
    assert len(text) <= MAX_BYTES or len(read) == 1
    assert [e.identity for e in read] == [e.identity for e in entries[: len(read)]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        "[1]",
        "not json",
        '[{"type":1}]',
        '[{"type":"X","severity":"Warning","since":"soon","policy":"p"}]',
    ],
)
def test_what_is_not_ours_is_read_as_nothing(text):
    assert parse({FINDINGS: text}) == []


def test_only_a_change_that_matters_is_written():
    present = render([entry()])
    assert not differs(present, render([entry(message="pod shop/web-1 holds 201 CLOSE_WAIT sockets")]))
    assert not differs(present, render([entry(pod="web-2")]))
    assert differs(present, render([entry(pods=3)]))
    assert differs(present, render([entry(severity="Critical")]))
    assert differs(present, render([entry(), entry(1)]))
    assert differs(present, REMOVED)
    assert differs({}, present)
    assert differs(present | {FINDINGS: "[]"}, present), "somebody emptied it"
    assert not differs({"team": "shop"}, REMOVED)
