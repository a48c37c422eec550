"""What messages and runbooks say about the kernel, shown on the kernel that runs the test.

docs/tcp-facts.md names the test, or the kernel source, behind each fact. A failure here on a new kernel means that a
message somewhere has become untrue.
"""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import lab

pytestmark = pytest.mark.kernel

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
ONE_PORT = "40000 40000"
RESET = struct.pack("ii", 1, 0)
needs_iptables = pytest.mark.skipif(not shutil.which("iptables"), reason="iptables is missing: it drops the segments")


class Side:
    """A namespace whose sockets this process holds: a socket stays where it was made."""

    def __init__(self, namespace: lab.Namespace) -> None:
        self.namespace = namespace
        self.opened: list[socket.socket] = []

    def sockets(self, n: int = 1) -> list[socket.socket]:
        """N TCP sockets, made by a thread that is in the namespace for as long as that takes."""
        made: list[socket.socket] = []

        def make() -> None:
            handle = os.open(self.namespace.path, os.O_RDONLY)
            try:
                if LIBC.setns(handle, CLONE_NEWNET):
                    return
            finally:
                os.close(handle)
            made.extend(socket.socket() for _ in range(n))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        assert len(made) == n, f"could not enter {self.namespace.name}"
        self.opened += made
        for one in made:
            one.settimeout(5)
        return made

    def new(self) -> socket.socket:
        return self.sockets()[0]

    def listen(self, port: int, *, address: str = "0.0.0.0", backlog: int = 1024, reuse: bool = True) -> socket.socket:
        one = self.new()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        one.bind((address, port))
        one.listen(backlog)
        return one

    def sysctl(self, **values: object) -> None:
        for name, value in values.items():
            folder = "core" if name == "somaxconn" else "ipv4"
            self.namespace.sysctl(f"net.{folder}.{name}", str(value))

    def read(self, name: str) -> str:
        return self.namespace.run("cat", f"/proc/sys/net/{name}").strip()

    def counter(self, name: str) -> int:
        """A counter of /proc/net/snmp or /proc/net/netstat, named as nstat names it."""
        return int(self.namespace.run("nstat", "-asz", name).split()[-2])

    def ss(self, *arguments: str) -> list[str]:
        return self.namespace.run("ss", "-tanH", *arguments).splitlines()

    def states(self) -> dict[str, int]:
        return self.namespace.ss_states()

    def until(self, **states: int) -> None:
        self.namespace.wait_for(**states)


@contextlib.contextmanager
def sides(n: int) -> Iterator[tuple[Side, ...]]:
    with lab.namespaces(n) as made:
        all_sides = tuple(Side(one) for one in made)
        try:
            yield all_sides
        finally:
            for side in all_sides:
                for one in side.opened:
                    one.close()


@pytest.fixture
def pair() -> Iterator[tuple[Side, Side]]:
    """Client and server, on one link."""
    with sides(2) as (client, server):
        yield client, server


Link = tuple[socket.socket, socket.socket]


def meet(client: Side, listener: socket.socket, address: str, *, source: tuple[str, int] | None = None) -> Link:
    """One connection: the client's socket and the server's."""
    one = client.new()
    if source:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(source)
    one.connect((address, listener.getsockname()[1]))
    other, _ = listener.accept()
    client.opened.append(other)
    other.settimeout(5)
    return one, other


def close_first(first: socket.socket, second: socket.socket) -> None:
    """An orderly close that `first` begins and so holds the TIME_WAIT of."""
    first.shutdown(socket.SHUT_WR)
    assert second.recv(1) == b""
    second.close()
    assert first.recv(1) == b""
    first.close()


def fill(client: Side, listener: socket.socket, address: str) -> tuple[list[Link], str]:
    """Connections until connect() refuses, and the name of its error."""
    made: list[Link] = []
    while True:
        try:
            made.append(meet(client, listener, address))
        except OSError as error:
            # A timeout has no number: it fails here, as it is not what any test waits for.
            return made, errno.errorcode[error.errno or 0]


def local_ports(links: list[Link]) -> list[int]:
    return [one.getsockname()[1] for one, _ in links]


def abort(links: list[Link]) -> None:
    """Close with RST, which leaves nothing on either side."""
    for one, other in links:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.close()
        other.close()


