"""What each detector compares: the value in its unit, and where the facts do not tell."""

import pytest

from sockethealth_core.detectors import DETECTORS, MeasureError
from sockethealth_core.detectors.expression import check
from sockethealth_core.policy import PolicyError, read_policy
from sockethealth_core.resources import (
    Conntrack,
    Destination,
    DetectorName,
    EphemeralPorts,
    Facts,
    Listener,
    NodeFacts,
    Rates,
    Sockets,
    Source,
    TcpMemory,
    TimeWait,
)


def value(name, facts, **parameters):
    reading = DETECTORS[name].measure(facts, DETECTORS[name].parameters | parameters)
    return None if reading is None else reading.value


def test_the_schema_and_the_code_know_the_same_detectors():
    assert set(DetectorName.__args__) == set(DETECTORS)


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=lambda detector: detector.name)
def test_a_detector_does_not_read_the_other_kind_of_facts(detector):
    other = Facts() if detector.scope == "node" else NodeFacts()
    assert detector.measure(other, detector.parameters) is None


def test_retransmissions_are_a_share_of_all_segments_and_silent_below_ten_a_second():
    assert value("RetransmissionStorm", Facts(rates=Rates(segments_out=95, retransmits=5))) == 5
    assert value("RetransmissionStorm", Facts(rates=Rates(segments_out=4, retransmits=5))) == 0


@pytest.mark.parametrize(
    ("half_open", "connecting", "percent"),
    [(100, 0, 5), (0, 100, 50), (50, 50, 34.5), (0, 0, 50)],
    ids=["flooded server", "client of a dead address", "both", "all answered meanwhile"],
)
def test_unanswered_syn_acks_are_no_loss_of_the_path_and_unanswered_syns_are(half_open, connecting, percent):
    sockets = Sockets(syn_recv=half_open, syn_sent=connecting)
    rates = Rates(segments_out=95, retransmits=95, syn_retransmits=90)
    assert value("RetransmissionStorm", Facts(sockets=sockets, rates=rates)) == pytest.approx(percent, abs=0.05)


def test_half_open_connections_are_held_against_the_listener_with_least_room():
    listeners = [
        Listener(address="::", port=80, backlog=128, syn_recv=64, syn_backlog=128),
        Listener(address="::", port=81, backlog=4096, syn_recv=200, syn_backlog=1024),
    ]
    reading = DETECTORS["SynBacklogPressure"].measure(Facts(listeners=listeners), {})
    assert (reading.value, reading.target.port) == (50, 80)


def test_the_source_with_most_closes_counts():
    sources = [Source(address="10.0.0.1", closes_per_second=20), Source(address="10.0.0.2", closes_per_second=150)]
    reading = DETECTORS["SingleSourceChurn"].measure(Facts(time_wait=TimeWait(inbound=9, sources=sources)), {})
    assert (reading.value, reading.target.address) == (150, "10.0.0.2")


@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        ("FinWait2Buildup", Facts(sockets=Sockets(fin_wait2=7)), 7),
        ("AcceptQueueOverflow", Facts(rates=Rates(listen_overflows=0.5)), 0.5),
        ("TimeWaitTableOverflow", Facts(rates=Rates(time_wait_overflows=2)), 2),
        ("TcpMemoryPressure", NodeFacts(tcp_memory=TcpMemory(pages=95, pressure=100)), 95),
        ("ConntrackPressure", NodeFacts(conntrack=Conntrack(entries=85, maximum=100)), 85),
        ("ConntrackPressure", NodeFacts(), None),
        ("TcpMemoryPressure", NodeFacts(tcp_memory=TcpMemory(pages=9, pressure=0)), None),
    ],
)
def test_values(name, facts, expected):
    assert value(name, facts) == expected


def test_many_time_wait_spread_over_many_destinations_is_no_harm():
    spread = [Destination(address=f"10.0.0.{n}", port=80, used=4, time_wait=4) for n in range(5)]
    facts = Facts(time_wait=TimeWait(outbound=20000), ephemeral_ports=EphemeralPorts(destinations=spread))
    assert value("OutboundTimeWait", facts) == 4


def sysctls(**named):
    return {f"net.ipv4.{name}": text for name, text in named.items()}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (Facts(sysctls=sysctls(tcp_tw_recycle="1")), "behind NAT"),
        (Facts(sysctls=sysctls(tcp_timestamps="0", tcp_tw_reuse="1")), "needs timestamps"),
        (Facts(sysctls=sysctls(tcp_syncookies="0")), "SYN flood"),
        (Facts(sysctls=sysctls(tcp_max_tw_buckets="100")), "lose their protection"),
        (Facts(ephemeral_ports=EphemeralPorts(low=60000, high=50000)), "inverted"),
        (Facts(ephemeral_ports=EphemeralPorts(low=60000, high=60299)), "leaves 300 ports, for 5 connections/s"),
        (Facts(ephemeral_ports=EphemeralPorts(low=10240, high=65000, listening=2)), "2 listening ports in 10240-65000"),
    ],
)
def test_each_unsafe_setting_is_named_with_what_to_write(facts, words):
    reading = DETECTORS["UnsafeSysctl"].measure(facts, {})
    assert reading.value == 1
    assert words in " ".join(reading.evidence.values())


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts(sysctls=sysctls(tcp_timestamps="0")),
        Facts(sysctls=sysctls(tcp_tw_reuse="1")),
        Facts(ephemeral_ports=EphemeralPorts(listening=1)),
        Facts(ephemeral_ports=EphemeralPorts(low=10240, high=65000)),
    ],
)
def test_a_setting_that_is_only_unusual_is_no_finding(facts):
    assert value("UnsafeSysctl", facts) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs parameters.expression"),
        ("status.sockets.synSent >", "is not CEL"),
        ("stats.sockets.synSent > 1", "does not exist"),
        ("now() > 1", "does not exist"),
        ("x" * 1025, "has 1025 characters"),
        ("status.listeners.all(a, status.listeners.all(b, status.listeners.all(c, true)))", "more than 2 deep"),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused_with_the_reason(text, words):
    (fault,) = check({"expression": text})
    assert words in fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status.sockets.synSent > 100", 1),
        ("status.sockets.synSent > 1000", 0),
        ("status.timeWait.closesPerSecond > 2 && status.sockets.established == 0", 1),
        ("status.listeners.exists(one, one.queue > one.backlog)", 0),
        ("'net.ipv4.tcp_tw_reuse' in status.sysctls", 0),
    ],
)
def test_an_expression_over_the_facts(text, expected):
    facts = Facts(sockets=Sockets(syn_sent=200), time_wait=TimeWait(closes_per_second=2.5))
    assert check({"expression": text}) == []
    assert value("Expression", facts, expression=text) == expected


@pytest.mark.parametrize(
    "text", ["status.closeWait.owners[0].count > 1", "status.sockets.synSent", "status.nothing > 1"]
)
def test_an_expression_that_fails_on_these_facts_says_so(text):
    with pytest.raises(MeasureError) as failed:
        value("Expression", Facts(), expression=text)
    assert text in str(failed.value)


def test_a_policy_with_a_broken_expression_is_refused_with_the_rule_named():
    rule = {"name": "mine", "detector": "Expression", "parameters": {"expression": "status.sockets."}}
    with pytest.raises(PolicyError, match="rule 'mine': parameter expression is not CEL"):
        read_policy({"kind": "ClusterSocketHealthPolicy", "metadata": {"name": "p"}, "spec": {"rules": [rule]}})
