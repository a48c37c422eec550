"""Policies over facts in virtual time: `for`, clear thresholds, restarts, clock steps, silent agents."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_core.detectors import Subject
from sockethealth_core.engine import Evaluation, evaluate, snapshot, transitions
from sockethealth_core.policy import compile_policy
from sockethealth_core.resources import (
    AgeCount,
    CloseWait,
    ClusterSocketHealthPolicy,
    ClusterSocketHealthPolicySpec,
    Destination,
    EphemeralPorts,
    Facts,
    Judgement,
    ObjectMeta,
    PolicyRule,
    Sockets,
    decode,
    encode,
)

SUBJECT = Subject("pod", "web-1", "shop")
START = 1_800_000_000.0


def leak(count: int) -> Facts:
    """Facts of a pod with `count` CLOSE_WAIT sockets older than a minute."""
    return Facts(
        sockets=Sockets(close_wait=count),
        close_wait=CloseWait(oldest_seconds=90, ages=[AgeCount(older_than_seconds=60, count=count)]),
    )


def ports(percent: float) -> Facts:
    """Facts of a pod that uses `percent` of its ports to one destination."""
    used = round(28232 * percent / 100)
    destination = Destination(address="10.96.0.12", port=6379, used=used, used_percent=percent, time_wait=used)
    return Facts(ephemeral_ports=EphemeralPorts(destinations=[destination]))


def policy(*rules: PolicyRule, name: str = "p", mode: str = "Enforce"):
    return compile_policy(
        ClusterSocketHealthPolicy(
            metadata=ObjectMeta(name=name), spec=ClusterSocketHealthPolicySpec(rules=list(rules), mode=mode)
        )
    )


def leak_rule(**changes) -> PolicyRule:
    settings = {
        "name": "leak",
        "detector": "CloseWaitLeak",
        "threshold": 50,
        "clear_threshold": 10,
        "for_": "2m",
        "clear_after": "1m",
    }
    return PolicyRule(**(settings | changes))


@dataclass
class Pod:
    """One pod under the engine: keeps what the API server would keep, and the virtual clock."""

    policies: list
    now: float = START
    judgement: Judgement = field(default_factory=Judgement)
    log: list[str] = field(default_factory=list)
    next_due: float | None = None

    def see(self, facts: Facts, after: float = 0.0, *, stale: bool = False) -> Evaluation:
        self.now += after
        rules = [rule for policy in self.policies for rule in policy.rules]
        result = evaluate(SUBJECT, facts, rules, self.judgement, self.now, stale=stale)
        self.log += [
            f"{t.change} {t.finding.type}" for t in transitions(self.judgement.findings, result.judgement.findings)
        ]
        self.judgement = result.judgement
        self.next_due = result.next_due
        return result

    def restart(self) -> None:
        """All that survives is what was written to the status."""
        self.judgement = decode(Judgement, encode(self.judgement))


def test_a_rule_raises_only_after_its_for():
    pod = Pod([policy(leak_rule())])
    pod.see(leak(200))
    assert pod.judgement.findings == []
    assert pod.next_due == START + 120
    pod.see(leak(200), after=119)
    assert pod.log == []
    pod.see(leak(200), after=1)
    assert pod.log == ["Raised CloseWaitLeak"]
    assert pod.judgement.health == "Warning"
    assert pod.judgement.findings[0].value == 200


def test_a_dip_below_the_threshold_starts_for_anew():
    pod = Pod([policy(leak_rule())])
    pod.see(leak(200))
    pod.see(leak(49), after=60)
    pod.see(leak(200), after=1)
    pod.see(leak(200), after=119)
    assert pod.log == []
    pod.see(leak(200), after=1)
    assert pod.log == ["Raised CloseWaitLeak"]


def test_between_the_thresholds_an_active_finding_stays_and_an_idle_rule_stays_idle():
    pod = Pod([policy(leak_rule(for_="0s"))])
    pod.see(leak(30))
    assert pod.log == []
    pod.see(leak(50), after=1)
    pod.see(leak(30), after=600)
    assert pod.log == ["Raised CloseWaitLeak"]


def test_clearing_needs_clear_after_without_interruption():
    pod = Pod([policy(leak_rule(for_="0s"))])
    pod.see(leak(200))
    pod.see(leak(9), after=10)
    assert pod.next_due == pod.now + 60
    pod.see(leak(10), after=30)
    pod.see(leak(9), after=1)
    pod.see(leak(9), after=59)
    assert pod.log == ["Raised CloseWaitLeak"]
    pod.see(leak(9), after=1)
    assert pod.log == ["Raised CloseWaitLeak", "Cleared CloseWaitLeak"]
    assert pod.judgement.health == "Healthy"


def test_while_it_clears_a_finding_says_what_it_was():
    pod = Pod([policy(leak_rule(for_="0s"))])
    pod.see(leak(200))
    raised = pod.judgement.findings
    pod.see(leak(0), after=10)
    assert pod.judgement.evaluation[0].state == "Clearing"
    assert pod.judgement.findings == raised


def test_flapping_at_the_threshold_neither_raises_nor_clears():
    pod = Pod([policy(leak_rule(for_="30s"))])
    for _ in range(20):
        pod.see(leak(50), after=10)
        pod.see(leak(49), after=10)
    assert pod.log == []
    pod.see(leak(60), after=10)
    pod.see(leak(60), after=30)
    for _ in range(20):
        pod.see(leak(9), after=10)
        pod.see(leak(12), after=10)
    assert pod.log == ["Raised CloseWaitLeak"]


def test_a_restart_in_the_middle_of_for_and_of_clear_after_loses_nothing():
    pod = Pod([policy(leak_rule())])
    pod.see(leak(200))
    pod.now += 60
    pod.restart()
    pod.see(leak(200))
    assert pod.next_due == START + 120
    pod.see(leak(200), after=60)
    assert pod.log == ["Raised CloseWaitLeak"]
    pod.restart()
    pod.see(leak(200), after=5)
    pod.see(leak(0), after=5)
    pod.restart()
    pod.see(leak(0), after=59)
    assert pod.log == ["Raised CloseWaitLeak"]
    pod.see(leak(0), after=1)
    assert pod.log == ["Raised CloseWaitLeak", "Cleared CloseWaitLeak"]


def test_since_stays_while_the_value_moves():
    pod = Pod([policy(leak_rule(for_="0s"))])
    pod.see(leak(200))
    since = pod.judgement.findings[0].since
    pod.see(leak(300), after=500)
    assert pod.judgement.findings[0].since == since
    assert pod.judgement.findings[0].value == 300


def test_a_clock_set_back_delays_for_and_does_not_lose_it():
    pod = Pod([policy(leak_rule())])
    pod.see(leak(200))
    pod.see(leak(200), after=-3600)
    assert pod.next_due == START - 3600 + 120
    pod.see(leak(200), after=120)
    assert pod.log == ["Raised CloseWaitLeak"]


def test_a_silent_agent_neither_raises_nor_clears_and_health_is_unknown():
    pod = Pod([policy(leak_rule(), leak_rule(name="now", threshold=100, for_="0s", severity="Critical"))])
    pod.see(leak(200))
    assert pod.log == ["Raised CloseWaitLeak"]
    pod.see(leak(200), after=600, stale=True)
    assert pod.judgement.health == "Unknown"
    assert [finding.rule for finding in pod.judgement.findings] == ["now"]
    assert pod.next_due is None
    pod.see(leak(0), after=600, stale=True)
    assert pod.log == ["Raised CloseWaitLeak"]


def test_the_critical_rule_hides_the_warning_of_the_same_detector_until_it_eases():
    warning = PolicyRule(
        name="w", detector="EphemeralPortExhaustion", threshold=50, clear_threshold=40, for_="2m", clear_after="1m"
    )
    critical = PolicyRule(
        name="c",
        detector="EphemeralPortExhaustion",
        threshold=80,
        clear_threshold=70,
        for_="30s",
        clear_after="1m",
        severity="Critical",
    )
    pod = Pod([policy(warning, critical)])
    pod.see(ports(85))
    pod.see(ports(85), after=30)
    pod.see(ports(85), after=90)
    assert pod.log == ["Raised EphemeralPortExhaustion"]
    assert [(f.rule, f.severity) for f in pod.judgement.findings] == [("c", "Critical")]
    pod.see(ports(60), after=10)
    pod.see(ports(60), after=60)
    assert pod.log[1:] == ["Eased EphemeralPortExhaustion"]
    pod.see(ports(85), after=10)
    pod.see(ports(85), after=30)
    assert pod.log[2:] == ["Escalated EphemeralPortExhaustion"]


def test_two_policies_over_one_pod_each_have_their_finding():
    pod = Pod([policy(leak_rule(for_="0s"), name="a"), policy(leak_rule(for_="0s", threshold=100), name="b")])
    pod.see(leak(70))
    assert [finding.policy for finding in pod.judgement.findings] == ["a"]
    pod.see(leak(170), after=1)
    assert sorted(finding.policy for finding in pod.judgement.findings) == ["a", "b"]


def test_a_policy_deleted_while_its_finding_is_active_clears_it_at_once():
    pod = Pod([policy(leak_rule(for_="0s"))])
    pod.see(leak(200))
    pod.policies = []
    pod.see(leak(200), after=1)
    assert pod.log == ["Raised CloseWaitLeak", "Cleared CloseWaitLeak"]
    assert pod.judgement.evaluation == []


def test_ports_that_are_all_given_back_clear_the_finding():
    rule = PolicyRule(
        name="w",
        detector="EphemeralPortExhaustion",
        threshold=50,
        clear_threshold=40,
        for_="0s",
        clear_after="0s",
    )
    pod = Pod([policy(rule)])
    pod.see(ports(60))
    pod.see(Facts(), after=10)
    assert pod.log == ["Raised EphemeralPortExhaustion", "Cleared EphemeralPortExhaustion"]


def test_info_leaves_health_healthy():
    pod = Pod([policy(leak_rule(for_="0s", severity="Info"))])
    pod.see(leak(200))
    assert [finding.severity for finding in pod.judgement.findings] == ["Info"]
    assert pod.judgement.health == "Healthy"


def test_a_snapshot_needs_no_for():
    judgement = snapshot(SUBJECT, leak(200), policy(leak_rule(for_="10m")).rules, START)
    assert [finding.type for finding in judgement.findings] == ["CloseWaitLeak"]


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 300), st.booleans()), max_size=40), st.data())
def test_restarting_at_any_moment_changes_nothing(steps, data):
    steady, restarted = (Pod([policy(leak_rule())]) for _ in range(2))
    for count, after, stale in steps:
        whole = float(round(after))  # what is stored has whole seconds
        steady.see(leak(count), after=whole, stale=stale)
        if data.draw(st.booleans()):
            restarted.restart()
        restarted.see(leak(count), after=whole, stale=stale)
    assert restarted.log == steady.log
    assert restarted.judgement == steady.judgement


@pytest.mark.parametrize("gap", [0, 1, 1_000_000])
def test_a_finding_that_was_never_below_the_clear_threshold_never_clears(gap):
    pod = Pod([policy(leak_rule(for_="0s"))])
    for _ in range(10):
        pod.see(leak(10 if pod.log else 50), after=gap)
    assert pod.log == ["Raised CloseWaitLeak"]
