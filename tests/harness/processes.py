"""Starting the cluster's programs and ending them, never by name.

Every program is started with the cluster's directory in its environment. Children inherit it (containerd's
shims do), so the mark finds all of a cluster's processes, also those of a run that was killed between
starting a program and noting its pid. A pidfd taken before the mark is read makes ending them safe from pid
reuse (pidfd_open(2)).
"""

import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.errors import HarnessError
from harness.state import ClusterDir
from harness.waiting import until

MARK = "SOCKETHEALTH_TEST_CLUSTER"
COMPONENT = "SOCKETHEALTH_TEST_COMPONENT"


def spawn(
    directory: ClusterDir, component: str, argv: list[str], env: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a long-running program of the cluster; its output goes to the component's log.

    It gets its own session, so that Ctrl-C on the terminal reaches only the test run, and a small
    environment: proxies meant for downloads must not come between the components.
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(directory.path),
        MARK: str(directory.path),
        COMPONENT: component,
        # Memory for CPU time, of which 2 processors have less.
        "GOGC": "800",
        "GOMEMLIMIT": "700MiB",
        **(env or {}),
    }
    with (directory.logs / f"{component}.log").open("ab") as log:
        started = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory.path,
            env=environment,
            start_new_session=True,
        )
    _keep_priority(started.pid)
    return started


def _keep_priority(session: int) -> None:
    """Give a new session the niceness of this one: the scheduler weighs whole sessions (autogroups, sched(7))."""
    own, other = Path("/proc/self/autogroup"), Path(f"/proc/{session}/autogroup")
    try:
        other.write_text(own.read_text().split()[-1])
    except OSError:
        return  # the kernel is built without, or the program has ended, which whoever waits for it will see


def _environment(pid: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}  # gone, a kernel thread, or another user's: not one of ours in either case
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0"))
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, _, value in pairs}


def marked(directory: ClusterDir) -> dict[int, str]:
    """The pids of the cluster's processes, with the component each belongs to."""
    mark = str(directory.path)
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (environment := _environment(int(entry.name))).get(MARK) == mark:
            found[int(entry.name)] = environment.get(COMPONENT, "?")
    return found


def end_process(pid: int, is_ours: Callable[[int], bool]) -> None:
    """SIGKILL one process if `is_ours(pid)` still holds once the pid is pinned by a pidfd."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_ours(pid):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _end_marked(directory: ClusterDir, wanted: Callable[[str], bool]) -> bool:
    """End the cluster's processes of the wanted components; whether there were none."""
    mark = str(directory.path)
    pids = [pid for pid, component in marked(directory).items() if wanted(component)]
    for pid in pids:
        end_process(pid, lambda each: _environment(each).get(MARK) == mark)
    return not pids


def end_component(directory: ClusterDir, component: str) -> None:
    """End the processes of one component and wait until they are gone."""
    until(
        lambda: _end_marked(directory, lambda name: name == component),
        f"the end of {component}",
        seconds=10,
        poll_seconds=0.02,
    )


def end_all(directory: ClusterDir) -> None:
    """End every process of the cluster and wait until they are gone.

    SIGKILL at once: what they would tidy up in an orderly shutdown is either thrown away with the state
    directory or undone by the sweep.
    """
    until(
        lambda: _end_marked(directory, lambda _: True),
        "the end of all cluster processes",
        seconds=20,
        poll_seconds=0.02,
    )


def wait_for_exit(pid: int) -> None:
    """Block until `pid` has exited; return at once if there is no such process."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.poll()
    finally:
        os.close(pidfd)


def run(argv: list[str], what: str, *, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a short command and return its standard output.

    Raises:
        HarnessError: The command failed or does not exist; the message carries what it said.
    """
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=env, check=False)
    except FileNotFoundError as error:
        raise HarnessError(f"{what} needs {argv[0]}, which is not installed.") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-4000:]
        raise HarnessError(f"{what} failed: {' '.join(argv[:6])} exited with {done.returncode}.\n{said}")
    return done.stdout
