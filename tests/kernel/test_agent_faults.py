"""Faults of a node under the agent's sweeps: what is not read is not made up, and the next sweep is right again.

Everything is the kernel's, on namespaces and processes of the tests; what a kernel cannot be asked for (a dump that is
marked interrupted, one that never ends) is put into the datagrams of a real diag socket. SIGKILL of the agent and a
reboot, as the API server sees them, are in tests/api/test_agent_kills.py.
"""

import ctypes
import errno
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

import pytest

import lab
import netlink_bytes as wire
from harness.plugin import skip_or_fail
from shown_proc import ShownProc, new_pod
from sockethealth_agent import discovery, netns
from sockethealth_agent.reading import new_reader
from sockethealth_agent.sampler import Sampler
from sockethealth_agent.sysctls.applier import Applier
from sockethealth_agent.sysctls.journal import Journal
from sockethealth_agent.sysctls.namespaces import KernelNamespaces
from sockethealth_core.resources import Rates
from sockethealth_core.units import format_time
from sysctl_lab import NODE_PORTS, assigned

pytestmark = pytest.mark.kernel

SWEEP_SECONDS = 15.0
"""The agent's interval."""
CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID = 0x20000, 0x40000000, 0x20000000
MS_REC_PRIVATE = 0x4000 | 0x40000
LIBC = ctypes.CDLL(None, use_errno=True)
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
INTERRUPTED = 0x10


@pytest.fixture
def shown(tmp_path):
    return ShownProc(tmp_path / "proc")


@pytest.fixture
def shown_in_memory():
    """In memory, as /proc is: hundreds of files that come and go would measure the disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        skip_or_fail(f"{memory} is missing: mount a tmpfs there.")
    with tempfile.TemporaryDirectory(prefix="sockethealth-test-", dir=memory) as folder:
        yield ShownProc(Path(folder) / "proc")


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def swept(sampler, *pods):
    return sampler.sweep({one.uid: one for one in pods})


# 50 pods a second.

CHURN = """
import ctypes, os, signal, socket, sys, time
LIBC = ctypes.CDLL(None)
LIBC.prctl(1, signal.SIGKILL)
RATE, LIFE_SECONDS = 50, float(sys.argv[1])
going = True

def stop(*_):
    global going
    going = False

def end(*_):
    for pid in pods:
        os.kill(pid, signal.SIGKILL)

signal.signal(signal.SIGUSR1, stop)
signal.signal(signal.SIGUSR2, end)
pods, born, number, began = {}, [], 0, time.monotonic()
while True:
    now = time.monotonic()
    while going and number < (now - began) * RATE:
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            LIBC.prctl(1, signal.SIGKILL)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            if LIBC.unshare(0x40000000):
                os._exit(1)
            with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as mark:
                mark.write(f"{10000 + number} 60999")
            held = socket.create_server(("", 1000))
            os.write(tell, b"x")
            signal.pause()
            os._exit(0)
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        pods[pid] = number
        born.append((now, pid))
        print("+", pid, number, flush=True)
        number += 1
    while going and born and born[0][0] < now - LIFE_SECONDS:
        os.kill(born.pop(0)[1], signal.SIGKILL)
    while pods:
        pid, _status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            break
        print("-", pid, pods.pop(pid), flush=True)
    time.sleep(0.005)
