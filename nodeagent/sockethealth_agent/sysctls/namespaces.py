"""The network namespaces of the node in which sysctls may be written, and how to enter each."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from sockethealth_agent import discovery, hostnetns, netns, procfs
from sockethealth_agent.discovery import Discovery, KnownProcesses
from sockethealth_agent.folding import Reader
from sockethealth_agent.netns import NetnsError, NetnsId
from sockethealth_agent.reading import new_reader, no_doubt
from sockethealth_agent.sysctls.journal import NODE

SYSCTL_ROOT: Final = Path("/proc/sys/net")
_NO_NODE: Final = "The node's own network namespace is not to be found among its processes, so nothing is written"


@dataclass(frozen=True)
class Namespace:
    """A network namespace to read and write sysctls in.

    Attributes:
        key: its key in the journal.
        root: where its sysctls are, while the thread is in it.
        enter: puts the thread into it for the length of a `with` block, and gives what makes it this namespace and no
            other since boot; raises netns.NetnsError.
        listening: the ports that listen in it, while the thread is in it; raises inet_diag.DumpFailed.
    """

    key: str
    root: Path
    enter: Callable[[], AbstractContextManager[str]]
    listening: Callable[[], Collection[int]]


@dataclass(frozen=True)
class Look:
    """The namespaces of one moment.

    Attributes:
        node: the node's own; None where it cannot be had.
        node_trouble: why not, as a sentence.
        pods: by UID, those of pods that have one of their own.
        refused: by UID, why it cannot be told which namespace a pod has.
    """

    node: Namespace | None
    node_trouble: str = ""
    pods: Mapping[str, Namespace] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class Namespaces(Protocol):
    """Where the namespaces come from: the kernel's, or for tests plain folders."""

    def look(self, *, pods: bool) -> Look:
        """The namespaces as they are; without `pods` only the node's, which is cheap."""


class KernelNamespaces:
    """Those of this node's processes (hostPID)."""

    def __init__(
        self, proc: Path = procfs.PROC, sysctl_root: Path = SYSCTL_ROOT, host_netns: str | None = None
    ) -> None:
        """Looks at nothing yet.

        Args:
            proc: the node's /proc.
            sysctl_root: a writable /proc/sys/net.
            host_netns: an ns/net file of the node's own namespace; None to find it.
        """
        self._proc = proc
        self._root = sysctl_root
        self._given = host_netns
        self._found: tuple[str, NetnsId] | None = None
        self._processes = KnownProcesses()
        self._reader = new_reader()

    def look(self, *, pods: bool) -> Look:
        """See Namespaces."""
        try:
            host = self._host()
        except NetnsError as error:
            host, trouble = None, str(error)
        else:
            trouble = "" if host else f"{_NO_NODE}."
        node = None if host is None else self._namespace(NODE, *host)
        if not pods:
            return Look(node, trouble)
        seen = discovery.discover(self._proc, self._processes, None if host is None else host[1])
        if host is None:
            # A process that has just been started for a pod can still be in the node's namespace.
            return Look(None, trouble, {}, dict.fromkeys(seen.pods, trouble))
        return Look(node, trouble, self._of_pods(seen), seen.refused)

    def _of_pods(self, seen: Discovery) -> dict[str, Namespace]:
        return {
            uid: self._namespace(
                uid, processes.netns_path, processes.netns, partial(discovery.confirm, processes, self._proc)
            )
            for uid, processes in seen.pods.items()
            if not processes.host_network
        }

    def _namespace(self, key: str, path: str, identity: NetnsId, confirm: Callable[[], None] = no_doubt) -> Namespace:
        return Namespace(key, self._root, lambda: _inside(path, identity, confirm), lambda: _listening(self._reader))

    def _host(self) -> tuple[str, NetnsId] | None:
        if self._given is not None:
            return self._given, netns.identity(self._given)
        if self._found is not None and _is(*self._found):
            return self._found
        path = hostnetns.find(self._proc)
        self._found = None if path is None else (path, netns.identity(path))
        return self._found


def _is(path: str, identity: NetnsId) -> bool:
    try:
        return netns.identity(path) == identity
    except NetnsError:
        return False


@contextmanager
def _inside(path: str, expected: NetnsId, confirm: Callable[[], None]) -> Iterator[str]:
    with netns.entered(path, expected) as found:
        confirm()
        yield f"{found.device}:{found.inode}:{netns.cookie()}"


def _listening(reader: Reader) -> frozenset[int]:
    with netns.open_diag_socket() as sock:
        listeners, _ended = reader.listeners(sock)
    return frozenset(one.port for one in listeners)
