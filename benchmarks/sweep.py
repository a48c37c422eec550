"""110 namespaces of few sockets beside one with 100,000: what a sweep costs over what it cannot avoid."""

import time
from collections.abc import Sequence
from typing import Final

from benchmarks.measuring import cpu_ms, in_turn
from benchmarks.namespaces import Namespace, namespaces
from benchmarks.node import node
from benchmarks.report import Report, Row, Series
from sockethealth_agent import netns
from sockethealth_agent.folding import Reader
from sockethealth_agent.pace import EVERY_TIME
from sockethealth_agent.reading import Memory, new_reader, read_netns
from sockethealth_agent.sampler import Sampler

TITLE: Final = "a sweep of 110 quiet namespaces beside one with 100,000 TIME_WAIT, CPU time"
QUIET: Final = 110
CROWD: Final = 100_000
ROUNDS: Final = 9
TIER1_MOST_MS, SWEEP_MOST = 15.0, 1.2


def run() -> Report:
    """Measure.

    Raises:
        LoadError: the sockets could not be made.
    """
    with namespaces(QUIET + 2) as (crowded, idle, *quiet):
        for one in (idle, *quiet):
            one.hold(3, destinations=2)
        crowded.time_wait(CROWD, destinations=8)
        with node([crowded, *quiet]) as made:
            tier1 = _Tier1(quiet)
            big = next(iter(made.pods))
            in_node = Sampler(proc=made.proc, host_netns=crowded.path, pace=EVERY_TIME)
            in_pod = Sampler(proc=made.proc, host_netns=idle.path, pace=EVERY_TIME)
            pods = {uid: pod for uid, pod in made.pods.items() if uid != big}
            measured = in_turn(
                {
                    "tier 1 of 110 namespaces, nothing moved": tier1.read,
                    "the one dump": _Dump(crowded).read,
                    "whole sweep, the 100,000 in the node's own namespace": lambda: in_node.sweep(pods),
                    "whole sweep, the 100,000 in a pod": lambda: in_pod.sweep(made.pods),
                    "entered and dumped, all 110": _Tier1(quiet).read_anew,
                },
                ROUNDS,
                cpu_ms,
            )
    looked, dump, *sweeps, anew = measured.values()
    both = Series("tier 1 + the one dump", "ms", (looked.middle + dump.middle,))
    return Report(
        "sweep",
        TITLE,
        (
            Row(looked, most=TIER1_MOST_MS),
            Row(sweeps[0], both, SWEEP_MOST),
            Row(sweeps[1], both),
            Row(dump),
            Row(anew),
        ),
        (
            "A whole sweep includes the search of /proc for processes of pods and the node's own limits and sysctls.",
            "With the 100,000 in a pod, the dump of the node's own few sockets walks past them a second time.",
            "Entered and dumped: what each sweep would cost the 110 without tier 1.",
            "No sweep puts off a dump: the pace is benchmark `pace`.",
        ),
    )


class _Tier1:
    def __init__(self, quiet: Sequence[Namespace]) -> None:
        self._known = [(one.path, Memory(patience=1.0)) for one in quiet]
        self._reader = new_reader()

    def read(self) -> None:
        for path, memory in self._known:
            read_netns(path, memory, self._reader, now=time.monotonic(), observed_at=time.time())

    def read_anew(self) -> None:
        for path, _memory in self._known:
            read_netns(path, Memory(), self._reader, now=time.monotonic(), observed_at=time.time())


class _Dump:
    def __init__(self, crowded: Namespace) -> None:
        self._crowded = crowded
        self._reader: Reader = new_reader()

    def read(self) -> None:
        with netns.open_diag_socket(self._crowded.path) as sock:
            self._reader.read(sock, low=10_000, high=64_999)
