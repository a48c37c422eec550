"""What the API server accepts of the five kinds, what it refuses, and in which words."""

import copy
import json

import pytest
import yaml

from sockethealth_core.crd import KINDS
from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.names import API_VERSION
from sockethealth_core.resources import encode

pytestmark = pytest.mark.api

POLICY = {
    "apiVersion": API_VERSION,
    "kind": "ClusterSocketHealthPolicy",
    "metadata": {"name": "admission"},
    "spec": {"rules": [{"name": "leak", "detector": "CloseWaitLeak"}]},
}
PROFILE = {
    "apiVersion": API_VERSION,
    "kind": "SysctlProfile",
    "metadata": {"name": "admission"},
    "spec": {"target": "Node", "sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "30"}]},
}


def policy(**rule):
    changed = copy.deepcopy(POLICY)
    changed["spec"]["rules"][0] |= rule
    return changed


def profile(*sysctls, **spec):
    changed = copy.deepcopy(PROFILE)
    if sysctls:
        changed["spec"]["sysctls"] = [{"name": name, "value": value} for name, value in sysctls]
    changed["spec"] |= spec
    return changed


def test_the_default_policy_is_accepted_as_it_is(dry_run):
    accepted, answer = dry_run(encode(DEFAULT_POLICY))
    assert accepted, answer


def test_a_short_policy_gets_its_defaults(dry_run):
    accepted, answer = dry_run(POLICY)
    assert accepted, answer
    spec = json.loads(answer)["spec"]
    assert spec["mode"] == "Enforce"
    assert spec["rules"][0]["for"] == "2m"
    assert spec["rules"][0]["clearAfter"] == "1m"
    assert spec["actions"]["annotate"] == {"workload": True, "pod": False}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (policy(detector="CloseWaitLeek"), 'supported values: "AcceptQueueOverflow", "CloseWaitLeak"'),
        (
            policy(threshold=50, clearThreshold=60),
            "write a clearThreshold of at most the threshold",
        ),
        (policy(clearThreshold=60), "clearThreshold needs a threshold beside it"),
        (policy(threshold=-1), "should be greater than or equal to 0"),
        (
            policy(**{"for": "2 minutes"}),
            "'2 minutes' is not a duration: write a number and a unit, such as 30s, 2m or 1h30m",
        ),
        (policy(clearAfter=""), "'' is not a duration"),
        (policy(name="Not A Name"), "lower case letters, digits and dashes only"),
        (policy(severity="Fatal"), 'supported values: "Critical", "Info", "Warning"'),
        (policy(detector="Expression"), "detector Expression needs parameters.expression"),
        (policy(parameters={"expression": "true"}), "parameters.expression belongs to detector Expression"),
        (profile(("net.ipv4.tcp_tw_recycle", "1")), "net.ipv4.tcp_tw_recycle is never set"),
        (
            profile(("kernel.panic", "1")),
            "'kernel.panic' is not a sysctl a profile may set: use one of net.ipv4.ip_local",
        ),
        (profile(("../../etc/passwd", "1")), "is not a sysctl a profile may set"),
        (
            profile(("net.ipv4.tcp_fin_timeout", "1")),
            "net.ipv4.tcp_fin_timeout takes a whole number from 5 to 120, not '1'",
        ),
        (
            profile(("net.ipv4.tcp_syncookies", "0")),
            "net.ipv4.tcp_syncookies can only be 1, not '0'",
        ),
        (profile(("net.ipv4.ip_local_port_range", "60000 50000")), "takes the first and the last port"),
        (profile(("net.ipv4.ip_local_port_range", "60000")), "takes the first and the last port"),
        (profile(("net.ipv4.ip_local_port_range", "60000 61000")), "takes the first and the last port"),
        (profile(("net.ipv4.ip_local_reserved_ports", "80;90")), "ports and ranges separated by commas"),
        (profile(podSelector={}), "podSelector and namespaceSelector belong to target Pods"),
        (profile(rollout={"maxConcurrentNodes": "0%"}), "a number from 1 on, or a percentage from 1% to 100%"),
        (profile(rollout={"maxConcurrentNodes": 0}), "a number from 1 on, or a percentage from 1% to 100%"),
    ],
)
def test_a_bad_object_is_refused_with_what_to_write_instead(dry_run, document, sentence):
    accepted, answer = dry_run(document)
    assert not accepted
    assert sentence in answer