def connect_error(client: Side, listener: socket.socket, address: str) -> str | None:
    """Name of the error of one more connect(), or None if it succeeds (and is taken back without a trace)."""
    try:
        link = meet(client, listener, address)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    abort([link])
    return None


def read_to_error(sock: socket.socket) -> tuple[int, str | None]:
    """Bytes read, and the name of the error that ended it; None for the end of the stream."""
    received = 0
    try:
        while chunk := sock.recv(65536):
            received += len(chunk)
    except ConnectionError as error:
        return received, errno.errorcode[error.errno or 0]
    return received, None


def seconds_left(line: str) -> float:
    """What `ss -o` shows of a timer: 59sec, 1min, 960ms, and 1.988ms for a second and 988 ms."""
    shown = re.search(r"timer:\(timewait,(?:(\d+)min)?(?:(\d+)(?:sec|\.))?(?:(\d+)ms)?,", line)
    assert shown, f"no TIME_WAIT timer in: {line}"
    minutes, seconds, millis = (int(part or 0) for part in shown.groups())
    return minutes * 60 + seconds + millis / 1000


# TIME_WAIT


def test_the_side_that_closes_first_holds_time_wait(pair):
    client, server = pair
    listener = server.listen(80)
    one, other = meet(client, listener, server.namespace.address)
    close_first(one, other)
    client.until(TIME_WAIT=1)
    server.until(TIME_WAIT=0)
    one, other = meet(client, listener, server.namespace.address)
    close_first(other, one)
    server.until(TIME_WAIT=1)
    client.until(TIME_WAIT=1)


def test_time_wait_is_60_seconds_whatever_tcp_fin_timeout_says(pair):
    """TCP_TIMEWAIT_LEN (include/net/tcp.h); tcp_time_wait() (net/ipv4/tcp_minisocks.c) puts it over any other."""
    client, server = pair
    for side in pair:
        side.sysctl(tcp_fin_timeout=5)
    close_first(*meet(client, server.listen(80), server.namespace.address))
    client.until(TIME_WAIT=1)
    (line,) = client.ss("-o", "state", "time-wait")
    assert 55 < seconds_left(line) <= 60, line


def test_time_wait_has_no_owner_inode_or_uid(pair):
    client, server = pair
    close_first(*meet(client, server.listen(80), server.namespace.address))
    client.until(TIME_WAIT=1)
    (line,) = client.ss("-ep", "state", "time-wait")
    assert "ino:0" in line
    assert "users:" not in line
    assert "uid:" not in line


@needs_iptables
def test_a_simultaneous_close_leaves_time_wait_on_both_sides(pair):
    client, server = pair
    one, other = meet(client, server.listen(80), server.namespace.address)
    with client.namespace.dropping(80), server.namespace.dropping(80):
        one.close()
        other.close()
        client.until(FIN_WAIT_1=1)
        server.until(FIN_WAIT_1=1)
    client.until(TIME_WAIT=1)
    server.until(TIME_WAIT=1)


def test_time_wait_beyond_tcp_max_tw_buckets_is_destroyed_at_once(pair):
    """inet_twsk_alloc() (net/ipv4/inet_timewait_sock.c) refuses, tcp_time_wait() counts TCPTimeWaitOverflow."""
    client, server = pair
    client.sysctl(tcp_max_tw_buckets=2)
    listener = server.listen(80)
    for _ in range(5):
        close_first(*meet(client, listener, server.namespace.address))
    client.until(TIME_WAIT=2)
    assert client.counter("TcpExtTCPTimeWaitOverflow") == 3


def test_inbound_time_wait_blocks_no_new_client_and_yields_to_the_same_port_of_the_same_client(pair):
    """tcp_timewait_state_process() (net/ipv4/tcp_minisocks.c) lets a newer SYN reopen it: TCP_TW_SYN."""
    client, server = pair
    listener = server.listen(80)
    one, other = meet(client, listener, server.namespace.address, source=("", 50000))
    close_first(other, one)
    server.until(TIME_WAIT=1)
    again = meet(client, listener, server.namespace.address, source=("", 50000))
    assert server.states().get("TIME-WAIT", 0) == 0, "the SYN did not take the TIME_WAIT over"
    fresh = meet(client, listener, server.namespace.address)
    assert again[0].getpeername() == fresh[0].getpeername()