"""


class Churn:
    """A program that starts 50 processes a second, each in a network namespace of its own, and ends them again.

    The namespace of each has a port range that no other has, so that it can be told whose facts are whose.
    """

    def __init__(self, shown, life_seconds):
        self.shown, self.began = shown, 0.0
        command = ["/usr/bin/env", "python3", "-I", "-S", "-c", CHURN, str(life_seconds)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._rest = b""
        self.made, self.alive, self._ended = {}, {}, []

    def look(self):
        """Take in who came and went, as the kubelet tells the API server a moment later."""
        while select.select([self._process.stdout], [], [], 0)[0]:
            told = os.read(self._process.stdout.fileno(), 65536)
            if not told:
                raise AssertionError("the churn has ended")
            *lines, self._rest = (self._rest + told).split(b"\n")
            for line in lines:
                self._take(*line.decode().split())

    def _take(self, sign, pid, number):
        self.began = self.began or time.monotonic()
        if sign == "+":
            self.made[int(number)] = self.alive[int(pid)] = one = new_pod(f"pod-{number}")
            self.shown.show(int(pid), one.uid)
        else:
            self.shown.hide(int(pid))
            self._ended.append(self.alive.pop(int(pid)))

    def known(self):
        """The pods as the API server has them: those that ended lately are there still."""
        self._ended = self._ended[-50:]
        return (*self.alive.values(), *self._ended)

    def tell(self, number):
        self._process.send_signal(number)

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def churn(shown_in_memory):
    made = []

    def start(life_seconds):
        made.append(Churn(shown_in_memory, life_seconds))
        return made[-1]

    yield start
    for one in made:
        one.close()


def resident_kib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def test_fifty_pods_a_second_are_read_in_time_and_leave_nothing(churn, caplog, record_property):
    caplog.set_level(logging.INFO)
    with lab.netns() as host:
        pods = churn(life_seconds=2)
        sampler = Sampler(proc=pods.shown.root, host_netns=host.path)
        files, sizes, longest, dearest, sweeps = descriptors(), [], 0.0, 0.0, 0
        while len(pods.made) < 400 or len(sizes) < 2:
            pods.look()
            alive, began = set(pods.alive), time.thread_time()
            sweep = swept(sampler, *pods.known())
            dearest = max(dearest, time.thread_time() - began)
            sweeps += 1
            longest = max(longest, sweep.seconds)
            # A process that was killed a moment ago is not told of yet, and has no namespace any more.
            for pid in alive:
                if not Path(f"/proc/{pid}/ns/net").exists():
                    continue
                assert sweep.pods[pods.alive[pid].uid].fresh, f"{pods.alive[pid]} lived all the while"
            for observation in sweep.pods.values():
                number = int(observation.pod.name.rpartition("-")[2])
                low = observation.facts.ephemeral_ports.low
                assert low == 10000 + number, f"{observation.pod} is told of pod-{low - 10000}"
            if len(pods.made) > 150:
                sizes.append(resident_kib())
            time.sleep(0.5)
        rate = len(pods.made) / (time.monotonic() - pods.began)
        assert descriptors() == files
        # By the processor's time: how long a sweep takes by the clock says how busy the machine is.
        assert dearest < SWEEP_SECONDS
        assert sizes[-1] - sizes[0] < 16 * 1024, f"{sizes[0]} KiB became {sizes[-1]}"
        # One line for each reason at most, whatever the number of pods.
        assert len(caplog.records) <= 2 * sweeps
        pods.tell(signal.SIGUSR1)
        before = -1
        while before != len(pods.made):
            before = len(pods.made)
            time.sleep(0.1)
            pods.look()
        sweep = swept(sampler, *pods.alive.values())
        left = {one.uid for one in pods.alive.values()}
        assert left
        assert len(sampler._states) == len(sampler._processes) == len(left), "something is kept of pods that are gone"
        assert {uid for uid, one in sweep.pods.items() if one.fresh and one.facts.sockets.listen == 1} >= left
    record_property("pods_per_second", round(rate, 1))
    record_property("longest_sweep_seconds", round(longest, 3))
    record_property("dearest_sweep_cpu_seconds", round(dearest, 3))
    record_property("descriptors_more", 0)
    record_property("resident_kib_more", sizes[-1] - sizes[0])
    record_property("log_lines", len(caplog.records))


def test_pods_that_all_end_at_once_in_a_sweep_are_one_line(churn, caplog, monkeypatch):
    with lab.netns() as host:
        pods = churn(life_seconds=3600)
        sampler = Sampler(proc=pods.shown.root, host_netns=host.path)
        while len(pods.alive) < 30:
            time.sleep(0.1)
            pods.look()
        pods.tell(signal.SIGUSR1)
        look = discovery.discover

        def look_then_end(*arguments):
            seen = look(*arguments)
            pods.tell(signal.SIGUSR2)
            gone = [Path(f"/proc/{pid}") for pid in pods.alive]
            lab.wait_until(lambda: not any(one.exists() for one in gone), 30, lambda: "the pods do not end")
            return seen

        known = pods.known()
        monkeypatch.setattr(discovery, "discover", look_then_end)
        sweep = swept(sampler, *known)
        assert set(sweep.failed) == {one.uid for one in known}
        assert sweep.pods == {}
        (said,) = [record.message for record in caplog.records]
        assert "its sockets could not be read" in said
        assert said.endswith(f" The same is true of {len(known) - 1} other pods.")


# A pid that is used again.


def in_a_pid_namespace(what, *arguments):
    """Call a function in process 1 of a pid namespace of its own, and return what it returns, as JSON has it.

    Its first argument is that namespace's /proc, which nobody else sees. All processes in it end with it.
    """
    reading, writing = os.pipe()
    outer = os.fork()
    if outer == 0:
        try:
            _die_with_parent()
            _checked(LIBC.unshare(CLONE_NEWNS | CLONE_NEWPID))
            _checked(LIBC.mount(b"none", b"/", None, MS_REC_PRIVATE, None))
            inner = os.fork()
            if inner == 0:
                _die_with_parent()
                _answer(writing, what, *arguments)
            os.waitpid(inner, 0)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading) as answer:
            told = json.loads(answer.read() or '{"failed": "the process in the pid namespace ended"}')
    finally:
        os.waitpid(outer, 0)
    assert "failed" not in told, told["failed"]
    return told["result"]


def _answer(writing, what, proc, *arguments):
    signal.alarm(120)
    try:
        proc.mkdir()
        _checked(LIBC.mount(b"proc", str(proc).encode(), b"proc", 0, None))
        told = {"result": what(proc, *arguments)}
    except BaseException:  # noqa: BLE001 - nothing of a test may go on in the child
        told = {"failed": traceback.format_exc()}
    os.write(writing, json.dumps(told).encode())
    os._exit(0)


def _die_with_parent():
    LIBC.prctl(1, signal.SIGKILL)


def _checked(code):
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def start_pod(listeners, inode=None):
    """A process in a network namespace of its own with so many listeners; where asked, of this inode. 0 if not had."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _die_with_parent()
        os.close(reading)
        found = _unshared(inode)
        held = [socket.create_server(("", 1000 + number)) for number in range(listeners)] if found else []
        os.write(writing, b"y" if found else b"n")
        while held:
            signal.pause()
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 1)
    os.close(reading)
    if said != b"y":
        os.waitpid(pid, 0)
        return 0
    return pid


