"""What the agent does not read again is what it would read: tiered readings beside full ones, on random histories.

Both readings are of one real namespace at one moment. The tiered one keeps its memory; the full one has all of it
taken away that would spare a look, before each reading. Time is virtual and jumps, so that the stated staleness is
crossed in a second. Where dumps keep to a pace, they are made out to be dear, as those of a handful of sockets are not.
"""

import contextlib
import copy
import socket
import struct
import time
from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import lab
from sockethealth_agent import inet_diag, netns, procfs
from sockethealth_agent.folding import Reader
from sockethealth_agent.pace import LONGEST_WAIT_SECONDS, SHARE, URGENT_SHARE, Pace
from sockethealth_agent.reading import LONGEST_UNVISITED_SECONDS, Memory, new_reader, read_netns
from sockethealth_core.capacity import TIME_WAIT_SECONDS
from sockethealth_core.units import format_time

pytestmark = pytest.mark.kernel

PORTS = (8080, 20_000, 40_000)
BACKLOG = 64
RANGES = ("32768 60999", "30000 65000", "10000 45000")
READ_AGAIN = 50


class History:
    """One namespace, the sockets this process holds in it, and the two ways to read it."""

    def __init__(self, namespace):
        self.namespace = namespace
        self.reader = new_reader()
        self.tiered, self.full = Memory(), Memory()
        self.now = 1000.0
        self.exact_from = 0.0
        self.listeners = {}
        self.pending = {}
        self.open = []
        self.came = self.went = False

    def socket(self):
        with netns.entered(self.namespace.path):
            return socket.socket()

    def listen(self, port):
        if port in self.listeners:
            return
        made = self.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(("127.0.0.1", port))
        except OSError:  # one of our connections has the port
            made.close()
            return
        made.listen(BACKLOG)
        self.listeners[port], self.pending[port] = made, 0
        self.came = True

    def unlisten(self, port):
        if port in self.listeners:
            self.listeners.pop(port).close()
            self.pending.pop(port)
            self.went = True

    def swap(self, port, other):
        """One listener in the place of another: no segment, and as many sockets as before."""
        if port in self.listeners and other not in self.listeners and not self.pending[port]:
            self.unlisten(port)
            self.listen(other)

    def connect(self, port):
        if port in self.listeners:
            client = self.socket()
            client.connect(("127.0.0.1", port))
            self.open.append(client)
            self.pending[port] += 1

    def accept(self, port):
        if self.pending.get(port):
            self.open.append(self.listeners[port].accept()[0])
            self.pending[port] -= 1

    def send(self, index):
        with contextlib.suppress(OSError):
            self.open[index % len(self.open)].send(b"x" * 10)

    def close(self, index):
        self.open.pop(index % len(self.open)).close()

    def reset(self, index):
        gone = self.open.pop(index % len(self.open))
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()

    def half_close(self, index):
        with contextlib.suppress(OSError):
            self.open[index % len(self.open)].shutdown(socket.SHUT_WR)

    def sysctl(self, value):
        self.namespace.sysctl("net.ipv4.ip_local_port_range", value)
        self.late(LONGEST_UNVISITED_SECONDS)

    def wait(self, seconds):
        self.now += seconds

    def late(self, seconds):
        self.exact_from = max(self.exact_from, self.now + seconds)

    def do(self, name, argument):
        if name in {"close", "reset", "send", "half_close"} and not self.open:
            return
        getattr(self, name)(*argument if isinstance(argument, tuple) else (argument,))

    def read(self, memory):
        return read_netns(f"/proc/{self.namespace.pid}/ns/net", memory, self.reader, now=self.now, observed_at=0.0)

    def read_in_full(self):
        self.full.kept, self.full.still, self.full.sysctls_at = None, None, float("-inf")
        return self.read(self.full)

    def read_both(self):
        """Tiered and in full, of one moment."""
        if self.came and self.went:
            # Seen late by as much, the port that was given up also counts as listening for so much longer.
            self.late(LONGEST_UNVISITED_SECONDS + TIME_WAIT_SECONDS)
        self.came = self.went = False
        remembered = self.tiered
        for _ in range(READ_AGAIN):
            before = procfs.read_movement(self.namespace.pid)
            self.tiered = copy.deepcopy(remembered)
            found, expected = self.read(self.tiered), self.read_in_full()
            if procfs.read_movement(self.namespace.pid) == before:
                return found, expected  # no late ACK came between the two
        pytest.fail("the namespace never stood still")

    def compare(self):
        found, expected = self.read_both()
        assert found.sockets == expected.sockets
        assert found.close_wait.receive_queue_bytes == expected.close_wait.receive_queue_bytes
        assert [(one.port, one.queue) for one in found.listeners] == [
            (one.port, one.queue) for one in expected.listeners
        ]
        if self.now >= self.exact_from:
            assert comparable(found) == comparable(expected)

    def end(self):
        for one in [*self.listeners.values(), *self.open]:
            one.close()


