"""Each cause the product tells apart, made with real sockets, and what looks like it and is harmless.

A scenario states the findings of the default policy exactly: none missing, none more. Both ends of its connections
are judged, so the healthy peer of a troubled namespace is a scenario too. The end of the run prints recall and false
alarms by detector.

What is not of the kernel: the clock (see scenarios.Watch); the maximum of the connection tracking table and the
marks of tcp_mem, which are the whole machine's and are put near what was really measured instead of being changed.
tcp_tw_recycle needs a kernel before 4.12 and an inverted port range is refused by every kernel: tests/unit/core has
these.
"""

import contextlib
import os
import shutil
import uuid
from pathlib import Path

import msgspec
import pytest

import lab
from agent_builders import pod
from scenarios import DEFAULT_RULES, Found, place
from sockethealth_agent import discovery
from sockethealth_agent.sampler import Sampler
from sockethealth_core.detectors import DETECTORS, Subject
from sockethealth_core.policy import read_policy

pytestmark = pytest.mark.kernel

RANGE_OF_1200 = "40000 41199"
CONTAINER = "ab" * 32
OVER_A_MINUTE = 61.0
NODE = Subject("node", "node-a")
needs_iptables = pytest.mark.skipif(not shutil.which("iptables"), reason="iptables is missing: it drops the segments")
both_families = pytest.mark.parametrize("family", ["IPv4", "IPv6"])
RAN = set()
"""Names of the tests that ran, so that the last one knows whether all did."""


@pytest.fixture(autouse=True)
def _note_that_it_ran(request):
    RAN.add(request.node.name)


@pytest.fixture
def pair():
    with lab.namespaces(2) as made:
        yield made


@pytest.fixture
def one():
    with lab.netns() as made:
        yield made


def any_of(family):
    return "::" if family == "IPv6" else "0.0.0.0"


def many_clients(client, server, count):
    """Source addresses of a network behind `client` that `server` reaches."""
    client.any_ip("10.88.0.0/16")
    server.route("10.88.0.0/16", client.address)
    return [f"10.88.{index // 250}.{index % 250 + 1}" for index in range(count)]


def many_destinations(client, server, count):
    """Addresses that `server` answers on and `client` reaches."""
    server.any_ip("10.99.0.0/16")
    client.route("10.99.0.0/16", server.address)
    return [f"10.99.{index // 250}.{index % 250 + 1}" for index in range(count)]


def wait_for_counter(namespace, name, least):
    """Wait until a counter of the namespace, as nstat(8) names it, has come so far."""

    def count():
        return int(namespace.run("nstat", "-asz", name).split()[-2])

    lab.wait_until(lambda: count() >= least, 10, lambda: f"{name} is {count()}, wanted {least}")


# Outbound: a client that closes first.


@both_families
def test_client_churn(pair, judge, family):
    client, server = pair
    ours, theirs = judge.watch(client), judge.watch(server)
    api = server.listen(9090, address=any_of(family), serve="follow")
    client.time_wait(api, 1500)
    ours.expect(Found("OutboundTimeWait", "Info", place(api)))
    theirs.expect()


def test_a_few_hundred_closes_to_one_destination_are_nothing(pair, judge):
    client, server = pair
    ours = judge.watch(client)
    client.time_wait(server.listen(9090, serve="follow"), 999)
    ours.expect()


@both_families
def test_ephemeral_ports_run_out(pair, judge, family):
    client, server = pair
    client.sysctl("net.ipv4.ip_local_port_range", RANGE_OF_1200)
    ours, theirs = judge.watch(client), judge.watch(server)
    api = server.listen(9090, address=any_of(family), serve="follow")
    client.time_wait(api, 590)
    ours.expect()
    client.time_wait(api, 20)
    ours.expect(Found("EphemeralPortExhaustion", "Warning", place(api)))
    client.time_wait(api, 360)
    ours.expect(Found("EphemeralPortExhaustion", "Critical", place(api)))
    client.time_wait(api, 100)
    ours.expect(Found("EphemeralPortExhaustion", "Critical", place(api)), Found("OutboundTimeWait", "Info", place(api)))
    theirs.expect()


