"""Read one network namespace: first whether anything in it moved, then as much of it as that asks for.

1. A namespace in which no socket ages is looked at from outside (procfs.read_movement). While no segment and no count
   of its sockets moves, its facts stay what they are.
2. Where something moved, or a minute passed, it is entered: counters, listeners, and once a minute sysctls.
3. All its sockets are dumped where something moved or any socket ages, and every five minutes.
4. Where a dump is dear, it keeps to a pace (the pace module): at most a minute old, what was dumped is told again, with
   the time of that dump, beside listeners, rates, sysctls and CLOSE_WAIT sockets as they are.

So what changes without a segment and without a count of sockets is told late: a sysctl, or one listener in the place
of another, by LONGEST_UNVISITED_SECONDS at most. Nothing known changes a socket unseen by both; should something, it
is told within LONGEST_UNDUMPED_SECONDS.

Usable without Kubernetes: `read_netns` takes any ns/net file, or None for the namespace it runs in.
"""

import random
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
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
from sockethealth_agent.pace import EVERY_TIME, Pace, Signs, is_urgent
from sockethealth_agent.procfs import Movement, NetCounters, SockStat
from sockethealth_agent.rates import Reading, rates
from sockethealth_agent.sightings import Ages, first_sightings
from sockethealth_core.capacity import TIME_WAIT_SECONDS
from sockethealth_core.resources import EphemeralPorts, Facts, Rates
from sockethealth_core.units import format_time

LONGEST_UNVISITED_SECONDS: Final = 60.0
"""A namespace is entered at least this often, though nothing seems to have moved."""
LONGEST_UNDUMPED_SECONDS: Final = 300.0
"""A full dump is made at least this often, though nothing seems to have moved."""
HOLDER_RETRY_SECONDS: Final = 60.0
"""A socket whose holder was not found is searched for again after this."""
_OVERFLOWS: Final = ("ListenOverflows", "ListenDrops", "TCPTimeWaitOverflow")
_QUIET: Final = frozenset({int(TcpState.ESTABLISHED), int(TcpState.LISTEN)})


def new_reader() -> Reader:
    """A reader with bounds that fit into the agent's memory; for one thread."""
    return Reader(limits=Limits(top=64, inodes=8192))


@dataclass
class Memory:
    """What is kept of one namespace from one reading to the next.

    Attributes:
        counters: the last reading, for rates.
        cookie: of the namespace that was read, as netns.cookie has it: its inode may be another's later.
        stopped_listening: port -> when it was first seen without its listener; None while it has one.
        sightings: CLOSE_WAIT cookie -> when it was first seen.
        holders: inode -> who holds it, or None where nobody was found; asked anew a while after `searched_at`.
        moved: what was compared to know whether any socket may have changed.
        sysctls: those in force in the namespace, as they were at `sysctls_at`.
        visited_at: when the namespace was last entered; `still` is what was found, while nothing moves.
        dumped_at: when all sockets were last read; `kept` are they, while nothing moves.
        dumps: how many full dumps were made.
        dear: the last full dump, if it was dear; `looked` are the CLOSE_WAIT sockets as they were last read.
        put_off: whether the last reading told of sockets as they were at an earlier dump.
        patience: part of the longest times that this namespace waits, so that not all come due at once.
    """

    counters: Reading | None = None
    cookie: str = ""
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
    dear: "Dear | None" = None
    looked: "Look | None" = None
    put_off: bool = False
    patience: float = field(default_factory=lambda: random.uniform(0.7, 1.0))  # noqa: S311 - spreads load

    @property
    def counted(self) -> NetCounters | None:
        """The counters of the last reading; None before the first."""
        return None if self.counters is None else self.counters.counters

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
class Dear:
    """A dump too dear to be made in each sweep, and what tells when the next is due.

    observed_at: epoch seconds; usable_ports, exhausting: see pace.is_urgent.
    """

    conversations: Conversations
    cost_seconds: float
    observed_at: float
    signs: Signs
    usable_ports: int
    exhausting: bool


