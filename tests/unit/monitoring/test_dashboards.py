"""Dashboards as Grafana takes them: what is in their JSON, without a Grafana."""

import json
import re
from collections.abc import Iterator
from itertools import combinations

import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard

from sockethealth_core.metrics import SERIES
from sockethealth_core.resources import Sockets
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
    (panel,) = [one for one in panels("pod") if one["title"] == "Ports used"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [(step.get("value"), step["color"]) for step in steps] == [(None, "green"), (0.5, "orange"), (0.8, "red")]


def test_states_have_a_colour_each_and_those_of_series_are_all_there():
    (panel,) = [one for one in panels("pod") if one["title"] == "Sockets by state"]
    colors = {
        override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["id"] == "byName"
    }
    assert set(colors) == {re.sub(r"_(\w)", lambda found: found[1].upper(), name) for name in Sockets.__struct_fields__}
    assert len(set(colors.values())) == len(colors)


@pytest.mark.parametrize("name", ["fleet", "pod", "node"])
def test_findings_are_sorted_by_what_their_severity_is_worth_and_not_by_its_letters(name):
    (panel,) = [one for one in panels(name) if one["title"] == "Findings" and one["type"] == "table"]
    sort, organize = panel["transformations"]
    assert (sort["id"], sort["options"]) == ("sortBy", {"sort": [{"field": "rank"}]})
    assert organize["options"]["excludeByName"]["rank"]
    ranks = dict(re.findall(r'"rank", "(\d)", "severity", "(\w+)"', panel["targets"][0]["expr"]))
    assert [ranks[rank] for rank in sorted(ranks)] == ["Critical", "Warning", "Info"]
    assert "sortBy" not in panel.get("options", {})


def test_a_hidden_number_is_left_out_by_the_name_that_grafana_gives_it():
    (panel,) = [one for one in panels("node") if one["title"] == "Profiles on this node"]
    (organize,) = panel["transformations"]
    assert organize["options"]["renameByName"] == {"Value": "is"}
    assert organize["options"]["excludeByName"]["Value"]


def test_ports_that_never_run_out_are_no_alarm():
    (panel,) = [one for one in panels("pod") if one["title"] == "Ports run out in"]
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    assert mapping["options"] == {"match": "null+nan", "result": {"text": "never", "color": "green"}}
