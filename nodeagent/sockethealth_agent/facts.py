"""From what was read of a network namespace to the facts of a SocketHealth. Pure.

Percentages and rates are rounded to one decimal: more would only make equal facts look different.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sockethealth_agent import folding
from sockethealth_agent.folding import AGE_EDGES_MS, TIME_WAIT_MS, Conversations, TimeWaitAges
from sockethealth_agent.inet_diag import TcpState
from sockethealth_agent.sightings import Ages
from sockethealth_core import resources
from sockethealth_core.capacity import (
    TIME_WAIT_SECONDS,
    Expiry,
    PortRange,
    hold_seconds,
    port_range,
    seconds_to_exhaustion,
)
from sockethealth_core.resources import Facts, Sockets, Watchpoint
from sockethealth_core.sysctls import DEFAULTS_BY_HASH_SIZE, HASH_SIZE, KERNEL_DEFAULTS, find
from sockethealth_core.units import format_time, parse_duration

MOST_DESTINATIONS: Final = 5
MOST_SOURCES: Final = 3
MOST_OWNERS: Final = 5
MOST_PEERS: Final = 5
MOST_LISTENERS: Final = 5
MOST_AGES: Final = 16
DEFAULT_MIN_AGE_SECONDS: Final = 60.0
RECENT_SECONDS: Final = 10.0
SHORTEST_RECENT_SECONDS: Final = 5.0

_FIXED_DEFAULTS: Final = {
    name: default
    for name, default in KERNEL_DEFAULTS.items()
    if (known := find(name)) is None or (known.scope == "Netns" and not known.module)
}
SYSCTL_NAMES: Final = (*_FIXED_DEFAULTS, *DEFAULTS_BY_HASH_SIZE, HASH_SIZE)
"""Sysctls to read in each namespace."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a socket: container is a name, or an id where the name is not known.

    Where the process is not known, its name is empty and pid is 0.
    """

    container: str
    process: str
    pid: int


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything facts are made of.

    Attributes:
        listeners: the listening sockets.
        conversations: all other sockets.
        close_wait: their ages; its sockets are those of conversations, seen a moment later.
        sysctls: those of SYSCTL_NAMES that the kernel has.
        rates: see the rates module.
        holders: by socket inode, for CLOSE_WAIT and for listeners with connections waiting or half open.
    """

    listeners: Sequence[folding.Listener]
    conversations: Conversations
    close_wait: Ages
    sysctls: Mapping[str, str]
    rates: resources.Rates = field(default_factory=resources.Rates)
    holders: Mapping[int, Holder] = field(default_factory=dict)


def build(
    observed: Observed, min_ages: Iterable[float], observed_at: float, *, taken_ports: Iterable[int] | None = None
) -> Facts:
    """The facts of one namespace, or of one pod in the node's.

    Args:
        observed: what was read.
        min_ages: ages in seconds that CLOSE_WAIT sockets are counted by.
        observed_at: epoch seconds.
        taken_ports: ports of all listeners of the namespace, where `observed` has only some of them.
    """
    if taken_ports is None:
        taken_ports = [one.port for one in observed.listeners]
    ports = local_ports(observed.sysctls, taken_ports)
    return Facts(
        observed_time=format_time(observed_at),
        sockets=socket_counts(observed.conversations.states, len(observed.listeners)),
        time_wait=time_wait(observed.conversations),
        close_wait=close_wait(observed, min_ages),
        ephemeral_ports=ephemeral_ports(observed.conversations.destinations, ports, observed.sysctls),
        listeners=listeners(observed),
        rates=observed.rates,
        sysctls=changed_sysctls(observed.sysctls),
    )


def socket_counts(states: Mapping[int, int], listening: int) -> Sockets:
    """Counts by state, from the kernel's numbers of states."""
    return Sockets(
        established=states.get(TcpState.ESTABLISHED, 0),
        syn_sent=states.get(TcpState.SYN_SENT, 0),
        syn_recv=states.get(TcpState.SYN_RECV, 0),
        fin_wait1=states.get(TcpState.FIN_WAIT1, 0),
        fin_wait2=states.get(TcpState.FIN_WAIT2, 0),
        time_wait=states.get(TcpState.TIME_WAIT, 0),
        close_wait=states.get(TcpState.CLOSE_WAIT, 0),
        last_ack=states.get(TcpState.LAST_ACK, 0),
        closing=states.get(TcpState.CLOSING, 0),
        listen=listening,
    )


def total(several: Iterable[Sockets]) -> Sockets:
    """The sum, state by state."""
    sums: Counter[str] = Counter()
    for one in several:
        for state in Sockets.__struct_fields__:
            sums[state] += getattr(one, state)
    return Sockets(**sums)


