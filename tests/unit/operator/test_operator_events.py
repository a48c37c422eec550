"""Events: one name for one happening, within the API's bounds."""

import re

from hypothesis import given
from hypothesis import strategies as st

from sockethealth_core.resources import Finding
from sockethealth_operator import events
from sockethealth_operator.objects import ObjectRef

POD = ObjectRef("v1", "Pod", "shop", "web-1", "pod-uid")
DEPLOYMENT = ObjectRef("apps/v1", "Deployment", "shop", "web", "deployment-uid")


def finding(**fields):
    base = {
        "type": "CloseWaitLeak",
        "severity": "Warning",
        "since": "2026-01-01T00:00:00Z",
        "policy": "p",
        "policy_kind": "SocketHealthPolicy",
        "rule": "r",
        "value": 1,
    }
    return Finding(**{**base, **fields})


def raised(regarding=POD, note="n", **fields):
    cause = finding(**fields)
    return events.raised(regarding, None, cause, cause.since, note)


def test_the_same_happening_has_the_same_name_whatever_its_words():
    assert raised(note="200 sockets").name == raised(note="201 sockets", value=201).name


def test_every_other_happening_has_another_name():
    happenings = [
        raised(),
        raised(DEPLOYMENT),
        raised(since="2026-01-01T00:00:01Z"),
        raised(severity="Critical"),
        raised(policy="q"),
        raised(policy_kind="ClusterSocketHealthPolicy"),
        raised(rule="s"),
        raised(type="InboundTimeWait"),
        events.cleared(POD, finding(), "n"),
    ]
    assert len({h.name for h in happenings}) == len(happenings)


def test_a_long_name_of_a_pod_still_makes_a_valid_name():
    pod = ObjectRef("v1", "Pod", "shop", "a" * 229 + "." + "b" * 23, "uid")
    name = raised(pod).name
    assert len(name) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name)


def test_what_the_api_server_is_sent():
    announcement = events.raised(DEPLOYMENT, POD, finding(), "2026-01-01T00:00:00Z", "why")
    body = events.body(announcement, "operator-1", 1767225600.25)
    assert body["eventTime"] == "2026-01-01T00:00:00.250000Z"
    assert (body["type"], body["reason"], body["action"], body["note"]) == (
        "Warning",
        "CloseWaitLeak",
        "Evaluate",
        "why",
    )
    assert (body["reportingController"], body["reportingInstance"]) == ("sockethealth.io/operator", "operator-1")
    assert body["metadata"]["namespace"] == "shop"
    assert body["regarding"]["uid"] == "deployment-uid"
    assert body["related"]["kind"] == "Pod"


def test_an_event_of_the_cluster_lives_in_default():
    node = ObjectRef("v1", "Node", "", "node-a", "uid")
    body = events.body(raised(node), "o", 0)
    assert body["metadata"]["namespace"] == "default"
    assert "namespace" not in body["regarding"]


def test_a_cleared_event_is_normal():
    cleared = events.cleared(POD, finding(), "n")
    assert (cleared.type, cleared.reason) == ("Normal", "CloseWaitLeakCleared")


@given(st.text(max_size=3000))
def test_a_note_is_cut_to_what_the_api_takes_and_cannot_move_a_cursor(text):
    note = events.cut(text, 1024)
    assert len(note.encode()) <= 1024
    assert note.isprintable()


def test_a_note_is_cut_between_words():
    assert events.cut("eins zwei drei", 13) == "eins zwei..."
    assert events.cut("eins zwei drei", 14) == "eins zwei drei"
