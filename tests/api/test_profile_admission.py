"""Profiles at the API server: CEL refuses what Python refuses and for the same reason, and kubectl shows the advice."""

import json
import re
import secrets
from pathlib import Path

import pytest
import yaml

from lab import wait_until
from sockethealth_core.names import API_VERSION
from sockethealth_core.sysctl_cel import advice_checks
from sockethealth_core.sysctl_rules import advice, combination_refusal, refusal
from sockethealth_core.sysctls import NODE_PORTS, PORT_RANGE, RESERVED_PORTS, SYSCTLS

pytestmark = pytest.mark.api

ADVICE = Path(__file__).resolve().parents[2] / "charts" / "sockethealth" / "files" / "profile-advice.yaml"
FIN_TIMEOUT = "net.ipv4.tcp_fin_timeout"
INTEGERS = [sysctl for sysctl in SYSCTLS if sysctl.kind == "Integer"]


def profile(values, target="Pods", name="admission", **spec):
    sysctls = [{"name": sysctl, "value": value} for sysctl, value in values.items()]
    return {
        "apiVersion": API_VERSION,
        "kind": "SysctlProfile",
        "metadata": {"name": name},
        "spec": {"target": target, "sysctls": sysctls, **spec},
    }


def refusals(values, target):
    """All that Python says against a profile; sysctls together only where each by itself is right."""
    found = [sentence for name, value in values.items() if (sentence := refusal(name, value, target))]
    if not found and (sentence := combination_refusal(values, target, NODE_PORTS)):
        found.append(sentence)
    return found


def reason(sentence):
    """A refusal without the value, which each side shows in its own way."""
    if "is not a sysctl a profile may set" in sentence:
        return sentence[sentence.index("is not a sysctl") :]
    return re.split(r", not ['\"]", sentence, maxsplit=1)[0]


BOUNDS = [
    {sysctl.name: str(number)}
    for sysctl in INTEGERS
    for number in (sysctl.low - 1, sysctl.low, sysctl.high, sysctl.high + 1)
]
"""Four profiles an integer; the API server is asked once for all that are alike."""

VALUES = [
    *({FIN_TIMEOUT: value} for value in ("", " ", "030", " 30\n", "\t30", "3 0", "30s", "0x1e", "+30", "-30", "1e1")),
    *({FIN_TIMEOUT: value} for value in ("0000000030", "00000000030", "9999999999", "1_0", "30 ", "٣٠", "30\u00a0")),
    *({FIN_TIMEOUT: value} for value in ("30\r", "30\n30", "\uff13\uff10", "'30'", '"30"', "30\u2028", "\\30")),
    *({"net.ipv4.tcp_tw_reuse": value} for value in ("0", "2", "-0", "3")),
    *({"net.ipv4.tcp_syncookies": value} for value in ("0", "1", "2")),
    *({PORT_RANGE: value} for value in ("10240 65000", "10240\t65000\n", " 10240 \t 65000", "10240\n65000", "10240")),
    *({PORT_RANGE: value} for value in ("60000 50000", "60000 61000", "20000 28190", "20000 28191", "1023 65535")),
    *({PORT_RANGE: value} for value in ("1024 65535", "1024 65536", "10240-65000", "10240,65000", "1 2 3", "")),
    *({PORT_RANGE: value} for value in ("10240\u200365000", "99999 10240", "00024 65000", "010240 65000")),
    *({RESERVED_PORTS: value} for value in ("", " ", "\n", "1", "65535", "0", "65536", "99999", "8080,30000-32767")),
    *({RESERVED_PORTS: value} for value in ("80, 90 ,100-110\n", "80,\n90", "80,,90", ",", "80,", "90-80", "80-80")),
    *({RESERVED_PORTS: value} for value in ("80-", "-80", "80-90-100", "80 90", "80 - 90", "80;90", "a", "²2")),
    {RESERVED_PORTS: ",".join(str(port) for port in range(1000, 1051))},
    {"net.ipv4.tcp_tw_recycle": "1"},
    {"net.ipv4.tcp_tw_recycle": "0"},
    *({name: "30"} for name in ("kernel.panic", "net.ipv4.tcp_fin_timeout ", "net/ipv4/tcp_fin_timeout", "../etc")),
    *(
        {name: "30"}
        for name in ("NET.IPV4.TCP_FIN_TIMEOUT", "net.ipv4.tcp_fin_tim\u0435out", "net.ipv4.tcp_fin", "a\n")
    ),
    *({name: "30"} for name in ("net.ipv4.tcp_fin_timeout/..", "'", '"', "net.ipv4.conf.all.forwarding")),
]

