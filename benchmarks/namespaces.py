"""Network namespaces full of sockets, made for a benchmark and gone with it. Needs root.

Example:
    with namespace() as one:
        one.time_wait(80_000, destinations=8)
        one.hold(9_000, destinations=4)  # 18,000 ESTABLISHED, as both ends are here
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import inhabitant

HELD_BY_ONE: Final = 8_000
"""Connections that one process holds at most: two descriptors each, and common hard limits begin near 20,000."""
SYSCTLS: Final = {
    # Every connection makes a TIME_WAIT of its own: no port is reused over loopback, none is destroyed early, and
    # the RST that answers a late ACK removes none (RFC 1337).
    "net.ipv4.ip_local_port_range": "10000 64999",
    "net.ipv4.tcp_tw_reuse": "0",
    "net.ipv4.tcp_max_tw_buckets": "1000000",
    "net.ipv4.tcp_rfc1337": "1",
}


class LoadError(Exception):
    """The sockets a benchmark asked for did not come about."""


@dataclass
class Namespace:
    """A namespace and the processes in it, the first of which keeps it."""

    _processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The process that the namespace ends with."""
        return self._processes[0].pid

    @property
    def path(self) -> str:
        """Its ns/net file."""
        return f"/proc/{self.pid}/ns/net"

    def time_wait(self, connections: int, *, destinations: int = 1, inbound: bool = False) -> None:
        """TIME_WAIT sockets over several destinations, outbound or of the listening ports (`inbound`).

        Raises:
            LoadError: they could not be made.
        """
        self._ask(0, "time_wait", connections=connections, destinations=destinations, inbound=inbound)

    def crowd(self, connections: int, *, destinations: int, at_once: int) -> None:
        """Outbound TIME_WAIT sockets, made by several processes at once: more than one makes while they last.

        Raises:
            LoadError: they could not be made.
        """
        while len(self._processes) < at_once:
            self._processes.append(_start(self.path, len(self._processes)))
        share = connections // at_once
        for index in range(at_once):
            self._tell(index, "time_wait", connections=share, destinations=destinations, inbound=False)
        for index in range(at_once):
            self._hear(index, "time_wait")

    def hold(self, connections: int, *, destinations: int = 1) -> None:
        """Connections whose two ends stay here, ESTABLISHED; as many processes as their descriptors take.

        Raises:
            LoadError: they could not be made.
        """
        most = min(HELD_BY_ONE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100) // 2)
        index = 0
        while connections > 0:
            if index == len(self._processes):
                self._processes.append(_start(self.path, index))
            self._ask(index, "hold", connections=min(connections, most), destinations=destinations)
            connections -= most
            index += 1

    def churn(self, per_second: float, *, destinations: int = 1) -> None:
        """Have connections made and closed, so many a second, until the end.

        Raises:
            LoadError: the process is gone.
        """
        self._ask(0, "churn", per_second=per_second, destinations=destinations)

    def close(self) -> None:
        """End its processes, and so the namespace."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()

    def _ask(self, index: int, command: str, **arguments: Any) -> Any:
        self._tell(index, command, **arguments)
        return self._hear(index, command)

    def _tell(self, index: int, command: str, **arguments: Any) -> None:
        process = self._processes[index]
        if process.stdin is None:
            raise LoadError("The process in the namespace has no pipes.")
        process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        process.stdin.flush()

    def _hear(self, index: int, command: str) -> Any:
        process = self._processes[index]
        if process.stdout is None:
            raise LoadError("The process in the namespace has no pipes.")
        line = process.stdout.readline()
        if not line:
            raise LoadError(f"The process in the namespace ended during {command}, with {process.wait()}.")
        answer = json.loads(line)
        if "error" in answer:
            raise LoadError(f"{command} in a namespace: {answer['error']}")
        return answer["result"]


@contextmanager
def namespace() -> Iterator[Namespace]:
    """One namespace with loopback up, until the end of the block.

    Raises:
        LoadError: it could not be made.
    """
    made = Namespace([_start("", 0)])
    try:
        made._ask(0, "sysctls", values=SYSCTLS)  # noqa: SLF001 - its own
        yield made
    finally:
        made.close()


@contextmanager
def namespaces(count: int) -> Iterator[tuple[Namespace, ...]]:
    """So many, unconnected.

    Raises:
        LoadError: one could not be made.
    """
    with ExitStack() as stack:
        yield tuple(stack.enter_context(namespace()) for _ in range(count))


def _start(join: str, group: int) -> subprocess.Popen[str]:
    program = Path(inhabitant.__file__)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(program), str(os.getpid()), join, str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.stdout is None or process.stdout.readline() != "ready\n":
        process.kill()
        process.communicate()
        raise LoadError("A network namespace could not be made: the reason is above.")
    return process
