"""What the agent costs a node all day: CPU time and memory of a process of its own, seen from outside."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.namespaces import LoadError, Namespace, namespaces
from benchmarks.node import Node, node
from benchmarks.report import Report, Row, Series

TITLE: Final = "the agent's sampling all day: 110 pods, 20 of them busy, every 10 s"
PODS, BUSY = 110, 20
CONNECTIONS_PER_SECOND: Final = 10.0
HELD: Final = 50
PACE: Final = 10.0
"""Sweeps come ten times as often and the sampler's clock goes ten times as fast, so minutes take seconds."""
INTERVAL_SECONDS: Final = 10.0
"""The chart's agent.intervalSeconds."""
SWEEPS_A_MINUTE: Final = 6
MINUTES: Final = 7
FEW, MANY = 10_000, 200_000
CPU_MOST_PERCENT, RSS_MOST_MIB, GROWTH_MOST_MIB = 1.0, 60.0, 5.0


def run() -> Report:
    """Measure.

    Raises:
        LoadError: the sockets or the agent's process could not be made.
    """
    percents, resident = _all_day()
    few, many = _crowded()
    return Report(
        "steady",
        TITLE,
        (
            Row(Series("CPU time, of one core", "%", percents), most=CPU_MOST_PERCENT),
            Row(Series("resident memory", "MiB", resident), most=RSS_MOST_MIB),
            Row(Series(f"more for {MANY:,} sockets than for {FEW:,}", "MiB", (many - few,)), most=GROWTH_MOST_MIB),
            Row(Series(f"resident memory, {MANY:,} sockets", "MiB", (many,)), most=RSS_MOST_MIB),
        ),
        (
            f"Busy: {CONNECTIONS_PER_SECOND:.0f} connections a second, {HELD} held; the other {PODS - BUSY} hold 3.",
            f"CPU time: of each of {MINUTES} minutes by the sampler's clock, which goes {PACE:.0f} times too fast.",
            "The process has loaded all that the agent's command loads, and updates its metrics; it reports nothing.",
            "Growth compares the peaks (VmHWM) of two processes, which is the stricter way.",
        ),
    )


def _all_day() -> tuple[tuple[float, ...], tuple[float, ...]]:
    with namespaces(PODS + 1) as (host, *pods):
        host.hold(HELD)
        for one in pods:
            one.hold(3, destinations=2)
        for one in pods[:BUSY]:
            one.hold(HELD, destinations=4)
            one.churn(CONNECTIONS_PER_SECOND, destinations=4)
        with node(pods) as made, _agent(made, host, PACE) as agent:
            _minute(agent)  # the first sweeps read everything, and begin no steady state
            percents, resident = [], []
            for _ in range(MINUTES):
                percents.append(100 * sum(_minute(agent)) / (SWEEPS_A_MINUTE * INTERVAL_SECONDS))
                resident.append(agent.memory_mib("VmRSS"))
    return tuple(percents), tuple(resident)


def _minute(agent: "_Agent") -> list[float]:
    took = []
    for _ in range(SWEEPS_A_MINUTE):
        due = time.monotonic() + INTERVAL_SECONDS / PACE
        took.append(agent.sweep())
        time.sleep(max(0.0, due - time.monotonic()))
    return took


def _crowded() -> tuple[float, float]:
    """Peaks of an agent that sees few sockets, and of one that sees many."""
    peaks = []
    for count in (FEW, MANY):
        with namespaces(2) as (host, one):
            one.time_wait(count, destinations=16)
            with node([one]) as made, _agent(made, host, 1.0) as agent:
                for _ in range(SWEEPS_A_MINUTE):
                    agent.sweep()
                peaks.append(agent.memory_mib("VmHWM"))
    return peaks[0], peaks[1]


@dataclass(frozen=True)
class _Agent:
    process: subprocess.Popen[str]
    pods: Sequence[str]

    def sweep(self) -> float:
        """Have one sweep made; seconds of CPU time."""
        if self.process.stdin is None or self.process.stdout is None:
            raise LoadError("The agent's process has no pipes.")
        self.process.stdin.write(json.dumps(self.pods) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise LoadError(f"The agent's process ended, with {self.process.wait()}.")
        answer: dict[str, Any] = json.loads(line)
        if answer["failed"] or answer["pods"] != len(self.pods):
            raise LoadError(f"The agent read {answer['pods']} of {len(self.pods)} pods, and {answer['failed']} failed.")
        return float(answer["cpu"])

    def memory_mib(self, name: str) -> float:
        """VmRSS or VmHWM (the peak of it) of proc_pid_status(5)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        raise LoadError(f"The agent's process shows no {name}.")


@contextmanager
def _agent(made: Node, host: Namespace, pace: float) -> Iterator[_Agent]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.agent", str(os.getpid()), str(made.proc), host.path, str(pace)],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield _Agent(process, list(made.pods))
    finally:
        process.kill()
        process.communicate()