NODE_VALUES = [
    {PORT_RANGE: "10240 65000"},
    {PORT_RANGE: "10240 65000", RESERVED_PORTS: "30000-32767"},
    {PORT_RANGE: "10240 65000", RESERVED_PORTS: "80, 20000-40000 ,50000"},
    {PORT_RANGE: "10240 65000", RESERVED_PORTS: "30000-31000,31001-32767"},
    {PORT_RANGE: "10240 65000", RESERVED_PORTS: "30001-32767"},
    {PORT_RANGE: "10240 65000", RESERVED_PORTS: ""},
    {PORT_RANGE: "32767 65000", RESERVED_PORTS: "32767"},
    {PORT_RANGE: "32768 65000"},
    {PORT_RANGE: "1024 29999"},
    {PORT_RANGE: "1024\t30000"},
    {RESERVED_PORTS: "8080"},
    {sysctl.name: str(sysctl.low) for sysctl in SYSCTLS if sysctl.scope == "Node"},
]


@pytest.mark.parametrize("number", range(4), ids=["below", "low", "high", "above"])
def test_both_know_the_same_bounds(dry_run, number):
    wanted = BOUNDS[number::4]
    for start in range(0, len(wanted), 16):
        values = {name: value for one in wanted[start : start + 16] for name, value in one.items()}
        agree(dry_run, values, "Node")
        assert bool(refusals(values, "Node")) == (number in (0, 3))


@pytest.mark.parametrize("values", VALUES, ids=repr)
def test_both_say_the_same_of_a_value(dry_run, values):
    agree(dry_run, values, "Pods")


@pytest.mark.parametrize("values", NODE_VALUES, ids=repr)
def test_both_say_the_same_of_a_profile_for_nodes(dry_run, values):
    agree(dry_run, values, "Node")


@pytest.mark.parametrize("name", [sysctl.name for sysctl in SYSCTLS if sysctl.scope == "Node"])
def test_what_belongs_to_the_node_is_refused_for_pods_by_both(dry_run, name):
    agree(dry_run, {name: "20000", FIN_TIMEOUT: "30"}, "Pods")


def agree(dry_run, values, target):
    accepted, answer = dry_run(profile(values, target))
    expected = refusals(values, target)
    assert accepted == (not expected), (answer, expected)
    if not accepted:
        assert [sentence for sentence in expected if reason(sentence) not in answer] == []
        assert answer.count("Invalid value") == len(expected), "one reason for each fault, and no other"


def test_a_short_profile_gets_its_defaults(dry_run):
    accepted, answer = dry_run(profile({FIN_TIMEOUT: "30"}))
    assert accepted, answer
    spec = json.loads(answer)["spec"]
    assert spec["mode"] == "Audit"
    assert spec["activation"] == "Always"
    assert spec["hold"] == "10m"
    assert spec["priority"] == 0
    assert spec["rollout"] == {"maxConcurrentNodes": 1, "paused": False, "pauseSeconds": 30, "stopOn": "Critical"}


def test_what_is_written_stays(dry_run):
    accepted, answer = dry_run(profile({FIN_TIMEOUT: "30"}, hold="1h30m", rollout={"paused": True}))
    assert accepted, answer
    spec = json.loads(answer)["spec"]
    assert spec["hold"] == "1h30m"
    assert spec["rollout"]["paused"] is True


@pytest.mark.parametrize(
    ("faulty", "sentence"),
    [
        (profile({FIN_TIMEOUT: "30"}, hold="soon"), "'soon' is not a duration"),
        (profile({FIN_TIMEOUT: "30"} | {f"net.ipv4.x{n}": "1" for n in range(16)}), "must have at most 16 items"),
        (profile({FIN_TIMEOUT: "3" * 257}), "than 256"),
        (profile({"n" * 129: "1"}), "than 128"),
        (
            profile({}) | {"spec": {"target": "Pods", "sysctls": [{"name": FIN_TIMEOUT, "value": "30"}] * 2}},
            "Duplicate value",
        ),
    ],
)
def test_what_is_no_profile_is_refused(dry_run, faulty, sentence):
    accepted, answer = dry_run(faulty)
    assert not accepted
    assert sentence in answer.replace("Too long: may not", "may not")


LONGEST_LIST = ",".join("1" * 128)

