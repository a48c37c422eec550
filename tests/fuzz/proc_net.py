"""Files of /proc that the agent reads: those of a network namespace, and those of a process and the node."""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from sockethealth_agent import procfs
from sockethealth_agent.procfs import ProcessGone, ProcLayoutError

_FILES = (
    "7/net/sockstat", "7/net/sockstat6", "7/net/snmp", "7/net/netstat", "7/stat", "7/status", "7/cgroup", "7/comm",
    "sys/net/ipv4/tcp_mem", "sys/net/ipv4/tcp_max_orphans", "sys/net/netfilter/nf_conntrack_count",
)  # fmt: skip


def run(data: bytes) -> None:
    """Read every file of a /proc whose files all hold `data`.

    May raise nothing: ProcLayoutError is the answer to what is no such file, ProcessGone to one that is not there.
    """
    proc = _scratch()
    (proc / _FILES[0]).write_bytes(data)
    for read in _readers(proc):
        try:
            read()
        except (ProcLayoutError, ProcessGone):
            continue


def _readers(proc: Path) -> tuple[Callable[[], object], ...]:
    return (
        lambda: procfs.read_sockstat(7, proc),
        lambda: procfs.read_counters(7, proc),
        lambda: procfs.read_movement(7, proc),
        lambda: procfs.read_start_time(7, proc),
        lambda: procfs.read_cgroup(7, proc),
        lambda: procfs.read_comm(7, proc),
        lambda: procfs.read_user(7, proc),
        lambda: procfs.read_effective_capabilities(7, proc),
        lambda: procfs.read_parent(7, proc),
        lambda: procfs.read_node_limits(proc),
    )


@cache
def _scratch() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="sockethealth-fuzz-")
    _KEPT.append(folder)
    proc = Path(folder.name)
    for name in _FILES:
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
    (proc / _FILES[0]).touch()
    for name in _FILES[1:]:
        (proc / name).hardlink_to(proc / _FILES[0])
    return proc


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Removed at the interpreter's end."""
