"""Programs of the product in forks of one process that has their modules loaded.

A start of Python and its imports costs more than most tests do with the program. All else is the program's own: its
entry point, its command line, its environment, its process. That the installed commands start is for other tests.

As a program of its own this module is that process: it reads one JSON request a line, and answers each with a line. A
module to load first is its argument; the children end with it, and it with its input.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from ctypes import CDLL
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


class Forked:
    """A running program, as far as `subprocess.Popen` is needed here.

    Attributes:
        pid: of the process.
    """

    def __init__(self, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Start `module.main` with these arguments; what it prints is added to the log."""
        self._server = _server(module)
        request = {"arguments": list(arguments), "log": str(log), "environment": dict(environment)}
        self.pid = int(_ask(self._server, request))
        self._pidfd = os.pidfd_open(self.pid)
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None and select.select([self._pidfd], [], [], 0)[0]:
            os.close(self._pidfd)
            self._code = int(_ask(self._server, {"wait": self.pid}))
        return self._code

    def wait(self, timeout: float) -> int:
        """Wait for the exit code.

        Raises:
            TimeoutError: it still runs after so many seconds.
        """
        if self._code is None:
            select.select([self._pidfd], [], [], timeout)
        code = self.poll()
        if code is None:
            raise TimeoutError(f"Process {self.pid} still runs after {timeout:g} s.")
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


@functools.cache
def _server(module: str) -> "subprocess.Popen[str]":
    server = subprocess.Popen(
        [sys.executable, "-P", __file__, module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)
    return server


def _ask(server: "subprocess.Popen[str]", request: Mapping[str, Any]) -> str:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return server.stdout.readline()


def _become(module: Any, name: str, request: Mapping[str, Any]) -> None:
    CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, log + 1)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [name, *request["arguments"]]
    # As after an exec: no line of the parent's, and an exit code from however it ends.
    sys.exit(module.main())


def _serve(name: str) -> None:
    module = importlib.import_module(name)
    # A collection in a child would touch, and so copy, everything that was loaded here.
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _become(module, name, request)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
