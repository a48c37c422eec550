"""One namespace with 100,000 sockets and more: dump, decode and aggregate, beside the programs that do less."""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from benchmarks import peers
from benchmarks.measuring import in_turn, wall_ms
from benchmarks.namespaces import LoadError, Namespace, namespace
from benchmarks.report import Report, Row, Series
from sockethealth_agent import inet_diag, netns
from sockethealth_agent.folding import NetnsSockets, Reader
from sockethealth_agent.inet_diag import TcpState
from sockethealth_agent.reading import new_reader

TITLE: Final = "dump, decode and aggregation by state, role and destination"
ROUNDS: Final = 11
PYROUTE2_ROUNDS: Final = 2
"""After the others' rounds, as each takes about ten seconds of the minute that TIME_WAIT lasts."""
NODE_EXPORTER_MOST, SS_MOST, PYROUTE2_MOST, FLOOR_MOST = 0.6, 0.4, 1 / 75, 1.8
LOW, HIGH = 10_000, 64_999


@dataclass(frozen=True)
class _Load:
    what: str
    outbound: int
    inbound: int
    held: int
    held_to: bool

    def fill(self, one: Namespace) -> None:
        # TIME_WAIT lasts a minute, so what stays is made first.
        if self.held:
            one.hold(self.held, destinations=8)
        if self.inbound:
            one.time_wait(self.inbound, destinations=8, inbound=True)
        one.time_wait(self.outbound, destinations=8)


LOADS: Final = (
    _Load("TIME_WAIT of a client", outbound=110_000, inbound=0, held=0, held_to=True),
    _Load("TIME_WAIT of both roles among ESTABLISHED", outbound=70_000, inbound=15_000, held=20_000, held_to=False),
)


def run() -> Report:
    """Measure.

    Raises:
        Missing: node_exporter or ss is.
        LoadError: the sockets could not be made, or did not live long enough.
    """
    rows: list[Row] = []
    for load in LOADS:
        rows += _rows(load)
    return Report(
        "dump",
        TITLE,
        tuple(rows),
        (
            "ours: Reader.read and all that comes with it: listeners, dump, decoding and aggregation.",
            f"node_exporter {peers.NODE_EXPORTER_VERSION}: a scrape of tcpstat alone over an open loopback connection.",
            "node_exporter and ss tell states only: no roles, no destinations, no ages.",
            "The second load is told only: messages of two lengths alternate in it, which costs more than the first.",
            "ss: `ss -tanH` to /dev/null, with the start of its process, some 2 ms.",
            f"pyroute2: DiagSocket.get_sock_stats, {PYROUTE2_ROUNDS} times after the rounds of the others.",
            "floor: the same dump received into the same buffer and thrown away.",
        ),
    )


def _rows(load: _Load) -> list[Row]:
    with ExitStack() as stack:
        one = stack.enter_context(namespace())
        exporter = stack.enter_context(peers.node_exporter(one.path))
        ss = peers.Ss(one.path)
        decode_by_pyroute2 = stack.enter_context(peers.pyroute2_decoder(one.path))
        sock = stack.enter_context(netns.open_diag_socket(one.path))
        reader = new_reader()

        def ours() -> NetnsSockets:
            return reader.read(sock, low=LOW, high=HIGH)

        load.fill(one)
        before = _agreed(ours, exporter, ss)
        measured = in_turn(
            {
                "ours": ours,
                "node_exporter": exporter.scrape,
                "ss": ss.list_all,
                "floor": _Floor(reader, sock).receive,
            },
            ROUNDS,
        )
        whole = tuple(wall_ms(decode_by_pyroute2) for _ in range(PYROUTE2_ROUNDS))
        if ours().states != before:
            raise LoadError("TIME_WAIT sockets ended while they were measured: the machine is too busy. Run it again.")
    total = sum(before.values())
    mine = Series(f"{total:,} sockets: {load.what}", "ms", measured["ours"].values)
    beside = {
        measured["node_exporter"]: NODE_EXPORTER_MOST,
        measured["ss"]: SS_MOST,
        Series("pyroute2", "ms", whole): PYROUTE2_MOST,
        measured["floor"]: FLOOR_MOST,
    }
    return [
        *(Row(mine, peer, most if load.held_to else None) for peer, most in beside.items()),
        *(Row(peer) for peer in beside),
    ]


def _agreed(ours: Callable[[], NetnsSockets], exporter: peers.NodeExporter, ss: peers.Ss) -> dict[int, int]:
    found = ours().states
    named = {TcpState(state).name.lower(): count for state, count in found.items() if count}
    for who, states in (("node_exporter", exporter.states()), ("ss", ss.states())):
        theirs = {state: count for state, count in states.items() if count and "queued" not in state}
        if {"listen": named["listen"], **theirs} != named:
            raise LoadError(f"{who} counts {theirs}, and the reader {named}: they measure different things.")
    return found


@dataclass(frozen=True)
class _Floor:
    reader: Reader
    sock: socket.socket

    def receive(self) -> None:
        for chunk in inet_diag.dump(
            self.sock,
            socket.AF_UNSPEC,
            inet_diag.MASK_CONVERSATIONS,
            deadline=time.monotonic() + self.reader.deadline_seconds,
            buffer=self.reader._buffer,  # noqa: SLF001 - the very buffer that the reader receives into
        ):
            # The end mark is 20 bytes at the end of the last datagram.
            if inet_diag._may_end(chunk):  # noqa: SLF001 - as above
                return