ADVISED = [
    (
        {RESERVED_PORTS: LONGEST_LIST, PORT_RANGE: "40000 65000"}
        | {sysctl.name: str(sysctl.low).zfill(10) for sysctl in INTEGERS[:14]},
        "Node",
    ),
    ({sysctl.name: sysctl.default for sysctl in SYSCTLS[:14] if sysctl.default is not None}, "Node"),
    ({sysctl.name: sysctl.default for sysctl in SYSCTLS[14:] if sysctl.default is not None}, "Node"),
    ({sysctl.name: str(sysctl.low) for sysctl in INTEGERS if not sysctl.module}, "Node"),
    ({sysctl.name: str(sysctl.low) for sysctl in INTEGERS if sysctl.module}, "Node"),
    ({sysctl.name: str(sysctl.low) for sysctl in INTEGERS if not sysctl.module and sysctl.scope == "Netns"}, "Pods"),
    ({sysctl.name: str(sysctl.high) for sysctl in INTEGERS if sysctl.module and sysctl.scope == "Netns"}, "Pods"),
    ({PORT_RANGE: " 32768\t60999", RESERVED_PORTS: "32768-60999"}, "Pods"),
    ({PORT_RANGE: "20000 60999", RESERVED_PORTS: "20001"}, "Pods"),
    ({RESERVED_PORTS: "40000,20001-40000"}, "Pods"),
    ({RESERVED_PORTS: "40000-61000"}, "Pods"),
    ({RESERVED_PORTS: "32768,60999"}, "Pods"),
    ({"net.ipv4.tcp_tw_reuse": "1", "net.ipv4.tcp_tw_reuse_delay": "500"}, "Pods"),
    ({"net.ipv4.tcp_tw_reuse": "2", "net.ipv4.tcp_tw_reuse_delay": "01000"}, "Pods"),
    ({"net.ipv4.tcp_max_tw_buckets": "262144"}, "Pods"),
    ({"net.ipv4.tcp_max_orphans": "65536"}, "Node"),
]


@pytest.fixture(scope="module")
def warnings(control_plane, crds):
    """A policy that warns with the chart's file, and a function that applies a profile: (created, its warnings)."""
    name = f"advice-{secrets.token_hex(4)}"
    api = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    resources = {
        "apiGroups": ["sockethealth.io"],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["sysctlprofiles"],
    }
    policy = api | {
        "kind": "ValidatingAdmissionPolicy",
        "spec": {
            "matchConstraints": {"resourceRules": [resources]},
            "validations": yaml.safe_load(ADVICE.read_text()),
        },
    }
    binding = api | {
        "kind": "ValidatingAdmissionPolicyBinding",
        "spec": {"policyName": name, "validationActions": ["Warn"]},
    }

    def apply(document, *flags):
        answer = control_plane.kubectl("apply", *flags, "-f", "-", input=json.dumps(document), check=False)
        lines = re.findall(rf"^Warning: .*'{name}'.*?: (.*)$", answer.stderr, re.MULTILINE)
        return answer, lines

    probe = profile({FIN_TIMEOUT: "30"}, name=name)
    try:
        for document in (policy, binding):
            control_plane.add(document)
        wait_until(lambda: apply(probe, "--dry-run=server")[1], 30, lambda: "no warning from the new policy")
        yield apply
    finally:
        for document in (binding, policy):
            control_plane.delete(document["kind"].lower(), name, wait=True)


@pytest.mark.parametrize(("values", "target"), ADVISED)
def test_kubectl_apply_warns_as_the_operator_does_and_creates_the_profile(control_plane, warnings, values, target):
    if target == "Node" and PORT_RANGE in values and combination_refusal(values, target, NODE_PORTS):
        pytest.fail("the profile of this test would be refused")
    document = profile(values, target, name=f"advised-{secrets.token_hex(4)}")
    answer, told = warnings(document)
    assert answer.returncode == 0, answer.stderr
    try:
        expected = advice(values, target)
        assert [one for one in expected if one not in told] == []
        assert sorted(told) == sorted(expected)
        found = control_plane.kubectl("get", "sysctlprofile", document["metadata"]["name"], "-o", "json").stdout
        assert json.loads(found)["spec"]["sysctls"] == document["spec"]["sysctls"]
    finally:
        control_plane.delete("sysctlprofile", document["metadata"]["name"], wait=True)


def test_every_warning_has_been_seen_and_every_sentence_is_in_the_file():
    seen = {sentence for values, target in ADVISED for sentence in advice(values, target)}
    assert {check.sentence for check in advice_checks()} - seen == set()
    assert [one["message"] for one in yaml.safe_load(ADVICE.read_text())] == [one.sentence for one in advice_checks()]
