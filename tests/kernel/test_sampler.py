"""Sweeps over real namespaces with real sockets: counts as ss has them, and what happens when a pod vanishes."""

import json
import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest

import exposition
import lab
from agent_builders import pod
from sockethealth_agent import discovery, procfs
from sockethealth_agent.inet_diag import DumpFailed, DumpReason
from sockethealth_agent.metrics import Metrics
from sockethealth_agent.netns import NetnsGone
from sockethealth_agent.pace import Pace
from sockethealth_agent.reading import Memory, new_reader, read_netns
from sockethealth_agent.sampler import ABSENT_SWEEPS, Sampler
from sockethealth_core import metrics
from sockethealth_core.resources import Sockets
from sockethealth_core.units import format_time

pytestmark = pytest.mark.kernel

CONTAINER = "ab" * 32
SS_NAMES = {
    "established": "ESTAB",
    "syn_sent": "SYN-SENT",
    "syn_recv": "SYN-RECV",
    "fin_wait1": "FIN-WAIT-1",
    "fin_wait2": "FIN-WAIT-2",
    "time_wait": "TIME-WAIT",
    "close_wait": "CLOSE-WAIT",
    "last_ack": "LAST-ACK",
    "closing": "CLOSING",
    "listen": "LISTEN",
}


def as_ss(sockets: Sockets) -> dict[str, int]:
    return {SS_NAMES[state]: count for state in SS_NAMES if (count := getattr(sockets, state))}


