"""Enter a network namespace for the length of one read, and name it.

setns(2) moves the calling thread only, so everything here happens on the caller's thread, which is back in its own
namespace before a function returns. A netlink socket stays bound to the namespace it was made in: a diag socket is
opened inside and dumped from outside. Neither a namespace's descriptor nor its diag socket may be kept between
sweeps: each keeps a namespace alive whose pod is gone.
"""

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import netns as pyroute2_netns
from pyroute2.netlink import NETLINK_SOCK_DIAG

from sockethealth_agent import procfs

# /proc/self is the process's first thread, which need not be the one that reads (proc(5)).
OWN_NETNS = "/proc/thread-self/ns/net"

_SO_NETNS_COOKIE = 71
"""Since Linux 5.14 (include/uapi/asm-generic/socket.h)."""

_GONE = {errno.ENOENT, errno.ESRCH, errno.ENXIO, errno.EINVAL}
_REFUSED = {errno.EACCES, errno.EPERM}
_CAPABILITIES = {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21}
"""Numbers of include/uapi/linux/capability.h."""


class NetnsError(Exception):
    """A network namespace that could not be read. `path` is its ns/net or bind-mounted file."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class NetnsGone(NetnsError):  # noqa: N818 - says what happened, as FileNotFound does
    """The last process of the namespace exited, or the file is no namespace any more."""


class NetnsRefused(NetnsError):  # noqa: N818 - says what happened, as FileNotFound does
    """The kernel refused to open or enter the namespace: a capability is missing, or more than that is asked for.

    ptrace_may_access() in kernel/ptrace.c asks for CAP_SYS_PTRACE in the user namespace of the process, and then the
    security modules, which may refuse whatever the capabilities.
    """


class NetnsStuck(RuntimeError):  # noqa: N818 - says what happened, as FileNotFound does
    """The thread could not return to its own namespace. The process must end: its reads would be of another pod."""


@dataclass(frozen=True, order=True)
class NetnsId:
    """What makes two ns/net files the same namespace: device and inode of the nsfs file (namespaces(7))."""

    device: int
    inode: int


def identity(path: str | Path = OWN_NETNS) -> NetnsId:
    """The identity of the namespace behind an ns/net file.

    Raises:
        NetnsGone: the process or the file is gone.
        NetnsRefused: CAP_SYS_PTRACE is missing, or does not help: see NetnsRefused.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - a third of the time, and asked of each namespace in each sweep
    except OSError as error:
        raise _explained(str(path), "opened", "CAP_SYS_PTRACE", error) from error
    return NetnsId(found.st_dev, found.st_ino)


def cookie() -> str:
    """The cookie of the calling thread's namespace, unique since boot where an inode is used again; "" before 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return cookie_of(probe)


def cookie_of(sock: socket.socket) -> str:
    """The cookie of the namespace that a socket was made in; see cookie."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8).hex()
    except OSError:
        return ""


@contextmanager
def entered(path: str | Path, expected: NetnsId | None = None) -> Iterator[NetnsId]:
    """Put the calling thread into a namespace for the length of the `with` block.

    Args:
        path: an ns/net file of a process, or a file that a namespace is mounted on.
        expected: the namespace the caller means; a pid that was reused leads to another one.

    Raises:
        NetnsGone: the file is gone, or leads to another namespace than `expected`.
        NetnsRefused: CAP_SYS_PTRACE (to open) or CAP_SYS_ADMIN (to enter) is missing or does not help.
        NetnsStuck: the way back failed.
    """
    home = os.open(OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _opened(str(path)) as target:
            stat = os.fstat(target)
            found = NetnsId(stat.st_dev, stat.st_ino)
            if expected is not None and found != expected:
                raise NetnsGone(
                    str(path), f"{path} is another network namespace than before: its process was replaced."
                )
            try:
                pyroute2_netns.setns(target)
            except OSError as error:
                raise _explained(str(path), "entered", "CAP_SYS_ADMIN", error) from error
        try:
            yield found
        finally:
            try:
                pyroute2_netns.setns(home)
            except OSError as error:
                raise NetnsStuck(
                    f"The thread entered {path} and cannot return to its own network namespace ({error.strerror}): "
                    "the process has to be restarted."
                ) from error
    finally:
        os.close(home)


def open_diag_socket(path: str | Path | None = None, expected: NetnsId | None = None) -> socket.socket:
    """A NETLINK_SOCK_DIAG socket of a namespace (None: the thread's own). The caller closes it after its dumps.

    Raises:
        NetnsGone: see entered().
        NetnsRefused: see entered().
        NetnsStuck: see entered().
    """
    if path is None:
        return _diag_socket()
    with entered(path, expected):
        return _diag_socket()


def read_sysctls(
    names: Iterable[str], path: str | Path | None = None, expected: NetnsId | None = None, root: str = "/proc/sys"
) -> dict[str, str]:
    """Values of net.* sysctls in force in a namespace (None: the thread's own), by dotted name.

    /proc/sys/net shows the namespace of the thread that looks it up (fs/proc/proc_sysctl.c), so this works with a
    read-only /proc/sys of any container. Words of a value are separated by one space. A sysctl this kernel does
    not have is left out.

    Raises:
        NetnsGone: see entered().
        NetnsRefused: see entered().
        NetnsStuck: see entered().
    """
    if path is None:
        return _sysctls(names, root)
    with entered(path, expected):
        return _sysctls(names, root)


def _sysctls(names: Iterable[str], root: str) -> dict[str, str]:
    values = {}
    with ExitStack() as stack:
        directories: dict[str, int | None] = {}
        for name in names:
            directory, _, leaf = name.rpartition(".")
            if directory not in directories:
                directories[directory] = _directory(f"{root}/{directory.replace('.', '/')}", stack)
            opened = directories[directory]
            if opened is None:
                continue
            try:
                text = procfs.read_small(leaf, opened)
            except (FileNotFoundError, PermissionError):
                continue
            values[name] = " ".join(text.decode("ascii").split())
    return values


def _directory(path: str, stack: ExitStack) -> int | None:
    """A descriptor of a directory, which `stack` closes; it is that of the namespace in which it was opened."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    stack.callback(os.close, descriptor)
    return descriptor


def _diag_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _explained(path, "opened", "CAP_SYS_PTRACE", error) from error
    try:
        yield target
    finally:
        os.close(target)


def _explained(path: str, done: str, capability: str, error: OSError) -> Exception:
    if error.errno in _GONE:
        return NetnsGone(path, f"The network namespace {path} is gone: its last process exited or it was removed.")
    if error.errno in _REFUSED:
        return NetnsRefused(path, f"The network namespace {path} cannot be {done}: {_why(capability, error)}.")
    return NetnsError(path, f"The network namespace {path} cannot be {done}: {error.strerror}.")


def _why(capability: str, error: OSError) -> str:
    try:
        held = procfs.read_effective_capabilities("thread-self")
    except (procfs.ProcessGone, procfs.ProcLayoutError) as unknown:
        return f"{error.strerror}; whether {capability} is missing cannot be told: {unknown}"
    if not held >> _CAPABILITIES[capability] & 1:
        return f"{capability} is missing ({error.strerror})"
    return (
        f"{error.strerror}, though {capability} is there; a security module such as AppArmor, SELinux or BPF forbids "
        "it, or the process is of a user namespace in which this capability does not count"
    )
