"""Network namespaces with real sockets in the states a test asks for. Needs root, iproute2 and nsenter.

    with lab.namespaces(2) as (client, server):
        web = server.listen(port=8080)                  # accepts and holds
        held = client.connect(web, n=10)                # 10 ESTABLISHED on both sides
        held.close(4)                                   # 4 CLOSE_WAIT at the server, 4 orphaned FIN_WAIT_2 here
        api = server.listen(port=9090, serve="follow")
        client.time_wait(api, n=1000)                   # 1000 outbound TIME_WAIT in client
        front = server.listen(port=80, serve="close_first")
        client.visit(front, n=1000)                     # 1000 inbound TIME_WAIT in server

Every call returns when the state is reached in the kernel, or raises LabError. What a listener does with its
connections is its `serve`:

- `hold`: accepts and never closes. A peer that closes leaves a CLOSE_WAIT here.
- `follow`: closes when the peer has closed, so the peer keeps the TIME_WAIT.
- `close_first`: closes at once, so the TIME_WAIT stays here, once the peer closes too.
- `none`: never accepts; the accept queue fills.

Namespaces are named `shlab-<pid>-<start time>-<n>` after their owner and are visible to `ip netns`. Those of an
owner that died are removed when the next lab starts; the processes in them die with their owner.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "shlab-"
RUN_NETNS = Path("/run/netns")
HOLE = "198.18.0."
HOLE6 = "fd77:dead::"
_serial = itertools.count()


class LabError(Exception):
    """Something the lab was asked for did not come about."""


@dataclass(frozen=True)
class Listener:
    """A listening socket in `namespace`; `address` is one that other namespaces can reach."""

    namespace: "Namespace"
    number: int
    address: str
    port: int
    inode: int
    serve: str

    @property
    def target(self) -> tuple[str, int]:
        """(address, port) as connect() takes it."""
        return self.address, self.port

    def counts(self) -> dict[str, int]:
        """Connections `accepted` so far, and `finished` (closed again by the listener's side)."""
        return dict(self.namespace.ask("counts", listener=self.number))

    def held_inodes(self) -> list[int]:
        """Socket inodes of the accepted connections that `serve="hold"` keeps."""
        return list(self.namespace.ask("held", listener=self.number))

    def wait(self, *, accepted: int = 0, finished: int = 0) -> None:
        """Wait until so many connections were accepted and finished."""
        self.namespace.ask("wait_listener", listener=self.number, accepted=accepted, finished=finished)

    def close_held(self, n: int | None = None) -> None:
        """Have n (default: all) closed of the accepted connections; without unread bytes this sends FIN."""
        self.namespace.ask("act_on_held", listener=self.number, action="close", n=n, size=0)

    def send(self, size: int, n: int | None = None) -> None:
        """`size` bytes sent on n (default: all) of the accepted connections."""
        self.namespace.ask("act_on_held", listener=self.number, action="send", n=n, size=size)

    def close(self) -> None:
        """Stop listening; accepted connections stay."""
        self.namespace.ask("unlisten", listener=self.number)


@dataclass(frozen=True)
class Connections:
    """Connecting sockets held in `namespace`."""

    namespace: "Namespace"
    number: int
    inodes: list[int]

    def _act(self, action: str, n: int | None, size: int = 0) -> None:
        self.namespace.ask("act", group=self.number, action=action, n=n, size=size)

    def close(self, n: int | None = None) -> None:
        """Active close of n of them, or all."""
        self._act("close", n)

    def reset(self, n: int | None = None) -> None:
        """Close with RST (SO_LINGER 0): leaves no TIME_WAIT on either side."""
        self._act("reset", n)

    def shutdown(self, n: int | None = None) -> None:
        """Half close (SHUT_WR): FIN_WAIT_2 here with an owner, CLOSE_WAIT at a peer that holds."""
        self._act("shutdown", n)

    def send(self, size: int, n: int | None = None) -> None:
        """Send `size` bytes on each: unread bytes at a peer that holds."""
        self._act("send", n, size)

    def read_to_end(self, n: int | None = None) -> None:
        """Read until the peer has closed: CLOSE_WAIT here."""
        self._act("read_to_end", n)


@dataclass
class Namespace:
    """A network namespace, `lo` up, with one process inside that holds sockets."""

    name: str
    address: str = "127.0.0.1"
    address6: str = "::1"
    _process: subprocess.Popen[str] | None = None
    _has_hole: bool = False

    @property
    def path(self) -> str:
        """The bind mount that setns(2) takes."""
        return str(RUN_NETNS / self.name)

    @property
    def pid(self) -> int:
        """The process inside."""
        return self._child().pid

    def run(self, *command: str) -> str:
        """Run a command inside and return its standard output."""
        return _run("nsenter", f"--net={self.path}", "--", *command)

    def sysctl(self, name: str, value: str) -> None:
        """Set a net.* sysctl of this namespace, named with dots."""
        file = "/proc/sys/" + name.replace(".", "/")
        self.run("sh", "-c", 'printf %s "$1" > "$2"', "sh", value, file)

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have the process inside do a command of lab_child.Child and return its answer."""
        child = self._child()
        if child.stdin is None or child.stdout is None:
            raise LabError(f"the process in {self.name} has no pipes")
        child.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        child.stdin.flush()
        line = child.stdout.readline()
        if not line:
            raise LabError(f"the process in {self.name} died during {command!r} (exit code {child.poll()})")
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(f"{command} in {self.name}: {answer['error']}")
        return answer["result"]

    def listen(
        self,
        port: int = 0,
        *,
        address: str = "0.0.0.0",
        backlog: int = 4096,
        serve: str = "hold",
        v6only: bool | None = None,
        reuse_port: bool = False,
    ) -> Listener:
        """A listening socket; port 0 takes a free one. `address="::"` is dual-stack unless `v6only`."""
        made = self.ask(
            "listen",
            address=address,
            port=port,
            backlog=backlog,
            serve=serve,
            v6only=v6only,
            reuse_port=reuse_port,
        )
        reachable = {"0.0.0.0": self.address, "::": self.address6}.get(address, address)
        return Listener(self, made["listener"], reachable, made["port"], made["inode"], serve)

    def connect(
        self, to: Any, n: int = 1, *, source: str | None = None, source_port: int = 0, timeout: float = 10.0
    ) -> Connections:
        """N ESTABLISHED connections to a Listener, an (address, port) or several in turn.

        With a Listener that accepts, returns when the other side has accepted them too.
        """
        before = to.counts()["accepted"] if isinstance(to, Listener) else 0
        made = self.ask("connect", targets=_targets(to), n=n, source=source, source_port=source_port, timeout=timeout)
        if isinstance(to, Listener) and to.serve != "none":
            to.wait(accepted=before + n)
        return Connections(self, made["group"], made["inodes"])

    def time_wait(self, to: Any, n: int, *, rate: float | None = None, sources: Sequence[str] = ()) -> None:
        """N connections that this side closes first: TIME_WAIT here. `to` must serve "follow".

        `rate` is connections per second; `sources` are local addresses used in turn.
        """
        self.ask("time_wait", targets=_targets(to), n=n, source=list(sources), rate=rate)

    def visit(self, to: Any, n: int, *, rate: float | None = None, sources: Sequence[str] = ()) -> None:
        """N connections that the other side closes first: TIME_WAIT there. `to` must serve "close_first"."""
        self.ask("visit", targets=_targets(to), n=n, source=list(sources), rate=rate)

    def close_wait(self, to: Listener, n: int, *, unread: int = 0) -> Connections:
        """N CLOSE_WAIT here: `to` (serve="hold") closes, this side does not. `unread` bytes wait in each."""
        held = self.connect(to, n)
        if unread:
            to.send(unread)
        to.close_held()
        if not unread:
            held.read_to_end()
        return held

    def syn_sent(self, n: int, *, port: int = 9, ipv6: bool = False) -> Connections:
        """N SYN_SENT, to an address where packets vanish."""
        self.hole()
        target = (f"{HOLE6}99" if ipv6 else f"{HOLE}99", port)
        made = self.ask("begin", targets=[target], n=n, source=None)
        return Connections(self, made["group"], [])

    def syn_recv(self, to: Listener, n: int, *, source: str = f"{HOLE}77") -> None:
        """N SYN_RECV at `to` in this namespace (IPv4 or dual-stack): SYNs of a peer that never answers."""
        self.hole()
        self.ask("syn_recv", source=source, address=f"{HOLE}1", port=to.port, n=n)

    def hole(self) -> None:
        """Make 198.18.0.0/24 and fd77:dead::/64 neighbours that swallow packets: no answer, no error."""
        if self._has_hole:
            return
        self._has_hole = True
        self.ip("link", "add", "hole0", "type", "veth", "peer", "name", "hole1")
        for end in ("hole0", "hole1"):
            self.ip("link", "set", end, "arp", "off", "up")
        self.ip("addr", "add", f"{HOLE}1/24", "dev", "hole0")
        self.ip("addr", "add", f"{HOLE6}1/64", "dev", "hole0", "nodad")

    def any_ip(self, network: str) -> None:
        """Answer on every address of `network` (route type local); others need `route(network, via)`."""
        self.ip("route", "add", "local", network, "dev", "lo")

    def route(self, network: str, via: str) -> None:
        """Reach `network` through the neighbour `via`."""
        self.ip("route", "add", network, "via", via)

    def ip(self, *arguments: str) -> str:
        """Output of an ip command on this namespace."""
        return _run("ip", "-n", self.name, *arguments)

    @contextlib.contextmanager
    def dropping(self, port: int) -> Iterator[None]:
        """Drop incoming TCP segments from or to `port`: FIN_WAIT_1, LAST_ACK and CLOSING stay as they are."""
        rules = [
            (tool, "INPUT", "-p", "tcp", way, str(port), "-j", "DROP")
            for tool in ("iptables", "ip6tables")
            for way in ("--dport", "--sport")
        ]
        for tool, *rule in rules:
            self.run(tool, "-w", "-A", *rule)
        try:
            yield
        finally:
            for tool, *rule in rules:
                self.run(tool, "-w", "-D", *rule)

    def ss_states(self) -> dict[str, int]:
        """Sockets by state as `ss -tan` names them (ESTAB, TIME-WAIT, ...), by another program than ours."""
        lines = self.run("ss", "-tanH").splitlines()
        return dict(Counter(line.split(None, 1)[0] for line in lines))

    def wait_for(self, timeout: float = 10.0, **states: int) -> None:
        """Wait until `ss` counts so many in each state, say TIME_WAIT=100 and ESTAB=0."""
        wanted = {name.replace("_", "-"): count for name, count in states.items()}

        def reached() -> bool:
            seen = self.ss_states()
            return all(seen.get(name, 0) == count for name, count in wanted.items())

        wait_until(reached, timeout, lambda: f"{self.name} has {self.ss_states()}, wanted {wanted}")

    def _child(self) -> subprocess.Popen[str]:
        if self._process is None:
            program = Path(__file__).with_name("lab_child.py")
            self._process = subprocess.Popen(
                ["nsenter", f"--net={self.path}", "--", sys.executable, "-I", "-S", str(program), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            # Until nsenter is through, the pid still shows the namespace it came from.
            if self._process.stdout is None or self._process.stdout.readline() != "ready\n":
                raise LabError(f"the process for {self.name} did not start")
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


@contextlib.contextmanager
def netns(name: str | None = None) -> Iterator[Namespace]:
    """One namespace on its own, with `lo` up. `name` is only the last part of its name."""
    sweep()
    label = f"{PREFIX}{os.getpid()}-{_start_time(os.getpid())}-{name or ''}{next(_serial)}"
    _run("ip", "netns", "add", label)
    made = Namespace(label)
    try:
        made.ip("link", "set", "lo", "up")
        # On two CPUs a late ACK can meet a TIME_WAIT, and the RST that answers it would remove that TIME_WAIT
        # (RFC 1337): counts would be a few short.
        made.sysctl("net.ipv4.tcp_rfc1337", "1")
        yield made
    finally:
        made._stop()
        _run("ip", "netns", "del", label)


@contextlib.contextmanager
def namespaces(n: int) -> Iterator[tuple[Namespace, ...]]:
    """N namespaces on one network: 10.77.0.1/16, .2, ... and fd77::1/64, ::2, ... (`address`, `address6`)."""
    with contextlib.ExitStack() as stack:
        made = tuple(stack.enter_context(netns()) for _ in range(n))
        if n == 2:
            link(made[0], made[1], "eth0", "eth0")
        elif n > 2:
            made[0].ip("link", "add", "name", "eth0", "type", "bridge", "forward_delay", "0")
            made[0].ip("link", "set", "eth0", "up")
            for index, other in enumerate(made[1:], 1):
                link(made[0], other, f"port{index}", "eth0")
                made[0].ip("link", "set", f"port{index}", "master", "eth0")
        for index, one in enumerate(made, 1):
            if n > 1:
                add_address(one, "eth0", f"10.77.0.{index}", 16)
                add_address(one, "eth0", f"fd77::{index:x}", 64)
                one.address, one.address6 = f"10.77.0.{index}", f"fd77::{index:x}"
        yield made


def link(one: Namespace, other: Namespace, one_name: str, other_name: str) -> None:
    """A veth pair between two namespaces, up on both sides, without addresses."""
    one.ip("link", "add", one_name, "type", "veth", "peer", "name", other_name, "netns", other.name)
    one.ip("link", "set", one_name, "up")
    other.ip("link", "set", other_name, "up")


def add_address(where: Namespace, device: str, address: str, prefix: int) -> None:
    """Give a device an address; IPv6 without duplicate address detection, so it is usable at once."""
    nodad = ("nodad",) if ":" in address else ()
    where.ip("addr", "add", f"{address}/{prefix}", "dev", device, *nodad)


def sweep() -> None:
    """Remove the namespaces that labs of dead processes left."""
    if not RUN_NETNS.is_dir():
        return
    for path in RUN_NETNS.glob(f"{PREFIX}*"):
        pid, started = path.name.removeprefix(PREFIX).split("-")[:2]
        if _start_time(int(pid)) != int(started):
            subprocess.run(["ip", "netns", "del", path.name], check=False, capture_output=True)


def wait_until(condition: Callable[[], bool], timeout: float, describe: Callable[[], str]) -> None:
    """Wait for a condition, looking every 20 ms; LabError with `describe()` when it does not come."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not reached within {timeout} s: {describe()}")
        time.sleep(0.02)


def _targets(to: Any) -> list[tuple[str, int]]:
    if isinstance(to, Listener):
        return [to.target]
    if isinstance(to, tuple):
        return [to]
    return [target.target if isinstance(target, Listener) else target for target in to]


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout
