"""What kernels from 4.18 to 6.18 show in /proc: see proc_layouts/README.md for where each layout comes from."""

import shutil
from pathlib import Path

import pytest

from sockethealth_agent import procfs
from sockethealth_agent.discovery import PodRef, pod_of_cgroup
from sockethealth_agent.netns import NetnsId
from sockethealth_agent.procfs import ProcLayoutError
from sockethealth_agent.rates import Reading, rates

LAYOUTS = Path(__file__).with_name("proc_layouts")
KERNELS = ["4.18", "5.10", "5.15", "6.1", "6.18"]
POD = PodRef("2b4f6a8c-1234-4abc-9def-0123456789ab", "c0ffee" * 10 + "beef")

CAME_WITH = {
    "TCPZeroWindowDrop": "5.10",
    "TCPBacklogCoalesce": "5.10",
    "TCPDSACKIgnoredDubious": "5.10",
    "TCPMigrateReqSuccess": "5.15",
    "BeyondWindow": "6.18",
    "TCPAOGood": "6.18",
}
"""Counters, and the first of the five kernels that has each."""


def layout(kernel):
    return LAYOUTS / f"linux-{kernel}"


@pytest.fixture
def changed(tmp_path):
    """A /proc like 6.18's, with one file rewritten."""
    shutil.copytree(layout("6.18"), tmp_path / "proc")

    def change(name, old, new):
        file = tmp_path / "proc/4321" / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        return tmp_path / "proc"

    return change


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_judged_is_read_from_every_layout(kernel):
    counters = procfs.read_counters(4321, layout(kernel))
    names = ("ListenOverflows", "ListenDrops", "TCPTimeWaitOverflow", "TCPReqQFullDrop", "TCPSynRetrans", "TW")
    assert [counters.tcp_ext[name] for name in names] == [11, 12, 13, 14, 15, 1000]
    names = ("ActiveOpens", "PassiveOpens", "AttemptFails", "RetransSegs", "InSegs", "OutSegs", "MaxConn")
    assert [counters.tcp[name] for name in names] == [21, 22, 24, 23, 2300, 2400, -1]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", CAME_WITH)
def test_a_counter_that_a_kernel_lacks_is_absent_and_not_zero(kernel, name):
    there = KERNELS.index(kernel) >= KERNELS.index(CAME_WITH[name])
    assert (name in procfs.read_counters(4321, layout(kernel)).tcp_ext) == there


def test_the_layouts_differ_as_the_kernels_do():
    counts = [len(procfs.read_counters(4321, layout(kernel)).tcp_ext) for kernel in KERNELS]
    assert counts == [114, 114 + 9, 114 + 9 + 2, 114 + 9 + 2, 114 + 9 + 2 + 10]


@pytest.mark.parametrize("kernel", KERNELS)
def test_sockets_are_counted_and_those_of_no_ipv6_are_unknown(kernel):
    stat = procfs.read_sockstat(4321, layout(kernel))
    assert (stat.inuse, stat.orphans, stat.time_wait, stat.allocated, stat.memory_pages) == (31, 2, 33, 40, 5)
    assert stat.inuse6 == (None if kernel == "6.1" else 7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_start_time_is_found_behind_any_process_name(kernel):
    assert procfs.read_start_time(4321, layout(kernel)) == 777


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_pod_is_found_in_every_layout_of_cgroups(kernel):
    assert pod_of_cgroup(procfs.read_cgroup(4321, layout(kernel))) == POD


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_what_is_of_the_namespace_counts_as_movement(kernel, tmp_path):
    shutil.copytree(layout(kernel), tmp_path / "proc")
    before = procfs.read_movement(4321, tmp_path / "proc")
    sockstat = tmp_path / "proc/4321/net/sockstat"
    text = sockstat.read_text()
    sockstat.write_text(text.replace("orphan 2", "orphan 9").replace("alloc 40 mem 5", "alloc 99 mem 9"))
    assert procfs.read_movement(4321, tmp_path / "proc") == before
    sockstat.write_text(text.replace("tw 33", "tw 34"))
    assert procfs.read_movement(4321, tmp_path / "proc") != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("net/sockstat", "UDP:", "VSOCK: inuse 4\nUDP:"),
        ("net/sockstat", "TCP: inuse 31 orphan 2", "TCP: fresh 8 inuse 31 orphan 2"),
        ("net/sockstat", "alloc 40 mem 5", "alloc 40 mem 5 later 6"),
        ("net/sockstat6", "TCP6: inuse 7", "TCP6: inuse 7 tw 3"),
        ("stat", " 0\n", " 0 1 2 3\n"),
        ("cgroup", "8:pids:", "99:dmem,misc:/\n8:pids:"),
    ],
)
def test_what_a_later_kernel_adds_is_passed_over(changed, name, old, new):
    proc = changed(name, old, new)
    stat = procfs.read_sockstat(4321, proc)
    assert (stat.inuse, stat.inuse6, stat.time_wait, stat.memory_pages) == (31, 7, 33, 5)
    assert procfs.read_start_time(4321, proc) == 777
    assert pod_of_cgroup(procfs.read_cgroup(4321, proc)) == POD


def test_a_counter_that_a_later_kernel_puts_between_moves_no_other(changed):
    proc = changed("net/netstat", "TcpExt: SyncookiesSent", "TcpExt: Fresh SyncookiesSent")
    file = proc / "4321/net/netstat"
    file.write_text(file.read_text().replace("TcpExt: 0", "TcpExt: 77 0", 1))
    found = procfs.read_counters(4321, proc).tcp_ext
    assert (found["Fresh"], found["ListenOverflows"], found["ListenDrops"]) == (77, 11, 12)


@pytest.mark.parametrize(
    ("old", "new", "field"), [(" tw 33", "", "time_wait"), (" orphan 2", "", "orphans"), ("TCP: ", "TCPX: ", "inuse")]
)
def test_what_sockstat_does_not_show_is_unknown_and_not_zero(changed, old, new, field):
    assert getattr(procfs.read_sockstat(4321, changed("net/sockstat", old, new)), field) is None


@pytest.mark.parametrize("name", ["net/sockstat", "net/sockstat6", "net/snmp"])
def test_a_layout_that_is_not_known_always_moves_and_never_fails(changed, name):
    proc = changed(name, "TCP" if "sockstat" in name else "Tcp", "Quic")
    before = procfs.read_movement(4321, proc)
    file = proc / "4321" / name
    file.write_text(file.read_text().replace("Quic", "Quic2"))
    assert procfs.read_movement(4321, proc) != before


def test_names_without_their_values_are_refused_by_name(changed):
    proc = changed("net/netstat", "TcpExt: SyncookiesSent", "TcpExt: Fresh SyncookiesSent")
    with pytest.raises(ProcLayoutError, match="The TcpExt names"):
        procfs.read_counters(4321, proc)


def test_a_protocol_that_is_gone_leaves_no_counters_and_no_made_up_rate(changed):
    proc = changed("net/netstat", "TcpExt:", "TcpGone:")
    before = procfs.read_counters(4321, proc)
    assert dict(before.tcp_ext) == {}
    after = procfs.read_counters(4321, layout("6.18"))
    same = NetnsId(1, 2)
    found = rates(Reading(same, 0, before), Reading(same, 1, after))
    assert (found.listen_overflows, found.time_wait_overflows) == (0, 0)
