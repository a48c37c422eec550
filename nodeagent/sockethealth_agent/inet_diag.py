"""Ask the kernel for TCP sockets over NETLINK_SOCK_DIAG, and walk its answers without an object per socket.

The wire format is include/uapi/linux/inet_diag.h and netlink(7); which sockets a dump reports as what is
net/ipv4/inet_diag.c. A dump's messages have few lengths, mostly one, so the walk yields runs: stretches of a buffer
in which every message has the same length, to be decoded at a fixed stride. Where messages of several lengths alternate
(TIME_WAIT among established ones, IPv4 among IPv6), a regular expression sorts them by length: it steps from message to
message in C, some ten times as fast as a loop here.

`walk` is pure. `dump` is the shell that sends a request and receives into one reused buffer.
"""

import errno
import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from operator import itemgetter

from pyroute2.netlink import (
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_OVERRUN,
)
from pyroute2.netlink.diag import SOCK_DIAG_BY_FAMILY

NLM_F_DUMP_INTR = 0x10
TCPDIAG_GETSOCK = 18
INET_DIAG_INFO = 2
INET_DIAG_SKV6ONLY = 11
INET_DIAG_CGROUP_ID = 21
EXT_INFO = 1 << (INET_DIAG_INFO - 1)

HEADER_SIZE = 16
MESSAGE_SIZE = 88
"""struct nlmsghdr and struct inet_diag_msg together: every socket has at least this."""
BUFFER_SIZE = 256 * 1024
_LARGEST_DATAGRAM = 32 * 1024  # netlink_dump() in net/netlink/af_netlink.c allocates no more
_GATHER_BELOW = 16
_MOST_KINDS = 8

_NLMSGHDR = struct.Struct("=IHHII")
_LENGTH_TYPE_FLAGS = struct.Struct("=IHH")
_ERRNO = struct.Struct("=i")
_REQUEST = struct.Struct("=IHHIIBBBxI48x")  # nlmsghdr, inet_diag_req_v2
_REQUEST_ANY_FAMILY = struct.Struct("=IHHIIBBBB48xII")  # nlmsghdr, inet_diag_req
_MESSAGE = struct.Struct("=16xBBBBHH16s16sIQIIIII")
_ATTRIBUTE = struct.Struct("=HH")
_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
_MAX_ERRNO = 4095  # include/linux/err.h

LAST_ACK_RECV_OFFSET = 56
"""Of tcpi_last_ack_recv in struct tcp_info (include/uapi/linux/tcp.h); the same since Linux 2.6."""

_LEAST_PAYLOAD = {INET_DIAG_INFO: LAST_ACK_RECV_OFFSET + 4, INET_DIAG_SKV6ONLY: 1, INET_DIAG_CGROUP_ID: 8}
"""Bytes that are read of an attribute."""


