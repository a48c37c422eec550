"""The sysctl writer over real network namespaces: exact values where they belong, and nowhere else."""

import os
import subprocess
import uuid
from pathlib import Path

import pytest

import lab
from agent_builders import pod
from sockethealth_agent.sysctls.applier import Applier
from sockethealth_agent.sysctls.journal import Journal
from sockethealth_agent.sysctls.namespaces import KernelNamespaces
from sockethealth_agent.sysctls.report import reports
from sockethealth_core.sysctls import PORT_RANGE, RESERVED_PORTS, SYSCTLS, path_of
from sysctl_lab import NODE_PORTS, assigned

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("host_sysctls_stay")]

FIN, TW, SOMAXCONN = "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_tw_reuse", "net.core.somaxconn"
PER_NETNS = [sysctl for sysctl in SYSCTLS if sysctl.scope == "Netns" and not sysctl.module]
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def own_values():
    """What is in force in this machine's own namespace, of which no test may change anything."""
    files = {sysctl.name: Path("/proc/sys/net", path_of(sysctl.name)) for sysctl in SYSCTLS}
    return {name: file.read_text().split() for name, file in files.items() if file.exists()}


def values(namespace):
    """What is in force in a namespace, by another program."""
    files = [f"/proc/sys/net/{path_of(sysctl.name)}" for sysctl in PER_NETNS]
    lines = namespace.run("sh", "-c", 'for f; do echo $(cat "$f"); done', "sh", *files).splitlines()
    return {sysctl.name: line for sysctl, line in zip(PER_NETNS, lines, strict=True)}


def differences(before, after):
    return {name: value for name, value in after.items() if before[name] != value}


@pytest.fixture(autouse=True)
def untouched():
    """This machine's own namespace stays as it is."""
    before = own_values()
    yield
    assert own_values() == before


class Node:
    """A node whose own namespace is a throw-away one, and whose /proc shows chosen processes as if of pods."""

    def __init__(self, folder, host):
        self.proc, self.journal, self.host = folder / "proc", folder / "journal", host
        self.proc.mkdir()
        for name in ("uptime", "thread-self", "sys"):
            (self.proc / name).symlink_to(f"/proc/{name}")
        self.pods = {}
        self.sysctl_root = Path("/proc/sys/net")

    def show(self, name, inside, **more):
        """A pod with the process of a lab's namespace."""
        one = pod(name, uid=str(uuid.uuid4()), **more)
        entry = self.proc / str(inside.pid)
        entry.mkdir()
        (entry / "cgroup").write_text(f"0::/kubepods/burstable/pod{one.uid}/{'ab' * 32}\n")
        for file in ("stat", "ns"):
            (entry / file).symlink_to(f"/proc/{inside.pid}/{file}")
        self.pods[one.uid] = one
        return one

    def run(self, *profiles):
        """A writer that is started, makes one pass and ends; its reports by profile."""
        journal = Journal(self.journal, BOOT_ID)
        namespaces = KernelNamespaces(self.proc, self.sysctl_root, self.host.path)
        applier = Applier(namespaces, journal, node_ports=NODE_PORTS)
        with journal.locked():
            journal.open()
            visits = applier.apply(profiles, self.pods)
            return {one.profile: one for one in reports(profiles, visits, applier.leftovers(visits))}


@pytest.fixture
def node(tmp_path):
    with lab.netns("host") as host:
        yield Node(tmp_path, host)


def test_values_are_exactly_those_named_and_only_where_they_belong(node):
    with lab.namespaces(2) as (one, two):
        node.show("one", one, labels={"app": "web"})
        node.show("two", two, namespace="bank")
        places = {"host": node.host, "one": one, "two": two}
        before = {name: values(place) for name, place in places.items()}
        of_node = {FIN: "31", PORT_RANGE: "10240 65000", RESERVED_PORTS: "30000-32767,9100"}
        of_pods = {FIN: "41", TW: "1", SOMAXCONN: "8192", RESERVED_PORTS: "15432"}
        found = node.run(
            assigned("node", values=of_node), assigned("pods", "Pods", values=of_pods, namespaces=["shop"])
        )
        assert {name: one.state for name, one in found.items()} == {"node": "Applied", "pods": "Applied"}
        after = {name: differences(before[name], values(place)) for name, place in places.items()}
        assert after == {"host": {**of_node, RESERVED_PORTS: "9100,30000-32767"}, "one": of_pods, "two": {}}
        assert node.run() == {}
        assert {name: values(place) for name, place in places.items()} == before


def test_every_sysctl_of_the_table_can_be_set_and_put_back_in_a_pod(node):
    with lab.namespaces(1) as (one,):
        node.show("one", one)
        before = values(one)
        for sysctl in PER_NETNS:
            if sysctl.kind == "Integer":
                value = str(sysctl.low if before[sysctl.name] != str(sysctl.low) else sysctl.high)
            else:
                value = "20000 59999" if sysctl.name == PORT_RANGE else "8080,9100-9110"
            found = node.run(assigned(target="Pods", values={sysctl.name: value}))["tuned"]
            assert found.state == "Applied", found.message
            assert differences(before, values(one)) in ({sysctl.name: value}, {})
            node.run()
            assert values(one) == before


def test_values_that_are_not_the_kernels_defaults_are_put_back_too(node):
    reserved = "1,3,5,7000-7010,65535"
    for name, value in ((RESERVED_PORTS, reserved), (PORT_RANGE, "2000 2999"), ("net.ipv4.tcp_syncookies", "0")):
        node.host.sysctl(name, value)
    before = values(node.host)
    asked = {RESERVED_PORTS: "", PORT_RANGE: "40000 60999", "net.ipv4.tcp_syncookies": "1"}
    assert node.run(assigned(values=asked))["tuned"].state == "Applied"
    assert differences(before, values(node.host)) == asked
    node.run()
    assert values(node.host) == before


