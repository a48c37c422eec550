"""What a Reader makes of dumps that the kernel broke off or gave in pieces, of a socket that answers as it would."""

import errno
import os
import struct

import pytest

import netlink_bytes as wire
from sockethealth_agent.folding import Reader
from sockethealth_agent.inet_diag import DumpFailed, DumpReason

INTERRUPTED = 2 | 0x10


class Answering:
    """The system-call border of a diag socket: each request is answered by the next of some lists of datagrams."""

    def __init__(self, *answers):
        self.answers = [list(answer) for answer in answers]
        self.requests = []
        self._left = []

    def setsockopt(self, *_):
        pass

    def send(self, request):
        self.requests.append(request)
        self._left = self.answers[len(self.requests) - 1]
        self._sequence = request[8:12]

    def recv_into(self, space, _size, _flags):
        datagram = self._left.pop(0)
        if isinstance(datagram, int):
            raise OSError(datagram, os.strerror(datagram))
        position, answered = 0, bytearray(datagram)
        while position < len(answered):
            answered[position + 8 : position + 12] = self._sequence
            position += struct.unpack_from("=I", answered, position)[0]
        space[: len(answered)] = answered
        return len(answered)


def listeners(count, **more):
    return b"".join(wire.message(state=10, local=("0.0.0.0", 80 + index), **more) for index in range(count))


def test_a_dump_during_which_the_tables_changed_is_made_again():
    sock = Answering(
        [listeners(1), listeners(1, flags=INTERRUPTED), wire.done(flags=INTERRUPTED)],
        [listeners(3), wire.done()],
    )
    found, ended = Reader().listeners(sock)
    assert [one.port for one in found] == [80, 81, 82]
    assert not ended.inconsistent
    assert len(sock.requests) == 2
    assert len({request[8:12] for request in sock.requests}) == 2, "an answer could be taken for the other's"


def test_tables_that_never_stand_still_give_the_last_attempt_and_say_so():
    sock = Answering(*([listeners(count), wire.done(flags=INTERRUPTED)] for count in (1, 2, 3)))
    found, ended = Reader(attempts=3).listeners(sock)
    assert (len(found), ended.inconsistent, len(sock.requests)) == (3, True, 3)


def test_a_receive_buffer_that_overran_gives_nothing_of_the_dump_and_asks_for_no_more():
    sock = Answering([listeners(5), errno.ENOBUFS])
    with pytest.raises(DumpFailed) as failed:
        Reader().listeners(sock)
    assert (failed.value.reason, failed.value.error_number) == (DumpReason.OVERRUN, errno.ENOBUFS)
    assert len(sock.requests) == 1, "the kernel refuses a second dump while the first runs (EBUSY): the socket is spent"


def test_a_reader_is_usable_after_a_dump_that_failed():
    reader = Reader()
    with pytest.raises(DumpFailed):
        reader.listeners(Answering([errno.ENOBUFS]))
    assert len(reader.listeners(Answering([listeners(2) + wire.done()]))[0]) == 2
