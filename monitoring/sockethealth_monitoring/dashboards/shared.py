"""Panels that several dashboards have."""

from collections.abc import Mapping
from typing import Final

from sockethealth_core.detectors.close_wait_leak import MIN_AGE
from sockethealth_core.metrics import FINDING, Series
from sockethealth_core.units import parse_duration
from sockethealth_monitoring.panels import COUNT, Panel, Query, over_time, rows_of
from sockethealth_monitoring.promql import one_per, select

OF_POD: Final = "namespace, pod, node"
AGED: Final = f"{parse_duration(MIN_AGE):g}"
"""``older_than_seconds`` by which CloseWaitLeak judges."""


def findings(description: str, of: Mapping[str, str], height: int = 8) -> Panel:
    """What the operator has found."""
    query = one_per(f"{OF_POD}, type, severity, policy, rule, mode", select(FINDING, **of))
    return rows_of(
        "Findings",
        [Query(query, "value")],
        description,
        {"value": (COUNT, ())},
        sort_by="severity",
        greatest_first=False,
        order=("severity", "type", "namespace", "pod", "node", "Value", "policy", "rule", "mode"),
        span=24,
        height=height,
    )


def by_state(title: str, series: Series, description: str, **of: str) -> Panel:
    """Sockets by state, stacked."""
    query = f"sum by (state) ({one_per(', '.join(series.labels), select(series, **of))})"
    return over_time(title, [Query(query, "{{state}}")], description, stacked=True)
