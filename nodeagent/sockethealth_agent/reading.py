"""Read one network namespace: first whether anything in it moved, then as much of it as that asks for.

1. A namespace in which no socket ages is looked at from outside (procfs.read_movement). While no segment and no count
   of its sockets moves, its facts stay what they are.
2. Where something moved, or a minute passed, it is entered: counters, listeners, and once a minute sysctls.
3. All its sockets are dumped where something moved or any socket ages, and every five minutes.

So what changes without a segment and without a count of sockets is told late: a sysctl, or one listener in the place
of another, by LONGEST_UNVISITED_SECONDS at most. Nothing known changes a socket unseen by both; should something, it
is told within LONGEST_UNDUMPED_SECONDS.

Usable without Kubernetes: `read_netns` takes any ns/net file, or None for the namespace it runs in.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from sockethealth_agent import facts as making
from sockethealth_agent import folding, netns, owners, procfs
from sockethealth_agent.facts import Holder, Observed
from sockethealth_agent.folding import CloseWaitFacts, Conversations, Limits, Reader
from sockethealth_agent.inet_diag import TcpState
from sockethealth_agent.netns import NetnsId
from sockethealth_agent.owners import Sought
from sockethealth_agent.procfs import Movement, NetCounters, SockStat
from sockethealth_agent.rates import Reading, rates
from sockethealth_agent.sightings import Ages, first_sightings
from sockethealth_core.capacity import TIME_WAIT_SECONDS
from sockethealth_core.resources import Facts, Rates
from sockethealth_core.units import format_time

LONGEST_UNVISITED_SECONDS: Final = 60.0
"""A namespace is entered at least this often, though nothing seems to have moved."""
LONGEST_UNDUMPED_SECONDS: Final = 300.0
"""A full dump is made at least this often, though nothing seems to have moved."""
HOLDER_RETRY_SECONDS: Final = 60.0
"""A socket whose holder was not found is searched for again after this."""
_QUIET: Final = frozenset({int(TcpState.ESTABLISHED), int(TcpState.LISTEN)})


def new_reader() -> Reader:
    """A reader with bounds that fit into the agent's memory; for one thread."""
    return Reader(limits=Limits(top=64, inodes=8192))


