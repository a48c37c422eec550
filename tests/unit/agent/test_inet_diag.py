"""The walk through netlink messages: what is whole, and what is refused."""

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import netlink_bytes as wire
from sockethealth_agent.inet_diag import DumpFailed, DumpReason, Walk, iter_sockets, state_mask, whole
from sockethealth_agent.inet_diag import TcpState as S

WITH_SHORT_ATTRIBUTE = wire.message(attributes=[(1, b"1234")])[:-8] + struct.pack("=HH", 2, 21) + bytes(4)


def failure(*parts):
    with pytest.raises(DumpFailed) as caught:
        list(iter_sockets(wire.chunks(*parts)))
    return caught.value


def test_every_field_of_a_message_is_decoded():
    sock = wire.message(
        state=8, local=("10.1.2.3", 8080), remote=("192.0.2.9", 54321), expires=12, rqueue=5, wqueue=6, inode=77,
        cookie=2**40 + 1, attributes=[wire.cgroup_id(4711), wire.tcp_info(61_000)],
    )  # fmt: skip
    (found,) = iter_sockets(wire.chunks(sock + wire.done()))
    assert (found.local_address, found.local_port) == ("10.1.2.3", 8080)
    assert (found.remote_address, found.remote_port) == ("192.0.2.9", 54321)
    assert (found.state, found.expires_ms, found.queue, found.backlog, found.inode) == (8, 12, 5, 6, 77)
    assert (found.cookie, found.cgroup_id, found.last_ack_received_ms) == (2**40 + 1, 4711, 61_000)


def test_a_mapped_address_is_the_ipv4_address():
    sock = wire.message(family=socket.AF_INET6, local=("::ffff:10.0.0.1", 80), remote=("2001:db8::1", 5))
    (found,) = iter_sockets(wire.chunks(sock, wire.done()))
    assert (found.local_address, found.remote_address) == ("10.0.0.1", "2001:db8::1")


def test_unknown_attributes_are_passed_over():
    sock = wire.message(attributes=[(200, b"abcde"), wire.cgroup_id(9)])
    assert [one.cgroup_id for one in iter_sockets(wire.chunks(sock, wire.done()))] == [9]


def test_syn_recv_asks_for_request_sockets_too():
    assert state_mask(S.SYN_RECV) == 1 << 3 | 1 << 12


@pytest.mark.parametrize(
    ("parts", "reason", "number"),
    [
        ([wire.error(errno.ENOENT)], DumpReason.REFUSED, errno.ENOENT),
        ([wire.error(errno.EPERM)], DumpReason.REFUSED, errno.EPERM),
        ([wire.message(), wire.done(-errno.EMSGSIZE)], DumpReason.ENDED_WITH_ERROR, errno.EMSGSIZE),
        ([wire.message()], DumpReason.TRUNCATED, 0),
        ([wire.message()[:50]], DumpReason.TRUNCATED, 0),
        ([wire.message() + wire.message()[:9]], DumpReason.TRUNCATED, 0),
        ([struct.pack("=IHHII", 8, 20, 2, 7, 1)], DumpReason.MALFORMED, 0),
        ([struct.pack("=IHHII", 0, 20, 2, 7, 1)], DumpReason.MALFORMED, 0),
        ([struct.pack("=IHHII", 40, 20, 2, 7, 1) + bytes(24)], DumpReason.MALFORMED, 0),
        ([struct.pack("=IHHII", 16, 4, 2, 7, 1)], DumpReason.OVERRUN, 0),
        ([WITH_SHORT_ATTRIBUTE], DumpReason.MALFORMED, 0),
    ],
)  # fmt: skip
def test_a_broken_dump_is_refused_with_its_reason(parts, reason, number):
    caught = failure(*parts)
    assert (caught.reason, caught.error_number) == (reason, number)
    assert str(caught).endswith(".")


def test_an_answer_to_another_request_is_refused():
    walk = Walk(sequence=wire.SEQUENCE + 1)
    with pytest.raises(DumpFailed, match="request 7, and 8 was asked"):
        list(walk.runs(memoryview(wire.message())))


@pytest.mark.parametrize("interrupted_at", ["message", "done"])
def test_an_interrupted_dump_says_so(interrupted_at):
    walk = Walk()
    first = wire.message(flags=2 | 0x10 if interrupted_at == "message" else 2)
    last = wire.done(flags=2 | 0x10 if interrupted_at == "done" else 2)
    for chunk in wire.chunks(first * 30, last):
        list(walk.runs(chunk))
    assert whole(walk).inconsistent


@given(st.lists(st.sampled_from([0, 1, 2]), max_size=120), st.booleans())
def test_runs_of_varying_length_hold_every_message_once(kinds, keep):
    attributes = ([], [(1, b"1234")], [wire.cgroup_id(3), (8, b"x")])
    data = b"".join(
        wire.message(local=("10.0.0.1", 1 + index), attributes=attributes[kind]) for index, kind in enumerate(kinds)
    )
    walk = Walk(keep_attributes=keep)
    ports = [
        int.from_bytes(run.view[at + 20 : at + 22], "big")
        for run in walk.runs(memoryview(data + wire.done()))
        for at in range(0, run.stride * run.count, run.stride)
    ]
    assert sorted(ports) == list(range(1, len(kinds) + 1))
    assert not whole(walk).inconsistent


@given(st.binary(max_size=300))
def test_no_bytes_make_the_walk_do_anything_but_fail_or_end(data):
    try:
        list(iter_sockets([memoryview(data)]))
    except DumpFailed as caught:
        assert str(caught)  # noqa: PT017 - either outcome is right
