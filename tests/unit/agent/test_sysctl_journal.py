"""The sysctl writer without a kernel: its journal, what it refuses to open, and passes over simulated namespaces."""

import os
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent_builders import pod
from sockethealth_agent.pods import read_pod
from sockethealth_agent.sysctls.disk import Disk
from sockethealth_agent.sysctls.journal import NODE, Entry, Journal, JournalError
from sockethealth_agent.sysctls.leaving import DaemonSet, why_for_good
from sockethealth_agent.sysctls.report import LONGEST_MESSAGE, MOST_CHANGES, reports
from sockethealth_agent.sysctls.tree import LONGEST_WRITE, Tree, TreeError
from sockethealth_core.resources import OverriddenSysctl, SysctlChange
from sockethealth_core.sysctl_plan import OWN_SPEC, Record
from sockethealth_core.sysctls import PORT_RANGE, RESERVED_PORTS, SYSCTLS, path_of
from sysctl_lab import OTHER_UID, UID, PlainDisk, SimulatedNode, assigned

FIN, TW, SOMAXCONN = "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_tw_reuse", "net.core.somaxconn"


def entry(**more):
    values = {
        "boot_id": "boot-1",
        "netns": "4:1",
        "where": "node",
        "records": {FIN: Record(found="60", ours=("30",), profile="a", revision="r")},
    }
    return Entry(**{**values, **more})


def opened(folder, boot_id="boot-1"):
    journal = Journal(folder, boot_id)
    with journal.locked() as alone:
        assert alone
    journal.open()
    return journal


def test_what_is_put_is_there_after_a_restart(tmp_path):
    folder = tmp_path / "journal"
    opened(folder).put(UID, entry(where="shop/web"))
    again = opened(folder)
    assert again.entries == {UID: entry(where="shop/web")}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / f"{UID}.json").stat().st_mode) == 0o600


def test_an_entry_without_records_goes_and_so_does_one_of_another_boot(tmp_path):
    journal = opened(tmp_path)
    journal.put(NODE, entry())
    journal.put(UID, entry())
    journal.put(UID, entry(records={}))
    assert {file.name for file in tmp_path.iterdir()} == {"lock", "node.json"}
    assert opened(tmp_path, "boot-2").entries == {}
    assert {file.name for file in tmp_path.iterdir()} == {"lock"}


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 2}', b'{"version": 1, "records": 5}', b"\xff"])
def test_a_file_that_cannot_be_read_stays_and_is_said(tmp_path, content):
    (tmp_path / "node.json").write_bytes(content)
    journal = opened(tmp_path)
    assert journal.entries == {}
    assert "node.json" in journal.unreadable(NODE)
    assert (tmp_path / "node.json").read_bytes() == content


@pytest.mark.parametrize(
    "key", ["", "..", "../node", "node/../x", "a" * 36, f"{UID}/", UID.upper(), f"{UID}\n", "x\0y"]
)
def test_only_the_node_and_uids_are_names_of_files(tmp_path, key):
    with pytest.raises(ValueError, match="neither"):
        opened(tmp_path).put(key, entry())


def test_a_second_writer_waits(tmp_path):
    with Journal(tmp_path, "b").locked() as first, Journal(tmp_path, "b").locked() as second:
        assert (first, second) == (True, False)
    with Journal(tmp_path, "b").locked() as third:
        assert third


def test_a_full_disk_leaves_the_entry_before(tmp_path):
    class Full(Disk):
        def write(self, file, data):
            os.write(file, data[:5])
            raise OSError(28, "No space left on device")

    opened(tmp_path).put(NODE, entry())
    journal = Journal(tmp_path, "boot-1", Full())
    journal.open()
    with pytest.raises(JournalError, match="No space left"):
        journal.put(NODE, entry(where="changed"))
    assert opened(tmp_path).entries == {NODE: entry()}


NAMES = [sysctl.name for sysctl in SYSCTLS]
TRICKS = [
    "net/ipv4/tcp_fin_timeout",
    "net.ipv4.../../../bait",
    "net.ipv4.tcp_fin_timeout/../../../bait",
    "net...bait",
    "../bait",
    "/etc/bait",
    "net.ipv4.tcp_fin_timeout\0",
    "net.ipv4.tcp_fin_timeout\n",
    "net.ipv4.tcp_fin_timeout ",
    "net.ipv4.tcp_fin_time\u200bout",
    "net.ipv4.tcp_fin_timeou\uff54",
    "NET.IPV4.TCP_FIN_TIMEOUT",
    "kernel.core_pattern",
    "net.ipv4.ip_forward",
    "net.ipv4.tcp_tw_recycle",
    "net.ipv4",
    "",
    ".",
]
VALUES = [
    "30",
    "1",
    "10240 65000",
    "8080",
    "",
    "0",
    "-1",
    "30\0",
    "30\n31",
    "\u0663\u0660",
    "0x1e",
    "1e3",
    "9" * 400,
    "|/x",
]


