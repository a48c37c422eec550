"""A /proc that shows chosen processes of this machine as if they were in pods' cgroups, and no others.

    shown = ShownProc(tmp_path / "proc")
    shown.show(namespace.pid, pod.uid)
    Sampler(proc=shown.root, host_netns=host.path).sweep({pod.uid: pod})

Everything of a process but its cgroup is the kernel's, by symbolic links.
"""

import shutil
import uuid
from pathlib import Path

from agent_builders import pod
from sockethealth_agent.pods import PodInfo

CONTAINER = "ab" * 32
_OF_A_PROCESS = ("stat", "status", "ns", "fd", "fdinfo", "comm", "net")


class ShownProc:
    """`root` is given to the agent; `real` is the /proc behind it."""

    def __init__(self, root: Path, real: Path = Path("/proc")) -> None:
        self.root, self._real = root, real
        root.mkdir()
        for name in ("uptime", "thread-self", "sys"):
            (root / name).symlink_to(f"/proc/{name}")

    def show(self, pid: int, uid: str, container: str = CONTAINER) -> None:
        """Show a process in a container of the pod with this UID; shown already, it moves there."""
        entry = self.root / str(pid)
        if not entry.is_dir():
            entry.mkdir()
            for name in _OF_A_PROCESS:
                (entry / name).symlink_to(self._real / str(pid) / name)
        (entry / "cgroup").write_text(f"0::/kubepods/burstable/pod{uid}/{container}\n")

    def hide(self, pid: int) -> None:
        """Show a process no longer."""
        shutil.rmtree(self.root / str(pid))

    def boot(self, boot_id: str) -> None:
        """Be of another boot: all of /proc/sys that is read but the boot id stays this machine's."""
        sys = self.root / "sys"
        if sys.is_symlink():
            sys.unlink()
            (sys / "kernel/random").mkdir(parents=True)
            (sys / "net").symlink_to("/proc/sys/net")
        (sys / "kernel/random/boot_id").write_text(boot_id + "\n")


def new_pod(name: str, **more: object) -> PodInfo:
    """A pod with a UID of its own, whose container `app` is the one that is shown."""
    return pod(name, uid=str(uuid.uuid4()), containers={CONTAINER: "app"}, **more)
