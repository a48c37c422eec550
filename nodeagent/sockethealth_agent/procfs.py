"""Read the counters that /proc keeps for a network namespace, and the few that are the whole node's.

Parsers are pure and go by header names: a field this kernel lacks is absent from the result, one it adds is carried
along. /proc/PID/net of another user's process needs no capability (fs/proc/proc_net.c checks none).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_READ_BYTES = 64 * 1024
_TCP_COUNTERS = re.compile(rb"^Tcp: [-\d].*$", re.MULTILINE)
_TCP_SOCKETS = re.compile(rb"^TCP: inuse (\d+) orphan \d+ tw (\d+)", re.MULTILINE)
_TCP6_SOCKETS = re.compile(rb"^TCP6: inuse (\d+)", re.MULTILINE)


class ProcessGone(Exception):  # noqa: N818 - says what happened, as FileNotFound does
    """The process exited between its discovery and this read."""


class ProcLayoutError(Exception):
    """A file of /proc does not look as its parser knows it."""


@dataclass(frozen=True)
class SockStat:
    """TCP lines of sockstat and sockstat6; None where the kernel shows no such field.

    inuse, inuse6: sockets of the namespace other than mini-sockets and request sockets, IPv4 and IPv6; time_wait: its
    mini-sockets, both, which are TIME_WAIT and FIN_WAIT_2 without a process (tcp_time_wait() in net/ipv4/
    tcp_minisocks.c): no count of TIME_WAIT. orphans, allocated and memory_pages are the whole node's, whatever the
    namespace.
    """

    inuse: int | None
    inuse6: int | None
    time_wait: int | None
    orphans: int | None
    allocated: int | None
    memory_pages: int | None


@dataclass(frozen=True)
class NetCounters:
    """Counters of one namespace since it was made: `tcp` from snmp's Tcp, `tcp_ext` from netstat's TcpExt."""

    tcp: Mapping[str, int]
    tcp_ext: Mapping[str, int]


@dataclass(frozen=True)
class Movement:
    """What differs whenever a socket of a namespace was made, changed its state by a segment, or ended.

    counters: the values of snmp's Tcp, as text. sockets: of sockstat and sockstat6, what is the namespace's own.
    """

    counters: bytes
    sockets: tuple[bytes, ...]


@dataclass(frozen=True)
class NodeLimits:
    """Limits and levels of the whole node; None where this kernel does not show them (conntrack: not loaded).

    tcp_mem: (low, pressure, high) in pages.
    """

    tcp_mem: tuple[int, int, int] | None
    tcp_max_orphans: int | None
    conntrack_count: int | None
    conntrack_max: int | None


def parse_sockstat(text: str) -> dict[str, dict[str, int]]:
    """`TCP: inuse 1 orphan 0` as {"TCP": {"inuse": 1, "orphan": 0}}; the same for sockstat6.

    Raises:
        ProcLayoutError: a value is no number.
    """
    protocols: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        protocol, colon, rest = line.partition(":")
        if colon:
            words = rest.split()
            protocols[protocol] = _numbers(words[0::2], words[1::2], f"the {protocol} line of sockstat")
    return protocols


def parse_header_pairs(text: str) -> dict[str, dict[str, int]]:
    """The pairs of lines of snmp and netstat, names first and values second, by protocol.

    Raises:
        ProcLayoutError: a names line is not followed by as many values of the same protocol.
    """
    protocols: dict[str, dict[str, int]] = {}
    lines = [line for line in text.splitlines() if line.strip()]
    for names, values in zip(lines[0::2], lines[1::2], strict=False):
        protocol, _, name_words = names.partition(":")
        value_protocol, _, value_words = values.partition(":")
        if protocol != value_protocol or len(name_words.split()) != len(value_words.split()):
            raise ProcLayoutError(f"The {protocol} names are not followed by as many {protocol} values.")
        protocols[protocol] = _numbers(name_words.split(), value_words.split(), f"the {protocol} values")
    return protocols


def parse_start_time(stat: str) -> int:
    """Start time of a process in clock ticks since boot: field 22 of /proc/PID/stat (proc_pid_stat(5)).

    Raises:
        ProcLayoutError: the line is too short.
    """
    fields = stat[stat.rfind(")") + 1 :].split()
    try:
        return int(fields[19])
    except (IndexError, ValueError) as error:
        raise ProcLayoutError(f"/proc/PID/stat has no start time: {stat!r}.") from error


def read_sockstat(pid: int | str, proc: Path = PROC) -> SockStat:
    """Socket totals of the namespace of a process ("self" and "thread-self" too).

    Raises:
        ProcessGone: the process exited.
        ProcLayoutError: see parse_sockstat.
    """
    tcp = parse_sockstat(_read(pid, proc, "net/sockstat")).get("TCP", {})
    try:
        tcp6 = parse_sockstat(_read(pid, proc, "net/sockstat6")).get("TCP6", {})
    except ProcessGone:
        if not (proc / str(pid) / "net/sockstat").exists():
            raise
        tcp6 = {}  # a kernel booted with ipv6.disable=1 has no sockstat6
    return SockStat(
        inuse=tcp.get("inuse"),
        inuse6=tcp6.get("inuse"),
        time_wait=tcp.get("tw"),
        orphans=tcp.get("orphan"),
        allocated=tcp.get("alloc"),
        memory_pages=tcp.get("mem"),
    )


def read_counters(pid: int | str, proc: Path = PROC) -> NetCounters:
    """Counters of the namespace of a process.

    Raises:
        ProcessGone: the process exited.
        ProcLayoutError: see parse_header_pairs.
    """
    return NetCounters(
        tcp=_pairs_of("Tcp", _read(pid, proc, "net/snmp")),
        tcp_ext=_pairs_of("TcpExt", _read(pid, proc, "net/netstat")),
    )


def _pairs_of(protocol: str, text: str) -> Mapping[str, int]:
    """The pairs of one protocol only: its lines are a fraction of the file, and are read for each namespace."""
    own = "\n".join([line for line in text.splitlines() if line.startswith(f"{protocol}:")])
    return parse_header_pairs(own).get(protocol, {})


def read_movement(pid: int | str, proc: Path = PROC) -> Movement:
    """How far the sockets of a process's namespace have moved: three small files, without entering it.

    A file that looks as none that is known is taken as it is, with what it has of the whole node: then it always moves.

    Raises:
        ProcessGone: the process exited.
    """
    counters = _read_bytes(pid, proc, "net/snmp")
    sockets = _read_bytes(pid, proc, "net/sockstat")
    try:
        sockets6 = _read_bytes(pid, proc, "net/sockstat6")
    except ProcessGone:
        sockets6 = b""  # see read_sockstat; a process that is gone fails above or at the next look
    tcp, own, own6 = _TCP_COUNTERS.search(counters), _TCP_SOCKETS.search(sockets), _TCP6_SOCKETS.search(sockets6)
    return Movement(
        counters=counters if tcp is None else tcp[0],
        sockets=(*((sockets,) if own is None else own.groups()), *((sockets6,) if own6 is None else own6.groups())),
    )


def read_start_time(pid: int | str, proc: Path = PROC) -> int:
    """See parse_start_time.

    Raises:
        ProcessGone: the process exited.
    """
    return parse_start_time(_read(pid, proc, "stat"))


def read_cgroup(pid: int | str, proc: Path = PROC) -> str:
    """Text of /proc/PID/cgroup.

    Raises:
        ProcessGone: the process exited.
    """
    return _read(pid, proc, "cgroup")


def read_comm(pid: int | str, proc: Path = PROC) -> str:
    """Name of a process, at most 15 characters.

    Raises:
        ProcessGone: the process exited.
    """
    return _read(pid, proc, "comm").rstrip("\n")


def read_user(pid: int | str, proc: Path = PROC) -> int:
    """Effective user id of a process, as the reader's user namespace numbers it; who that is may be read by all.

    Raises:
        ProcessGone: the process exited.
        ProcLayoutError: there is no Uid line of four numbers.
    """
    return _as_number(_status_field(pid, proc, "Uid", 1), 10, "Uid")


def read_effective_capabilities(pid: int | str, proc: Path = PROC) -> int:
    """The capabilities in force of a process, as the bit mask of capabilities(7).

    Raises:
        ProcessGone: the process exited.
        ProcLayoutError: there is no CapEff line of a hexadecimal number.
    """
    return _as_number(_status_field(pid, proc, "CapEff"), 16, "CapEff")


def read_parent(pid: int | str, proc: Path = PROC) -> int:
    """The pid of a process's parent; 0 for one that has none in this pid namespace.

    Raises:
        ProcessGone: the process exited.
        ProcLayoutError: there is no PPid line of a number.
    """
    return _as_number(_status_field(pid, proc, "PPid"), 10, "PPid")


def read_netns_mark(pid: int | str, proc: Path = PROC) -> int | None:
    """A number that all processes of one network namespace share, and no others; None where even that is refused.

    It is the inode of the namespace's own net/sockstat, given to each file of /proc as it is made (proc_register in
    fs/proc/generic.c). To look at it takes no capability, where ns/net takes the right to trace the process.
    """
    try:
        return os.stat(f"{proc}/{pid}/net/sockstat").st_ino  # noqa: PTH116 - asked of each process
    except OSError:
        return None


def read_node_limits(proc: Path = PROC) -> NodeLimits:
    """Limits of the node. tcp_mem and tcp_max_orphans are global; conntrack's are those of the reader's namespace.

    Raises:
        ProcLayoutError: a file holds anything but numbers.
    """
    mem = _numbers_of(proc / "sys/net/ipv4/tcp_mem")
    orphans = _numbers_of(proc / "sys/net/ipv4/tcp_max_orphans")
    count = _numbers_of(proc / "sys/net/netfilter/nf_conntrack_count")
    maximum = _numbers_of(proc / "sys/net/netfilter/nf_conntrack_max")
    return NodeLimits(
        tcp_mem=(mem[0], mem[1], mem[2]) if mem is not None and len(mem) == 3 else None,
        tcp_max_orphans=orphans[0] if orphans else None,
        conntrack_count=count[0] if count else None,
        conntrack_max=maximum[0] if maximum else None,
    )


def _status_field(pid: int | str, proc: Path, name: str, word: int = 0) -> str:
    for line in _read(pid, proc, "status").splitlines():
        field, colon, value = line.partition(":")
        if colon and field == name:
            words = value.split()
            return words[word] if word < len(words) else ""
    raise ProcLayoutError(f"/proc/{pid}/status has no {name} line.")


def _as_number(word: str, base: int, name: str) -> int:
    try:
        return int(word, base)
    except ValueError as error:
        raise ProcLayoutError(f"The {name} line of /proc/PID/status has {word!r} where a number should be.") from error


def _numbers_of(path: Path) -> tuple[int, ...] | None:
    try:
        text = path.read_bytes()
    except (FileNotFoundError, PermissionError):
        return None
    try:
        return tuple(int(word) for word in text.split())
    except ValueError as error:
        raise ProcLayoutError(f"{path} holds {text[:40]!r} where numbers should be.") from error


def _numbers(names: list[str], values: list[str], where: str) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in zip(names, values, strict=True)}
    except ValueError as error:
        raise ProcLayoutError(f"{where} cannot be read: {error}.") from error


def read_small(path: str, directory: int | None = None) -> bytes:
    """All of a file of /proc; a third of the time that a buffered text file takes, and thousands are read a sweep.

    It must be one that the kernel gives in one piece, as all that are read here (single_open() in fs/seq_file.c): then
    what comes short of the buffer is the end.

    Args:
        path: absolute, or seen from `directory`.
        directory: a descriptor; it spares the kernel the way down to a directory of which several files are read.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        text = more = os.read(descriptor, _READ_BYTES)
        while len(more) == _READ_BYTES:
            more = os.read(descriptor, _READ_BYTES)
            text += more
        return text
    finally:
        os.close(descriptor)


def _read(pid: int | str, proc: Path, name: str) -> str:
    return _read_bytes(pid, proc, name).decode(errors="replace")


def _read_bytes(pid: int | str, proc: Path, name: str) -> bytes:
    try:
        return read_small(f"{proc}/{pid}/{name}")
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError) as error:
        raise ProcessGone(f"Process {pid} exited before its {name} was read.") from error
    except OSError as error:
        # A process that became a zombie has no namespaces any more: EINVAL (fs/proc/proc_net.c).
        raise ProcessGone(f"The {name} of process {pid} cannot be read: {error.strerror}.") from error