def test_so_linger_0_loses_unsent_data_and_leaves_no_time_wait(pair):
    client, server = pair
    one, other = meet(client, server.listen(80), server.namespace.address)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    one.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += one.send(b"x" * 65536)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    one.close()
    received, error = read_to_error(other)
    assert error == "ECONNRESET"
    assert received < sent
    for side in pair:
        assert "TIME-WAIT" not in side.states()


def test_a_server_rebinds_over_time_wait_only_if_old_and_new_socket_set_so_reuseaddr(pair):
    """tw_reuse is copied from the old socket (inet_twsk_alloc), and bind() asks for both."""
    client, server = pair
    for number, (old, new, works) in enumerate(((False, True, False), (True, False, False), (True, True, True))):
        port = 8000 + number
        listener = server.listen(port, reuse=old)
        one, other = meet(client, listener, server.namespace.address)
        close_first(other, one)
        server.until(TIME_WAIT=number + 1)
        listener.close()
        if works:
            server.listen(port, reuse=new)
        else:
            with pytest.raises(OSError, match="Address already in use"):
                server.listen(port, reuse=new)


# Ephemeral ports


def test_ports_run_out_for_one_destination_while_another_works(pair):
    client, server = pair
    client.sysctl(ip_local_port_range="40000 40003")
    address = server.namespace.address
    first, second = server.listen(9001), server.listen(9002)
    links, error = fill(client, first, address)
    assert (len(links), error) == (4, "EADDRNOTAVAIL")
    more, error = fill(client, second, address)
    assert (len(more), error) == (4, "EADDRNOTAVAIL")
    for link in links:
        close_first(*link)
    client.until(TIME_WAIT=4)
    assert connect_error(client, first, address) == "EADDRNOTAVAIL", "TIME_WAIT did not hold the ports"


def test_connect_takes_the_parity_of_low_first_and_bind_the_other(pair):
    """__inet_hash_connect() (net/ipv4/inet_hashtables.c); inet_csk_find_open_port() (inet_connection_sock.c)."""
    client, server = pair
    listener = server.listen(80)
    for low in (40000, 40001):
        client.sysctl(ip_local_port_range=f"{low} {low + 59}")
        links, _ = fill(client, listener, server.namespace.address)
        offsets = [(port - low) % 2 for port in local_ports(links)]
        assert offsets == [0] * 30 + [1] * 30
        abort(links)
        bound = client.sockets(60)
        for one in bound:
            one.bind(("", 0))
        offsets = [(one.getsockname()[1] - low) % 2 for one in bound]
        assert offsets == [1] * 30 + [0] * 30
        for one in bound:
            one.close()


@pytest.mark.parametrize("listening", [True, False], ids=["listening", "bound"])
def test_connect_passes_over_ports_that_bind_took_even_on_another_address(pair, listening):
    client, server = pair
    client.sysctl(ip_local_port_range="40000 40003")
    if listening:
        client.listen(40002, address="127.0.0.1")
    else:
        client.new().bind(("127.0.0.1", 40002))
    links, error = fill(client, server.listen(80), server.namespace.address)
    assert error == "EADDRNOTAVAIL"
    assert sorted(local_ports(links)) == [40000, 40001, 40003]


def test_time_wait_of_a_listener_that_has_gone_still_keeps_connect_off_its_port(pair):
    client, server = pair
    client.sysctl(ip_local_port_range="40000 40003")
    gone = client.listen(40002)
    one, other = meet(server, gone, client.namespace.address)
    close_first(other, one)
    client.until(TIME_WAIT=1)
    gone.close()
    links, _ = fill(client, server.listen(80), server.namespace.address)
    assert sorted(local_ports(links)) == [40000, 40001, 40003]


def test_reserved_ports_are_left_by_connect_and_bind_0_and_free_for_an_explicit_bind(pair):
    client, server = pair
    client.sysctl(ip_local_port_range="40000 40003", ip_local_reserved_ports="40000-40001")
    links, _ = fill(client, server.listen(80), server.namespace.address)
    assert sorted(local_ports(links)) == [40002, 40003]
    abort(links)
    bound = client.sockets(2)
    for one in bound:
        one.bind(("", 0))
    assert sorted(one.getsockname()[1] for one in bound) == [40002, 40003]
    client.new().bind(("", 40000))


