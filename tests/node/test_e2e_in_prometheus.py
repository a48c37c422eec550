"""From a leak in a real pod to what Alertmanager is told, and to what every query of the dashboards shows."""

import json
import re

import pytest

from harness.images import REPOSITORY
from prometheus_lab import SCRAPE_SECONDS, STEP_SECONDS
from watched_leak import FOR_SECONDS, LEAK, LEAKED, MIN_AGE_SECONDS, SWEEP_SECONDS

pytestmark = pytest.mark.node

POLICY_FINDING = "SocketHealthPolicyFinding"
DASHBOARDS = sorted((REPOSITORY / "charts" / "sockethealth" / "files" / "dashboards").glob("*.json"))
NO_WRITER = "sysctls.enabled is off in the installation that these tests share"
RIGHTLY_EMPTY = {
    "fleet / Outbound TIME_WAIT to one destination": "no client here closes its connections",
    "fleet / Retransmitted segments": "nothing is lost between pods of one node",
    "fleet / Connections dropped at accept queues": "no accept queue is full",
    "fleet / Fullest SYN backlogs": "nothing stays half open",
    "pod / Ports run out in": "the pod opens no further connections",
    "pod / By destination": "metrics.destinations.enabled is off by default",
    "node / Profiles on this node": NO_WRITER,
    "own-health / Failures": "nothing fails, and answers 404 and 409 need not have come",
    "own-health / Watches": "no watch has broken off",
    "own-health / Answers that are errors": "the API server refuses nothing",
    "own-health / Nodes of profiles": "there is no SysctlProfile",
    "own-health / Conditions that hold": "there is no SysctlProfile",
    "own-health / Sysctls written": NO_WRITER,
    "own-health / Oldest pass of a sysctl writer": NO_WRITER,
    "own-health / Sysctl writers": NO_WRITER,
}
"""Panels that may show nothing where all is well, and why."""


@pytest.fixture
def place(watched_leak):
    return watched_leak.place


@pytest.fixture
def monitoring(watched_leak):
    return watched_leak.monitoring


@pytest.fixture
def alert(place, monitoring):
    """What Alertmanager is told of the leak."""
    pod = place.pod("leaking")["metadata"]["name"]
    seconds = MIN_AGE_SECONDS + SWEEP_SECONDS + SCRAPE_SECONDS + STEP_SECONDS + FOR_SECONDS + 30
    place.until(lambda: monitoring.alerts(alertname=LEAK, pod=pod) != [], "the alert", seconds=seconds)
    (alert,) = monitoring.alerts(alertname=LEAK, pod=pod)
    return alert


def test_alertmanager_is_told_which_pod_on_which_node_and_the_number(alert, place):
    pod = place.pod("leaking")
    name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    assert alert["labels"] == {
        "alertname": LEAK,
        "severity": "warning",
        "namespace": place.namespace,
        "pod": name,
        "node": node,
    }
    said = alert["annotations"]
    # The alert comes as soon as enough of the leak is old enough, and Prometheus says so again a minute later.
    number = re.fullmatch(
        rf"Pod {place.namespace}/{name} holds (\d+) CLOSE_WAIT sockets older than 60s\.", said["summary"]
    )
    assert number, said["summary"]
    assert 50 <= int(number[1]) <= LEAKED
    assert f"on node {node} holds {number[1]} CLOSE_WAIT sockets" in said["description"]
    assert "the limit is 50." in said["description"]
    assert said["runbook_url"] == "https://sockethealth.io/runbooks/CloseWaitLeak"


def test_what_a_policy_of_ones_own_finds_is_told_too(alert, place, monitoring):
    pod = alert["labels"]["pod"]
    found = {"alertname": POLICY_FINDING, "pod": pod, "policy": "quick", "rule": "leak"}
    place.until(lambda: monitoring.alerts(**found) != [], "the alert of the policy", seconds=30)
    (told,) = monitoring.alerts(**found)
    assert told["labels"]["type"] == "CloseWaitLeak"
    number = re.search(r"the value (\d+)\.", told["annotations"]["description"])
    assert number, told["annotations"]
    assert 100 <= int(number[1]) <= LEAKED


def test_no_alert_about_the_product_itself_is_even_pending(alert, monitoring):
    groups = monitoring.prometheus.get("/api/v1/rules", type="alert")["data"]["groups"]
    (own,) = [group for group in groups if group["name"] == "sockethealth-itself"]
    assert len(own["rules"]) > 10
    assert [rule for rule in own["rules"] if rule["state"] != "inactive" or rule["health"] != "ok"] == []


def panels():
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            if panel["type"] != "row":
                yield f"{file.stem} / {panel['title']}", panel["targets"]


def test_every_query_of_every_dashboard_shows_something(alert, place, monitoring):
    chosen = {"namespace": place.namespace, "pod": alert["labels"]["pod"], "node": alert["labels"]["node"]}
    values = {**chosen, "__rate_interval": "1m"}
    empty = {}
    for panel, targets in panels():
        for target in targets:
            query = re.sub(r"\$(\w+)", lambda found: values[found[1]], target["expr"])
            if not monitoring.query(query):
                empty.setdefault(panel, []).append(query)
    assert {panel: queries for panel, queries in empty.items() if panel not in RIGHTLY_EMPTY} == {}
    assert RIGHTLY_EMPTY.keys() <= {panel for panel, _ in panels()}
    assert sum(len(targets) for _, targets in panels()) > 100, "so many were asked"


def test_variables_of_dashboards_offer_what_there_is(alert, monitoring):
    for file in DASHBOARDS:
        for variable in json.loads(file.read_text())["templating"]["list"]:
            if variable["type"] != "query":
                continue
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            selector = selector.replace("$namespace", alert["labels"]["namespace"])
            offered = {series["metric"][label] for series in monitoring.query(selector)}
            assert alert["labels"][label] in offered


def test_the_alert_ends_with_the_leak(alert, place, monitoring):
    pod = alert["labels"]["pod"]
    place.cluster.exec(place.namespace, pod, "sh", "-c", "kill -USR1 1")
    place.until(
        lambda: [one for name in (LEAK, POLICY_FINDING) for one in monitoring.alerts(alertname=name, pod=pod)] == [],
        "Alertmanager to be told that it is over",
        seconds=SWEEP_SECONDS + 60,
    )
    assert monitoring.query(f'ALERTS{{pod="{pod}",alertname=~"{LEAK}|{POLICY_FINDING}"}}') == []
