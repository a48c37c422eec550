"""The fold against the plain meaning of the same messages, one by one."""

import random
import socket
import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest

import netlink_bytes as wire
from sockethealth_agent.folding import (
    AGE_EDGES_MS,
    CgroupFold,
    CloseWaitFold,
    ConversationFold,
    HeldSocket,
    Limits,
    ListenerFold,
    Roles,
    TimeWaitAges,
    fold,
    fold_into,
)
from sockethealth_agent.inet_diag import DumpFailed, TcpState, iter_sockets

ROLES = Roles(frozenset({80, 8080}), 32768, 60999)


def time_wait(count, *, remote="10.0.0.2", port=443, local_port=None, expires=30_000, **more):
    return b"".join(
        wire.message(local=("10.0.0.1", local_port or 32768 + index), remote=(remote, port), expires=expires, **more)
        for index in range(count)
    )


def folded(*parts, roles=ROLES, limits=Limits()):  # noqa: B008 - frozen
    return fold(wire.chunks(*parts, wire.done()), roles, limits)[0]


def test_role_follows_the_local_port():
    facts = folded(time_wait(30), time_wait(20, local_port=80), time_wait(10, local_port=1024))
    assert (facts.outbound_time_wait, facts.inbound_time_wait) == (40, 20)
    (destination,) = facts.destinations
    assert (destination.used, destination.elsewhere, destination.time_wait) == (30, 10, 40)
    assert [(peer.local_port, peer.address, peer.time_wait) for peer in facts.peers] == [(80, "10.0.0.2", 20)]
    assert facts.inbound == {(80, TcpState.TIME_WAIT): 20}


def test_ages_fall_between_their_edges():
    for age in range(50, 60_000, 777):
        (destination,) = folded(time_wait(1, expires=60_000 - age)).destinations
        (index,) = [index for index, count in enumerate(destination.ages.bins) if count]
        assert AGE_EDGES_MS[index] <= age <= AGE_EDGES_MS[index + 1], age
    widths = [high - low for low, high in pairwise(AGE_EDGES_MS)]
    assert sum(widths) == 60_000
    assert max(widths) <= 5_000


def test_the_rate_comes_from_the_ages():
    steady = TimeWaitAges(tuple(high - low for low, high in pairwise(AGE_EDGES_MS)))
    assert steady.closes_per_second() == pytest.approx(1000)
    assert steady.closes_per_second(10) == pytest.approx(1000)


def test_the_fold_agrees_with_the_sockets_one_by_one():
    rng = random.Random(4)  # noqa: S311 - reproducible, no secret
    parts = []
    for _ in range(3000):
        v6 = rng.random() < 0.4
        state = rng.choice([1, 2, 3, 4, 5, 6, 6, 6, 8, 9, 11, 12])
        attributes = [] if state in (3, 6, 12) else [(8, b"\0"), wire.cgroup_id(1)][: rng.choice([1, 2])]
        remote = rng.choice(["2001:db8::1", "::ffff:10.0.0.2"] if v6 else ["10.0.0.2", "10.0.0.3"])
        parts.append(
            wire.message(
                family=socket.AF_INET6 if v6 else socket.AF_INET,
                state=state,
                local=("::1" if v6 else "10.0.0.1", rng.choice([80, 1024, 32768, 60999, 61000])),
                remote=(remote, rng.choice([443, 5432])),
                expires=rng.randrange(60_001),
                attributes=attributes,
            )
        )
    sent = [b"".join(parts[start : start + 400]) for start in range(0, len(parts), 400)]
    facts = folded(*sent)

    used, elsewhere, inbound, states = Counter(), Counter(), Counter(), Counter()
    for one in iter_sockets(wire.chunks(*sent, wire.done())):
        state = 3 if one.state == 12 else one.state
        states[state] += 1
        if one.local_port in ROLES.listening_ports:
            inbound[one.local_port, state] += 1
        else:
            ephemeral = ROLES.low <= one.local_port <= ROLES.high
            (used if ephemeral else elsewhere)[one.remote_address, one.remote_port] += 1
    assert {state: count for state, count in facts.states.items() if count} == states
    assert facts.inbound == inbound
    assert {(d.address, d.port): d.used for d in facts.destinations} == used
    assert {(d.address, d.port): d.elsewhere for d in facts.destinations} == elsewhere
    assert all(sum(d.states.values()) == d.used + d.elsewhere for d in facts.destinations)
    assert all(sum(d.ages.bins) == d.time_wait == d.states[6] for d in facts.destinations)


def test_a_state_of_a_later_kernel_is_counted_apart():
    facts = folded(wire.message(state=13), wire.message(state=200), wire.message(state=1))
    assert (facts.unknown_states, facts.states[TcpState.ESTABLISHED]) == (2, 1)