def test_the_kernel_refuses_an_inverted_port_range(pair):
    """ipv4_local_port_range() (net/ipv4/sysctl_net_ipv4.c)."""
    with pytest.raises(lab.LabError):
        pair[0].sysctl(ip_local_port_range="50000 40000")


def hold_the_only_port(client: Side, listener: socket.socket, address: str) -> None:
    client.sysctl(ip_local_port_range=ONE_PORT)
    close_first(*meet(client, listener, address))
    client.until(TIME_WAIT=1)


def test_tcp_tw_reuse_1_takes_a_time_wait_port_after_a_second_and_only_with_timestamps():
    """tcp_twsk_unique() (net/ipv4/tcp_ipv4.c)."""
    with sides(4) as (server, reusing, without_timestamps, by_default):
        address, listener = server.namespace.address, server.listen(80)
        reusing.sysctl(tcp_tw_reuse=1)
        without_timestamps.sysctl(tcp_tw_reuse=1, tcp_timestamps=0)
        assert by_default.read("ipv4/tcp_tw_reuse") == "2"
        for side in (without_timestamps, by_default):
            hold_the_only_port(side, listener, address)
        began = time.monotonic()
        hold_the_only_port(reusing, listener, address)
        lab.wait_until(
            lambda: connect_error(reusing, listener, address) is None, 5, lambda: "tcp_tw_reuse=1 did not help"
        )
        assert time.monotonic() - began >= 1.0
        assert connect_error(without_timestamps, listener, address) == "EADDRNOTAVAIL"
        assert connect_error(by_default, listener, address) == "EADDRNOTAVAIL", "2 is for loopback only"


def test_tcp_tw_reuse_2_takes_a_time_wait_port_on_loopback():
    with sides(1) as (host,):
        listener = host.listen(80)
        hold_the_only_port(host, listener, "127.0.0.1")
        lab.wait_until(
            lambda: connect_error(host, listener, "127.0.0.1") is None, 5, lambda: "tcp_tw_reuse=2 did not help"
        )


def test_tcp_tw_reuse_delay_says_after_how_many_milliseconds():
    """Documentation/networking/ip-sysctl.rst, tcp_tw_reuse_delay."""
    if not Path("/proc/sys/net/ipv4/tcp_tw_reuse_delay").exists():
        pytest.skip("tcp_tw_reuse_delay is missing: kernels before 6.14 have the second fixed")
    with sides(3) as (server, usual, patient):
        address, listener = server.namespace.address, server.listen(80)
        assert usual.read("ipv4/tcp_tw_reuse_delay") == "1000"
        patient.sysctl(tcp_tw_reuse_delay=60000)
        for side in (patient, usual):
            side.sysctl(tcp_tw_reuse=1)
            hold_the_only_port(side, listener, address)
        lab.wait_until(
            lambda: connect_error(usual, listener, address) is None, 5, lambda: "tcp_tw_reuse=1 did not help"
        )
        assert connect_error(patient, listener, address) == "EADDRNOTAVAIL", "the older TIME_WAIT has another delay"
        patient.sysctl(tcp_tw_reuse_delay=1)
        assert connect_error(patient, listener, address) is None


def test_so_reuseaddr_gives_a_client_no_port_when_connect_chooses(pair):
    client, server = pair
    listener, address = server.listen(80), server.namespace.address
    hold_the_only_port(client, listener, address)
    one = client.new()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with pytest.raises(OSError, match="Cannot assign requested address"):
        one.connect((address, 80))


def test_a_client_that_names_its_port_takes_over_its_time_wait_whatever_tcp_tw_reuse_says(pair):
    """tcp_twsk_unique(): without a choice of port (twp is NULL) timestamps alone decide."""
    client, server = pair
    client.sysctl(tcp_tw_reuse=0)
    listener = server.listen(80)
    close_first(*meet(client, listener, server.namespace.address, source=("", 40000)))
    client.until(TIME_WAIT=1)
    meet(client, listener, server.namespace.address, source=("", 40000))
    assert "TIME-WAIT" not in client.states()


# CLOSE_WAIT and FIN_WAIT_2