def test_ports_of_connections_that_stay_open_run_out_too(pair, judge):
    client, server = pair
    client.sysctl("net.ipv4.ip_local_port_range", RANGE_OF_1200)
    ours, theirs = judge.watch(client), judge.watch(server)
    api = server.listen(9090)
    client.connect(api, 970)
    ours.expect(Found("EphemeralPortExhaustion", "Critical", place(api)))
    theirs.expect()


def test_exhaustion_is_raised_when_it_has_lasted(pair, judge):
    client, server = pair
    client.sysctl("net.ipv4.ip_local_port_range", RANGE_OF_1200)
    ours = judge.watch(client)
    api = server.listen(9090, serve="follow")
    client.time_wait(api, 970)
    ours.expect_in_time()
    ours.expect_in_time()
    ours.expect_in_time(Found("EphemeralPortExhaustion", "Critical", place(api)))


def test_time_wait_that_connect_may_take_over_exhausts_nothing(pair, judge):
    client, server = pair
    client.sysctl("net.ipv4.ip_local_port_range", RANGE_OF_1200)
    client.sysctl("net.ipv4.tcp_tw_reuse", "1")
    ours = judge.watch(client)
    client.time_wait(server.listen(9090, serve="follow"), 990)
    ours.expect()


def test_time_wait_on_loopback_exhausts_nothing(one, judge):
    one.sysctl("net.ipv4.ip_local_port_range", RANGE_OF_1200)
    ours = judge.watch(one)
    for address in ("0.0.0.0", "::"):
        api = one.listen(9090, address=address, serve="follow", v6only=True if address == "::" else None)
        one.time_wait(api, 990)
    ours.expect()


def test_twenty_thousand_time_wait_over_ten_thousand_destinations(pair, judge):
    client, server = pair
    addresses = many_destinations(client, server, 10_000)
    ours, theirs = judge.watch(client), judge.watch(server)
    server.listen(9090, serve="follow")
    client.time_wait([(address, 9090) for address in addresses], 20_000)
    assert ours.read().time_wait.outbound == 20_000
    ours.expect()
    theirs.expect()
    client.time_wait((addresses[77], 9090), 1000)
    ours.expect(Found("OutboundTimeWait", "Info", place((addresses[77], 9090))))


def test_a_burst_that_drains(pair, judge):
    client, server = pair
    ours = judge.watch(client)
    client.time_wait(server.listen(9090, serve="follow"), 1200)
    for _ in range(4):
        ours.expect_in_time()
    expire_time_wait(client)
    for _ in range(8):
        ours.expect_in_time()


def test_churn_that_stays_is_told_until_it_has_been_over_for_a_minute(pair, judge):
    client, server = pair
    ours = judge.watch(client)
    api = server.listen(9090, serve="follow")
    client.time_wait(api, 1200)
    churn = Found("OutboundTimeWait", "Info", place(api))
    for _ in range(8):
        ours.expect_in_time()
    ours.expect_in_time(churn)
    expire_time_wait(client)
    for _ in range(4):
        ours.expect_in_time(churn)
    ours.expect_in_time()


def expire_time_wait(namespace):
    """End all TIME_WAIT as if their minute were over (SOCK_DESTROY)."""
    namespace.run("ss", "-K", "state", "time-wait")
    namespace.wait_for(TIME_WAIT=0)


# Inbound: a server that closes first.


def test_a_dual_stack_server_closes_first_and_one_client_has_all_of_it(pair, judge):
    client, server = pair
    ours, theirs = judge.watch(server), judge.watch(client)
    front = server.listen(80, address="::", serve="close_first")
    client.visit((server.address, front.port), 1100)
    server.wait_for(TIME_WAIT=1100)
    ours.expect(Found("InboundTimeWait", "Info"), Found("SingleSourceChurn", "Info", client.address))
    theirs.expect()


def test_a_server_closes_first_on_ipv6(pair, judge):
    client, server = pair
    ours = judge.watch(server)
    client.visit(server.listen(80, address="::", serve="close_first", v6only=True), 1100)
    server.wait_for(TIME_WAIT=1100)
    ours.expect(Found("InboundTimeWait", "Info"), Found("SingleSourceChurn", "Info", client.address6))


