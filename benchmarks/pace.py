"""One namespace with more than 500,000 sockets that move all the time: what the pace of dear dumps spares."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from benchmarks.measuring import cpu_ms
from benchmarks.namespaces import LoadError, namespaces
from benchmarks.node import node
from benchmarks.report import Report, Row, Series
from sockethealth_agent import procfs
from sockethealth_agent.pace import EVERY_TIME
from sockethealth_agent.sampler import Sampler

TITLE: Final = "sweeps every 10 s beside 500,000 sockets that move: a dump at the agent's pace, and in each sweep"
BUSIEST_CLOSED, BUSIEST_HELD, MAKERS = 320_000, 100_000, 2
"""TIME_WAIT sockets, and connections held, which are two sockets each."""
BUSIEST: Final = BUSIEST_CLOSED + 2 * BUSIEST_HELD
BUSIEST_OPENS_PER_SECOND: Final = 500.0
INTERVAL_SECONDS: Final = 10.0
SWEEPS_A_MINUTE: Final = 6
MINUTES: Final = 3
PACED_MOST: Final = 0.5


def run() -> Report:
    """Measure.

    Raises:
        LoadError: the sockets could not be made, or did not live long enough.
    """
    paced, unpaced = _busiest()
    return Report(
        "pace",
        TITLE,
        (Row(paced, unpaced, PACED_MOST), Row(unpaced)),
        (
            f"{BUSIEST_CLOSED:,} are TIME_WAIT, and {BUSIEST_OPENS_PER_SECOND:.0f} connections a second come and go.",
            f"CPU time of each of {MINUTES} minutes of sweeps, {INTERVAL_SECONDS:.0f} s apart by the sampler's clock.",
            "It includes the node's own few sockets, whose dump walks past all others, and keeps to the pace too.",
        ),
    )


def _busiest() -> tuple[Series, Series]:
    """CPU time of sweeps over one pod with very many sockets, at the agent's pace and with a dump in each sweep."""
    with namespaces(2) as (host, busiest):
        host.hold(3)
        busiest.hold(BUSIEST_HELD, destinations=8)
        busiest.crowd(BUSIEST_CLOSED, destinations=32, at_once=MAKERS)
        busiest.churn(BUSIEST_OPENS_PER_SECOND, destinations=32)
        with node([busiest]) as made:
            now = 1000.0
            paced = Sampler(proc=made.proc, host_netns=host.path, clock=lambda: now)
            unpaced = Sampler(proc=made.proc, host_netns=host.path, clock=lambda: now, pace=EVERY_TIME)
            took: dict[Sampler, list[float]] = {paced: [], unpaced: []}
            # The first sweep of each reads everything and is not counted.
            for _ in range(1 + MINUTES * SWEEPS_A_MINUTE):
                for sampler, milliseconds in took.items():
                    milliseconds.append(cpu_ms(partial(sampler.sweep, made.pods)))
                now += INTERVAL_SECONDS
        left = procfs.read_sockstat(busiest.pid).time_wait or 0
        if left < 0.95 * BUSIEST_CLOSED:
            raise LoadError(f"Of {BUSIEST_CLOSED:,} TIME_WAIT sockets {left:,} are left: the machine is too busy.")
    return (
        Series(f"sweeps beside {BUSIEST:,} moving sockets, of one core", "%", _percents(took[paced][1:])),
        Series("with a dump in each sweep", "%", _percents(took[unpaced][1:])),
    )


def _percents(milliseconds: Sequence[float]) -> tuple[float, ...]:
    """CPU time of each minute's sweeps as percent of a core."""
    minutes = [milliseconds[start : start + SWEEPS_A_MINUTE] for start in range(0, len(milliseconds), SWEEPS_A_MINUTE)]
    return tuple(100 * sum(minute) / (1000 * SWEEPS_A_MINUTE * INTERVAL_SECONDS) for minute in minutes)