class Bait:
    """A /proc/sys/net among other files, all of which must stay as they are."""

    def __init__(self, folder):
        self.root = folder / "sys" / "net"
        for sysctl in SYSCTLS:
            self.lay(self.root / path_of(sysctl.name))
        for place in ("ipv4/ip_forward", "ipv4/bait", "bait", "../bait", "../../bait", "../kernel/core_pattern"):
            self.lay(self.root / place)
        self.folder = folder

    def lay(self, file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("bait\n")

    def changed(self):
        """Every file that is not as it was laid, by its path below the root; new ones too."""
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        return {os.path.relpath(file, self.root): file.read_text() for file in files if file.read_text() != "bait\n"}


@pytest.fixture(scope="module")
def bait(tmp_path_factory):
    return Bait(tmp_path_factory.mktemp("bait"))


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.one_of(
        st.sampled_from([*NAMES, *TRICKS]), st.text(max_size=40), st.from_regex(r"net[./a-z0-9_\x00]{0,30}")
    ),
    value=st.one_of(st.sampled_from(VALUES), st.text(max_size=20), st.integers(-10, 2**33).map(str)),
    target=st.sampled_from(("Node", "Pods")),
    back=st.booleans(),
)
@example(name=FIN, value="30", target="Pods", back=False)
def test_nothing_outside_of_the_table_is_ever_written(bait, name, value, target, back):
    tree = Tree(PlainDisk())
    try:
        tree.put_back(bait.root, name, value) if back else tree.write(bait.root, name, value, target)
    except (TreeError, ValueError):
        assert bait.changed() == {}
        return
    changed = bait.changed()
    assert set(changed) == {path_of(name)}
    assert name in NAMES
    assert set(changed[path_of(name)]) <= set("0123456789 ,-\n")
    bait.lay(bait.root / path_of(name))


@given(name=st.one_of(st.sampled_from(TRICKS), st.text(max_size=60).filter(lambda text: text not in NAMES)))
def test_nothing_outside_of_the_table_is_ever_opened(name):
    class Sealed(Disk):
        def open(self, path, *_flags, **_more):
            raise AssertionError(f"{path} was opened for {name!r}")

    tree = Tree(Sealed())
    with pytest.raises(ValueError):
        tree.read(Path("/proc/sys/net"), name)
    with pytest.raises((TreeError, ValueError)):
        tree.write(Path("/proc/sys/net"), name, "1", "Node")
    with pytest.raises(ValueError):
        tree.put_back(Path("/proc/sys/net"), name, "1")


def test_no_link_is_followed(tmp_path):
    target = tmp_path / "elsewhere"
    (target / "ipv4").mkdir(parents=True)
    (target / "ipv4" / "tcp_fin_timeout").write_text("60\n")
    by_folder, by_file = tmp_path / "one", tmp_path / "two"
    by_folder.mkdir()
    (by_folder / "ipv4").symlink_to(target / "ipv4")
    (by_file / "ipv4").mkdir(parents=True)
    (by_file / "ipv4" / "tcp_fin_timeout").symlink_to(target / "ipv4" / "tcp_fin_timeout")
    for root in (by_folder, by_file):
        with pytest.raises(TreeError):
            Tree(PlainDisk()).write(root, FIN, "30", "Pods")
    assert (target / "ipv4" / "tcp_fin_timeout").read_text() == "60\n"


def test_what_is_not_there_is_not_made(tmp_path):
    (tmp_path / "ipv4").mkdir()
    tree = Tree(PlainDisk())
    assert tree.read(tmp_path, FIN) is None
    with pytest.raises(TreeError, match="No such file"):
        tree.write(tmp_path, FIN, "30", "Pods")
    assert list((tmp_path / "ipv4").iterdir()) == []


def test_a_list_too_long_for_one_write_is_refused(tmp_path):
    (tmp_path / "ipv4").mkdir()
    (tmp_path / "ipv4" / "ip_local_reserved_ports").write_text("\n")
    every_second = ",".join(str(port) for port in range(10001, 30000, 2))
    assert len(every_second) > LONGEST_WRITE
    with pytest.raises(TreeError, match="too long"):
        Tree(PlainDisk()).write(tmp_path, RESERVED_PORTS, every_second, "Pods")
    assert (tmp_path / "ipv4" / "ip_local_reserved_ports").read_text() == "\n"


