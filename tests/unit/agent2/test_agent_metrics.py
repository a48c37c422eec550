"""What the agent and the sysctl writer show to Prometheus."""

import urllib.request

import pytest
from msgspec.structs import replace

import exposition
from agent_builders import facts, pod
from exposition import scraped
from sockethealth_agent.metrics import Metrics
from sockethealth_agent.procfs import NetCounters
from sockethealth_agent.sampler import Observation, Sweep
from sockethealth_agent.sysctls.metrics import WriterMetrics
from sockethealth_agent.web import WebServer
from sockethealth_core import metrics as table
from sockethealth_core.detectors import DETECTORS
from sockethealth_core.metrics import of_pods
from sockethealth_core.resources import (
    AgeCount,
    CloseWait,
    Conntrack,
    Destination,
    EphemeralPorts,
    Listener,
    NodeFacts,
    Orphans,
    Rates,
    Sockets,
    Source,
    SysctlProfileReport,
    TcpMemory,
    TimeWait,
)

COUNTERS = NetCounters(
    tcp={"ActiveOpens": 11, "PassiveOpens": 12, "AttemptFails": 13, "OutSegs": 14, "RetransSegs": 15, "InSegs": 99},
    tcp_ext={"TCPSynRetrans": 16, "ListenOverflows": 17, "ListenDrops": 18, "TCPTimeWaitOverflow": 19},
)
COUNTED = {
    table.POD_ACTIVE_OPENS: 11,
    table.POD_PASSIVE_OPENS: 12,
    table.POD_ATTEMPT_FAILS: 13,
    table.POD_SEGMENTS_SENT: 14,
    table.POD_SEGMENTS_RETRANSMITTED: 15,
    table.POD_SYN_SEGMENTS_RETRANSMITTED: 16,
    table.POD_LISTEN_OVERFLOWS: 17,
    table.POD_LISTEN_DROPS: 18,
    table.POD_TIME_WAIT_OVERFLOWS: 19,
}
NODE_FACTS = NodeFacts(
    pods=3,
    pods_failed=1,
    sockets=Sockets(established=40, time_wait=7),
    host_sockets=Sockets(established=4, listen=2),
    tcp_memory=TcpMemory(pages=45, low=50, pressure=90, high=120),
    orphans=Orphans(count=2, maximum=65536),
    conntrack=Conntrack(entries=30, maximum=120),
)


def busy():
    """Facts in which every series has something to say."""
    destinations = [
        Destination(
            address="10.96.0.10", port=443, used=700, used_percent=70.0, time_wait=30, seconds_to_exhaustion=90.0
        ),
        Destination(
            address="fd00::1", port=5432, used=100, used_percent=10.0, time_wait=95, seconds_to_exhaustion=45.5
        ),
    ]
    return replace(
        facts(),
        sockets=Sockets(established=5, close_wait=9, time_wait=125, syn_recv=8, listen=2),
        time_wait=TimeWait(
            inbound=25,
            outbound=100,
            closes_per_second=3.5,
            sources=[
                Source(address="10.0.0.7", closes_per_second=1.5),
                Source(address="10.0.0.8", closes_per_second=2.5),
            ],
        ),
        close_wait=CloseWait(
            oldest_seconds=310.5,
            ages=[AgeCount(older_than_seconds=60, count=8), AgeCount(older_than_seconds=300, count=2)],
        ),
        ephemeral_ports=EphemeralPorts(low=1, high=1000, usable=1000, destinations=destinations),
        listeners=[
            Listener(address="::", port=80, queue=3, backlog=4, syn_recv=8, syn_backlog=32),
            Listener(address="::", port=81, queue=1, backlog=128, syn_recv=10, syn_backlog=16),
        ],
    )


def swept(*observed, failed=(), node=NODE_FACTS, counters=COUNTERS):
    """A sweep that read these pods, each (pod, facts) or (pod, facts, its counters)."""
    return Sweep(
        pods={one.uid: Observation(one, found, True, *rest) for one, found, *rest in observed},
        failed=dict.fromkeys(failed, "it could not be read"),
        node=node,
        dumps=2,
        seconds=0.02,
        host_counters=counters,
    )


def agent(sweep, **options):
    metrics = Metrics("node-a", "1.2.3", wall_clock=lambda: 1_800_000_000.0, **options)
    metrics.swept(sweep)
    return metrics


@pytest.fixture
def shown():
    metrics = agent(swept((pod(), busy(), COUNTERS)), destinations=True)
    metrics.wrote("first")
    metrics.wrote("crossed CloseWaitLeak 50")
    metrics.suppressed(4)
    metrics.api_error(503)
    return scraped(metrics.registry)


def test_it_shows_every_series_of_the_table_and_nothing_else(shown):
    exposition.assert_as_in_the_table(shown, "agent")


def test_promtool_has_nothing_to_say(shown):
    exposition.lint(shown)


