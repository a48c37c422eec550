"""What the agent shows to Prometheus: its pods and its node as the latest sweep has them, and how it fares itself."""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from sockethealth_agent.registered import counter, gauge, histogram
from sockethealth_agent.sampler import Sweep
from sockethealth_agent.samples import families
from sockethealth_core import metrics as table


class Metrics(Collector):
    """One set of metrics in a registry of its own, so that several can live in one process."""

    def __init__(
        self,
        node: str,
        version: str,
        *,
        destinations: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Register everything.

        Args:
            node: the node's name.
            version: of the agent.
            destinations: whether single destinations of pods are shown.
            wall_clock: epoch seconds.
        """
        # Else there is one more series beside each counter, which nobody queries.
        disable_created_metrics()  # type: ignore[no-untyped-call] # no annotations
        self.registry = CollectorRegistry()
        self._node = node
        self._destinations = destinations
        self._wall_clock = wall_clock
        self._sweep: Sweep | None = None
        registry = self.registry
        gauge(table.AGENT_BUILD, registry).labels(node, version).set(1)
        self._sweep_seconds = histogram(table.AGENT_SWEEP, registry).labels(node)
        self._last_sweep = gauge(table.AGENT_LAST_SWEEP, registry)
        self._last_report = gauge(table.AGENT_LAST_REPORT, registry)
        self._dumps = counter(table.AGENT_DUMPS, registry).labels(node)
        self._writes = counter(table.AGENT_WRITES, registry)
        self._suppressed = counter(table.AGENT_SUPPRESSED, registry).labels(node)
        self._api_errors = counter(table.AGENT_API_ERRORS, registry)
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What the latest sweep found; from the threads that answer scrapes, several at once."""
        sweep = self._sweep
        if sweep is not None:
            yield from families(sweep, self._node, destinations=self._destinations)

    def swept(self, sweep: Sweep) -> None:
        """Take in one sweep: from here on scrapes show it, and nothing of the one before."""
        self._sweep = sweep
        self._sweep_seconds.observe(sweep.seconds)
        self._dumps.inc(sweep.dumps)
        self._last_sweep.labels(self._node).set(self._wall_clock())

    def wrote(self, reason: str) -> None:
        """Count a write. Reasons are few: what follows ``crossed`` is left out."""
        kind = reason.partition(" ")[0] if reason.startswith("crossed") else reason
        self._writes.labels(self._node, kind).inc()
        self._last_report.labels(self._node).set(self._wall_clock())

    def suppressed(self, count: int) -> None:
        """Count changes that were not written."""
        self._suppressed.inc(count)

    def api_error(self, status: int) -> None:
        """Count a failed request."""
        self._api_errors.labels(self._node, str(status)).inc()
