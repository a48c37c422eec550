"""The /proc parsers on what no kernel lays out so; what kernels do is in test_proc_layouts.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_agent import procfs


def test_a_process_that_is_not_there_is_gone(tmp_path):
    with pytest.raises(procfs.ProcessGone, match="Process 1 exited"):
        procfs.read_sockstat(1, tmp_path)


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