def test_a_pods_values_are_those_of_its_facts(shown):
    named = {"namespace": "shop", "pod": "web-1", "node": "node-a"}
    found = busy()
    for state, count in (("established", 5), ("closeWait", 9), ("timeWait", 125), ("synRecv", 8), ("finWait2", 0)):
        assert shown.value(table.POD_SOCKETS, state=state, **named) == count
    assert shown.samples(table.POD_TIME_WAIT) == {("inbound",): 25, ("outbound",): 100}
    assert shown.samples(table.POD_CLOSE_WAIT_AGED) == {("60",): 8, ("300",): 2}
    assert shown.value(table.POD_CLOSE_WAIT_OLDEST, **named) == 310.5
    assert shown.value(table.POD_CLOSES, **named) == 3.5
    assert shown.value(table.POD_PORTS_EXHAUSTION, **named) == 45.5
    assert shown.value(table.POD_LISTEN_QUEUE, **named) == 3 / 4
    compared = {
        table.POD_PORTS_USED: ("EphemeralPortExhaustion", 100),
        table.POD_WORST_DESTINATION: ("OutboundTimeWait", 1),
        table.POD_WORST_SOURCE: ("SingleSourceChurn", 1),
        table.POD_SYN_BACKLOG: ("SynBacklogPressure", 100),
    }
    for series, (detector, factor) in compared.items():
        reading = DETECTORS[detector].measure(found, {})
        assert reading.value > 0
        assert shown.value(series, **named) * factor == pytest.approx(reading.value), series.name


def test_counters_are_the_kernels_own(shown):
    for series, count in COUNTED.items():
        assert shown.value(series, pod="web-1") == count
        host = next(one for one in table.SERIES if one.name == series.name.replace("_pod_", "_node_host_"))
        assert shown.samples(host) == {(): count}


def test_destinations_are_named_as_in_a_url_and_only_with_their_switch(shown):
    assert shown.samples(table.POD_DESTINATION_PORTS) == {("10.96.0.10:443",): 700, ("[fd00::1]:5432",): 100}
    assert shown.samples(table.POD_DESTINATION_TIME_WAIT) == {("10.96.0.10:443",): 30, ("[fd00::1]:5432",): 95}
    without = scraped(agent(swept((pod(), busy(), COUNTERS))).registry)
    assert "10.96.0.10" not in without.text
    assert not {one.name for one in of_pods() if one.switch} & without.families.keys()


def test_the_nodes_values(shown):
    assert shown.value(table.NODE_SOCKETS, state="established") == 40
    assert shown.value(table.NODE_HOST_SOCKETS, state="listen") == 2
    assert shown.value(table.NODE_TCP_MEMORY_USED) == 0.5
    assert shown.value(table.NODE_CONNTRACK_USED) == 0.25
    assert shown.value(table.NODE_ORPHANS_LIMIT) == 65536
    assert shown.value(table.AGENT_PODS_FAILED) == 1


def test_what_a_kernel_does_not_have_is_absent_and_not_zero():
    shown = scraped(agent(swept(node=NodeFacts(), counters=None)).registry)
    for series in (table.NODE_TCP_MEMORY, table.NODE_CONNTRACK_USED, table.NODE_ORPHANS, table.HOST_LISTEN_DROPS):
        assert shown.samples(series) == {}


def test_the_agents_own_health(shown):
    assert shown.samples(table.AGENT_WRITES) == {("first",): 1, ("crossed",): 1}
    assert shown.samples(table.AGENT_API_ERRORS) == {("503",): 1}
    assert shown.value(table.AGENT_SUPPRESSED) == 4
    assert shown.value(table.AGENT_DUMPS) == 2
    assert shown.value(table.AGENT_LAST_SWEEP) == shown.value(table.AGENT_LAST_REPORT) == 1_800_000_000.0
    assert shown.samples(table.AGENT_BUILD) == {("1.2.3",): 1}


def test_before_the_first_sweep_nothing_is_said_of_pods_or_node():
    shown = scraped(Metrics("node-a", "1").registry)
    assert not [name for name in shown.families if name.startswith(("sockethealth_pod", "sockethealth_node"))]
    assert shown.samples(table.AGENT_LAST_SWEEP) == {}


def pods_in(shown):
    return {
        sample.labels["pod"]
        for family in shown.families.values()
        for sample in family.samples
        if "pod" in sample.labels
    }


def test_a_pod_has_series_while_it_holds_a_socket_or_its_counters_move():
    idle, moving, open_ = (pod(name, uid=name) for name in ("idle", "moving", "open"))
    shown = scraped(
        agent(
            swept(
                (idle, facts(), COUNTERS),
                (moving, facts(rates=Rates(listen_overflows=0.5)), COUNTERS),
                (open_, facts(sockets=Sockets(listen=1)), COUNTERS),
            )
        ).registry
    )
    assert pods_in(shown) == {"moving", "open"}