@pytest.fixture
def node(tmp_path):
    made = SimulatedNode(tmp_path)
    made.add(NODE)
    made.add(UID, {SOMAXCONN: "511"})
    made.add(OTHER_UID)
    return made


PODS = {
    UID: pod("web", uid=UID, labels={"app": "web"}),
    OTHER_UID: pod("db", uid=OTHER_UID, labels={"app": "db"}),
}


def run(node, profiles, pods=PODS):
    """A writer that is started, makes one pass and ends."""
    with node.applier() as applier:
        return passed(applier, profiles, pods)


def passed(applier, profiles, pods=PODS):
    visits = applier.apply(profiles, pods)
    return {one.profile: one for one in reports(profiles, visits, applier.leftovers(visits))}


def test_a_profile_changes_exactly_what_it_names_and_leaves_no_trace(node):
    before = node.everything()
    found = run(node, [assigned(values={FIN: "30", TW: "1", SOMAXCONN: "4096"})])["tuned"]
    assert {key: value for key, value in node.everything().items() if before[key] != value} == {
        f"node/{path_of(FIN)}": "30",
        f"node/{path_of(TW)}": "1",
    }
    assert (found.state, found.targets, found.changes_total) == ("Applied", 1, 2)
    assert found.changes[0] == SysctlChange(where="node", name=FIN, found="60", wanted="30")
    assert run(node, []) == {}
    assert node.everything() == before
    assert [file.name for file in node.journal_folder.iterdir()] == ["lock"]


def test_selected_pods_get_it_and_deselected_ones_lose_it(node):
    before = node.everything()
    everyone = assigned(target="Pods", values={SOMAXCONN: "8192"})
    assert run(node, [everyone])["tuned"].targets == 2
    assert (node.value(UID, SOMAXCONN), node.value(OTHER_UID, SOMAXCONN)) == ("8192", "8192")
    assert node.value(NODE, SOMAXCONN) == before["node/core/somaxconn"]
    only = assigned(target="Pods", values={SOMAXCONN: "8192"}, namespaces=["bank"])
    assert run(node, [only])["tuned"].targets == 0
    assert node.everything() == before


def test_pods_of_the_nodes_network_and_completed_ones_are_no_target(node):
    pods = {
        UID: pod("web", uid=UID, host_network=True),
        OTHER_UID: pod("db", uid=OTHER_UID, phase="Succeeded"),
    }
    before = node.everything()
    found = run(node, [assigned(target="Pods", values={FIN: "30"})], pods)["tuned"]
    assert (found.state, found.targets) == ("Applied", 0)
    assert node.everything() == before


def test_audit_changes_nothing_and_shows_the_difference(node):
    before = node.everything()
    profile = assigned(target="Pods", mode="Audit", values={SOMAXCONN: "4096", FIN: "60"})
    found = run(node, [profile])["tuned"]
    assert (found.state, found.changes_total) == ("Audited", 1)
    assert found.changes == [SysctlChange(where="shop/web", name=SOMAXCONN, found="511", wanted="4096")]
    assert node.everything() == before
    assert list(node.journal_folder.iterdir()) == [node.journal_folder / "lock"]


def test_drift_is_put_right_once_and_then_left_and_never_overwritten(node):
    profiles = [assigned(values={FIN: "30"})]
    with node.applier() as applier:
        passed(applier, profiles)
        node.set(NODE, FIN, "77")
        assert passed(applier, profiles)["tuned"].state == "Applied"
        assert node.value(NODE, FIN) == "30"
        node.set(NODE, FIN, "78")
        found = passed(applier, profiles)["tuned"]
        assert found.state == "Drifted"
        assert "'78'" in found.message
        assert node.value(NODE, FIN) == "78"
    assert run(node, profiles)["tuned"].state == "Drifted"
    assert run(node, []) == {}
    assert node.value(NODE, FIN) == "78"


def test_two_profiles_and_the_pods_own_spec(node):
    pods = {**PODS, UID: pod("web", uid=UID, sysctls=frozenset({FIN}))}
    profiles = [
        assigned("low", "Pods", values={FIN: "30", TW: "1"}),
        assigned("high", "Pods", priority=1, values={FIN: "40"}),
    ]
    found = run(node, profiles, pods)
    assert (node.value(UID, FIN), node.value(OTHER_UID, FIN)) == ("60", "40")
    assert node.value(UID, TW) == "1"
    assert found["low"].overridden == [
        OverriddenSysctl(name=FIN, by="high"),
        OverriddenSysctl(name=FIN, by=OWN_SPEC),
    ]
    assert found["high"].overridden == [OverriddenSysctl(name=FIN, by=OWN_SPEC)]


