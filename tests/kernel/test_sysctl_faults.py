"""The writer is killed at every one of its system calls, over real network namespaces, and the values come right.

A child runs the real writer; its disk kills it before the Nth call, for every N until a run ends by itself. Before the
N+1st is after the Nth: nothing that outlives the process happens in between. Writes of the journal are also torn.
"""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import msgspec
import pytest

import killed_writer
import lab
from killed_writer import DeadlyDisk, Request, Writer
from sockethealth_agent import netns
from sockethealth_agent.sysctls.disk import Disk
from sockethealth_core.sysctls import PORT_RANGE, RESERVED_PORTS, SYSCTLS, path_of
from sysctl_lab import assigned

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("host_sysctls_stay")]

FIN, TW, SOMAXCONN = "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_tw_reuse", "net.core.somaxconn"
ROOT = Path("/proc/sys/net")
FILES = {
    sysctl.name: ROOT / path_of(sysctl.name) for sysctl in SYSCTLS if sysctl.scope == "Netns" and not sysctl.module
}
MOST_CALLS = 400
ONE = [
    assigned("node", values={RESERVED_PORTS: "30000-32767", PORT_RANGE: "10240 65000", FIN: "31"}),
    assigned("pods", "Pods", values={TW: "1", SOMAXCONN: "8192"}),
]
TWO = [
    assigned("node", values={PORT_RANGE: "40000 60000", FIN: "32"}, revision="2"),
    assigned("pods", "Pods", values={TW: "0", SOMAXCONN: "9000"}, revision="2"),
]
IN_FORCE = {
    "one": {
        "node": {RESERVED_PORTS: "30000-32767", PORT_RANGE: "10240 65000", FIN: "31"},
        "pod": {TW: "1", SOMAXCONN: "8192"},
    },
    "two": {"node": {PORT_RANGE: "40000 60000", FIN: "32"}, "pod": {TW: "0", SOMAXCONN: "9000"}},
}


class Node:
    """Two real namespaces: one that stands in for the node's own, one of a pod."""

    def __init__(self, host, inside, journal, writers):
        self.places = {"node": host, "pod": inside}
        self.journal = journal
        self.writer = Writer(host.path, inside.path, str(uuid.uuid4()), str(journal))
        self._writers = writers

    def run(self, profiles, kill_at=None, *, torn=False):
        """A writer in a child of its own; whether it was killed."""
        self._writers.stdin.write(msgspec.json.encode(Request(self.writer, profiles, kill_at, torn)) + b"\n")
        self._writers.stdin.flush()
        status = int(self._writers.stdout.readline())
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0), f"the writer ended with {status}"
        return killed

    def someone_sets(self, value):
        """Someone else sets tcp_fin_timeout on the node."""
        with netns.entered(self.places["node"].path):
            FILES[FIN].write_text(value)

    def values(self):
        """Everything in force in both."""
        found = {}
        for name, place in self.places.items():
            with netns.entered(place.path):
                found[name] = {sysctl: " ".join(file.read_text().split()) for sysctl, file in FILES.items()}
        return found

    def changed(self, before):
        """What differs from before, by place."""
        return {
            place: {name: value for name, value in values.items() if value != before[place][name]}
            for place, values in self.values().items()
        }


@pytest.fixture
def journal():
    """A folder in memory: what matters is the order of the calls, and a thousand fsyncs of a disk take a minute."""
    with tempfile.TemporaryDirectory(prefix="sockethealth-test-", dir="/dev/shm") as folder:
        yield Path(folder) / "journal"


@pytest.fixture(scope="module")
def writers():
    """The process whose children are the writers that are killed."""
    program = [sys.executable, str(Path(killed_writer.__file__))]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def node(journal, writers):
    own = {name: file.read_text() for name, file in FILES.items()}
    with lab.netns("host") as host, lab.netns("pod") as inside:
        inside.sysctl(SOMAXCONN, "777")
        host.sysctl(RESERVED_PORTS, "9100")
        yield Node(host, inside, journal, writers)
    assert {name: file.read_text() for name, file in FILES.items()} == own


def fully(node, profiles):
    """A pass of a writer that nobody kills: a new one, with nothing in memory of those before."""
    node.writer.pass_over(profiles, Disk())


