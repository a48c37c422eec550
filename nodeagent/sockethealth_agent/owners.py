"""Which process holds a socket: by its inode, among the processes of one network namespace.

Needs CAP_SYS_PTRACE for other users' processes (proc_pid_fd(5)). Asked for only when there is something to
explain, as the work grows with the open files of the pod.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sockethealth_agent import procfs

_SOCKET = "socket:["


@dataclass(frozen=True)
class Owner:
    """The first process found that holds a socket. container_id is None for a process of no container."""

    pid: int
    comm: str
    container_id: str | None


@dataclass(frozen=True)
class Owners:
    """Owners by inode. complete: all asked for were found or all processes were searched without a refusal."""

    by_inode: Mapping[int, Owner]
    complete: bool


def find_owners(
    inodes: Iterable[int],
    pids: Mapping[int, str | None],
    proc: Path = procfs.PROC,
    most_files: int = 100_000,
) -> Owners:
    """Find the holders of sockets. Stops when all are found or `most_files` descriptors were looked at.

    Args:
        inodes: socket inodes (idiag_inode); 0, an orphan's, has no owner and is passed over.
        pids: the processes to search, with their container ids.
        proc: where the node's /proc is mounted.
        most_files: bound of the work; some 2 microseconds each.
    """
    wanted = {inode for inode in inodes if inode}
    found: dict[int, Owner] = {}
    looked = 0
    complete = True
    for pid, container in pids.items():
        if not wanted:
            break
        directory = f"{proc}/{pid}/fd"
        try:
            numbers = os.listdir(directory)  # noqa: PTH208 - names are enough, of thousands of entries
            owner = Owner(pid, procfs.read_comm(pid, proc), container)
        except (FileNotFoundError, ProcessLookupError, procfs.ProcessGone):
            continue
        except PermissionError:
            complete = False
            continue
        for number in numbers:
            if looked >= most_files:
                return Owners(found, complete=False)
            looked += 1
            inode = _socket_inode(f"{directory}/{number}")
            if inode in wanted:
                wanted.discard(inode)
                found[inode] = owner
                if not wanted:
                    break
    return Owners(found, complete)


def _socket_inode(link: str) -> int:
    try:
        target = os.readlink(link)  # noqa: PTH115 - one of thousands; Path doubles its cost
    except OSError:
        return 0  # closed since it was listed
    return int(target[len(_SOCKET) : -1]) if target.startswith(_SOCKET) else 0
