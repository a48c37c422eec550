"""The agent's own metrics: how it fares, and the node's sockets in total. Nothing per pod: that is in the API."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sockethealth_agent.sampler import Sweep
from sockethealth_core.resources import Sockets

_SWEEP_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One set of metrics in a registry of its own, so that several can live in one process."""

    def __init__(self, version: str) -> None:
        """Register everything; version labels ``sockethealth_agent_build_info``."""
        self.registry = CollectorRegistry()
        info = Gauge("sockethealth_agent_build_info", "Version of the agent.", ["version"], registry=self.registry)
        info.labels(version).set(1)
        self._sweep_seconds = Histogram(
            "sockethealth_agent_sweep_seconds",
            "Time one sweep over the node's namespaces took.",
            buckets=_SWEEP_BUCKETS,
            registry=self.registry,
        )
        self._dumps = Counter("sockethealth_agent_dumps", "Full socket dumps made.", registry=self.registry)
        self._pods = Gauge("sockethealth_agent_pods", "Pods whose sockets are read.", registry=self.registry)
        self._pods_failed = Gauge(
            "sockethealth_agent_pods_failed",
            "Pods whose sockets could not be read at the last sweep.",
            registry=self.registry,
        )
        self._writes = Counter(
            "sockethealth_agent_writes",
            "Writes to the API server, by what caused them.",
            ["reason"],
            registry=self.registry,
        )
        self._suppressed = Counter(
            "sockethealth_agent_writes_suppressed",
            "Changed facts that were not worth a write, one for each pod and sweep.",
            registry=self.registry,
        )
        self._api_errors = Counter(
            "sockethealth_agent_api_errors",
            "Requests to the API server that failed, by HTTP status; 0 is no answer.",
            ["status"],
            registry=self.registry,
        )
        self._sockets = Gauge(
            "sockethealth_node_sockets",
            "TCP sockets of all pods and of the node's own namespace, by state.",
            ["state"],
            registry=self.registry,
        )

    def swept(self, sweep: Sweep) -> None:
        """Take in one sweep."""
        self._sweep_seconds.observe(sweep.seconds)
        self._dumps.inc(sweep.dumps)
        self._pods.set(len(sweep.pods))
        self._pods_failed.set(len(sweep.failed))
        for state, name in zip(Sockets.__struct_fields__, Sockets.__struct_encode_fields__, strict=True):
            self._sockets.labels(name).set(getattr(sweep.node.sockets, state))

    def wrote(self, reason: str) -> None:
        """Count a write. Reasons are few: what follows ``crossed`` is left out."""
        self._writes.labels(reason.partition(" ")[0] if reason.startswith("crossed") else reason).inc()

    def suppressed(self, count: int) -> None:
        """Count changes that were not written."""
        self._suppressed.inc(count)

    def api_error(self, status: int) -> None:
        """Count a failed request."""
        self._api_errors.labels(str(status)).inc()
