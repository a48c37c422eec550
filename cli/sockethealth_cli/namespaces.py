"""The network namespaces of this machine: those of its processes and those that `ip netns` keeps."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sockethealth_agent import procfs
from sockethealth_agent.discovery import pod_of_cgroup
from sockethealth_agent.netns import NetnsGone, NetnsId, NetnsRefused, identity
from sockethealth_cli.naming import FoundNetns, Process

PROC: Final = Path("/proc")
RUN_NETNS: Final = Path("/run/netns")
"""Where ip-netns(8) mounts the namespaces it names."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is. ``hidden``: further namespaces that are known to be there and cannot be told apart or opened."""

    found: tuple[FoundNetns, ...]
    hidden: int


@dataclass(slots=True)
class _Gathering:
    names: list[str] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)


def ip_netns_names(folder: Path = RUN_NETNS) -> list[str]:
    """Names that `ip netns` knows, in order."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return []


def chosen(found: Iterable[FoundNetns], name: str) -> FoundNetns | None:
    """The namespace that `ip netns` calls by a name, called so whatever further names it has."""
    return next((replace(one, names=(name,)) for one in found if name in one.names), None)


def survey(proc: Path = PROC, folder: Path = RUN_NETNS) -> Survey:
    """Every network namespace that has a process or a name, one each however many processes share it."""
    own = identity()
    gathered: dict[NetnsId, _Gathering] = {own: _Gathering()}
    refused: list[int] = []
    for pid in _pids(proc):
        try:
            found = identity(_way_in(proc, pid))
        except NetnsRefused:
            refused.append(pid)
            continue
        except NetnsGone:
            continue
        process = _process(proc, pid)
        if process is not None:
            gathered.setdefault(found, _Gathering()).processes.append(process)
    for name in ip_netns_names(folder):
        try:
            found = identity(folder / name)
        except (NetnsGone, NetnsRefused):
            continue
        gathered.setdefault(found, _Gathering()).names.append(name)
    host = _host(proc, own)
    return Survey(
        tuple(
            FoundNetns(
                id=found,
                path=None if found == own else _path(gathering, proc, folder),
                names=tuple(gathering.names),
                processes=tuple(gathering.processes),
                host=found == host,
            )
            for found, gathering in gathered.items()
        ),
        hidden=_hidden(proc, refused, gathered),
    )


def _way_in(proc: Path, pid: int) -> Path:
    return proc / str(pid) / "ns" / "net"


def _path(gathering: _Gathering, proc: Path, folder: Path) -> str:
    # A name stays when a process has gone, and an old process is likelier to stay than a young one.
    if gathering.names:
        return str(folder / gathering.names[0])
    oldest = min(gathering.processes, key=Process.age_order)
    return str(_way_in(proc, oldest.pid))


def _hidden(proc: Path, refused: list[int], gathered: dict[NetnsId, _Gathering]) -> int:
    known = {_fingerprint(proc, gathering.processes[0].pid) for gathering in gathered.values() if gathering.processes}
    return len({_fingerprint(proc, pid) for pid in refused} - known - {None})


def _fingerprint(proc: Path, pid: int) -> int | None:
    """A number that processes of one network namespace share, and that needs no privilege to read.

    Each namespace has /proc/PID/net files of its own, with inode numbers of their own (fs/proc/proc_net.c,
    fs/proc/generic.c proc_alloc_inum), and they may be looked at where ns/net may not.
    """
    try:
        return (proc / str(pid) / "net" / "sockstat").stat().st_ino
    except OSError:
        return None


def _host(proc: Path, own: NetnsId) -> NetnsId | None:
    try:
        return identity(_way_in(proc, 1))
    except (NetnsGone, NetnsRefused):
        # Process 1 may be out of reach even for root; the scanner's own namespace is the host's unless files that
        # anyone may look at say otherwise.
        first = _fingerprint(proc, 1)
        return own if first is None or first == _fingerprint(proc, os.getpid()) else None


def _pids(proc: Path) -> Iterator[int]:
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            yield int(entry.name)


def _process(proc: Path, pid: int) -> Process | None:
    try:
        pod = pod_of_cgroup(procfs.read_cgroup(pid, proc))
        return Process(
            pid=pid,
            comm=procfs.read_comm(pid, proc),
            started_ticks=procfs.read_start_time(pid, proc),
            pod_uid="" if pod is None else pod.uid,
            container_id=None if pod is None else pod.container_id,
        )
    except procfs.ProcessGone:
        return None
