"""Faults of the API server and of its etcd, met by an agent and an operator as processes, with real sockets.

In most, one pod begins to leak and those before it are healed while the operator alone meets the fault, so that it is
the operator that has to make up for it; then one more begins to leak while the agent meets it too. Afterwards people
must be told all of it, once. Faults that last for minutes are begun before the others, on pairs of their own, and are
over before those that every pair meets: what each logs is of its own fault alone.
"""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from faulty_api import CONFLICT, TOO_MANY, every_request, every_write, nothing
from harness import packages
from harness.errors import HarnessError
from harness.images import REPOSITORY
from harness.plugin import skip_or_fail
from harness.waiting import until
from sockethealth_core.units import parse_time

pytestmark = [pytest.mark.api, pytest.mark.kernel, pytest.mark.timeout(420)]

TWO_SWEEPS_SECONDS = 20
"""What is promised, of an agent as it is installed. Here it sweeps each second, so what is seen is the fault's part."""
BUSY = 2
"""So much longer may it take on a machine that does other things."""
AGENT_LINES, OPERATOR_LINES = 8, 20
"""What each may log about one fault, however long it lasts and however many objects it meets."""
FAULT_SECONDS = 12
OUTAGE_SECONDS = 120
SILENCE_SECONDS = 90
"""After so long without a byte, agent and operator take a watch for dead; kopf after 70 s."""
SLOW_SECONDS = 5.0
HOUR_SECONDS = 3600
MANY_PODS = 13


@dataclass
class Fault:
    """One that was begun, and what was logged before it."""

    pair: Any
    lines: tuple[int, int]
    began: float
    began_at: float

    @classmethod
    def begin(cls, pair):
        return cls(pair, pair.log_lines(), time.monotonic(), time.time())

    def wait_seconds(self, seconds):
        """How long it lasts is part of the fault."""
        over = self.began + seconds
        until(lambda: time.monotonic() > over, "the end of the fault", seconds=seconds + 5, poll_seconds=0.2)

    def recover(self, record_property):
        """Seconds until people are told what there is, from here on; then nothing may be lost, doubled or noisy."""
        ended = time.monotonic()
        self.pair.wait_settled()
        seconds = time.monotonic() - ended
        record_property("recovered_seconds", round(seconds, 1))
        assert seconds < BUSY * TWO_SWEEPS_SECONDS
        self.check(record_property)

    def check(self, record_property):
        """Both processes live on, each thing was said once, and the logs stayed short."""
        self.pair.expect_nothing_lost_or_doubled()
        agent, operator = (now - before for now, before in zip(self.pair.log_lines(), self.lines, strict=True))
        record_property("log_lines", f"agent {agent}, operator {operator}")
        assert agent <= AGENT_LINES, self.pair.agent.log.read_text()
        assert operator <= OPERATOR_LINES, self.pair.operator.log_text()

    def leave_nothing_over(self):
        """All is well at last, and people are told so; then both programs end."""
        for pod in self.pair.pods:
            if pod.held:
                pod.heal()
        self.pair.wait_settled()
        self.pair.expect_nothing_lost_or_doubled()
        self.pair.stop()


@pytest.fixture(scope="module")
def away(make_pair):
    """Agent and operator for which nobody listens any more."""
    pair = make_pair("away", 4)
    pair.wait_reported()
    fault = Fault.begin(pair)
    for way in pair.ways:
        way.go_away()
    pair.move_on()
    pair.add_pod().leak()
    # Nobody tells the agent of that, nor the operator.
    pair.cluster.request("DELETE", pair.health_path(pair.pods[2]))
    return fault


@pytest.fixture(scope="module")
def silent(make_pair):
    """Agent and operator on whose watches nothing arrives any more."""
    pair = make_pair("silent", 2)
    fault = Fault.begin(pair)
    assert pair.agent_way.silence() == 2, "pods and the node's own object"
    assert pair.operator_way.silence() >= 2
    pair.move_on()
    pair.add_pod().leak()
    pair.policy("late", 1000)
    return fault


@pytest.fixture(scope="module")
def clock_file(tmp_path_factory):
    """What the clocks of the pair for brief faults are ahead by, in libfaketime's notation."""
    file = tmp_path_factory.mktemp("clock") / "ahead"
    # From the beginning, so that the clock can be set back to before no certificate is valid yet.
    set_clock(file, HOUR_SECONDS)
    return file