@pytest.mark.parametrize(
    "document",
    [
        policy(threshold=50, clearThreshold=50, severity="Critical", **{"for": "1h30m"}),
        policy(detector="Expression", parameters={"expression": "status.sockets.synSent > 100"}, threshold=1),
        profile(
            ("net.ipv4.ip_local_port_range", "10240 65000"),
            ("net.ipv4.ip_local_reserved_ports", "30000-32767"),
            ("net.ipv4.tcp_tw_reuse", "1"),
        ),
        profile(
            ("net.ipv4.ip_local_port_range", "10240\t65000"), target="Pods", podSelector={"matchLabels": {"a": "b"}}
        ),
        profile(("net.ipv4.ip_local_reserved_ports", "8080,30000-32767"), rollout={"maxConcurrentNodes": "10%"}),
    ],
)
def test_a_good_object_is_accepted(dry_run, document):
    accepted, answer = dry_run(document)
    assert accepted, answer


def test_a_typing_error_in_a_field_is_refused(dry_run):
    accepted, answer = dry_run(policy(treshold=50))
    assert not accepted
    assert 'unknown field "spec.rules[0].treshold"' in answer


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_explain_describes_every_field(control_plane, crds, kind):
    text = control_plane.kubectl("explain", kind.plural, "--recursive=false").stdout
    assert " ".join(kind.type.__doc__.split())[:60] in " ".join(text.split())
    for path in _paths(kind):
        text = control_plane.kubectl("explain", path).stdout
        description = text.partition("DESCRIPTION:")[2].partition("FIELDS:")[0].strip()
        assert description not in ("", "<empty>"), f"kubectl explain {path} says nothing"


def _paths(kind):
    yield f"{kind.plural}.spec"
    yield f"{kind.plural}.status"
    yield f"{kind.plural}.status.conditions"


def test_every_property_of_every_schema_has_a_description():
    bare = [
        f"{kind.name}.{path}"
        for kind in KINDS
        for part in ("spec", "status")
        for path in _undescribed(_definition(kind)[part], part)
    ]
    assert bare == []


def _definition(kind):
    from sockethealth_core.crd import definition  # noqa: PLC0415 (used by one test)

    return yaml.safe_load(yaml.safe_dump(definition(kind)))["spec"]["versions"][0]["schema"]["openAPIV3Schema"][
        "properties"
    ]


def _undescribed(schema, path):
    if not schema.get("description"):
        yield path
    for name, inner in schema.get("properties", {}).items():
        yield from _undescribed(inner, f"{path}.{name}")
    if schema.get("items", {}).get("type") == "object":
        yield from _undescribed(schema["items"], f"{path}[]")


def test_a_sockethealth_is_listed_by_short_name_category_and_node(control_plane, crds, namespace):
    document = {
        "apiVersion": API_VERSION,
        "kind": "SocketHealth",
        "metadata": {"name": "web-1", "namespace": namespace},
        "spec": {"nodeName": "node-x", "podUID": "u"},
    }
    control_plane.apply(document)
    document |= {"status": {"health": "Warning", "sockets": {"closeWait": 200, "established": 3, "timeWait": 7}}}
    control_plane.apply(document, subresource="status")
    header, row = control_plane.kubectl("get", "sh", "-n", namespace).stdout.splitlines()
    assert header.split() == ["NAME", "HEALTH", "ESTAB", "TIME-WAIT", "CLOSE-WAIT", "PORTS", "FINDING", "AGE"]
    assert row.split()[:5] == ["web-1", "Warning", "3", "7", "200"]
    for node, expected in (("node-x", 1), ("node-y", 0)):
        found = control_plane.kubectl(
            "get", "sockethealths", "-n", namespace, "-o", "name", f"--field-selector=spec.nodeName={node}"
        ).stdout.split()
        assert len(found) == expected
    assert (
        "sockethealth.sockethealth.io/web-1"
        in control_plane.kubectl("get", "sockethealth", "-n", namespace, "-o", "name").stdout
    )
