from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_agent import facts, folding
from sockethealth_agent.facts import Holder, Observed
from sockethealth_agent.folding import (
    AGE_EDGES_MS,
    ClosePeer,
    CloseWaitFacts,
    Conversations,
    HeldSocket,
    Others,
    TimeWaitAges,
)
from sockethealth_agent.inet_diag import TcpState
from sockethealth_agent.sightings import Ages
from sockethealth_core.resources import Destination, Owner, Peer, Source, Watchpoint

NO_CLOSE_WAIT = CloseWaitFacts()
BINS = len(TimeWaitAges().bins)
SYSCTLS = {"net.ipv4.ip_local_port_range": "32768 60999", "net.ipv4.ip_local_reserved_ports": ""}


def ages(*counts):
    """TIME_WAIT by age, youngest bin first."""
    return TimeWaitAges(counts + (0,) * (BINS - len(counts)))


def steady(per_second):
    """A client that has closed at a steady rate for a minute."""
    return TimeWaitAges(tuple(round(per_second * (high - low) / 1000) for low, high in pairwise(AGE_EDGES_MS)))


def conversations(states=(), destinations=(), peers=(), inbound=(), **changes):
    values = {
        "states": dict(states),
        "unknown_states": 0,
        "inbound": dict(inbound),
        "inbound_time_wait": 0,
        "inbound_ages": TimeWaitAges(),
        "peers": tuple(peers),
        "other_peers": Others(),
        "outbound_time_wait": 0,
        "outbound_ages": TimeWaitAges(),
        "destinations": tuple(destinations),
        "other_destinations": Others(),
    }
    return Conversations(**{**values, **changes})


def destination(address="10.0.0.1", port=443, used=0, time_wait=0, closed=None, elsewhere=0):
    return folding.Destination(address, port, used, elsewhere, time_wait, closed or TimeWaitAges(), {})


def listener(port, queue=0, backlog=128, inode=1, address="0.0.0.0"):
    return folding.Listener(address, port, queue, backlog, inode, 0, None, None)


def observed(listeners=(), found=None, close_wait=NO_CLOSE_WAIT, sysctls=SYSCTLS, **more):
    return Observed(listeners, found or conversations(), Ages(close_wait, {}, 0.0), sysctls, **more)


def build(given_, min_ages=(60.0,), **more):
    return facts.build(given_, min_ages, 0.0, **more)


def test_every_state_has_its_field():
    states = {int(state): int(state) * 100 for state in TcpState}
    counted = facts.socket_counts(states, 7)
    assert (counted.established, counted.syn_sent, counted.syn_recv) == (100, 200, 300)
    assert (counted.fin_wait1, counted.fin_wait2, counted.time_wait) == (400, 500, 600)
    assert (counted.close_wait, counted.last_ack, counted.closing, counted.listen) == (800, 900, 1100, 7)


@given(st.integers(1, 2000))
def test_a_steady_rate_is_found(per_second):
    assert facts.recent_closes_per_second(steady(per_second)) == pytest.approx(per_second, rel=0.1, abs=0.2)


def test_a_rate_that_has_just_begun_is_not_watered_down():
    four_seconds_at_100 = ages(410)
    assert 80 <= facts.recent_closes_per_second(four_seconds_at_100) <= 100


def test_what_was_closed_half_a_minute_ago_is_no_present_rate():
    past = TimeWaitAges((0,) * 8 + (5000,) + (0,) * (BINS - 9))
    assert facts.recent_closes_per_second(past) == 0


def test_ports_running_out_have_a_time():
    burning = destination(used=20_000, time_wait=20_000, closed=ages(4000, 4000, 4000, 4000, 4000))
    found = build(observed(found=conversations(destinations=[burning]))).ephemeral_ports.destinations[0]
    # 8,232 ports are left, about 980 go each second, and none comes back within the next half minute.
    assert found.seconds_to_exhaustion == pytest.approx(8232 / found.closes_per_second, rel=0.05)
    assert found.used_percent == 70.8


