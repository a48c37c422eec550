"""Read one network namespace: counters and listeners always, all its sockets when they may have changed.

Usable without Kubernetes: `read_netns` takes any ns/net file, or None for the namespace it runs in.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sockethealth_agent import facts as making
from sockethealth_agent import folding, netns, owners, procfs
from sockethealth_agent.facts import Holder, Observed
from sockethealth_agent.folding import CloseWaitFacts, Conversations, Limits, Reader
from sockethealth_agent.inet_diag import TcpState
from sockethealth_agent.netns import NetnsId
from sockethealth_agent.owners import Sought
from sockethealth_agent.procfs import NetCounters, SockStat
from sockethealth_agent.rates import Reading, rates
from sockethealth_agent.sightings import Ages, first_sightings
from sockethealth_core.capacity import TIME_WAIT_SECONDS
from sockethealth_core.resources import Facts

LONGEST_UNDUMPED_SECONDS: Final = 60.0
"""A full dump is made at least this often, though nothing seems to have moved."""
HOLDER_RETRY_SECONDS: Final = 60.0
"""A socket whose holder was not found is searched for again after this."""
_SEGMENTS: Final = ("InSegs", "OutSegs", "ActiveOpens", "PassiveOpens", "AttemptFails", "EstabResets", "OutRsts")
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
        dumped_at: when all sockets were last read; `kept` are they, while nothing moves.
        dumps: how many full dumps were made.
    """

    counters: Reading | None = None
    stopped_listening: dict[int, float | None] = field(default_factory=dict)
    sightings: dict[int, float] = field(default_factory=dict)
    holders: dict[int, Holder | None] = field(default_factory=dict)
    searched_at: float = float("-inf")
    moved: tuple[Any, ...] = ()
    dumped_at: float = float("-inf")
    kept: Conversations | None = None
    dumps: int = 0

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
class Tier1:
    """The cheap part of a reading."""

    netns: NetnsId
    counters: NetCounters
    sockstat: SockStat
    sysctls: Mapping[str, str]


def may_have_changed(memory: Memory, moved: tuple[Any, ...], now: float) -> bool:
    """Whether all sockets have to be read again.

    A socket does not change its state without a segment or a change of its namespace's counts. The age of what is
    kept is bounded all the same, and sockets of any state but ESTABLISHED and LISTEN are never kept: they age.
    """
    return memory.kept is None or memory.moved != moved or now - memory.dumped_at >= LONGEST_UNDUMPED_SECONDS


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
    with ExitStack() as stack:
        with _inside(path, expected):
            sock = stack.enter_context(netns.open_diag_socket())
            tier1 = read_tier1(proc)
        reading = Reading(tier1.netns, now, tier1.counters)
        if memory.counters is not None and memory.counters.netns != tier1.netns:
            _forget(memory)
        listeners, _ended = reader.listeners(sock)
        ports = memory.listening((one.port for one in listeners), now)
        low, high = making.ephemeral_range(tier1.sysctls)
        moved = _moved(tier1, listeners)
        found, close_wait = memory.kept, CloseWaitFacts()
        if found is None or may_have_changed(memory, moved, now):
            sockets = reader.read(sock, low=low, high=high, recent_listening_ports=ports)
            listeners, found, close_wait = sockets.listeners, sockets.conversations, sockets.close_wait
            memory.kept = found if is_quiet(found) and not sockets.inconsistent else None
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
    built = making.build(observed, min_ages, observed_at)
    memory.counters = reading
    return built


def read_tier1(proc: Path = procfs.PROC) -> Tier1:
    """Counters and sysctls of the calling thread's namespace.

    Raises:
        procfs.ProcessGone: its files in /proc could not be read.
        procfs.ProcLayoutError: they look as none that is known.
    """
    return Tier1(
        netns=netns.identity(),
        counters=procfs.read_counters("thread-self", proc),
        sockstat=procfs.read_sockstat("thread-self", proc),
        sysctls=netns.read_sysctls(making.SYSCTL_NAMES, root=str(proc / "sys")),
    )


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


def _moved(tier1: Tier1, listeners: Iterable[folding.Listener]) -> tuple[Any, ...]:
    tcp, stat = tier1.counters.tcp, tier1.sockstat
    return (
        *(tcp.get(name) for name in _SEGMENTS),
        (stat.inuse, stat.inuse6, stat.time_wait),
        tuple((one.port, one.inode) for one in listeners),
    )


def _inside(path: str | None, expected: NetnsId | None) -> AbstractContextManager[Any]:
    return nullcontext() if path is None else netns.entered(path, expected)
