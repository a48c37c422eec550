"""How many connections a network namespace can hold to one destination, and when it runs out.

A connection to (address, port) needs a local port that no other socket of the namespace uses for the same
destination. A closed one holds its port for 60 s of TIME_WAIT (``TCP_TIMEWAIT_LEN``, include/net/tcp.h).
So the limit is per destination, and what counts is the number of usable local ports.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from sockethealth_core.sysctls import KERNEL_DEFAULTS, parse_port_list

TIME_WAIT_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class PortRange:
    """The ephemeral ports of a namespace: ``net.ipv4.ip_local_port_range`` less what is taken from it.

    ``reserved`` counts the ports of the range that connect() never picks: those in
    ``net.ipv4.ip_local_reserved_ports``. ``listening`` counts further ports of the range that listeners hold.

    connect() passes over every port whose bind bucket was made by bind(), on any address and whatever SO_REUSEADDR
    says (net/ipv4/inet_hashtables.c, ``__inet_hash_connect``). Listeners have most of them, not all: a bucket stays
    for sockets that are bound and do nothing, or were bound before they connected, and for connections and TIME_WAIT
    of a listener that has gone. Those are not counted, so that ``usable`` can be too high by their ports.
    """

    low: int
    high: int
    reserved: int = 0
    listening: int = 0

    @property
    def usable(self) -> int:
        """Local ports that connect() can pick for one destination, never below 1."""
        return max(1, self.high - self.low + 1 - self.reserved - self.listening)

    @property
    def sustainable_rate(self) -> float:
        """New connections per second to one destination that can be kept up for ever without port reuse."""
        return self.usable / TIME_WAIT_SECONDS


def port_range(low: int, high: int, reserved: str, listening: Iterable[int]) -> PortRange:
    """The usable ports of a namespace, from its sysctls' text and its listeners' ports."""
    held_back = {
        port for first, last in parse_port_list(reserved) for port in range(max(first, low), min(last, high) + 1)
    }
    listeners = {port for port in listening if low <= port <= high} - held_back
    return PortRange(low, high, len(held_back), len(listeners))


@dataclass(frozen=True, slots=True)
class Expiry:
    """``count`` TIME_WAIT sockets that end within ``within_seconds`` from now, and not in an earlier bin."""

    within_seconds: float
    count: int


def hold_seconds(sysctls: Mapping[str, str], address: str) -> float:
    """How long a closed connection keeps its local port from being used for the same destination again.

    60 s, unless tcp_tw_reuse is in force for the destination: 1 for all, 2 (the kernel's default) on loopback. It needs
    timestamps, and waits for tcp_tw_reuse_delay (net/ipv4/tcp_ipv4.c, ``tcp_twsk_unique``). That the peer has
    timestamps on too cannot be seen from here and is taken for granted, as it is every system's default.

    Args:
        sysctls: values in force by name; a missing one has the kernel's default.
        address: of the destination.
    """
    in_force = {**KERNEL_DEFAULTS, **sysctls}
    reuse = in_force["net.ipv4.tcp_tw_reuse"]
    applies = reuse == "1" or (reuse == "2" and ip_address(address).is_loopback)
    if not applies or in_force["net.ipv4.tcp_timestamps"] == "0":
        return float(TIME_WAIT_SECONDS)
    return int(in_force["net.ipv4.tcp_tw_reuse_delay"]) / 1000


def seconds_to_exhaustion(
    usable: int,
    used: int,
    closes_per_second: float,
    expiries: Sequence[Expiry],
    horizon_seconds: float = TIME_WAIT_SECONDS,
) -> float | None:
    """When the ports to one destination run out if the rate of closes stays, or None if they never do.

    Ports are taken at ``closes_per_second`` and given back when a TIME_WAIT ends, which one dump tells in
    advance (``idiag_expires``). Sockets closed from now on come back after 60 s, so nothing beyond that
    horizon has to be looked at: what is not exhausted by then has reached its steady state.

    Args:
        usable: ports that connect() can pick.
        used: ports in use for this destination, in any state.
        closes_per_second: active closes per second, over the recent past.
        expiries: TIME_WAIT sockets of this destination by when they give their port back, soonest first.
        horizon_seconds: how long a closed connection holds its port, see :func:`hold_seconds`.
    """
    if used >= usable:
        return 0.0
    if closes_per_second <= 0:
        return None
    held, start = float(used), 0.0
    for expiry in (*expiries, Expiry(horizon_seconds, 0)):
        span = expiry.within_seconds - start
        if span <= 0:
            held -= expiry.count
            continue
        growth = closes_per_second - expiry.count / span
        if growth > 0 and held + growth * span >= usable:
            return start + (usable - held) / growth
        held += growth * span
        start = expiry.within_seconds
    return None