def _unshared(inode):
    """Into a new network namespace; with `inode`, into one with this number, which the kernel gives away again."""
    held, deadline = [], time.monotonic() + 4
    while True:
        _checked(LIBC.unshare(CLONE_NEWNET))
        if inode is None or netns.identity().inode == inode:
            return True
        if time.monotonic() > deadline:
            return False
        held.append(os.open(netns.OWN_NETNS, os.O_RDONLY))
        if len(held) == 32:
            while held:
                os.close(held.pop())
            time.sleep(0.05)


def end_pod(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def start_pod_as(pid, listeners, inode):
    """As start_pod, with a pid that is free; None where somebody else has taken it or the inode."""
    LAST_PID.write_text(str(pid - 1))
    got = start_pod(listeners, inode)
    if got and got != pid:
        end_pod(got)
    return got if got == pid else None


def reuse(proc, folder, same_inode):
    """A pod ends after it was discovered, and its pid goes to another pod; what three sweeps tell of it."""
    for attempt in range(5):
        shown = ShownProc(folder / f"shown{attempt}", proc)
        first, second = new_pod("first"), new_pod("second")
        host, pid = start_pod(1), start_pod(2)
        found = netns.identity(f"{proc}/{pid}/ns/net").inode
        shown.show(pid, first.uid)
        sampler = Sampler(proc=shown.root, host_netns=f"{proc}/{host}/ns/net")
        told, got = [swept(sampler, first)], []
        look = discovery.discover

        def look_then_reuse(*arguments, look=look, pid=pid, got=got, found=found):
            seen = look(*arguments)
            end_pod(pid)
            got.append(start_pod_as(pid, 5, found if same_inode else None))
            return seen

        discovery.discover = look_then_reuse
        told.append(swept(sampler, first))
        discovery.discover = look
        end_pod(host)
        if not got[0]:
            continue
        host = start_pod(1)
        sampler._host_given = sampler._host_path = f"{proc}/{host}/ns/net"
        shown.show(pid, second.uid)
        told.append(swept(sampler, first, second))
        inode = netns.identity(f"{proc}/{pid}/ns/net").inode
        return {
            "same inode": inode == found,
            "listen": [{one.pod.name: one.facts.sockets.listen for one in sweep.pods.values()} for sweep in told],
            "fresh": [{one.pod.name: one.fresh for one in sweep.pods.values()} for sweep in told],
            "failed": [list(sweep.failed.values()) for sweep in told],
        }
    raise AssertionError("somebody else took the pid or the inode five times")


@pytest.mark.parametrize("same_inode", [False, True], ids=["another inode", "the same inode"])
def test_a_pid_used_again_between_discovery_and_entering_is_no_wrong_pods(tmp_path, same_inode):
    if not LAST_PID.exists():
        skip_or_fail(f"{LAST_PID} is missing: the kernel was built without CONFIG_CHECKPOINT_RESTORE.")
    told = in_a_pid_namespace(reuse, tmp_path / "own", tmp_path, same_inode)
    assert told["same inode"] == same_inode
    assert told["listen"][:2] == [{"first": 2}, {"first": 2}], "the second pod's sockets were told of the first"
    assert told["fresh"][1] == {"first": False}
    (sentence,) = told["failed"][1]
    assert ("another one has its pid" if same_inode else "its process was replaced") in sentence
    assert told["listen"][2]["second"] == 5
    assert told["failed"][2] == []


def write_after_reuse(proc, folder):
    """The sysctl writer has looked; then the pod's pid and its namespace's inode go to another pod."""
    for attempt in range(5):
        shown = ShownProc(folder / f"shown{attempt}", proc)
        one = new_pod("first")
        host, pid = start_pod(1), start_pod(2)
        found = netns.identity(f"{proc}/{pid}/ns/net").inode
        shown.show(pid, one.uid)
        look = KernelNamespaces(shown.root, host_netns=f"{proc}/{host}/ns/net").look(pods=True)
        end_pod(pid)
        if not start_pod_as(pid, 5, found):
            end_pod(host)
            continue
        try:
            with look.pods[one.uid].enter():
                return "entered"
        except netns.NetnsGone as error:
            return str(error)
    raise AssertionError("somebody else took the pid or the inode five times")


def test_the_sysctl_writer_enters_no_namespace_of_a_pid_that_is_used_again(tmp_path):
    if not LAST_PID.exists():
        skip_or_fail(f"{LAST_PID} is missing: the kernel was built without CONFIG_CHECKPOINT_RESTORE.")
    assert "another one has its pid" in in_a_pid_namespace(write_after_reuse, tmp_path / "own", tmp_path)


# Dumps.


class Meddled(socket.socket):
    """A real diag socket whose datagrams pass through a function: it gets what came, or none before anything did."""

    def __init__(self, meddle, fileno):
        super().__init__(fileno=fileno)
        self._meddle = meddle
        self.sequence = 0

    def send(self, request):
        self.sequence = struct.unpack_from("=I", request, 8)[0]
        return super().send(request)

    def recv_into(self, space, size, flags):
        return self._meddle(self, space, lambda: socket.socket.recv_into(self, space, size, flags))


@contextmanager
def meddling(namespace, meddle):
    """Dumps of one namespace go through `meddle(sock, space, receive)`, which returns the bytes received."""
    open_, target = netns.open_diag_socket, netns.identity(namespace.path)

    def opened(*arguments):
        sock = open_(*arguments)
        return Meddled(meddle, sock.detach()) if netns.identity() == target else sock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netns, "open_diag_socket", opened)
        yield


