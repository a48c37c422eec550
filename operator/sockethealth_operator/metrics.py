"""The operator's own metrics: what it has done and how long that took. What is known at a moment is in samples."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from sockethealth_core import metrics as table
from sockethealth_core.metrics import Series


class Metrics:
    """Counters and histograms, in a registry of their own."""

    def __init__(self) -> None:
        # Else there is one more series beside each counter, which nobody queries.
        disable_created_metrics()  # type: ignore[no-untyped-call] # no annotations
        self.registry = CollectorRegistry()
        build = table.OPERATOR_BUILD
        Gauge(build.name, build.help, build.labels, registry=self.registry).labels(version("sockethealth")).set(1)
        self.transitions = self._counter(table.OPERATOR_TRANSITIONS)
        self.errors = self._counter(table.OPERATOR_ERRORS)
        self.unreadable = self._counter(table.OPERATOR_UNREADABLE)
        self.writes = self._counter(table.OPERATOR_WRITES)
        self.relists = self._counter(table.OPERATOR_RELISTS)
        self.watch_restarts = self._counter(table.OPERATOR_WATCH_RESTARTS)
        self._api_errors = self._counter(table.OPERATOR_API_ERRORS)
        requests = table.OPERATOR_REQUESTS
        self._requests = Histogram(
            requests.name, requests.help, requests.labels, buckets=requests.buckets, registry=self.registry
        )

    def answered(self, method: str, seconds: float) -> None:
        """Count a request to the API server by the time that it took, whatever the answer."""
        self._requests.labels(method).observe(seconds)

    def api_error(self, status: int) -> None:
        """Count a request that failed; status is HTTP's, or 0 when there was no answer."""
        self._api_errors.labels(str(status)).inc()

    def _counter(self, series: Series) -> Counter:
        return Counter(series.name, series.help, series.labels, registry=self.registry)