def test_one_source_address_makes_more_connections_than_any_other(pair, judge):
    client, server = pair
    sources = many_clients(client, server, 20)
    ours = judge.watch(server)
    front = server.listen(80, serve="close_first")
    client.visit(front, 100, sources=sources)
    client.visit(front, 850, sources=["10.88.99.99"])
    server.wait_for(TIME_WAIT=950)
    ours.expect(Found("SingleSourceChurn", "Info", "10.88.99.99"))


def test_twenty_thousand_inbound_time_wait_of_many_clients(pair, judge):
    client, server = pair
    sources = many_clients(client, server, 200)
    ours, theirs = judge.watch(server), judge.watch(client)
    client.visit(server.listen(80, serve="close_first"), 20_000, sources=sources)
    server.wait_for(TIME_WAIT=20_000)
    ours.expect(Found("InboundTimeWait", "Info"))
    theirs.expect()


def test_a_listener_that_stopped_less_than_a_minute_ago(pair, judge):
    client, server = pair
    sources = many_clients(client, server, 20)
    front = server.listen(80, serve="close_first")
    ours = judge.watch(server)
    client.visit(front, 1100, sources=sources)
    server.wait_for(TIME_WAIT=1100)
    ours.expect(Found("InboundTimeWait", "Info"))
    front.close()
    ours.expect(Found("InboundTimeWait", "Info"))
    ours.expect(Found("InboundTimeWait", "Info"), after=40)
    assert ours.facts.time_wait.outbound == 0


def test_probes_from_the_nodes_own_address(pair, judge):
    node, server = pair
    ours = judge.watch(server)
    node.visit(server.listen(8080, serve="close_first"), 120)
    server.wait_for(TIME_WAIT=120)
    ours.expect()
    assert ours.facts.time_wait.sources[0].address == node.address


@pytest.mark.parametrize("buckets", [4096, 500])
def test_the_time_wait_table_overflows(pair, judge, buckets):
    client, server = pair
    sources = many_clients(client, server, 200)
    server.sysctl("net.ipv4.tcp_max_tw_buckets", str(buckets))
    ours = judge.watch(server)
    client.visit(server.listen(80, serve="close_first"), buckets + 100, sources=sources)
    wait_for_counter(server, "TcpExtTCPTimeWaitOverflow", 50)
    by_size = {4096: Found("InboundTimeWait", "Info"), 500: Found("UnsafeSysctl", "Warning")}
    ours.expect(Found("TimeWaitTableOverflow", "Critical"), by_size[buckets])


# CLOSE_WAIT and FIN_WAIT_2.


@both_families
@pytest.mark.parametrize("unread", [0, 100])
def test_close_wait_leaks(pair, judge, family, unread):
    client, server = pair
    ours, theirs = judge.watch(client), judge.watch(server)
    leaky = server.listen(8080, address=any_of(family))
    client.close_wait(leaky, 49, unread=unread)
    ours.expect()
    ours.expect(after=OVER_A_MINUTE)
    client.close_wait(leaky, 1, unread=unread)
    ours.expect()
    judgement = ours.expect(Found("CloseWaitLeak", "Warning", place(leaky)), after=OVER_A_MINUTE)
    (leak,) = judgement.findings
    assert leak.evidence["process"] == Path(f"/proc/{client.pid}/comm").read_text().strip()
    assert leak.evidence["receiveQueueBytes"] == str(50 * unread)
    theirs.expect()


def test_close_wait_leaks_by_the_thousand_and_the_peer_waits_in_fin_wait_2(pair, judge):
    client, server = pair
    ours, theirs = judge.watch(client), judge.watch(server)
    leaky = server.listen(8080)
    client.close_wait(leaky, 1000, unread=10)
    ours.expect()
    ours.expect(Found("CloseWaitLeak", "Critical", place(leaky)), after=OVER_A_MINUTE)
    server.wait_for(FIN_WAIT_2=1000)
    theirs.expect(Found("FinWait2Buildup", "Warning"))


