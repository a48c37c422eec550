"""Which process holds a socket: by its inode, among the processes of one network namespace.

/proc/PID/fd opens to its owner alone: to read another user's takes CAP_DAC_READ_SEARCH (proc_fd_permission in
fs/proc/fd.c), and CAP_SYS_PTRACE does not replace it. /proc/PID/fdinfo opens to whoever may trace the process and
names the inode, both since Linux 5.14, and so tells of pods that do not run as root. pidfd_getfd(2) would too, but
it takes the right to attach, which Yama can deny to everyone, and it duplicates descriptors: to close such a copy
can block, as of a file on a dead file server, or be what ends the pod's connection.

What no process is found for is known by the socket itself: its cgroup names the container, and when just one process
there has the socket's user, that is it. Asked for only when there is something to explain, as the work grows with
the open files of the pod.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from sockethealth_agent import procfs

_SOCKET = "socket:["
_FDINFO_BYTES = 256
"""The lines looked for come first; those of some files go on for pages."""


@dataclass(frozen=True)
class Owner:
    """Who holds a socket. Where only its container is known pid is 0 and comm empty; container_id None is of none."""

    pid: int
    comm: str
    container_id: str | None


@dataclass(frozen=True)
class Owners:
    """Owners by inode. complete: all asked for were found or all processes were searched without a refusal."""

    by_inode: Mapping[int, Owner]
    complete: bool


class Sought(Protocol):
    """A socket as inet_diag tells of it, say folding.Listener or folding.HeldSocket."""

    @property
    def inode(self) -> int:
        """0 for an orphan."""

    @property
    def uid(self) -> int:
        """The user it was made by."""

    @property
    def cgroup_id(self) -> int | None:
        """The cgroup v2 it was made in; None before Linux 5.9."""


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
        most_files: bound of the work; some 2 microseconds each, 8 where only fdinfo may be read.
    """
    wanted = {inode for inode in inodes if inode}
    found: dict[int, Owner] = {}
    left = most_files
    complete = True
    for pid, container in pids.items():
        if not wanted:
            break
        try:
            held = _held_by(pid, proc)
            owner = Owner(pid, procfs.read_comm(pid, proc), container)
        except (FileNotFoundError, ProcessLookupError, procfs.ProcessGone):
            continue
        except PermissionError:
            complete = False
            continue
        for inode in held:
            if left <= 0:
                return Owners(found, complete=False)
            left -= 1
            if inode in wanted:
                wanted.discard(inode)
                found[inode] = owner
                if not wanted:
                    break
    return Owners(found, complete)


def known_by_cgroup(
    sockets: Iterable[Sought],
    containers: Mapping[int, str],
    pids: Mapping[int, str | None],
    proc: Path = procfs.PROC,
) -> dict[int, Owner]:
    """What cgroup and user of sockets tell of their holders, by inode. A socket in no container's cgroup is left out.

    Args:
        sockets: those that find_owners found nobody for.
        containers: container id by cgroup v2 id, see discovery.containers_of_cgroup_ids.
        pids: processes with their container ids.
        proc: where the node's /proc is mounted.
    """
    found: dict[int, Owner] = {}
    members: dict[str, dict[int, list[int]]] = {}
    for one in sockets:
        container = None if one.cgroup_id is None else containers.get(one.cgroup_id)
        if container is None or not one.inode:
            continue
        if container not in members:
            members[container] = _by_user((pid for pid, of in pids.items() if of == container), proc)
        found[one.inode] = _only(members[container].get(one.uid, []), container, proc)
    return found


def _only(pids: list[int], container: str, proc: Path) -> Owner:
    try:
        (pid,) = pids
        return Owner(pid, procfs.read_comm(pid, proc), container)
    except (ValueError, procfs.ProcessGone):
        return Owner(0, "", container)


def _by_user(pids: Iterable[int], proc: Path) -> dict[int, list[int]]:
    users: dict[int, list[int]] = {}
    for pid in pids:
        try:
            user = procfs.read_user(pid, proc)
        except procfs.ProcessGone:
            continue
        except procfs.ProcLayoutError:
            return {}  # it may have any user, so none has only one process
        users.setdefault(user, []).append(pid)
    return users


def _held_by(pid: int, proc: Path) -> Iterator[int]:
    """The inode of each descriptor in turn that is a socket, and 0 for any other.

    Raises:
        PermissionError: the process may not be traced either.
    """
    directory = f"{proc}/{pid}/fd"
    try:
        numbers = os.listdir(directory)  # noqa: PTH208 - names are enough, of thousands of entries
    except PermissionError:
        directory = f"{proc}/{pid}/fdinfo"
        numbers = os.listdir(directory)  # noqa: PTH208 - as above
        return (_inode_told(f"{directory}/{number}") for number in numbers)
    return (_inode_linked(f"{directory}/{number}") for number in numbers)


def _inode_linked(link: str) -> int:
    try:
        target = os.readlink(link)  # noqa: PTH115 - one of thousands; Path doubles its cost
    except OSError:
        return 0  # closed since it was listed
    return int(target[len(_SOCKET) : -1]) if target.startswith(_SOCKET) else 0


def _inode_told(path: str) -> int:
    try:
        told = _fdinfo(path)
    except OSError:
        return 0  # closed since it was listed
    return int(told.get(b"ino", b"0")) if told.get(b"mnt_id") == _mount_of_sockets() else 0


@lru_cache(maxsize=1)
def _mount_of_sockets() -> bytes | None:
    """The mount that has all sockets, and nothing else: inodes of other file systems have the same numbers."""
    with socket.socket(socket.AF_UNIX) as own:
        return _fdinfo(f"/proc/self/fdinfo/{own.fileno()}").get(b"mnt_id")


def _fdinfo(path: str) -> dict[bytes, bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(descriptor, _FDINFO_BYTES).split(b"\n")
    finally:
        os.close(descriptor)
    return {name: value.strip() for name, _colon, value in (line.partition(b":") for line in lines)}
