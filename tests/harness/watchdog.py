"""A small process that outlives the test run: when the run dies, even by SIGKILL, it takes the cluster away.

Run as `python -m harness.watchdog DIRECTORY` by `start`, never by hand.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from harness import state
from harness.errors import HarnessError
from harness.processes import wait_for_exit
from harness.sweep import sweep


def start(directory: state.ClusterDir) -> "subprocess.Popen[bytes]":
    """Start the watchdog of a cluster whose owner is this process."""
    logs = state.cache_dir() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "watchdog.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "harness.watchdog", str(directory.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            start_new_session=True,
        )


def watch(directory: state.ClusterDir) -> None:
    """Wait until the owner of `directory` is gone, then take the cluster away."""
    owner = directory.owner
    while owner is not None and owner.wants_its_cluster():
        wait_for_exit(owner.pid)
    sweep(directory)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    try:
        watch(state.ClusterDir(Path(sys.argv[1])))
    except HarnessError as error:
        sys.exit(str(error))