def test_a_refused_write_is_undone_said_and_not_tried_again(node):
    node.failing.add(TW)
    profiles = [assigned(values={TW: "1", FIN: "30"})]
    with node.applier() as applier:
        found = passed(applier, profiles)["tuned"]
        assert found.state == "Failed"
        assert f"{TW} = '1'" in found.message
        assert (node.value(NODE, TW), node.value(NODE, FIN)) == ("2", "30")
        node.failing.clear()
        assert passed(applier, profiles)["tuned"].state == "Failed"
        assert node.value(NODE, TW) == "2"
        again = [assigned(values={TW: "1", FIN: "30"}, revision="2")]
        assert passed(applier, again)["tuned"].state == "Applied"
    assert run(node, []) == {}
    assert (node.value(NODE, TW), node.value(NODE, FIN)) == ("2", "60")


def test_a_range_is_not_written_when_its_reserved_ports_could_not_be(node):
    node.failing.add(RESERVED_PORTS)
    values = {PORT_RANGE: "10240 65000", RESERVED_PORTS: "30000-32767"}
    found = run(node, [assigned(values=values)])["tuned"]
    assert found.state == "Failed"
    assert RESERVED_PORTS in found.message
    assert node.value(NODE, PORT_RANGE) == "32768 60999"
    assert not (node.journal_folder / "node.json").exists()


def test_what_cannot_be_put_back_stays_restoring(node):
    run(node, [assigned(values={FIN: "30"})])
    node.failing.add(FIN)
    found = run(node, [])["tuned"]
    assert (found.state, found.revision) == ("Restoring", "")
    assert "back to '60'" in found.message
    node.failing.clear()
    assert run(node, []) == {}
    assert node.value(NODE, FIN) == "60"


def test_a_sysctl_the_kernel_lacks_is_unsupported_and_no_failure(node):
    node.remove(NODE, TW)
    found = run(node, [assigned(values={TW: "1", FIN: "30"})])["tuned"]
    assert (found.state, found.unsupported) == ("Applied", [TW])


def test_listeners_in_a_wider_range_must_be_reserved(node):
    node.listening[UID] = {8080, 15432, 40000}
    node.listening[OTHER_UID] = {70}
    found = run(node, [assigned(target="Pods", values={PORT_RANGE: "10240 65000"})])["tuned"]
    assert found.state == "Failed"
    assert "shop/web" in found.message
    assert "15432" in found.message
    assert "40000" not in found.message
    assert (node.value(UID, PORT_RANGE), node.value(OTHER_UID, PORT_RANGE)) == ("32768 60999", "10240 65000")
    both = {PORT_RANGE: "10240 65000", RESERVED_PORTS: "15432"}
    assert run(node, [assigned(target="Pods", values=both)])["tuned"].state == "Applied"
    assert node.value(UID, PORT_RANGE) == "10240 65000"


def test_a_range_in_force_stays_when_a_wider_one_is_refused(node):
    run(node, [assigned(target="Pods", values={PORT_RANGE: "20000 60999"})])
    node.listening[UID] = {15432}
    found = run(node, [assigned(target="Pods", values={PORT_RANGE: "10240 65000"}, revision="2")])["tuned"]
    assert found.state == "Failed"
    assert (node.value(UID, PORT_RANGE), node.value(OTHER_UID, PORT_RANGE)) == ("20000 60999", "10240 65000")
    assert run(node, []) == {}
    assert (node.value(UID, PORT_RANGE), node.value(OTHER_UID, PORT_RANGE)) == ("32768 60999", "32768 60999")


def test_another_boot_and_another_namespace_have_values_of_their_own(node, tmp_path):
    profiles = [assigned(values={FIN: "30"}), assigned("pods", "Pods", values={FIN: "31"})]
    run(node, profiles)
    node.boot_id = "boot-2"
    node.set(NODE, FIN, "61")
    assert run(node, profiles)["tuned"].changes == [SysctlChange(where="node", name=FIN, found="61", wanted="30")]
    (node.trees / UID).rename(tmp_path / "gone")
    node.add(UID, {FIN: "62"})
    run(node, profiles)
    assert node.value(UID, FIN) == "31"
    run(node, [])
    assert (node.value(NODE, FIN), node.value(UID, FIN)) == ("61", "62")


