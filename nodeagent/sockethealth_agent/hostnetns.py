"""Find the node's own network namespace from within a pod that shows the node's processes (hostPID).

Process 1 is in it, and may be protected from being traced: then setns(2) needs another process that is in it too.
Which ones are shows the mark that files of /proc carry (procfs.read_netns_mark), of process 1 as well; without a mark
nothing but the own ancestors outside of every pod is taken: a wrong namespace would be worse than none.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from sockethealth_agent import netns, procfs
from sockethealth_agent.discovery import pod_of_cgroup
from sockethealth_agent.netns import NetnsError
from sockethealth_agent.procfs import ProcessGone, ProcLayoutError


def find(proc: Path = procfs.PROC, own_pid: int | None = None) -> str | None:
    """The ns/net file of a process that is in the node's own network namespace and lets it be looked at.

    That of process 1; else of the eldest such ancestor, which outlives the caller: a container's is the runtime's
    shim; else of any process.

    Args:
        proc: the node's /proc.
        own_pid: whose ancestors; None for the caller's.
    """
    mark = procfs.read_netns_mark(1, proc)
    ancestors = _ancestors(os.getpid() if own_pid is None else own_pid, proc)
    if mark is None:
        candidates = [1, *(pid for pid in ancestors if _is_of_no_pod(pid, proc))]
    else:
        candidates = [1, *ancestors, *_all(proc)]
    for pid in candidates:
        path = f"{proc}/{pid}/ns/net"
        if procfs.read_netns_mark(pid, proc) == mark and _is_readable(path):
            return path
    return None


def _ancestors(pid: int, proc: Path) -> list[int]:
    """The eldest first, without process 1."""
    found: list[int] = []
    while True:
        try:
            pid = procfs.read_parent(pid, proc)
        except (ProcessGone, ProcLayoutError):
            break
        if pid <= 1:
            break
        found.append(pid)
    return found[::-1]


def _all(proc: Path) -> Iterator[int]:
    names = os.listdir(proc)  # noqa: PTH208 - names are enough, of thousands of entries
    yield from sorted(int(name) for name in names if name.isdecimal())


def _is_of_no_pod(pid: int, proc: Path) -> bool:
    try:
        return pod_of_cgroup(procfs.read_cgroup(pid, proc)) is None
    except ProcessGone:
        return False


def _is_readable(path: str) -> bool:
    try:
        netns.identity(path)
    except NetnsError:
        return False
    return True
