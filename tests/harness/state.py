"""Where clusters keep their state, who owns them, and which of them are left over.

Each cluster has one directory under `state_root()`. Its `owner.json` names the process on whose behalf it
runs (pid, start time, boot), or nobody for a detached cluster, which runs until it is taken down. All
changes to the set of clusters are made under one machine-wide lock, held for a moment only.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import HarnessError

LOGS_KEPT = 8


def cache_dir() -> Path:
    """What is expensive to make and kept between runs: programs, images, the logs of past clusters."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sockethealth"


def state_root() -> Path:
    """The parent of all cluster directories.

    Root has one place for the whole machine, whatever HOME is, because only one node can run on it.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/sockethealth-test")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "sockethealth-test"


@contextmanager
def clusters_lock() -> Iterator[None]:
    """The lock under which clusters are registered, claim the node, and are swept."""
    folder = Path("/run/lock")
    if not os.access(folder, os.W_OK):
        folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"sockethealth-test-{os.geteuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def boot_id() -> str:
    """The kernel's name for this boot; pids mean nothing beyond it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time_ticks(pid: int) -> int | None:
    """Clock ticks after boot at which `pid` started, field 22 of proc_pid_stat(5); None if it is no more.

    Together with the pid it names one process for ever: pids are reused, pairs are not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


@dataclass(frozen=True)
class Owner:
    """The process a cluster lives for; `pid` 0 is nobody, for a detached cluster."""

    pid: int
    start_time_ticks: int
    boot_id: str

    @classmethod
    def this_process(cls) -> "Owner":
        """The running process."""
        return cls(os.getpid(), start_time_ticks(os.getpid()) or 0, boot_id())

    @classmethod
    def nobody(cls) -> "Owner":
        """The owner of a detached cluster."""
        return cls(0, 0, boot_id())

    def wants_its_cluster(self) -> bool:
        """Whether the owner lives, or, for a detached cluster, the machine has not been rebooted."""
        if self.boot_id != boot_id():
            return False
        return self.pid == 0 or start_time_ticks(self.pid) == self.start_time_ticks


@dataclass(frozen=True)
class ClusterDir:
    """The directory of one cluster and what is where in it."""

    path: Path

    @property
    def name(self) -> str:
        """The cluster's name: `demo`, or `run-PID` for a test run."""
        return self.path.name

    @property
    def logs(self) -> Path:
        """One log file per component."""
        return self.path / "logs"

    @property
    def pki(self) -> Path:
        """Keys, certificates and tokens."""
        return self.path / "pki"

    @property
    def admin_kubeconfig(self) -> Path:
        """The way in, with all rights."""
        return self.path / "admin.kubeconfig"

    @property
    def node_record(self) -> Path:
        """What the node changed on this machine; its existence is the claim on the one node."""
        return self.path / "node.json"

    @property
    def owner(self) -> Owner | None:
        """Who the cluster belongs to; None if its record was never completed."""
        try:
            return Owner(**json.loads((self.path / "owner.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def is_wanted(self) -> bool:
        """Whether somebody still uses this cluster."""
        owner = self.owner
        return owner is not None and owner.wants_its_cluster()

    def log_tail(self, component: str, lines: int = 15) -> str:
        """The last lines of a component's log, under a heading that names the file."""
        file = self.logs / f"{component}.log"
        try:
            text = file.read_text(errors="replace")
        except FileNotFoundError:
            return f"{component} has no log."
        return f"The end of {component}.log:\n" + "\n".join(text.splitlines()[-lines:])


def all_clusters() -> list[ClusterDir]:
    """Every cluster directory, wanted or left over, by name."""
    root = state_root()
    return [ClusterDir(path) for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []


def register(name: str, owner: Owner) -> ClusterDir:
    """Make the directory of a cluster. Call it with `clusters_lock` held.

    Raises:
        HarnessError: A cluster of this name exists.
    """
    directory = ClusterDir(state_root() / name)
    if directory.path.exists():
        raise HarnessError(
            f"A cluster named {name} exists in {directory.path}. Take it down first: python -m harness down {name}"
        )
    directory.logs.mkdir(parents=True)
    directory.path.chmod(0o711)
    (directory.path / "owner.json").write_text(json.dumps(asdict(owner)))
    return directory


def keep_logs(directory: ClusterDir) -> Path:
    """Move a cluster's logs to the cache, where a failed run can be looked into; only the newest stay."""
    kept = cache_dir() / "logs"
    kept.mkdir(parents=True, exist_ok=True)
    target = kept / directory.name
    if directory.logs.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(directory.logs, target)
        shutil.rmtree(directory.logs)
    old = sorted((p for p in kept.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)[:-LOGS_KEPT]
    for path in old:
        shutil.rmtree(path)
    return target