def test_a_pod_that_could_not_be_read_is_left_out():
    gone, there = pod("gone", uid="g"), pod("there", uid="t")
    sweep = swept((gone, facts(established=1)), (there, facts(established=1)), failed=["g"])
    assert pods_in(scraped(agent(sweep).registry)) == {"there"}


def test_series_vanish_with_their_pod():
    one, other = pod("one", uid="1"), pod("other", uid="2")
    metrics = agent(swept((one, busy(), COUNTERS), (other, busy(), COUNTERS)), destinations=True)
    assert pods_in(scraped(metrics.registry)) == {"one", "other"}
    metrics.swept(swept((other, busy(), COUNTERS)))
    assert pods_in(scraped(metrics.registry)) == {"other"}


def test_a_pod_of_the_host_network_has_no_counters_of_its_own():
    shown = scraped(agent(swept((pod(host_network=True), facts(established=3)))).registry)
    assert shown.value(table.POD_SOCKETS, state="established") == 3
    for series in COUNTED:
        assert shown.samples(series) == {}


def worst_case():
    """Facts with as many ages and destinations as there can be."""
    destinations = [Destination(address="10.0.0.1", port=port, used=1, seconds_to_exhaustion=1.0) for port in range(5)]
    ages = [AgeCount(older_than_seconds=60 + age, count=1) for age in range(16)]
    return replace(
        facts(),
        sockets=Sockets(listen=1),
        close_wait=CloseWait(ages=ages),
        ephemeral_ports=EphemeralPorts(destinations=destinations),
    )


@pytest.mark.parametrize("destinations", [False, True])
def test_a_pod_brings_at_most_what_the_table_says(destinations):
    pods = 20
    observed = [(pod(f"web-{number}", uid=str(number)), worst_case(), COUNTERS) for number in range(pods)]
    shown = scraped(agent(swept(*observed), destinations=destinations).registry)
    bound = sum(series.most for series in of_pods() if destinations or not series.switch)
    brought = [s for family in shown.families.values() for s in family.samples if "pod" in s.labels]
    assert len(brought) == pods * bound
    fixed = sum(len(family.samples) for family in shown.families.values()) - len(brought)
    assert fixed < 80


def test_two_pods_of_one_name_are_one_series():
    shown = scraped(
        agent(swept((pod(uid="old"), facts(established=1)), (pod(uid="new"), facts(established=2)))).registry
    )
    assert shown.value(table.POD_SOCKETS, state="established", pod="web-1") == 2


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", 'x"} 1\nsockethealth_pod_sockets{pod="forged', "päd-☃"])
def test_hostile_names_stay_values(name):
    shown = scraped(agent(swept((pod(name, namespace=name), facts(established=1), COUNTERS))).registry)
    assert pods_in(shown) == {name}
    assert shown.value(table.POD_SOCKETS, state="established", namespace=name, pod=name) == 1


@pytest.mark.parametrize("name", ["tuned", 'a"b\\c\nd'])
def test_the_writer_shows_every_series_of_the_table_and_nothing_else(name):
    metrics = WriterMetrics("node-a", "1.2.3", wall_clock=lambda: 5.0)
    metrics.wrote("applied")
    metrics.api_error(0)
    metrics.passed()
    metrics.stands([SysctlProfileReport(profile=name, revision="r", state="Drifted")])
    shown = scraped(metrics.registry)
    exposition.assert_as_in_the_table(shown, "sysctl writer")
    exposition.lint(shown)
    states = shown.samples(table.PROFILE_STATE)
    assert [state for (_, state), value in states.items() if value] == ["Drifted"]
    assert {profile for profile, _ in states} == {name}
    assert shown.samples(table.SYSCTL_WRITES)["applied",] == 1
    assert shown.samples(table.WRITER_LAST_PASS) == {(): 5.0}
    metrics.stands([])
    assert scraped(metrics.registry).samples(table.PROFILE_STATE) == {}


def test_a_scrape_that_asks_for_openmetrics_gets_it():
    web = WebServer("127.0.0.1", 0, agent(swept((pod(), busy(), COUNTERS))).registry, {})
    web.start()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answers = {}
        for accept in ("application/openmetrics-text; version=1.0.0", "text/plain"):
            request = urllib.request.Request(f"http://127.0.0.1:{web.port}/metrics", headers={"Accept": accept})
            with direct.open(request, timeout=5) as answer:
                answers[answer.headers["Content-Type"].partition(";")[0]] = answer.read().decode()
    finally:
        web.stop()
    assert answers["application/openmetrics-text"].endswith("# EOF\n")
    assert "# UNIT sockethealth_pod_ephemeral_ports_used_ratio ratio" in answers["application/openmetrics-text"]
    assert "# EOF" not in answers["text/plain"]
