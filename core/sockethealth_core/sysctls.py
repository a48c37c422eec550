"""The sysctls a profile may set: type, safe bounds, scope, and what each does and does not do.

The one table behind admission, the agent's own refusal, and the documentation. Nothing that is not in it is
ever written to a node. Sources: Documentation/networking/ip-sysctl.rst, Documentation/admin-guide/sysctl/net.rst
and Documentation/networking/nf_conntrack-sysctl.rst of the kernel.
"""

from dataclasses import dataclass
from typing import Final, Literal

Scope = Literal["Netns", "Node"]
SysctlKind = Literal["Integer", "PortRange", "PortList"]


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One allowed sysctl; ``low`` and ``high`` bound integers, and ports for ranges and lists."""

    name: str
    kind: SysctlKind
    low: int
    high: int
    scope: Scope
    effect: str
    no_effect: str = ""


SYSCTLS: Final[tuple[Sysctl, ...]] = (
    Sysctl(
        "net.ipv4.ip_local_port_range",
        "PortRange",
        1024,
        65535,
        "Netns",
        "Ports connect() picks from: more of them carry a higher rate of connections to one destination.",
        "A range does not help a client that keeps opening faster than range/60 s: pool connections first.",
    ),
    Sysctl(
        "net.ipv4.ip_local_reserved_ports",
        "PortList",
        1,
        65535,
        "Netns",
        "Ports connect() never picks, so that a server started later finds its port free.",
    ),
    Sysctl(
        "net.ipv4.tcp_tw_reuse",
        "Integer",
        0,
        2,
        "Netns",
        "1: an outgoing connection may take over a TIME_WAIT port after a second, with timestamps on; "
        "2 (the kernel's default): on loopback only.",
        "Does nothing for inbound TIME_WAIT.",
    ),
    Sysctl(
        "net.ipv4.tcp_tw_reuse_delay",
        "Integer",
        1,
        60000,
        "Netns",
        "Milliseconds a TIME_WAIT must have lasted before tcp_tw_reuse takes its port.",
    ),
    Sysctl(
        "net.ipv4.tcp_max_tw_buckets",
        "Integer",
        4096,
        2000000,
        "Netns",
        "TIME_WAIT sockets kept; beyond it they are destroyed early, without their protection.",
        "Lowering it does not cure TIME_WAIT: it breaks what TIME_WAIT is for.",
    ),
    Sysctl(
        "net.ipv4.tcp_fin_timeout",
        "Integer",
        5,
        120,
        "Netns",
        "Seconds an orphaned FIN_WAIT_2 waits for the peer's FIN.",
        "Does not shorten TIME_WAIT, which the kernel fixes at 60 s.",
    ),
    Sysctl(
        "net.ipv4.tcp_keepalive_time",
        "Integer",
        10,
        86400,
        "Netns",
        "Idle seconds before the first keepalive probe of sockets that asked for SO_KEEPALIVE.",
    ),
    Sysctl("net.ipv4.tcp_keepalive_intvl", "Integer", 1, 3600, "Netns", "Seconds between keepalive probes."),
    Sysctl("net.ipv4.tcp_keepalive_probes", "Integer", 1, 127, "Netns", "Unanswered probes before a reset."),
    Sysctl(
        "net.ipv4.tcp_max_syn_backlog",
        "Integer",
        128,
        1000000,
        "Netns",
        "Half-open connections kept per listener.",
    ),
    Sysctl(
        "net.ipv4.tcp_syncookies",
        "Integer",
        1,
        1,
        "Netns",
        "SYN cookies answer when the backlog of half-open connections is full. They stay on.",
    ),
    Sysctl("net.ipv4.tcp_max_orphans", "Integer", 4096, 4000000, "Node", "Orphaned sockets kept by the node."),
    Sysctl(
        "net.core.somaxconn",
        "Integer",
        128,
        1000000,
        "Netns",
        "Upper limit of every accept queue; listen(backlog) counts only up to it.",
        "Sockets that listen already keep the limit they started with.",
    ),
    Sysctl("net.core.netdev_max_backlog", "Integer", 1000, 1000000, "Node", "Packets queued per CPU on receive."),
    Sysctl(
        "net.netfilter.nf_conntrack_max",
        "Integer",
        16384,
        16777216,
        "Node",
        "Connections tracked by the node.",
    ),
    Sysctl(
        "net.netfilter.nf_conntrack_tcp_timeout_established",
        "Integer",
        600,
        432000,
        "Netns",
        "Seconds an idle established connection stays tracked.",
    ),
    Sysctl(
        "net.netfilter.nf_conntrack_tcp_timeout_time_wait",
        "Integer",
        30,
        240,
        "Netns",
        "Seconds a connection in TIME_WAIT stays tracked.",
        "Does not shorten the TIME_WAIT of sockets.",
    ),
    Sysctl(
        "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
        "Integer",
        30,
        7200,
        "Netns",
        "Seconds a connection in CLOSE_WAIT stays tracked.",
        "Does not end the CLOSE_WAIT of sockets: only the application's close() does.",
    ),
)

MINIMUM_PORT_RANGE: Final = 8192
"""Fewest ports a profile may leave a namespace to connect from."""

KERNEL_PORT_RANGE: Final = (32768, 60999)
"""The kernel's own ip_local_port_range (net/ipv4/af_inet.c, ``inet_init_net``)."""
