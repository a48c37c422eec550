"""Which pods run on this node, and in which network namespaces, from /proc alone.

The kubelet puts every container of a pod into a cgroup whose path names the pod's UID
(pkg/kubelet/cm/pod_container_manager_linux.go); the namespace is that of any of its processes. No container
runtime is asked.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sockethealth_agent import netns, procfs
from sockethealth_agent.netns import NetnsGone, NetnsId, NetnsRefused

_POD = re.compile(
    r"[/-]pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?"
    r"(?:$|[/:](?P<below>.*))"
)
_CONTAINER = re.compile(r"(?:^|[/:-])(?P<id>[0-9a-f]{64})(?:\.scope)?(?:$|/)")
_SETTLED_AFTER_SECONDS = 30


@dataclass(frozen=True)
class PodRef:
    """A pod's UID as the API has it, and the container's id; None for a process directly in the pod's cgroup."""

    uid: str
    container_id: str | None


@dataclass(frozen=True)
class PodProcesses:
    """A pod's processes on this node.

    pid: one that lives as long as the pod should: the oldest, which is the sandbox's. `netns_path` is its ns/net, and
    `start_time` (clock ticks since boot) tells it from a later process of the same pid.
    containers: container id -> pids.
    """

    uid: str
    netns: NetnsId
    pid: int
    start_time: int
    netns_path: str
    host_network: bool
    containers: Mapping[str, tuple[int, ...]]

    @property
    def pids(self) -> tuple[int, ...]:
        """All pids of the pod's containers, ascending."""
        return tuple(sorted(pid for pids in self.containers.values() for pid in pids))


@dataclass(frozen=True)
class Discovery:
    """One look at the node.

    namespaces: each namespace once, with the UIDs of its pods. refused: UID -> a sentence, for pods none of whose
    processes let its namespace be seen. odd: pid -> a sentence, for processes that were passed over because their files
    look as none that is known.
    """

    pods: Mapping[str, PodProcesses]
    namespaces: Mapping[NetnsId, tuple[str, ...]]
    host_netns: NetnsId | None
    refused: Mapping[str, str]
    odd: Mapping[int, str] = field(default_factory=dict)

    @property
    def host_network(self) -> tuple[PodProcesses, ...]:
        """The pods that share the node's namespace."""
        return tuple(pod for pod in self.pods.values() if pod.host_network)


@dataclass
class _Process:
    start_time: int
    pod: PodRef | None
    settled: bool
    netns: NetnsId | None = None


@dataclass
class KnownProcesses:
    """What earlier looks found out, by pid; a known process costs one read of its stat file."""

    _by_pid: dict[int, _Process] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_pid)


def pod_of_cgroup(text: str) -> PodRef | None:
    """The pod and container that /proc/PID/cgroup names, for cgroup v1, v2 and both; None for any other process.

    Knows the cgroupfs driver (`/kubepods/burstable/pod<uid>/<id>`) and the systemd driver
    (`kubepods-burstable-pod<uid, _ for ->.slice/cri-containerd-<id>.scope`), containerd, CRI-O and cri-dockerd,
    static pods (32 digits), and paths relative to a cgroup namespace. CRI-O's conmon lives in its pod's cgroup but in
    the node's namespaces: it is no process of the pod.
    """
    for line in text.splitlines():
        path = line.partition(":")[2].partition(":")[2]
        match = _POD.search(path)
        if match is None:
            continue
        below = match["below"] or ""
        if "crio-conmon-" in below:
            return None
        container = _CONTAINER.search(below)
        return PodRef(match["uid"].replace("_", "-"), None if container is None else container["id"])
    return None


def discover(
    proc: Path = procfs.PROC, known: KnownProcesses | None = None, host_netns: NetnsId | None = None
) -> Discovery:
    """Map pods to namespaces. Processes that exit meanwhile, or look as none that is known, are passed over.

    Args:
        proc: where the node's /proc is mounted; it must show all pids (hostPID).
        known: kept by the caller from one look to the next.
        host_netns: the node's own, see the hostnetns module; without it no pod is taken for a hostNetwork one.
    """
    known = known if known is not None else KnownProcesses()
    now = _uptime_ticks(proc)
    alive: dict[int, _Process] = {}
    pods: dict[str, list[int]] = {}
    odd: dict[int, str] = {}
    for entry in os.listdir(proc):  # noqa: PTH208 - names are enough, of thousands of entries
        if not entry.isdecimal():
            continue
        try:
            process = _look_at(int(entry), proc, known._by_pid.get(int(entry)), now)  # noqa: SLF001 - its own cache
        except procfs.ProcLayoutError as error:
            odd[int(entry)] = str(error)
            continue
        if process is None:
            continue
        alive[int(entry)] = process
        if process.pod is not None:
            pods.setdefault(process.pod.uid, []).append(int(entry))
    known._by_pid = alive  # noqa: SLF001 - its own cache
    return replace(_grouped(pods, alive, proc, host_netns), odd=odd)


