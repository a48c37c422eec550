"""A connection pool with the usual bug: when the server closes a connection, nobody here calls close().

Each stays in CLOSE_WAIT for as long as this process holds it. SIGUSR1 closes them all, as the repaired program would.
"""

# ruff: noqa: INP001, T201 - a script, not a package

import argparse
import signal
import socket
import time


def leak(host: str, port: int, count: int, per_second: float) -> list[socket.socket]:
    """Open connections, ask once on each, and keep them."""
    held: list[socket.socket] = []
    while len(held) < count:
        try:
            connection = socket.create_connection((host, port), timeout=10)
        except OSError:
            time.sleep(0.2)  # the server is not up yet
            continue
        connection.sendall(b"what have you?\n")
        connection.recv(100)
        held.append(connection)
        time.sleep(1 / per_second)
    return held


def main() -> None:
    """Leak, then wait to be told to close."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rate", type=float, default=100, metavar="PER_SECOND")
    options = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    held = leak(options.host, options.port, options.count, options.rate)
    print(f"holding {len(held)} connections", flush=True)
    signal.sigwait({signal.SIGUSR1})
    for connection in held:
        connection.close()
    print("closed them all", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
