"""Pods found by the cgroups and namespaces of real processes."""

import os
import socket
from pathlib import Path

import pytest

import lab
from sockethealth_agent import netns, procfs
from sockethealth_agent.discovery import KnownProcesses, cgroup2_root, discover, pods_of_cgroup_ids
from sockethealth_agent.folding import Reader
from sockethealth_agent.owners import find_owners

pytestmark = pytest.mark.kernel

POD = "0b1c2d3e-4f50-4617-8899-aabbccddeeff"
HOST_POD = "11111111-2222-4333-8444-555555555555"
CONTAINER = "ab" * 32


@pytest.fixture
def proc(tmp_path):
    """A /proc that shows chosen processes of the real one as if they were in pods' cgroups."""
    root = tmp_path / "proc"
    root.mkdir()
    (root / "uptime").symlink_to("/proc/uptime")

    def show(pid, cgroup):
        entry = root / str(pid)
        entry.mkdir()
        (entry / "cgroup").write_text(cgroup)
        for name in ("stat", "ns", "fd", "comm", "net"):
            (entry / name).symlink_to(f"/proc/{pid}/{name}")

    return root, show


def test_a_pod_is_found_in_its_namespace_and_a_host_pod_in_ours(proc):
    root, show = proc
    with lab.netns() as one:
        show(one.pid, f"0::/kubepods/burstable/pod{POD}/{CONTAINER}\n")
        show(os.getpid(), f"0::/kubepods/besteffort/pod{HOST_POD}/{CONTAINER}\n")
        known = KnownProcesses()
        for _ in range(2):
            found = discover(root, known, host_netns=netns.identity())
            assert found.pods[POD].netns == netns.identity(one.path)
            assert found.pods[POD].pid == one.pid
            assert found.pods[POD].containers == {CONTAINER: (one.pid,)}
            assert [pod.uid for pod in found.host_network] == [HOST_POD]
            assert len(found.namespaces) == 2
        gone = one.pid
    assert POD not in discover(root, known, host_netns=netns.identity()).pods
    with pytest.raises(procfs.ProcessGone):
        procfs.read_start_time(gone)


def test_a_look_at_the_whole_machine_is_cheap_and_repeatable():
    known = KnownProcesses()
    first = discover(known=known)
    assert len(known) > 2
    assert first.pods.keys() <= discover(known=known).pods.keys() | first.pods.keys()


def test_the_owner_of_a_leaked_socket_is_found():
    with lab.namespaces(2) as (client, server):
        listener = server.listen(8080)
        client.connect(listener, 5).close()
        server.wait_for(CLOSE_WAIT=5)
        inodes = listener.held_inodes()
        owners = find_owners([*inodes, 0], {client.pid: None, server.pid: "c1"})
        assert owners.complete
        assert set(owners.by_inode) == set(inodes)
        assert {(one.pid, one.container_id) for one in owners.by_inode.values()} == {(server.pid, "c1")}
        assert {one.comm for one in owners.by_inode.values()} == {procfs.read_comm(server.pid)}
        assert not find_owners(inodes, {client.pid: None, server.pid: None}, most_files=2).complete


def test_the_cgroup_id_of_a_socket_is_the_inode_of_its_directory():
    root = cgroup2_root()
    if root is None:
        pytest.skip("no cgroup v2 is mounted under /sys/fs/cgroup")
    with lab.netns() as one, netns.entered(one.path):
        sock = socket.create_server(("127.0.0.1", 0))
        own = procfs.read_cgroup("self").rpartition("0::")[2].splitlines()[0]
        with sock, netns.open_diag_socket() as diag:
            (listener,), _ended = Reader().listeners(diag)
        assert listener.cgroup_id == Path(f"{root}{own}").stat().st_ino
    assert isinstance(pods_of_cgroup_ids(root), dict)
