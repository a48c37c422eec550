"""Alerts agree with the detectors, the default policy, the chart's values and the runbooks."""

import re
from pathlib import Path

import pytest
import yaml

from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.detectors import DETECTORS
from sockethealth_core.metrics import NODE_SILENT, SERIES
from sockethealth_monitoring import own_alerts
from sockethealth_monitoring.alerts import MEASURES, derived
from sockethealth_monitoring.promql import select

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "sockethealth"
RULES = [rule for group in derived()["groups"] for rule in group["rules"]]
WANTED = [rule for rule in DEFAULT_POLICY.spec.rules if rule.severity != "Info"]


@pytest.mark.parametrize("wanted", WANTED, ids=lambda rule: rule.name)
def test_a_default_rule_that_wants_a_person_is_an_alert_of_its_limit_time_and_severity(wanted):
    name, severity = f"SocketHealth{wanted.detector}", wanted.severity.lower()
    (rule,) = [one for one in RULES if one["alert"] == name and one["labels"]["severity"] == severity]
    in_percent = DETECTORS[wanted.detector].unit.startswith(("percent", "SYN_RECV as percent")) or (
        " as percent of " in DETECTORS[wanted.detector].unit
    )
    limit = wanted.threshold / 100 if in_percent else wanted.threshold
    assert float(re.search(r" >= ([\d.]+)", rule["expr"])[1]) == pytest.approx(limit)
    assert rule.get("for", "0s") == wanted.for_
    assert rule["keep_firing_for"] == wanted.clear_after
    assert f"the limit is {wanted.threshold:g}{'%' if in_percent else ''}." in rule["annotations"]["description"]


def test_what_is_only_worth_knowing_wakes_nobody():
    informative = {name for name, one in DETECTORS.items() if all(rule.severity == "Info" for rule in one.defaults)}
    assert informative == {"OutboundTimeWait", "InboundTimeWait", "SingleSourceChurn", "Expression"}
    assert not informative & MEASURES.keys()


@pytest.mark.parametrize("detector", MEASURES)
def test_a_description_has_the_first_step_of_the_remedy(detector):
    advice = {
        "EphemeralPortExhaustion": "Reuse connections: keep-alive or a connection pool in the client.",
        "CloseWaitLeak": "close connections in finally or a context manager",
        "FinWait2Buildup": "Find out why the peers do not close: look there for CLOSE_WAIT.",
        "AcceptQueueOverflow": "CPU limit, a blocked event loop, too few workers.",
        "SynBacklogPressure": "many sources that never finish are a SYN flood",
        "TimeWaitTableOverflow": "connection pooling, or let the other side close.",
        "RetransmissionStorm": "Look at the network path, not at sockets",
        "UnsafeSysctl": "Correct it where it was set",
        "TcpMemoryPressure": "Find who holds it",
        "ConntrackPressure": "mostly a client without keep-alive: pool its connections.",
    }
    for rule in (one for one in RULES if one["alert"] == f"SocketHealth{detector}"):
        assert advice[detector] in rule["annotations"]["description"]


def test_every_alert_says_what_how_bad_and_where_to_read_on():
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["summary"].endswith(".")
    pairs = [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]
    assert len(pairs) == len(set(pairs))


def test_every_runbook_is_a_page_and_every_alert_of_our_own_a_section_of_it():
    for rule in RULES:
        page, _, section = (
            rule["annotations"]["runbook_url"].removeprefix("https://sockethealth.io/runbooks/").partition("#")
        )
        if page == "{{ $labels.type }}":
            continue
        text = (ROOT / "docs" / "runbooks" / f"{page}.md").read_text()
        headings = {line.removeprefix("## ").lower() for line in text.splitlines() if line.startswith("## ")}
        assert not section or section in headings, rule["alert"]
    own = {alert.name for alert in own_alerts.OWN_ALERTS}
    text = (ROOT / "docs" / "runbooks" / f"{own_alerts.PAGE}.md").read_text()
    assert set(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == own


def test_every_series_named_in_an_alert_is_in_the_table():
    known = {series.name for series in SERIES}
    for rule in RULES:
        named = set(re.findall(r"sockethealth_\w+", rule["expr"] + rule["annotations"]["description"]))
        assert named <= known, rule["alert"]
        assert named, rule["alert"]


def test_a_label_that_a_series_does_not_have_is_refused():
    with pytest.raises(ValueError, match="sockethealth_operator_node_silent has no label pod"):
        select(NODE_SILENT, pod="a")


def test_the_rule_file_by_itself_has_the_charts_defaults():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    text = (CHART / "files" / "alerts.yaml").read_text()
    for missed, seconds in (
        (own_alerts.SWEEPS_MISSED, values["agent"]["intervalSeconds"]),
        (own_alerts.HEARTBEATS_MISSED, values["agent"]["heartbeatSeconds"]),
        (own_alerts.PASSES_MISSED, values["sysctls"]["intervalSeconds"]),
    ):
        assert missed.endswith(f" * {seconds})")
        assert missed in text
        assert missed in (CHART / "templates" / "monitoring" / "_alerts.tpl").read_text()
    assert values["defaultRules"]["runbookUrl"] + "/CloseWaitLeak" in text
