"""What each of the two capabilities of the agent's containers is for: without it something is not found, and said so.

As in a container: uid 0, every other capability gone from the bounding set too, and no new privileges. The pod's
process is another user's. NET_ADMIN is not among the two, so the writer shows here that it needs none; that the chart
asks for these two and no more is in tests/api/test_chart_security.py.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
import traceback

import msgspec
import pytest

import lab
from harness.plugin import skip_or_fail
from shown_proc import ShownProc, new_pod
from sockethealth_agent import procfs
from sockethealth_agent.reading import Memory, new_reader, read_netns
from sockethealth_agent.sampler import Sampler
from sockethealth_agent.sysctls.applier import Applier
from sockethealth_agent.sysctls.journal import Journal
from sockethealth_agent.sysctls.namespaces import KernelNamespaces
from sockethealth_agent.sysctls.report import reports
from sysctl_lab import NODE_PORTS, assigned

pytestmark = pytest.mark.kernel

SYS_PTRACE, SYS_ADMIN = 19, 21
ALL = frozenset(range(41))
CONTAINERS = frozenset({SYS_PTRACE, SYS_ADMIN})
PR_SET_PDEATHSIG, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 23, 24, 38
CAPABILITY_VERSION_3 = 0x20080522
LIBC = ctypes.CDLL(None, use_errno=True)
FIN = "net.ipv4.tcp_fin_timeout"
LEAK = """
import signal, socket, sys
server = socket.create_server(("127.0.0.1", 7000))
held = []
for _ in range(3):
    client = socket.create_connection(("127.0.0.1", 7000))
    held.append(server.accept()[0])
    client.shutdown(socket.SHUT_WR)
    held[-1].recv(1)
    held.append(client)
print("ready", flush=True)
sys.stdin.read()
"""


def with_capabilities(numbers, what, *arguments):
    """Call a function in a child that has just these capabilities; what it returns, as JSON has it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.alarm(60)
            mask = _confine(numbers)
            assert procfs.read_effective_capabilities("thread-self") == mask
            told = {"result": what(*arguments)}
        except BaseException:  # noqa: BLE001 - nothing of a test may go on in the child
            told = {"failed": traceback.format_exc()}
        os.write(writing, msgspec.json.encode(told))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        told = json.loads(answer.read() or '{"failed": "the child ended"}')
    os.waitpid(child, 0)
    assert "failed" not in told, told["failed"]
    return told["result"]


def _confine(numbers):
    known = [number for number in ALL if LIBC.prctl(PR_CAPBSET_READ, number) == 1]
    for number in known:
        if number not in numbers:
            _checked(LIBC.prctl(PR_CAPBSET_DROP, number))
    mask = sum(1 << number for number in known if number in numbers)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _checked(LIBC.capset(header, data))
    _checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return mask


def _checked(code):
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture(scope="module")
def pod(tmp_path_factory):
    """A pod with a leak of another user's process, and the node it is on."""
    if not shutil.which("setpriv"):
        skip_or_fail("setpriv is missing. On Debian: apt-get install util-linux")
    folder = tmp_path_factory.mktemp("node")
    with lab.netns("host") as host, lab.netns("pod") as inside:
        user = ("--reuid=1234", "--regid=1234", "--clear-groups", "--pdeathsig=KILL", "--")
        python = ("/usr/bin/env", "python3", "-I", "-S", "-c", LEAK)
        command = ["nsenter", f"--net={inside.path}", "--", "setpriv", *user, *python]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as process:
            assert process.stdout.readline() == "ready\n"
            made = Pod(folder, host, inside, process.pid)
            made.shown.show(process.pid, made.known.uid)
            yield made
            process.stdin.close()