class PacedHistory(History):
    """The same, where each dump of the tiered reading is taken to have cost so many seconds of CPU time."""

    def __init__(self, namespace, cost_seconds):
        super().__init__(namespace)
        self.cost_seconds = cost_seconds
        self.pace = Pace(cheap_seconds=0.0)
        self.dump = None
        self.put_off = 0

    def read(self, memory):
        paced = memory is self.tiered
        found = read_netns(
            f"/proc/{self.namespace.pid}/ns/net",
            memory,
            self.reader,
            now=self.now,
            observed_at=self.now,
            **({"pace": self.pace} if paced else {}),
        )
        if paced:
            if memory.dear is not None:
                memory.dear = replace(memory.dear, cost_seconds=self.cost_seconds)
            if memory.looked is not None:
                memory.looked = replace(memory.looked, cost_seconds=0.0)
        return found

    def compare(self):
        dumps = self.tiered.dumps
        found, expected = self.read_both()
        stat = procfs.read_sockstat(self.namespace.pid)
        counts = (stat.time_wait, stat.inuse)
        assert [(one.port, one.queue) for one in found.listeners] == [
            (one.port, one.queue) for one in expected.listeners
        ]
        assert found.sockets.listen == expected.sockets.listen
        assert found.sockets.close_wait == expected.sockets.close_wait
        if self.tiered.put_off:
            self.put_off += 1
            at, exact, known, before = self.dump
            assert self.now - at < min(LONGEST_WAIT_SECONDS, self.cost_seconds / SHARE)
            moved = any(abs(now - then) > 0.1 * then for then, now in zip(before, counts, strict=True))
            assert not (moved and self.now - at >= self.cost_seconds / URGENT_SHARE)
            assert found.observed_time == format_time(at)
            assert dumped_part(found, exact=exact) == dumped_part(known, exact=exact)
            return
        assert found.observed_time == format_time(self.now)
        assert found.sockets == expected.sockets
        if self.now >= self.exact_from:
            assert comparable(found) == comparable(expected)
        if self.tiered.dumps > dumps:
            if self.dump is not None:
                assert self.now - self.dump[0] >= min(LONGEST_WAIT_SECONDS, self.cost_seconds / URGENT_SHARE)
            self.dump = (self.now, self.now >= self.exact_from, expected, counts)


def dumped_part(facts, *, exact):
    """What nothing but a dump tells; without roles where these are told late."""
    plain = comparable(facts)
    states = {state: count for state, count in plain["sockets"].items() if state not in {"listen", "closeWait"}}
    return (states, plain["timeWait"], plain["ephemeralPorts"].get("destinations")) if exact else states


def comparable(facts):
    """Facts without what runs on between two readings of a moment: rates by age."""
    plain = msgspec.to_builtins(facts)
    plain["timeWait"] = {key: plain["timeWait"].get(key) for key in ("inbound", "outbound")}
    plain["closeWait"]["oldestSeconds"] = round(plain["closeWait"].get("oldestSeconds", 0) / 10)
    plain.pop("rates", None)  # the two memories are a reading apart while a namespace is read again
    for one in plain["ephemeralPorts"].get("destinations", []):
        for running in ("closesPerSecond", "secondsToExhaustion", "reusable", "usedPercent"):
            one.pop(running, None)
    return plain


ports = st.sampled_from(PORTS)
indexes = st.integers(0, 7)
steps = st.one_of(
    st.tuples(st.just("listen"), ports),
    st.tuples(st.just("unlisten"), ports),
    st.tuples(st.just("swap"), st.tuples(ports, ports)),
    st.tuples(st.just("connect"), ports),
    st.tuples(st.just("connect"), ports),
    st.tuples(st.just("accept"), ports),
    st.tuples(st.just("send"), indexes),
    st.tuples(st.just("close"), indexes),
    st.tuples(st.just("reset"), indexes),
    st.tuples(st.just("reset"), indexes),
    st.tuples(st.just("half_close"), indexes),
    st.tuples(st.just("sysctl"), st.sampled_from(RANGES)),
    st.tuples(st.just("wait"), st.sampled_from((10, 10, 30, 61, 130))),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=st.lists(st.tuples(steps, st.booleans()), min_size=5, max_size=40))
