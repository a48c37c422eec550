"""Taking a cluster away again, whatever became of the run that started it. Safe to repeat."""

import shutil

from harness.errors import HarnessError
from harness.hostchanges import mounts_below, undo
from harness.processes import end_all
from harness.progress import say
from harness.state import ClusterDir, all_clusters, clusters_lock, keep_logs, state_root


def _remove(directory: ClusterDir) -> None:
    left = mounts_below(directory.path)
    if left:
        raise HarnessError(
            f"Cannot remove {directory.path}: {left[0]} is still mounted. Unmount it and run: python -m harness down"
        )
    keep_logs(directory)
    shutil.rmtree(directory.path)
    if not any(state_root().iterdir()):
        state_root().rmdir()


def sweep(directory: ClusterDir) -> None:
    """End the cluster's processes, undo what its node changed on this machine, and remove its directory.

    Raises:
        HarnessError: Something could not be taken away; the message names it.
    """
    with clusters_lock():
        _sweep_locked(directory)


def _sweep_locked(directory: ClusterDir) -> None:
    if not directory.path.exists():
        return
    end_all(directory)
    undo(directory)
    _remove(directory)


def sweep_leftovers() -> None:
    """Take away every cluster whose owner is gone. Call it with `clusters_lock` held."""
    for directory in all_clusters():
        if not directory.is_wanted():
            say(f"taking away what a killed run left in {directory.path}")
            _sweep_locked(directory)
