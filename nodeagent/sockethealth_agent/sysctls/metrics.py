"""The writer's own metrics."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol, get_args

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sockethealth_agent import registered
from sockethealth_core import metrics as table
from sockethealth_core.resources import ProfileState, SysctlProfileReport

RESULTS: Final = ("applied", "restored", "failed", "left")


class Sink(Protocol):
    """What is told of writes and of the state reached."""

    def wrote(self, result: str) -> None:
        """One of RESULTS; left: a value of someone else was not overwritten by a restore."""

    def stands(self, profiles: Iterable[SysctlProfileReport]) -> None:
        """All profiles after a pass."""


class Unheard:
    """A sink for those who do not want to know."""

    def wrote(self, result: str) -> None:
        """See Sink."""

    def stands(self, profiles: Iterable[SysctlProfileReport]) -> None:
        """See Sink."""


class WriterMetrics(Collector):
    """A sink of Prometheus metrics, in a registry of its own."""

    def __init__(self, node: str, version: str, wall_clock: Callable[[], float] = time.time) -> None:
        """Register everything.

        Args:
            node: the node's name.
            version: of the writer.
            wall_clock: epoch seconds.
        """
        # Else there is one more series beside each counter, which nobody queries.
        disable_created_metrics()  # type: ignore[no-untyped-call] # no annotations
        self.registry = CollectorRegistry()
        self._node = node
        self._wall_clock = wall_clock
        self._profiles: tuple[SysctlProfileReport, ...] = ()
        registered.gauge(table.WRITER_BUILD, self.registry).labels(node, version).set(1)
        self._last_pass = registered.gauge(table.WRITER_LAST_PASS, self.registry)
        self._api_errors = registered.counter(table.WRITER_API_ERRORS, self.registry)
        self._writes = registered.counter(table.SYSCTL_WRITES, self.registry)
        for result in RESULTS:
            self._writes.labels(node, result)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Where each profile stands, as of the last pass."""
        series = table.PROFILE_STATE
        family = GaugeMetricFamily(series.name, series.help, labels=series.labels)
        for one in self._profiles:
            for state in get_args(ProfileState):
                family.add_metric([self._node, one.profile, state], float(one.state == state))
        yield family

    def wrote(self, result: str) -> None:
        """See Sink."""
        self._writes.labels(self._node, result).inc()

    def stands(self, profiles: Iterable[SysctlProfileReport]) -> None:
        """See Sink."""
        self._profiles = tuple(profiles)

    def passed(self) -> None:
        """Note that every value has been looked at."""
        self._last_pass.labels(self._node).set(self._wall_clock())

    def api_error(self, status: int) -> None:
        """Count a failed request."""
        self._api_errors.labels(self._node, str(status)).inc()