def recent_closes_per_second(ages: TimeWaitAges) -> float:
    """Active closes per second over the last ten seconds, from the ages in one dump.

    TIME_WAIT lasts 60 s and its remaining life is in the dump, so one dump tells when each socket was closed. Ten
    seconds are long enough to smooth a client that works in bursts and short enough to follow a change. Where the
    oldest TIME_WAIT is younger than that, closing has only begun and the time before would water the rate down: then
    its age is taken, but no less than five seconds, so that a single burst is not taken for a lasting rate.
    """
    oldest_ms = max((AGE_EDGES_MS[index + 1] for index, count in enumerate(ages.bins) if count), default=0)
    window = min(RECENT_SECONDS, max(SHORTEST_RECENT_SECONDS, oldest_ms / 1000))
    return round(ages.closes_per_second(window), 1)


def time_wait(found: Conversations) -> resources.TimeWait:
    """TIME_WAIT by role, with the peers of most inbound ones."""
    by_address: dict[str, list[folding.Peer]] = {}
    for peer in found.peers:
        by_address.setdefault(peer.address, []).append(peer)
    sources = [
        resources.Source(
            address=address,
            time_wait=sum(peer.time_wait for peer in peers),
            closes_per_second=recent_closes_per_second(added(peer.ages for peer in peers)),
        )
        for address, peers in by_address.items()
    ]
    sources.sort(key=lambda source: (-source.time_wait, source.address))
    return resources.TimeWait(
        inbound=found.inbound_time_wait,
        outbound=found.outbound_time_wait,
        closes_per_second=recent_closes_per_second(added((found.inbound_ages, found.outbound_ages))),
        sources=sources[:MOST_SOURCES],
    )


def added(several: Iterable[TimeWaitAges]) -> TimeWaitAges:
    """The sum, bin by bin."""
    bins = [0] * len(TimeWaitAges().bins)
    for ages in several:
        for index, count in enumerate(ages.bins):
            bins[index] += count
    return TimeWaitAges(tuple(bins))


def local_ports(sysctls: Mapping[str, str], listening: Iterable[int]) -> PortRange:
    """The ports connect() picks from, by the sysctls in force; a range that cannot be read counts as the default."""
    low, high = ephemeral_range(sysctls)
    reserved = sysctls.get("net.ipv4.ip_local_reserved_ports", "")
    return port_range(low, high, reserved, listening)


def ephemeral_range(sysctls: Mapping[str, str]) -> tuple[int, int]:
    """First and last port of net.ipv4.ip_local_port_range; the kernel's default where it is not known."""
    low, high = sysctls.get("net.ipv4.ip_local_port_range", _FIXED_DEFAULTS["net.ipv4.ip_local_port_range"]).split()
    return int(low), int(high)


def ephemeral_ports(
    destinations: Iterable[folding.Destination], ports: PortRange, sysctls: Mapping[str, str]
) -> resources.EphemeralPorts:
    """The destinations that use most local ports, and always the one with most TIME_WAIT.

    A socket takes one port, so `used` counts sockets on ports of the range. A client that connects from several
    local addresses can use a port once for each, and then shows more than it really takes.
    """
    described = [_destination(one, ports, sysctls) for one in destinations if one.used]
    described.sort(key=lambda one: (one.reusable - one.used, -one.time_wait, one.address, one.port))
    worst = described[:MOST_DESTINATIONS]
    if described:
        most = max(described, key=lambda one: one.time_wait)
        if most.time_wait > max(one.time_wait for one in worst):
            worst[-1] = most
    return resources.EphemeralPorts(
        low=ports.low,
        high=ports.high,
        reserved=ports.reserved,
        listening=ports.listening,
        usable=ports.usable,
        destinations=worst,
    )


def _destination(one: folding.Destination, ports: PortRange, sysctls: Mapping[str, str]) -> resources.Destination:
    rate = recent_closes_per_second(one.ages)
    hold = hold_seconds(sysctls, one.address)
    ends, reusable = expiries(one.ages), 0
    if hold < TIME_WAIT_SECONDS:
        # Of the TIME_WAIT sockets, only those closed within the hold keep their port to themselves.
        held = min(one.time_wait, round(rate * hold))
        ends, reusable = [Expiry(within_seconds=hold, count=held)], one.time_wait - held
    taken = one.used - min(reusable, one.used)
    left = seconds_to_exhaustion(ports.usable, taken, rate, ends, hold)
    return resources.Destination(
        address=one.address,
        port=one.port,
        used=one.used,
        reusable=reusable,
        used_percent=round(100 * taken / ports.usable, 1),
        time_wait=one.time_wait,
        closes_per_second=rate,
        seconds_to_exhaustion=None if left is None else round(left, 1),
    )


def expiries(ages: TimeWaitAges) -> list[Expiry]:
    """TIME_WAIT sockets by when they end, soonest first."""
    return [
        Expiry(within_seconds=(TIME_WAIT_MS - AGE_EDGES_MS[index]) / 1000, count=ages.bins[index])
        for index in reversed(range(len(ages.bins)))
    ]


