"""What fuzzing found in readers of the kernel's answers, each as the smallest input that shows it."""

import struct
from contextlib import suppress
from pathlib import Path

import pytest

from netlink_bytes import SEQUENCE, cgroup_id, chunks, done, error, message
from sockethealth_agent import folding, inet_diag, procfs
from sockethealth_agent.folding import CgroupFold, CloseWaitFold, ListenerFold, Roles
from sockethealth_agent.inet_diag import DumpFailed, DumpReason

ROLES = Roles(frozenset({80}), 32768, 60999)


@pytest.mark.parametrize("attribute", [(2, bytes(56)), (21, bytes(4)), (21, b""), (11, b"")])
@pytest.mark.parametrize("fold", [ListenerFold, lambda: CloseWaitFold({80}), lambda: CgroupFold(ROLES)])
@pytest.mark.parametrize("count", [1, 2, 20])
def test_an_attribute_that_is_too_short_ends_the_dump_and_not_the_agent(attribute, fold, count):
    dump = chunks(message(state=8, attributes=[attribute]) * count + done())
    with suppress(DumpFailed):
        folding.fold_into(fold(), dump)
    with pytest.raises(DumpFailed, match="fewer than are read of it"):
        list(inet_diag.iter_sockets(dump))


def test_attributes_of_just_the_length_that_is_read_are_read():
    exact = [(2, bytes(56) + struct.pack("=I", 1234)), cgroup_id(7), (11, b"\x01")]
    (sock,) = inet_diag.iter_sockets(chunks(message(state=8, attributes=exact) + done()))
    assert (sock.last_ack_received_ms, sock.cgroup_id, sock.v6only) == (1234, 7, True)


@pytest.mark.parametrize("number", [4096, 2**31 - 1, 2**31])
def test_an_error_number_that_is_none_is_named_by_its_number(number):
    with pytest.raises(DumpFailed, match=f"error {number}"):
        list(inet_diag.iter_sockets(chunks(message() + done(-number))))
    with pytest.raises(DumpFailed, match=f"error {number}"):
        list(inet_diag.iter_sockets(chunks(error(number))))


@pytest.mark.parametrize("before", [0, 19])
def test_a_last_message_without_its_padding_is_cut_short(before):
    whole = message(state=1)
    odd = struct.pack("=I", len(whole) + 1) + whole[4:] + b"x"
    with pytest.raises(DumpFailed) as failed:
        folding.fold_into(CloseWaitFold({80}), chunks((odd + bytes(3)) * before + odd))
    assert failed.value.reason is DumpReason.TRUNCATED


def test_a_datagram_of_a_bare_header_may_be_the_last():
    assert inet_diag._may_end(memoryview(struct.pack("=IHHII", 16, 1, 0, SEQUENCE, 1)))


@pytest.fixture
def proc(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "sys/net/ipv4").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("line", ["Uid:", "Uid:\t0", "Uid:\t0\tx\t0\t0", "CapEff:\txyz", "PPid:\tx", "PPid:"])
def test_a_status_line_without_its_number_is_a_layout_that_is_not_known(proc, line):
    (proc / "7/status").write_text(f"Name:\tx\n{line}\n")
    read = {
        "Uid": procfs.read_user,
        "CapEff": procfs.read_effective_capabilities,
        "PPid": procfs.read_parent,
    }[line.partition(":")[0]]
    with pytest.raises(procfs.ProcLayoutError, match=f"The {line.partition(':')[0]} line"):
        read(7, proc)


@pytest.mark.parametrize("text", [b"x\n", b"1 2 \xff\n"])
def test_a_limit_that_is_no_number_is_a_layout_that_is_not_known(proc: Path, text):
    (proc / "sys/net/ipv4/tcp_mem").write_bytes(text)
    with pytest.raises(procfs.ProcLayoutError, match="where numbers should be"):
        procfs.read_node_limits(proc)