@contextmanager
def two_pods(shown):
    """A sampler over a pod with connections, which is meddled with, and its neighbour."""
    with lab.namespaces(3) as (host, one, two):
        first, second = new_pod("one"), new_pod("two")
        shown.show(one.pid, first.uid)
        shown.show(two.pid, second.uid)
        web = one.listen(8080)
        two.connect(web, 3)
        reader = new_reader()
        reader.deadline_seconds = 1.0
        yield Sampler(proc=shown.root, host_netns=host.path, reader=reader), one, two, web, (first, second)


def marked(space, size):
    position = 0
    while position < size:
        length, _kind, flags = struct.unpack_from("=IHH", space, position)
        struct.pack_into("=H", space, position + 6, flags | INTERRUPTED)
        position += (length + 3) & ~3
    return size


@pytest.mark.parametrize("times", [1, 1000], ids=["once", "always"])
def test_a_dump_that_is_marked_interrupted_is_made_again_and_never_kept(shown, times):
    with two_pods(shown) as (sampler, one, two, web, pods):
        left, received = [times], []

        def meddle(sock, space, receive):
            size = receive()
            received.append(sock.sequence)
            if left[0] and struct.unpack_from("=I", space, 8)[0] == sock.sequence:
                left[0] -= 1
                return marked(space, size)
            return size

        with meddling(one, meddle):
            sweep = swept(sampler, *pods)
            assert sweep.failed == {}
            assert sweep.pods[pods[0].uid].facts.sockets.established == 3
            requests = len(set(received))
            assert requests == (3 if times == 1 else 6), (
                "of two dumps the one marked is made twice, or both three times"
            )
            # Nothing moved, so a dump that was whole would be taken for still true.
            assert swept(sampler, *pods).dumps - (times > 1) == 1, "the node's own, and that of which nothing was kept"
        two.connect(web, 1)
        assert swept(sampler, *pods).pods[pods[0].uid].facts.sockets.established == 4


