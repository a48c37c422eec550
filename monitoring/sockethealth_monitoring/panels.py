"""Panels as all dashboards have them, over Grafana's own library of types (grafana-foundation-sdk)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from sockethealth_core.detectors import DETECTORS
from sockethealth_core.metrics import Series
from sockethealth_monitoring.promql import select

Panel = Builder[models.Panel]

DATASOURCE: Final = models.DataSourceRef("prometheus", "${datasource}")
TAG: Final = "sockethealth"
FLEET, POD, NODE, OWN_HEALTH = (f"sockethealth-{name}" for name in ("fleet", "pod", "node", "own-health"))
INTERVAL: Final = "$__rate_interval"

RATIO: Final = "percentunit"
COUNT: Final = "short"
_WIDE: Final = 12
SECONDS: Final = "s"
PER_SECOND: Final = "cps"

SEVERITIES: Final = ("Critical", "Warning", "Info")
"""Worst first."""
_COLORS: Final = {"Info": "blue", "Warning": "orange", "Critical": "red"}
_STATE_COLORS: Final = {
    "established": "green",
    "listen": "dark-green",
    "synSent": "yellow",
    "synRecv": "orange",
    "finWait1": "light-purple",
    "finWait2": "purple",
    "lastAck": "dark-purple",
    "closing": "super-light-purple",
    "timeWait": "blue",
    "closeWait": "red",
}
_WIDTHS: Final = {"severity": 90, "mode": 90, "type": 210, "pod": 245}
"""Pixels; those of type and pod hold the longest detector's name, and the name of a Deployment's pod."""
_NUMBER_WIDTH: Final = 115
_RATIO_DECIMALS: Final = 1
_LINKS: Final = {
    "pod": f"/d/{POD}?var-datasource=${{datasource}}&var-namespace=${{__data.fields.namespace}}"
    "&var-pod=${__data.fields.pod}&${__url_time_range}",
    "node": f"/d/{NODE}?var-datasource=${{datasource}}&var-node=${{__data.fields.node}}&${{__url_time_range}}",
}


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and how a legend or a column is called: a template of labels, or words."""

    expression: str
    legend: str = ""


Steps = Sequence[tuple[float | None, str]]
PLAIN: Final[Steps] = ((None, "text"),)
GOOD_AT_ZERO: Final[Steps] = ((None, "green"), (1, "red"))
GOOD_AT_ONE: Final[Steps] = ((None, "red"), (1, "green"))


def limits(detector: str, per_unit: float = 1) -> Steps:
    """Colours from the limits of a detector's default rules; per_unit is what one of its units is in the series."""
    rules = sorted(DETECTORS[detector].defaults, key=lambda rule: rule.threshold)
    return ((None, "green"), *((rule.threshold * per_unit, _COLORS[rule.severity]) for rule in rules))


