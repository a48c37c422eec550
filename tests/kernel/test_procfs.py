"""The /proc parsers on this machine's kernel."""

import pytest

import lab
from sockethealth_agent import procfs

pytestmark = pytest.mark.kernel


def test_sockstat_counts_a_namespace_and_not_its_neighbour():
    with lab.namespaces(2) as (client, server):
        client.connect(server.listen(8080), 5)
        client.connect(server.listen(8081, address="::"), 4)
        client.time_wait(server.listen(9090, serve="follow"), 30)
        ours, theirs = procfs.read_sockstat(client.pid), procfs.read_sockstat(server.pid)
        assert (ours.inuse, ours.inuse6, ours.time_wait) == (5, 4, 30)
        assert theirs.time_wait == 0
        assert ours.memory_pages is not None


def test_counters_move_with_what_happens():
    with lab.namespaces(2) as (client, server):
        listener = server.listen(8080)
        before = procfs.read_counters(client.pid)
        client.connect(listener, 7)
        after = procfs.read_counters(client.pid)
        assert after.tcp["ActiveOpens"] - before.tcp["ActiveOpens"] == 7
        assert after.tcp["OutSegs"] > before.tcp["OutSegs"]
        assert procfs.read_counters(server.pid).tcp["PassiveOpens"] == 7
        assert {"ListenOverflows", "ListenDrops", "TCPTimeWaitOverflow"} <= after.tcp_ext.keys()


def test_a_process_that_exited_is_gone():
    with lab.netns() as one:
        pid = one.pid
        assert procfs.read_comm(pid)
    for read in (procfs.read_sockstat, procfs.read_counters, procfs.read_cgroup, procfs.read_start_time):
        with pytest.raises(procfs.ProcessGone):
            read(pid)


def test_node_limits_are_there():
    limits = procfs.read_node_limits()
    assert limits.tcp_mem is not None
    assert limits.tcp_mem[0] < limits.tcp_mem[1] < limits.tcp_mem[2]
    assert limits.tcp_max_orphans