def test_a_pod_that_is_gone_is_forgotten_and_one_without_a_process_is_not(node, tmp_path):
    profiles = [assigned(target="Pods", values={FIN: "30"})]
    run(node, profiles)
    for uid in (UID, OTHER_UID):
        (node.trees / uid).rename(tmp_path / uid)
    found = run(node, profiles, {UID: PODS[UID]})["tuned"]
    assert (found.state, found.targets) == ("Applied", 0)
    assert sorted(file.name for file in node.journal_folder.glob("*.json")) == [f"{UID}.json"]
    left = run(node, [], {UID: PODS[UID]})["tuned"]
    assert left.state == "Restoring"
    assert "no process" in left.message
    (tmp_path / UID).rename(node.trees / UID)
    assert run(node, [], {UID: PODS[UID]}) == {}
    assert node.value(UID, FIN) == "60"


def test_a_namespace_whose_journal_cannot_be_read_is_not_touched(node):
    run(node, [assigned(values={FIN: "30"})])
    (node.journal_folder / "node.json").write_text("{")
    before = node.everything()
    profiles = [assigned(values={FIN: "40"}), assigned("pods", "Pods", values={FIN: "41"})]
    found = run(node, profiles)
    assert found["tuned"].state == "Failed"
    assert "node.json" in found["tuned"].message
    assert found["pods"].state == "Applied"
    assert node.value(NODE, FIN) == before[f"node/{path_of(FIN)}"]
    assert (node.journal_folder / "node.json").read_text() == "{"


def test_a_value_that_could_not_be_put_back_is_not_changed(node):
    long = ",".join(str(port) for port in range(10001, 12001, 2))
    node.set(UID, RESERVED_PORTS, long)
    found = run(node, [assigned(target="Pods", values={RESERVED_PORTS: "8080"})])["tuned"]
    assert found.state == "Failed"
    assert "could not be put back" in found.message
    assert node.value(UID, RESERVED_PORTS) == long


def test_restore_needs_nothing_but_the_journal(node):
    before = node.everything()
    run(node, [assigned(values={FIN: "30"}), assigned("pods", "Pods", values={SOMAXCONN: "8192"})])
    with node.applier() as applier:
        visits = applier.restore()
        assert applier.leftovers(visits) == []
    assert node.everything() == before


def test_a_report_is_bounded(tmp_path):
    many = SimulatedNode(tmp_path)
    pods = {}
    for number in range(15):
        uid = f"{number:08x}-1111-4222-8333-444444444444"
        many.add(uid)
        pods[uid] = pod("p" * 60 + str(number), uid=uid)
        many.listening[uid] = {20000}
    values = {FIN: "30", TW: "1", SOMAXCONN: "8192"}
    found = run(many, [assigned(target="Pods", values=values)], pods)["tuned"]
    assert (len(found.changes), found.changes_total, found.targets) == (MOST_CHANGES, 45, 15)
    refused = run(many, [assigned(target="Pods", values={PORT_RANGE: "10240 65000"})], pods)["tuned"]
    assert refused.state == "Failed"
    assert len(refused.message) <= LONGEST_MESSAGE
    assert "12 more" in refused.message


@pytest.mark.parametrize(
    ("daemonset", "labels", "word"),
    [
        (None, {}, "deleted"),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, {}, "deleted"),
        ({"spec": {"template": {"spec": {"containers": [{"name": "agent"}]}}}}, {}, "no sysctl writer"),
        ({}, None, "left the cluster"),
        ({"metadata": {}, "nodeSelector": {"pool": "a"}}, {"pool": "b"}, "not for this node"),
        ({"metadata": {}, "nodeSelector": {"pool": "a"}}, {"pool": "a", "x": "y"}, None),
    ],
)
def test_when_the_writer_goes_for_good(daemonset, labels, word):
    found = None
    if daemonset is not None:
        containers = [{"name": "agent"}, {"name": "sysctl-writer"}]
        selector = daemonset.pop("nodeSelector", {})
        whole = {"spec": {"template": {"spec": {"containers": containers, "nodeSelector": selector}}}, **daemonset}
        found = msgspec.convert(whole, DaemonSet)
    why = why_for_good(found, "sysctl-writer", labels)
    assert why is None if word is None else word in why


def test_the_sysctls_of_a_pods_own_spec():
    raw = b"""{"metadata": {"name": "a", "namespace": "b", "uid": "c"}, "spec": {"securityContext": {"sysctls": [
        {"name": "net.ipv4.tcp_fin_timeout", "value": "5"}, {"name": "net/core/somaxconn", "value": "9"}]}}}"""
    assert read_pod(raw).sysctls == {FIN, SOMAXCONN}
    assert read_pod(b'{"metadata": {"name": "a", "namespace": "b", "uid": "c"}}').sysctls == frozenset()