def test_close_wait_that_lives_for_a_second(pair, judge):
    client, server = pair
    ours = judge.watch(client)
    held = server.listen(8080)
    for _ in range(14):
        young = client.close_wait(held, 60)
        ours.expect_in_time()
        young.close()
        client.wait_for(CLOSE_WAIT=0)


@pytest.mark.parametrize("held", [False, True], ids=["orphaned", "held"])
def test_fin_wait_2_builds_up_and_the_peer_leaks(pair, judge, held):
    client, server = pair
    ours, theirs = judge.watch(client), judge.watch(server)
    web = server.listen(8080)
    made = client.connect(web, 1000)
    end = made.shutdown if held else made.close
    end(999)
    client.wait_for(FIN_WAIT_2=999)
    ours.expect()
    end(1000 if held else 1)
    client.wait_for(FIN_WAIT_2=1000)
    ours.expect(Found("FinWait2Buildup", "Warning"))
    theirs.expect()
    theirs.expect(Found("CloseWaitLeak", "Critical", client.address), after=OVER_A_MINUTE)


# Listeners.


def test_an_accept_queue_overflows(pair, judge):
    client, server = pair
    slow = server.listen(8080, backlog=16, serve="none")
    ours, theirs = judge.watch(server), judge.watch(client)
    client.connect(slow, 17)
    ours.expect()
    client.ask("begin", targets=[slow.target], n=20, source=None)
    wait_for_counter(server, "TcpExtListenOverflows", 20)
    judgement = ours.expect(Found("AcceptQueueOverflow", "Critical", "0.0.0.0 8080"))
    assert judgement.findings[0].evidence["process"] == Path(f"/proc/{server.pid}/comm").read_text().strip()
    theirs.expect()


def test_half_open_connections_fill_the_backlog(one, judge):
    ours = judge.watch(one)
    web = one.listen(8080, backlog=128)
    one.syn_recv(web, 60)
    ours.expect()
    one.syn_recv(web, 120, source="198.18.0.78")
    ours.expect(Found("SynBacklogPressure", "Warning", "0.0.0.0 8080"))
    # A flood's sources answer no SYN/ACK, so each is sent again: that is no loss of the path.
    wait_for_counter(one, "TcpRetransSegs", 120)
    ours.expect(Found("SynBacklogPressure", "Warning", "0.0.0.0 8080"))


def test_a_destination_that_does_not_answer(one, judge):
    ours = judge.watch(one)
    one.syn_sent(200)
    wait_for_counter(one, "TcpRetransSegs", 200)
    ours.expect(Found("RetransmissionStorm", "Warning"))


def test_half_open_connections_without_syn_cookies(one, judge):
    one.sysctl("net.ipv4.tcp_syncookies", "0")
    ours = judge.watch(one)
    one.syn_recv(one.listen(8080, backlog=64), 60)
    ours.expect(Found("SynBacklogPressure", "Warning", "0.0.0.0 8080"), Found("UnsafeSysctl", "Warning"))


def test_a_busy_server_that_is_well(pair, judge):
    client, server = pair
    ours, theirs = judge.watch(server), judge.watch(client)
    web = server.listen(8080)
    client.connect(web, 1000).send(100)
    client.connect(server.listen(8081, address="::"), 1000)
    ours.expect()
    theirs.expect()
    for _ in range(9):
        ours.expect_in_time()


# The network path.


@needs_iptables
def test_the_path_loses_segments(pair, judge):
    client, server = pair
    held = client.connect(server.listen(8080), 200)
    ours, theirs = judge.watch(client), judge.watch(server)
    with server.dropping(8080):
        held.send(100)
        wait_for_counter(client, "TcpRetransSegs", 200)
        ours.expect(Found("RetransmissionStorm", "Warning"))
        theirs.expect()


@needs_iptables
def test_a_few_lost_segments_of_a_quiet_client(pair, judge):
    client, server = pair
    held = client.connect(server.listen(8080), 5)
    ours = judge.watch(client)
    with server.dropping(8080):
        held.send(100)
        wait_for_counter(client, "TcpRetransSegs", 5)
        ours.expect()


