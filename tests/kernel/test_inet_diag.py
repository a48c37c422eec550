"""The decoder against pyroute2's and ss(8)'s, on sockets of this machine's kernel in every state."""

import errno
import os
import socket
import time
from collections import Counter
from pathlib import Path

import pytest
from pyroute2 import DiagSocket
from pyroute2 import netns as pyroute2_netns

import lab
from sockethealth_agent import inet_diag, netns
from sockethealth_agent.folding import Reader
from sockethealth_agent.inet_diag import DumpFailed, DumpReason, TcpState

pytestmark = pytest.mark.kernel

SS_NAMES = {
    "ESTAB": 1, "SYN-SENT": 2, "SYN-RECV": 3, "FIN-WAIT-1": 4, "FIN-WAIT-2": 5, "TIME-WAIT": 6,
    "CLOSE-WAIT": 8, "LAST-ACK": 9, "LISTEN": 10, "CLOSING": 11,
}  # fmt: skip


@pytest.fixture(scope="module")
def every_state():
    """A namespace with sockets in all states, IPv4, IPv6 and mapped, that stay as they are for a minute."""
    with lab.namespaces(2) as (client, server):
        held = server.listen(8080)
        client.connect(held, 7)
        client.connect(held, 3).close()
        dual = server.listen(8081, address="::")
        client.connect(dual, 4)
        client.connect((server.address, 8081), 5)
        server.listen(8082, address="::", v6only=True, backlog=7)
        client.time_wait(server.listen(9090, serve="follow"), 40)
        client.time_wait(server.listen(9091, address="::", serve="follow"), 30)
        front = server.listen(80, address="::", serve="close_first")
        client.visit(front, 25)
        client.visit((server.address, 80), 15)
        reach_back = client.listen(7000)
        server.close_wait(reach_back, 6, unread=100)
        server.syn_sent(3)
        server.syn_sent(2, ipv6=True)
        server.syn_recv(held, 8)
        server.syn_recv(dual, 2)
        closing = client.listen(7001)
        ours = server.connect(closing, 2)
        last_ack = client.listen(7002)
        theirs = server.close_wait(last_ack, 1)
        with client.dropping(7001), client.dropping(7002):
            ours.close()
            closing.close_held(1)
            theirs.close()
            server.wait_for(CLOSING=1, FIN_WAIT_1=1, LAST_ACK=1, TIME_WAIT=40, SYN_RECV=10)
            # The peer's acknowledgement of a FIN may be delayed.
            client.wait_for(FIN_WAIT_1=1, FIN_WAIT_2=10, TIME_WAIT=70)
            yield client, server


def sockets_of(namespace, family, extensions=0):
    with netns.open_diag_socket(namespace.path) as sock:
        chunks = inet_diag.dump(sock, family, inet_diag.MASK_ALL, extensions=extensions, deadline=time.monotonic() + 5)
        return list(inet_diag.iter_sockets(chunks))


def reference_of(namespace, family):
    """What pyroute2 decodes, as (fields we compare), IPv4-mapped addresses as IPv4."""
    with netns.entered(namespace.path):
        diag = DiagSocket()
    with diag:
        diag.bind()
        found = diag.get_sock_stats(family=family, states=inet_diag.MASK_ALL)

    def plain(address):
        return address.removeprefix("::ffff:") if "." in address else address

    return Counter(
        (
            one["idiag_state"],
            plain(one["idiag_src"]), one["idiag_sport"], plain(one["idiag_dst"]), one["idiag_dport"],
            one["idiag_cookie"], one["idiag_rqueue"], one["idiag_wqueue"], one["idiag_uid"], one["idiag_inode"],
            one.get_attr("INET_DIAG_CGROUP_ID"),
        )
        for one in found
    )  # fmt: skip


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_socket_by_socket_as_pyroute2_decodes_them(every_state, family):
    for namespace in every_state:
        ours = Counter(
            (
                one.state, one.local_address, one.local_port, one.remote_address, one.remote_port, one.cookie,
                one.queue, one.backlog, one.uid, one.inode, one.cgroup_id,
            )
            for one in sockets_of(namespace, family)
        )  # fmt: skip
        assert ours
        assert ours == reference_of(namespace, family)


