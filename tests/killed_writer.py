"""The sysctl writer in children that kill themselves (SIGKILL) before a chosen call to the disk.

Reads one JSON request a line, a `Request`, and answers each, once its child has ended, with the child's wait status. A
process of its own, because a fork of a test run with all its modules costs many times what the writer's pass does.
"""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL
from pathlib import Path

import msgspec

from agent_builders import pod
from sockethealth_agent import netns
from sockethealth_agent.sysctls.applier import Applier
from sockethealth_agent.sysctls.disk import Disk
from sockethealth_agent.sysctls.journal import NODE, Entry, Journal
from sockethealth_agent.sysctls.namespaces import Look, Namespace
from sockethealth_agent.sysctls.tree import Tree
from sockethealth_core.resources import AssignedProfile
from sysctl_lab import NODE_PORTS

ROOT = Path("/proc/sys/net")


class DeadlyDisk(Disk):
    """Kills its process before the Nth call; with `torn`, half way through the Nth write of the journal."""

    def __init__(self, kill_at=None, *, torn=False):
        self._left, self._torn = kill_at, torn
        self.calls = []
        self._paths = {}

    def _count(self, call, what, data=None, file=None):
        self.calls.append((call, what))
        if self._left is None or (self._torn and not what.endswith(".json.new")) or (self._torn and data is None):
            return
        self._left -= 1
        if self._left == 0:
            if self._torn:
                os.write(file, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    def open(self, path, flags, mode=0o600, folder=None):
        self._count("open", path)
        file = super().open(path, flags, mode, folder)
        self._paths[file] = path
        return file

    def read(self, file, most):
        self._count("read", self._paths[file])
        return super().read(file, most)

    def write(self, file, data):
        self._count("write", self._paths[file], data, file)
        return super().write(file, data)

    def fsync(self, file):
        self._count("fsync", self._paths[file])
        super().fsync(file)

    def rename(self, old, new, folder):
        self._count("rename", new)
        super().rename(old, new, folder)

    def unlink(self, name, folder):
        self._count("unlink", name)
        super().unlink(name, folder)


class Writer(msgspec.Struct, frozen=True):
    """A writer of two real namespaces: one that stands in for the node's own, and one of a pod.

    Attributes:
        node: the path of the first.
        inside: the path of the other.
        uid: the pod's.
        journal: the writer's folder.
    """

    node: str
    inside: str
    uid: str
    journal: str

    def look(self, *, pods: object) -> Look:
        """Both namespaces."""
        del pods
        made = {
            key: Namespace(key, ROOT, lambda path=path: _enter(path), frozenset)
            for key, path in ((NODE, self.node), (self.uid, self.inside))
        }
        return Look(made[NODE], "", {self.uid: made[self.uid]})

    def pass_over(self, profiles: list[AssignedProfile], disk: Disk) -> None:
        """One pass of a writer that has nothing in memory of those before."""
        journal = Journal(Path(self.journal), "boot", disk)
        with journal.locked() as alone:
            assert alone
            journal.open()
            pods = {self.uid: pod("web", uid=self.uid)}
            Applier(self, journal, node_ports=NODE_PORTS, tree=Tree(disk)).apply(profiles, pods)


class Request(msgspec.Struct, frozen=True):
    """A pass, and when its process is to be killed."""

    writer: Writer
    profiles: list[AssignedProfile]
    kill_at: int
    torn: bool


@contextmanager
def _enter(path: str) -> Iterator[str]:
    """netns.entered with an identity as the writer has it."""
    with netns.entered(path) as found:
        yield f"{found.device}:{found.inode}"


def main() -> None:
    """Answer until the input ends."""
    libc = CDLL(None)
    libc.prctl(1, signal.SIGKILL)
    # Once here, what the first one to enter a namespace or to read a journal does, so that no child does it.
    msgspec.json.Decoder(Entry)
    with netns.entered(netns.OWN_NETNS):
        pass
    # A collection in a child would touch, and so copy, everything that was loaded here.
    gc.freeze()
    gc.disable()
    for line in sys.stdin:
        request = msgspec.json.decode(line, type=Request)
        child = os.fork()
        if child == 0:
            libc.prctl(1, signal.SIGKILL)
            signal.alarm(30)
            try:
                request.writer.pass_over(request.profiles, DeadlyDisk(request.kill_at, torn=request.torn))
            except BaseException:  # noqa: BLE001 - nothing of a request may go on in the child
                os._exit(1)
            os._exit(0)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