def test_a_writable_bind_mount_of_proc_sys_net_serves_as_the_root(node, tmp_path):
    mount = tmp_path / "sys-net"
    mount.mkdir()
    subprocess.run(["mount", "--bind", "/proc/sys/net", str(mount)], check=True)
    try:
        node.sysctl_root = mount
        with lab.namespaces(1) as (one,):
            node.show("one", one)
            before = values(one)
            node.run(assigned(target="Pods", values={FIN: "33"}))
            assert differences(before, values(one)) == {FIN: "33"}
            node.run()
            assert values(one) == before
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_pod_that_starts_later_has_its_values_with_the_next_pass(node):
    with lab.namespaces(2) as (one, two):
        profile = assigned(target="Pods", values={FIN: "33"})
        node.show("one", one)
        assert node.run(profile)["tuned"].targets == 1
        before = values(two)
        node.show("two", two)
        found = node.run(profile)["tuned"]
        assert (found.targets, found.changes_total) == (2, 2)
        assert differences(before, values(two)) == {FIN: "33"}


def test_a_pod_whose_process_is_in_the_nodes_namespace_is_never_written(node):
    before = values(node.host)
    node.show("not-there-yet", node.host)
    found = node.run(assigned(target="Pods", values={FIN: "33"}))["tuned"]
    assert (found.state, found.targets) == ("Applied", 0)
    assert values(node.host) == before


def test_without_knowing_the_nodes_namespace_no_pod_is_written(node, tmp_path):
    with lab.namespaces(1) as (one,):
        node.show("one", one)
        before = values(one)
        node.host = type("Gone", (), {"path": str(tmp_path / "gone")})
        found = node.run(assigned(target="Pods", values={FIN: "33"}))["tuned"]
        assert found.state == "Failed"
        assert values(one) == before


def test_a_pod_with_a_new_sandbox_is_taken_for_new(node):
    profile = assigned(target="Pods", values={FIN: "33"})
    with lab.namespaces(1) as (first,):
        shown = node.show("one", first)
        node.run(profile)
        (entry,) = [folder for folder in node.proc.iterdir() if folder.name.isdecimal()]
    for file in entry.iterdir():
        file.unlink()
    entry.rmdir()
    with lab.namespaces(1) as (second,):
        node.show("one", second)
        latest = node.pods.popitem()[1]
        (moved,) = [folder for folder in node.proc.iterdir() if folder.name.isdecimal()]
        (moved / "cgroup").write_text(f"0::/kubepods/burstable/pod{shown.uid}/{'ab' * 32}\n")
        assert latest.uid != shown.uid
        second.sysctl(FIN, "77")
        found = node.run(profile)["tuned"]
        assert [(one.found, one.wanted) for one in found.changes] == [("77", "33")]
        node.run()
        assert values(second)[FIN] == "77"


def test_a_namespace_is_named_by_more_than_its_inode(node):
    if tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) < (5, 14):
        pytest.skip("SO_NETNS_COOKIE came with Linux 5.14, and an inode alone is used again")
    with lab.namespaces(2) as places:
        for number, place in enumerate(places):
            node.show(f"pod-{number}", place)
        found = KernelNamespaces(node.proc, node.sysctl_root, node.host.path).look(pods=True).pods.values()
        names = []
        for namespace in [*found, *found]:
            with namespace.enter() as identity:
                names.append(identity.split(":"))
        assert names[:2] == names[2:]
        (one, two) = names[:2]
        assert (len(one[2]), len(two[2])) == (16, 16)
        assert one[2] != two[2]


def test_a_range_over_a_listener_is_refused_until_its_port_is_reserved(node):
    with lab.namespaces(1) as (one,):
        node.show("one", one)
        one.listen(15432, address="::")
        one.listen(40000)
        before = values(one)
        found = node.run(assigned(target="Pods", values={PORT_RANGE: "10240 65000"}))["tuned"]
        assert found.state == "Failed"
        assert "15432" in found.message
        assert "40000" not in found.message
        assert values(one) == before
        asked = {PORT_RANGE: "10240 65000", RESERVED_PORTS: "15432"}
        assert node.run(assigned(target="Pods", values=asked))["tuned"].state == "Applied"
        assert differences(before, values(one)) == asked


def test_what_the_kernel_refuses_is_failed_and_undone(node):
    # The range may not begin below ip_unprivileged_port_start (ipv4_local_port_range in net/ipv4/sysctl_net_ipv4.c).
    node.host.sysctl("net.ipv4.ip_unprivileged_port_start", "20000")
    before = values(node.host)
    asked = {PORT_RANGE: "10240 65000", RESERVED_PORTS: "30000-32767", FIN: "33"}
    found = node.run(assigned(values=asked))["tuned"]
    assert found.state == "Failed"
    assert "Invalid argument" in found.message
    assert differences(before, values(node.host)) == {RESERVED_PORTS: "30000-32767", FIN: "33"}
    assert node.run() == {}
    assert values(node.host) == before


def test_no_descriptor_and_no_thread_is_left_in_a_namespace(node):
    own = Path("/proc/thread-self/ns/net").readlink()
    with lab.namespaces(1) as (one,):
        node.show("one", one)
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        node.run(assigned(target="Pods", values={PORT_RANGE: "20000 60999"}))
        assert Path("/proc/thread-self/ns/net").readlink() == own
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