def read(namespace, memory=None, **more):
    return read_netns(
        namespace.path, memory or Memory(), new_reader(), now=time.monotonic(), observed_at=time.time(), **more
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_counts_are_those_of_ss(address):
    with lab.namespaces(2) as (client, server):
        web = server.listen(8080, address=address)
        held = client.connect(web, 20)
        held.close(5)
        held.shutdown(3)
        follow = server.listen(9090, address=address, serve="follow")
        client.time_wait(follow, 40)
        first = server.listen(80, address=address, serve="close_first")
        client.visit(first, 30)
        client.syn_sent(4, ipv6=address == "::")
        server.wait_for(CLOSE_WAIT=8, TIME_WAIT=30)
        client.wait_for(FIN_WAIT_2=8, TIME_WAIT=40, SYN_SENT=4)
        for namespace in (client, server):
            assert as_ss(read(namespace).sockets) == namespace.ss_states()


def test_roles_destinations_and_sources_are_told_apart():
    with lab.namespaces(2) as (client, server):
        api = server.listen(9090, serve="follow")
        client.time_wait(api, 50)
        front = server.listen(80, serve="close_first")
        client.visit(front, 30)
        outbound, inbound = read(client), read(server)
        assert (outbound.time_wait.inbound, outbound.time_wait.outbound) == (0, 50)
        worst = outbound.ephemeral_ports.destinations[0]
        assert (worst.address, worst.port, worst.used, worst.time_wait) == (server.address, 9090, 50, 50)
        assert worst.closes_per_second > 0
        assert (inbound.time_wait.inbound, inbound.time_wait.outbound) == (30, 0)
        assert [(one.address, one.time_wait) for one in inbound.time_wait.sources] == [(client.address, 30)]


def test_time_wait_of_a_port_that_stopped_listening_stays_inbound():
    with lab.namespaces(2) as (client, server):
        front = server.listen(40001, serve="close_first")
        client.visit(front, 10)
        memory = Memory()
        assert read(server, memory).time_wait.inbound == 10
        front.close()
        found = read(server, memory).time_wait
        assert (found.inbound, found.outbound) == (10, 0)


def test_a_leak_names_its_process_and_container_and_ages_by_first_sight():
    with lab.namespaces(2) as (client, server):
        web = server.listen(8080)
        client.connect(web, 12).close()
        server.wait_for(CLOSE_WAIT=12)
        memory, reader = Memory(), new_reader()
        start = time.monotonic()

        def at(seconds):
            return read_netns(
                server.path,
                memory,
                reader,
                now=start + seconds,
                observed_at=0.0,
                pids={server.pid: CONTAINER},
                container_names={CONTAINER: "app"},
            ).close_wait

        first = at(0)
        assert [(one.container, one.pid, one.count) for one in first.owners] == [("app", server.pid, 12)]
        assert [(one.address, one.count) for one in first.peers] == [(client.address, 12)]
        assert [one.count for one in first.ages] == [0]
        later = at(61)
        assert [one.count for one in later.ages] == [12]
        assert later.oldest_seconds >= 61


def test_a_full_accept_queue_is_told_with_its_process_and_rates():
    with lab.namespaces(2) as (client, server):
        slow = server.listen(8080, backlog=2, serve="none")
        memory = Memory()
        read(server, memory)
        client.connect(slow, 3)
        found = read(server, memory, pids={server.pid: None})
        (full,) = found.listeners
        assert (full.port, full.queue, full.backlog) == (8080, 3, 2)
        assert full.process
        assert found.rates.passive_opens > 0


def test_a_quiet_namespace_is_read_in_full_once_and_facts_stay_right():
    with lab.namespaces(2) as (client, server):
        web = server.listen(8080)
        client.connect(web, 7)
        memory = Memory()
        for _ in range(3):
            assert as_ss(read(server, memory).sockets) == {"ESTAB": 7, "LISTEN": 1}
        assert memory.dumps == 1
        client.connect(web, 1)
        assert read(server, memory).sockets.established == 8
        assert memory.dumps == 2


def test_sysctls_of_the_namespace_are_told_and_used():
    with lab.netns() as one:
        one.sysctl("net.ipv4.ip_local_port_range", "40000 40999")
        one.sysctl("net.ipv4.ip_local_reserved_ports", "40000-40009")
        found = read(one)
        ports = found.ephemeral_ports
        assert (ports.low, ports.high, ports.reserved, ports.usable) == (40000, 40999, 10, 990)
        assert found.sysctls == {
            "net.ipv4.ip_local_port_range": "40000 40999",
            "net.ipv4.ip_local_reserved_ports": "40000-40009",
        }


def test_a_fresh_namespace_differs_from_no_default():
    with lab.netns() as one:
        assert read(one).sysctls == {}


def test_the_own_namespace_needs_no_path():
    found = read_netns(None, Memory(), new_reader(), now=1.0, observed_at=0.0)
    assert found.ephemeral_ports.usable > 0


@pytest.fixture
def node(tmp_path):
    """A /proc that shows chosen processes as if they were in pods' cgroups."""
    root = tmp_path / "proc"
    root.mkdir()
    for name in ("uptime", "thread-self", "sys"):
        (root / name).symlink_to(f"/proc/{name}")
    return root


def show(root, namespace, uid, pid=None):
    pid = pid or namespace.pid
    entry = root / str(pid)
    entry.mkdir()
    (entry / "cgroup").write_text(f"0::/kubepods/burstable/pod{uid}/{CONTAINER}\n")
    for name in ("stat", "ns", "fd", "comm", "net"):
        (entry / name).symlink_to(f"/proc/{pid}/{name}")


def new_pod(name, **more):
    return pod(name, uid=str(uuid.uuid4()), containers={CONTAINER: "app"}, **more)


def sampler(root, host, **more):
    return Sampler(proc=root, host_netns=host.path, **more)


def test_a_sweep_reads_every_pod_and_the_node(node):
    with lab.namespaces(3) as (host, one, two):
        pods = [new_pod("one"), new_pod("two")]
        for namespace, known in zip((one, two), pods, strict=True):
            show(node, namespace, known.uid)
        web = one.listen(8080)
        two.connect(web, 6)
        host.listen(22)
        sweep = sampler(node, host).sweep({known.uid: known for known in pods})
        assert sweep.failed == {}
        found = {observation.pod.name: as_ss(observation.facts.sockets) for observation in sweep.pods.values()}
        assert found == {"one": one.ss_states(), "two": two.ss_states()}
        assert as_ss(sweep.node.host_sockets) == {"LISTEN": 1}
        assert as_ss(sweep.node.sockets) == {"ESTAB": 12, "LISTEN": 2}
        assert sweep.node.sysctls["net.ipv4.tcp_fin_timeout"] == "60"


NSTAT_NAMES = {
    metrics.POD_ACTIVE_OPENS: "TcpActiveOpens",
    metrics.POD_PASSIVE_OPENS: "TcpPassiveOpens",
    metrics.POD_ATTEMPT_FAILS: "TcpAttemptFails",
    metrics.POD_SEGMENTS_SENT: "TcpOutSegs",
    metrics.POD_SEGMENTS_RETRANSMITTED: "TcpRetransSegs",
    metrics.POD_SYN_SEGMENTS_RETRANSMITTED: "TcpExtTCPSynRetrans",
    metrics.POD_LISTEN_OVERFLOWS: "TcpExtListenOverflows",
    metrics.POD_LISTEN_DROPS: "TcpExtListenDrops",
    metrics.POD_TIME_WAIT_OVERFLOWS: "TcpExtTCPTimeWaitOverflow",
}


def nstat(namespace):
    """Counters of a namespace by another program than ours, without its history file."""
    shown = json.loads(namespace.run("nstat", "--ignore", "--noupdate", "--zeros", "--json"))["kernel"]
    return {name: shown[name] for name in NSTAT_NAMES.values()}


def test_a_scrape_tells_states_as_ss_and_counters_as_nstat(node):
    with lab.namespaces(3) as (host, client, server):
        server.sysctl("net.ipv4.tcp_max_tw_buckets", "5")
        pods = [new_pod("client"), new_pod("server")]
        for namespace, known in zip((client, server), pods, strict=True):
            show(node, namespace, known.uid)
        client.connect(server.listen(8080), 6)
        client.visit(server.listen(80, serve="close_first"), 12)
        server.wait_for(ESTAB=6)
        shown_by, sweeping = Metrics("node-a", "1"), sampler(node, host)

        def swept_between_two_equal_looks():
            # An acknowledgement may still be on its way.
            before = nstat(client), nstat(server)
            shown_by.swept(sweeping.sweep({known.uid: known for known in pods}))
            return before == (nstat(client), nstat(server))

        lab.wait_until(swept_between_two_equal_looks, 5, lambda: "the counters do not come to rest")
        shown = exposition.scraped(shown_by.registry)
        for namespace, known in zip((client, server), pods, strict=True):
            states = {
                SS_NAMES[field]: count
                for field, name in zip(Sockets.__struct_fields__, Sockets.__struct_encode_fields__, strict=True)
                if (count := shown.value(metrics.POD_SOCKETS, pod=known.name, state=name))
            }
            assert states == namespace.ss_states()
            counters = {name: shown.value(series, pod=known.name) for series, name in NSTAT_NAMES.items()}
            assert counters == nstat(namespace)
        assert shown.value(metrics.POD_ACTIVE_OPENS, pod="client") == 18
        assert shown.value(metrics.POD_PASSIVE_OPENS, pod="server") == 18
        assert shown.value(metrics.POD_TIME_WAIT_OVERFLOWS, pod="server") == 7


def test_a_dump_that_is_put_off_is_not_fresh(node):
    busy = new_pod("busy")
    with lab.namespaces(2) as (host, one):
        show(node, one, busy.uid)
        web = one.listen(8080)
        clock = [1000.0]
        sweeping = sampler(
            node,
            host,
            pace=Pace(share=1e-9, urgent_share=1e-9, cheap_seconds=0.0),
            clock=lambda: clock[0],
            wall_clock=lambda: clock[0],
        )
        told = []
        for _ in range(7):
            one.connect(web, 1)
            sweep = sweeping.sweep({busy.uid: busy})
            assert sweep.failed == {}
            observation = sweep.pods[busy.uid]
            told.append((observation.fresh, observation.facts.sockets.established, observation.facts.observed_time))
            clock[0] += 10
        assert [fresh for fresh, _, _ in told] == [True, False, False, False, False, False, True]
        assert [count for _, count, _ in told] == [2, 2, 2, 2, 2, 2, 14]
        assert [when for _, _, when in told] == [*[format_time(1000)] * 6, format_time(1060)]


def test_the_nodes_own_limits_are_told():
    tcp_mem = Path("/proc/sys/net/ipv4/tcp_mem")
    if not tcp_mem.exists():
        pytest.skip(f"{tcp_mem} is missing: the kernel shows it in its first network namespace only")
    node = Sampler().sweep({}).node
    low, pressure, high = (int(word) for word in tcp_mem.read_text().split())
    assert (node.tcp_memory.low, node.tcp_memory.pressure, node.tcp_memory.high) == (low, pressure, high)
    assert node.orphans.maximum == int(Path("/proc/sys/net/ipv4/tcp_max_orphans").read_text())
    assert node.host_sockets == node.sockets


def test_a_pod_that_ends_between_discovery_and_dump_keeps_its_facts(node, caplog):
    """The namespace's last process exits in the middle of a sweep, and its neighbours are read all the same."""
    stays = new_pod("stays")
    goes = new_pod("goes")
    with lab.namespaces(2) as (host, other):
        show(node, other, stays.uid)
        sweeping = sampler(node, host)
        with lab.netns() as ending:
            show(node, ending, goes.uid)
            ending.listen(80)
            pods = {goes.uid: goes, stays.uid: stays}
            assert sweeping.sweep(pods).failed == {}
            look = discovery.discover

            def look_then_end(*arguments):
                seen = look(*arguments)
                ending._stop()
                lab.wait_until(
                    lambda: not Path(f"/proc/{seen.pods[goes.uid].pid}/ns/net").exists(), 5, lambda: "process ends"
                )
                return seen

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(discovery, "discover", look_then_end)
                sweep = sweeping.sweep(pods)
        assert set(sweep.failed) == {goes.uid}
        assert sweep.node.pods_failed == 1
        assert not sweep.pods[goes.uid].fresh
        assert sweep.pods[goes.uid].facts.sockets.listen == 1
        assert sweep.pods[stays.uid].fresh
        said = [record.message for record in caplog.records]
        assert len(said) == 1, said
        assert said[0].startswith("pod shop/goes: its sockets could not be read, and are tried again: ")


def test_a_namespace_replaced_behind_its_path_is_gone():
    with lab.namespaces(2) as (one, other):
        _ = other
        memory = Memory()
        read(one, memory)
        with pytest.raises(NetnsGone, match="another network namespace"):
            read_netns(
                one.path,
                memory,
                new_reader(),
                now=0.0,
                observed_at=0.0,
                expected=discovery.netns.identity(other.path),
            )


class Failing:
    """A reader that breaks off the dumps of pods, as a kernel that ran out of memory would."""

    def __init__(self, reader, reason):
        self._reader = reader
        self.reason = reason
        self.left = 0

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def read(self, *arguments, **more):
        if self.left:
            self.left -= 1
            raise DumpFailed(self.reason, "The dump stopped.")
        return self._reader.read(*arguments, **more)


@pytest.mark.parametrize("reason", [DumpReason.TRUNCATED, DumpReason.ENDED_WITH_ERROR])
def test_a_broken_dump_costs_one_sweep_of_one_pod_and_one_line(node, reason, caplog):
    caplog.set_level("INFO")
    with lab.namespaces(3) as (host, one, two):
        first, second = new_pod("one"), new_pod("two")
        show(node, one, first.uid)
        show(node, two, second.uid)
        web = one.listen(8080)
        two.connect(web, 2).close(1)
        one.wait_for(CLOSE_WAIT=1)
        reader = Failing(new_reader(), reason)
        sweeping = sampler(node, host, reader=reader)
        pods = {first.uid: first, second.uid: second}
        sweeping.sweep(pods)
        for _ in range(2):
            reader.left = 1
            sweep = sweeping.sweep(pods)
            assert set(sweep.failed) == {first.uid}
            assert as_ss(sweep.pods[first.uid].facts.sockets) == one.ss_states()
            assert sweep.pods[second.uid].fresh
        assert sweeping.sweep(pods).failed == {}
        assert [record.message for record in caplog.records] == [
            "pod shop/one: its sockets could not be read, and are tried again: The dump stopped.",
            "pod shop/one: its sockets are read again.",
        ]


def test_a_running_pod_without_a_process_is_said_after_a_while(node, caplog):
    with lab.netns() as host:
        unseen, pending = new_pod("unseen"), new_pod("pending", phase="Pending")
        sweeping = sampler(node, host)
        pods = {unseen.uid: unseen, pending.uid: pending}
        for _ in range(ABSENT_SWEEPS - 1):
            assert sweeping.sweep(pods).failed == {}
        for _ in range(3):
            assert set(sweeping.sweep(pods).failed) == {unseen.uid}
        assert len(caplog.records) == 1
        assert "virtual machine" in caplog.records[0].message


def test_a_completed_pod_is_passed_over(node):
    with lab.namespaces(2) as (host, one):
        done = new_pod("done", phase="Succeeded")
        show(node, one, done.uid)
        assert sampler(node, host).sweep({done.uid: done}).pods == {}


@pytest.fixture
def pod_cgroup():
    """Makes a cgroup v2 for a pod's UID and moves a process into it."""
    root = discovery.cgroup2_root()
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("no writable cgroup v2 is mounted under /sys/fs/cgroup")
    made = []

    def move(uid, pid, container=""):
        directory = root / f"sockethealth-test-pod{uid}"
        directory.mkdir()
        made.append(directory)
        if container:
            directory /= container
            directory.mkdir()
            made.append(directory)
        (directory / "cgroup.procs").write_text(str(pid))

    yield move
    for directory in reversed(made):
        lab.wait_until(lambda at=directory: not (at / "cgroup.procs").read_text().strip(), 5, lambda: "empty cgroup")
        directory.rmdir()


def test_a_host_network_pod_has_the_sockets_of_its_cgroup(node, pod_cgroup):
    with lab.namespaces(2) as (host, client):
        host.listen(22)
        neighbour = host.listen(7000)
        client.connect(neighbour, 5)
        shared = new_pod("shared", host_network=True)
        show(node, host, shared.uid)
        pod_cgroup(shared.uid, host.pid)
        web = host.listen(8080)
        client.connect(web, 4).close(1)
        host.wait_for(CLOSE_WAIT=1)
        front = host.listen(8081, serve="close_first")
        client.visit(front, 9)
        host.wait_for(TIME_WAIT=9)
        sweep = sampler(node, host).sweep({shared.uid: shared})
        assert sweep.failed == {}
        found = sweep.pods[shared.uid].facts
        assert as_ss(found.sockets) == {"ESTAB": 3, "CLOSE-WAIT": 1, "TIME-WAIT": 9, "LISTEN": 2}
        assert found.time_wait.inbound == 9
        assert [(one.container, one.pid, one.count) for one in found.close_wait.owners] == [("app", host.pid, 1)]
        assert as_ss(sweep.node.host_sockets) == host.ss_states()
        assert sweep.node.sockets == sweep.node.host_sockets


def test_the_nodes_own_namespace_keeps_to_the_pace_too(node, pod_cgroup):
    clock = [1000.0]
    with lab.namespaces(2) as (host, client):
        shared = new_pod("shared", host_network=True)
        show(node, host, shared.uid)
        pod_cgroup(shared.uid, host.pid)
        web = host.listen(8080)
        slow = host.listen(8081, backlog=2, serve="none")
        client.connect(web, 30)
        sweeping = sampler(
            node,
            host,
            pace=Pace(share=1e-9, urgent_share=1e-9, cheap_seconds=0.0),
            clock=lambda: clock[0],
            wall_clock=lambda: clock[0],
        )

        def swept(*pods):
            sweep = sweeping.sweep({one.uid: one for one in (shared, *pods)})
            assert sweep.failed == {}
            return sweep, sweep.pods[shared.uid]

        first, of_pod = swept()
        assert (first.dumps, of_pod.fresh, of_pod.facts.sockets.established) == (1, True, 30)
        client.connect(web, 1)
        client.connect(slow, 3)
        clock[0] += 10
        late = new_pod("late", host_network=True)
        put_off, of_pod = swept(late)
        assert (put_off.dumps, of_pod.fresh) == (0, False)
        assert late.uid not in put_off.pods
        assert (of_pod.facts.sockets.established, of_pod.facts.observed_time) == (30, format_time(1000))
        assert [(one.port, one.queue) for one in of_pod.facts.listeners] == [(8081, 3)]
        clock[0] += 50
        again, of_pod = swept()
        assert (again.dumps, of_pod.fresh) == (1, True)
        assert (of_pod.facts.sockets.established, of_pod.facts.observed_time) == (34, format_time(1060))


def test_a_leak_whose_process_may_not_be_looked_at_still_names_its_container(node, pod_cgroup):
    with lab.namespaces(2) as (host, leaking):
        known = new_pod("leaking")
        show(node, leaking, known.uid)
        (node / str(leaking.pid) / "fd").unlink()
        pod_cgroup(known.uid, leaking.pid, CONTAINER)
        host.connect(leaking.listen(8080), 3).close()
        leaking.wait_for(CLOSE_WAIT=3)
        (owner,) = sampler(node, host).sweep({known.uid: known}).pods[known.uid].facts.close_wait.owners
        assert (owner.container, owner.process, owner.pid, owner.count) == ("app", "", 0, 3)
        # With its user known it is the one process of that user in the container.
        (node / str(leaking.pid) / "status").symlink_to(f"/proc/{leaking.pid}/status")
        (owner,) = sampler(node, host).sweep({known.uid: known}).pods[known.uid].facts.close_wait.owners
        assert (owner.container, owner.pid, owner.count) == ("app", leaking.pid, 3)
        assert owner.process


def test_the_node_is_still_read_when_the_process_that_showed_it_ends(node):
    """Process 1 is out of reach here: its mark is seen, its ns/net is not."""
    with lab.namespaces(1) as (host,), lab.netns() as elsewhere:
        (node / "1").mkdir()
        (node / "1" / "net").symlink_to(f"/proc/{host.pid}/net")
        keeper = subprocess.Popen(["nsenter", f"--net={host.path}", "--", "sleep", "60"])
        try:
            lab.wait_until(
                lambda: procfs.read_netns_mark(keeper.pid) == procfs.read_netns_mark(host.pid), 5, lambda: "nsenter"
            )
            for pid in (keeper.pid, elsewhere.pid):
                (node / str(pid)).mkdir()
                for name in ("stat", "cgroup", "ns", "net"):
                    (node / str(pid) / name).symlink_to(f"/proc/{pid}/{name}")
            host.listen(22)
            elsewhere.listen(23)
            elsewhere.listen(24)
            sweeping = Sampler(proc=node)
            assert as_ss(sweeping.sweep({}).node.host_sockets) == {"LISTEN": 1}
            show(node, host, str(uuid.uuid4()))
        finally:
            keeper.kill()
            keeper.wait()
        host.listen(25)
        assert as_ss(sweeping.sweep({}).node.host_sockets) == {"LISTEN": 2}


def test_mini_sockets_in_fin_wait_2_are_no_time_wait():
    """The kernel keeps both as mini-sockets, and sockstat counts them as one (`tw`)."""
    with lab.namespaces(2) as (client, server):
        client.connect(server.listen(8080), 6).close()
        client.time_wait(server.listen(9090, serve="follow"), 2)
        client.wait_for(FIN_WAIT_2=6, TIME_WAIT=2)
        found = read(client)
        assert (found.sockets.fin_wait2, found.sockets.time_wait, found.time_wait.outbound) == (6, 2, 2)
        lab.wait_until(
            lambda: procfs.read_sockstat(client.pid).time_wait == 8,
            5,
            lambda: f"sockstat's tw is {procfs.read_sockstat(client.pid).time_wait}, wanted 8",
        )
