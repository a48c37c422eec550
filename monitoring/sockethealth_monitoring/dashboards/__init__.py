"""The dashboards, by the name of their file in the chart."""

from sockethealth_monitoring.dashboards import fleet, node, own_health, pod
from sockethealth_monitoring.panels import encoded


def derived() -> dict[str, str]:
    """The JSON of each dashboard."""
    built = {"fleet": fleet.build(), "pod": pod.build(), "node": node.build(), "own-health": own_health.build()}
    return {f"{name}.json": encoded(dashboard) for name, dashboard in built.items()}
