"""Reading the chosen network namespaces: twice, an interval apart, where rates are wanted."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sockethealth_agent.folding import Reader
from sockethealth_agent.inet_diag import DumpFailed
from sockethealth_agent.netns import NetnsError, NetnsGone, NetnsId, NetnsRefused
from sockethealth_agent.procfs import ProcessGone, ProcLayoutError
from sockethealth_agent.reading import Memory, new_reader, read_netns
from sockethealth_cli.naming import NamedNetns
from sockethealth_core.policy import CompiledRule
from sockethealth_core.resources import Facts
from sockethealth_core.units import parse_duration

_SHORT_ID: Final = 12
"""Digits of a container id that docker and crictl accept."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A namespace and what was read of it."""

    named: NamedNetns
    facts: Facts


@dataclass(frozen=True, slots=True)
class Unread:
    """A namespace that was not read, and why: a privilege is missing, it is gone, or the kernel did not answer."""

    named: NamedNetns
    reason: str
    refused: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Readings:
    """What one scan brought home."""

    read: tuple[Measured, ...]
    unread: tuple[Unread, ...]


def ages_asked_for(rules: Iterable[CompiledRule]) -> tuple[float, ...]:
    """The ages in seconds that rules want CLOSE_WAIT sockets counted by."""
    return tuple(sorted({parse_duration(rule.parameters["minAge"]) for rule in rules if "minAge" in rule.parameters}))


class Sampler:
    """Reads namespaces again and again, and so knows rates, and since when a CLOSE_WAIT is there.

    Args:
        min_ages: see ages_asked_for.
    """

    def __init__(self, min_ages: Sequence[float]) -> None:
        self._min_ages = tuple(min_ages)
        self._reader = new_reader()
        self._memories: dict[NetnsId, Memory] = {}

    def sample(self, chosen: Sequence[NamedNetns]) -> Readings:
        """Read each namespace; one that fails does not keep the others from being read."""
        self._memories = {named.netns.id: self._memories.get(named.netns.id, Memory()) for named in chosen}
        results = [_read(named, self._memories[named.netns.id], self._reader, self._min_ages) for named in chosen]
        return Readings(
            tuple(result for result in results if isinstance(result, Measured)),
            tuple(result for result in results if isinstance(result, Unread)),
        )


def read_all(chosen: Sequence[NamedNetns], min_ages: Sequence[float], interval_seconds: float) -> Readings:
    """Read each namespace, twice where rates are wanted.

    Args:
        chosen: the namespaces.
        min_ages: see ages_asked_for.
        interval_seconds: time between the two samples that rates need; 0 takes one sample.
    """
    sampler = Sampler(min_ages)
    first = sampler.sample(chosen)
    if interval_seconds <= 0 or not first.read:
        return first
    time.sleep(interval_seconds)
    second = sampler.sample([one.named for one in first.read])
    return Readings(second.read, first.unread + second.unread)


def _read(named: NamedNetns, memory: Memory, reader: Reader, min_ages: Sequence[float]) -> Measured | Unread:
    try:
        facts = read_netns(
            named.netns.path,
            memory,
            reader,
            now=time.monotonic(),
            observed_at=time.time(),
            min_ages=min_ages,
            expected=named.netns.id,
            pids={process.pid: process.container_id for process in named.netns.processes},
            container_names={
                process.container_id: process.container_id[:_SHORT_ID]
                for process in named.netns.processes
                if process.container_id
            },
        )
    except NetnsRefused as error:
        return Unread(named, str(error), refused=True)
    except NetnsGone as error:
        return Unread(named, str(error), gone=True)
    except (NetnsError, DumpFailed, ProcessGone, ProcLayoutError) as error:
        return Unread(named, str(error))
    return Measured(named, facts)