@dataclass
class Memory:
    """What is kept of one namespace from one reading to the next.

    Attributes:
        counters: the last reading, for rates.
        stopped_listening: port -> when it was first seen without its listener; None while it has one.
        sightings: CLOSE_WAIT cookie -> when it was first seen.
        holders: inode -> who holds it, or None where nobody was found; asked anew a while after `searched_at`.
        moved: what was compared to know whether any socket may have changed.
        sysctls: those in force in the namespace, as they were at `sysctls_at`.
        visited_at: when the namespace was last entered; `still` is what was found, while nothing moves.
        dumped_at: when all sockets were last read; `kept` are they, while nothing moves.
        dumps: how many full dumps were made.
        patience: part of the longest times that this namespace waits, so that not all come due at once.
    """

    counters: Reading | None = None
    stopped_listening: dict[int, float | None] = field(default_factory=dict)
    sightings: dict[int, float] = field(default_factory=dict)
    holders: dict[int, Holder | None] = field(default_factory=dict)
    searched_at: float = float("-inf")
    moved: tuple[Any, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    sysctls_at: float = float("-inf")
    visited_at: float = float("-inf")
    still: "_Still | None" = None
    dumped_at: float = float("-inf")
    kept: Conversations | None = None
    dumps: int = 0
    patience: float = field(default_factory=lambda: random.uniform(0.7, 1.0))  # noqa: S311 - spreads load

    def listening(self, ports: Iterable[int], now: float) -> frozenset[int]:
        """The ports that listen, or did less than the length of TIME_WAIT ago: their TIME_WAIT is inbound."""
        listening = set(ports)
        for port in self.stopped_listening.keys() | listening:
            if port in listening:
                self.stopped_listening[port] = None
            elif self.stopped_listening[port] is None:
                self.stopped_listening[port] = now
        self.stopped_listening = {
            port: stopped
            for port, stopped in self.stopped_listening.items()
            if stopped is None or now - stopped < TIME_WAIT_SECONDS
        }
        return frozenset(self.stopped_listening)


@dataclass(frozen=True, slots=True)
class _Still:
    """Facts that hold while nothing moves, and what they were made for."""

    netns: NetnsId
    movement: Movement
    min_ages: tuple[float, ...]
    facts: Facts


@dataclass(frozen=True, slots=True)
class Tier1:
    """The cheap part of a reading."""

    netns: NetnsId
    movement: Movement
    counters: NetCounters
    sockstat: SockStat
    sysctls: Mapping[str, str]


def may_have_changed(memory: Memory, moved: tuple[Any, ...], now: float) -> bool:
    """Whether all sockets have to be read again.

    A socket does not change its state without a segment or a change of its namespace's counts. The age of what is
    kept is bounded all the same, and sockets of any state but ESTABLISHED and LISTEN are never kept: they age.
    """
    longest = LONGEST_UNDUMPED_SECONDS * memory.patience
    return memory.kept is None or memory.moved != moved or now - memory.dumped_at >= longest


def is_quiet(found: Conversations) -> bool:
    """Whether no socket will change its state by time alone."""
    return not any(count for state, count in found.states.items() if state not in _QUIET)


def no_cgroups() -> Mapping[int, str]:
    """No container by cgroup id, for where there is no cgroup v2 or no container."""
    return {}


def is_waited_for(listener: folding.Listener, found: Conversations) -> bool:
    """Whether connections wait at a listener, complete or half open."""
    return listener.queue > 0 or found.inbound.get((listener.port, int(TcpState.SYN_RECV)), 0) > 0


def read_netns(
    path: str | None,
    memory: Memory,
    reader: Reader,
    *,
    now: float,
    observed_at: float,
    min_ages: Iterable[float] = (making.DEFAULT_MIN_AGE_SECONDS,),
    expected: NetnsId | None = None,
    pids: Mapping[int, str | None] | None = None,
    container_names: Mapping[str, str] | None = None,
    containers: Callable[[], Mapping[int, str]] = no_cgroups,
    proc: Path = procfs.PROC,
) -> Facts:
    """The facts of one network namespace. With a memory from a reading before there are rates too.

    Args:
        path: an ns/net file; None for the calling thread's own namespace, which needs no privilege.
        memory: Memory() at first; a reading that fails leaves it usable for the next.
        reader: from new_reader; reused for all namespaces.
        now: seconds of the monotonic clock.
        observed_at: epoch seconds.
        min_ages: ages to count CLOSE_WAIT by, in seconds.
        expected: the namespace meant; see netns.entered.
        pids: processes to search for holders, with their container ids.
        container_names: name by container id.
        containers: asked where a socket's process cannot be found; see find_holders.
        proc: where /proc is mounted.

    Raises:
        netns.NetnsError: gone, or refused.
        netns.NetnsStuck: the process must end.
        inet_diag.DumpFailed: no whole answer.
        procfs.ProcessGone: its files in /proc could not be read.
        procfs.ProcLayoutError: they look as none that is known.
    """
    ages = tuple(min_ages)
    still = _still(path, memory, expected, ages, now, observed_at, proc)
    if still is not None:
        return still
    with ExitStack() as stack:
        with _inside(path, expected):
            sock = stack.enter_context(netns.open_diag_socket())
            if memory.counters is not None and memory.counters.netns != netns.identity():
                _forget(memory)
            if now - memory.sysctls_at >= LONGEST_UNVISITED_SECONDS * memory.patience:
                memory.sysctls, memory.sysctls_at = _own_sysctls(proc), now
            tier1 = read_tier1(proc, memory.sysctls)
        reading = Reading(tier1.netns, now, tier1.counters)
        listeners, ended = reader.listeners(sock)
        ports = memory.listening((one.port for one in listeners), now)
        low, high = making.ephemeral_range(tier1.sysctls)
        moved = _moved(tier1, listeners, ports)
        found, close_wait = memory.kept, CloseWaitFacts()
        if found is None or may_have_changed(memory, moved, now):
            sockets = reader.read(
                sock,
                low=low,
                high=high,
                recent_listening_ports=ports,
                known_listeners=listeners,
            )
            found, close_wait = sockets.conversations, sockets.close_wait
            whole = not (ended.inconsistent or sockets.inconsistent)
            memory.kept = found if is_quiet(found) and whole else None
            memory.moved, memory.dumped_at = moved, now
            memory.dumps += 1
    memory.sightings = first_sightings(memory.sightings, close_wait.tracked, now)
    queueing = [one for one in listeners if is_waited_for(one, found)]
    holders = find_holders(
        memory, [*close_wait.held, *queueing], pids or {}, container_names or {}, now, containers, proc
    )
    observed = Observed(
        listeners=listeners,
        conversations=found,
        close_wait=Ages(close_wait, memory.sightings, now),
        sysctls=tier1.sysctls,
        rates=rates(memory.counters, reading),
        holders=holders,
    )
    built = making.build(observed, ages, observed_at)
    memory.counters, memory.visited_at, memory.still = reading, now, None
    if memory.kept is not None and not queueing and len(ports) == len({one.port for one in listeners}):
        memory.still = _Still(tier1.netns, tier1.movement, ages, built)
    return built


def _still(
    path: str | None,
    memory: Memory,
    expected: NetnsId | None,
    ages: tuple[float, ...],
    now: float,
    observed_at: float,
    proc: Path,
) -> Facts | None:
    """The facts of before with the present time, where nothing moved since; None where the namespace must be entered.

    A connection that waits for accept() ends its wait without a segment, and a listener's port that was given up turns
    its sockets into outbound ones after a minute: neither is ever taken for still.
    """
    still = memory.still
    pid = _pid_of(path, proc)
    if (
        still is None
        or pid is None
        or memory.counters is None
        or still.min_ages != ages
        or now - memory.visited_at >= LONGEST_UNVISITED_SECONDS * memory.patience
        or netns.identity(netns.OWN_NETNS if path is None else path) != still.netns
        or expected not in (None, still.netns)
        or procfs.read_movement(pid, proc) != still.movement
    ):
        return None
    memory.counters = replace(memory.counters, at=now)
    return msgspec.structs.replace(still.facts, observed_time=format_time(observed_at), rates=Rates())


def _pid_of(path: str | None, proc: Path) -> str | None:
    """The process whose files of /proc show the namespace; None for one that is known by its mount only."""
    if path is None:
        return "thread-self"
    pid, _, rest = path.removeprefix(f"{proc}/").partition("/")
    return pid if rest == "ns/net" and pid.isdecimal() else None


def read_tier1(proc: Path = procfs.PROC, sysctls: Mapping[str, str] | None = None) -> Tier1:
    """Counters of the calling thread's namespace, with its sysctls, which are read where none are given.

    Raises:
        procfs.ProcessGone: its files in /proc could not be read.
        procfs.ProcLayoutError: they look as none that is known.
    """
    return Tier1(
        netns=netns.identity(),
        movement=procfs.read_movement("thread-self", proc),
        counters=procfs.read_counters("thread-self", proc),
        sockstat=procfs.read_sockstat("thread-self", proc),
        sysctls=_own_sysctls(proc) if sysctls is None else sysctls,
    )


def _own_sysctls(proc: Path) -> dict[str, str]:
    return netns.read_sysctls(making.SYSCTL_NAMES, root=str(proc / "sys"))


def find_holders(
    memory: Memory,
    sockets: Iterable[Sought],
    pids: Mapping[int, str | None],
    container_names: Mapping[str, str],
    now: float,
    containers: Callable[[], Mapping[int, str]] = no_cgroups,
    proc: Path = procfs.PROC,
) -> dict[int, Holder]:
    """Who holds sockets, by inode. A process once found stays it; only other sockets are searched for.

    Args:
        memory: what is known from before.
        sockets: those whose holder is wanted.
        pids: processes to search, with their container ids.
        container_names: name by container id.
        now: seconds of the monotonic clock.
        containers: container id by cgroup v2 id; asked only where a socket's process cannot be found.
        proc: where /proc is mounted.
    """
    wanted = {one.inode: one for one in sockets if one.inode}
    known = {inode: holder for inode, holder in memory.holders.items() if inode in wanted}
    if now - memory.searched_at >= HOLDER_RETRY_SECONDS:
        memory.searched_at = now
        known = {inode: holder for inode, holder in known.items() if holder is not None and holder.pid}
    missing = wanted.keys() - known.keys()
    if missing:
        found = dict(owners.find_owners(missing, pids, proc).by_inode)
        nobodys = [wanted[inode] for inode in missing - found.keys()]
        if nobodys:
            found |= owners.known_by_cgroup(nobodys, containers(), pids, proc)
        for inode in missing:
            owner = found.get(inode)
            known[inode] = None if owner is None else _holder(owner, container_names)
    memory.holders = known
    return {inode: holder for inode, holder in known.items() if holder is not None}


def _holder(owner: owners.Owner, container_names: Mapping[str, str]) -> Holder:
    container = owner.container_id or ""
    return Holder(container_names.get(container, container), owner.comm, owner.pid)


def _forget(memory: Memory) -> None:
    fresh = Memory(dumps=memory.dumps)
    memory.__dict__.update(fresh.__dict__)


def _moved(tier1: Tier1, listeners: Iterable[folding.Listener], ports: frozenset[int]) -> tuple[Any, ...]:
    """What decides of all sockets: segments and counts, who listens, and what makes an inbound or ephemeral port."""
    port_range = making.ephemeral_range(tier1.sysctls)
    return (tier1.movement, tuple((one.port, one.inode) for one in listeners), ports, port_range)


def _inside(path: str | None, expected: NetnsId | None) -> AbstractContextManager[Any]:
    return nullcontext() if path is None else netns.entered(path, expected)