@dataclass(frozen=True, slots=True)
class Look:
    """CLOSE_WAIT sockets, as they were at `at`, and what it took to read them by themselves."""

    close_wait: CloseWaitFacts
    at: float
    cost_seconds: float = 0.0


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


def no_doubt() -> None:
    """For a path that names one namespace only."""


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
    confirm: Callable[[], None] = no_doubt,
    pids: Mapping[int, str | None] | None = None,
    container_names: Mapping[str, str] | None = None,
    containers: Callable[[], Mapping[int, str]] = no_cgroups,
    proc: Path = procfs.PROC,
    pace: Pace = EVERY_TIME,
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
        confirm: called once the namespace is open, to raise where it is not the one meant; see discovery.confirm.
        pids: processes to search for holders, with their container ids.
        container_names: name by container id.
        containers: asked where a socket's process cannot be found; see find_holders.
        proc: where /proc is mounted.
        pace: when to put off a dump that is dear; `memory.put_off` then says so.

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
            confirm()
            sock = stack.enter_context(netns.open_diag_socket())
            _forget_another(memory, netns.cookie_of(sock))
            if now - memory.sysctls_at >= LONGEST_UNVISITED_SECONDS * memory.patience:
                memory.sysctls, memory.sysctls_at = _own_sysctls(proc), now
            tier1 = read_tier1(proc, memory.sysctls)
        reading = Reading(tier1.netns, now, tier1.counters)
        listeners, ended = reader.listeners(sock)
        ports = memory.listening((one.port for one in listeners), now)
        low, high = making.ephemeral_range(tier1.sysctls)
        moved = _moved(tier1, listeners, ports)
        signs = partial(signs_of, tier1, memory.counters, now, (ports, low, high))
        dumped, put_off = None, None
        found, look = memory.kept, Look(CloseWaitFacts(), now)
        if found is None or may_have_changed(memory, moved, now):
            if memory.dear is not None and not is_due(memory.dear, signs(), pace):
                put_off = memory.dear
                look = close_wait_again(memory.looked, sock, reader, ports, now, pace)
                found = _with_close_wait(put_off.conversations, look.close_wait)
            else:
                began = time.thread_time()
                dumped = reader.read(sock, low=low, high=high, recent_listening_ports=ports, known_listeners=listeners)
                cost_seconds = time.thread_time() - began
                found = dumped.conversations
                look = Look(dumped.close_wait, now, 0.0 if memory.looked is None else memory.looked.cost_seconds)
                whole = not (ended.inconsistent or dumped.inconsistent)
                memory.kept = found if is_quiet(found) and whole else None
                memory.moved, memory.dumped_at = moved, now
                memory.dumps += 1
    memory.put_off, memory.looked = put_off is not None, look
    memory.sightings = first_sightings(memory.sightings, look.close_wait.tracked, look.at)
    queueing = [one for one in listeners if is_waited_for(one, found)]
    holders = find_holders(
        memory, [*look.close_wait.held, *queueing], pids or {}, container_names or {}, now, containers, proc
    )
    observed = Observed(
        listeners=listeners,
        conversations=found,
        close_wait=Ages(look.close_wait, memory.sightings, look.at),
        sysctls=tier1.sysctls,
        rates=rates(memory.counters, reading),
        holders=holders,
    )
    built = making.build(observed, ages, observed_at if put_off is None else put_off.observed_at)
    if dumped is not None:
        memory.dear = None
        if pace.is_dear(cost_seconds):
            memory.dear = dear_dump(found, cost_seconds, observed_at, signs(), built.ephemeral_ports)
    memory.counters, memory.visited_at, memory.still = reading, now, None
    if (
        memory.kept is not None
        and put_off is None
        and not queueing
        and len(ports) == len({one.port for one in listeners})
    ):
        memory.still = _Still(tier1.netns, tier1.movement, ages, built)
    return built


