"""From a sweep to Prometheus' samples, at the moment of a scrape. Pure.

Nothing is kept for a pod: what the sweep does not have is not there, so series vanish with their pod by themselves. One
family is made after another, so that a scrape needs the memory of one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sockethealth_agent.procfs import NetCounters
from sockethealth_agent.sampler import Observation, Sweep
from sockethealth_core import metrics
from sockethealth_core.metrics import Series
from sockethealth_core.resources import Destination, Facts, NodeFacts, Rates, Sockets

Values = Iterable[tuple[tuple[str, ...], float]]
"""Further label values, and the value, of each time series of one pod or node."""

_STATES: Final = tuple(zip(Sockets.__struct_fields__, Sockets.__struct_encode_fields__, strict=True))


def families(sweep: Sweep, node: str, *, destinations: bool = False) -> Iterator[Metric]:
    """All that a sweep says of the node and of its pods.

    Args:
        sweep: the latest.
        node: the node's name.
        destinations: whether to show single destinations too.
    """
    for series, of_node in _NODE.items():
        yield _family(series, [((node,), of_node(sweep.node))])
    for _, series, count in _COUNTERS:
        yield _family(series, [((node,), _one(_counted(sweep.host_counters, count)))])
    shown = pods_shown(sweep)
    names = [(one.pod.namespace, one.pod.name, node) for one in shown]
    for series, of_facts in ({**_POD, **_DESTINATIONS} if destinations else _POD).items():
        yield _family(series, zip(names, (of_facts(one.facts) for one in shown), strict=True))
    for series, _, count in _COUNTERS:
        counted = (_one(_counted(one.counters, count)) for one in shown)
        yield _family(series, zip(names, counted, strict=True))


def pods_shown(sweep: Sweep) -> list[Observation]:
    """The pods that have series: those that could be read and hold a socket, or whose counters move.

    What could not be read is left out: an old value told again and again would look like a measurement.
    """
    read = (one for uid, one in sweep.pods.items() if uid not in sweep.failed)
    # By name, as two series of one name would have a scrape refused.
    return list({(one.pod.namespace, one.pod.name): one for one in read if _speaks(one.facts)}.values())


def _speaks(facts: Facts) -> bool:
    return facts.sockets != _NO_SOCKETS or facts.rates != _NO_RATES


_NO_SOCKETS: Final = Sockets()
_NO_RATES: Final = Rates()


def _family(series: Series, several: Iterable[tuple[tuple[str, ...], Values]]) -> Metric:
    kind = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    family = kind(series.name, series.help, labels=series.labels, unit=series.unit)
    for labels, values in several:
        for further, value in values:
            family.add_metric([*labels, *further], value)
    return family


def _one(value: float | None) -> Values:
    return () if value is None else (((), value),)


def _states(sockets: Sockets) -> Values:
    return [((name,), getattr(sockets, field)) for field, name in _STATES]


def _roles(facts: Facts) -> Values:
    return [(("inbound",), facts.time_wait.inbound), (("outbound",), facts.time_wait.outbound)]


def _worst_source(facts: Facts) -> Values:
    return _one(max((source.closes_per_second for source in facts.time_wait.sources), default=0.0))


def _aged(facts: Facts) -> Values:
    return [((f"{age.older_than_seconds:g}",), age.count) for age in facts.close_wait.ages]


def _ports_used(facts: Facts) -> Values:
    return _one(max((one.used_percent for one in facts.ephemeral_ports.destinations), default=0.0) / 100)


def _exhaustion(facts: Facts) -> Values:
    known = (one.seconds_to_exhaustion for one in facts.ephemeral_ports.destinations)
    return _one(min((seconds for seconds in known if seconds is not None), default=None))


def _worst_destination(facts: Facts) -> Values:
    return _one(max((one.time_wait for one in facts.ephemeral_ports.destinations), default=0))


def _listen_queue(facts: Facts) -> Values:
    return _one(max((one.queue / max(1, one.backlog) for one in facts.listeners), default=0.0))


def _syn_backlog(facts: Facts) -> Values:
    return _one(max((one.syn_recv / max(1, one.syn_backlog) for one in facts.listeners), default=0.0))


def _each_destination(count: Callable[[Destination], int], facts: Facts) -> Values:
    return [((_place(one),), count(one)) for one in facts.ephemeral_ports.destinations]


def _place(one: Destination) -> str:
    return f"[{one.address}]:{one.port}" if ":" in one.address else f"{one.address}:{one.port}"


_POD: Final[Mapping[Series, Callable[[Facts], Values]]] = {
    metrics.POD_SOCKETS: lambda facts: _states(facts.sockets),
    metrics.POD_TIME_WAIT: _roles,
    metrics.POD_CLOSES: lambda facts: _one(facts.time_wait.closes_per_second),
    metrics.POD_WORST_SOURCE: _worst_source,
    metrics.POD_CLOSE_WAIT_OLDEST: lambda facts: _one(facts.close_wait.oldest_seconds),
    metrics.POD_CLOSE_WAIT_AGED: _aged,
    metrics.POD_PORTS_USED: _ports_used,
    metrics.POD_PORTS_EXHAUSTION: _exhaustion,
    metrics.POD_WORST_DESTINATION: _worst_destination,
    metrics.POD_LISTEN_QUEUE: _listen_queue,
    metrics.POD_SYN_BACKLOG: _syn_backlog,
}

_DESTINATIONS: Final[Mapping[Series, Callable[[Facts], Values]]] = {
    metrics.POD_DESTINATION_PORTS: partial(_each_destination, lambda one: one.used),
    metrics.POD_DESTINATION_TIME_WAIT: partial(_each_destination, lambda one: one.time_wait),
}

_Counter = tuple[str, str]
"""Protocol, of Tcp (/proc/net/snmp) and TcpExt (/proc/net/netstat), and the counter's name there."""

