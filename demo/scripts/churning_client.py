"""A client without keep-alive: one connection for every request.

Whoever closes first holds TIME_WAIT for 60 s. That is this client, and each costs it an ephemeral port; with
--until-closed it waits for the server to close, and holds none.
"""

# ruff: noqa: INP001, T201 - a script, not a package

import argparse
import socket
import time


def ask(host: str, port: int, *, until_closed: bool) -> None:
    """Connect, ask, read the answer, close."""
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(b"what have you?\n")
        connection.recv(100)
        while until_closed and connection.recv(100):
            pass


def main() -> None:
    """Ask at a steady rate, after an optional burst; a failure is told at most once a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--burst", type=int, default=0, metavar="REQUESTS")
    parser.add_argument("--rate", type=float, default=30, metavar="PER_SECOND")
    parser.add_argument("--until-closed", action="store_true")
    options = parser.parse_args()
    due, told = time.monotonic(), 0.0
    left_of_burst = options.burst
    while True:
        try:
            ask(options.host, options.port, until_closed=options.until_closed)
        except OSError as error:
            if time.monotonic() - told > 1:
                told = time.monotonic()
                print(f"{type(error).__name__}: {error}", flush=True)
        if left_of_burst > 0:
            left_of_burst -= 1
            due = time.monotonic()
            continue
        due += 1 / options.rate
        time.sleep(max(0, due - time.monotonic()))


if __name__ == "__main__":
    main()