def test_what_is_not_read_again_is_what_a_full_dump_would_tell(history):
    with lab.netns() as namespace:
        sockets = History(namespace)
        try:
            for port in PORTS[:2]:
                sockets.listen(port)
            sockets.compare()
            for (name, argument), looked in history:
                sockets.do(name, argument)
                if looked:
                    sockets.compare()
            sockets.wait(LONGEST_UNVISITED_SECONDS + TIME_WAIT_SECONDS)
            sockets.compare()
            sockets.compare()
        finally:
            sockets.end()
        event("spared a dump" if sockets.tiered.dumps < sockets.full.dumps else "spared none")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    history=st.lists(st.tuples(steps, st.sampled_from((2, 10, 15))), min_size=5, max_size=25),
    cost_seconds=st.sampled_from((0.1, 0.4, 2.0, 10.0)),
)
def test_what_is_put_off_is_what_the_last_dump_told_and_no_older_than_stated(history, cost_seconds):
    with lab.netns() as namespace:
        sockets = PacedHistory(namespace, cost_seconds)
        try:
            for port in PORTS[:2]:
                sockets.listen(port)
            for _ in range(10):  # so that one more is no tenth more
                sockets.connect(PORTS[0])
                sockets.accept(PORTS[0])
            sockets.compare()
            for (name, argument), pause in history:
                sockets.do(name, argument)
                sockets.wait(pause)
                sockets.compare()
            sockets.wait(LONGEST_UNVISITED_SECONDS + TIME_WAIT_SECONDS)
            sockets.compare()
            assert not sockets.tiered.put_off
        finally:
            sockets.end()
        event("put off" if sockets.put_off else "put off none")


@pytest.fixture
def paced():
    """A namespace of 40 established sockets whose dump, just made, is dear: 0.5 s of CPU time."""
    with lab.netns() as namespace:
        sockets = PacedHistory(namespace, 0.5)
        sockets.listen(8080)
        for _ in range(20):
            sockets.connect(8080)
            sockets.accept(8080)
        sockets.compare()
        sockets.wait(10)
        sockets.compare()
        yield sockets
        sockets.end()


def test_a_few_more_wait_for_the_pace_and_a_tenth_more_do_not(paced):
    dumps = paced.tiered.dumps
    paced.connect(8080)
    paced.wait(10)
    assert paced.read(paced.tiered).sockets.established == 40
    assert paced.tiered.put_off
    paced.connect(8080)
    paced.connect(8080)
    paced.wait(1)
    assert paced.read(paced.tiered).sockets.established == 46
    assert not paced.tiered.put_off
    paced.connect(8080)
    paced.wait(59)
    assert paced.read(paced.tiered).sockets.established == 46
    paced.wait(1)
    assert paced.read(paced.tiered).sockets.established == 48
    assert paced.tiered.dumps == dumps + 2


def test_even_an_urgent_sign_waits_for_its_share(paced):
    for _ in range(10):
        paced.connect(8080)
    paced.read(paced.tiered)
    for _ in range(10):
        paced.connect(8080)
    paced.wait(9)
    assert paced.read(paced.tiered).sockets.established == 60
    paced.wait(1)
    assert paced.read(paced.tiered).sockets.established == 80


def test_a_leak_is_told_at_once_and_ages_while_the_dump_is_put_off(paced):
    """It moves no count, so that no sign tells of it."""
    for _ in range(3):
        paced.half_close(0)
        paced.open.append(paced.open.pop(0))
        paced.open.append(paced.open.pop(0))
    paced.wait(2)
    found = paced.read(paced.tiered)
    assert paced.tiered.put_off
    assert found.sockets.close_wait == 3
    assert [one.count for one in found.close_wait.peers] == [3]
    for _ in range(4):
        paced.send(0)  # moves, and waits
        paced.wait(15)
        found = paced.read(paced.tiered)
    assert [one.count for one in found.close_wait.ages] == [3]


def test_ports_that_run_out_are_told_within_two_sweeps_though_a_dump_is_dear(paced):
    paced.sysctl("40000 40029")
    paced.wait(61)
    assert paced.read(paced.tiered).ephemeral_ports.destinations == []
    for _ in range(27):
        paced.connect(8080)
    told = []
    for _ in range(2):
        paced.wait(10)
        used = paced.read(paced.tiered).ephemeral_ports.destinations
        told.append(max((one.used_percent for one in used), default=0.0))
    assert max(told) == 90.0


