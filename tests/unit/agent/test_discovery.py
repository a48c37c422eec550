"""Pods in cgroup paths, and pods in a /proc of files."""

import os

import pytest

from sockethealth_agent import hostnetns, netns
from sockethealth_agent.discovery import (
    KnownProcesses,
    PodRef,
    confirm,
    containers_of_cgroup_ids,
    discover,
    pod_of_cgroup,
    pods_of_cgroup_ids,
)
from sockethealth_agent.sampler import Sampler

UID = "2b4f6a8c-1234-4abc-9def-0123456789ab"
DASHED = UID.replace("-", "_")
STATIC = "0123456789abcdef0123456789abcdef"
ID = "c0ffee" * 10 + "beef"
SYSTEMD = "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"
KIND = "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod"
MISMATCHED = "0::/system.slice/containerd.service/kubepods-burstable-pod"
BEST_EFFORT = "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{SYSTEMD}{DASHED}.slice/cri-containerd-{ID}.scope", PodRef(UID, ID)),
        (f"0::/kubepods.slice/kubepods-pod{DASHED}.slice/crio-{ID}.scope", PodRef(UID, ID)),
        (f"0::/kubepods.slice/kubepods-pod{DASHED}.slice/crio-{ID}.scope/container/init.scope", PodRef(UID, ID)),
        (f"{BEST_EFFORT}{DASHED}.slice/docker-{ID}.scope", PodRef(UID, ID)),
        (f"0::/kubepods/burstable/pod{UID}/{ID}", PodRef(UID, ID)),
        (f"0::/kubepods/pod{STATIC}/{ID}", PodRef(STATIC, ID)),
        (f"{SYSTEMD}{STATIC}.slice/cri-containerd-{ID}.scope", PodRef(STATIC, ID)),
        (f"0::/../../besteffort/pod{UID}/{ID}", PodRef(UID, ID)),
        (f"0::/../../../kubepods-burstable-pod{DASHED}.slice/cri-containerd-{ID}.scope", PodRef(UID, ID)),
        (f"{KIND}{DASHED}.slice/cri-containerd-{ID}.scope", PodRef(UID, ID)),
        (f"{MISMATCHED}{DASHED}.slice:cri-containerd:{ID}", PodRef(UID, ID)),
        (f"9:name=systemd:/\n4:memory:/kubepods/pod{UID}/{ID}\n0::/\n", PodRef(UID, ID)),
        (f"12:pids:/kubepods/pod{UID}/{ID}\n1:name=systemd:/kubepods/pod{UID}/{ID}", PodRef(UID, ID)),
        (f"0::/kubepods/burstable/pod{UID}", PodRef(UID, None)),
        (f"0::/kubepods.slice/kubepods-pod{DASHED}.slice/crio-conmon-{ID}.scope", None),
        ("0::/", None),
        ("0::/system.slice/sshd.service", None),
        (f"0::/docker/{ID}", None),
        (f"0::/machine.slice/libpod-{ID}.scope", None),
        ("0::/user.slice/podcast-2024.service", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_pod_of_a_cgroup(text, expected):
    assert pod_of_cgroup(text) == expected


class Proc:
    """A /proc of files; ns/net is a file, and one inode is one namespace."""

    def __init__(self, root):
        self.root = root / "proc"
        self.root.mkdir()
        (root / "netns").mkdir()
        self.spaces = root / "netns"
        (self.root / "uptime").write_text("100000.00 1.00\n")
        (self.root / "self").mkdir()

    def add(self, pid, cgroup, space, start_time=1000):
        entry = self.root / str(pid)
        (entry / "ns").mkdir(parents=True)
        (self.spaces / space).touch()
        (entry / "ns" / "net").symlink_to(self.spaces / space)
        (entry / "cgroup").write_text(cgroup)
        self.start(pid, start_time)

    def start(self, pid, start_time):
        fields = ["0"] * 50
        fields[18] = str(start_time)
        (self.root / str(pid) / "stat").write_text(f"{pid} (x) S {' '.join(fields)}\n")

    def space(self, name):
        return netns.identity(self.spaces / name)


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path)


def pod(uid, container="a"):
    return f"0::/kubepods/pod{uid}/{(container * 64)[:64]}\n"


def test_one_namespace_is_named_once_however_many_processes(proc):
    proc.add(20, pod(UID, "b"), "one", 2000)
    proc.add(30, pod(UID, "a"), "one", 1000)
    proc.add(31, pod(UID, "b"), "one", 3000)
    proc.add(40, "0::/system.slice\n", "host")
    found = discover(proc.root, host_netns=proc.space("host"))
    assert found.namespaces == {proc.space("one"): (UID,)}
    assert found.pods[UID].pid == 30
    assert found.pods[UID].containers == {"b" * 64: (20, 31), "a" * 64: (30,)}
    assert not found.pods[UID].host_network


