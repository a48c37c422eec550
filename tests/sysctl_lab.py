"""The real sysctl writer over folders instead of network namespaces: many simulated nodes in one process.

    node = SimulatedNode(folder, boot_id="one")       # <folder>/tree/<key>/ipv4/... and <folder>/journal
    node.add(NODE)                                    # the node's own namespace, with the kernel's defaults
    node.add(pod_uid, {"net.core.somaxconn": "511"})  # one of a pod
    with node.writer(api, "node-1") as writer:        # api: a KubeApi with any credentials
        writer.step()                                 # read what is wanted, apply it, report; no threads
    assert node.value(NODE, "net.ipv4.tcp_fin_timeout") == "30"

`node.failing` names sysctls whose writes the simulated kernel refuses, `node.listening` gives ports by key.
"""

import errno
import os
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sockethealth_agent.sysctls.applier import Applier
from sockethealth_agent.sysctls.disk import Disk
from sockethealth_agent.sysctls.journal import NODE, Journal
from sockethealth_agent.sysctls.namespaces import Look, Namespace
from sockethealth_agent.sysctls.tree import Tree
from sockethealth_agent.sysctls.writer import SysctlWriter
from sockethealth_core.resources import AssignedProfile, SysctlValue
from sockethealth_core.resources import SysctlWriter as WriterIdentity
from sockethealth_core.sysctls import SYSCTLS, path_of

NODE_PORTS = (30000, 32767)
UID = "0a0a0a0a-1111-4222-8333-444444444444"
OTHER_UID = "0b0b0b0b-1111-4222-8333-444444444444"


class PlainDisk(Disk):
    """Files as the kernel's sysctls behave: a write replaces the value, and may be refused."""

    def __init__(self, failing=()):
        self.failing = failing
        self._paths = {}

    def open(self, path, flags, mode=0o600, folder=None):
        file = super().open(path, flags, mode, folder)
        self._paths[file] = path
        return file

    def write(self, file, data):
        if self._paths[file] in {name.rpartition(".")[2] for name in self.failing}:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        os.ftruncate(file, 0)
        return super().write(file, data)


class SimulatedNode:
    """A node of folders, each of which stands for the sysctls of one network namespace."""

    def __init__(self, folder: Path, boot_id: str = "boot-1", node_ports: tuple[int, int] | None = NODE_PORTS):
        self.trees, self.journal_folder = folder / "tree", folder / "journal"
        self.boot_id, self.node_ports = boot_id, node_ports
        self.failing: set[str] = set()
        self.listening: dict[str, set[int]] = {}
        self.written: list[tuple[str, str]] = []
        self.trees.mkdir(parents=True, exist_ok=True)

    def add(self, key: str, values: dict[str, str] | None = None) -> None:
        """A namespace with the kernel's defaults, and other values where given; "" removes nothing: it is a value."""
        for sysctl in SYSCTLS:
            self.set(key, sysctl.name, (values or {}).get(sysctl.name, sysctl.default or "4096"))

    def remove(self, key: str, name: str | None = None) -> None:
        """A namespace that goes, or one sysctl that this kernel does not have."""
        if name is None:
            shutil.rmtree(self.trees / key)
        else:
            (self.trees / key / path_of(name)).unlink()

    def set(self, key: str, name: str, value: str) -> None:
        """Someone else's write."""
        file = self.trees / key / path_of(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value + "\n")

    def value(self, key: str, name: str) -> str:
        """What is in force."""
        return (self.trees / key / path_of(name)).read_text().strip()

    def everything(self) -> dict[str, str]:
        """All values of all namespaces."""
        return {str(file.relative_to(self.trees)): file.read_text().strip() for file in self.trees.rglob("*/*/*")}

    def look(self, *, pods: bool) -> Look:
        """See sockethealth_agent.sysctls.namespaces.Namespaces."""
        found = {folder.name: self._namespace(folder) for folder in self.trees.iterdir()}
        node = found.pop(NODE, None)
        return Look(node, "" if node else "The simulated node has no namespace.", found if pods else {})

    def _namespace(self, folder: Path) -> Namespace:
        identity = str(folder.stat().st_ino)
        return Namespace(
            folder.name, folder, lambda: nullcontext(identity), lambda: self.listening.get(folder.name, set())
        )

    @contextmanager
    def applier(self):
        """What a writer is started with; its journal is read anew, as after a restart."""
        journal = Journal(self.journal_folder, self.boot_id)
        with journal.locked() as alone:
            assert alone, f"another writer uses {self.journal_folder}"
            journal.open()
            yield Applier(self, journal, node_ports=self.node_ports, tree=Tree(PlainDisk(self.failing)))

    @contextmanager
    def writer(self, api, node_name: str):
        """The writer of a node that lists what is wanted in each step, and reports."""
        with self.applier() as applier:
            yield SysctlWriter(api, node_name, applier, identity=WriterIdentity(version="test", boot_id=self.boot_id))


def assigned(profile="tuned", target="Node", mode="Enforce", revision="1", *, values, **more) -> AssignedProfile:
    """A profile as the operator assigns it."""
    return AssignedProfile(
        profile=profile,
        revision=revision,
        mode=mode,
        target=target,
        sysctls=[SysctlValue(name=name, value=value) for name, value in values.items()],
        **more,
    )
