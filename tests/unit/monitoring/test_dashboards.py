"""Dashboards as Grafana takes them: what is in their JSON, without a Grafana."""

import json
import re
from collections.abc import Iterator
from itertools import combinations

import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard

from sockethealth_core.metrics import SERIES
from sockethealth_monitoring.dashboards import derived

DASHBOARDS = {name.removesuffix(".json"): json.loads(text) for name, text in derived().items()}
PANELS = {"row", "stat", "table", "timeseries"}
"""Types of panels that Grafana 10 to 12 have and none of them calls deprecated."""
VARIABLES = {
    "fleet": ["datasource", "namespace"],
    "pod": ["datasource", "namespace", "pod"],
    "node": ["datasource", "node"],
    "own-health": ["datasource"],
}
each = pytest.mark.parametrize("name", VARIABLES)


def panels(name: str) -> list[dict]:
    return DASHBOARDS[name]["panels"]


def queries(name: str) -> Iterator[str]:
    for panel in panels(name):
        for target in panel.get("targets", []):
            yield target["expr"]


@each
def test_a_dashboard_is_known_by_a_name_that_stays_and_has_its_variables(name):
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"sockethealth-{name}"
    assert dashboard["title"].startswith("SocketHealth / ")
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == VARIABLES[name]
    assert [link["tags"] for link in dashboard["links"]] == [["sockethealth"]]
    assert dashboard["tags"] == ["sockethealth"]


@each
def test_grafanas_own_types_read_it_and_write_the_same(name):
    again = Dashboard.from_json(DASHBOARDS[name])
    assert again.uid == f"sockethealth-{name}"
    assert [panel.title for panel in again.panels] == [panel["title"] for panel in panels(name)]


@each
def test_panels_have_units_descriptions_and_the_chosen_data_source(name):
    for panel in panels(name):
        assert panel["type"] in PANELS
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))
        if panel["type"] != "table":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    numbers = [panel["id"] for panel in panels(name)]
    assert len(numbers) == len(set(numbers))


@each
def test_panels_fill_their_rows_and_none_lies_upon_another(name):
    places = [panel["gridPos"] for panel in panels(name)]
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    for line in {place["y"] for place in places}:
        assert sum(place["w"] for place in places if place["y"] == line) == 24, line


@each
def test_queries_use_series_of_the_table_and_variables_of_the_dashboard(name):
    known = {series.name for series in SERIES}
    histograms = {f"{series.name}_bucket" for series in SERIES if series.kind == "histogram"}
    builtin = {"__rate_interval"}
    for query in queries(name):
        assert set(re.findall(r"sockethealth_\w+", query)) <= known | histograms, query
        assert set(re.findall(r"\$(\w+)", query)) <= {*VARIABLES[name], *builtin}, query


def test_links_lead_to_dashboards_there_are_with_their_variables():
    text = json.dumps(DASHBOARDS)
    targets = re.findall(r"/d/sockethealth-([\w-]+)\?([^\"]*)", text)
    assert {target for target, _ in targets} == {"pod", "node"}
    for target, query in targets:
        assert set(re.findall(r"var-(\w+)=", query)) == set(VARIABLES[target])


def test_every_series_can_be_seen_somewhere():
    shown = set(re.findall(r"sockethealth_\w+", " ".join(query for name in DASHBOARDS for query in queries(name))))
    assert {
        series.name for series in SERIES if series.name not in shown and f"{series.name}_bucket" not in shown
    } == set()


def test_colours_change_at_the_limits_of_the_default_policy():
    (panel,) = [one for one in panels("pod") if one["title"] == "Ephemeral ports used" and one["type"] == "stat"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [(step.get("value"), step["color"]) for step in steps] == [(None, "green"), (0.5, "orange"), (0.8, "red")]
