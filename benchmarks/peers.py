"""The programs people would otherwise run: built or found here, and run in a namespace that a benchmark made."""

import fcntl
import http.client
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyroute2.netlink.diag import DiagSocket

from benchmarks.report import Missing
from sockethealth_agent import inet_diag, netns

NODE_EXPORTER_VERSION: Final = "v1.12.1"
_NODE_EXPORTER: Final = "github.com/prometheus/node_exporter"
_PORT: Final = 9100
_START_SECONDS: Final = 20.0
_SS_STATES: Final = {"ESTAB": "established", "TIME-WAIT": "time_wait", "LISTEN": "listen"}


@dataclass(frozen=True)
class NodeExporter:
    """node_exporter with its tcpstat collector alone, in one namespace, and a connection to it that stays open."""

    connection: http.client.HTTPConnection

    def scrape(self) -> bytes:
        """One scrape."""
        self.connection.request("GET", "/metrics")
        return self.connection.getresponse().read()

    def states(self) -> dict[str, int]:
        """Sockets by state as it has them."""
        found = {}
        for line in self.scrape().decode().splitlines():
            if line.startswith("node_tcp_connection_states{"):
                found[line.partition('state="')[2].partition('"')[0]] = int(float(line.rpartition(" ")[2]))
        return found


@contextmanager
def node_exporter(namespace: str) -> Iterator[NodeExporter]:
    """Built at the first call, which takes half a minute.

    Raises:
        Missing: it is not built and Go is not installed, or it does not start.
    """
    program = _built()
    command = [
        str(program), "--collector.disable-defaults", "--collector.tcpstat", "--web.disable-exporter-metrics",
        f"--web.listen-address=127.0.0.1:{_PORT}", "--log.level=error",
    ]  # fmt: skip
    with netns.entered(namespace):
        process = subprocess.Popen([*_dying_with_us(), *command], stderr=subprocess.PIPE)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", _PORT)
        connection.sock = _connected(namespace, process)
        yield NodeExporter(connection)
        connection.close()
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class Ss:
    """ss(8) of iproute2 in one namespace."""

    namespace: str

    def __post_init__(self) -> None:
        """Raises Missing where there is none."""
        if shutil.which("ss") is None:
            raise Missing("ss is not installed. On Debian: apt-get install iproute2")

    def list_all(self, output: int = subprocess.DEVNULL) -> bytes:
        """`ss -tanH`, its start included."""
        with netns.entered(self.namespace):
            done = subprocess.run(["ss", "-tanH"], stdout=output, check=True)
        return done.stdout or b""

    def states(self) -> dict[str, int]:
        """Sockets by state as it has them."""
        lines = self.list_all(subprocess.PIPE).decode().splitlines()
        found = Counter(line.split(None, 1)[0] for line in lines)
        return {_SS_STATES.get(name, name): count for name, count in found.items()}


@contextmanager
def pyroute2_decoder(namespace: str) -> Iterator[Any]:
    """pyroute2's DiagSocket of a namespace; calling what is yielded decodes all sockets and returns how many."""
    with netns.entered(namespace):
        decoder: Any = DiagSocket()  # type: ignore[no-untyped-call] # pyroute2 has no types
    try:
        decoder.bind()
        yield lambda: len(tuple(decoder.get_sock_stats(family=socket.AF_INET, states=inet_diag.MASK_ALL)))
    finally:
        decoder.close()


def _built() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sockethealth" / "bin"
    folder = cache / f"node_exporter-{NODE_EXPORTER_VERSION}"
    program = folder / "node_exporter"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.access(program, os.X_OK):
            return program
        if shutil.which("go") is None:
            raise Missing(
                f"node_exporter is not built yet, and Go is not installed. Install Go (https://go.dev/doc/install), or "
                f"put node_exporter {NODE_EXPORTER_VERSION} at {program}"
            )
        done = subprocess.run(
            ["go", "install", "-trimpath", f"{_NODE_EXPORTER}@{NODE_EXPORTER_VERSION}"],
            env={**os.environ, "GOBIN": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise Missing(f"node_exporter {NODE_EXPORTER_VERSION} could not be built: {done.stderr.strip()}")
    return program


def _dying_with_us() -> tuple[str, ...]:
    if shutil.which("setpriv") is None:
        raise Missing("setpriv is not installed. On Debian: apt-get install util-linux")
    return "setpriv", "--pdeathsig", "KILL"


def _connected(namespace: str, process: subprocess.Popen[bytes]) -> socket.socket:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with netns.entered(namespace):
            sock = socket.socket()
        try:
            sock.connect(("127.0.0.1", _PORT))
        except ConnectionRefusedError:
            sock.close()
            time.sleep(0.05)
        else:
            return sock
    raise Missing(f"node_exporter did not start within {_START_SECONDS:.0f} s (exit code {process.poll()}).")