class Pod:
    """What the agent and the writer find of it, in the process that asks."""

    def __init__(self, folder, host, inside, pid):
        self.host, self.inside, self.pid = host, inside, pid
        self.shown, self.known = ShownProc(folder / "proc"), new_pod("leaking")
        self.journal = folder / "journal"

    def sweep(self):
        """By the agent: the pod's facts without their time, and what failed."""
        sampler = Sampler(proc=self.shown.root, host_netns=self.host.path, wall_clock=lambda: 0.0)
        sweep = sampler.sweep({self.known.uid: self.known})
        facts = [msgspec.to_builtins(one.facts) for one in sweep.pods.values()]
        for one in facts:
            one["closeWait"].pop("oldestSeconds")
        return {"facts": facts, "failed": list(sweep.failed.values())}

    def holders(self):
        """Who holds the leaked sockets of a namespace that is known by its mount, as the node's own may be."""
        found = read_netns(
            self.inside.path,
            Memory(),
            new_reader(),
            now=time.monotonic(),
            observed_at=0.0,
            pids={self.pid: None},
        ).close_wait
        return {"count": found.ages[0].count, "pids": [one.pid for one in found.owners]}

    def write(self, *values):
        """By the sysctl writer: the state and message of a profile for pods, or "" where none is wanted."""
        profiles = [assigned(target="Pods", values={FIN: value}) for value in values]
        journal = Journal(self.journal, "boot")
        applier = Applier(KernelNamespaces(self.shown.root, host_netns=self.host.path), journal, node_ports=NODE_PORTS)
        with journal.locked():
            journal.open()
            visits = applier.apply(profiles, {self.known.uid: self.known})
            found = reports(profiles, visits, applier.leftovers(visits))
        return [(one.state, one.message) for one in found]

    def value(self):
        return self.inside.run("cat", "/proc/sys/net/ipv4/tcp_fin_timeout").strip()


def test_with_the_two_a_pods_sockets_and_their_process_are_found(pod):
    found = with_capabilities(CONTAINERS, pod.sweep)
    assert found["failed"] == []
    (facts,) = found["facts"]
    assert (facts["sockets"]["closeWait"], facts["sockets"]["finWait2"], facts["sockets"]["listen"]) == (3, 3, 1)
    comm = procfs.read_comm(pod.pid)
    assert facts["closeWait"]["owners"] == [{"container": "app", "process": comm, "pid": pod.pid, "count": 3}]


def test_without_sys_admin_no_namespace_is_entered_and_it_is_said(pod):
    found = with_capabilities({SYS_PTRACE}, pod.sweep)
    assert found["facts"] == []
    assert "cannot be entered: CAP_SYS_ADMIN is missing" in found["failed"][0]


def test_without_sys_ptrace_no_pods_namespace_is_seen_and_it_is_said(pod):
    found = with_capabilities({SYS_ADMIN}, pod.sweep)
    assert found["facts"] == []
    assert "cannot be opened: CAP_SYS_PTRACE is missing" in found["failed"][0]


def test_without_sys_ptrace_the_process_of_a_leak_has_no_name(pod):
    """In a namespace that is known otherwise, as the node's own may be."""
    assert with_capabilities(CONTAINERS, pod.holders)["pids"] == [pod.pid]
    assert pod.pid not in with_capabilities({SYS_ADMIN}, pod.holders)["pids"]


def test_a_third_capability_finds_nothing_more(pod):
    assert with_capabilities(ALL, pod.sweep) == with_capabilities(CONTAINERS, pod.sweep)


@pytest.mark.usefixtures("host_sysctls_stay")
def test_the_writer_writes_with_the_two_and_says_what_is_missing_without(pod):
    found = pod.value()
    for numbers, missing in (({SYS_PTRACE}, "CAP_SYS_ADMIN"), ({SYS_ADMIN}, "CAP_SYS_PTRACE")):
        ((state, message),) = with_capabilities(numbers, pod.write, "31")
        assert state == "Failed"
        assert f"{missing} is missing" in message
        assert pod.value() == found
    ((state, _message),) = with_capabilities(CONTAINERS, pod.write, "31")
    assert (state, pod.value()) == ("Applied", "31")
    assert with_capabilities(CONTAINERS, pod.write) == []
    assert pod.value() == found