_COUNTERS: Final[Sequence[tuple[Series, Series, _Counter]]] = (
    (metrics.POD_ACTIVE_OPENS, metrics.HOST_ACTIVE_OPENS, ("Tcp", "ActiveOpens")),
    (metrics.POD_PASSIVE_OPENS, metrics.HOST_PASSIVE_OPENS, ("Tcp", "PassiveOpens")),
    (metrics.POD_ATTEMPT_FAILS, metrics.HOST_ATTEMPT_FAILS, ("Tcp", "AttemptFails")),
    (metrics.POD_SEGMENTS_SENT, metrics.HOST_SEGMENTS_SENT, ("Tcp", "OutSegs")),
    (metrics.POD_SEGMENTS_RETRANSMITTED, metrics.HOST_SEGMENTS_RETRANSMITTED, ("Tcp", "RetransSegs")),
    (metrics.POD_SYN_SEGMENTS_RETRANSMITTED, metrics.HOST_SYN_SEGMENTS_RETRANSMITTED, ("TcpExt", "TCPSynRetrans")),
    (metrics.POD_LISTEN_OVERFLOWS, metrics.HOST_LISTEN_OVERFLOWS, ("TcpExt", "ListenOverflows")),
    (metrics.POD_LISTEN_DROPS, metrics.HOST_LISTEN_DROPS, ("TcpExt", "ListenDrops")),
    (metrics.POD_TIME_WAIT_OVERFLOWS, metrics.HOST_TIME_WAIT_OVERFLOWS, ("TcpExt", "TCPTimeWaitOverflow")),
)
"""Of a pod and of the node's own namespace, the same counter of the kernel."""


def _counted(counters: NetCounters | None, which: _Counter) -> float | None:
    if counters is None:
        return None
    protocol, name = which
    return (counters.tcp if protocol == "Tcp" else counters.tcp_ext).get(name)


def _tcp_memory(facts: NodeFacts, level: str) -> Values:
    return _one(None if facts.tcp_memory is None else getattr(facts.tcp_memory, level))


def _tcp_memory_used(facts: NodeFacts) -> Values:
    memory = facts.tcp_memory
    return _one(None if memory is None or not memory.pressure else memory.pages / memory.pressure)


def _orphans(facts: NodeFacts, what: str) -> Values:
    return _one(None if facts.orphans is None else getattr(facts.orphans, what))


def _conntrack(facts: NodeFacts, what: str) -> Values:
    return _one(None if facts.conntrack is None else getattr(facts.conntrack, what))


def _conntrack_used(facts: NodeFacts) -> Values:
    table = facts.conntrack
    return _one(None if table is None or not table.maximum else table.entries / table.maximum)


_NODE: Final[Mapping[Series, Callable[[NodeFacts], Values]]] = {
    metrics.NODE_SOCKETS: lambda facts: _states(facts.sockets),
    metrics.NODE_HOST_SOCKETS: lambda facts: _states(facts.host_sockets),
    metrics.NODE_TCP_MEMORY: partial(_tcp_memory, level="pages"),
    metrics.NODE_TCP_MEMORY_PRESSURE: partial(_tcp_memory, level="pressure"),
    metrics.NODE_TCP_MEMORY_LIMIT: partial(_tcp_memory, level="high"),
    metrics.NODE_TCP_MEMORY_USED: _tcp_memory_used,
    metrics.NODE_ORPHANS: partial(_orphans, what="count"),
    metrics.NODE_ORPHANS_LIMIT: partial(_orphans, what="maximum"),
    metrics.NODE_CONNTRACK: partial(_conntrack, what="entries"),
    metrics.NODE_CONNTRACK_LIMIT: partial(_conntrack, what="maximum"),
    metrics.NODE_CONNTRACK_USED: _conntrack_used,
    metrics.AGENT_PODS: lambda facts: _one(facts.pods),
    metrics.AGENT_PODS_FAILED: lambda facts: _one(facts.pods_failed),
}
