"""`kubectl sockethealth profiles` and kubectl's own columns, with objects as operator and nodes write them."""

import json

import pytest

import plugin_program
from operator_lab import Stage
from sockethealth_core.names import API_VERSION
from sockethealth_core.units import format_time

pytestmark = pytest.mark.api

RANGE = {"name": "net.ipv4.ip_local_port_range", "value": "10240 64999"}


def condition(name: str, status: str, reason: str, message: str) -> dict[str, str]:
    told = {"type": name, "status": status, "reason": reason, "message": message}
    return {**told, "lastTransitionTime": format_time(1_900_000_000)}


@pytest.fixture
def audited(control_plane, crds, namespace):
    """A profile in Audit, and a node that has said what Enforce would change; the profile's name."""
    with Stage.set_up(control_plane, namespace) as stage:
        name = f"wider-{namespace}"
        spec = {"target": "Pods", "sysctls": [RANGE]}
        stage.apply({"apiVersion": API_VERSION, "kind": "SysctlProfile", "metadata": {"name": name}, "spec": spec})
        nodes = {"selected": 3, "audited": 1, "wouldChange": 1, "failed": 1, "pending": 1}
        progress = condition("Progressing", "False", "Audited", "Audit: Enforce would change 1 of 1 node.")
        degraded = condition("Degraded", "True", "NodeFailed", "node-z refuses the values.")
        write_status(stage, "sysctlprofile", name, {"nodes": nodes, "conditions": [progress, degraded]})
        change = {"where": f"{namespace}/web", "name": RANGE["name"], "found": "32768 60999", "wanted": RANGE["value"]}
        report = {"profile": name, "revision": "r", "state": "Audited", "changes": [change], "changesTotal": 1}
        status = {"sysctlProfiles": [report], "sysctlWriter": {"version": "0.1.0"}}
        write_status(stage, "nodesockethealth", stage.node, status)
        try:
            yield stage, name
        finally:
            control_plane.delete("sysctlprofile", name, wait=True)


def write_status(stage: Stage, kind: str, name: str, status: dict) -> None:
    stage.cluster.merge(kind, name, {"status": status}, subresource="status")


def plugin(stage: Stage, *arguments: str) -> str:
    done = plugin_program.run(*arguments, kubeconfig=stage.cluster.kubeconfig)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_list_and_the_story_of_a_profile(audited):
    stage, name = audited
    listed = plugin(stage, "profiles")
    assert all(len(line) <= 100 for line in listed.splitlines())
    assert "node-z" in listed
    story = plugin(stage, "profiles", name)
    (line,) = [line.split() for line in story.splitlines() if line.startswith(stage.node)]
    assert line == [stage.node, "Audited", f"{stage.namespace}/web", RANGE["name"], "32768", "60999", "10240", "64999"]
    assert "Audit: Enforce would change 1 of 1 node." in story
    assert json.loads(plugin(stage, "profiles", name, "-o", "json"))["metadata"]["name"] == name


def columns(stage: Stage, kind: str, name: str, *options: str) -> dict[str, str]:
    """What `kubectl get` shows of an object, by column."""
    path = "sysctlprofiles" if kind == "sysctlprofile" else "nodesockethealths"
    table = stage.cluster.kubectl("get", path, name, *options).stdout.splitlines()
    assert len(table) == 2
    header = table[0]
    starts = [header.index(word) for word in header.split()]
    ends = [*starts[1:], None]
    return {header[a:b].strip(): table[1][a:b].strip() for a, b in zip(starts, ends, strict=True)}


def test_kubectl_get_tells_where_a_profile_stands(audited):
    stage, name = audited
    shown = columns(stage, "sysctlprofile", name)
    assert list(shown) == [
        "NAME",
        "MODE",
        "TARGET",
        "SELECTED",
        "APPLIED",
        "FAILED",
        "PROGRESS",
        "DEGRADED",
        "AGE",
    ]
    assert (shown["MODE"], shown["TARGET"], shown["SELECTED"], shown["FAILED"]) == ("Audit", "Pods", "3", "1")
    assert (shown["PROGRESS"], shown["DEGRADED"]) == ("Audited", "True")
    wide = columns(stage, "sysctlprofile", name, "-o", "wide")
    assert (wide["PENDING"], wide["WOULD-CHANGE"]) == ("1", "1")


def test_kubectl_get_tells_which_nodes_have_a_writer(audited):
    stage, _ = audited
    assert "SYSCTLS" not in columns(stage, "nodesockethealth", stage.node)
    assert columns(stage, "nodesockethealth", stage.node, "-o", "wide")["SYSCTLS"] == "0.1.0"