def test_ports_that_reuse_gives_back_after_a_second_are_not_running_out():
    burning = destination(used=20_000, time_wait=20_000, closed=ages(4000, 4000, 4000, 4000, 4000))
    sysctls = {"net.ipv4.tcp_tw_reuse": "1"}
    found = build(observed(found=conversations(destinations=[burning]), sysctls=sysctls))
    worst = found.ephemeral_ports.destinations[0]
    assert worst.used == 20_000
    assert worst.used - worst.reusable == pytest.approx(worst.closes_per_second, abs=1)
    assert worst.used_percent < 5
    assert worst.seconds_to_exhaustion is None


def test_a_rate_that_levels_off_has_no_time():
    level = destination(used=6000, time_wait=6000, closed=steady(100))
    found = build(observed(found=conversations(destinations=[level]))).ephemeral_ports.destinations[0]
    assert found.seconds_to_exhaustion is None


@given(st.lists(st.integers(0, 2000), min_size=BINS, max_size=BINS))
def test_expiries_account_for_every_time_wait(counts):
    closed = TimeWaitAges(tuple(counts))
    ends = facts.expiries(closed)
    assert sum(one.count for one in ends) == sum(counts)
    assert [one.within_seconds for one in ends] == sorted(one.within_seconds for one in ends)
    assert 0 < ends[0].within_seconds <= ends[-1].within_seconds == 60


def test_worst_destinations_come_first_with_the_one_of_most_time_wait():
    many = [destination(port=port, used=1000 - port) for port in range(10)]
    churned = destination(port=99, used=5, time_wait=5)
    ports = build(observed(found=conversations(destinations=[*many, churned]))).ephemeral_ports
    assert [one.port for one in ports.destinations] == [0, 1, 2, 3, 99]


def test_sockets_on_other_ports_take_none_of_the_range():
    found = build(observed(found=conversations(destinations=[destination(used=0, elsewhere=9)])))
    assert found.ephemeral_ports.destinations == []


def test_listening_and_reserved_ports_are_not_usable():
    sysctls = {"net.ipv4.ip_local_port_range": "40000 40099", "net.ipv4.ip_local_reserved_ports": "40000-40009"}
    found = build(observed([listener(40005), listener(40050), listener(80)], sysctls=sysctls)).ephemeral_ports
    assert (found.low, found.high, found.reserved, found.usable) == (40000, 40099, 10, 89)


def test_ports_of_other_pods_listeners_are_taken_too():
    sysctls = {"net.ipv4.ip_local_port_range": "40000 40099"}
    found = build(observed(sysctls=sysctls), taken_ports=[40001, 40002]).ephemeral_ports
    assert found.usable == 98


def test_sources_are_addresses_whatever_the_port():
    peers = [
        folding.Peer(80, "10.0.0.1", 300, ages(300)),
        folding.Peer(443, "10.0.0.1", 200, ages(200)),
        folding.Peer(80, "10.0.0.2", 400, ages(400)),
        folding.Peer(80, "10.0.0.3", 3, ages(3)),
        folding.Peer(80, "10.0.0.4", 2, ages(2)),
    ]
    sources = build(observed(found=conversations(peers=peers))).time_wait.sources
    assert [(one.address, one.time_wait) for one in sources] == [
        ("10.0.0.1", 500),
        ("10.0.0.2", 400),
        ("10.0.0.3", 3),
    ]
    assert isinstance(sources[0], Source)
    assert sources[0].closes_per_second == pytest.approx(100, rel=0.25)


def test_close_wait_has_its_holders_and_peers():
    found = CloseWaitFacts(
        count=4,
        receive_queue_bytes=12,
        held=tuple(HeldSocket(inode, 0, None) for inode in (1, 2, 3, 4)),
        peers=(ClosePeer("10.0.0.1", 443, None, 3), ClosePeer("10.0.0.2", None, 80, 1)),
    )
    holders = {1: Holder("app", "java", 5), 2: Holder("app", "java", 5), 3: Holder("log", "tail", 9)}
    close_wait = build(observed(close_wait=found, holders=holders)).close_wait
    assert close_wait.owners == [
        Owner(container="app", process="java", pid=5, count=2),
        Owner(container="log", process="tail", pid=9, count=1),
    ]
    assert close_wait.peers == [
        Peer(address="10.0.0.1", port=443, count=3),
        Peer(address="10.0.0.2", port=0, count=1),
    ]