def test_one_walk_for_both_families_finds_the_same_sockets(every_state):
    for namespace in every_state:
        apart = [*sockets_of(namespace, socket.AF_INET), *sockets_of(namespace, socket.AF_INET6)]
        at_once = sockets_of(namespace, socket.AF_UNSPEC)
        assert {one.cookie for one in at_once} == {one.cookie for one in apart}
        assert len(at_once) == len(apart)


def test_counts_are_those_of_ss_state_by_state(every_state):
    for namespace in every_state:
        with netns.open_diag_socket(namespace.path) as sock:
            facts = Reader().read(sock, low=32768, high=60999)
        ours = {state: count for state, count in facts.states.items() if count}
        assert ours == {SS_NAMES[name]: count for name, count in namespace.ss_states().items()}
        assert facts.conversations.unknown_states == 0


def test_roles_destinations_and_listeners(every_state):
    client, server = every_state
    with netns.open_diag_socket(client.path) as sock:
        outbound = Reader().read(sock, low=32768, high=60999).conversations
    with netns.open_diag_socket(server.path) as sock:
        facts = Reader().read(sock, low=32768, high=60999)
    assert (outbound.outbound_time_wait, outbound.inbound_time_wait) == (70, 0)
    by_destination = {(one.address, one.port): one for one in outbound.destinations}
    assert by_destination[server.address, 9090].time_wait == 40
    assert by_destination[server.address6, 9091].time_wait == 30
    assert by_destination[server.address, 8080].states == {TcpState.ESTABLISHED: 7, TcpState.FIN_WAIT2: 3}
    assert by_destination[server.address, 8080].used == 10
    assert facts.conversations.inbound_time_wait == 40
    assert {(one.local_port, one.address): one.time_wait for one in facts.conversations.peers} == {
        (80, client.address): 15, (80, client.address6): 25,
    }  # fmt: skip
    assert facts.conversations.inbound[8080, TcpState.SYN_RECV] == 8
    assert facts.conversations.inbound[8081, TcpState.SYN_RECV] == 2
    listeners = {one.port: one for one in facts.listeners}
    assert sorted(listeners) == [80, 8080, 8081, 8082, 9090, 9091]
    assert (listeners[8082].v6only, listeners[8081].v6only, listeners[8080].v6only) == (True, False, None)
    assert listeners[8082].backlog == 7


def test_close_wait_has_unread_bytes_inodes_and_peers(every_state):
    client, server = every_state
    with netns.open_diag_socket(server.path) as sock:
        found = Reader().read(sock, low=32768, high=60999).close_wait
    assert found.count == 9
    assert {(one.address, one.port, one.local_port): one.count for one in found.peers} == {
        (client.address, 7000, None): 6, (client.address, None, 8080): 3,
    }  # fmt: skip
    assert found.receive_queue_bytes == 6 * 100
    assert len(set(found.inodes)) == 9
    assert len({one.cookie for one in found.tracked}) == 9


def test_close_wait_age_is_a_lower_bound_that_grows():
    with lab.namespaces(2) as (client, server):
        front = server.listen(8080)
        held = client.connect(front, 3)
        before = time.monotonic()
        held.close()
        server.wait_for(CLOSE_WAIT=3)

        def oldest():
            with netns.open_diag_socket(server.path) as sock:
                return Reader().read(sock, low=32768, high=60999).close_wait.oldest_ms

        lab.wait_until(lambda: oldest() >= 300, 5, lambda: f"oldest is {oldest()} ms")
        bound = oldest()
        assert bound <= (time.monotonic() - before) * 1000 + 20


def test_closes_per_second_come_from_one_dump():
    with lab.namespaces(2) as (client, server):
        client.time_wait(server.listen(9090, serve="follow"), 600, rate=200)
        with netns.open_diag_socket(client.path) as sock:
            facts = Reader().read(sock, low=32768, high=60999).conversations
        (destination,) = facts.destinations
        assert destination.used == 600
        assert destination.ages.closed_within(8) == 600


def test_a_backlog_that_overflows_shows_in_its_listener():
    with lab.namespaces(2) as (client, server):
        full = server.listen(8080, backlog=2, serve="none")
        client.connect(full, 3)
        with netns.open_diag_socket(server.path) as sock:
            (found,), _ended = Reader().listeners(sock)
        assert (found.queue, found.backlog, found.inode) == (3, 2, full.inode)


