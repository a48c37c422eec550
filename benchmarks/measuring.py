"""Measure things in turn, so that what else the machine does falls on all of them alike."""

import time
from collections.abc import Callable, Mapping

from benchmarks.report import Series


def wall_ms(work: Callable[[], object]) -> float:
    """How long some work takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def cpu_ms(work: Callable[[], object]) -> float:
    """How much CPU time this process spends on some work, the kernel's on its behalf included."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1000


def in_turn(
    works: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[Callable[[], object]], float] = wall_ms
) -> dict[str, Series]:
    """Every work once a round, in milliseconds, after one round that does not count."""
    values: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            values[name].append(clock(work))
    return {name: Series(name, "ms", tuple(measured)) for name, measured in values.items()}
