"""What a person reads: it names the pod, the number, the limit, the other party, and one next step."""

import pytest

from sockethealth_core.detectors import DETECTORS, Reading, Subject
from sockethealth_core.resources import (
    AgeCount,
    CloseWait,
    Conntrack,
    Destination,
    EphemeralPorts,
    Facts,
    NodeFacts,
    Owner,
    Peer,
    Sockets,
    Target,
    TcpMemory,
    TimeWait,
)

POD = Subject("pod", "web-1", "shop")

BUSY = Facts(
    sockets=Sockets(close_wait=200, time_wait=24300, established=2),
    time_wait=TimeWait(inbound=1500, outbound=24000, closes_per_second=400),
    close_wait=CloseWait(
        oldest_seconds=190,
        receive_queue_bytes=4096,
        ages=[AgeCount(older_than_seconds=60, count=180)],
        owners=[Owner(container="app", process="java", pid=4711, count=200)],
        peers=[Peer(address="10.0.0.9", port=5432, count=200)],
    ),
    ephemeral_ports=EphemeralPorts(
        destinations=[
            Destination(
                address="10.96.0.12",
                port=6379,
                used=24010,
                used_percent=85.0,
                time_wait=24000,
                closes_per_second=450,
                seconds_to_exhaustion=42,
            )
        ]
    ),
)


NODE = NodeFacts(
    tcp_memory=TcpMemory(pages=9000, low=5000, pressure=10000, high=15000),
    conntrack=Conntrack(entries=60000, maximum=65536, insert_failed_per_second=3),
)
PARAMETERS = {"Expression": {"expression": "status.sockets.closeWait > 100"}}


def told(name: str, service: str = "") -> str:
    detector = DETECTORS[name]
    facts = NODE if detector.scope == "node" else BUSY
    reading = detector.measure(facts, PARAMETERS.get(name, detector.parameters))
    assert reading is not None
    if service and reading.target is not None:
        target = Target(address=reading.target.address, port=reading.target.port, name=service)
        reading = Reading(reading.value, target, reading.evidence)
    advice = detector.advise(POD, facts, reading)
    return f"{advice.message}\n{advice.remedy}"


def test_port_exhaustion_names_service_percentage_and_seconds():
    text = told("EphemeralPortExhaustion", "Service shop/redis")
    for part in (
        "shop/web-1",
        "Service shop/redis (10.96.0.12:6379)",
        "85%",
        "24,010",
        "28,232",
        "42s",
        "pool of about 15",
    ):
        assert part in text, f"{part!r} is missing in: {text}"


def test_a_leak_names_process_container_peer_age_and_that_no_sysctl_helps():
    text = told("CloseWaitLeak")
    for part in ("shop/web-1", "180", "java (pid 4711)", "container app", "10.0.0.9:5432", "3m10s", "no sysctl"):
        assert part in text, f"{part!r} is missing in: {text}"


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_no_message_gives_the_advice_the_field_repeats_and_that_is_wrong(name):
    text = told(name)
    assert "tcp_tw_recycle" not in text
    if "tcp_fin_timeout" in text and name != "FinWait2Buildup":
        assert "tcp_fin_timeout does not shorten TIME_WAIT" in text
    assert "SO_REUSE" not in text


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_an_empty_namespace_is_below_every_default_threshold(name):
    detector = DETECTORS[name]
    empty = NodeFacts(tcp_memory=TcpMemory(pressure=100), conntrack=Conntrack(maximum=100))
    facts = empty if detector.scope == "node" else Facts()
    reading = detector.measure(facts, PARAMETERS.get(name, detector.parameters))
    assert reading is not None
    assert all(reading.value < rule.clear_threshold for rule in detector.defaults)


def test_close_wait_younger_than_min_age_does_not_count():
    young = Facts(
        sockets=Sockets(close_wait=500), close_wait=CloseWait(ages=[AgeCount(older_than_seconds=60, count=3)])
    )
    reading = DETECTORS["CloseWaitLeak"].measure(young, {"minAge": "60s"})
    assert reading is not None
    assert reading.value == 3
