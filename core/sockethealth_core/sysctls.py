"""The sysctls a profile may set: type, safe bounds, scope, and what each does and does not do.

The one table behind admission, the writer's own refusal, the advice and the documentation. Nothing that is not in it
is ever written to a node. Sources: Documentation/networking/ip-sysctl.rst, Documentation/admin-guide/sysctl/net.rst
and Documentation/networking/nf_conntrack-sysctl.rst of the kernel; the defaults are what a fresh network namespace of
Linux 6.18 holds, and tests/kernel/test_sysctl_table.py holds the table against the running kernel.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Scope = Literal["Netns", "Node"]
SysctlKind = Literal["Integer", "PortRange", "PortList"]
Target = Literal["Node", "Pods"]

MINIMUM_PORT_RANGE: Final = 8192
"""Fewest ports a profile may leave a namespace to connect from."""

KERNEL_PORT_RANGE: Final = (32768, 60999)
"""The kernel's own ip_local_port_range (net/ipv4/af_inet.c, ``inet_init_net``)."""

NODE_PORTS: Final = (30000, 32767)
"""Ports of Services of type NodePort unless the API server's --service-node-port-range says otherwise."""

PORT_RANGE: Final = "net.ipv4.ip_local_port_range"
RESERVED_PORTS: Final = "net.ipv4.ip_local_reserved_ports"
TCP_TW_RECYCLE: Final = "net.ipv4.tcp_tw_recycle"