def close_wait(observed: Observed, min_ages: Iterable[float]) -> resources.CloseWait:
    """CLOSE_WAIT sockets: how old at least, held by whom, toward whom."""
    ages = observed.close_wait
    found = ages.found
    holders = Counter(observed.holders[inode] for inode in found.inodes if inode in observed.holders)
    peers: Counter[tuple[str, int]] = Counter()
    for peer in found.peers:
        peers[peer.address, peer.port or 0] += peer.count
    return resources.CloseWait(
        oldest_seconds=round(ages.oldest_seconds, 1),
        receive_queue_bytes=found.receive_queue_bytes,
        ages=[
            resources.AgeCount(older_than_seconds=age, count=ages.older_than(age))
            for age in sorted(min_ages)[:MOST_AGES]
        ],
        owners=[
            resources.Owner(container=holder.container, process=holder.process, pid=holder.pid, count=count)
            for holder, count in sorted(holders.items(), key=lambda item: (-item[1], item[0].pid))[:MOST_OWNERS]
        ],
        peers=[
            resources.Peer(address=address, port=port, count=count)
            for (address, port), count in sorted(peers.items(), key=lambda item: (-item[1], item[0]))[:MOST_PEERS]
        ],
    )


def min_ages(watchpoints: Iterable[Watchpoint]) -> tuple[float, ...]:
    """The ages that policies ask CLOSE_WAIT to be counted by, and always the default; the lowest 16."""
    asked = {DEFAULT_MIN_AGE_SECONDS}
    for watchpoint in watchpoints:
        text = watchpoint.parameters.get("minAge")
        if watchpoint.detector != "CloseWaitLeak" or text is None:
            continue
        try:
            asked.add(parse_duration(text))
        except ValueError:
            continue  # the operator refused that policy with a sentence, so nobody waits for this age
    return tuple(sorted(age for age in asked if age > 0)[:MOST_AGES])


def listeners(observed: Observed) -> list[resources.Listener]:
    """Listeners with connections waiting or half open, worst first: the fullest by either limit, then the longest."""
    most_half_open = int(observed.sysctls.get("net.ipv4.tcp_max_syn_backlog", "0"))
    described = [_listener(one, observed, most_half_open) for one in observed.listeners]
    waiting = [one for one in described if one.queue or one.syn_recv]
    waiting.sort(key=lambda one: (-_fullness(one), -one.queue, -one.syn_recv, one.port, one.address))
    return waiting[:MOST_LISTENERS]


def _listener(one: folding.Listener, observed: Observed, most_half_open: int) -> resources.Listener:
    holder = observed.holders.get(one.inode)
    return resources.Listener(
        address=one.address,
        port=one.port,
        queue=one.queue,
        backlog=one.backlog,
        syn_recv=observed.conversations.inbound.get((one.port, int(TcpState.SYN_RECV)), 0),
        syn_backlog=min(one.backlog, most_half_open) if most_half_open else one.backlog,
        process=holder.process if holder else "",
    )


def _fullness(one: resources.Listener) -> float:
    return max(one.queue / max(1, one.backlog), one.syn_recv / max(1, one.syn_backlog))


def changed_sysctls(values: Mapping[str, str]) -> dict[str, str]:
    """The sysctls in force that differ from what the kernel gives a new namespace."""
    defaults = dict(_FIXED_DEFAULTS)
    if HASH_SIZE in values:
        entries = abs(int(values[HASH_SIZE]))
        defaults |= {name: str(of(entries)) for name, of in DEFAULTS_BY_HASH_SIZE.items()}
    return {name: values[name] for name, default in defaults.items() if name in values and values[name] != default}


def merged(several: Sequence[Conversations], listening_ports: Mapping[int, int]) -> Conversations:
    """The sockets of several cgroups of one pod as one, with the TIME_WAIT of its listening ports.

    TIME_WAIT carries no cgroup: those of a pod in the node's namespace are known by the ports it listens on, and its
    outbound ones are not told apart from those of its neighbours.

    Args:
        several: conversations of the pod's cgroups, none of which has TIME_WAIT.
        listening_ports: the ports of the pod's listeners, with the TIME_WAIT sockets on each.
    """
    states: Counter[int] = Counter()
    inbound: Counter[tuple[int, int]] = Counter()
    destinations: dict[tuple[str, int], folding.Destination] = {}
    for one in several:
        states.update(one.states)
        inbound.update(one.inbound)
        for destination in one.destinations:
            key = (destination.address, destination.port)
            known = destinations.get(key)
            destinations[key] = destination if known is None else _joined(known, destination)
    waiting = sum(listening_ports.values())
    states[TcpState.TIME_WAIT] = waiting
    return Conversations(
        states=states,
        unknown_states=sum(one.unknown_states for one in several),
        inbound=inbound,
        inbound_time_wait=waiting,
        inbound_ages=TimeWaitAges(),
        peers=(),
        other_peers=folding.Others(),
        outbound_time_wait=0,
        outbound_ages=TimeWaitAges(),
        destinations=tuple(destinations.values()),
        other_destinations=folding.Others(),
    )


def _joined(one: folding.Destination, other: folding.Destination) -> folding.Destination:
    return replace(
        one,
        used=one.used + other.used,
        elsewhere=one.elsewhere + other.elsewhere,
        states=Counter(one.states) + Counter(other.states),
    )
