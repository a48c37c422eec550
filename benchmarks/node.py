"""A node for the sampler: a /proc in which the processes of a benchmark's namespaces are those of pods."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.namespaces import Namespace
from sockethealth_agent import procfs
from sockethealth_agent.pods import PodInfo

CONTAINER: Final = "ab" * 32
_PREFIX: Final = "sockethealth-bench-node-"
_OF_THE_NODE: Final = ("uptime", "thread-self", "self", "sys", "net", "stat", "meminfo")
_OF_A_PROCESS: Final = ("stat", "status", "ns", "fd", "comm", "net")


@dataclass(frozen=True)
class Node:
    """`proc` is the node's /proc: all processes of this machine, of which some are in pods' cgroups."""

    proc: Path
    pods: dict[str, PodInfo]


@contextmanager
def node(namespaces: Sequence[Namespace]) -> Iterator[Node]:
    """Each namespace a pod of one container, in the order given."""
    _sweep()
    label = f"{_PREFIX}{os.getpid()}-{procfs.read_start_time(os.getpid())}-"
    root = Path(tempfile.mkdtemp(prefix=label))
    try:
        for name in _OF_THE_NODE:
            (root / name).symlink_to(f"/proc/{name}")
        pods = {pod.uid: pod for pod in (pod_of(str(uuid.uuid4())) for _ in namespaces)}
        of_pods = {one.pid: uid for one, uid in zip(namespaces, pods, strict=True)}
        for entry in os.listdir("/proc"):  # noqa: PTH208 - names are enough
            if entry.isdecimal() and int(entry) not in of_pods:
                (root / entry).symlink_to(f"/proc/{entry}")
        for pid, uid in of_pods.items():
            process = root / str(pid)
            process.mkdir()
            (process / "cgroup").write_text(f"0::/kubepods/burstable/pod{uid}/{CONTAINER}\n", encoding="ascii")
            for name in _OF_A_PROCESS:
                (process / name).symlink_to(f"/proc/{pid}/{name}")
        yield Node(root, pods)
    finally:
        shutil.rmtree(root)


def pod_of(uid: str) -> PodInfo:
    """What the API server would tell of a pod."""
    return PodInfo(
        namespace="bench",
        name=f"pod-{uid}",
        uid=uid,
        host_network=False,
        phase="Running",
        labels={},
        containers={CONTAINER: "app"},
        ips=(),
    )


def _sweep() -> None:
    """Remove what benchmarks that were killed left."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid, started = left.name.removeprefix(_PREFIX).split("-")[:2]
        try:
            alive = procfs.read_start_time(pid) == int(started)
        except procfs.ProcessGone:
            alive = False
        if not alive:
            shutil.rmtree(left, ignore_errors=True)
