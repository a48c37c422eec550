"""One sweep over the node: every pod's sockets, and the node's own.

What cannot be read this time keeps its last facts, is counted, is logged once for its reason, and is tried again at
the next sweep. A sweep logs one line for a reason, however many pods have it. Nothing here knows of the API server.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from sockethealth_agent import conntrack, discovery, hostnetns, netns, procfs
from sockethealth_agent import facts as making
from sockethealth_agent.discovery import Discovery, KnownProcesses, PodProcesses
from sockethealth_agent.facts import Observed
from sockethealth_agent.folding import CgroupSockets, CloseWaitFacts, NetnsSockets, Reader
from sockethealth_agent.inet_diag import DumpFailed, TcpState
from sockethealth_agent.netns import NetnsError, NetnsId, NetnsRefused
from sockethealth_agent.pace import STEADY_PACE, Pace
from sockethealth_agent.pods import PodInfo
from sockethealth_agent.procfs import NetCounters, ProcessGone, ProcLayoutError
from sockethealth_agent.rates import Reading
from sockethealth_agent.reading import (
    Memory,
    Tier1,
    close_wait_again,
    dear_dump,
    find_holders,
    is_due,
    is_waited_for,
    new_reader,
    read_netns,
    read_tier1,
    signs_of,
)
from sockethealth_agent.sightings import Ages, first_sightings
from sockethealth_core.resources import Conntrack, Facts, NodeFacts, Orphans, Sockets, TcpMemory
from sockethealth_core.sysctls import SYSCTLS
from sockethealth_core.units import format_time

LOG = logging.getLogger(__name__)
ABSENT_SWEEPS: Final = 3
"""For so many sweeps a running pod may have no process before it is said: it may have just begun or ended."""
READ_ERRORS: Final = (NetnsError, DumpFailed, ProcessGone, ProcLayoutError)
_NODE_SYSCTLS: Final = tuple(sorted({sysctl.name for sysctl in SYSCTLS} | set(making.SYSCTL_NAMES)))


@dataclass(frozen=True, slots=True)
class Observation:
    """A pod's facts; `fresh` is False when they are, or in part are, those of an earlier sweep.

    All of them are where this sweep could not read the pod; where it put off a dump that is dear, what the dump tells.
    The facts' observed_time is then that of the earlier reading. `counters` are those of the pod's network namespace
    since it was made, as last read; None where that is the node's.
    """

    pod: PodInfo
    facts: Facts
    fresh: bool
    counters: NetCounters | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep found.

    Attributes:
        pods: by pod UID; pods that were never read are missing.
        failed: by pod UID, why it could not be read this time.
        node: the node's facts, without the agent's own part.
        dumps: full dumps made.
        seconds: how long it took.
        host_counters: of the node's own namespace since boot; None where it could not be read.
    """

    pods: Mapping[str, Observation]
    failed: Mapping[str, str]
    node: NodeFacts
    dumps: int
    seconds: float
    host_counters: NetCounters | None = None


@dataclass
class _PodState:
    memory: Memory = field(default_factory=Memory)
    facts: Facts | None = None
    complaint: str = ""
    absent: int = 0


@dataclass(frozen=True, slots=True)
class _Host:
    """The node's own namespace as one sweep saw it.

    `at` and `observed_at` (monotonic and epoch seconds) say when its sockets were dumped; `put_off`, that this sweep
    did not. Its listeners and all that is no socket are those of this sweep all the same.
    """

    at: float
    observed_at: float
    put_off: bool
    tier1: Tier1
    limits: procfs.NodeLimits
    node_sysctls: Mapping[str, str]
    sockets: NetnsSockets
    by_cgroup: CgroupSockets
    cgroups: Mapping[str, frozenset[int]]
    close_wait: Mapping[str, CloseWaitFacts]
    insert_failed_per_second: float


