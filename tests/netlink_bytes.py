"""Netlink messages built by hand, as include/uapi/linux/inet_diag.h lays them out."""

import socket
import struct

SEQUENCE = 7


def message(
    *,
    family=socket.AF_INET,
    state=6,
    local=("10.0.0.1", 40000),
    remote=("10.0.0.2", 80),
    expires=0,
    rqueue=0,
    wqueue=0,
    inode=0,
    cookie=0,
    uid=0,
    attributes=(),
    flags=2,
    kind=20,
):
    def field(address):
        if family == socket.AF_INET:
            return socket.inet_aton(address) + bytes(12)
        return socket.inet_pton(socket.AF_INET6, address)

    body = struct.pack("=BBBB", family, state, 0, 0)
    body += struct.pack("!HH", local[1], remote[1]) + field(local[0]) + field(remote[0])
    body += struct.pack("=IQIIIII", 0, cookie, expires, rqueue, wqueue, uid, inode)
    for number, payload in attributes:
        body += struct.pack("=HH", 4 + len(payload), number) + payload + bytes(-len(payload) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, SEQUENCE, 1) + body


def done(code=0, flags=2):
    return struct.pack("=IHHIIi", 20, 3, flags, SEQUENCE, 1, code)


def error(number):
    return struct.pack("=IHHIIi", 36, 2, 0, SEQUENCE, 1, -number) + bytes(16)


def chunks(*parts):
    return [memoryview(part) for part in parts]


def tcp_info(last_ack_received_ms):
    return 2, bytes(56) + struct.pack("=I", last_ack_received_ms) + bytes(180)


def cgroup_id(number):
    return 21, struct.pack("=Q", number)
