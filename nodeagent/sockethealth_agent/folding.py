"""Fold a socket dump into facts: counts by state, by role, by destination and by peer, without an object per socket.

Role: a socket whose local port is a listening port is inbound, any other is outbound. Outbound sockets whose local
port lies in ip_local_port_range take a port of their destination (net/ipv4/inet_hashtables.c,
__inet_hash_connect); those are what `used` counts.

The fast path makes one integer of what groups an IPv4 socket, by copying columns of a run of messages of one length,
and counts the integers; IPv6 takes a tuple of struct.iter_unpack. Its cost is that of a dictionary look-up a socket.
Groups are bounded: beyond Limits.groups the smallest are merged into one count of others, and the facts say so.
"""

import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from heapq import nlargest
from itertools import compress
from typing import Any, Protocol, TypeVar

from sockethealth_agent import inet_diag
from sockethealth_agent.inet_diag import Ended, Run, TcpState, Walk

_T_co = TypeVar("_T_co", covariant=True)

TIME_WAIT_MS = 60_000
"""TCP_TIMEWAIT_LEN, include/net/tcp.h: fixed when the kernel is compiled."""
_UNIT_MS = 256
_YOUNGEST = TIME_WAIT_MS // _UNIT_MS
_UNITS_PER_BIN = 16
_BINS = _YOUNGEST // _UNITS_PER_BIN + 1
AGE_EDGES_MS = tuple(
    [0]
    + [TIME_WAIT_MS - (_YOUNGEST + 1 - bin_ * _UNITS_PER_BIN) * _UNIT_MS for bin_ in range(1, _BINS)]
    + [TIME_WAIT_MS]
)
"""Edges of TimeWaitAges.bins: bin i holds ages of AGE_EDGES_MS[i] up to AGE_EDGES_MS[i + 1], at most 4.1 s."""
_BIN_OF_UNIT = [min(max(_YOUNGEST - unit, 0) // _UNITS_PER_BIN, _BINS - 1) for unit in range(256)]
_STATES = 16
_FINE_KEYS = 16_384
_WORTH_A_LIST = 8192
_CLOSE_WAIT_EXACT_SECONDS = 3600
_CLOSE_WAIT_LONGEST_SECONDS = 86_400

# Offsets in a message, netlink header included.
_STATE, _LOCAL_PORT, _REMOTE_PORT, _REMOTE_ADDRESS = 17, 20, 22, 40
_EXPIRES_UNIT = 69 if sys.byteorder == "little" else 70
"""The second byte of idiag_expires: 256 ms, with no arithmetic per socket."""
_PACKED = struct.Struct("=HBx4s")
"""A group of IPv4 sockets and one small number: port as on the wire, age unit or state, remote address."""
_WORD = struct.Struct("=Q")
_PACKED_PORT = struct.Struct("=HBx")
"""Local port as on the wire, and state."""
_HALF_WORD = struct.Struct("=I")
_TWO_WORDS = struct.Struct("=QQ")

_OUTBOUND, _INBOUND, _OUTBOUND_ELSEWHERE, _BY_PORT = 0, 1, 2, 3
_SELECT = [bytes(int(role == wanted) for role in range(256)) for wanted in range(3)]
_SELECT_TIME_WAIT = bytes(int(state == TcpState.TIME_WAIT) for state in range(256))


@dataclass(frozen=True)
class Limits:
    """Bounds of what one fold keeps, whatever the number of sockets.

    groups: destinations or peers counted exactly; `top`: those reported; `tracked`: CLOSE_WAIT sockets followed one
    by one; `inodes`: CLOSE_WAIT sockets whose holder can be asked for; `cgroups`: cgroups told apart by fold_by_cgroup.
    """

    groups: int = 4096
    top: int = 256
    tracked: int = 4096
    inodes: int = 1024
    cgroups: int = 512


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Listener:
    """A listening socket. queue: connections that wait for accept(); it overflows when above backlog.

    `cgroup_id` is None before Linux 5.9; `v6only` is None for an IPv4 socket.
    """

    address: str
    port: int
    queue: int
    backlog: int
    inode: int
    uid: int
    cgroup_id: int | None
    v6only: bool | None


@dataclass(frozen=True)
class TimeWaitAges:
    """How long ago TIME_WAIT sockets were closed: counts between AGE_EDGES_MS, youngest first."""

    bins: tuple[int, ...] = (0,) * _BINS

    def closed_within(self, seconds: float) -> float:
        """Sockets closed within the last seconds (at most 60), taking a bin's as evenly spread."""
        return _up_to(self.bins, seconds * 1000)

    def closes_per_second(self, window_seconds: float = TIME_WAIT_MS / 1000) -> float:
        """Rate over the recent past. TIME_WAIT sockets that were reused or destroyed early are missing from it."""
        return self.closed_within(window_seconds) / window_seconds


@dataclass(frozen=True)
class Destination:
    """Outbound sockets to one remote address and port.

    `used` counts those on a port of the ephemeral range, TIME_WAIT included; `elsewhere` those on other ports.
    `states` (by TcpState, TIME_WAIT included) and `ages` cover both.
    """

    address: str
    port: int
    used: int
    elsewhere: int
    time_wait: int
    ages: TimeWaitAges
    states: Mapping[int, int]


@dataclass(frozen=True)
class Peer:
    """Inbound TIME_WAIT sockets of one of our listening ports with one peer address."""

    local_port: int
    address: str
    time_wait: int
    ages: TimeWaitAges


@dataclass(frozen=True)
class Others:
    """What is beyond the groups reported: sockets and groups. `exact` is False once groups had to be merged.

    Then a group that was merged and appeared again counts twice in `groups`, and a reported group may lack up to
    `undercount` sockets.
    """

    sockets: int = 0
    groups: int = 0
    exact: bool = True
    undercount: int = 0


@dataclass(frozen=True)
class ClosePeer:
    """CLOSE_WAIT sockets by whom they talked to.

    Outbound: the remote address and port. Inbound: the remote address, and `local_port` is our listening port;
    `port` is None, as each connection of a client has its own.
    """

    address: str
    port: int | None
    local_port: int | None
    count: int


@dataclass(frozen=True)
class TrackedSocket:
    """One CLOSE_WAIT socket to follow from sweep to sweep. The cookie is unique until the node restarts."""

    cookie: int
    inode: int
    at_least_ms: int


@dataclass(frozen=True, slots=True)
class HeldSocket:
    """What a CLOSE_WAIT socket tells of its holder: inode, user id and cgroup v2 id; None before Linux 5.9."""

    inode: int
    uid: int
    cgroup_id: int | None


@dataclass(frozen=True)
class CloseWaitFacts:
    """CLOSE_WAIT sockets of a namespace.

    Ages are lower bounds: the time since the last ACK came in (tcpi_last_ack_recv). The peer's FIN was not later;
    any ACK after it only lowers the bound.

    receive_queue_bytes: unread bytes, summed. ages_seconds: (whole seconds, sockets), ascending; in steps of a
    minute above an hour, and a day stands for all that is longer. held: those that a process holds, at most
    Limits.inodes. tracked: smallest cookies first, so that the same sockets are followed in each sweep.
    """

    count: int = 0
    receive_queue_bytes: int = 0
    oldest_ms: int = 0
    ages_seconds: tuple[tuple[int, int], ...] = ()
    held: tuple[HeldSocket, ...] = ()
    peers: tuple[ClosePeer, ...] = ()
    other_peers: Others = Others()
    tracked: tuple[TrackedSocket, ...] = ()

    def older_than(self, seconds: float) -> int:
        """How many have certainly been in CLOSE_WAIT for so many seconds."""
        return sum(count for age, count in self.ages_seconds if age >= seconds)

    @property
    def inodes(self) -> tuple[int, ...]:
        """The inodes of `held`."""
        return tuple(one.inode for one in self.held)


@dataclass(frozen=True)
class Conversations:
    """All sockets of a dump but the listeners.

    states: by TcpState, NEW_SYN_RECV counted as SYN_RECV; numbers of no known state are in `unknown_states`.
    inbound: (listening port, TcpState) -> sockets, TIME_WAIT included, so that SYN_RECV is known by listener.
    """

    states: Mapping[int, int]
    unknown_states: int
    inbound: Mapping[tuple[int, int], int]
    inbound_time_wait: int
    inbound_ages: TimeWaitAges
    peers: tuple[Peer, ...]
    other_peers: Others
    outbound_time_wait: int
    outbound_ages: TimeWaitAges
    destinations: tuple[Destination, ...]
    other_destinations: Others


@dataclass(frozen=True)
class CgroupSockets:
    """What fold_by_cgroup found: full sockets by cgroup v2 id (0: too many cgroups, or a socket without one)."""

    cgroups: Mapping[int, Conversations]
    listeners: Mapping[int, int]
    time_wait_by_local_port: Mapping[int, int]


@dataclass(frozen=True)
class NetnsSockets:
    """Everything one visit to a namespace found. `inconsistent`: the tables changed under every attempt."""

    listeners: tuple[Listener, ...]
    conversations: Conversations
    close_wait: CloseWaitFacts
    inconsistent: bool

    @property
    def states(self) -> dict[int, int]:
        """Sockets by TcpState, LISTEN included."""
        return {**self.conversations.states, int(TcpState.LISTEN): len(self.listeners)}


@dataclass(frozen=True)
class Roles:
    """What decides a socket's role: listening ports, and the ephemeral range [low, high]."""

    listening_ports: frozenset[int]
    low: int
    high: int

    def table(self) -> bytearray:
        """Role by local port as the wire has it (network byte order read as a native number)."""
        roles = bytearray(_range_table(self.low, self.high))
        for port in self.listening_ports:
            roles[socket.htons(port)] = _INBOUND
        return roles


def _roles_by_page(table: bytearray) -> bytes:
    """Role by the upper byte of the local port, and _BY_PORT where the ports that share it differ."""
    pages = bytearray([_BY_PORT]) * 256
    for upper in range(256):
        page = table[upper::256] if sys.byteorder == "little" else table[upper * 256 : upper * 256 + 256]
        if page.count(page[0]) == len(page):
            pages[upper] = page[0]
    return bytes(pages)


@lru_cache(maxsize=64)
def _range_table(low: int, high: int) -> bytes:
    roles = bytearray([_OUTBOUND_ELSEWHERE]) * 65536
    for port in range(max(low, 0), min(high, 65535) + 1):
        roles[socket.htons(port)] = _OUTBOUND
    return bytes(roles)


class _Fold(Protocol[_T_co]):
    """What a dump is walked into."""

    needs_attributes: bool

    def add(self, run: Run) -> None:
        """Fold one run."""

    def facts(self) -> _T_co:
        """The facts of all runs."""


class _Groups:
    """Counts by (address, port) and one small number: bounded, and exact while there are few groups.

    fine4, fine6: what the fast path counts into, keyed as _packed_keys and _wide_keys yield them; folded into rows when
    they have grown.
    """

    def __init__(self, width: int, row_index: list[int], keep: int, *, small_last: bool) -> None:
        self.fine4: Counter[int] = Counter()
        self.fine6: Counter[tuple[int, ...]] = Counter()
        self.rows: dict[tuple[bytes, int], list[int]] = {}
        self.total = [0] * width
        self._row_index = row_index
        self._keep = keep
        self._small_last = small_last
        self.merged_groups = 0
        self.undercount = 0

    def bound(self) -> None:
        """Settle when much was counted."""
        if len(self.fine4) + len(self.fine6) > _FINE_KEYS:
            self.settle()

    def settle(self) -> None:
        """Move what was counted into rows."""
        for key, count in self.fine4.items():
            port, small, address = _PACKED.unpack(_WORD.pack(key))
            self._add((address, port), small, count)
        for fields, count in self.fine6.items():
            if self._small_last:
                port, *words, small = fields
            else:
                small, port, *words = fields
            address = inet_diag.packed_address(socket.AF_INET6, _TWO_WORDS.pack(*words))
            self._add((address, port), small, count)
        self.fine4.clear()
        self.fine6.clear()
        if len(self.rows) > 2 * self._keep:
            self._merge_smallest()

    def _add(self, key: tuple[bytes, int], small: int, count: int) -> None:
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = [0] * len(self.total)
        column = self._row_index[small]
        row[column] += count
        self.total[column] += count

    def _merge_smallest(self) -> None:
        kept = dict(nlargest(self._keep, self.rows.items(), key=_row_size))
        for key, row in self.rows.items():
            if key not in kept:
                size = sum(row)
                self.merged_groups += 1
                self.undercount = max(self.undercount, size)
        self.rows = kept


def _row_size(item: tuple[tuple[bytes, int], list[int]]) -> int:
    return sum(item[1])


class ConversationFold:
    """Takes runs of any sockets but listeners; `facts` may be called once, at the end."""

    needs_attributes = False

    def __init__(self, roles: Roles, limits: Limits = DEFAULT_LIMITS, role_table: bytearray | None = None) -> None:
        self._limits = limits
        self._role_table = role_table or roles.table()
        self._role_of: Callable[[int], int] = self._role_table.__getitem__
        self._role_of_page: bytes | None = None
        self._folded = 0
        self._states = [0] * 256
        states = [state if state < _STATES else 0 for state in range(256)]
        self._closed = {
            role: _Groups(_BINS, _BIN_OF_UNIT, limits.groups, small_last=True)
            for role in (_OUTBOUND, _INBOUND, _OUTBOUND_ELSEWHERE)
        }
        self._live = {
            role: _Groups(_STATES, states, limits.groups, small_last=False) for role in (_OUTBOUND, _OUTBOUND_ELSEWHERE)
        }
        self._inbound: Counter[int] = Counter()

    def add(self, run: Run) -> None:
        """Fold one run."""
        for same in _by_family(run):
            family = same.view[16]
            states = bytes(same.view[17 :: same.stride])
            time_wait = states.count(TcpState.TIME_WAIT)
            if time_wait in (0, same.count):
                self._fold(same, family, states, closed=bool(time_wait))
                continue
            chosen = states.translate(_SELECT_TIME_WAIT)
            offsets = range(0, same.count * same.stride, same.stride)
            for closed in (True, False):
                part = inet_diag.gather(same.view, (o for o, c in zip(offsets, chosen, strict=True) if c == closed))
                self._fold(part, family, bytes(part.view[17 :: part.stride]), closed=closed)

    def _fold(self, run: Run, family: int, states: bytes, *, closed: bool) -> None:
        if closed:
            self._states[TcpState.TIME_WAIT] += run.count
        else:
            for state in set(states):
                self._states[state] += states.count(state)
        roles = self._roles(run)
        for role in (_OUTBOUND, _INBOUND, _OUTBOUND_ELSEWHERE):
            matching = roles.count(role)
            if not matching:
                continue
            groups = (self._closed if closed else self._live).get(role)
            counted: Counter[Any] = self._inbound
            keys: Iterable[Any]
            if groups is None:
                keys = _packed_ports(run)
            elif family == socket.AF_INET:
                counted, keys = groups.fine4, _packed_keys(run, closed=closed, inbound=role == _INBOUND)
            else:
                counted, keys = groups.fine6, _wide_keys(run, closed=closed, inbound=role == _INBOUND)
            if matching != run.count:
                keys = compress(keys, roles.translate(_SELECT[role]))
            counted.update(keys)
            if groups is not None:
                groups.bound()

    def _roles(self, run: Run) -> bytes:
        """The role of each message."""
        # What is quick to ask takes a while to make, so it pays off for many sockets only.
        before, self._folded = self._folded, self._folded + run.count
        if before < _WORTH_A_LIST <= self._folded:
            self._role_of = list(self._role_table).__getitem__
            self._role_of_page = _roles_by_page(self._role_table)
        if self._role_of_page is not None:
            roles = bytes(run.view[_LOCAL_PORT :: run.stride]).translate(self._role_of_page)
            if _BY_PORT not in roles:
                return roles
            self._role_of_page = None  # what follows is of the same kind
        return bytes(map(self._role_of, run.view.cast("H")[_LOCAL_PORT // 2 :: run.stride // 2]))

    def facts(self) -> Conversations:
        """The facts of all runs."""
        for groups in (*self._closed.values(), *self._live.values()):
            groups.settle()
        states = {int(state): self._states[state] for state in TcpState if state is not TcpState.NEW_SYN_RECV}
        states[TcpState.SYN_RECV] += self._states[TcpState.NEW_SYN_RECV]
        inbound: Counter[tuple[int, int]] = Counter()
        for key, count in self._inbound.items():
            port, state = _PACKED_PORT.unpack(_HALF_WORD.pack(key))
            inbound[socket.ntohs(port), _known(state)] += count
        peers, other_peers = self._peers()
        for (_address, port), row in self._closed[_INBOUND].rows.items():
            inbound[socket.ntohs(port), int(TcpState.TIME_WAIT)] += sum(row)
        destinations, other_destinations = self._destinations()
        inbound_ages = TimeWaitAges(tuple(self._closed[_INBOUND].total))
        outbound_ages = _added(self._closed[_OUTBOUND].total, self._closed[_OUTBOUND_ELSEWHERE].total)
        return Conversations(
            states=states,
            unknown_states=sum(self._states) - sum(states.values()),
            inbound=dict(inbound),
            inbound_time_wait=sum(inbound_ages.bins),
            inbound_ages=inbound_ages,
            peers=peers,
            other_peers=other_peers,
            outbound_time_wait=sum(outbound_ages.bins),
            outbound_ages=outbound_ages,
            destinations=destinations,
            other_destinations=other_destinations,
        )

    def _peers(self) -> tuple[tuple[Peer, ...], Others]:
        groups = self._closed[_INBOUND]
        best = nlargest(self._limits.top, groups.rows.items(), key=_row_size)
        peers = tuple(
            Peer(socket.ntohs(port), inet_diag.address_text(address), sum(row), TimeWaitAges(tuple(row)))
            for (address, port), row in best
        )
        sockets = sum(groups.total) - sum(peer.time_wait for peer in peers)
        return peers, _others(sockets, len(groups.rows) - len(peers), [groups])

    def _destinations(self) -> tuple[tuple[Destination, ...], Others]:
        groups = [self._closed[_OUTBOUND], self._live[_OUTBOUND]]
        elsewhere = [self._closed[_OUTBOUND_ELSEWHERE], self._live[_OUTBOUND_ELSEWHERE]]
        every = [*groups, *elsewhere]
        used: Counter[tuple[bytes, int]] = Counter()
        for group in groups:
            for key, row in group.rows.items():
                used[key] += sum(row)
        off_range: Counter[tuple[bytes, int]] = Counter()
        for group in elsewhere:
            for key, row in group.rows.items():
                off_range[key] += sum(row)
        keys = used.keys() | off_range.keys()
        best = nlargest(self._limits.top, keys, key=lambda key: (used[key], off_range[key]))
        destinations = tuple(self._destination(key, used[key], off_range[key]) for key in best)
        sockets = sum(sum(group.total) for group in every) - sum(d.used + d.elsewhere for d in destinations)
        return destinations, _others(sockets, len(keys) - len(best), every)

    def _destination(self, key: tuple[bytes, int], used: int, elsewhere: int) -> Destination:
        closed = _added(*(self._closed[role].rows.get(key, ()) for role in (_OUTBOUND, _OUTBOUND_ELSEWHERE)))
        time_wait = sum(closed.bins)
        states: Counter[int] = Counter({int(TcpState.TIME_WAIT): time_wait} if time_wait else {})
        for live in self._live.values():
            for state, count in enumerate(live.rows.get(key, ())):
                if count:
                    states[_known(state)] += count
        address, port = key
        return Destination(
            inet_diag.address_text(address), socket.ntohs(port), used, elsewhere, time_wait, closed, dict(states)
        )


class ListenerFold:
    """Takes runs of LISTEN sockets, with their attributes."""

    needs_attributes = True

    def __init__(self) -> None:
        self._found: list[Listener] = []

    def add(self, run: Run) -> None:
        """Fold one run."""
        for one in inet_diag.singly(run):
            sock = inet_diag.decode(one.view)
            if sock.state == TcpState.LISTEN:
                self._found.append(
                    Listener(
                        sock.local_address, sock.local_port, sock.queue, sock.backlog, sock.inode, sock.uid,
                        sock.cgroup_id, sock.v6only,
                    )
                )  # fmt: skip

    def facts(self) -> tuple[Listener, ...]:
        """The listeners, by port and address."""
        return tuple(sorted(self._found, key=lambda one: (one.port, one.address, one.inode)))


class CloseWaitFold:
    """Takes runs of CLOSE_WAIT sockets that were asked for with EXT_INFO."""

    needs_attributes = True

    def __init__(self, listening_ports: Iterable[int], limits: Limits = DEFAULT_LIMITS) -> None:
        self._inbound_ports = frozenset(socket.htons(port) for port in listening_ports)
        self._limits = limits
        self._count = self._unread = self._oldest = 0
        self._ages: Counter[int] = Counter()
        self._held: list[HeldSocket] = []
        self._peers: Counter[tuple[bytes, int, bool]] = Counter()
        self._merged_groups = 0
        self._undercount = 0
        self._tracked: list[tuple[int, int, int]] = []

    def add(self, run: Run) -> None:
        """Fold one run."""
        try:
            info = inet_diag.attribute_at(run, inet_diag.INET_DIAG_INFO)
            cgroup = inet_diag.attribute_at(run, inet_diag.INET_DIAG_CGROUP_ID)
        except LookupError:
            for one in inet_diag.singly(run):
                self.add(one)
            return
        family = run.view[16]
        if info is None:
            ages: Iterable[tuple[int]] = ((0,) for _ in range(run.count))
        else:
            ages = _struct(f"={info + inet_diag.LAST_ACK_RECV_OFFSET}xI", info + 60, run.stride).iter_unpack(run.view)
        cgroups: Iterable[tuple[int | None]] = ((None,) for _ in range(run.count))
        if cgroup is not None:
            cgroups = _struct(f"={cgroup}xQ", cgroup + 8, run.stride).iter_unpack(run.view)
        sockets = _struct("=17xB2xHH16x16s4xQ4xI4xII", 88, run.stride).iter_unpack(run.view)
        for (state, sport, dport, dst, cookie, unread, uid, inode), (age,), (cgroup_id,) in zip(
            sockets, ages, cgroups, strict=True
        ):
            if state != TcpState.CLOSE_WAIT:
                continue
            self._count += 1
            # The peer's FIN takes a sequence number, so it counts as one byte until the application has read up to it
            # (net/ipv4/tcp_diag.c, tcp_diag_get_info).
            self._unread += max(0, unread - 1)
            self._oldest = max(self._oldest, age)
            self._ages[_whole_seconds(age)] += 1
            inbound = sport in self._inbound_ports
            packed = inet_diag.packed_address(family, dst)
            self._peers[packed, sport if inbound else dport, inbound] += 1
            self._tracked.append((cookie, inode, age))
            if len(self._held) < self._limits.inodes and inode:
                self._held.append(HeldSocket(inode, uid, cgroup_id))
        self._trim()

    def facts(self) -> CloseWaitFacts:
        """The facts of all runs."""
        best = self._peers.most_common(self._limits.top)
        named = sum(count for _key, count in best)
        return CloseWaitFacts(
            count=self._count,
            receive_queue_bytes=self._unread,
            oldest_ms=self._oldest,
            ages_seconds=tuple(sorted(self._ages.items())),
            held=tuple(self._held),
            peers=tuple(
                ClosePeer(
                    inet_diag.address_text(address),
                    None if inbound else socket.ntohs(port),
                    socket.ntohs(port) if inbound else None,
                    count,
                )
                for (address, port, inbound), count in best
            ),
            other_peers=Others(
                self._count - named,
                len(self._peers) - len(best) + self._merged_groups,
                exact=not self._merged_groups,
                undercount=self._undercount,
            ),
            tracked=tuple(TrackedSocket(*entry) for entry in sorted(self._tracked)[: self._limits.tracked]),
        )

    def _trim(self) -> None:
        if len(self._tracked) > 2 * self._limits.tracked:
            self._tracked = sorted(self._tracked)[: self._limits.tracked]
        if len(self._peers) > 2 * self._limits.groups:
            kept = dict(self._peers.most_common(self._limits.groups))
            for key, count in self._peers.items():
                if key not in kept:
                    self._merged_groups += 1
                    self._undercount = max(self._undercount, count)
            self._peers = Counter(kept)


class CgroupFold:
    """Takes runs of full sockets with their attributes, and keeps a ConversationFold for each cgroup."""

    needs_attributes = True

    def __init__(self, roles: Roles, limits: Limits = DEFAULT_LIMITS) -> None:
        self._roles = roles
        self._limits = limits
        self._table = roles.table()
        self._folds: dict[int, ConversationFold] = {}
        self._listeners: Counter[int] = Counter()
        self._time_wait: Counter[int] = Counter()

    def add(self, run: Run) -> None:
        """Fold one run; TIME_WAIT carries no cgroup and is counted by local port."""
        try:
            at = inet_diag.attribute_at(run, inet_diag.INET_DIAG_CGROUP_ID)
        except LookupError:
            for one in inet_diag.singly(run):
                self.add(one)
            return
        offsets = range(0, run.count * run.stride, run.stride)
        by_cgroup: dict[int, list[int]] = {}
        ids = [(0,)] * run.count if at is None else _struct(f"={at}xQ", at + 8, run.stride).iter_unpack(run.view)
        for offset, (cgroup,) in zip(offsets, ids, strict=True):
            state = run.view[offset + 17]
            if state == TcpState.LISTEN:
                self._listeners[cgroup] += 1
            elif state == TcpState.TIME_WAIT:
                self._time_wait[int.from_bytes(run.view[offset + 20 : offset + 22], "big")] += 1
            else:
                by_cgroup.setdefault(cgroup, []).append(offset)
        for cgroup, chosen in by_cgroup.items():
            self._fold_of(cgroup).add(inet_diag.gather(run.view, chosen))

    def facts(self) -> CgroupSockets:
        """The facts of all runs."""
        return CgroupSockets(
            {cgroup: fold.facts() for cgroup, fold in self._folds.items()},
            dict(self._listeners),
            dict(self._time_wait),
        )

    def _fold_of(self, cgroup: int) -> ConversationFold:
        if cgroup not in self._folds and len(self._folds) >= self._limits.cgroups:
            cgroup = 0
        fold = self._folds.get(cgroup)
        if fold is None:
            fold = self._folds[cgroup] = ConversationFold(self._roles, self._limits, self._table)
        return fold


def fold_into(target: _Fold[Any], chunks: Iterable[memoryview], sequence: int | None = None) -> Ended:
    """Walk the chunks of one dump into a fold; `sequence` as in Walk.

    Raises:
        DumpFailed: the dump failed or is not whole; what the fold holds is then meaningless.
    """
    walk = Walk(sequence, keep_attributes=target.needs_attributes)
    for chunk in chunks:
        for run in walk.runs(chunk):
            target.add(run)
        if walk.ended is not None:
            break
    return inet_diag.whole(walk)


def fold(chunks: Iterable[memoryview], roles: Roles, limits: Limits = DEFAULT_LIMITS) -> tuple[Conversations, Ended]:
    """Fold the chunks of one dump of anything but listeners.

    Raises:
        DumpFailed: the dump failed or is not whole.
    """
    target = ConversationFold(roles, limits)
    ended = fold_into(target, chunks)
    return target.facts(), ended


@dataclass
class Reader:
    """Reads namespaces one after the other into one reused receive buffer. Not for several threads at once.

    attempts: how often a dump is made when the kernel says that its tables changed under it.
    """

    limits: Limits = DEFAULT_LIMITS
    attempts: int = 3
    deadline_seconds: float = 10.0
    _buffer: bytearray = field(default_factory=lambda: bytearray(inet_diag.BUFFER_SIZE))
    _sequence: int = 0

    def listeners(self, sock: socket.socket) -> tuple[tuple[Listener, ...], Ended]:
        """The listening sockets of a namespace, IPv4 and IPv6; some 0.02 ms, whatever its neighbours hold.

        Raises:
            DumpFailed: no whole answer.
        """
        return self._consistent(lambda: self._dump(sock, inet_diag.MASK_LISTEN, ListenerFold()))

    def read(
        self,
        sock: socket.socket,
        *,
        low: int,
        high: int,
        recent_listening_ports: Iterable[int] = (),
        known_listeners: tuple[Listener, ...] | None = None,
    ) -> NetnsSockets:
        """All sockets of a namespace, by what diagnosis asks.

        Args:
            sock: from netns.open_diag_socket; the caller closes it.
            low: first port of ip_local_port_range.
            high: last port of it.
            recent_listening_ports: ports that had a listener less than a minute ago: their TIME_WAIT is inbound.
            known_listeners: what `listeners` found a moment ago; None to ask.

        Raises:
            DumpFailed: no whole answer.
        """
        listeners, first = known_listeners, Ended(inconsistent=False)
        if listeners is None:
            listeners, first = self.listeners(sock)
        ports = frozenset(one.port for one in listeners) | frozenset(recent_listening_ports)
        roles = Roles(ports, low, high)
        # One dump for all states and both families: each walks the hash table that all namespaces of the node
        # share, which costs a quiet pod more than its own sockets do, and a busy one more than sorting by kind.
        found, second = self._consistent(
            lambda: self._dump(sock, inet_diag.MASK_CONVERSATIONS, ConversationFold(roles, self.limits))
        )
        close_wait, third = CloseWaitFacts(), Ended(inconsistent=False)
        if found.states[TcpState.CLOSE_WAIT]:
            close_wait, third = self.close_wait(sock, ports)
        inconsistent = first.inconsistent or second.inconsistent or third.inconsistent
        return NetnsSockets(listeners, found, close_wait, inconsistent)

    def close_wait(self, sock: socket.socket, inbound_ports: Iterable[int]) -> tuple[CloseWaitFacts, Ended]:
        """The CLOSE_WAIT sockets of a namespace; where there are few, a sixth of the time of a dump of all sockets.

        Args:
            sock: from netns.open_diag_socket; the caller closes it.
            inbound_ports: ports that listen, or did of late.

        Raises:
            DumpFailed: no whole answer.
        """
        ports = frozenset(inbound_ports)
        return self._consistent(
            lambda: self._dump(
                sock, inet_diag.MASK_CLOSE_WAIT, CloseWaitFold(ports, self.limits), extensions=inet_diag.EXT_INFO
            )
        )

    def read_by_cgroup(
        self, sock: socket.socket, *, low: int, high: int, recent_listening_ports: Iterable[int] = ()
    ) -> tuple[CgroupSockets, Ended]:
        """Sockets of a namespace that several pods share, by cgroup v2 id (since Linux 5.9).

        Raises:
            DumpFailed: no whole answer.
        """
        listeners, _ended = self.listeners(sock)
        ports = frozenset(one.port for one in listeners) | frozenset(recent_listening_ports)
        roles = Roles(ports, low, high)
        return self._consistent(lambda: self._dump(sock, inet_diag.MASK_ALL, CgroupFold(roles, self.limits)))

    def close_wait_by_cgroup(
        self, sock: socket.socket, listening_ports: Iterable[int], wanted: frozenset[int]
    ) -> tuple[CloseWaitFacts, Ended]:
        """CLOSE_WAIT facts of the sockets in some cgroups (all the cgroup ids of one pod).

        Raises:
            DumpFailed: no whole answer.
        """
        ports = frozenset(listening_ports)
        return self._consistent(
            lambda: self._dump(
                sock,
                inet_diag.MASK_CLOSE_WAIT,
                _CgroupCloseWaitFold(ports, self.limits, wanted),
                extensions=inet_diag.EXT_INFO,
            )
        )

    def _consistent(self, attempt: Callable[[], tuple[_T_co, Ended]]) -> tuple[_T_co, Ended]:
        result, ended = attempt()
        for _ in range(self.attempts - 1):
            if not ended.inconsistent:
                break
            result, ended = attempt()
        return result, ended

    def _dump(self, sock: socket.socket, mask: int, target: _Fold[_T_co], extensions: int = 0) -> tuple[_T_co, Ended]:
        deadline = time.monotonic() + self.deadline_seconds
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        chunks = inet_diag.dump(
            sock,
            socket.AF_UNSPEC,
            mask,
            extensions=extensions,
            deadline=deadline,
            buffer=self._buffer,
            sequence=self._sequence,
        )
        ended = fold_into(target, chunks, self._sequence)
        return target.facts(), ended


class _CgroupCloseWaitFold(CloseWaitFold):
    """A CloseWaitFold of the sockets of some cgroups only."""

    def __init__(self, listening_ports: Iterable[int], limits: Limits, wanted: frozenset[int]) -> None:
        super().__init__(listening_ports, limits)
        self._wanted = wanted

    def add(self, run: Run) -> None:
        for one in inet_diag.singly(run):
            if inet_diag.decode(one.view).cgroup_id in self._wanted:
                super().add(one)


@cache
def _struct(fields: str, size: int, stride: int) -> struct.Struct:
    """A struct of `fields`, which take `size` bytes, padded to the stride."""
    return struct.Struct(f"{fields}{stride - size}x")


def _packed_keys(run: Run, *, closed: bool, inbound: bool) -> list[int]:
    """What makes a group, of each message of IPv4 sockets, as one number: _PACKED.

    Columns are copied with strides and the number is read as it lies in memory, which costs half of making a tuple
    and hashing it.
    """
    view, stride = run.view, run.stride
    packed = bytearray(run.count * _PACKED.size)
    keys = memoryview(packed)
    keys.cast("H")[::4] = view.cast("H")[(_LOCAL_PORT if inbound else _REMOTE_PORT) // 2 :: stride // 2]
    keys.cast("I")[1::2] = view.cast("I")[_REMOTE_ADDRESS // 4 :: stride // 4]
    packed[2::8] = view[_EXPIRES_UNIT if closed else _STATE :: stride]
    return keys.cast("Q").tolist()


def _packed_ports(run: Run) -> list[int]:
    """Local port and state of each message, as one number: _PACKED_PORT."""
    packed = bytearray(run.count * _PACKED_PORT.size)
    keys = memoryview(packed)
    keys.cast("H")[::2] = run.view.cast("H")[_LOCAL_PORT // 2 :: run.stride // 2]
    packed[2::4] = run.view[_STATE :: run.stride]
    return keys.cast("I").tolist()


def _wide_keys(run: Run, *, closed: bool, inbound: bool) -> Iterator[tuple[int, ...]]:
    """The same of IPv6 sockets: (port, address in two words, age unit) or (state, port, address in two words)."""
    if not closed:
        return _struct("=17xB4xH16xQQ", 56, run.stride).iter_unpack(run.view)
    port = "=20xH18x" if inbound else "=22xH16x"
    return _struct(f"{port}QQ{_EXPIRES_UNIT - 56}xB", _EXPIRES_UNIT + 1, run.stride).iter_unpack(run.view)


def _by_family(run: Run) -> Iterator[Run]:
    families = bytes(run.view[16 :: run.stride])
    if families.count(families[0]) == run.count:
        yield run
        return
    for family in sorted(set(families)):
        yield inet_diag.gather(run.view, (index * run.stride for index, one in enumerate(families) if one == family))


def _known(state: int) -> int:
    return int(TcpState.SYN_RECV) if state == TcpState.NEW_SYN_RECV else state


def _whole_seconds(milliseconds: int) -> int:
    seconds = milliseconds // 1000
    if seconds <= _CLOSE_WAIT_EXACT_SECONDS:
        return seconds
    return min(seconds // 60 * 60, _CLOSE_WAIT_LONGEST_SECONDS)


def _added(*rows: Iterable[int]) -> TimeWaitAges:
    total = [0] * _BINS
    for row in rows:
        for index, count in enumerate(row):
            total[index] += count
    return TimeWaitAges(tuple(total))


def _up_to(bins: tuple[int, ...], age_ms: float) -> float:
    total = 0.0
    for index, count in enumerate(bins):
        low, high = AGE_EDGES_MS[index], AGE_EDGES_MS[index + 1]
        total += count * min(max((age_ms - low) / (high - low), 0.0), 1.0)
    return total


def _others(sockets: int, groups: int, of: list[_Groups]) -> Others:
    merged = sum(one.merged_groups for one in of)
    return Others(sockets, groups + merged, exact=not merged, undercount=sum(one.undercount for one in of))