def number(
    title: str,
    expression: str,
    description: str,
    unit: str = COUNT,
    steps: Steps = PLAIN,
    *,
    span: int = 4,
    nothing: str = "0",
    nothing_color: str | None = None,
    decimals: int | None = None,
) -> stat.Panel:
    """One number of this moment; `nothing` is said where there is none, else in the colour of the lowest step."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(span)
        .height(4)
        .unit(unit)
        .thresholds(_thresholds(steps))
        .graph_mode(common_models.BigValueGraphMode.AREA)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value(nothing)
        .with_target(_range(Query(expression), 0))
    )
    if nothing_color is not None:
        said = models.ValueMappingResult(text=nothing, color=nothing_color)
        null = models.DashboardSpecialValueMapOptions(models.SpecialValueMatch.NULL_AND_NAN, said)
        panel = panel.mappings([models.SpecialValueMap(null)])
    return panel if decimals is None else panel.decimals(decimals)


def over_time(
    title: str,
    queries: Sequence[Query],
    description: str,
    unit: str = COUNT,
    *,
    span: int = 12,
    stacked: bool = False,
    greatest: float | None = None,
    steps: Steps | None = None,
) -> timeseries.Panel:
    """Lines over time; stacked where the sum means something, and steps as lines where there are limits.

    Narrow panels have their legend below, and are higher for it.
    """
    wide = span >= _WIDE
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(span)
        .height(8 if wide else 9)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(25 if stacked else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.TABLE)
            .placement(common_models.LegendPlacement.RIGHT if wide else common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
            .sort_by("Max")
            .sort_desc(True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
        .targets([_range(query, index) for index, query in enumerate(queries)])
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if greatest is not None:
        panel = panel.max(greatest)
    if steps is not None:
        dashed = common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(dashed)
        if greatest is None:
            # Without values above zero Grafana's axis ends at 100, which for a share is 10,000%.
            panel = panel.axis_soft_max(1.2 * min(value for value, _ in steps if value is not None))
    return panel


def with_states_colored(panel: timeseries.Panel) -> timeseries.Panel:
    """The same panel, whose series are called as states are: a leak is red, and what is harmless is not."""
    for state, color in _STATE_COLORS.items():
        panel = panel.override_by_name(state, [_colored(color, "fixed")])
    return panel


def with_severities_colored(panel: timeseries.Panel) -> timeseries.Panel:
    """The same panel, whose series end in their severity in parentheses."""
    for severity, color in _COLORS.items():
        panel = panel.override_by_regexp(rf"/\({severity}\)$/", [_colored(color, "shades")])
    return panel


def rows_of(
    title: str,
    queries: Sequence[Query],
    description: str,
    columns: Mapping[str, tuple[str, Steps]],
    *,
    sort_by: str = "",
    ranked_by: str = "",
    order: Sequence[str] = (),
    hidden: Sequence[str] = (),
    joined_by: str = "",
    span: int = 12,
    height: int = 8,
) -> table.Panel:
    """A table of this moment, worst first; cells that name a pod or a node lead to its dashboard.

    Args:
        title: of the panel.
        queries: the legend of each is the name of its column of numbers.
        description: of the panel.
        columns: unit and colours of the columns of numbers.
        sort_by: the column whose greatest value comes first.
        ranked_by: a label that is not shown, by which rows are sorted instead.
        order: labels in the order of their columns; empty for that of the alphabet.
        hidden: labels that are not shown.
        joined_by: the label by which several queries become one row; empty for one query.
        span: width of 24.
        height: in Grafana's units.
    """
    names = {f"Value #{_letter(index)}": query.legend for index, query in enumerate(queries)}
    if len(queries) == 1:
        names = {"Value": queries[0].legend}
    transformations = _shaped(names, hidden=hidden, order=order, ranked_by=ranked_by, joined_by=joined_by)
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(span)
        .height(height)
        .targets([_instant(query, index) for index, query in enumerate(queries)])
        .transformations(transformations)
        .filterable(True)
    )
    if sort_by:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
    for column, (unit, steps) in columns.items():
        properties = [models.DynamicConfigValue("unit", unit)]
        if unit == RATIO:
            properties.append(models.DynamicConfigValue("decimals", _RATIO_DECIMALS))
        if not joined_by:
            properties.append(models.DynamicConfigValue("custom.width", _NUMBER_WIDTH))
        if steps:
            listed = [{"value": value, "color": color} for value, color in steps]
            properties += [
                models.DynamicConfigValue("thresholds", {"mode": "absolute", "steps": listed}),
                models.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
            ]
        panel = panel.override_by_name(column, properties)
    return _of_labels(panel, hidden)


def _shaped(
    names: Mapping[str, str], *, hidden: Sequence[str], order: Sequence[str], ranked_by: str, joined_by: str
) -> list[models.DataTransformerConfig]:
    """From frames to columns: joined, sorted, then called, placed and left out; names are those shown, by original."""
    original = {shown: name for name, shown in names.items()}
    times = ("Time", *(f"Time {index + 1}" for index in range(len(names))))
    unseen = [*hidden, ranked_by] if ranked_by else hidden
    left_out = dict.fromkeys((*times, *(original.get(label, label) for label in unseen)), True)
    places = {original.get(label, label): index for index, label in enumerate(order)}
    options = {"excludeByName": left_out, "renameByName": names, "indexByName": places}
    transformations = [models.DataTransformerConfig("organize", options=options)]
    if joined_by:
        joining = {"byField": joined_by, "mode": "outer"}
        transformations.insert(0, models.DataTransformerConfig("joinByField", options=joining))
    if ranked_by:
        sorting = {"sort": [{"field": ranked_by}]}
        transformations.insert(0, models.DataTransformerConfig("sortBy", options=sorting))
    return transformations


def _of_labels(panel: table.Panel, hidden: Sequence[str]) -> table.Panel:
    """Widths, colours and links of the columns that are labels."""
    severities = {name: {"color": color, "index": index} for index, (name, color) in enumerate(_COLORS.items())}
    panel = panel.override_by_name(
        "severity",
        [
            models.DynamicConfigValue("mappings", [{"type": "value", "options": severities}]),
            models.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
        ],
    )
    for column, pixels in _WIDTHS.items():
        panel = panel.override_by_name(column, [models.DynamicConfigValue("custom.width", pixels)])
    for column, url in _LINKS.items():
        if column not in hidden:
            link = {"title": f"Dashboard of the {column}", "url": url}
            panel = panel.override_by_name(column, [models.DynamicConfigValue("links", [link])])
    return panel


def chosen(
    name: str, series: Series, *, among: Mapping[str, str] | None = None, several: bool = False
) -> dashboard.QueryVariable:
    """A variable whose values are those of a series' label."""
    query = f"label_values({select(series, **(among or {}))}, {name})"
    variable = (
        dashboard.QueryVariable(name)
        .label(name)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": f"variable-{name}"})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    return variable.multi(True).include_all(True).all_value(".*") if several else variable


def dashboard_of(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[dashboard.QueryVariable],
    rows: Mapping[str, Sequence[Panel]],
) -> dashboard.Dashboard:
    """A dashboard: panels by the title of their row, with what all have: the data source, and links to the others.

    Widths of panels side by side have to add up to 24.
    """
    others = dashboard.DashboardLink("SocketHealth").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    built = (
        dashboard.Dashboard(f"SocketHealth / {title}")
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(others.as_dropdown(True).keep_time(True).include_vars(True))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in variables:
        built = built.with_variable(variable)
    for row, panels in rows.items():
        built = built.with_row(dashboard.Row(row))
        for panel in panels:
            built = built.with_panel(panel)
    return built


def encoded(built: dashboard.Dashboard) -> str:
    """The JSON of a dashboard, with panels numbered, as links to one panel need it."""
    document = json.loads(JSONEncoder(sort_keys=True).encode(built.build()))
    for number_, panel in enumerate(document["panels"], start=1):
        panel["id"] = number_
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _range(query: Query, index: int) -> prometheus.Dataquery:
    return _target(query, index).range()


def _instant(query: Query, index: int) -> prometheus.Dataquery:
    return _target(query, index).instant().format(PromQueryFormat.TABLE)


def _target(query: Query, index: int) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(_letter(index)).datasource(DATASOURCE).expr(query.expression)
    return target.legend_format(query.legend) if query.legend else target


def _colored(color: str, mode: str) -> models.DynamicConfigValue:
    return models.DynamicConfigValue("color", {"mode": mode, "fixedColor": color})


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    config = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE)
    return config.steps([models.Threshold(value, color) for value, color in steps])