# Settings.


@pytest.mark.parametrize(
    "settings",
    [
        {"tcp_tw_reuse": "1", "tcp_timestamps": "0"},
        {"tcp_syncookies": "0"},
        {"tcp_max_tw_buckets": "1000"},
        {"ip_local_port_range": "40000 40999"},
        {"ip_local_port_range": "50000 60999"},
        {"ip_local_port_range": "32768 40959", "ip_local_reserved_ports": "32768-39959"},
    ],
    ids=["reuse-without-timestamps", "no-syncookies", "small-table", "tiny-range", "listener-in-range", "all-reserved"],
)
def test_unsafe_settings(one, judge, settings):
    for name, value in settings.items():
        one.sysctl(f"net.ipv4.{name}", value)
    one.listen(50051)
    judgement = judge.watch(one).expect(Found("UnsafeSysctl", "Warning"))
    assert judgement.findings[0].value == 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tcp_tw_reuse": "1"},
        {"tcp_timestamps": "0"},
        {"tcp_fin_timeout": "20"},
        {"ip_local_port_range": "10240 65000", "ip_local_reserved_ports": "50051"},
        {"tcp_max_tw_buckets": "8192"},
    ],
    ids=["kernel's", "reuse", "no-timestamps", "fin-timeout", "listener-reserved", "table"],
)
def test_settings_that_are_safe(one, judge, settings):
    for name, value in settings.items():
        one.sysctl(f"net.ipv4.{name}", value)
    one.listen(50051)
    judge.watch(one).expect()


# What Kubernetes adds.


@needs_iptables
def test_a_sidecar_mesh_doubles_the_sockets_of_its_namespace(pair, judge):
    """The application's connections are redirected to a proxy in the same namespace, which opens others upstream."""
    workload, upstream = pair
    ours = judge.watch(workload)
    rule = ("OUTPUT", "-p", "tcp", "--dport", "9090", "-j", "REDIRECT", "--to-ports", "15001")
    workload.run("iptables", "-w", "-t", "nat", "-A", *rule)
    proxy = workload.listen(15001, serve="follow")
    original = (upstream.address, 9090)
    workload.time_wait(original, 900)
    proxy.wait(finished=900)
    workload.time_wait(upstream.listen(15008, serve="follow"), 900)
    workload.connect(original, 300)
    ours.expect()
    workload.time_wait(original, 200)
    ours.expect(Found("OutboundTimeWait", "Info", place(original)))