class Sampler:
    """Keeps what one sweep needs of the one before. Not for several threads: it moves its own between namespaces."""

    def __init__(
        self,
        *,
        proc: Path = procfs.PROC,
        cgroup_root: Path = Path("/sys/fs/cgroup"),
        host_netns: str | None = None,
        reader: Reader | None = None,
        pace: Pace = STEADY_PACE,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads nothing yet.

        Args:
            proc: the node's /proc, showing all its processes.
            cgroup_root: the node's /sys/fs/cgroup, for pods of the host network.
            host_netns: an ns/net file of the node's own namespace; None to find it.
            reader: for tests.
            pace: when to put off a dump that is dear.
            clock: monotonic seconds.
            wall_clock: epoch seconds.
        """
        self._proc = proc
        self._cgroup_root = cgroup_root
        self._host_given = host_netns
        self._host_path = host_netns
        self._host_id: NetnsId | None = None
        self._container_cgroups: dict[int, str] | None = None
        self._reader = reader or new_reader()
        self._pace = pace
        self._clock = clock
        self._wall_clock = wall_clock
        self._processes = KnownProcesses()
        self._states: dict[str, _PodState] = {}
        self._host_memory = Memory()
        self._host_kept: _Host | None = None
        self._host_complaint = ""
        self._host_sockets = Sockets()
        self._host_sysctls: dict[str, str] = {}
        self._insert_failed: tuple[float, int] | None = None
        self._odd = False
        self._complaints: dict[str, list[str]] = {}
        self._recoveries: list[PodInfo] = []

    def sweep(
        self,
        pods: Mapping[str, PodInfo],
        min_ages: Iterable[float] = (making.DEFAULT_MIN_AGE_SECONDS,),
    ) -> Sweep:
        """Read every pod that has processes here, and the node.

        Args:
            pods: by UID, as the API server knows them; completed ones are passed over.
            min_ages: ages to count CLOSE_WAIT by.

        Raises:
            netns.NetnsStuck: the process must end.
        """
        started = self._clock()
        ages = tuple(min_ages)
        self._container_cgroups = None
        wanted = {uid: pod for uid, pod in pods.items() if not pod.completed}
        self._states = {uid: state for uid, state in self._states.items() if uid in wanted}
        seen = discovery.discover(self._proc, self._processes, self._host_identity())
        self._say_odd(seen.odd)
        dumps_before = sum(state.memory.dumps for state in self._states.values())
        failed: dict[str, str] = {}
        shared = [uid for uid, pod in wanted.items() if self._shares_host(uid, pod, seen)]
        for uid, pod in wanted.items():
            if uid in shared:
                continue
            self._read_pod(pod, seen, ages, failed)
        host = self._read_host(shared, wanted, seen, ages, failed)
        self._say()
        observed = {
            uid: Observation(
                wanted[uid],
                state.facts,
                fresh=uid not in failed and not state.memory.put_off,
                counters=state.memory.counted,
            )
            for uid, state in self._states.items()
            if state.facts is not None
        }
        own = [one.facts.sockets for uid, one in observed.items() if uid not in shared]
        return Sweep(
            pods=observed,
            failed=failed,
            node=self._node_facts(host, own, len(observed), len(failed)),
            dumps=sum(state.memory.dumps for state in self._states.values())
            - dumps_before
            + (host is not None and not host.put_off),
            seconds=self._clock() - started,
            host_counters=None if host is None else host.tier1.counters,
        )

    def _shares_host(self, uid: str, pod: PodInfo, seen: Discovery) -> bool:
        processes = seen.pods.get(uid)
        return pod.host_network or (processes is not None and processes.host_network)

    def _host_identity(self) -> NetnsId | None:
        """The node's namespace, looked for anew where the process that showed it has gone."""
        if self._host_given is None and not self._shows_host():
            self._host_path = hostnetns.find(self._proc)
        if self._host_path is None:
            return None
        try:
            self._host_id = netns.identity(self._host_path)
        except NetnsError:
            return None  # said by _read_host, which needs it more
        return self._host_id

    def _shows_host(self) -> bool:
        if self._host_path is None:
            return False
        try:
            return netns.identity(self._host_path) == self._host_id
        except NetnsError:
            return False

    def _containers(self) -> Mapping[int, str]:
        """Container id by cgroup v2 id, read at most once a sweep."""
        if self._container_cgroups is None:
            root = discovery.cgroup2_root(self._cgroup_root)
            self._container_cgroups = {} if root is None else discovery.containers_of_cgroup_ids(root)
        return self._container_cgroups

    def _read_pod(self, pod: PodInfo, seen: Discovery, ages: tuple[float, ...], failed: dict[str, str]) -> None:
        state = self._states.setdefault(pod.uid, _PodState())
        processes = self._processes_of(pod, seen, state, failed)
        if processes is None:
            return
        try:
            state.facts = read_netns(
                processes.netns_path,
                state.memory,
                self._reader,
                now=self._clock(),
                observed_at=self._wall_clock(),
                min_ages=ages,
                expected=processes.netns,
                confirm=partial(discovery.confirm, processes, self._proc),
                pids=_pids(processes),
                container_names=pod.containers,
                containers=self._containers,
                proc=self._proc,
                pace=self._pace,
            )
        except READ_ERRORS as error:
            self._complain(pod, state, failed, f"its sockets could not be read, and are tried again: {error}")
        else:
            self._recovered(pod, state)

    def _processes_of(
        self, pod: PodInfo, seen: Discovery, state: _PodState, failed: dict[str, str]
    ) -> PodProcesses | None:
        processes = seen.pods.get(pod.uid)
        if processes is not None:
            state.absent = 0
            return processes
        refused = seen.refused.get(pod.uid)
        if refused is not None:
            self._complain(pod, state, failed, f"its network namespace may not be looked at: {refused}")
        elif pod.phase == "Running" and not pod.deleting:
            state.absent += 1
            if state.absent >= ABSENT_SWEEPS:
                self._complain(
                    pod,
                    state,
                    failed,
                    "none of its processes is visible on this node: it runs in a virtual machine, or the agent lacks "
                    "hostPID.",
                )
        return None

    def _complain(self, pod: PodInfo, state: _PodState, failed: dict[str, str], sentence: str) -> None:
        failed[pod.uid] = sentence
        # The path in a sentence changes with the pid, which is no new reason.
        reason = sentence.partition(":")[0]
        if state.complaint != reason:
            state.complaint = reason
            self._complaints.setdefault(reason, []).append(f"{pod}: {sentence}")

    def _recovered(self, pod: PodInfo, state: _PodState) -> None:
        if state.complaint:
            self._recoveries.append(pod)
            state.complaint = ""

    def _say(self) -> None:
        for complaints in self._complaints.values():
            LOG.warning("%s%s", complaints[0], _likewise(len(complaints) - 1))
        if self._recoveries:
            LOG.info("%s: its sockets are read again.%s", self._recoveries[0], _likewise(len(self._recoveries) - 1))
        self._complaints, self._recoveries = {}, []

    def _say_odd(self, odd: Mapping[int, str]) -> None:
        if odd and not self._odd:
            LOG.warning(
                "%d processes are passed over, because their files look as none that is known: %s",
                len(odd),
                next(iter(odd.values())),
            )
        self._odd = bool(odd)

    def _read_host(
        self,
        shared: list[str],
        pods: Mapping[str, PodInfo],
        seen: Discovery,
        ages: tuple[float, ...],
        failed: dict[str, str],
    ) -> _Host | None:
        try:
            host = self._visit_host(shared, *self._host_source(shared, seen))
        except READ_ERRORS as error:
            if not self._host_complaint:
                self._host_complaint = str(error)
                LOG.warning("The node's own network namespace could not be read, and is tried again: %s", error)
            for uid in shared:
                state = self._states.setdefault(uid, _PodState())
                self._complain(pods[uid], state, failed, f"the node's network namespace could not be read: {error}")
            return None
        if self._host_complaint:
            LOG.info("The node's own network namespace is read again.")
            self._host_complaint = ""
        for uid in shared:
            if host.put_off and host.cgroups and uid not in host.cgroups:
                continue  # it came after the dump, and waits for the next
            self._fold_shared(pods[uid], host, seen, ages, failed)
        return host

    def _host_source(self, shared: list[str], seen: Discovery) -> tuple[str, NetnsId | None]:
        if self._host_path is not None and seen.host_netns is not None:
            return self._host_path, seen.host_netns
        # A pod that the API server has on the node's network shows the same.
        for uid in shared:
            if uid in seen.pods:
                return seen.pods[uid].netns_path, seen.pods[uid].netns
        if self._host_path is not None:
            return self._host_path, None
        raise NetnsRefused(
            f"{self._proc}/1/ns/net",
            "neither process 1 nor any other process in its network namespace may be looked at: the agent needs "
            "hostPID and CAP_SYS_PTRACE, or --host-netns.",
        )

    def _visit_host(self, shared: list[str], source: str, expected: NetnsId | None) -> _Host:
        with ExitStack() as stack:
            with netns.entered(source, expected):
                sock = stack.enter_context(netns.open_diag_socket())
                sysctls = netns.read_sysctls(_NODE_SYSCTLS, root=str(self._proc / "sys"))
                tier1 = read_tier1(self._proc, sysctls)
                limits = procfs.read_node_limits(self._proc)
                insert_failed = conntrack.read_insert_failed(self._proc)
            host = self._dump_host(sock, tier1, limits, sysctls, shared)
        return replace(host, insert_failed_per_second=self._insert_failed_per_second(insert_failed))

    def _dump_host(
        self,
        sock: socket.socket,
        tier1: Tier1,
        limits: procfs.NodeLimits,
        sysctls: Mapping[str, str],
        shared: list[str],
    ) -> _Host:
        """All sockets of the node's own namespace; those of before, where a dump is dear and not due."""
        memory, now = self._host_memory, self._clock()
        low, high = making.ephemeral_range(tier1.sysctls)
        listeners, _ended = self._reader.listeners(sock)
        ports = memory.listening((one.port for one in listeners), now)
        roles = (tier1.netns, ports, low, high, frozenset(shared))
        before, memory.counters = memory.counters, Reading(tier1.netns, now, tier1.counters)
        kept = self._host_kept
        if kept is not None and memory.dear is not None and kept.tier1.netns == tier1.netns:
            memory.looked = close_wait_again(memory.looked, sock, self._reader, ports, now, self._pace)
            signs = signs_of(tier1, before, now, roles, memory.looked.close_wait.count)
            if not is_due(memory.dear, signs, self._pace):
                return replace(
                    kept,
                    put_off=True,
                    tier1=tier1,
                    limits=limits,
                    node_sysctls=sysctls,
                    sockets=replace(kept.sockets, listeners=listeners),
                )
        began = time.thread_time()
        sockets = self._reader.read(sock, low=low, high=high, recent_listening_ports=ports, known_listeners=listeners)
        by_cgroup = CgroupSockets({}, {}, {})
        cgroups: dict[str, frozenset[int]] = {}
        close_wait: dict[str, CloseWaitFacts] = {}
        if shared:
            by_cgroup, _ended = self._reader.read_by_cgroup(sock, low=low, high=high, recent_listening_ports=ports)
            cgroups = self._cgroups_of(shared)
            for uid, ids in cgroups.items():
                if any(_close_waits(by_cgroup, one) for one in ids):
                    close_wait[uid], _ended = self._reader.close_wait_by_cgroup(sock, ports, ids)
        cost_seconds = time.thread_time() - began
        observed_at = self._wall_clock()
        memory.dear = self._host_kept = None
        host = _Host(now, observed_at, False, tier1, limits, sysctls, sockets, by_cgroup, cgroups, close_wait, 0.0)
        if self._pace.is_dear(cost_seconds):
            used = making.ephemeral_ports(
                sockets.conversations.destinations, making.local_ports(tier1.sysctls, ports), tier1.sysctls
            )
            signs = signs_of(tier1, before, now, roles, sockets.close_wait.count)
            memory.dear = dear_dump(sockets.conversations, cost_seconds, observed_at, signs, used)
            self._host_kept = host
        return host

    def _insert_failed_per_second(self, count: int | None) -> float:
        now = self._clock()
        before, self._insert_failed = self._insert_failed, None if count is None else (now, count)
        if before is None or count is None or now <= before[0]:
            return 0.0
        return round(max(0, count - before[1]) / (now - before[0]), 2)

    def _cgroups_of(self, uids: Iterable[str]) -> dict[str, frozenset[int]]:
        root = discovery.cgroup2_root(self._cgroup_root)
        if root is None:
            return {}
        ids: dict[str, set[int]] = {uid: set() for uid in uids}
        for inode, uid in discovery.pods_of_cgroup_ids(root).items():
            if uid in ids:
                ids[uid].add(inode)
        return {uid: frozenset(found) for uid, found in ids.items()}

    def _fold_shared(
        self, pod: PodInfo, host: _Host, seen: Discovery, ages: tuple[float, ...], failed: dict[str, str]
    ) -> None:
        state = self._states.setdefault(pod.uid, _PodState())
        processes = self._processes_of(pod, seen, state, failed)
        if processes is None:
            return
        ids = host.cgroups.get(pod.uid, frozenset())
        if not ids:
            self._complain(
                pod,
                state,
                failed,
                f"it shares the node's network namespace and has no cgroup v2 under {self._cgroup_root}: its "
                "sockets cannot be told from the node's.",
            )
            return
        now, state.memory.put_off = host.at, host.put_off
        mine = [one for one in host.sockets.listeners if one.cgroup_id in ids]
        found = host.close_wait.get(pod.uid, CloseWaitFacts())
        ports = state.memory.listening({one.port for one in mine}, now)
        conversations = making.merged(
            [host.by_cgroup.cgroups[one] for one in ids if one in host.by_cgroup.cgroups],
            {port: host.by_cgroup.time_wait_by_local_port.get(port, 0) for port in ports},
        )
        state.memory.sightings = first_sightings(state.memory.sightings, found.tracked, now)
        holders = find_holders(
            state.memory,
            [*found.held, *(one for one in mine if is_waited_for(one, conversations))],
            _pids(processes),
            pod.containers,
            now,
            self._containers,
            self._proc,
        )
        observed = Observed(
            listeners=mine,
            conversations=conversations,
            close_wait=Ages(found, state.memory.sightings, now),
            sysctls=host.tier1.sysctls,
            holders=holders,
        )
        state.facts = making.build(
            observed, ages, host.observed_at, taken_ports=[one.port for one in host.sockets.listeners]
        )
        self._recovered(pod, state)

    def _node_facts(self, host: _Host | None, pods: list[Sockets], read: int, failed: int) -> NodeFacts:
        if host is not None:
            self._host_sockets = making.socket_counts(host.sockets.states, len(host.sockets.listeners))
            self._host_sysctls = dict(host.node_sysctls)
        known = NodeFacts(
            observed_time=format_time(self._wall_clock()),
            pods=read,
            pods_failed=failed,
            sockets=making.total([*pods, self._host_sockets]),
            host_sockets=self._host_sockets,
            sysctls=self._host_sysctls,
        )
        if host is None:
            return known
        stat, limits = host.tier1.sockstat, host.limits
        memory = orphans = tracked = None
        if limits.tcp_mem is not None and stat.memory_pages is not None:
            low, pressure, high = limits.tcp_mem
            memory = TcpMemory(pages=stat.memory_pages, low=low, pressure=pressure, high=high)
        if limits.tcp_max_orphans is not None and stat.orphans is not None:
            orphans = Orphans(count=stat.orphans, maximum=limits.tcp_max_orphans)
        if limits.conntrack_count is not None and limits.conntrack_max is not None:
            tracked = Conntrack(
                entries=limits.conntrack_count,
                maximum=limits.conntrack_max,
                insert_failed_per_second=host.insert_failed_per_second,
            )
        return NodeFacts(
            observed_time=known.observed_time,
            pods=read,
            pods_failed=failed,
            sockets=known.sockets,
            host_sockets=known.host_sockets,
            tcp_memory=memory,
            orphans=orphans,
            conntrack=tracked,
            sysctls=known.sysctls,
        )


def _likewise(pods: int) -> str:
    return f" The same is true of {pods} other pod{'s' * (pods > 1)}." if pods else ""


def _pids(processes: PodProcesses) -> dict[int, str | None]:
    named: dict[int, str | None] = {
        pid: container for container, members in processes.containers.items() for pid in members
    }
    return named or {processes.pid: None}


def _close_waits(by_cgroup: CgroupSockets, cgroup: int) -> int:
    found = by_cgroup.cgroups.get(cgroup)
    return 0 if found is None else found.states.get(TcpState.CLOSE_WAIT, 0)
