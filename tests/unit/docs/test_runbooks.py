"""The runbooks are complete, agree with the detectors in the code, and repeat none of the field's wrong advice."""

import importlib
import pkgutil
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

import sockethealth_core.detectors
from sockethealth_core.detectors import Detector
from sockethealth_core.resources import SocketHealthPolicy, SysctlProfile, decode
from sockethealth_core.sysctls import SYSCTLS

ROOT = Path(__file__).resolve().parents[3]
RUNBOOKS = ROOT / "docs" / "runbooks"
CONTRACT = (
    "EphemeralPortExhaustion",
    "OutboundTimeWait",
    "InboundTimeWait",
    "SingleSourceChurn",
    "CloseWaitLeak",
    "FinWait2Buildup",
    "AcceptQueueOverflow",
    "SynBacklogPressure",
    "TimeWaitTableOverflow",
    "RetransmissionStorm",
    "UnsafeSysctl",
    "TcpMemoryPressure",
    "ConntrackPressure",
    "Expression",
)
SECTIONS = ["What it means", "Confirm by hand", "What fixes it", "What does not", "The rule"]
ABOUT_TIME_WAIT = ("EphemeralPortExhaustion", "OutboundTimeWait", "InboundTimeWait", "TimeWaitTableOverflow")
MOST_LINES = 90
SAFE_SYSCTLS = {
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
"""Of net.ipv4, in Kubernetes 1.32 (pkg/kubelet/sysctl/safe_sysctls.go)."""


def detectors() -> dict[str, Detector]:
    """Every detector that has a module, also one that is not in the registry."""
    package = sockethealth_core.detectors
    modules = [
        importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)
    ]
    found = [module.DETECTOR for module in modules if hasattr(module, "DETECTOR")]
    return {detector.name: detector for detector in found}


def text(name: str) -> str:
    return (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")


def sections(name: str) -> dict[str, str]:
    """Text below each heading, the summary under the empty name."""
    parts = re.split(r"^## (.+)\n", text(name).partition("\n")[2], flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


def examples(name: str) -> list[dict[str, Any]]:
    """The YAML documents that a page tells people to write."""
    return [
        yaml.safe_load(dedent(one))
        for one in re.findall(r"^ *```yaml\n(.*?)^ *```", text(name), re.DOTALL | re.MULTILINE)
    ]


def one_line(markdown: str) -> str:
    return " ".join(markdown.split())


def test_the_pages_are_the_detectors_of_the_contract_and_the_index():
    pages = {path.stem for path in RUNBOOKS.glob("*.md")}
    assert pages == {*CONTRACT, "OwnHealth", "index"}
    assert set(detectors()) == set(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_a_page_has_its_sections_in_order_and_is_short(name):
    lines = text(name).splitlines()
    assert lines[0] == f"# {name}"
    assert len(lines) <= MOST_LINES
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == SECTIONS
    assert all(body.strip() for body in sections(name).values())


@pytest.mark.parametrize("name", CONTRACT)
def test_the_summary_is_one_sentence_and_is_in_the_index(name):
    summary = one_line(sections(name)[""])
    assert re.fullmatch(r"[^.]+\.", summary), summary
    assert f"| [{name}]({name}.md) | {summary} |" in text("index")


@pytest.mark.parametrize("name", sorted(detectors()))
def test_the_rule_is_what_the_code_says(name):
    detector, rule = detectors()[name], sections(name)["The rule"]
    assert f"The value is **{detector.unit}**, of a {detector.scope}." in one_line(rule)
    stated = [one for one in detector.defaults or (detector.fallback,) if one]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in rule.splitlines() if line[:1] == "|"]
    assert rows[2:] == [
        (one.name, f"{one.threshold:g}", f"{one.clear_threshold:g}", one.for_, one.severity) for one in stated
    ]


@pytest.mark.parametrize("name", CONTRACT)
def test_no_page_recommends_what_does_not_help(name):
    parts = sections(name)
    fixes = parts["What fixes it"]
    assert "tcp_tw_recycle" not in fixes
    assert "tcp_tw_recycle" not in "".join(re.findall(r"^```.*?^```", text(name), re.DOTALL | re.MULTILINE))
    if name != "FinWait2Buildup":
        assert "tcp_fin_timeout" not in fixes
        assert "tcp_fin_timeout" not in parts["What it means"] + parts["Confirm by hand"]
    for wrong in ("SO_LINGER", "tcp_syncookies=0", "SO_REUSEADDR"):
        assert wrong not in fixes


@pytest.mark.parametrize("name", ABOUT_TIME_WAIT)
def test_pages_about_time_wait_name_the_wrong_advice(name):
    wrong = one_line(sections(name)["What does not"])
    assert "`tcp_fin_timeout`** does not shorten TIME_WAIT" in wrong
    assert "`tcp_tw_recycle`**: never" in wrong
    assert "owering `tcp_max_tw_buckets`" in wrong


@pytest.mark.parametrize("name", CONTRACT)
def test_a_pod_is_told_to_set_only_what_kubernetes_lets_it_set(name):
    for example in examples(name):
        context = example.get("spec", {}).get("securityContext", {})
        for sysctl in context.get("sysctls", []):
            assert sysctl["name"] in SAFE_SYSCTLS
            assert isinstance(sysctl["value"], str), "Kubernetes takes strings only"


def test_the_examples_of_the_projects_own_kinds_are_accepted_by_its_code():
    (profile,) = (one for one in examples("TimeWaitTableOverflow") if one.get("kind") == "SysctlProfile")
    sysctls = {sysctl.name: sysctl for sysctl in SYSCTLS}
    for wanted in decode(SysctlProfile, profile).spec.sysctls:
        known = sysctls[wanted.name]
        assert known.low <= int(wanted.value) <= known.high
        assert known.scope == "Netns", "target Pods"
    (rules,) = examples("Expression")
    policy = {"metadata": {"name": "example", "namespace": "shop"}, "spec": rules}
    (rule,) = decode(SocketHealthPolicy, policy).spec.rules
    assert detectors()["Expression"].check_parameters(rule.parameters) == []


def test_the_cli_ships_the_same_pages():
    shipped = ROOT / "cli" / "sockethealth_cli" / "runbooks"
    copies = {path.name: path.read_text(encoding="utf-8") for path in shipped.glob("*.md")}
    assert copies == {path.name: path.read_text(encoding="utf-8") for path in RUNBOOKS.glob("*.md")}