def test_sockets_are_attributed_to_their_cgroup(every_state):
    _client, server = every_state
    with netns.open_diag_socket(server.path) as sock:
        facts, _ended = Reader().read_by_cgroup(sock, low=32768, high=60999)
    live = [one for one in sockets_of(server, socket.AF_UNSPEC) if one.cgroup_id is not None]
    expected = Counter((one.cgroup_id, one.state) for one in live if one.state != TcpState.LISTEN)
    found = Counter(
        {(cgroup, state): n for cgroup, one in facts.cgroups.items() for state, n in one.states.items() if cgroup and n}
    )
    assert found == expected
    assert facts.time_wait_by_local_port == {80: 40}
    assert sum(facts.listeners.values()) == 6


def test_a_dump_past_its_deadline_fails():
    with netns.open_diag_socket() as sock:
        never_walked = inet_diag.dump(sock, socket.AF_INET, inet_diag.MASK_ALL, deadline=time.monotonic() + 0.2)
        with pytest.raises(DumpFailed) as caught:
            list(never_walked)  # without a walk its end is not seen
    assert caught.value.reason is DumpReason.DEADLINE


def test_a_buffer_too_small_for_a_datagram_fails():
    with lab.namespaces(2) as (client, server):
        client.connect(server.listen(8080), 20)
        with netns.open_diag_socket(client.path) as sock:
            small, deadline = bytearray(100), time.monotonic() + 2
            chunks = inet_diag.dump(sock, socket.AF_INET, inet_diag.MASK_ALL, deadline=deadline, buffer=small)
            walked = inet_diag.iter_sockets(chunks)
            with pytest.raises(DumpFailed) as caught:
                list(walked)
    assert caught.value.reason is DumpReason.TRUNCATED


def test_a_family_the_kernel_does_not_know_is_refused():
    with netns.open_diag_socket() as sock, pytest.raises(DumpFailed) as caught:
        list(inet_diag.iter_sockets(inet_diag.dump(sock, socket.AF_X25, 0xFFF, deadline=time.monotonic() + 2)))
    assert (caught.value.reason, caught.value.error_number) == (DumpReason.REFUSED, errno.ENOENT)


def test_the_thread_is_back_after_an_error():
    home = netns.identity()
    with lab.netns() as other:

        def fail_inside():
            with netns.entered(other.path) as inside:
                assert netns.identity() == inside != home
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_inside()
        assert netns.identity() == home
        with pytest.raises(netns.NetnsGone, match="another network namespace than before"):
            netns.open_diag_socket(other.path, expected=home)
        path = other.path
    with pytest.raises(netns.NetnsGone, match="is gone"):
        netns.open_diag_socket(path)
    assert netns.identity() == home


def test_a_file_that_is_no_namespace_is_refused_and_nothing_moves(tmp_path):
    (tmp_path / "file").write_text("")
    home = netns.identity()
    with pytest.raises(netns.NetnsGone):
        netns.open_diag_socket(tmp_path / "file")
    assert netns.identity() == home


def test_sysctls_are_those_of_the_namespace():
    with lab.netns() as other:
        other.sysctl("net.ipv4.ip_local_port_range", "40000 40999")
        names = ["net.ipv4.ip_local_port_range", "net.ipv4.no_such_setting"]
        assert netns.read_sysctls(names, other.path) == {"net.ipv4.ip_local_port_range": "40000 40999"}
        assert netns.read_sysctls(names) != netns.read_sysctls(names, other.path)


def test_no_descriptor_is_left_open():
    with lab.netns() as other:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            netns.open_diag_socket(other.path).close()
            netns.read_sysctls(["net.ipv4.tcp_fin_timeout"], other.path)
            with pytest.raises(netns.NetnsGone):
                netns.identity("/proc/0/ns/net")
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_agent_without_the_capability_is_told_which():
    with lab.netns() as other:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setresuid(65534, 65534, 65534)
                netns.open_diag_socket(other.path)
            except netns.NetnsRefused as error:
                code = 0 if "CAP_SYS_ADMIN" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_pyroute2_reads_the_same_namespace_by_name():
    with lab.netns() as other:
        assert other.name in pyroute2_netns.listnetns()