def overrun(_sock, _space, receive):
    receive()
    raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def truncated(_sock, space, receive):
    receive()
    return len(space) + 10  # as MSG_TRUNC tells of a datagram that did not fit (recv(2))


def endless(sock, space, _receive):
    datagram = bytearray(wire.message(state=10, local=("0.0.0.0", 80)))
    struct.pack_into("=I", datagram, 8, sock.sequence)
    space[: len(datagram)] = datagram
    return len(datagram)


def silent(_sock, space, receive):
    size = receive()
    while size:  # what the kernel has said is lost, and it says no more
        size = receive()
    return len(space)


@pytest.mark.parametrize(
    ("meddle", "sentence"),
    [
        (overrun, "the receive buffer overran (ENOBUFS)"),
        (truncated, "did not fit"),
        (endless, "did not end before its deadline"),
        (silent, "did not end before its deadline"),
    ],
)
def test_a_dump_that_fails_costs_its_pod_one_sweep_and_nobody_else(shown, meddle, sentence, caplog, record_property):
    caplog.set_level(logging.INFO)
    with two_pods(shown) as (sampler, one, two, web, pods):
        assert swept(sampler, *pods).failed == {}
        files = descriptors()
        two.connect(web, 2)
        with meddling(one, meddle):
            for _ in range(2):
                sweep = swept(sampler, *pods)
                assert list(sweep.failed) == [pods[0].uid]
                assert sentence in sweep.failed[pods[0].uid]
                assert sweep.pods[pods[0].uid].facts.sockets.established == 3
                assert sweep.pods[pods[1].uid].facts.sockets.established == 5
                assert sweep.seconds < SWEEP_SECONDS, "the promise is a second here, and ten for the agent's reader"
        after = swept(sampler, *pods)
        assert after.failed == {}
        assert after.pods[pods[0].uid].facts.sockets.established == 5
        assert descriptors() == files
        assert len(caplog.records) == 2, "that it fails, and that it is read again"
    record_property("failed_sweep_seconds", round(sweep.seconds, 2))
    record_property("recovered_sweeps", 1)