def test_a_spread_over_thousands_is_seen_as_one_and_the_worst_stays_exact():
    spread = b"".join(
        wire.message(local=("10.0.0.1", 32768), remote=(f"10.1.{index >> 8}.{index & 255}", 443))
        for index in range(20_000)
    )
    facts = folded(spread[: len(spread) // 2], time_wait(500), spread[len(spread) // 2 :], limits=Limits(groups=1000))
    assert facts.outbound_time_wait == 20_500
    assert (facts.destinations[0].address, facts.destinations[0].used) == ("10.0.0.2", 500)
    assert facts.destinations[1].used == 1
    assert not facts.other_destinations.exact
    assert facts.other_destinations.groups >= 15_000
    assert facts.other_destinations.sockets == 20_500 - sum(one.used for one in facts.destinations)


def test_memory_does_not_grow_with_the_sockets():
    def peak(rounds):
        block = memoryview(
            b"".join(
                wire.message(local=("10.0.0.1", 32768), remote=(f"10.{number}.{index >> 8}.{index & 255}", 443))
                for number in range(2)
                for index in range(20_000)
            )
        )
        target = ConversationFold(ROLES, Limits(groups=500))
        tracemalloc.start()
        fold_into(target, [*[block] * rounds, memoryview(wire.done())])
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(4) < 1.1 * peak(1)


def test_a_dump_that_fails_gives_no_facts():
    with pytest.raises(DumpFailed):
        fold(wire.chunks(time_wait(50), wire.error(12)), ROLES)


def test_listeners_carry_queue_backlog_and_cgroup():
    target = ListenerFold()
    listener = wire.message(
        family=socket.AF_INET6, state=10, local=("::", 80), remote=("::", 0), rqueue=3, wqueue=2, inode=5,
        attributes=[(11, b"\1"), wire.cgroup_id(44)],
    )  # fmt: skip
    fold_into(target, wire.chunks(listener, wire.done()))
    (found,) = target.facts()
    assert (found.address, found.port, found.queue, found.backlog) == ("::", 80, 3, 2)
    assert (found.inode, found.cgroup_id, found.v6only) == (5, 44, True)


def test_close_wait_is_aged_attributed_and_bounded():
    target = CloseWaitFold({80}, Limits(tracked=10, inodes=4, top=2))
    leaked = b"".join(
        wire.message(
            state=8, local=("10.0.0.1", 80 if index % 2 else 40000),
            remote=("10.0.0.9", 443 if index % 2 == 0 else index),
            rqueue=10, inode=1000 + index, cookie=100 - index, attributes=[wire.tcp_info(index * 1000 + 999)],
        )
        for index in range(50)
    )  # fmt: skip
    fold_into(target, wire.chunks(leaked, wire.done()))
    facts = target.facts()
    assert (facts.count, facts.receive_queue_bytes, facts.oldest_ms) == (50, 50 * 9, 49_999)
    assert [facts.older_than(seconds) for seconds in (0, 10, 49, 50)] == [50, 40, 1, 0]
    assert [one.cookie for one in facts.tracked] == list(range(51, 61))
    assert len(facts.inodes) == 4
    assert {(peer.address, peer.port, peer.local_port, peer.count) for peer in facts.peers} == {
        ("10.0.0.9", 443, None, 25), ("10.0.0.9", None, 80, 25),
    }  # fmt: skip


def test_close_wait_tells_user_and_cgroup_of_what_a_process_holds():
    target = CloseWaitFold(set())
    sockets = [
        wire.message(state=8, inode=1, uid=1234, attributes=[wire.tcp_info(9000), wire.cgroup_id(7)]),
        wire.message(state=8, inode=2, uid=1234, attributes=[wire.tcp_info(9000), wire.cgroup_id(8)]),
        wire.message(state=8, inode=3, uid=0, attributes=[wire.tcp_info(9000)]),
        wire.message(state=8, inode=0, uid=5, attributes=[wire.tcp_info(9000), wire.cgroup_id(7)]),
    ]
    fold_into(target, wire.chunks(*sockets, wire.done()))
    assert target.facts().held == (HeldSocket(1, 1234, 7), HeldSocket(2, 1234, 8), HeldSocket(3, 0, None))


def test_close_wait_without_tcp_info_has_no_age():
    target = CloseWaitFold(set())
    fold_into(
        target, wire.chunks(wire.message(state=8), wire.message(state=8, attributes=[wire.tcp_info(9000)]), wire.done())
    )
    assert target.facts().ages_seconds == ((0, 1), (9, 1))


def test_sockets_of_shared_namespaces_are_told_apart_by_cgroup():
    target = CgroupFold(ROLES)
    sockets = b"".join(wire.message(state=1 if i % 3 else 8, attributes=[wire.cgroup_id(i % 2 + 1)]) for i in range(60))
    fold_into(
        target,
        wire.chunks(
            sockets, time_wait(7, local_port=80), wire.message(state=10, attributes=[wire.cgroup_id(2)]), wire.done()
        ),
    )
    facts = target.facts()
    assert {cgroup: (one.states[1], one.states[8]) for cgroup, one in facts.cgroups.items()} == {
        1: (20, 10),
        2: (20, 10),
    }
    assert facts.time_wait_by_local_port == {80: 7}
    assert facts.listeners == {2: 1}


def test_more_cgroups_than_the_limit_are_counted_together():
    target = CgroupFold(ROLES, Limits(cgroups=2))
    sockets = b"".join(wire.message(state=1, attributes=[wire.cgroup_id(i)]) for i in (11, 12, 13, 14))
    fold_into(target, wire.chunks(sockets, wire.done()))
    assert {cgroup: one.states[1] for cgroup, one in target.facts().cgroups.items()} == {11: 1, 12: 1, 0: 2}
