"""The /proc parsers on layouts of several kernels. linux-4.18 stands for one booted with ipv6.disable=1 too."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_agent import procfs

FIXTURES = Path(__file__).with_name("fixtures")
KERNELS = ["4.18", "5.10", "6.1", "6.18"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_counters_go_by_name_whatever_the_order(kernel):
    counters = procfs.read_counters(4321, FIXTURES / f"linux-{kernel}")
    names = ("ListenOverflows", "ListenDrops", "TCPTimeWaitOverflow", "TCPReqQFullDrop", "TCPSynRetrans")
    assert [counters.tcp_ext[name] for name in names] == [11, 12, 13, 14, 15]
    assert [counters.tcp[name] for name in ("ActiveOpens", "PassiveOpens", "RetransSegs", "OutSegs")] == [
        21,
        22,
        23,
        2400,
    ]
    assert counters.tcp["MaxConn"] == -1


def test_a_counter_of_a_later_kernel_is_absent_not_zero():
    assert "BeyondWindow" not in procfs.read_counters(4321, FIXTURES / "linux-5.10").tcp_ext
    assert "BeyondWindow" in procfs.read_counters(4321, FIXTURES / "linux-6.18").tcp_ext


@pytest.mark.parametrize("kernel", KERNELS)
def test_sockstat_with_and_without_ipv6(kernel):
    stat = procfs.read_sockstat(4321, FIXTURES / f"linux-{kernel}")
    assert (stat.inuse, stat.orphans, stat.time_wait, stat.allocated, stat.memory_pages) == (31, 2, 33, 40, 5)
    assert stat.inuse6 == (None if kernel == "4.18" else 7)


def test_a_process_that_is_not_there_is_gone():
    with pytest.raises(procfs.ProcessGone, match="Process 1 exited"):
        procfs.read_sockstat(1, FIXTURES / "linux-6.1")


def test_start_time_survives_any_process_name():
    rest = " ".join(str(number) for number in range(4, 53))
    assert procfs.parse_start_time(f"12 (a) b) (c) S {rest}") == 22


@pytest.mark.parametrize("text", ["", "12 (a", "12 (a) S 1 2 3"])
def test_a_stat_without_start_time_is_named(text):
    with pytest.raises(procfs.ProcLayoutError, match="no start time"):
        procfs.parse_start_time(text)


@pytest.mark.parametrize("text", ["Tcp: A B\nTcp: 1\n", "Tcp: A\nUdp: 1\n", "Tcp: A\nTcp: x\n"])
def test_names_and_values_that_do_not_match_are_refused(text):
    with pytest.raises(procfs.ProcLayoutError):
        procfs.parse_header_pairs(text)


@given(st.dictionaries(st.sampled_from("ABCDEFG"), st.integers(-1, 2**64), min_size=1))
def test_whatever_fields_a_kernel_has_are_carried(fields):
    text = f"Tcp: {' '.join(fields)}\nTcp: {' '.join(str(value) for value in fields.values())}\n"
    assert procfs.parse_header_pairs(text) == {"Tcp": fields}


def test_node_limits_that_are_not_there_are_none(tmp_path):
    (tmp_path / "sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "sys/net/ipv4/tcp_mem").write_text("10\t20\t30\n")
    assert procfs.read_node_limits(tmp_path) == procfs.NodeLimits((10, 20, 30), None, None, None)
