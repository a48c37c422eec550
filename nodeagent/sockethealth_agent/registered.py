"""Metrics of the table, registered with prometheus_client: their names and help texts stand in the core alone."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sockethealth_core.metrics import Series


def counter(series: Series, registry: CollectorRegistry) -> Counter:
    """Register a counter of the table."""
    return Counter(series.name, series.help, series.labels, registry=registry)


def gauge(series: Series, registry: CollectorRegistry) -> Gauge:
    """Register a gauge of the table."""
    return Gauge(series.name, series.help, series.labels, registry=registry)


def histogram(series: Series, registry: CollectorRegistry) -> Histogram:
    """Register a histogram of the table."""
    return Histogram(series.name, series.help, series.labels, buckets=series.buckets, registry=registry)
