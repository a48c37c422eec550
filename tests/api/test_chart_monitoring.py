"""The alerts and dashboards that the chart renders, by Prometheus' own checker."""

import json
import subprocess

import pytest
import yaml

from harness import packages
from product_lab import CHART

pytestmark = pytest.mark.api

RULES = ("--set", "defaultRules.create=true")
DASHBOARDS = ("--set", "dashboards.create=true")
TEMPLATES = CHART / "templates" / "monitoring"


@pytest.fixture
def render(rendered):
    return rendered


def rules_of(documents):
    (found,) = [one for one in documents if one["kind"] == "PrometheusRule"]
    return {
        (rule["alert"], rule["labels"]["severity"]): rule
        for group in found["spec"]["groups"]
        for rule in group["rules"]
    }


def config_maps(documents):
    return [one for one in documents if one["kind"] == "ConfigMap"]


def test_promtool_accepts_what_is_rendered(render, tmp_path):
    packages.ensure(packages.MONITORING)
    (found,) = [one for one in render(*RULES) if one["kind"] == "PrometheusRule"]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(found["spec"]))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shipped = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    assert found["spec"] == shipped


def test_alerts_and_dashboards_come_only_when_asked_for(render):
    documents = render()
    assert not [one for one in documents if one["kind"] == "PrometheusRule"]
    assert not config_maps(documents)


def test_one_alert_can_be_left_out_and_another_be_different(render):
    custom = {"SocketHealthCloseWaitLeak": {"for": "10m", "keepFiringFor": "5m", "severity": "info"}}
    values = {
        "create": True,
        "disabled": {"SocketHealthRetransmissionStorm": True, "SocketHealthFinWait2Buildup": False},
        "customRules": custom,
        "additionalLabels": {"release": "prometheus"},
        "additionalRuleLabels": {"team": "platform", "severity": "page"},
        "additionalRuleAnnotations": {"chat": "#platform"},
        "runbookUrl": "https://wiki.example/sockets/",
        "namespace": "monitoring",
    }
    before, documents = rules_of(render(*RULES)), render("--set-json", f"defaultRules={json.dumps(values)}")
    after = rules_of(documents)
    assert {name for name, _ in before} - {name for name, _ in after} == {"SocketHealthRetransmissionStorm"}
    leak = after["SocketHealthCloseWaitLeak", "info"]
    assert (leak["for"], leak["keep_firing_for"]) == ("10m", "5m")
    assert leak["annotations"]["runbook_url"] == "https://wiki.example/sockets/CloseWaitLeak"
    others = {key for key in after if key[0] != "SocketHealthCloseWaitLeak"}
    assert others <= before.keys(), "severity is the rule's own"
    for rule in after.values():
        assert rule["labels"]["team"] == "platform"
        assert rule["annotations"]["chat"] == "#platform"
    (found,) = [one for one in documents if one["kind"] == "PrometheusRule"]
    assert found["metadata"]["namespace"] == "monitoring"
    assert found["metadata"]["labels"]["release"] == "prometheus"


def test_what_an_alert_waits_for_follows_how_often_it_happens(render):
    values = "agent.intervalSeconds=3,agent.heartbeatSeconds=7,sysctls.intervalSeconds=11"
    rules = rules_of(render(*RULES, "--set", values))
    for name, missed in (
        ("SocketHealthAgentCannotSweep", "(30 * 3)"),
        ("SocketHealthAgentCannotReport", "(4 * 7)"),
        ("SocketHealthSysctlWriterStuck", "(60 * 11)"),
    ):
        assert rules[name, "warning"]["expr"].endswith(f"> {missed}")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"customRules": {"SocketHealthCloseWaitLeak": {"for": "soon"}}}, "soon"),
        ({"disabled": {"CloseWaitLeak": True}}, "CloseWaitLeak"),
        ({"runbookUrl": "wiki"}, "runbookUrl"),
    ],
    ids=["duration", "name", "address"],
)
def test_a_value_that_would_do_nothing_is_refused(control_plane, value, fault):
    values = ("--kube-version", "1.34.0", "--set-json", f"defaultRules={json.dumps(value)}")
    done = control_plane.helm("template", str(CHART), *values, check=False)
    assert done.returncode != 0
    assert fault in done.stderr


def test_dashboards_are_config_maps_that_grafanas_sidecar_finds(render):
    values = "dashboards.namespace=grafana,dashboards.annotations.grafana_folder=SocketHealth"
    found = config_maps(render(*DASHBOARDS, "--set", values))
    assert len(found) == 4
    for one in found:
        assert one["metadata"]["namespace"] == "grafana"
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"] == {"grafana_folder": "SocketHealth"}
        ((file, text),) = one["data"].items()
        assert json.loads(text)["uid"] == file.removesuffix(".json")