def test_tcp_fin_timeout_ends_an_orphaned_fin_wait_2_and_no_close_wait(pair):
    client, server = pair
    for side in pair:
        side.sysctl(tcp_fin_timeout=2)
    one, other = meet(client, server.listen(80), server.namespace.address)
    one.close()
    server.until(CLOSE_WAIT=1)
    client.until(FIN_WAIT_2=1)
    (line,) = client.ss("-o", "state", "fin-wait-2")
    assert 0 < seconds_left(line) <= 3, "an orphaned FIN_WAIT_2 has the timer of a TIME_WAIT mini-socket"
    client.until(FIN_WAIT_2=0)
    assert server.states()["CLOSE-WAIT"] == 1
    assert "timer:" not in server.ss("-o", "state", "close-wait")[0], "a timer would end CLOSE_WAIT"
    assert other.recv(1) == b""


def test_fin_wait_2_with_an_owner_is_not_ended_by_tcp_fin_timeout(pair):
    client, server = pair
    client.sysctl(tcp_fin_timeout=2)
    listener = server.listen(80)
    held, _ = meet(client, listener, server.namespace.address)
    orphan, _ = meet(client, listener, server.namespace.address)
    held.shutdown(socket.SHUT_WR)
    client.until(FIN_WAIT_2=1)
    orphan.close()
    client.until(FIN_WAIT_2=2)
    client.until(FIN_WAIT_2=1)
    (line,) = client.ss("-o", "state", "fin-wait-2")
    assert "timer:" not in line


def test_an_orphaned_fin_wait_2_is_state_5_has_no_inode_and_counts_as_tw_in_sockstat(pair):
    client, server = pair
    one, _ = meet(client, server.listen(80), server.namespace.address)
    one.close()
    client.until(FIN_WAIT_2=1)
    (line,) = client.ss("-e", "state", "fin-wait-2")
    assert "ino:0" in line
    sockstat = client.namespace.run("cat", "/proc/net/sockstat")
    assert re.search(r"^TCP:.* tw 1 ", sockstat, re.MULTILINE), sockstat
    table = client.namespace.run("cat", "/proc/net/tcp").splitlines()[1:]
    assert [row.split()[3] for row in table] == ["05"]


def keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
        sock.setsockopt(socket.IPPROTO_TCP, option, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)


def test_keepalive_leaves_close_wait_while_the_peer_answers_and_ends_it_when_the_peer_forgot(pair):
    """A probe that meets no socket is answered with RST, and that ends CLOSE_WAIT without the application."""
    client, server = pair
    client.sysctl(tcp_fin_timeout=1)
    listener = server.listen(80)
    held, answered = meet(client, listener, server.namespace.address)
    forgetful, ended = meet(client, listener, server.namespace.address)
    held.shutdown(socket.SHUT_WR)
    forgetful.close()
    server.until(CLOSE_WAIT=2)
    keep_alive(answered)
    keep_alive(ended)
    server.until(CLOSE_WAIT=1)
    assert server.counter("TcpExtTCPKeepAlive") >= 2
    (line,) = server.ss("state", "close-wait")
    assert str(held.getsockname()[1]) in line
    assert ended.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE


def test_recv_q_of_close_wait_is_its_unread_bytes_with_one_for_the_end_of_the_stream(pair):
    client, server = pair
    listener = server.listen(80)
    one, other = meet(client, listener, server.namespace.address)
    talkative, _ = meet(client, listener, server.namespace.address)
    talkative.sendall(b"x" * 700)
    one.close()
    talkative.close()
    server.until(CLOSE_WAIT=2)

    def receive_queues() -> list[int]:
        return sorted(int(line.split()[0]) for line in server.ss("state", "close-wait"))

    assert receive_queues() == [1, 701]
    assert other.recv(1) == b""
    assert receive_queues() == [0, 701]


# Listeners


def listening(side: Side) -> tuple[int, int]:
    """Recv-Q and Send-Q of the one listener: connections waiting for accept(), and the backlog."""
    (line,) = side.ss("state", "listening")
    queue, backlog = line.split()[:2]
    return int(queue), int(backlog)