def test_rates_go_on_while_the_dump_is_put_off(paced):
    for _ in range(2):
        paced.connect(8080)
        paced.wait(4)
        assert paced.read(paced.tiered).rates.active_opens == 0.25
        assert paced.tiered.put_off


@pytest.fixture
def quiet():
    """A namespace that the tiered reading takes for still: a listener, and a connection that was accepted."""
    with lab.netns() as namespace:
        sockets = History(namespace)
        sockets.listen(8080)
        sockets.connect(8080)
        sockets.accept(8080)
        sockets.compare()
        yield sockets
        sockets.end()


class Untouchable(Reader):
    """A reader for where no dump of any kind may be made."""

    def listeners(self, _sock):
        raise AssertionError("the listeners were asked for")


def test_a_still_namespace_is_not_entered(quiet):
    quiet.reader = Untouchable()
    quiet.wait(LONGEST_UNVISITED_SECONDS * quiet.tiered.patience - 1)
    found = read_netns(
        f"/proc/{quiet.namespace.pid}/ns/net", quiet.tiered, quiet.reader, now=quiet.now, observed_at=86_400.0
    )
    assert found.sockets.established == 2
    assert found.observed_time.startswith("1970-01-02")
    quiet.wait(2)
    with pytest.raises(AssertionError, match="listeners were asked for"):
        quiet.read(quiet.tiered)


def test_a_sysctl_is_told_within_a_minute(quiet):
    quiet.sysctl("40000 40999")
    quiet.wait(LONGEST_UNVISITED_SECONDS)
    found = quiet.read(quiet.tiered)
    assert (found.ephemeral_ports.low, found.ephemeral_ports.high) == (40_000, 40_999)
    assert [one.used for one in found.ephemeral_ports.destinations] == [
        one.used for one in quiet.read_in_full().ephemeral_ports.destinations
    ]


def test_an_accept_queue_that_empties_without_a_segment_is_told_at_once(quiet):
    quiet.connect(8080)
    quiet.compare()
    assert [one.queue for one in quiet.read(quiet.tiered).listeners] == [1]
    quiet.accept(8080)
    assert quiet.read(quiet.tiered).listeners == []


def test_rates_after_stillness_are_those_since_the_last_look(quiet):
    for _ in range(3):
        quiet.wait(10)
        assert quiet.read(quiet.tiered).rates.active_opens == 0.0
    for _ in range(5):
        quiet.connect(8080)
    quiet.wait(10)
    assert quiet.read(quiet.tiered).rates.active_opens == 0.5


def test_another_namespace_behind_the_path_is_never_taken_for_still(quiet):
    with lab.netns() as other, pytest.raises(netns.NetnsGone, match="another network namespace"):
        read_netns(
            f"/proc/{quiet.namespace.pid}/ns/net",
            quiet.tiered,
            quiet.reader,
            now=quiet.now,
            observed_at=time.time(),
            expected=netns.identity(other.path),
        )


def test_messages_of_several_kinds_among_each_other_are_counted_like_each_by_itself():
    """IPv4 among IPv6, TIME_WAIT among ESTABLISHED: what is sorted by kind, beside one object per socket."""
    with lab.netns() as namespace:
        namespace.time_wait(namespace.listen(7000, serve="follow"), 300)
        namespace.visit(namespace.listen(7001, serve="close_first"), 200)
        namespace.connect(namespace.listen(7002), 150)
        namespace.connect(namespace.listen(7003, address="::"), 100)
        with netns.open_diag_socket(namespace.path) as sock:
            found = new_reader().read(sock, low=32_768, high=60_999)
            each = Counter()
            states = Counter()
            dumped = inet_diag.dump(sock, socket.AF_UNSPEC, inet_diag.MASK_ALL, deadline=time.monotonic() + 10)
            for one in inet_diag.iter_sockets(dumped):
                states[one.state] += 1
                if one.local_port not in {7000, 7001, 7002, 7003}:
                    each[one.remote_address, one.remote_port] += 1
    assert {state: count for state, count in found.states.items() if count} == states
    assert states[inet_diag.TcpState.TIME_WAIT] == 500
    assert {(one.address, one.port): one.used for one in found.conversations.destinations} == each