def confirm(processes: PodProcesses, proc: Path = procfs.PROC) -> None:
    """Make sure that a pod's `pid` is still the process that was found.

    To be called once its namespace is open: between discovery and that moment the process may have ended and its pid,
    and even the inode number of its namespace, have gone to another pod (alloc_pid in kernel/pid.c, proc_alloc_inum in
    fs/proc/generic.c).

    Raises:
        NetnsGone: it is another process, or none.
    """
    try:
        start_time = procfs.read_start_time(processes.pid, proc)
    except (procfs.ProcessGone, procfs.ProcLayoutError) as error:
        raise NetnsGone(processes.netns_path, str(error)) from error
    if start_time != processes.start_time:
        raise NetnsGone(
            processes.netns_path, f"The process of {processes.netns_path} ended, and another one has its pid."
        )


def pods_of_cgroup_ids(cgroup_root: Path) -> dict[int, str]:
    """Cgroup v2 id -> pod UID, for every pod's cgroup and all below it; see cgroups_of_pods."""
    return {inode: ref.uid for inode, ref in cgroups_of_pods(cgroup_root).items()}


def containers_of_cgroup_ids(cgroup_root: Path) -> dict[int, str]:
    """Cgroup v2 id -> container id, for every container's cgroup and all below it; see cgroups_of_pods."""
    found = cgroups_of_pods(cgroup_root)
    return {inode: ref.container_id for inode, ref in found.items() if ref.container_id is not None}


def cgroups_of_pods(cgroup_root: Path) -> dict[int, PodRef]:
    """Cgroup v2 id -> pod and container, for every pod's cgroup and all below it.

    The id that inet_diag reports (INET_DIAG_CGROUP_ID) is the inode of the cgroup's directory (kernfs, since Linux
    5.5 on 64 bits). `cgroup_root` is the cgroup2 mount: see cgroup2_root.
    """
    found: dict[int, PodRef] = {}
    pending: list[tuple[str, PodRef | None]] = [(str(cgroup_root), None)]
    while pending:
        directory, above = pending.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    ref = pod_of_cgroup(f"0::/{entry.name}") if above is None else _below(above, entry.name)
                    if ref is not None:
                        found[entry.inode()] = ref
                    pending.append((entry.path, ref))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found


def _below(above: PodRef, name: str) -> PodRef:
    if above.container_id is not None or "crio-conmon-" in name:
        return above
    container = _CONTAINER.search(name)
    return above if container is None else PodRef(above.uid, container["id"])


def cgroup2_root(sys_fs_cgroup: Path = Path("/sys/fs/cgroup")) -> Path | None:
    """Where cgroup v2 is mounted: the root itself, or `unified` beside v1 (hybrid); None without any."""
    for candidate in (sys_fs_cgroup, sys_fs_cgroup / "unified"):
        if (candidate / "cgroup.controllers").exists():
            return candidate
    return None


def _look_at(pid: int, proc: Path, before: _Process | None, now: int) -> _Process | None:
    try:
        start_time = procfs.read_start_time(pid, proc)
        if before is not None and before.start_time == start_time and before.settled:
            return before
        pod = pod_of_cgroup(procfs.read_cgroup(pid, proc))
    except procfs.ProcessGone:
        return None
    # A container's first process joins its cgroup and namespaces while it runs: what a young one shows may change.
    settled = now - start_time > _SETTLED_AFTER_SECONDS * os.sysconf("SC_CLK_TCK")
    return _Process(start_time, pod, settled)


def _grouped(
    pods: Mapping[str, list[int]], alive: Mapping[int, _Process], proc: Path, host_netns: NetnsId | None
) -> Discovery:
    found: dict[str, PodProcesses] = {}
    refused: dict[str, str] = {}
    namespaces: dict[NetnsId, list[str]] = {}
    for uid, pids in sorted(pods.items()):
        # A runtime's shim may sit in the pod's own cgroup: processes of containers go first.
        by_age = sorted(pids, key=lambda pid: (_container_of(alive[pid]) is None, alive[pid].start_time, pid))
        seen, reason = _first_netns(by_age, alive, proc)
        if seen is None:
            if reason is not None:
                refused[uid] = reason
            continue
        pid, identity = seen
        containers: dict[str, list[int]] = {}
        for one in sorted(pids):
            container = _container_of(alive[one])
            if container is not None:
                containers.setdefault(container, []).append(one)
        found[uid] = PodProcesses(
            uid=uid,
            netns=identity,
            pid=pid,
            start_time=alive[pid].start_time,
            netns_path=f"{proc}/{pid}/ns/net",
            host_network=identity == host_netns,
            containers={container: tuple(members) for container, members in containers.items()},
        )
        namespaces.setdefault(identity, []).append(uid)
    return Discovery(found, {one: tuple(uids) for one, uids in namespaces.items()}, host_netns, refused)


def _first_netns(
    pids: list[int], alive: Mapping[int, _Process], proc: Path
) -> tuple[tuple[int, NetnsId] | None, str | None]:
    reason = None
    for pid in pids:
        process = alive[pid]
        try:
            if process.netns is None or not process.settled:
                process.netns = netns.identity(f"{proc}/{pid}/ns/net")
        except NetnsGone:
            continue
        except NetnsRefused as error:
            reason = str(error)
            continue
        return (pid, process.netns), None
    return None, reason


def _container_of(process: _Process) -> str | None:
    return None if process.pod is None else process.pod.container_id


def _uptime_ticks(proc: Path) -> int:
    seconds = float((proc / "uptime").read_text(encoding="ascii").split()[0])
    return int(seconds * os.sysconf("SC_CLK_TCK"))