@dataclass(frozen=True, slots=True)
class Caution:
    """What to tell a person who sets a sysctl to a value that is allowed and will not help, or not as expected.

    It is due when everything that is given holds.

    Attributes:
        sentence: follows the sysctl's name and a colon.
        equals: the value is this number.
        below: the value is lower than this number.
        outside: the list has a port below the first or above the last of these two.
        target: the profile is for this target.
        unless: a profile that also sets this other sysctl, to this number or, with None, to any value, is spared.
    """

    sentence: str
    equals: int | None = None
    below: int | None = None
    outside: tuple[int, int] | None = None
    target: Target | None = None
    unless: tuple[str, int | None] | None = None


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One allowed sysctl.

    Attributes:
        name: with dots.
        kind: an integer, the first and last port of a range, or a list of ports and ranges.
        low: lowest integer, or port.
        high: highest integer, or port.
        scope: Netns: each network namespace has its own value. Node: one value, which only the node's namespace shows.
        effect: what it does.
        no_effect: what it is wrongly expected to do.
        default: the kernel's value in a fresh namespace; None where it depends on the node's memory.
        since: kernel release that brought it; empty where every supported kernel has it.
        module: kernel module without which it does not exist.
        safe_since: minor of Kubernetes 1.x from which on a pod may set it itself in securityContext.sysctls without the
            node's leave (pkg/kubelet/sysctl/safe_sysctls.go); 0: always; None: never.
        cautions: what to tell those who set it.
    """

    name: str
    kind: SysctlKind
    low: int
    high: int
    scope: Scope
    effect: str
    no_effect: str = ""
    default: str | None = None
    since: str = ""
    module: str = ""
    safe_since: int | None = None
    cautions: tuple[Caution, ...] = ()

    @property
    def requirement(self) -> str:
        """What a value must be, as a sentence without its full stop."""
        if self.kind == "PortRange":
            return (
                f"{self.name} takes the first and the last port, from {self.low} to {self.high}, such as '10240 65000'"
            )
        if self.kind == "PortList":
            return (
                f"{self.name} takes ports and ranges separated by commas, from {self.low} to {self.high} and the lower "
                "one of a range first, such as '8080,30000-32767'"
            )
        if self.low == self.high:
            return f"{self.name} can only be {self.low}"
        return f"{self.name} takes a whole number from {self.low} to {self.high}"

    @property
    def safe_release(self) -> str:
        """Kubernetes release from which on a pod may set it itself, such as 1.29; empty: none."""
        return "" if self.safe_since is None else f"1.{self.safe_since}" if self.safe_since else "every release"


def _conntrack_timeout(state: str, low: int, high: int, default: int, effect: str, *more: Caution) -> Sysctl:
    return Sysctl(
        f"net.netfilter.nf_conntrack_{state}",
        "Integer",
        low,
        high,
        "Netns",
        effect,
        default=str(default),
        module="nf_conntrack",
        no_effect=_ENTRIES_ONLY,
        cautions=(*more, _CONNTRACK_OF_PODS),
    )


_ENTRIES_ONLY: Final = "Ends the tracking entry, not the socket, whose own states last as long as before."
_CONNTRACK_OF_PODS: Final = Caution(
    "a pod's namespace tracks connections only if it has netfilter rules of its own, such as a mesh's; what Services "
    "and masquerading track is in the node's namespace. Use target: Node for that.",
    target="Pods",
)
_KUBE_PROXY: Final = "kube-proxy writes it from its own configuration ({field}) at each start: set it there."

SYSCTLS: Final[tuple[Sysctl, ...]] = (
    Sysctl(
        PORT_RANGE,
        "PortRange",
        1024,
        65535,
        "Netns",
        "Ports connect() picks from: more of them carry a higher rate of connections to one destination.",
        "A range does not help a client that keeps opening faster than range/60 s: pool connections first.",
        default=f"{KERNEL_PORT_RANGE[0]} {KERNEL_PORT_RANGE[1]}",
        safe_since=0,
    ),
    Sysctl(
        RESERVED_PORTS,
        "PortList",
        1,
        65535,
        "Netns",
        "Ports connect() never picks, so that a server started later finds its port free.",
        "A program that binds a reserved port by its number still gets it.",
        default="",
        safe_since=27,
        cautions=(
            Caution(
                "some of these ports are outside of the kernel's range of {outside}, from which connect() never picks "
                "anyway: reserving them matters only where net.ipv4.ip_local_port_range covers them.",
                outside=KERNEL_PORT_RANGE,
                unless=(PORT_RANGE, None),
            ),
        ),
    ),
    Sysctl(
        "net.ipv4.tcp_tw_reuse",
        "Integer",
        0,
        2,
        "Netns",
        "1: an outgoing connection may take over a TIME_WAIT port after tcp_tw_reuse_delay, with timestamps on; "
        "2 (the kernel's default): on loopback only.",
        "Does nothing for inbound TIME_WAIT.",
        default="2",
        cautions=(
            Caution(
                "0 turns reuse off on loopback too, where the kernel has it on: clients of a local proxy run out of "
                "ports sooner.",
                equals=0,
            ),
            Caution(
                "1 helps outgoing connections only, and needs timestamps on both sides: TIME_WAIT of a server that "
                "closes first stays as it is.",
                equals=1,
            ),
            Caution("2 is the kernel's default, and covers loopback only: 1 is for all destinations.", equals=2),
        ),
    ),
    Sysctl(
        "net.ipv4.tcp_tw_reuse_delay",
        "Integer",
        1,
        60000,
        "Netns",
        "Milliseconds a TIME_WAIT must have lasted before tcp_tw_reuse takes its port.",
        "Does not shorten TIME_WAIT itself, and does nothing where tcp_tw_reuse is not in force.",
        default="1000",
        since="6.14",
        cautions=(
            Caution(
                "does something only where net.ipv4.tcp_tw_reuse is in force, which by the kernel's default is "
                "loopback: set net.ipv4.tcp_tw_reuse to 1 beside it.",
                unless=("net.ipv4.tcp_tw_reuse", 1),
            ),
        ),
    ),
    Sysctl(
        "net.ipv4.tcp_max_tw_buckets",
        "Integer",
        4096,
        2000000,
        "Netns",
        "TIME_WAIT sockets kept; beyond it they are destroyed early, without their protection.",
        "Lowering it does not cure TIME_WAIT: it breaks what TIME_WAIT is for.",
        cautions=(
            Caution(
                "the kernel's own value is up to 262144, by the node's memory; a lower one does not cure TIME_WAIT, it "
                "destroys the protection that TIME_WAIT gives new connections. Pool connections instead.",
                below=262144,
            ),
        ),
    ),
    Sysctl(
        "net.ipv4.tcp_fin_timeout",
        "Integer",
        5,
        120,
        "Netns",
        "Seconds an orphaned FIN_WAIT_2 waits for the peer's FIN.",
        "Does not shorten TIME_WAIT, which the kernel fixes at 60 s.",
        default="60",
        safe_since=29,
        cautions=(
            Caution(
                "does not shorten TIME_WAIT, which the kernel fixes at 60 s: it is for orphaned FIN_WAIT_2 only.",
            ),
        ),
    ),
    Sysctl(
        "net.ipv4.tcp_keepalive_time",
        "Integer",
        10,
        86400,
        "Netns",
        "Idle seconds before the first keepalive probe of sockets that asked for SO_KEEPALIVE.",
        "Sockets without SO_KEEPALIVE, and those with a TCP_KEEPIDLE of their own, do not heed it.",
        default="7200",
        safe_since=29,
        cautions=(
            Caution(
                "only sockets on which the program has set SO_KEEPALIVE, and no TCP_KEEPIDLE of its own, heed it.",
            ),
        ),
    ),
    Sysctl(
        "net.ipv4.tcp_keepalive_intvl",
        "Integer",
        1,
        3600,
        "Netns",
        "Seconds between keepalive probes.",
        "Sockets without SO_KEEPALIVE, and those with a TCP_KEEPINTVL of their own, do not heed it.",
        default="75",
        safe_since=29,
    ),
    Sysctl(
        "net.ipv4.tcp_keepalive_probes",
        "Integer",
        1,
        127,
        "Netns",
        "Unanswered keepalive probes before a reset.",
        "Sockets without SO_KEEPALIVE, and those with a TCP_KEEPCNT of their own, do not heed it.",
        default="9",
        safe_since=29,
    ),
    Sysctl(
        "net.ipv4.tcp_max_syn_backlog",
        "Integer",
        128,
        1000000,
        "Netns",
        "Half-open connections a listener takes from peers not known before, where SYN cookies are off.",
        "With SYN cookies on, the limit of half-open connections is the listener's backlog.",
        cautions=(
            Caution(
                "with SYN cookies on, as the kernel has them and profiles leave them, the limit is the listener's "
                "backlog instead: raise listen(backlog) and net.core.somaxconn.",
            ),
        ),
    ),
    Sysctl(
        "net.ipv4.tcp_syncookies",
        "Integer",
        1,
        1,
        "Netns",
        "SYN cookies answer when the backlog of half-open connections is full. They stay on.",
        "Cookies are no cure for a backlog that is too small for the rightful load.",
        default="1",
        safe_since=0,
    ),
    Sysctl(
        "net.ipv4.tcp_max_orphans",
        "Integer",
        4096,
        4000000,
        "Node",
        "Orphaned sockets kept by the node; beyond it they are reset.",
        "Does not end orphans sooner: that is tcp_fin_timeout.",
    ),
    Sysctl(
        "net.core.somaxconn",
        "Integer",
        128,
        1000000,
        "Netns",
        "Upper limit of every accept queue; listen(backlog) counts only up to it.",
        "Sockets that listen already keep the limit they started with.",
        default="4096",
        cautions=(
            Caution(
                "sockets that listen already keep their limit until the program calls listen() anew, mostly by a "
                "restart; and a listen(backlog) below it stays the limit.",
            ),
        ),
    ),
    Sysctl(
        "net.core.netdev_max_backlog",
        "Integer",
        1000,
        1000000,
        "Node",
        "Packets queued per CPU on receive.",
        "Has nothing to do with the backlogs of listeners.",
        default="1000",
    ),
    Sysctl(
        "net.netfilter.nf_conntrack_max",
        "Integer",
        16384,
        16777216,
        "Node",
        "Connections tracked by the node.",
        "Does not enlarge the hash table (nf_conntrack_buckets): far above it look-ups become slow.",
        module="nf_conntrack",
        cautions=(Caution(_KUBE_PROXY.format(field="conntrack.maxPerCore and conntrack.min")),),
    ),
    _conntrack_timeout(
        "tcp_timeout_established",
        600,
        432000,
        432000,
        "Seconds an idle established connection stays tracked.",
        Caution(_KUBE_PROXY.format(field="conntrack.tcpEstablishedTimeout"), target="Node"),
        Caution(
            "below 7200 an idle connection with the kernel's keepalive is forgotten before its first probe, and breaks "
            "where its addresses are translated: shorten net.ipv4.tcp_keepalive_time of its pods first.",
            below=7200,
        ),
    ),
    _conntrack_timeout("tcp_timeout_syn_sent", 10, 240, 120, "Seconds an unanswered SYN stays tracked."),
    _conntrack_timeout("tcp_timeout_syn_recv", 10, 240, 60, "Seconds a half-open connection stays tracked."),
    _conntrack_timeout("tcp_timeout_fin_wait", 10, 240, 120, "Seconds a connection in FIN_WAIT stays tracked."),
    _conntrack_timeout(
        "tcp_timeout_time_wait",
        30,
        240,
        120,
        "Seconds a connection in TIME_WAIT stays tracked.",
        Caution("does not shorten the TIME_WAIT of sockets, and frees no port of a pod."),
    ),
    _conntrack_timeout(
        "tcp_timeout_close_wait",
        30,
        7200,
        60,
        "Seconds a connection in CLOSE_WAIT stays tracked.",
        Caution("does not end the CLOSE_WAIT of sockets: only the application's close() does."),
        Caution(_KUBE_PROXY.format(field="conntrack.tcpCloseWaitTimeout"), target="Node"),
    ),
    _conntrack_timeout("tcp_timeout_last_ack", 10, 240, 30, "Seconds a connection in LAST_ACK stays tracked."),
    _conntrack_timeout("tcp_timeout_close", 5, 240, 10, "Seconds a connection that was reset stays tracked."),
    _conntrack_timeout(
        "tcp_timeout_max_retrans", 30, 3600, 300, "Seconds a connection that keeps retransmitting stays tracked."
    ),
    _conntrack_timeout(
        "tcp_timeout_unacknowledged", 30, 3600, 300, "Seconds a connection with unacknowledged data stays tracked."
    ),
)

_BY_NAME: Final[Mapping[str, Sysctl]] = {sysctl.name: sysctl for sysctl in SYSCTLS}

SAFE: Final[Mapping[str, int]] = {s.name: s.safe_since for s in SYSCTLS if s.safe_since is not None}
"""Sysctls that a pod may set itself, with the minor of Kubernetes 1.x that first let it; 0: always."""

KERNEL_DEFAULTS: Final[Mapping[str, str]] = {s.name: s.default for s in SYSCTLS if s.default is not None} | {
    TCP_TW_RECYCLE: "0",
    "net.ipv4.tcp_timestamps": "1",
}
"""What the kernel gives a fresh namespace, also of two sysctls that are looked at and never set.