def test_pods_of_the_hosts_namespace_are_grouped(proc):
    other = UID.replace("2b4f", "3c5e")
    proc.add(20, pod(UID), "host")
    proc.add(21, pod(other), "host")
    found = discover(proc.root, host_netns=proc.space("host"))
    assert found.namespaces == {proc.space("host"): tuple(sorted([UID, other]))}
    assert len(found.host_network) == 2


def test_a_shim_in_the_pods_cgroup_does_not_make_it_a_host_pod(proc):
    proc.add(10, f"0::/kubepods/pod{UID}\n", "host", 500)
    proc.add(20, pod(UID), "one", 1000)
    found = discover(proc.root, host_netns=proc.space("host"))
    assert (found.pods[UID].netns, found.pods[UID].host_network) == (proc.space("one"), False)


def test_a_pid_used_again_is_looked_at_anew(proc):
    proc.add(20, pod(UID), "one")
    known = KnownProcesses()
    assert UID in discover(proc.root, known).pods
    (proc.root / "20/cgroup").write_text("0::/\n")
    assert UID in discover(proc.root, known).pods, "a known process is not read again"
    proc.start(20, 2000)
    assert discover(proc.root, known).pods == {}


def test_a_young_process_is_looked_at_again(proc):
    young = int(99_999 * os.sysconf("SC_CLK_TCK"))
    proc.add(20, "0::/\n", "host", young)
    known = KnownProcesses()
    assert discover(proc.root, known).pods == {}
    (proc.root / "20/cgroup").write_text(pod(UID))
    assert UID in discover(proc.root, known).pods


def test_processes_that_vanish_are_passed_over(proc):
    proc.add(20, pod(UID), "one", 1000)
    proc.add(21, pod(UID), "one", 2000)
    (proc.root / "20/ns/net").unlink()
    (proc.root / "22").mkdir()
    assert discover(proc.root).pods[UID].pid == 21


@pytest.mark.parametrize("stat", ["", "21 (x) S 1 2\n", "21 (x) S " + "x " * 50])
def test_a_process_of_an_odd_layout_is_passed_over_and_counted(proc, stat):
    proc.add(20, pod(UID), "one")
    proc.add(21, pod(UID.replace("2b4f", "3c5e")), "two")
    (proc.root / "21/stat").write_text(stat)
    known = KnownProcesses()
    for _ in range(2):
        found = discover(proc.root, known)
        assert set(found.pods) == {UID}
        assert list(found.odd) == [21]
        assert "no start time" in found.odd[21]
    proc.start(21, 500)
    assert len(discover(proc.root, known).pods) == 2


def test_odd_processes_are_said_once_and_end_no_sweep(proc, caplog):
    proc.add(20, pod(UID), "one")
    proc.add(21, pod(UID), "one")
    sampler = Sampler(proc=proc.root, host_netns=str(proc.spaces / "host"))
    for pid in (20, 21):
        (proc.root / str(pid) / "stat").write_text("odd\n")
    for _ in range(3):
        sampler.sweep({})
    said = [record.message for record in caplog.records if "passed over" in record.message]
    assert len(said) == 1
    assert said[0].startswith("2 processes are passed over, because their files look as none that is known: ")


def test_a_pid_that_is_used_again_is_not_confirmed(proc):
    proc.add(20, pod(UID), "one", 1000)
    found = discover(proc.root).pods[UID]
    confirm(found, proc.root)
    proc.start(20, 2000)
    with pytest.raises(netns.NetnsGone, match="another one has its pid"):
        confirm(found, proc.root)
    (proc.root / "20/stat").unlink()
    with pytest.raises(netns.NetnsGone, match="exited"):
        confirm(found, proc.root)


def test_an_ancestor_of_an_odd_layout_ends_the_search_and_not_the_sweep(proc):
    proc.add(30, "0::/\n", "host")
    (proc.root / "30/status").write_text("Name:\tx\nPPid:\tnone\n")
    assert hostnetns.find(proc.root, own_pid=30) is None


def test_cgroup_ids_are_the_pods_directory_and_all_below(tmp_path):
    below = tmp_path / "kubepods" / "burstable" / f"pod{UID}" / ID / "nested"
    below.mkdir(parents=True)
    (tmp_path / "system.slice").mkdir()
    expected = {path.stat().st_ino for path in (below, below.parent, below.parent.parent)}
    assert pods_of_cgroup_ids(tmp_path) == dict.fromkeys(expected, UID)


def test_the_container_of_a_cgroup_is_that_of_the_one_above_it(tmp_path):
    scope = tmp_path / "kubepods.slice" / f"kubepods-pod{DASHED}.slice" / f"cri-containerd-{ID}.scope"
    conmon = scope.parent / f"crio-conmon-{'d' * 64}.scope"
    (scope / f"docker-{'e' * 64}.scope").mkdir(parents=True)
    conmon.mkdir()
    assert containers_of_cgroup_ids(tmp_path) == {
        path.stat().st_ino: ID for path in (scope, scope / f"docker-{'e' * 64}.scope")
    }