@needs_iptables
def test_the_connection_tracking_table_fills(pair, judge):
    """Entries are real. The maximum is the machine's, so one near them is put in its place."""
    client, node = pair
    node.run("iptables", "-w", "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
    client.connect(node.listen(8080), 300)
    facts = Sampler(host_netns=node.path).sweep({}).node
    assert facts.conntrack.entries >= 300
    judge.expect(NODE, facts)
    table = msgspec.structs.replace(facts.conntrack, maximum=int(facts.conntrack.entries / 0.85))
    judge.expect(NODE, msgspec.structs.replace(facts, conntrack=table), Found("ConntrackPressure", "Warning"))


def test_tcp_memory_runs_short(pair, judge):
    """Pages are real. tcp_mem is the machine's, so a mark near them is put in its place."""
    if not Path("/proc/sys/net/ipv4/tcp_mem").exists():
        pytest.skip("/proc/sys/net/ipv4/tcp_mem is missing: the kernel shows it in its first network namespace only")
    client, server = pair
    client.connect(server.listen(8080), 20).send(100_000)
    facts = Sampler().sweep({}).node
    assert facts.tcp_memory.pages > 0
    judge.expect(NODE, msgspec.structs.replace(facts, conntrack=None))
    memory = msgspec.structs.replace(facts.tcp_memory, pressure=facts.tcp_memory.pages)
    short = msgspec.structs.replace(facts, tcp_memory=memory, conntrack=None)
    judge.expect(NODE, short, Found("TcpMemoryPressure", "Critical"))


def test_of_two_host_network_pods_the_one_that_leaks_is_named(pair, judge, tmp_path):
    client, host = pair
    seconds = 0.0
    with contextlib.ExitStack() as stack:
        leaks, is_well = (stack.enter_context(host_network_pod(name, host, tmp_path)) for name in ("leaks", "is-well"))
        client.connect(leaks.process.listen(8080), 60).close()
        client.connect(is_well.process.listen(9090), 60)
        host.wait_for(CLOSE_WAIT=60)
        sampler = Sampler(proc=tmp_path, host_netns=host.path, clock=lambda: seconds)
        pods = {one.info.uid: one.info for one in (leaks, is_well)}
        assert sampler.sweep(pods).failed == {}
        seconds = OVER_A_MINUTE
        sweep = sampler.sweep(pods)
        expected = {"leaks": [Found("CloseWaitLeak", "Warning", client.address)], "is-well": []}
        for one in sweep.pods.values():
            judge.expect(Subject("pod", one.pod.name, one.pod.namespace), one.facts, *expected[one.pod.name])
        judge.expect(NODE, sweep.node)


class HostNetworkPod:
    """A process of its own in `host`'s namespace, in a cgroup that names the pod, shown in a /proc of the test's."""

    def __init__(self, name, host, proc, cgroups):
        self.info = pod(name, uid=str(uuid.uuid4()), containers={CONTAINER: "app"}, host_network=True)
        self.process = lab.Namespace(host.name, host.address, host.address6)
        self.cgroup = cgroups / f"sockethealth-test-pod{self.info.uid}"
        self.cgroup.mkdir()
        (self.cgroup / "cgroup.procs").write_text(str(self.process.pid))
        entry = proc / str(self.process.pid)
        entry.mkdir()
        (entry / "cgroup").write_text(f"0::/kubepods/pod{self.info.uid}/{CONTAINER}\n")
        for file in ("stat", "ns", "fd", "fdinfo", "comm", "net", "status"):
            (entry / file).symlink_to(f"/proc/{self.process.pid}/{file}")

    def close(self):
        self.process._stop()
        members = self.cgroup / "cgroup.procs"
        lab.wait_until(lambda: not members.read_text().strip(), 5, lambda: "the cgroup has a process left")
        self.cgroup.rmdir()


@contextlib.contextmanager
def host_network_pod(name, host, proc):
    cgroups = discovery.cgroup2_root()
    if cgroups is None or not os.access(cgroups, os.W_OK):
        pytest.skip("no writable cgroup v2 is mounted under /sys/fs/cgroup")
    for file in ("uptime", "thread-self", "sys"):
        if not (proc / file).exists():
            (proc / file).symlink_to(f"/proc/{file}")
    with contextlib.closing(HostNetworkPod(name, host, proc, cgroups)) as made:
        yield made


@both_families
def test_an_expression_of_a_policy_holds(one, judge, family):
    policy = {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "ClusterSocketHealthPolicy",
        "metadata": {"name": "unanswered"},
        "spec": {
            "rules": [
                {
                    "name": "connecting",
                    "detector": "Expression",
                    "severity": "Warning",
                    "parameters": {"expression": "status.sockets.synSent > 50 && status.sockets.established == 0"},
                }
            ]
        },
    }
    ours = judge.watch(one, (*DEFAULT_RULES, *read_policy(policy).rules))
    one.syn_sent(50, ipv6=family == "IPv6")
    ours.expect()
    one.syn_sent(1, ipv6=family == "IPv6")
    ours.expect(Found("Expression", "Warning"))


def test_every_detector_was_found_in_every_severity_and_nothing_was_missed_or_made_up(request, score):
    """Last on purpose: it holds the score of the tests above, if all of them ran."""
    here = {item.name for item in request.session.items if item.path == request.node.path}
    if len(here) < 2 or not here <= RAN:
        pytest.skip("only some of the scenarios were run")
    wanted = {(detector.name, rule.severity) for detector in DETECTORS.values() for rule in detector.defaults}
    assert wanted | {("Expression", "Warning")} <= score.found()
    assert [one for one in score.verdicts if one.missing or one.extra] == []