def is_due(dear: Dear, signs: Signs, pace: Pace) -> bool:
    """Whether to dump again what was dear to dump."""
    urgent = is_urgent(dear.signs, signs, usable_ports=dear.usable_ports, exhausting=dear.exhausting)
    return pace.is_due(dear.cost_seconds, signs.at - dear.signs.at, urgent=urgent)


def signs_of(tier1: Tier1, before: Reading | None, now: float, roles: object, close_wait: int = 0) -> Signs:
    """What the cheap part of a reading tells of all sockets.

    Args:
        tier1: the cheap part.
        before: the counters of the reading before.
        now: seconds of the monotonic clock.
        roles: see Signs.
        close_wait: see Signs.
    """
    sockstat, counters = tier1.sockstat, tier1.counters
    lately = rates(before, Reading(tier1.netns, now, counters))
    return Signs(
        at=now,
        mini_sockets=sockstat.time_wait or 0,
        in_use=(sockstat.inuse or 0) + (sockstat.inuse6 or 0),
        opens=counters.tcp.get("ActiveOpens", 0),
        opens_per_second=lately.active_opens,
        overflows=sum(counters.tcp_ext.get(name, 0) for name in _OVERFLOWS),
        overflowing=bool(lately.listen_overflows or lately.listen_drops or lately.time_wait_overflows),
        roles=roles,
        close_wait=close_wait,
    )


def close_wait_again(
    known: Look | None, sock: socket.socket, reader: Reader, ports: frozenset[int], now: float, pace: Pace
) -> Look:
    """The CLOSE_WAIT sockets where all sockets are not dumped; they keep to a pace of their own.

    A leak moves no count: the sockets were in use before.

    Args:
        known: the last look.
        sock: from netns.open_diag_socket.
        reader: from new_reader.
        ports: those that listen, or did of late.
        now: seconds of the monotonic clock.
        pace: of the looks.

    Raises:
        DumpFailed: no whole answer.
    """
    if known is not None and not pace.is_due(known.cost_seconds, now - known.at, urgent=False):
        return known
    began = time.thread_time()
    found, _ended = reader.close_wait(sock, ports)
    return Look(found, now, time.thread_time() - began)


def dear_dump(
    found: Conversations, cost_seconds: float, observed_at: float, signs: Signs, ports: EphemeralPorts
) -> Dear:
    """A dump to be put off, with what tells for how long.

    Args:
        found: what it told.
        cost_seconds: the CPU time it took.
        observed_at: epoch seconds.
        signs: at the same moment.
        ports: what it tells of ephemeral ports.
    """
    exhausting = any(one.seconds_to_exhaustion is not None for one in ports.destinations)
    return Dear(found, cost_seconds, observed_at, signs, ports.usable, exhausting=exhausting)


def _with_close_wait(found: Conversations, close_wait: CloseWaitFacts) -> Conversations:
    return replace(found, states={**found.states, int(TcpState.CLOSE_WAIT): close_wait.count})


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


def _forget_another(memory: Memory, cookie: str) -> None:
    """Keep nothing of another namespace than the calling thread's; another one may have had the same inode."""
    if memory.counters is not None and (memory.counters.netns, memory.cookie) != (netns.identity(), cookie):
        fresh = Memory(dumps=memory.dumps)
        memory.__dict__.update(fresh.__dict__)
    memory.cookie = cookie


def _moved(tier1: Tier1, listeners: Iterable[folding.Listener], ports: frozenset[int]) -> tuple[Any, ...]:
    """What decides of all sockets: segments and counts, who listens, and what makes an inbound or ephemeral port."""
    port_range = making.ephemeral_range(tier1.sysctls)
    return (tier1.movement, tuple((one.port, one.inode) for one in listeners), ports, port_range)


def _inside(path: str | None, expected: NetnsId | None) -> AbstractContextManager[Any]:
    return nullcontext() if path is None else netns.entered(path, expected)
