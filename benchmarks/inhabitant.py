"""The process that is a benchmark's network namespace: it makes the namespace, and the sockets in it.

The namespace has no name and no mount, so it ends with this process, and this process ends with the one that
started it (PR_SET_PDEATHSIG; end of input): nothing is left behind, however a benchmark ends. A second one can join
the namespace of the first, for one process may hold only so many descriptors.

Reads one JSON command a line from standard input and answers each with one JSON line once the sockets are there. It
imports nothing but the standard library, and no other module of this repository.
"""

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1
FIRST_PORT = 7000
BACKLOG = 4096


class Inhabitant:
    """Commands by name; each returns what is sent back."""

    def __init__(self, group: int) -> None:
        """`group` tells the addresses of this process's destinations from those of others in the namespace."""
        self._group = group
        self._listeners: dict[int, socket.socket] = {}
        self._held: list[socket.socket] = []

    def sysctls(self, values: Mapping[str, str]) -> None:
        """Write net.* sysctls of the namespace, by dotted name."""
        for name, value in values.items():
            Path("/proc/sys", name.replace(".", "/")).write_text(value, encoding="ascii")

    def hold(self, connections: int, destinations: int) -> int:
        """Make connections over loopback and keep both ends: two ESTABLISHED sockets each."""
        for number in range(connections):
            self._held.extend(self._connected(number % destinations))
        return connections

    def time_wait(self, connections: int, destinations: int, inbound: bool) -> int:
        """Make connections and close them, the listener's end first (`inbound`) or last: one TIME_WAIT each."""
        for number in range(connections):
            client, server = self._connected(number % destinations)
            first, last = (server, client) if inbound else (client, server)
            first.close()
            last.close()
        return connections

    def churn(self, per_second: float, destinations: int) -> None:
        """Make a connection and close it, so often, until the process ends."""
        threading.Thread(target=self._churn, args=(per_second, destinations), daemon=True).start()

    def _churn(self, per_second: float, destinations: int) -> None:
        # As many in a row as take a tenth of a second together: to wake up for each would be the benchmark's own load.
        burst = max(1, round(per_second / 10))
        due = time.monotonic()
        while True:
            self.time_wait(burst, destinations, inbound=False)
            due += burst / per_second
            time.sleep(max(0.0, due - time.monotonic()))

    def _connected(self, destination: int) -> tuple[socket.socket, socket.socket]:
        listener = self._listeners.get(destination)
        if listener is None:
            listener = self._listeners[destination] = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((f"127.0.{self._group}.{destination + 1}", FIRST_PORT + destination))
            listener.listen(BACKLOG)
        client = socket.socket()
        client.connect(listener.getsockname())
        server, _address = listener.accept()
        return client, server


def die_with(parent: int) -> None:
    """Have this process killed when its parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")


def settle(join: str) -> None:
    """Move this process into the namespace behind `join`, or into one of its own with loopback up where that is "".

    Raises:
        OSError: CAP_SYS_ADMIN is missing.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if join:
        with open(join, "rb") as there:  # noqa: PTH123 - a descriptor is what setns takes
            done = libc.setns(there.fileno(), CLONE_NEWNET)
    else:
        done = libc.unshare(CLONE_NEWNET)
    if done:
        raise OSError(ctypes.get_errno(), "A network namespace cannot be made or entered; it takes CAP_SYS_ADMIN")
    if not join:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            # struct ifreq: netdevice(7)
            request = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
            (flags,) = struct.unpack("16xH22x", request)
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))


def main() -> None:
    """Arguments: the parent's pid, the ns/net file to join or "", and the number of this process's addresses."""
    die_with(int(sys.argv[1]))
    settle(sys.argv[2])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    inhabitant = Inhabitant(int(sys.argv[3]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"result": getattr(inhabitant, request.pop("do"))(**request)}
        except (OSError, ValueError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
