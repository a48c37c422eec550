"""Names for the network namespaces of a machine without a cluster. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sockethealth_agent.netns import NetnsId

HOST: Final = "host"
_NAME_LENGTH: Final = 63
_POD_UID_DIGITS: Final = 8
_RANDOM_NAME: Final = re.compile(r"(cni-)?[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Process:
    """A process: who it is, how old, and of which pod.

    Attributes:
        pid: its number.
        comm: what it calls itself (/proc/PID/comm); any bytes are possible.
        started_ticks: when it started, in clock ticks after boot.
        pod_uid: UID of its pod; empty outside of pods.
        container_id: of its container in the pod; None outside of one.
    """

    pid: int
    comm: str
    started_ticks: int
    pod_uid: str = ""
    container_id: str | None = None

    def age_order(self) -> tuple[int, int]:
        """Sorts the oldest first; of those that started in the same tick, the lowest pid."""
        return self.started_ticks, self.pid


@dataclass(frozen=True, slots=True)
class FoundNetns:
    """A network namespace of this machine.

    Attributes:
        id: device and inode of its nsfs file.
        path: a file that leads into it; None for the scanner's own.
        names: what `ip netns` calls it, in order; mostly none or one.
        processes: those in it.
        host: it is the machine's own.
    """

    id: NetnsId
    path: str | None
    names: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()
    host: bool = False

    @property
    def pod_uid(self) -> str:
        """UID of the pod whose namespace it is; empty if it is none, or the host's, which pods only borrow."""
        if self.host:
            return ""
        return next((process.pod_uid for process in self.processes if process.pod_uid), "")


@dataclass(frozen=True, slots=True)
class NamedNetns:
    """A network namespace with its names.

    Attributes:
        name: for ``metadata.name``: a DNS label, unique in the scan.
        called: for messages: its `ip netns` name as it is, which may hold anything, or else ``name``.
        netns: the namespace.
    """

    name: str
    called: str
    netns: FoundNetns


def dns_name(text: str) -> str:
    """The text as a DNS-1123 label, which every ``metadata.name`` may be: ``Blue_Net`` becomes ``blue-net``."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return label[:_NAME_LENGTH].rstrip("-") or "netns"


def natural_name(found: FoundNetns) -> str:
    """What people would call it: its `ip netns` name, host, its pod, or its oldest process.

    A container runtime names a pod's namespace at random, such as `cni-<uuid>` (containerd, pkg/netns/netns_linux.go):
    the pod itself says more.
    """
    if found.names and not (found.pod_uid and _RANDOM_NAME.fullmatch(found.names[0])):
        return found.names[0]
    if found.host:
        return HOST
    if found.pod_uid:
        return f"pod-{found.pod_uid[:_POD_UID_DIGITS]}"
    if found.processes:
        oldest = min(found.processes, key=Process.age_order)
        return f"{dns_name(oldest.comm)}-{oldest.pid}"
    return f"netns-{found.id.inode}"


def name_all(found: Iterable[FoundNetns]) -> list[NamedNetns]:
    """Each with a name of its own, in an order that does not change between scans."""
    ordered = sorted(found, key=lambda one: (not one.host, natural_name(one), one.id))
    return with_unique_names([(natural_name(one), one) for one in ordered])


def with_unique_names(wanted: Sequence[tuple[str, FoundNetns]]) -> list[NamedNetns]:
    """DNS-like names that are as asked for where they can be, else numbered: ``blue-net``, ``blue-net-2``."""
    exact = {text for text, _ in wanted if dns_name(text) == text}
    taken: set[str] = set()
    named = []
    for text, found in wanted:
        name = base = dns_name(text)
        number = 1
        while name in taken or (name in exact and name != text):
            number += 1
            suffix = f"-{number}"
            name = base[: _NAME_LENGTH - len(suffix)].rstrip("-") + suffix
        taken.add(name)
        named.append(NamedNetns(name, text if text in found.names else name, found))
    return named
