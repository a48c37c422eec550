"""The command over the namespaces this process can read; without root that is its own."""

import json
from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner

from sockethealth_cli import measure, namespaces
from sockethealth_cli.main import main
from sockethealth_cli.naming import NamedNetns
from sockethealth_cli.scan import scan
from unit.cli.builders import netns

POLICY = """\
apiVersion: sockethealth.io/v1alpha1
kind: ClusterSocketHealthPolicy
metadata: {{name: always}}
spec:
  {selector}
  rules: [{{name: always, detector: InboundTimeWait, threshold: 0, for: 1h, severity: {severity}}}]
"""


@pytest.fixture
def policy(tmp_path):
    def write(severity: str = "Critical", selector: str = "") -> str:
        file = tmp_path / "policy.yaml"
        file.write_text(POLICY.format(severity=severity, selector=selector))
        return str(file)

    return write


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Only our own namespace is there, as to a user without root: others come and go, made by tests beside these."""
    own = replace(netns(), id=namespaces.identity(), path=None)
    monkeypatch.setattr(namespaces, "survey", lambda: namespaces.Survey((own,), hidden=0))


def run(*arguments: str, stdin: str | None = None):
    return CliRunner().invoke(main, ["scan", "--interval", "0", *arguments], input=stdin)


def test_every_namespace_is_one_object_and_findings_have_no_for(policy):
    result = run("-o", "json", "--policy", policy())
    assert result.exit_code == 0, result.stderr
    items = json.loads(result.stdout)["items"]
    assert len({item["metadata"]["name"] for item in items}) == len(items) >= 1
    assert {item["status"]["health"] for item in items} == {"Critical"}
    assert {item["status"]["findings"][0]["rule"] for item in items} == {"always"}


def test_json_and_yaml_say_the_same(policy):
    def stable(text, parse):
        return [(item["metadata"], item["spec"], item["status"]["health"]) for item in parse(text)["items"]]

    assert stable(run("-o", "json").stdout, json.loads) == stable(run("-o", "yaml").stdout, yaml.safe_load)


@pytest.mark.parametrize(("severity", "code"), [("Critical", 1), ("Warning", 0), ("Info", 0)])
def test_exit_code_is_one_for_critical_only(policy, severity, code):
    assert run("--exit-code", "--policy", policy(severity)).exit_code == code


def test_critical_without_exit_code_is_a_success(policy):
    assert run("--policy", policy("Critical")).exit_code == 0


def test_a_policy_is_read_from_standard_input():
    text = POLICY.format(severity="Warning", selector="")
    result = run("-o", "json", "--policy", "-", stdin=text)
    assert json.loads(result.stdout)["items"][0]["status"]["health"] == "Warning"


def test_what_is_told_beside_the_result_goes_to_standard_error(policy):
    result = run("-o", "json", "--policy", policy(selector="podSelector: {matchLabels: {a: b}}"))
    assert result.exit_code == 0
    assert json.loads(result.stdout)["items"][0]["status"]["findings"] == []
    assert "note: ClusterSocketHealthPolicy always was evaluated for nothing" in result.stderr


def test_a_bad_policy_is_told_before_anything_is_read(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(POLICY.format(severity="Critical", selector="").replace("InboundTimeWait", "Inbound"))
    result = run("--policy", str(file))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "unknown detector 'Inbound'" in result.stderr


@pytest.mark.parametrize("content", [b"\xff\xfe", b"kind: [", b""])
def test_a_file_that_is_no_policy_exits_with_two(tmp_path, content):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    result = run("--policy", str(file))
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_an_unknown_netns_is_told_with_those_there_are(monkeypatch):
    monkeypatch.setattr(namespaces, "ip_netns_names", lambda *_: ["blue", "dark\x1b[1m"])
    result = run("--netns", "green\x1b[31m")
    assert result.exit_code == 2
    assert "knows no network namespace 'green\\x1b[31m'; it knows blue, dark\\x1b[1m." in result.stderr


def test_a_negative_interval_is_refused():
    assert CliRunner().invoke(scan, ["--interval", "-1"]).exit_code == 2


def test_a_namespace_that_is_gone_does_not_keep_the_others_from_being_read():
    gone = NamedNetns("gone", "gone", netns(1))
    here = NamedNetns("own", "own", replace(netns(), id=namespaces.identity(), path=None))
    readings = measure.read_all([gone, here], [60.0], 0)
    assert [one.named.name for one in readings.read] == ["own"]
    assert [(one.named.name, one.gone) for one in readings.unread] == [("gone", True)]


def test_help_has_examples_and_tells_of_completion():
    runner = CliRunner()
    assert "sudo sockethealth scan --netns blue -o json" in runner.invoke(main, ["scan", "--help"]).output
    assert "_SOCKETHEALTH_COMPLETE=bash_source" in runner.invoke(main, ["--help"]).output
