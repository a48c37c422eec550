"""The processes that misbehave for `sockethealth demo`, each in a network namespace of its own.

`python -m sockethealth_cli.demo_actor ROLE PARENT`. No namespace gets a name: it is gone with its process, and the
process is gone with the demo, even when that is killed. One line of JSON comes in for each step, one goes out.
"""

import contextlib
import ctypes
import errno
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute  # type: ignore[attr-defined]  # pyroute2 fills its namespace at run time

from sockethealth_cli.demo_scenes import (
    ANSWER,
    API,
    DATABASE,
    HELD_OPEN,
    LEAKED,
    OTHER_DATABASE,
    PORT_RANGE,
    VISITOR_SOURCES,
    VISITS,
    VISITS_PER_SECOND,
    WEB,
    Link,
    links,
)

_CLONE_NEWNET: Final = 0x40000000
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_STEP_TIMEOUT_SECONDS: Final = 10
_PORT_RANGE_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PREFIX_LENGTH: Final = 24

_libc = ctypes.CDLL(None, use_errno=True)


def enter_own_namespace(role: str, parent: int) -> None:
    """Die with the parent, be called after the role, and leave for a fresh network namespace.

    Raises:
        OSError: the kernel refuses a namespace, as CAP_SYS_ADMIN is missing.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the demo that started this process is gone")
    # Ctrl-C reaches the whole foreground group: the demo decides when its actors end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _libc.prctl(_PR_SET_NAME, f"demo-{role}".encode())
    if _libc.unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def join(link: Link) -> dict[str, Any]:
    """Bring up this end of a link that the peers have made."""
    with _route() as route:
        _up(route, "lo")
        _address(route, "eth0", link.address)
        _up(route, "eth0")
    return {}


def churn() -> dict[str, Any]:
    """Open a connection for each request until no local port is left to the database."""
    _PORT_RANGE_FILE.write_text(f"{PORT_RANGE[0]} {PORT_RANGE[1]}\n", encoding="ascii")
    _hold.extend(socket.create_connection(DATABASE, _STEP_TIMEOUT_SECONDS) for _ in range(HELD_OPEN))
    opened = HELD_OPEN
    while _request():
        opened += 1
    _hold.append(socket.create_connection(OTHER_DATABASE, _STEP_TIMEOUT_SECONDS))
    return {"opened": opened}


def _request() -> bool:
    """One request on a connection of its own; False when no local port is left for it."""
    try:
        socket.create_connection(DATABASE, _STEP_TIMEOUT_SECONDS).close()
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return False
    return True


def leak() -> dict[str, Any]:
    """Ask the API many times, and forget to close what it has answered and closed."""
    _hold.extend(socket.create_connection(API, _STEP_TIMEOUT_SECONDS) for _ in range(LEAKED))
    for connection in _hold:
        # The kernel reports readable for the answer; the end of the stream may come a moment later.
        connection.recv(1)
    return {"leaked": len(_hold)}


def serve() -> dict[str, Any]:
    """Listen as the web server that closes first."""
    _serve(WEB, _answer_and_close)
    return {}


def be_peers(pids: Sequence[int]) -> dict[str, Any]:
    """Make the links to the three namespaces, and the servers at their other ends."""
    with _route() as route:
        _up(route, "lo")
        for index, (link, pid) in enumerate(zip(links(), pids, strict=True)):
            device = f"link{index}"
            route.link("add", ifname=device, kind="veth", peer={"ifname": "eth0", "net_ns_pid": pid})
            for address in link.peers:
                _address(route, device, address)
            _up(route, device)
    _serve(DATABASE, _follow)
    _serve(OTHER_DATABASE, _follow)
    _serve(API, _answer_and_close)
    return {}


def visit(number: int = VISITS) -> dict[str, Any]:
    """Visit the web server, each time from the next of several addresses, and wait for it to close."""
    for index in range(number):
        _visit(index)
    return {"visits": number}


def _visit(index: int) -> None:
    source = VISITOR_SOURCES[index % len(VISITOR_SOURCES)]
    with socket.create_connection(WEB, _STEP_TIMEOUT_SECONDS, (source, 0)) as connection:
        while connection.recv(4096):
            pass


_hold: list[socket.socket] = []
_selector = selectors.DefaultSelector()


def _serve(place: tuple[str, int], serve: Callable[[socket.socket], None]) -> None:
    listener = socket.create_server(place, backlog=4096)
    listener.setblocking(False)
    _selector.register(listener, selectors.EVENT_READ, serve)


def _answer_and_close(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    connection.sendall(ANSWER)
    connection.close()


def _follow(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    _selector.register(connection, selectors.EVENT_READ, _close)


def _close(connection: socket.socket) -> None:
    _selector.unregister(connection)
    connection.close()


def _route() -> Any:
    return IPRoute()  # type: ignore[no-untyped-call]  # pyroute2 makes its methods at run time


def _up(route: Any, device: str) -> None:
    route.link("set", index=route.link_lookup(ifname=device)[0], state="up")


def _address(route: Any, device: str, address: str) -> None:
    route.addr("add", index=route.link_lookup(ifname=device)[0], address=address, prefixlen=_PREFIX_LENGTH)


_LINKS: Final = dict(zip(("churn", "leak", "server"), links(), strict=True))
_STEPS: Final[Mapping[str, Callable[..., dict[str, Any]]]] = {
    "join": lambda role: join(_LINKS[role]),
    "churn": churn,
    "leak": leak,
    "serve": serve,
    "peers": be_peers,
    "visit": visit,
}


def _keep_at_it(done: set[str], beat: int) -> None:
    """Go on misbehaving slowly, so that what `top` shows of a demo that is held moves and does not drain."""
    # As a demo ends, the other ends go one by one.
    with contextlib.suppress(OSError):
        if "churn" in done:
            _request()
        elif "visit" in done:
            _visit(beat)


def main() -> None:
    """Do what the demo asks for, serve in between, and end when it closes the pipe."""
    role, parent = sys.argv[1], int(sys.argv[2])
    try:
        enter_own_namespace(role, parent)
    except OSError as error:
        _say({"error": f"the kernel refuses a new network namespace ({error.strerror})"})
        return
    _say({})
    _selector.register(sys.stdin, selectors.EVENT_READ)
    done: set[str] = set()
    pause = 1 / VISITS_PER_SECOND
    due, beat = time.monotonic() + pause, 0
    while True:
        for key, _ in _selector.select(max(0.0, due - time.monotonic())):
            if key.fileobj is not sys.stdin:
                key.data(key.fileobj)
            elif not _step(done):
                return
        if time.monotonic() >= due:
            _keep_at_it(done, beat)
            due, beat = time.monotonic() + pause, beat + 1


def _step(done: set[str]) -> bool:
    line = sys.stdin.readline()
    if not line:
        return False
    request = json.loads(line)
    step = request.pop("step")
    try:
        _say(_STEPS[step](**request))
    except OSError as error:
        _say({"error": f"{step}: {error}"})
    done.add(step)
    return True


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