def test_an_accept_queue_holds_one_more_than_its_backlog_and_then_drops(pair):
    """sk_acceptq_is_full() (include/net/sock.h) asks for more than the backlog, not as many."""
    client, server = pair
    server.listen(80, backlog=2)
    waiting = client.sockets(3)
    for one in waiting:
        one.connect((server.namespace.address, 80))
    lab.wait_until(lambda: listening(server)[0] == 3, 5, lambda: f"queue and backlog are {listening(server)}")
    assert listening(server) == (3, 2)
    assert server.counter("TcpExtListenOverflows") == 0
    late = client.new()
    late.setblocking(False)
    late.connect_ex((server.namespace.address, 80))
    lab.wait_until(lambda: server.counter("TcpExtListenOverflows") > 0, 5, lambda: "nothing overflowed")
    assert server.counter("TcpExtListenDrops") >= server.counter("TcpExtListenOverflows")
    assert client.states()["SYN-SENT"] == 1, "the client is not refused, it tries again"


def test_the_lower_of_backlog_and_somaxconn_counts_and_stays_until_listen_is_called_again(pair):
    """__sys_listen() (net/socket.c)."""
    _, server = pair
    server.sysctl(somaxconn=3)
    one = server.listen(80, backlog=100)
    assert listening(server)[1] == 3
    server.sysctl(somaxconn=50)
    assert listening(server)[1] == 3
    one.listen(100)
    assert listening(server)[1] == 50
    one.listen(20)
    assert listening(server)[1] == 20


def syn_recv(side: Side) -> int:
    return side.states().get("SYN-RECV", 0)


@pytest.mark.parametrize(
    ("cookies", "backlog", "tcp_max_syn_backlog", "limit"),
    [(1, 32, 128, 32), (1, 32, 8, 32), (0, 32, 128, 32), (0, 100, 32, 25)],
    ids=["cookies", "cookies-small-sysctl", "no-cookies", "no-cookies-small-sysctl"],
)
def test_half_open_connections_are_bounded_by_the_backlog_and_by_tcp_max_syn_backlog_only_without_syncookies(
    cookies, backlog, tcp_max_syn_backlog, limit
):
    """tcp_conn_request() (net/ipv4/tcp_input.c): without cookies a quarter of tcp_max_syn_backlog is kept back."""
    with lab.netns() as made:
        server = Side(made)
        server.sysctl(tcp_syncookies=cookies, tcp_max_syn_backlog=tcp_max_syn_backlog)
        listener = made.listen(80, backlog=backlog)
        made.syn_recv(listener, 200)
        lab.wait_until(lambda: syn_recv(server) >= limit, 5, lambda: f"{syn_recv(server)} half-open, not {limit}")
        held = syn_recv(server)
        assert held in {limit, limit + 1}, "kernels differ in whether the limit itself is full"
        full = {name: server.counter(f"TcpExtTCPReqQFull{name}") for name in ("DoCookies", "Drop")}
        if cookies:
            assert full == {"DoCookies": 200 - held, "Drop": 0}
            assert server.counter("TcpExtSyncookiesSent") == 200 - held
        elif backlog < tcp_max_syn_backlog:
            assert full == {"DoCookies": 0, "Drop": 200 - held}


def test_syncookies_let_a_client_in_over_a_full_backlog_and_without_them_it_waits():
    with lab.netns() as made:
        server = Side(made)
        for port, cookies in ((80, 1), (81, 0)):
            server.sysctl(tcp_syncookies=cookies)
            listener = made.listen(port, backlog=4)
            made.syn_recv(listener, 20)
            if cookies:
                made.connect(listener, 1)
                assert server.counter("TcpExtSyncookiesRecv") == 1
            else:
                with pytest.raises(lab.LabError, match="timed out"):
                    made.connect(listener, 1, timeout=0.3)


# Counters and segments


@needs_iptables
def test_out_segs_does_not_count_retransmissions(pair):
    """OutSegs excludes what is only sent again (RFC 4022)."""
    client, server = pair
    one, other = meet(client, server.listen(80), server.namespace.address)
    before = client.counter("TcpOutSegs")
    with server.namespace.dropping(80):
        one.sendall(b"x")
        lab.wait_until(lambda: client.counter("TcpRetransSegs") >= 2, 10, lambda: "nothing was sent again")
    assert other.recv(1) == b"x"
    assert client.counter("TcpOutSegs") == before + 1
    assert "retrans:0/" in client.namespace.run("ss", "-tiH", "state", "established")


# Network namespaces and settings

