"""The writer is killed at every one of its system calls, over real network namespaces, and the values come right.

A child runs the real writer; its disk kills it before the Nth call, for every N until a run ends by itself. Before the
N+1st is after the Nth: nothing that outlives the process happens in between. Writes of the journal are also torn.
"""

import itertools
import os
import signal
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

import lab
from agent_builders import pod
from sockethealth_agent import netns
from sockethealth_agent.sysctls.applier import Applier
from sockethealth_agent.sysctls.disk import Disk
from sockethealth_agent.sysctls.journal import NODE, Journal
from sockethealth_agent.sysctls.namespaces import Look, Namespace
from sockethealth_agent.sysctls.tree import Tree
from sockethealth_core.sysctls import PORT_RANGE, RESERVED_PORTS, SYSCTLS, path_of
from sysctl_lab import NODE_PORTS, assigned

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


class DeadlyDisk(Disk):
    """Kills its process before the Nth call; with `torn`, half way through the Nth write of the journal."""

    def __init__(self, kill_at=None, *, torn=False):
        self._left, self._torn = kill_at, torn
        self.calls = []
        self._paths = {}

    def _count(self, call, what, data=None, file=None):
        self.calls.append((call, what))
        if self._left is None or (self._torn and not what.endswith(".json.new")) or (self._torn and data is None):
            return
        self._left -= 1
        if self._left == 0:
            if self._torn:
                os.write(file, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    def open(self, path, flags, mode=0o600, folder=None):
        self._count("open", path)
        file = super().open(path, flags, mode, folder)
        self._paths[file] = path
        return file

    def read(self, file, most):
        self._count("read", self._paths[file])
        return super().read(file, most)

    def write(self, file, data):
        self._count("write", self._paths[file], data, file)
        return super().write(file, data)

    def fsync(self, file):
        self._count("fsync", self._paths[file])
        super().fsync(file)

    def rename(self, old, new, folder):
        self._count("rename", new)
        super().rename(old, new, folder)

    def unlink(self, name, folder):
        self._count("unlink", name)
        super().unlink(name, folder)


class Node:
    """Two real namespaces: one that stands in for the node's own, one of a pod."""

    def __init__(self, host, inside, journal):
        self.places = {"node": host, "pod": inside}
        self.uid = str(uuid.uuid4())
        self.pods = {self.uid: pod("web", uid=self.uid)}
        self.journal = journal

    def look(self, *, pods):
        del pods
        made = {
            name: Namespace(key, ROOT, lambda at=place: _enter(at), frozenset)
            for (name, place), key in zip(self.places.items(), (NODE, self.uid), strict=True)
        }
        return Look(made["node"], "", {self.uid: made["pod"]})

    def pass_over(self, profiles, disk):
        journal = Journal(self.journal, "boot", disk)
        with journal.locked() as alone:
            assert alone
            journal.open()
            Applier(self, journal, node_ports=NODE_PORTS, tree=Tree(disk)).apply(profiles, self.pods)

    def run(self, profiles, kill_at=None, *, torn=False):
        """A writer in a child of its own; whether it was killed."""
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            try:
                self.pass_over(profiles, DeadlyDisk(kill_at, torn=torn))
            except BaseException:  # noqa: BLE001 - nothing of a test may go on in the child
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0), f"the writer ended with {status}"
        return killed

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


@contextmanager
def _enter(place):
    """netns.entered with an identity as the writer has it."""
    with netns.entered(place.path) as found:
        yield f"{found.device}:{found.inode}"


@pytest.fixture
def journal():
    """A folder in memory: what matters is the order of the calls, and a thousand fsyncs of a disk take a minute."""
    with tempfile.TemporaryDirectory(prefix="sockethealth-test-", dir="/dev/shm") as folder:
        yield Path(folder) / "journal"


@pytest.fixture
def node(journal):
    own = {name: file.read_text() for name, file in FILES.items()}
    with lab.netns("host") as host, lab.netns("pod") as inside:
        inside.sysctl(SOMAXCONN, "777")
        host.sysctl(RESERVED_PORTS, "9100")
        yield Node(host, inside, journal)
    assert {name: file.read_text() for name, file in FILES.items()} == own


def fully(node, profiles):
    """A pass of a writer that nobody kills: a new one, with nothing in memory of those before."""
    node.pass_over(profiles, Disk())


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
        node.places["node"].sysctl(FIN, value)
        fully(node, [])
        expected = {**before, "node": {**before["node"], FIN: value}}
        assert node.values() == expected, f"call {number}"
        node.places["node"].sysctl(FIN, found["node"][FIN])

    at_every_call(node, then, lambda: fully(node, first), check)
    assert node.values() == before


def test_killed_at_every_call_of_a_second_application_it_is_made_once_and_found_is_kept(node):
    before = node.values()

    def drift():
        fully(node, ONE)
        node.places["node"].sysctl(FIN, "77")

    def check(number):
        fully(node, ONE)
        assert node.changed(before) == IN_FORCE["one"], f"call {number}: not in force again"
        node.places["node"].sysctl(FIN, "78")
        fully(node, ONE)
        assert node.values()["node"][FIN] == "78", f"call {number}: fought over"
        fully(node, [])
        assert node.changed(before) == {"node": {FIN: "78"}, "pod": {}}, f"call {number}"
        node.places["node"].sysctl(FIN, before["node"][FIN])

    at_every_call(node, ONE, drift, check)


def test_what_is_found_is_on_the_disk_before_the_first_write(node):
    disk = DeadlyDisk()
    node.pass_over(ONE, disk)
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
    node.pass_over([], back)
    order = [what for call, what in back.calls if call == "write" and what in sysctls]
    assert order[:3] == ["ip_local_port_range", "tcp_fin_timeout", "ip_local_reserved_ports"]