class TcpState(IntEnum):
    """Socket states as include/net/tcp_states.h numbers them."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


def state_mask(*states: TcpState) -> int:
    """The idiag_states bits of some states. SYN_RECV takes NEW_SYN_RECV along: request sockets are the latter."""
    mask = 0
    for state in states:
        mask |= 1 << state
        if state is TcpState.SYN_RECV:
            mask |= 1 << TcpState.NEW_SYN_RECV
    return mask


MASK_LISTEN = state_mask(TcpState.LISTEN)
MASK_TIME_WAIT = state_mask(TcpState.TIME_WAIT)
MASK_CLOSE_WAIT = state_mask(TcpState.CLOSE_WAIT)
MASK_ALL = state_mask(*TcpState)
MASK_CONVERSATIONS = MASK_ALL & ~MASK_LISTEN
MASK_LIVE = MASK_CONVERSATIONS & ~MASK_TIME_WAIT


class DumpReason(Enum):
    """Why a dump gave no result."""

    REFUSED = "refused"
    ENDED_WITH_ERROR = "ended with an error"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    OVERRUN = "overrun"
    DEADLINE = "deadline"


class DumpFailed(Exception):  # noqa: N818 - says what happened, as FileNotFound does
    """A dump ended without a whole result; nothing of it may be used. The diag socket must be closed."""

    def __init__(self, reason: DumpReason, message: str, error_number: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.error_number = error_number


@dataclass(frozen=True, slots=True)
class Run:
    """`count` messages of `stride` bytes each, one after the other; valid until the buffer is reused."""

    view: memoryview
    stride: int
    count: int


@dataclass(frozen=True)
class Ended:
    """How a dump ended. `inconsistent`: the tables changed under it (NLM_F_DUMP_INTR)."""

    inconsistent: bool


@dataclass(frozen=True)
class Socket:
    """One TCP socket as the kernel reports it. Addresses are text, IPv4 when mapped; times in milliseconds.

    `queue` and `backlog` are idiag_rqueue and idiag_wqueue: unread and unacknowledged bytes, except for LISTEN,
    where they are connections that wait for accept() and the backlog. `state` is the kernel's number.
    """

    family: int
    state: int
    local_address: str
    local_port: int
    remote_address: str
    remote_port: int
    cookie: int
    expires_ms: int
    queue: int
    backlog: int
    uid: int
    inode: int
    cgroup_id: int | None
    v6only: bool | None
    last_ack_received_ms: int | None


class Walk:
    """Walks the chunks of one dump, in order; `ended` is set once the kernel said that it is complete."""

    def __init__(self, sequence: int | None = None, *, keep_attributes: bool = False) -> None:
        """Args:
        sequence: accept messages of this nlmsg_seq only (None: any).
        keep_attributes: yield short runs as they are, in the order of the dump. Otherwise messages of varying length
            are copied together, by length or without their attributes, which is cheaper than a run each.
        """
        self.ended: Ended | None = None
        self._kinds: list[bytes] = []
        self._interrupted = False
        self._sequence = sequence
        self._keep_attributes = keep_attributes

    def runs(self, chunk: memoryview) -> Iterator[Run]:
        """The runs of one chunk, which holds whole messages.

        Raises:
            DumpFailed: the chunk ends the dump with an error, is cut short or is no netlink.
        """
        loose: list[int] = []
        position, end = 0, len(chunk)
        while position < end:
            length, kind, flags = self._header(chunk, position, end)
            self._interrupted |= bool(flags & NLM_F_DUMP_INTR)
            if kind not in (SOCK_DIAG_BY_FAMILY, TCPDIAG_GETSOCK):
                if kind == NLMSG_DONE:
                    _check_done(chunk, position, length)
                    self.ended = Ended(self._interrupted)
                    break
                _check_control(chunk, position, length, kind)
                position += _aligned(length)
                continue
            if length < MESSAGE_SIZE:
                raise DumpFailed(
                    DumpReason.MALFORMED,
                    f"A socket message of {length} bytes is shorter than the {MESSAGE_SIZE} of struct inet_diag_msg.",
                )
            stride = _aligned(length)
            if stride > end - position:
                raise DumpFailed(
                    DumpReason.TRUNCATED, f"A message of {length} bytes ends without the {stride - length} that pad it."
                )
            following = position + stride
            if following + HEADER_SIZE <= end and _LENGTH_TYPE_FLAGS.unpack_from(chunk, following)[0] == length:
                count = _run_length(chunk[position:end], stride)
            else:
                count = 1
            if count >= _GATHER_BELOW or self._keep_attributes:
                yield Run(chunk[position : position + count * stride], stride, count)
                position += count * stride
                continue
            sorted_until = self._alike_until(chunk, position)
            if sorted_until > position + count * stride:
                yield from self._by_kind(chunk[position:sorted_until])
                position = sorted_until
            else:
                loose.extend(range(position, position + count * stride, stride))
                position += count * stride
        if loose:
            yield gather(chunk, loose)

    def _alike_until(self, chunk: memoryview, position: int) -> int:
        """Where the messages end that are of the kinds seen in short runs so far, the one at `position` included."""
        kind = bytes(chunk[position : position + _LENGTH_TYPE_FLAGS.size])
        if kind not in self._kinds:
            if len(self._kinds) == _MOST_KINDS:
                return position
            self._kinds.append(kind)
        found = _patterns(tuple(self._kinds))[0].match(chunk, position)
        return position if found is None else found.end()

    def _by_kind(self, part: memoryview) -> Iterator[Run]:
        """The messages of `part` sorted by kind, in one run each; all are of known kinds."""
        stretches = _patterns(tuple(self._kinds))[1].findall(part)
        for column, kind in enumerate(self._kinds):
            chosen = stretches if len(self._kinds) == 1 else map(itemgetter(column), stretches)
            joined = memoryview(b"".join(chosen))
            if not joined:
                continue
            stride = _aligned(_LENGTH_TYPE_FLAGS.unpack(kind)[0])
            words, step = joined.cast("I"), stride // 4
            self._header(joined, 0, len(joined))
            if len(joined) > stride and not _all_equal(words, 2, step):
                raise DumpFailed(DumpReason.MALFORMED, "Messages of one dump answer several requests.")
            yield Run(joined, stride, len(joined) // stride)

    def _header(self, chunk: memoryview, position: int, end: int) -> tuple[int, int, int]:
        if end - position < HEADER_SIZE:
            raise DumpFailed(
                DumpReason.TRUNCATED, f"The dump ends {end - position} bytes into a message header of {HEADER_SIZE}."
            )
        length, kind, flags, sequence, _port = _NLMSGHDR.unpack_from(chunk, position)
        if length < HEADER_SIZE:
            raise DumpFailed(
                DumpReason.MALFORMED, f"A message claims {length} bytes, less than its header of {HEADER_SIZE}."
            )
        if length > end - position:
            raise DumpFailed(
                DumpReason.TRUNCATED, f"A message of {length} bytes is cut short after {end - position} bytes."
            )
        if self._sequence is not None and sequence != self._sequence:
            raise DumpFailed(
                DumpReason.MALFORMED, f"A message answers request {sequence}, and {self._sequence} was asked."
            )
        return length, kind, flags


@lru_cache(maxsize=64)
def _patterns(kinds: tuple[bytes, ...]) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """What matches any row of messages of some kinds, and what matches a stretch of one, as a group for each kind.

    A kind is the first eight bytes of a message, which hold its length, so a match that begins at a message steps from
    message to message. Possessive, as there is nothing to go back for.
    """
    messages = [
        b"(?:%s.{%d})++" % (re.escape(kind), _aligned(_LENGTH_TYPE_FLAGS.unpack(kind)[0]) - len(kind)) for kind in kinds
    ]
    return (
        re.compile(b"(?s)(?:%s)*+" % b"|".join(messages)),
        re.compile(b"(?s)%s" % b"|".join(b"(%s)" % message for message in messages)),
    )


def gather(view: memoryview, offsets: Iterable[int]) -> Run:
    """Copy messages together into one run, without their attributes."""
    joined = b"".join([view[offset : offset + MESSAGE_SIZE] for offset in offsets])
    return Run(memoryview(joined), MESSAGE_SIZE, len(joined) // MESSAGE_SIZE)


def attribute_at(run: Run, kind: int) -> int | None:
    """Offset of an attribute's payload that all messages of a run share; None when the first has none.

    Raises:
        LookupError: the messages differ; take the run apart with `singly`.
    """
    if run.stride == MESSAGE_SIZE:
        return None
    offset = _find_attribute(run.view[: run.stride], kind)
    if run.count == 1:
        return offset
    if offset is None:
        if any(_find_attribute(one.view, kind) is not None for one in singly(run)):
            raise LookupError(kind)
        return None
    words, step = run.view.cast("I"), run.stride // 4
    first = (offset - 4) // 4
    if not _all_equal(words, first, step):
        raise LookupError(kind)
    return offset


def singly(run: Run) -> Iterator[Run]:
    """The messages of a run, each a run of its own."""
    for offset in range(0, run.count * run.stride, run.stride):
        yield Run(run.view[offset : offset + run.stride], run.stride, 1)


def iter_sockets(chunks: Iterable[memoryview]) -> Iterator[Socket]:
    """One object per socket, for tests and for details of few sockets: some 50 times dearer than a fold.

    Raises:
        DumpFailed: see Walk.runs, or the chunks end without NLMSG_DONE.
    """
    walk = Walk(keep_attributes=True)
    for chunk in chunks:
        for run in walk.runs(chunk):
            for one in singly(run):
                yield decode(one.view)
        if walk.ended is not None:
            break
    whole(walk)


def whole(walk: Walk) -> Ended:
    """How a walk ended.

    Raises:
        DumpFailed: it has not: the chunks stopped before NLMSG_DONE.
    """
    if walk.ended is None:
        raise DumpFailed(DumpReason.TRUNCATED, "The dump stopped before its end mark (NLMSG_DONE).")
    return walk.ended


def decode(message: memoryview) -> Socket:
    """One message, netlink header included."""
    (
        family,
        state,
        _timer,
        _retrans,
        sport,
        dport,
        src,
        dst,
        _interface,
        cookie,
        expires,
        rqueue,
        wqueue,
        uid,
        inode,
    ) = _MESSAGE.unpack_from(message)
    cgroup = _find_attribute(message, INET_DIAG_CGROUP_ID)
    v6only = _find_attribute(message, INET_DIAG_SKV6ONLY)
    info = _find_attribute(message, INET_DIAG_INFO)
    return Socket(
        family=family,
        state=state,
        local_address=address_text(packed_address(family, src)),
        local_port=socket.ntohs(sport),
        remote_address=address_text(packed_address(family, dst)),
        remote_port=socket.ntohs(dport),
        cookie=cookie,
        expires_ms=expires,
        queue=rqueue,
        backlog=wqueue,
        uid=uid,
        inode=inode,
        cgroup_id=None if cgroup is None else struct.unpack_from("=Q", message, cgroup)[0],
        v6only=None if v6only is None else bool(message[v6only]),
        last_ack_received_ms=(
            None if info is None else struct.unpack_from("=I", message, info + LAST_ACK_RECV_OFFSET)[0]
        ),
    )


def packed_address(family: int, field: bytes) -> bytes:
    """The 4 or 16 bytes of an address out of its 16-byte field; 4 for an IPv4-mapped one (RFC 4291 2.5.5.2)."""
    if family == socket.AF_INET:
        return field[:4]
    if field.startswith(_MAPPED_PREFIX):
        return field[12:]
    return field


def address_text(packed: bytes) -> str:
    """Text of a packed address."""
    return str(IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed))


def dump(
    sock: socket.socket,
    family: socket.AddressFamily,
    states: int,
    *,
    extensions: int = 0,
    deadline: float,
    buffer: bytearray | None = None,
    sequence: int = 1,
) -> Iterator[memoryview]:
    """Send one dump request and yield what comes, whole datagrams in chunks of one reused buffer.

    The caller walks each chunk before it asks for the next, and stops asking when the walk has ended. A walk that
    was given up half way leaves the socket with unread messages: close it.

    Args:
        sock: a NETLINK_SOCK_DIAG socket of the namespace (netns.open_diag_socket).
        family: AF_INET; AF_INET6, which includes the IPv4 connections of IPv6 sockets; or AF_UNSPEC for both at
            the price of one walk through the kernel's table (the older request TCPDIAG_GETSOCK, as ss(8) uses it).
        states: a state_mask.
        extensions: EXT_INFO or 0.
        deadline: on time.monotonic().
        buffer: to receive into; made anew when None.
        sequence: nlmsg_seq of the request.

    Raises:
        DumpFailed: the kernel refused, the deadline passed or the receive buffer overran.
    """
    flags = NLM_F_REQUEST | NLM_F_DUMP
    if family == socket.AF_UNSPEC:
        request = _REQUEST_ANY_FAMILY.pack(
            _REQUEST_ANY_FAMILY.size, TCPDIAG_GETSOCK, flags, sequence, 0, family, 0, 0, extensions, states, 0
        )
    else:
        request = _REQUEST.pack(
            _REQUEST.size, SOCK_DIAG_BY_FAMILY, flags, sequence, 0, family, socket.IPPROTO_TCP, extensions, states
        )
    space = memoryview(bytearray(BUFFER_SIZE) if buffer is None else buffer)
    seconds = max(deadline - time.monotonic(), 0.001)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6)))
    try:
        sock.send(request)
        filled = 0
        while True:
            received = sock.recv_into(space[filled:], 0, socket.MSG_TRUNC)
            if received > len(space) - filled:
                raise DumpFailed(
                    DumpReason.TRUNCATED,
                    f"A datagram of {received} bytes did not fit into {len(space) - filled} bytes of buffer.",
                )
            last = _may_end(space[filled : filled + received])
            filled += received
            if last or len(space) - filled < _LARGEST_DATAGRAM:
                yield space[:filled]
                filled = 0
            if time.monotonic() > deadline:
                raise _too_late()
    except BlockingIOError as error:
        raise _too_late() from error
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            raise DumpFailed(
                DumpReason.OVERRUN,
                "The kernel dropped part of the dump: the receive buffer overran (ENOBUFS).",
                errno.ENOBUFS,
            ) from error
        raise DumpFailed(
            DumpReason.REFUSED, f"The kernel takes no socket dump request: {error.strerror}.", error.errno or 0
        ) from error


def _too_late() -> DumpFailed:
    return DumpFailed(DumpReason.DEADLINE, "The dump did not end before its deadline; the kernel sent no end mark.")


def _may_end(datagram: memoryview) -> bool:
    """Whether a datagram looks like the dump's last, so that what was received should be walked before waiting.

    NLMSG_DONE and NLMSG_ERROR come first or last in theirs. Only the walk knows for certain.
    """
    if len(datagram) < HEADER_SIZE + 4:
        return True
    if _LENGTH_TYPE_FLAGS.unpack_from(datagram)[1] in (NLMSG_DONE, NLMSG_ERROR):
        return True
    # The kernel may add the end mark of 20 bytes to the last datagram (netlink_dump_done).
    tail = len(datagram) - HEADER_SIZE - 4
    length, kind, _flags = _LENGTH_TYPE_FLAGS.unpack_from(datagram, tail)
    return bool(length == HEADER_SIZE + 4 and kind == NLMSG_DONE)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _run_length(view: memoryview, stride: int) -> int:
    """How many messages from the start of view have the length, type and flags of the first."""
    most = len(view) // stride
    if most < 2:
        return 1
    words, step = view[: most * stride].cast("I"), stride // 4
    if _all_equal(words, 0, step) and _all_equal(words, 1, step):
        return most
    length, kind_and_flags = words[0], words[1]
    for index in range(step, most * step, step):
        if words[index] != length or words[index + 1] != kind_and_flags:
            return index // step
    return most


def _all_equal(words: memoryview, first: int, step: int) -> bool:
    """Whether words[first], words[first + step], ... are equal; in C, with no object per word."""
    return words[first:-step:step] == words[first + step :: step]


def _find_attribute(message: memoryview, kind: int) -> int | None:
    """Offset of an attribute's payload in a message, netlink header included."""
    end = min(_LENGTH_TYPE_FLAGS.unpack_from(message)[0], len(message))
    position = MESSAGE_SIZE
    while position + 4 <= end:
        length, found = _ATTRIBUTE.unpack_from(message, position)
        if length < 4 or position + length > end:
            raise DumpFailed(
                DumpReason.MALFORMED, f"Attribute {found} claims {length} bytes where {end - position} are left."
            )
        if found == kind:
            if length - 4 < _LEAST_PAYLOAD.get(kind, 0):
                raise DumpFailed(
                    DumpReason.MALFORMED, f"Attribute {found} has {length - 4} bytes, fewer than are read of it."
                )
            return position + 4
        position += _aligned(length)
    return None