def set_clock(file: Path, ahead_seconds: int) -> None:
    new = file.with_suffix(".new")
    new.write_text(f"+{ahead_seconds}")
    new.rename(file)


def faketime(file: Path) -> dict[str, str]:
    """Variables by which a program has another time of day (faketime(1)); the monotonic clock stays as it is."""
    try:
        packages.ensure(("libfaketime",))
    except HarnessError as error:
        skip_or_fail(f"libfaketime is missing: {error}")
    listed = subprocess.run(["dpkg-query", "--listfiles", "libfaketime"], capture_output=True, text=True, check=True)
    (library,) = (line for line in listed.stdout.splitlines() if line.endswith("/libfaketime.so.1"))
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(file),
        # Agent and operator share a clock: neither may look at the file later than the other.
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@pytest.fixture(scope="module")
def pair(make_pair, clock_file):
    """Agent and operator for faults that are over soon."""
    return make_pair("brief", MANY_PODS, others=("away", "silent"), environment=faketime(clock_file))


@pytest.fixture(scope="module", autouse=True)
def _lasting_ones_first(request):
    """Faults that last are begun before any test, if theirs are to be run."""
    wanted = {name for item in request.session.items if item.path == request.path for name in item.fixturenames}
    for name in ("away", "silent"):
        if name in wanted:
            request.getfixturevalue(name)


def endure(pair, begin, end):
    """A fault that the operator meets first, and then the agent too; it is over for both at once."""
    fault = Fault.begin(pair)
    begin(pair.operator_way)
    pair.move_on()
    pair.wait_reported()
    begin(pair.agent_way)
    pair.next_pod().leak()
    fault.wait_seconds(FAULT_SECONDS)
    for way in pair.ways:
        end(way)
    return fault


def refuse(pair, rule):
    """All that a rule names is refused for a while; how many requests of agent and operator that met."""
    for way in pair.ways:
        way.refused.clear()
    fault = endure(pair, lambda way: setattr(way, "refuse", rule), lambda way: setattr(way, "refuse", nothing))
    return fault, *(way.refused.total() for way in pair.ways)


def test_too_many_requests_with_a_time_to_wait(pair, record_property):
    fault, agent, operator = refuse(pair, every_request(TOO_MANY))
    fault.recover(record_property)
    record_property("refused", f"agent {agent}, operator {operator}")
    # The agent asks again once in the two seconds that it is asked to wait, and then in ever longer ones.
    assert 0 < agent <= FAULT_SECONDS / TOO_MANY.retry_after_seconds
    assert operator > 0


def test_a_conflict_on_every_write(pair, record_property):
    fault, agent, operator = refuse(pair, every_write(CONFLICT))
    fault.recover(record_property)
    record_property("refused", f"agent {agent}, operator {operator}")
    assert agent > 0
    assert operator > 0


def test_an_api_server_that_takes_five_seconds_for_an_answer(pair, record_property):
    fault = Fault.begin(pair)
    try:
        for way in pair.ways:
            way.delay_seconds = SLOW_SECONDS
        pair.next_pod().leak()
        began = time.monotonic()
        pair.wait_settled()
        record_property("told_meanwhile_after_seconds", round(time.monotonic() - began, 1))
    finally:
        for way in pair.ways:
            way.delay_seconds = 0
    fault.check(record_property)


def test_a_namespace_that_is_deleted_during_writes(pair, record_property):
    cluster = pair.cluster
    pair.make_namespace("doomed")
    pair.policy("leaks", 50, "doomed")
    pods = [pair.add_pod("doomed"), pair.add_pod("doomed")]
    pods[0].leak()
    pair.wait_settled()
    for way in pair.ways:
        way.answers.clear()
    fault = Fault.begin(pair)
    # It stays as long as its pods, for whose end no kubelet vouches.
    cluster.request("DELETE", "/api/v1/namespaces/doomed")
    cluster.request("DELETE", pair.health_path(pods[1]))
    pods[1].leak()
    pods[0].heal()
    for way in pair.ways:
        until(lambda way=way: way.answers[403] > 0, "a refused creation", seconds=60, explain=pair.logs)
    for pod in pods:
        pair.pods.remove(pod)
    pair.move_on()
    fault.recover(record_property)
    for pod in pods:
        cluster.request("DELETE", f"/api/v1/namespaces/doomed/pods/{pod.name}", {"gracePeriodSeconds": 0})
    gone = "the end of the namespace"
    until(lambda: cluster.request("GET", "/api/v1/namespaces/doomed") is None, gone, seconds=60, poll_seconds=0.3)
    fault.check(record_property)


