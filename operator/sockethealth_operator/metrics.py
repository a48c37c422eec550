"""The operator's own metrics."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """Counters and gauges, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.transitions = Counter(
            "sockethealth_operator_transitions_total",
            "Findings that were raised, escalated, eased or cleared.",
            ["type", "change"],
            registry=self.registry,
        )
        self.errors = Counter(
            "sockethealth_operator_handler_errors_total",
            "Objects whose handling failed and is tried again, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self.unreadable = Counter(
            "sockethealth_operator_unreadable_objects_total",
            "Versions of objects that could not be read and were skipped, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self.writes = Counter(
            "sockethealth_operator_writes_total",
            "Writes to the API server: status, watchpoints, annotations, events.",
            ["what"],
            registry=self.registry,
        )

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when it is scraped."""
        Gauge(name, description, registry=self.registry).set_function(read)
