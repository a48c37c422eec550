"""Panels that several dashboards have."""

from collections.abc import Mapping
from typing import Final

from sockethealth_core.detectors.close_wait_leak import MIN_AGE
from sockethealth_core.metrics import FINDING, Series
from sockethealth_core.units import parse_duration
from sockethealth_monitoring.panels import COUNT, SEVERITIES, Panel, Query, over_time, rows_of, with_states_colored
from sockethealth_monitoring.promql import one_per, select

OF_POD: Final = "namespace, pod, node"
AGED: Final = f"{parse_duration(MIN_AGE):g}"
"""``older_than_seconds`` by which CloseWaitLeak judges."""
_RANK: Final = "rank"


def findings(description: str, of: Mapping[str, str], height: int = 8) -> Panel:
    """What the operator has found."""
    query = one_per(f"{OF_POD}, type, severity, policy, rule, mode", select(FINDING, **of))
    # A table sorts words by the alphabet, in which Info comes before Warning.
    for rank, severity in enumerate(SEVERITIES):
        query = f'label_replace({query}, "{_RANK}", "{rank}", "severity", "{severity}")'
    return rows_of(
        "Findings",
        [Query(query, "value")],
        description,
        {"value": (COUNT, ())},
        ranked_by=_RANK,
        order=("severity", "type", "namespace", "pod", "node", "value", "policy", "rule", "mode"),
        span=24,
        height=height,
    )


def by_state(title: str, series: Series, description: str, **of: str) -> Panel:
    """Sockets by state, stacked."""
    query = f"sum by (state) ({one_per(', '.join(series.labels), select(series, **of))})"
    return with_states_colored(over_time(title, [Query(query, "{{state}}")], description, stacked=True))
