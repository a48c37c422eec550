"""Pods found by the cgroups and namespaces of real processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import lab
from sockethealth_agent import hostnetns, netns, procfs
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


def test_a_look_at_the_whole_machine_knows_the_namespace_of_every_pod():
    known = KnownProcesses()
    for _ in range(2):
        found = discover(known=known)
        assert len(known) > 2
        assert found.namespaces.keys() >= {pod.netns for pod in found.pods.values()}


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


HOLD_SOCKETS = """
import os, socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)] + [open("/proc/self/status")]
print(*(os.fstat(one.fileno()).st_ino for one in held[:3]), flush=True)
sys.stdin.read()
"""
FIND_OWNERS = """
import dataclasses, json, os, sys
from sockethealth_agent.owners import find_owners
pid, *inodes = map(int, sys.argv[1:])
try:
    os.listdir(f"/proc/{pid}/fd")
    refused = False
except PermissionError:
    refused = True
found = find_owners(inodes, {pid: "c1"})
owners = {inode: dataclasses.astuple(owner) for inode, owner in found.by_inode.items()}
print(json.dumps([refused, found.complete, owners]))
"""
needs_setpriv = pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv (util-linux) is missing")


@pytest.fixture
def not_root():
    """A process of another user: its pid and the inodes of its sockets."""
    user = ("--reuid=1234", "--regid=1234", "--clear-groups", "--pdeathsig=KILL", "--")
    command = ["setpriv", *user, "/usr/bin/env", "python3", "-I", "-S", "-c", HOLD_SOCKETS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        yield process.pid, [int(word) for word in process.stdout.readline().split()]
        process.stdin.close()


def search(capabilities, pid, inodes):
    """What an agent with these capabilities finds: whether fd was refused, whether complete, owners by inode."""
    limits = f"--bounding-set=-all{''.join(f',+{name}' for name in capabilities)}"
    done = subprocess.run(
        ["setpriv", limits, "--", sys.executable, "-c", FIND_OWNERS, str(pid), *map(str, inodes)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@needs_setpriv
def test_another_users_sockets_are_found_with_ptrace_alone(not_root):
    pid, inodes = not_root
    comm = procfs.read_comm(pid)
    fd_refused, complete, owners = search(["sys_admin", "sys_ptrace"], pid, inodes)
    assert fd_refused, "with the directory open to it this test would prove nothing"
    assert complete
    assert owners == {str(inode): [pid, comm, "c1"] for inode in inodes}


@needs_setpriv
def test_a_file_whose_inode_has_a_sockets_number_holds_none(not_root):
    pid, _inodes = not_root
    files = [int(line.split()[1]) for line in _fdinfo(pid, "ino:")]
    mounts = [line.split()[1] for line in _fdinfo(pid, "mnt_id:")]
    assert len(set(mounts)) > 1
    assert len(search(["sys_admin", "sys_ptrace"], pid, files)[2]) == 3


def _fdinfo(pid, field):
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        yield from (line for line in path.read_text().splitlines() if line.startswith(field))


@needs_setpriv
def test_without_ptrace_nobody_is_found_and_it_is_known(not_root):
    pid, inodes = not_root
    assert search(["sys_admin"], pid, inodes) == [True, False, {}]


def test_the_hosts_namespace_is_found_by_its_mark_where_process_1_is_out_of_reach(proc):
    root, _show = proc
    with lab.namespaces(3) as (first, host, other):
        for pid, namespace, readable in (
            (1, host, False),
            (min(first.pid, other.pid), first, True),
            (host.pid, host, True),
        ):
            entry = root / str(pid)
            entry.mkdir()
            (entry / "net").symlink_to(f"/proc/{namespace.pid}/net")
            if readable:
                (entry / "ns").symlink_to(f"/proc/{namespace.pid}/ns")
        found = hostnetns.find(root, own_pid=other.pid)
        assert found == f"{root}/{host.pid}/ns/net"
        assert netns.identity(found) == netns.identity(host.path)
        (root / str(host.pid) / "ns").unlink()
        assert hostnetns.find(root, own_pid=other.pid) is None


def test_the_hosts_namespace_is_that_of_process_1():
    found = hostnetns.find()
    assert found is not None
    pid = int(Path(found).parts[2])
    assert Path(f"/proc/{pid}/net/sockstat").stat().st_ino == Path("/proc/1/net/sockstat").stat().st_ino


def test_processes_of_one_namespace_share_a_mark_and_others_have_another():
    with lab.namespaces(2) as (one, other):
        marks = {procfs.read_netns_mark(namespace.pid) for namespace in (one, other)}
        assert len(marks | {procfs.read_netns_mark("self")}) == 3
        assert procfs.read_netns_mark(one.pid) == procfs.read_netns_mark(one.pid)
        assert procfs.read_netns_mark("self") == procfs.read_netns_mark(os.getppid())


@needs_setpriv
@pytest.mark.parametrize(("capabilities", "said"), [([], "CAP_SYS_PTRACE is missing"), (["sys_ptrace"], None)])
def test_a_capability_is_called_missing_only_if_it_is(not_root, capabilities, said):
    program = (
        "import sys\n"
        "from sockethealth_agent import netns\n"
        "try:\n"
        "    netns.identity(sys.argv[1])\n"
        "except netns.NetnsRefused as error:\n"
        "    print(error)\n"
    )
    limits = f"--bounding-set=-all{''.join(f',+{name}' for name in capabilities)}"
    command = ["setpriv", limits, "--", sys.executable, "-c", program, f"/proc/{not_root[0]}/ns/net"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert (said in printed) if said else not printed


def test_a_refusal_with_the_capability_names_another_reason():
    refused = PermissionError(13, "Permission denied")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "stat", lambda *_: (_ for _ in ()).throw(refused))
        with pytest.raises(netns.NetnsRefused, match="though CAP_SYS_PTRACE is there; a security module"):
            netns.identity("/proc/1/ns/net")
