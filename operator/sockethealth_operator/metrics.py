"""The operator's own metrics."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from sockethealth_core.resources import ProfileNodes


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
            "Writes to the API server: status, spec, annotations, events.",
            ["what"],
            registry=self.registry,
        )
        self._profile_nodes = Gauge(
            "sockethealth_operator_profile_nodes",
            "Nodes that a SysctlProfile is for (selected), and of these by state of the roll-out.",
            ["profile", "state"],
            registry=self.registry,
        )
        self._profiles: set[str] = set()

    def profile_nodes(self, profile: str, nodes: ProfileNodes) -> None:
        """State how many nodes of a profile are in which state."""
        self._profiles.add(profile)
        for state in ProfileNodes.__struct_fields__:
            self._profile_nodes.labels(profile, state).set(getattr(nodes, state))

    def forget_profile(self, profile: str) -> None:
        """State nothing more of a profile that is gone."""
        if profile in self._profiles:
            self._profiles.discard(profile)
            for state in ProfileNodes.__struct_fields__:
                self._profile_nodes.remove(profile, state)

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when it is scraped."""
        Gauge(name, description, registry=self.registry).set_function(read)