def test_a_clock_that_is_set_an_hour_forward_and_back(pair, clock_file, record_property):
    fault = Fault.begin(pair)
    set_clock(clock_file, 2 * HOUR_SECONDS)
    pair.move_on()
    pair.wait_settled()
    record_property("forward_seconds", round(time.monotonic() - fault.began, 1))
    assert {pair.health(pod)["status"]["health"] for pod in pair.pods} == {"Healthy", "Warning"}
    set_clock(clock_file, HOUR_SECONDS)
    pair.move_on()
    fault.recover(record_property)


def test_watches_that_fall_silent(silent, record_property):
    pair = silent.pair
    pair.wait_settled()
    told = max(parse_time(finding["since"]) for pod in pair.pods for finding in pair.findings(pod))
    made = parse_time(pair.health(pair.pods[2])["metadata"]["creationTimestamp"])
    record_property("agent_seconds", round(made - silent.began_at, 1))
    record_property("operator_seconds", round(told - silent.began_at, 1))
    assert made - silent.began_at < SILENCE_SECONDS + BUSY * TWO_SWEEPS_SECONDS
    assert told - silent.began_at < SILENCE_SECONDS + BUSY * TWO_SWEEPS_SECONDS
    until(lambda: "status" in pair.policy_named("late"), "kopf to hear of the policy", seconds=60, explain=pair.logs)
    silent.check(record_property)
    silent.leave_nothing_over()


def test_away_for_two_minutes_and_back_with_a_compacted_history(away, record_property):
    pair = away.pair
    away.wait_seconds(OUTAGE_SECONDS)
    pair.cluster.stop_apiserver()
    pair.cluster.compact_etcd()
    for way in pair.ways:
        way.come_back()
    pair.cluster.start_apiserver_only()
    record_property("away_seconds", round(time.monotonic() - away.began, 1))
    away.recover(record_property)
    pair.wait_reported()
    gone = [way.gone for way in pair.ways]
    record_property("gone", "agent {}, operator {}".format(*gone))
    assert min(gone) > 0, "nobody was told 410"
    away.leave_nothing_over()


def test_etcd_out_of_quota(pair, record_property):
    for way in pair.ways:
        way.answers.clear()
    fault = Fault.begin(pair)
    # The operator is held back until there is no room for what it writes.
    pair.operator_way.delay_seconds = SLOW_SECONDS
    pair.move_on()
    pair.wait_reported()
    pair.cluster.fill_etcd()
    pair.operator_way.delay_seconds = 0
    pair.next_pod().leak()
    fault.wait_seconds(FAULT_SECONDS + SLOW_SECONDS)
    pair.cluster.empty_etcd()
    fault.recover(record_property)
    refused = [way.answers[500] for way in pair.ways]
    record_property("refused", "agent {}, operator {}".format(*refused))
    assert min(refused) > 0


def test_kinds_that_are_removed_and_put_back(pair, apply_kinds, record_property):
    fault = Fault.begin(pair)
    # The reports first: without its policy a finding would clear, which is another thing than to be gone.
    pair.cluster.kubectl("delete", "crd", "sockethealths.sockethealth.io")
    deleted = time.monotonic()
    pair.cluster.kubectl("delete", "--ignore-not-found", "-f", str(REPOSITORY / "crds"))
    leaking = [pod for pod in pair.pods if pod.held]
    until(
        lambda: not any(pair.is_annotated(pod) for pod in leaking),
        "the annotations to go",
        seconds=BUSY * TWO_SWEEPS_SECONDS,
        poll_seconds=0.4,
        explain=pair.logs,
    )
    record_property("annotations_gone_after_seconds", round(time.monotonic() - deleted, 1))
    for pod in leaking:
        pod.events.update([("Deployment", "CloseWaitLeakCleared")])
    fault.wait_seconds(FAULT_SECONDS)
    apply_kinds()
    pair.policy("leaks", 50)
    for pod in leaking:
        # Found anew, as what was known of it was deleted.
        pod.events.update([("Deployment", "CloseWaitLeak"), ("Pod", "CloseWaitLeak")])
    fault.recover(record_property)
    told = [line["level"] for line in pair.operator.log_lines("sockethealth_operator.observing")]
    assert told == ["WARNING", "INFO"], "watching ends once, when the kinds go, and goes on in the same process"
    fault.leave_nothing_over()