INHERITANCE = (
    ("ipv4/tcp_fin_timeout", "61"),
    ("ipv4/tcp_tw_reuse", "1"),
    ("ipv4/tcp_max_tw_buckets", "5000"),
    ("ipv4/tcp_max_syn_backlog", "333"),
    ("ipv4/tcp_syncookies", "2"),
    ("ipv4/tcp_timestamps", "0"),
    ("ipv4/tcp_keepalive_time", "77"),
    ("ipv4/ip_local_port_range", "20000\t30001"),
    ("ipv4/ip_local_reserved_ports", "20500"),
    ("ipv4/tcp_rmem", "4096\t65536\t1000000"),
    ("core/somaxconn", "77"),
)


def test_a_network_namespace_inherits_nothing_from_the_one_it_is_made_in():
    with lab.netns() as parent, lab.netns() as untouched:
        for name, value in INHERITANCE:
            parent.sysctl("net." + name.replace("/", ".", 1), value.replace("\t", " "))
        files = [f"/proc/sys/net/{name}" for name, _ in INHERITANCE]
        changed = parent.run("cat", *files)
        child = parent.run("unshare", "-n", "cat", *files)
        fresh = untouched.run("cat", *files)
    assert changed.splitlines() == [value for _, value in INHERITANCE]
    assert child == fresh


def test_the_buffer_sizes_of_a_new_namespace_are_the_hosts():
    """tcp_sk_init() (net/ipv4/tcp_ipv4.c) copies tcp_rmem, tcp_wmem and the congestion control of the host's netns."""
    names = ("tcp_rmem", "tcp_wmem", "tcp_congestion_control")
    with lab.netns() as made:
        for name in names:
            assert made.run("cat", f"/proc/sys/net/ipv4/{name}") == Path(f"/proc/sys/net/ipv4/{name}").read_text()


def test_node_wide_settings_are_absent_or_read_only_in_a_namespace():
    with lab.netns() as made:
        for name in ("tcp_mem", "tcp_max_orphans"):
            assert made.run("sh", "-c", f"ls /proc/sys/net/ipv4 | grep -cx {name} || true").strip() == "0"
        conntrack = "/proc/sys/net/netfilter/nf_conntrack_max"
        if Path(conntrack).exists():
            assert made.run("stat", "-c", "%A", conntrack).strip() == "-r--r--r--"


def test_alloc_in_sockstat_counts_the_sockets_of_every_namespace_and_inuse_only_its_own():
    """sockstat_seq_show() (net/ipv4/proc.c): orphan, alloc and mem have no namespace."""
    with sides(1) as (busy,), lab.netns() as idle:

        def sockstat(where: lab.Namespace) -> dict[str, int]:
            words = re.search(r"^TCP: (.*)", where.run("cat", "/proc/net/sockstat"), re.MULTILINE)
            assert words
            names = words[1].split()
            return dict(zip(names[::2], map(int, names[1::2]), strict=True))

        for one in busy.sockets(500):
            one.bind(("127.0.0.1", 0))
            one.listen()
        counted = sockstat(idle)
        assert sockstat(busy.namespace)["inuse"] == 500
    assert counted["inuse"] == 0
    assert counted["alloc"] >= 500


def test_the_defaults_that_messages_name():
    with lab.netns() as made:
        side = Side(made)
        assert side.read("ipv4/ip_local_port_range").split() == ["32768", "60999"]
        assert side.read("ipv4/tcp_fin_timeout") == "60"
        assert side.read("ipv4/tcp_tw_reuse") == "2"
        assert side.read("ipv4/tcp_syncookies") == "1"
        assert side.read("ipv4/tcp_timestamps") == "1"
        assert side.read("core/somaxconn") == "4096"


def test_tcp_tw_recycle_does_not_exist():
    """Removed in 4.12 (commit 4396e46187ca)."""
    assert not Path("/proc/sys/net/ipv4/tcp_tw_recycle").exists()


def test_a_time_wait_costs_a_few_hundred_bytes():
    sizes = dict(line.split()[0:4:3] for line in Path("/proc/slabinfo").read_text().splitlines()[2:])
    if "tw_sock_TCP" not in sizes:
        pytest.skip("tw_sock_TCP is missing in /proc/slabinfo: this kernel merges slabs")
    assert 100 < int(sizes["tw_sock_TCP"]) < 400
    assert 200 < int(sizes.get("nf_conntrack", 256)) <= 400