def test_listeners_that_queue_come_with_the_fullest_first():
    listeners = [listener(80, 10, 100), listener(81, 5, 4, inode=7), listener(82), listener(83, 50, 100)]
    found = build(
        observed(
            listeners,
            conversations(inbound={(81, int(TcpState.SYN_RECV)): 3}),
            holders={7: Holder("", "nginx", 1)},
        )
    ).listeners
    assert [one.port for one in found] == [81, 83, 80]
    assert (found[0].queue, found[0].backlog, found[0].syn_recv, found[0].process) == (5, 4, 3, "nginx")


def test_half_open_connections_count_by_the_smaller_limit():
    listeners = [listener(80, 0, 4096), listener(81, 0, 128), listener(82, 10, 100)]
    half_open = {(80, int(TcpState.SYN_RECV)): 200, (81, int(TcpState.SYN_RECV)): 120}
    sysctls = {**SYSCTLS, "net.ipv4.tcp_max_syn_backlog": "256"}
    found = build(observed(listeners, conversations(inbound=half_open), sysctls=sysctls)).listeners
    assert [(one.port, one.syn_recv, one.syn_backlog) for one in found] == [
        (81, 120, 128),
        (80, 200, 256),
        (82, 0, 100),
    ]


def test_ages_asked_for_are_counted():
    found = CloseWaitFacts(count=3, ages_seconds=((10, 1), (100, 2)), oldest_ms=100_500)
    close_wait = build(observed(close_wait=found), min_ages=(5.0, 60.0, 600.0)).close_wait
    assert [(one.older_than_seconds, one.count) for one in close_wait.ages] == [(5, 3), (60, 2), (600, 0)]
    assert close_wait.oldest_seconds == 100.5


def test_ages_come_from_watchpoints_and_the_default_is_always_there():
    def leak(text):
        return Watchpoint(detector="CloseWaitLeak", parameters={"minAge": text})

    assert facts.min_ages([]) == (60.0,)
    watched = [leak("5m"), leak("10s"), leak("soon"), leak("0s"), Watchpoint(detector="OutboundTimeWait")]
    assert facts.min_ages(watched) == (10.0, 60.0, 300.0)


def test_only_sysctls_that_differ_are_told():
    values = {
        "net.ipv4.ip_local_port_range": "10240 65000",
        "net.ipv4.tcp_tw_reuse": "2",
        "net.ipv4.tcp_ehash_entries": "-262144",
        "net.ipv4.tcp_max_tw_buckets": "131072",
        "net.ipv4.tcp_max_syn_backlog": "4096",
    }
    assert facts.changed_sysctls(values) == {
        "net.ipv4.ip_local_port_range": "10240 65000",
        "net.ipv4.tcp_max_syn_backlog": "4096",
    }


def test_a_default_that_is_not_known_is_not_compared():
    assert facts.changed_sysctls({"net.ipv4.tcp_max_tw_buckets": "5000"}) == {}


def test_cgroups_of_a_pod_are_added_up():
    one = conversations({1: 2, 8: 1}, [destination(used=2)], inbound={(80, 1): 2})
    other = conversations({1: 3}, [destination(used=3), destination("10.0.0.9", used=1)])
    both = facts.merged([one, other], {80: 40})
    assert (both.states[1], both.states[8], both.states[int(TcpState.TIME_WAIT)]) == (5, 1, 40)
    assert both.inbound_time_wait == 40
    assert {(d.address, d.used) for d in both.destinations} == {("10.0.0.1", 5), ("10.0.0.9", 1)}


def test_a_destination_is_described_whole():
    one = destination("2001:db8::1", 443, used=100, time_wait=0)
    found = build(observed(found=conversations(destinations=[one])))
    assert found.ephemeral_ports.destinations == [
        Destination(address="2001:db8::1", port=443, used=100, used_percent=0.4)
    ]