def _check_done(chunk: memoryview, position: int, length: int) -> None:
    """NLMSG_DONE carries what the dump function returned: negative when it failed half way."""
    if length < HEADER_SIZE + 4:
        return
    code = _ERRNO.unpack_from(chunk, position + HEADER_SIZE)[0]
    if code < 0:
        raise DumpFailed(
            DumpReason.ENDED_WITH_ERROR, f"The kernel gave the dump up half way: {_meaning(-code)}.", -code
        )


def _meaning(error_number: int) -> str:
    return os.strerror(error_number) if error_number <= _MAX_ERRNO else f"error {error_number}"


def _check_control(chunk: memoryview, position: int, length: int, kind: int) -> None:
    if kind == NLMSG_OVERRUN:
        raise DumpFailed(DumpReason.OVERRUN, "The kernel reports that messages of the dump were lost (NLMSG_OVERRUN).")
    if kind != NLMSG_ERROR:
        return
    if length < HEADER_SIZE + 4:
        raise DumpFailed(DumpReason.MALFORMED, f"An error message of {length} bytes carries no error number.")
    code = -_ERRNO.unpack_from(chunk, position + HEADER_SIZE)[0]
    if code == 0:
        return  # an acknowledgement (netlink(7))
    hint = " Load the kernel module tcp_diag." if code == errno.ENOENT else ""
    raise DumpFailed(DumpReason.REFUSED, f"The kernel refused the socket dump: {_meaning(code)}.{hint}", code)
