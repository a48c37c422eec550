"""The long-running programs of one cluster, as children of this process."""

import subprocess
from collections.abc import Callable

from harness.errors import HarnessError
from harness.processes import end_component, spawn
from harness.state import ClusterDir
from harness.waiting import until

_READY_SECONDS = 90  # each takes 1 to 3 on an idle machine with 2 cores; a busy one may take many times that


class Components:
    """Starts the components of a cluster, waits for them, and collects their exit status."""

    def __init__(self, directory: ClusterDir) -> None:
        self._directory = directory
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, component: str, *argv: str) -> None:
        """Start a component; `argv` includes its program."""
        self._children[component] = spawn(self._directory, component, list(argv))

    def wait(self, component: str, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds.

        Raises:
            HarnessError: The component exited or the deadline passed; the message has the end of its log.
        """

        def holds() -> bool:
            code = self._children[component].poll()
            if code is not None:
                raise HarnessError(
                    f"{component} exited with {code} while the harness waited for {what}.\n"
                    + self._directory.log_tail(component)
                )
            return condition()

        until(holds, what, seconds=_READY_SECONDS, explain=lambda: self._directory.log_tail(component))

    def end(self, component: str) -> None:
        """End a component without warning."""
        end_component(self._directory, component)
        self._reap(component)

    def reap(self) -> None:
        """Collect the exit status of everything started here, once it has been ended."""
        for component in list(self._children):
            self._reap(component)

    def _reap(self, component: str) -> None:
        child = self._children.pop(component, None)
        if child is not None:
            child.wait(timeout=10)
