"""The process that lives inside one of the lab's namespaces and holds its sockets.

It reads one JSON command a line from standard input and answers each with one JSON line once the state that
was asked for is reached. It imports nothing but the standard library, so it starts in some 30 ms, and it dies
with the process that started it (PR_SET_PDEATHSIG; end of input).
"""

import contextlib
import ctypes
import itertools
import json
import os
import random
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1
BATCH = 256
STEP_TIMEOUT_SECONDS = 20.0


class Served:
    """A listening socket, what it does with connections, and those it holds."""

    def __init__(self, sock: socket.socket, serve: str) -> None:
        self.sock = sock
        self.serve = serve
        self.accepted = 0
        self.finished = 0
        self.held: list[socket.socket] = []


class Servers:
    """The thread that accepts and answers, so that commands may block."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.changed = threading.Condition()
        self.served: dict[int, Served] = {}
        self._wake, waker = socket.socketpair()
        self._waker = waker
        self._wake.setblocking(False)
        self.selector.register(self._wake, selectors.EVENT_READ, self._woken)
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, sock: socket.socket, serve: str) -> int:
        number = sock.fileno()
        with self.changed:
            self.served[number] = entry = Served(sock, serve)
        if serve != "none":
            sock.setblocking(False)
            self.selector.register(sock, selectors.EVENT_READ, lambda: self._accept(entry))
            self._waker.send(b"x")
        return number

    def remove(self, number: int) -> None:
        with self.changed:
            entry = self.served.pop(number)
            if entry.serve != "none":
                self.selector.unregister(entry.sock)
            entry.sock.close()

    def wait(self, number: int, *, accepted: int = 0, finished: int = 0) -> dict[str, int]:
        entry = self.served[number]
        with self.changed:
            reached = self.changed.wait_for(
                lambda: entry.accepted >= accepted and entry.finished >= finished, STEP_TIMEOUT_SECONDS
            )
        if not reached:
            raise TimeoutError(
                f"listener has accepted {entry.accepted} (wanted {accepted}) and finished {entry.finished} "
                f"(wanted {finished}) connections after {STEP_TIMEOUT_SECONDS} s"
            )
        return {"accepted": entry.accepted, "finished": entry.finished}

    def _run(self) -> None:
        while True:
            for key, _events in self.selector.select():
                key.data()

    def _woken(self) -> None:
        self._wake.recv(4096)

    def _accept(self, entry: Served) -> None:
        with self.changed:
            for _ in range(BATCH):
                try:
                    peer, _address = entry.sock.accept()
                except (BlockingIOError, OSError):
                    break
                entry.accepted += 1
                if entry.serve == "close_first":
                    peer.close()
                    entry.finished += 1
                elif entry.serve == "follow":
                    peer.setblocking(False)
                    self.selector.register(peer, selectors.EVENT_READ, self._follower(entry, peer))
                else:
                    entry.held.append(peer)
            self.changed.notify_all()

    def _follower(self, entry: Served, peer: socket.socket) -> Callable[[], None]:
        def follow() -> None:
            try:
                data = peer.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.selector.unregister(peer)
                peer.close()
                with self.changed:
                    entry.finished += 1
                    self.changed.notify_all()

        return follow


class Child:
    """Commands by name; each returns what is sent back."""

    def __init__(self) -> None:
        self.servers = Servers()
        self.groups: dict[int, list[socket.socket]] = {}
        self.next_group = 1
        self.visits = itertools.count()

    def listen(
        self, address: str, port: int, backlog: int, serve: str, v6only: bool | None, reuse_port: bool
    ) -> dict[str, Any]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if v6only is not None:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
        sock.bind((address, port))
        sock.listen(backlog)
        inode = os.fstat(sock.fileno()).st_ino
        return {"listener": self.servers.add(sock, serve), "port": sock.getsockname()[1], "inode": inode}

    def unlisten(self, listener: int) -> None:
        self.servers.remove(listener)

    def wait_listener(self, listener: int, accepted: int, finished: int) -> dict[str, int]:
        return self.servers.wait(listener, accepted=accepted, finished=finished)

    def counts(self, listener: int) -> dict[str, int]:
        return self.servers.wait(listener)

    def held(self, listener: int) -> list[int]:
        return [os.fstat(sock.fileno()).st_ino for sock in self.servers.served[listener].held]

    def act_on_held(self, listener: int, action: str, n: int | None, size: int) -> int:
        return self._act(self.servers.served[listener].held, action, n, size)

    def connect(
        self, targets: list[tuple[str, int]], n: int, source: str | None, source_port: int, timeout: float
    ) -> dict[str, Any]:
        made = []
        for index in range(n):
            sock = self._socket(targets[index % len(targets)][0], source, source_port)
            sock.settimeout(timeout)
            made.append(sock)
            sock.connect(tuple(targets[index % len(targets)]))
        number, self.next_group = self.next_group, self.next_group + 1
        self.groups[number] = made
        return {"group": number, "inodes": [os.fstat(sock.fileno()).st_ino for sock in made[:4096]]}

    def begin(self, targets: list[tuple[str, int]], n: int, source: str | None) -> dict[str, Any]:
        made = []
        for index in range(n):
            sock = self._socket(targets[index % len(targets)][0], source, 0)
            sock.setblocking(False)
            sock.connect_ex(tuple(targets[index % len(targets)]))
            made.append(sock)
        number, self.next_group = self.next_group, self.next_group + 1
        self.groups[number] = made
        return {"group": number, "inodes": []}

    def act(self, group: int, action: str, n: int | None, size: int) -> int:
        return self._act(self.groups[group], action, n, size)

    def time_wait(self, targets: list[tuple[str, int]], n: int, source: list[str], rate: float | None) -> None:
        self._churn(targets, n, source, rate, close_first=True)

    def visit(self, targets: list[tuple[str, int]], n: int, source: list[str], rate: float | None) -> None:
        self._churn(targets, n, source, rate, close_first=False)

    def syn_recv(self, source: str, address: str, port: int, n: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for number in range(n):
                raw.sendto(_syn(source, address, 1024 + number, port), (address, 0))

    def _churn(
        self,
        targets: list[tuple[str, int]],
        n: int,
        sources: list[str],
        rate: float | None,
        *,
        close_first: bool,
    ) -> None:
        began = time.monotonic()
        done = 0
        while done < n:
            batch = min(BATCH, n - done) if rate is None else 1
            if rate is not None and (wait := began + done / rate - time.monotonic()) > 0:
                time.sleep(wait)
            made = []
            for index in range(done, done + batch):
                target = targets[index % len(targets)]
                source = sources[index % len(sources)] if sources else None
                # A side that keeps no TIME_WAIT may draw the same ephemeral port again, which recycles the
                # server's: ports below the ephemeral range in turn keep the count exact.
                source_port = 0 if close_first else 1024 + next(self.visits) % (32768 - 1024)
                sock = self._socket(target[0], source, source_port)
                sock.settimeout(STEP_TIMEOUT_SECONDS)
                sock.connect(tuple(target))
                made.append(sock)
                if close_first:
                    sock.shutdown(socket.SHUT_WR)
            for sock in made:
                if sock.recv(1):
                    raise ConnectionError("the server sent data; the lab's servers never do")
                sock.close()
            done += batch

    @staticmethod
    def _socket(address: str, source: str | None, source_port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        if source is not None or source_port:
            any_address = "::" if ":" in address else "0.0.0.0"
            if source_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
            sock.bind((source or any_address, source_port))
        return sock

    @staticmethod
    def _act(sockets: list[socket.socket], action: str, n: int | None, size: int) -> int:
        chosen = sockets if n is None else sockets[:n]
        for sock in chosen:
            if action == "send":
                sock.sendall(b"x" * size)
            elif action == "shutdown":
                sock.shutdown(socket.SHUT_WR)
            elif action == "read_to_end":
                sock.settimeout(STEP_TIMEOUT_SECONDS)
                while sock.recv(65536):
                    pass
            elif action == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            else:
                sock.close()
        count = len(chosen)
        if action in ("close", "reset"):
            del sockets[:count]
        return count


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _syn(source: str, destination: str, source_port: int, port: int) -> bytes:
    """A TCP SYN in an IPv4 packet (RFC 9293 3.1); the kernel fills the IP checksum (raw(7))."""
    from_to = socket.inet_aton(source) + socket.inet_aton(destination)
    sequence = random.getrandbits(32)
    tcp = struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, 0x02, 64240, 0, 0)
    pseudo = from_to + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", _checksum(pseudo + tcp)) + tcp[18:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0)
    return header + from_to + tcp


def main() -> None:
    parent = int(sys.argv[1])
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")
    child = Child()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"result": getattr(child, request.pop("do"))(**request)}
        except Exception as error:  # noqa: BLE001 - every failure is told to the test that asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
