"""A tenant's words and numbers on their way to everybody's screens, and to what concerns the whole cluster."""

import io
import json
import logging
import sys

import pytest

from sockethealth_core import logs
from sockethealth_core.detectors import Subject
from sockethealth_core.engine import evaluate
from sockethealth_core.names import ANNOTATION_FINDINGS
from sockethealth_core.policy import read_policy
from sockethealth_core.resources import CloseWait, Facts, Judgement, Listener, Owner, Peer, Sockets
from sockethealth_core.units import format_time
from sockethealth_operator import annotations, events, profiles, reports
from sockethealth_operator.objects import ObjectRef
from sockethealth_operator.world import World

NOW = 1_800_000_000.0
TERMINAL = "\x1b]0;pwned\x07\x1b[2J\x9b31m"
TEMPLATE = '{{ $labels.pod }}"} or up{x="'
PAGE = "</script><img src=x onerror=alert(1)>"
HOSTILE = f"{TERMINAL}{PAGE}{TEMPLATE}\u202e\n2026-01-01 ERROR forged"
API = "sockethealth.io/v1alpha1"


def found(detector, expression=""):
    """The finding of a rule, over facts that a hostile process has named itself in."""
    parameters = {"expression": expression} if expression else {"minAge": "0s"} if detector == "CloseWaitLeak" else {}
    rule = {"name": "r", "detector": detector, "threshold": 1, "clearThreshold": 1, "for": "0s"}
    rules = [{**rule, "parameters": parameters}]
    policy = read_policy(
        {"kind": "SocketHealthPolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": {"rules": rules}}
    )
    owner = Owner(container=HOSTILE, process=HOSTILE, pid=1, count=9)
    facts = Facts(
        sockets=Sockets(close_wait=9),
        close_wait=CloseWait(owners=[owner], peers=[Peer(address=HOSTILE, port=1, count=9)]),
        listeners=[Listener(address=HOSTILE, port=1, backlog=1, syn_backlog=1, syn_recv=9, process=HOSTILE)],
    )
    (finding,) = evaluate(Subject("pod", "web", "shop"), facts, policy.rules, Judgement(), NOW).judgement.findings
    return finding


CONDITION = f"status.sockets.closeWait > 1 && {json.dumps(PAGE + TEMPLATE)} != '{TERMINAL}\u202e'"


@pytest.fixture(params=[("CloseWaitLeak", ""), ("SynBacklogPressure", ""), ("Expression", CONDITION)], ids=str)
def finding(request):
    made = found(*request.param)
    assert PAGE in made.message or made.type == "SynBacklogPressure"
    return made


def test_from_a_process_name_or_a_condition_to_annotation_and_event(finding):
    pod = ObjectRef("v1", "Pod", "shop", "web", "u")
    (entry,) = reports.plan([], [reports.Report(pod, finding)], [finding]).entries
    written = annotations.render([entry])
    assert all(text.isascii() and text.isprintable() for text in written.values())
    assert len(written[ANNOTATION_FINDINGS]) <= annotations.MAX_BYTES
    note = reports.raised_note(finding.message, finding.remedy)
    for regarding in (pod, ObjectRef("apps/v1", "Deployment", "shop", "web", "d")):
        event = events.body(events.raised(regarding, pod, entry, finding.since, note), "operator", NOW)
        texts = [event["note"], event["reason"], event["metadata"]["name"], event["regarding"]["name"]]
        assert all(text.isprintable() for text in texts)
        assert len(event["note"].encode()) <= 1024


def test_to_a_line_of_the_log(finding, monkeypatch):
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    try:
        logs.configure("info", json=True)
        logging.getLogger("x").info("%s", finding.message, extra={"finding": finding.type, "seen": finding.message})
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    (line,) = written.getvalue().splitlines()
    assert line.isprintable()
    assert json.loads(line)["seen"] == finding.message


def policy_object(kind, **rule):
    namespaced = {"namespace": "shop"} if kind == "SocketHealthPolicy" else {}
    rules = [{"name": "r", "detector": "CloseWaitLeak", "threshold": 0, "clearThreshold": 0, "for": "0s", **rule}]
    metadata = {"name": "p", "uid": f"uid-of-{kind}", "generation": 1, **namespaced}
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": {"rules": rules}}


def profile_object():
    spec = {
        "mode": "Enforce",
        "target": "Node",
        "rollout": {"stopOn": "Warning"},
        "sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "30"}],
    }
    metadata = {"name": "wide", "uid": "w", "generation": 1}
    return {"apiVersion": API, "kind": "SysctlProfile", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(("kind", "count"), [("SocketHealthPolicy", 0), ("ClusterSocketHealthPolicy", 1)])
def test_what_a_namespace_calls_critical_stops_no_roll_out(kind, count):
    world = World()
    agent = {"heartbeatTime": format_time(NOW), "intervalSeconds": 600}
    node = {"apiVersion": API, "kind": "NodeSocketHealth", "metadata": {"name": "n", "uid": "n"}}
    world.observe_node("n", {})
    world.observe_node_health({**node, "status": {"observedTime": format_time(NOW), "agent": agent}}, NOW)
    world.observe_profile(profile_object())
    found = {
        "type": "CloseWaitLeak",
        "severity": "Critical",
        "since": format_time(NOW),
        "policy": "p",
        "policyKind": kind,
        "rule": "r",
        "value": 1,
    }
    world.observe_policy(policy_object(kind))
    world.observe_socket_health(
        {
            "apiVersion": API,
            "kind": "SocketHealth",
            "metadata": {"name": "web", "namespace": "shop", "uid": "s"},
            "spec": {"nodeName": "n", "podUID": "u"},
            "status": {"observedTime": format_time(NOW), "findings": [found]},
        },
        NOW,
    )
    (view,) = profiles.sight(world, world.profiles["wide"], NOW).views
    assert view.selected
    assert len(view.findings) == count
