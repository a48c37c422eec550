"""What a node changes on this machine outside of its directory: noted before, undone after.

The note (`node.json`) is also the claim on the machine: only one cluster can have a node at a time.
"""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import network
from harness.errors import HarnessError
from harness.processes import end_process, run
from harness.progress import say
from harness.state import ClusterDir, all_clusters, boot_id, clusters_lock
from harness.waiting import until

# Set by kubelet (protectKernelDefaults=false), kube-proxy, the CNI bridge plugin, and the tests of sysctl profiles.
_SYSCTLS = (
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv4.ip_forward",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv6.conf.all.forwarding",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
)
# Made by containerd, kubelet and libcni at places that no setting of theirs moves.
_PATHS = (
    "/etc/cni",
    "/opt/containerd",
    "/run/containerd",
    "/run/netns",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
_OUR_CHAINS = ("KUBE-", "CNI-")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class HostRecord:
    """This machine before the node: sysctl values, and those of `_PATHS` that did not exist."""

    sysctls: dict[str, str]
    absent_paths: list[str]
    boot_id: str


def _sysctl_file(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")


def _kubepods() -> list[Path]:
    """The cgroups of pods: one per hierarchy with cgroup v1, one with v2."""
    return [path for path in (_CGROUPS / "kubepods", *_CGROUPS.glob("*/kubepods")) if path.is_dir()]


def _folders(root: Path) -> Iterator[Path]:
    """A folder and those below, the deepest first; Path.rglob would fail where one goes meanwhile, as cgroups do."""
    return (Path(folder) for folder, _, _ in os.walk(root, topdown=False))


def _pod_processes() -> set[int]:
    files = (folder / "cgroup.procs" for root in _kubepods() for folder in _folders(root))
    return {int(pid) for file in files for pid in _lines_of(file)}


def _lines_of(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except (FileNotFoundError, OSError):
        return []  # the cgroup went meanwhile, or is a threaded one, which has no processes


def _iptables_tools() -> Iterable[str]:
    return (tool for tool in ("iptables", "ip6tables") if shutil.which(f"{tool}-save"))


def rules_without_ours(saved: str) -> str:
    """The `iptables-restore --noflush` input that removes kube-proxy's and CNI's chains, and nothing else.

    Args:
        saved: The output of iptables-save(8).
    """
    script: list[str] = []
    deletions: list[str] = []
    chains: list[str] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            deletions, chains = [], []
            table = line
        elif line.startswith(":"):
            name = line[1:].split()[0]
            if name.startswith(_OUR_CHAINS):
                chains.append(name)
        elif line.startswith("-A "):
            words = line.split()
            jumps = any(
                flag in {"-j", "-g"} and target.startswith(_OUR_CHAINS) for flag, target in itertools.pairwise(words)
            )
            if jumps and not words[1].startswith(_OUR_CHAINS):
                deletions.append("-D" + line[2:])
        elif line == "COMMIT" and (chains or deletions):
            script += [table, *deletions, *(f"-F {c}" for c in chains), *(f"-X {c}" for c in chains), line]
    return "".join(f"{line}\n" for line in script)


def _refuse_if_foreign() -> None:
    """Raise if somebody else's node runs here, because undoing ours could not tell the two apart."""
    if _pod_processes():
        raise HarnessError(
            f"A kubelet that is not the harness's runs pods on this machine (cgroup {_kubepods()[0]}). The test node"
            " would disturb it; use another machine."
        )
    for tool in _iptables_tools():
        if rules_without_ours(run([f"{tool}-save"], "Reading the packet filter")):
            raise HarnessError(
                f"{tool} has KUBE- or CNI- chains that are not the harness's. The test node would mix with them;"
                " use another machine, or remove them."
            )
    if Path(f"/sys/class/net/{network.BRIDGE}").exists():
        raise HarnessError(
            f"A network interface {network.BRIDGE} exists already. Remove it: ip link del {network.BRIDGE}"
        )


def _holder(directory: ClusterDir) -> ClusterDir | None:
    return next(
        (c for c in all_clusters() if c.path != directory.path and c.node_record.exists() and c.is_wanted()), None
    )


def claim(directory: ClusterDir, wait_seconds: float) -> None:
    """Take this machine's one node for a cluster, noting what the node is going to change.

    Another test run is waited for; a detached cluster (`make demo`) is not, as nobody knows its end.

    Raises:
        HarnessError: The node is taken, or this machine runs somebody else's.
    """
    waiting = False

    def claimed() -> bool:
        nonlocal waiting
        with clusters_lock():
            holder = _holder(directory)
            if holder is None:
                _refuse_if_foreign()
                _write_record(directory)
                return True
        owner = holder.owner
        if owner is None or owner.pid == 0:
            raise HarnessError(
                f"The cluster {holder.name!r} has the node of this machine, and there can be only one."
                " Take it down first: make demo-down"
            )
        if not waiting:
            say(f"waiting for {holder.name} (pid {owner.pid}), which has the node of this machine")
            waiting = True
        return False

    until(claimed, "the node of this machine, which another test run has", seconds=wait_seconds, poll_seconds=0.5)


def _write_record(directory: ClusterDir) -> None:
    record = HostRecord(
        sysctls={name: _sysctl_file(name).read_text() for name in _SYSCTLS if _sysctl_file(name).exists()},
        absent_paths=[path for path in _PATHS if not Path(path).exists()],
        boot_id=boot_id(),
    )
    scratch = directory.node_record.with_suffix(".new")
    scratch.write_text(json.dumps(asdict(record), indent=1))
    scratch.rename(directory.node_record)


def prepare() -> None:
    """Give this machine the API server's address, and let it forward between pods. `undo` takes both back."""
    run(["ip", "addr", "replace", f"{network.API_ADDRESS}/32", "dev", "lo"], "Adding the API server's address")
    _sysctl_file("net.ipv4.ip_forward").write_text("1")


def undo(directory: ClusterDir) -> None:
    """Undo what the cluster's node changed. Its own processes must have been ended before; safe to repeat.

    Raises:
        HarnessError: A pod's process does not end, or a command failed.
    """
    if not directory.node_record.exists():
        return
    record = HostRecord(**json.loads(directory.node_record.read_text()))
    if record.boot_id == boot_id():
        _end_pods()
        _remove_shim_sockets(directory)
        _unmount_below(directory.path)
        _remove_network()
        for name, value in record.sysctls.items():
            file = _sysctl_file(name)
            if file.read_text() != value:
                file.write_text(value)
    for path in map(Path, record.absent_paths):
        _unmount_below(path)
        if path.exists():
            shutil.rmtree(path)
    directory.node_record.unlink()


def _end_pods() -> None:
    def in_a_pod(pid: int) -> bool:
        return "/kubepods/" in "\n".join(_lines_of(Path(f"/proc/{pid}/cgroup")))

    def gone() -> bool:
        pids = _pod_processes()
        for pid in pids:
            end_process(pid, in_a_pod)
        return not pids

    until(gone, "the end of all pods", seconds=20)

    def removed() -> bool:
        for root in _kubepods():
            for folder in _folders(root):
                _remove_cgroup(folder)
        return not _kubepods()

    until(removed, "the removal of the pods' cgroups", seconds=20)


def _remove_cgroup(folder: Path) -> None:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError:
        return  # still busy with exiting processes; the caller asks again until a deadline


def _remove_shim_sockets(directory: ClusterDir) -> None:
    """Remove the sockets of containerd's shims, which are in /run/containerd whatever its configuration."""
    for file in directory.path.glob("containerd/state/io.containerd.runtime.v2.task/*/*/address"):
        Path(file.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)


def _unmount_below(path: Path) -> None:
    for point in mounts_below(path):
        run(["umount", "-l", point], f"Unmounting {point}")


def mounts_below(path: Path) -> list[str]:
    """Mount points below `path`, deepest first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in lines]
    return sorted((point for point in points if point.startswith(f"{path}/")), key=len, reverse=True)


def _remove_network() -> None:
    for tool in _iptables_tools():
        script = rules_without_ours(run([f"{tool}-save"], "Reading the packet filter"))
        if script:
            run([f"{tool}-restore", "--noflush"], "Removing the node's packet filter chains", stdin=script)
    if Path(f"/sys/class/net/{network.BRIDGE}").exists():
        run(["ip", "link", "del", network.BRIDGE], "Removing the pods' bridge")
    addresses = subprocess.run(
        ["ip", "-o", "addr", "show", "dev", "lo"], capture_output=True, text=True, check=True
    ).stdout
    if f" {network.API_ADDRESS}/32 " in addresses:
        run(["ip", "addr", "del", f"{network.API_ADDRESS}/32", "dev", "lo"], "Removing the API server's address")