somaxconn's was 128 before Linux 5.4, and tcp_tw_recycle is there before 4.12 only.
"""

HASH_SIZE: Final = "net.ipv4.tcp_ehash_entries"
"""Known since Linux 6.1; below zero in a namespace that shares the host's table."""

DEFAULTS_BY_HASH_SIZE: Final[Mapping[str, Callable[[int], int]]] = {
    "net.ipv4.tcp_max_tw_buckets": lambda entries: entries // 2,
    "net.ipv4.tcp_max_syn_backlog": lambda entries: max(128, entries // 128),
}
"""Defaults that follow from the size of TCP's hash table (``tcp_sk_init`` in net/ipv4/tcp_ipv4.c)."""

_BLANK: Final = r"[ \t\n]"
_PORT: Final = "[0-9]{1,5}"
_ENTRY: Final = f"{_PORT}(-{_PORT})?"
PATTERNS: Final[Mapping[SysctlKind, str]] = {
    "Integer": f"{_BLANK}*-?[0-9]{{1,10}}{_BLANK}*",
    "PortRange": f"{_BLANK}*{_PORT}{_BLANK}+{_PORT}{_BLANK}*",
    "PortList": f"{_BLANK}*({_ENTRY}({_BLANK}*,{_BLANK}*{_ENTRY})*)?{_BLANK}*",
}
"""How a value of each kind is written, for Python's ``fullmatch`` and, between ``^`` and ``$``, for CEL's RE2.

ASCII digits only, which `\\d`, `int` and `str.isdigit` are not.
"""


_LONGEST_SHOWN: Final = 80


def find(name: str) -> Sysctl | None:
    """The table's entry with exactly this name, or None."""
    return _BY_NAME.get(name)


def safe_for_pods(minor: int) -> tuple[str, ...]:
    """Sysctls of the table that a pod may set itself in Kubernetes 1.`minor`, without the node's leave."""
    return tuple(name for name, since in SAFE.items() if minor >= since)


def path_of(name: str) -> str:
    """Path of a sysctl of the table below /proc/sys/net, such as ``ipv4/ip_local_port_range``.

    Raises:
        ValueError: with a sentence, when the table has no such name.
    """
    return _known(name).name.removeprefix("net.").replace(".", "/")


def canonical(name: str, value: str) -> str:
    """One spelling of a value: what is equal to the kernel is equal as text, and can be written as it is.

    Without blanks around, without leading zeros (which the kernel reads as octal: 010 becomes 8), with one space
    between the ports of a range, and with sorted and merged ranges in a list, as the kernel prints it.

    Raises:
        ValueError: with a sentence, when the table has no such name, or it is no value of this kind. Bounds that are
            only a profile's are not checked, so that every value that a kernel shows has a spelling.
    """
    sysctl = _known(name)
    if sysctl.kind == "PortRange":
        first, last = parse_port_range(value)
        return f"{first} {last}"
    if sysctl.kind == "PortList":
        return ",".join(f"{low}-{high}" if low != high else f"{low}" for low, high in merged(parse_port_list(value)))
    if not re.fullmatch(PATTERNS["Integer"], value):
        raise ValueError(f"{shown(value)} is not a whole number, which {name} takes")
    return str(int(value))


def parse_port_range(value: str) -> tuple[int, int]:
    """First and last port of a value of ip_local_port_range.

    Raises:
        ValueError: with a sentence, when it is not two ports with the lower one first.
    """
    if re.fullmatch(PATTERNS["PortRange"], value):
        first, last = (int(part) for part in value.split())
        if 1 <= first <= last <= 65535:
            return first, last
    raise ValueError(f"{shown(value)} is not the first and the last port of a range, such as '10240 65000'")


def parse_port_list(text: str) -> tuple[tuple[int, int], ...]:
    """Port ranges of ``ip_local_reserved_ports`` syntax: ``8080,9148-9150``; empty text is no port.

    Raises:
        ValueError: with a sentence, when an item is not a port or a range of ports.
    """
    if not text.strip(" \t\n"):
        return ()
    ranges = []
    for item in (part.strip(" \t\n") for part in text.split(",")):
        if not re.fullmatch(_ENTRY, item):
            raise ValueError(f"{shown(item)} is neither a port nor a range of ports such as 9148-9150")
        first, dash, last = item.partition("-")
        low, high = int(first), int(last if dash else first)
        if not 0 <= low <= high <= 65535:
            raise ValueError(f"{shown(item)} is not a range of ports between 0 and 65535")
        ranges.append((low, high))
    return tuple(ranges)


def merged(ranges: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """The same ports in as few ranges as possible, sorted."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


def shown(text: str) -> str:
    """Any text in quotes, as what a log, a terminal and a status can take: ASCII, on one line, and short."""
    quoted = ascii(text[:_LONGEST_SHOWN])
    if len(text) <= _LONGEST_SHOWN and len(quoted) <= _LONGEST_SHOWN + 2:
        return quoted
    return f"{quoted[:_LONGEST_SHOWN]}..."


def _known(name: str) -> Sysctl:
    sysctl = find(name)
    if sysctl is None:
        raise ValueError(f"{shown(name)} is not a sysctl a profile may set")
    return sysctl