HOLD = """
import ctypes, resource, signal, socket, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
sys.stdin.readline()
server = socket.create_server(("127.0.0.1", 7000), backlog=1024)
held = []
for _ in range(1000):
    held.append(socket.create_connection(("127.0.0.1", 7000)))
    held.append(server.accept()[0])
print("ready", flush=True)
signal.pause()
"""


@contextmanager
def a_namespace_of_one_process(host):
    """A process alone in its namespace, which is gone once nobody holds it: then so is `gone0` in `host`."""
    command = ["unshare", "--net", "--", "/usr/bin/env", "python3", "-I", "-S", "-c", HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            own = netns.identity()
            lab.wait_until(lambda: netns.identity(f"/proc/{process.pid}/ns/net") != own, 20, lambda: "unshare")
            host.ip("link", "add", "gone0", "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
            subprocess.run(
                ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip", "link", "set", "lo", "up"], check=True
            )
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_namespace_that_goes_during_its_dump_is_read_to_the_end_and_then_let_go(shown, record_property):
    with lab.namespaces(2) as (host, other), a_namespace_of_one_process(host) as process:
        goes, stays = new_pod("goes"), new_pod("stays")
        shown.show(process.pid, goes.uid)
        shown.show(other.pid, stays.uid)
        other.listen(80)
        sampler = Sampler(proc=shown.root, host_netns=host.path)
        received = []

        class Going:
            path = f"/proc/{process.pid}/ns/net"

        def meddle(sock, _space, receive):
            size = receive()
            received.append(sock.sequence)
            if received.count(sock.sequence) == 1 and len(set(received)) == 2:  # listeners were the first dump
                process.kill()
                process.wait()
            return size

        with meddling(Going, meddle):
            sweep = swept(sampler, goes, stays)
        ended = time.monotonic()
        assert received.count(received[-1]) > 1, "the dump went on"
        assert sweep.failed == {}
        assert sweep.pods[stays.uid].facts.sockets.listen == 1
        seen = sweep.pods[goes.uid].facts.sockets
        assert 0 < seen.established < 2000, "part of it was dumped while the process lived"
        lab.wait_until(lambda: "gone0" not in host.ip("link"), 30, lambda: "something holds the namespace")
        record_property("namespace_gone_after_seconds", round(time.monotonic() - ended, 2))
        shown.hide(process.pid)
        assert swept(sampler, stays).failed == {}


def test_a_node_whose_own_namespace_cannot_be_read_keeps_what_was_known_of_it(shown):
    with lab.netns() as host:
        host.listen(22)
        sampler = Sampler(proc=shown.root, host_netns=host.path)
        before = swept(sampler).node
    after = swept(sampler).node
    assert before.sysctls
    assert (after.sysctls, after.host_sockets) == (before.sysctls, before.host_sockets)
    assert after.host_sockets.listen == 1


# Clocks and boots.


def test_a_step_of_the_wall_clock_changes_no_age_and_no_rate(shown):
    with lab.namespaces(3) as (host, one, two):
        known = new_pod("one")
        shown.show(one.pid, known.uid)
        web = one.listen(8080)
        two.connect(web, 4).close()
        one.wait_for(CLOSE_WAIT=4)
        clock, wall = [1000.0], [1_700_000_000.0]
        sampler = Sampler(proc=shown.root, host_netns=host.path, clock=lambda: clock[0], wall_clock=lambda: wall[0])

        def after(seconds, step):
            clock[0] += seconds
            wall[0] += seconds + step
            found = swept(sampler, known).pods[known.uid].facts
            assert found.observed_time == format_time(wall[0])
            return found

        after(0, 0)
        two.connect(web, 10)
        forward = after(10, 3600)
        assert forward.rates.passive_opens == 1.0
        assert [one.count for one in forward.close_wait.ages] == [0], "older than a minute by the wall clock only"
        assert forward.close_wait.oldest_seconds < 60
        two.connect(web, 20)
        back = after(60, -7200)
        assert back.rates.passive_opens == round(20 / 60, 2)
        assert [one.count for one in back.close_wait.ages] == [4]
        assert 70 <= back.close_wait.oldest_seconds < 130


def sandbox_replaced(shown, known, sampler):
    """A pod whose sandbox was read has another one, with the inode of the first; None where somebody else took that."""
    before = start_pod(1)
    try:
        shown.show(before, known.uid)
        inode = netns.identity(f"/proc/{before}/ns/net").inode
        assert swept(sampler, known).failed == {}
    finally:
        end_pod(before)
    shown.hide(before)
    return start_pod(1, inode) or None


def test_a_new_sandbox_with_the_inode_of_the_old_has_no_rate_between_them(shown):
    known, clock = new_pod("one"), [1000.0]
    with lab.netns() as host:
        sampler = Sampler(proc=shown.root, host_netns=host.path, clock=lambda: clock[0])
        tries = (sandbox_replaced(shown, known, sampler) for _ in range(5))
        after = next((pid for pid in tries if pid is not None), None)
        assert after is not None, "others have taken each inode that was free again"
        try:
            path = f"/proc/{after}/ns/net"
            shown.show(after, known.uid)
            subprocess.run(["nsenter", f"--net={path}", "ip", "link", "set", "lo", "up"], check=True)
            with netns.entered(path):
                for _ in range(20):
                    socket.create_connection(("127.0.0.1", 1000)).close()
            clock[0] += 10
            sweep = swept(sampler, known)
            assert sweep.failed == {}
            assert sweep.pods[known.uid].facts.rates == Rates()
        finally:
            end_pod(after)


FIN = "net.ipv4.tcp_fin_timeout"


def fin(host):
    return host.run("cat", "/proc/sys/net/ipv4/tcp_fin_timeout").strip()


def write(shown, folder, boot_id, host, *profiles):
    """A writer that is started, makes one pass and ends; its visits."""
    journal = Journal(folder, boot_id)
    applier = Applier(KernelNamespaces(shown.root, host_netns=host.path), journal, node_ports=NODE_PORTS)
    with journal.locked():
        journal.open()
        applier.apply(profiles, {})


@pytest.mark.usefixtures("host_sysctls_stay")
@pytest.mark.parametrize("withdrawn", [True, False], ids=["withdrawn meanwhile", "still wanted"])
def test_after_a_reboot_the_value_found_before_it_is_not_put_back(shown, tmp_path, withdrawn):
    profile = assigned(values={FIN: "31"})
    with lab.netns("before") as before:
        write(shown, tmp_path / "journal", "boot-1", before, profile)
        assert fin(before) == "31"
    assert list((tmp_path / "journal").glob("*.json"))
    with lab.netns("after") as after:
        after.sysctl(FIN, "45")  # the machine's own configuration has changed
        if withdrawn:
            write(shown, tmp_path / "journal", "boot-2", after)
        else:
            write(shown, tmp_path / "journal", "boot-2", after, profile)
            assert fin(after) == "31"
            write(shown, tmp_path / "journal", "boot-2", after)
        assert fin(after) == "45", "60 is what was found before the reboot"
    assert not list((tmp_path / "journal").glob("*.json"))