def at_every_call(node, profiles, prepare, check, *, torn=False):
    """Prepare, run until the Nth call, check; for every N. Returns how many there were."""
    for number in range(1, MOST_CALLS):
        prepare()
        killed = node.run(profiles, number, torn=torn)
        check(number)
        if not killed:
            return number - 1
    raise AssertionError(f"a pass of more than {MOST_CALLS} calls")


STAGES = {
    "apply": ([], ONE, "one"),
    "change": (ONE, TWO, "two"),
    "restore": (ONE, [], None),
}


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_call_the_next_writer_finishes_and_all_comes_back(node, stage, torn):
    first, then, expected = STAGES[stage]
    before = node.values()
    wanted = IN_FORCE.get(expected, {"node": {}, "pod": {}})
    allowed = {
        place: {name: {before[place][name], *(v[place].get(name) for v in IN_FORCE.values())} for name in FILES}
        for place in before
    }

    def check(number):
        for place, values in node.values().items():
            for name, value in values.items():
                assert value in allowed[place][name], f"call {number}: {name} of {place} is {value}"
        fully(node, then)
        assert node.changed(before) == wanted, f"call {number}: the next writer did not finish"
        fully(node, [])
        assert node.values() == before, f"call {number}: not all was put back"
        assert [file.name for file in node.journal.glob("*.json")] == []

    calls = at_every_call(node, then, lambda: fully(node, first), check, torn=torn)
    assert calls >= (1 if torn else 40)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_call_while_the_profile_is_withdrawn_all_comes_back(node, stage):
    first, then, _expected = STAGES[stage]
    before = node.values()

    def check(number):
        fully(node, [])
        assert node.values() == before, f"call {number}: not all was put back"

    at_every_call(node, then, lambda: fully(node, first), check)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_call_what_someone_sets_meanwhile_is_left(node, stage):
    first, then, _expected = STAGES[stage]
    before = node.values()
    found = {place: dict(values) for place, values in before.items()}
    theirs = itertools.cycle(("97", "98", "99"))

    def check(number):
        value = next(theirs)
        node.someone_sets(value)
        fully(node, [])
        expected = {**before, "node": {**before["node"], FIN: value}}
        assert node.values() == expected, f"call {number}"
        node.someone_sets(found["node"][FIN])

    at_every_call(node, then, lambda: fully(node, first), check)
    assert node.values() == before


def test_killed_at_every_call_of_a_second_application_it_is_made_once_and_found_is_kept(node):
    before = node.values()

    def drift():
        fully(node, ONE)
        node.someone_sets("77")

    def check(number):
        fully(node, ONE)
        assert node.changed(before) == IN_FORCE["one"], f"call {number}: not in force again"
        node.someone_sets("78")
        fully(node, ONE)
        assert node.values()["node"][FIN] == "78", f"call {number}: fought over"
        fully(node, [])
        assert node.changed(before) == {"node": {FIN: "78"}, "pod": {}}, f"call {number}"
        node.someone_sets(before["node"][FIN])

    at_every_call(node, ONE, drift, check)


def test_what_is_found_is_on_the_disk_before_the_first_write(node):
    disk = DeadlyDisk()
    node.writer.pass_over(ONE, disk)
    sysctls = {path_of(name).rpartition("/")[2] for one in ONE for name in [s.name for s in one.sysctls]}
    safe = False
    writes = []
    for index, (call, what) in enumerate(disk.calls):
        if call == "write" and what in sysctls:
            assert safe, f"{what} was written before the journal was on the disk"
            writes.append(what)
        if call == "rename":
            file = what + ".new"
            assert disk.calls[index - 1] == ("fsync", file)
            assert disk.calls[index + 1] == ("fsync", str(node.journal))
            safe = True
    assert writes[:3] == ["ip_local_reserved_ports", "tcp_fin_timeout", "ip_local_port_range"]
    assert set(writes[3:]) == {"tcp_tw_reuse", "somaxconn"}
    back = DeadlyDisk()
    node.writer.pass_over([], back)
    order = [what for call, what in back.calls if call == "write" and what in sysctls]
    assert order[:3] == ["ip_local_port_range", "tcp_fin_timeout", "ip_local_reserved_ports"]
