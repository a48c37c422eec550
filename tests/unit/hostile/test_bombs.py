"""What whoever may write a policy or a status can have the operator compute: bounded, and refused before it begins."""

import json
import resource
import subprocess
import sys

import pytest

from sockethealth_core.detectors import DETECTORS, Subject
from sockethealth_core.detectors import expression as expression_module
from sockethealth_core.detectors.expression import MAXIMUM_FACTS_BYTES, MAXIMUM_STEPS, check, steps_of
from sockethealth_core.detectors.expression_cost import STATUS_ITEMS
from sockethealth_core.engine import evaluate
from sockethealth_core.policy import PolicyError, read_policy
from sockethealth_core.resources import CloseWait, Facts, Judgement, Owner, encode

NESTED = "status.sysctls.all(a,status.sysctls.all(b,a!=b))"
LONGEST = CloseWait(owners=[Owner(process="a" * 15_000 + "!", count=n) for n in range(1)])
FULL = {f"net.k{number}": "1" for number in range(STATUS_ITEMS)}

EVALUATE = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from sockethealth_core.detectors import DETECTORS
from sockethealth_core.resources import Facts, decode
for text, facts in json.load(sys.stdin):
    reading = DETECTORS["Expression"].measure(decode(Facts, facts), {"expression": text})
    print(int(reading.value))
"""
"""A pattern that backtracks is never done, and nothing within the process could end it."""

CATASTROPHES = [
    ("status.closeWait.owners.exists(o, o.process.matches('^(a+)+$'))", 0),
    ("status.closeWait.owners.exists(o, o.process.matches('^(a|a|aa)*$'))", 0),
    ("status.closeWait.owners.exists(o, o.process.matches('^(a*)*(a*)*(a*)*!$'))", 1),
    ("status.closeWait.owners.exists(o, o.process.matches('(.*)(.*)(.*)(.*)(.*)[^!]$'))", 0),
    ("status.closeWait.owners.all(o, [1,2,3,4,5,6,7,8].all(n, o.process + o.process != ''))", 1),
]


def test_patterns_and_texts_that_would_explode_elsewhere_are_done_in_seconds_and_in_little_memory():
    for text, _ in CATASTROPHES:
        assert check({"expression": text}) == [], text
    facts = encode(Facts(close_wait=LONGEST))
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE],
        input=json.dumps([(text, facts) for text, _ in CATASTROPHES]),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.returncode} (-{resource.RLIMIT_CPU}: out of CPU) {done.stderr}"
    assert [int(line) for line in done.stdout.split()] == [expected for _, expected in CATASTROPHES]


@pytest.mark.parametrize(
    "facts",
    [
        Facts(sysctls={f"net.k{number}": "1" for number in range(STATUS_ITEMS + 1)}),
        Facts(sysctls={"net.ipv4.ip_local_reserved_ports": "1," * (MAXIMUM_FACTS_BYTES // 2)}),
        Facts(close_wait=CloseWait(owners=[Owner(process="a" * MAXIMUM_FACTS_BYTES)])),
        Facts(close_wait=CloseWait(owners=[Owner(process="a", count=n) for n in range(400)])),
    ],
    ids=["sysctls", "a long sysctl", "a long process name", "many owners"],
)
def test_a_status_larger_than_an_agents_is_not_evaluated_and_other_rules_are(facts):
    rules = [
        {"name": "dear", "detector": "Expression", "for": "0s", "parameters": {"expression": NESTED}},
        {"name": "leak", "detector": "CloseWaitLeak", "for": "0s", "threshold": 0, "clearThreshold": 0},
    ]
    policy = read_policy({"kind": "ClusterSocketHealthPolicy", "metadata": {"name": "p"}, "spec": {"rules": rules}})
    outcome = evaluate(Subject("pod", "web", "shop"), facts, policy.rules, Judgement(), 0.0)
    ((failed, sentence),) = outcome.errors
    assert failed.rule == "dear"
    assert "the status is larger than any that an agent writes" in sentence
    assert [finding.rule for finding in outcome.judgement.findings] == ["leak"]


def test_the_status_of_an_agent_at_its_fullest_is_evaluated():
    facts = Facts(sysctls=FULL, close_wait=CloseWait(owners=[Owner(process="x" * 64, container="y" * 64)] * 5))
    assert DETECTORS["Expression"].measure(facts, {"expression": NESTED}).value == 0


@pytest.mark.parametrize("kind", ["SocketHealthPolicy", "ClusterSocketHealthPolicy"])
def test_rules_that_are_cheap_one_by_one_are_refused_together_before_any_is_compiled(kind):
    texts = [f"{NESTED} || {number} > 0" for number in range(64)]
    assert all(check({"expression": text}) == [] for text in texts[:1])
    assert max(steps_of({"expression": text}) for text in texts) <= MAXIMUM_STEPS
    rules = [
        {"name": f"r{number}", "detector": "Expression", "parameters": {"expression": text + " "}}
        for number, text in enumerate(texts)
    ]
    compiled = expression_module._compile.cache_info().misses
    with pytest.raises(PolicyError, match="take too many steps together"):
        read_policy({"kind": kind, "metadata": {"name": "p", "namespace": "shop"}, "spec": {"rules": rules}})
    assert expression_module._compile.cache_info().misses == compiled


def test_one_rule_that_is_too_dear_by_itself_is_named():
    rule = {"name": "mine", "detector": "Expression", "parameters": {"expression": f"{NESTED}{'||1>0' * 190}"}}
    with pytest.raises(PolicyError, match="rule 'mine': parameter expression takes too many steps"):
        read_policy({"kind": "ClusterSocketHealthPolicy", "metadata": {"name": "p"}, "spec": {"rules": [rule]}})


@pytest.mark.parametrize("inner", ["a!=b", "a!=b" + "&&a!=b" * 90])
def test_what_is_within_nested_macros_counts_for_as_much_as_there_is_of_it(inner):
    words = 2 * inner.count("!=") + inner.count("!=") + inner.count("&&")
    steps = steps_of({"expression": f"status.sysctls.all(a,status.sysctls.all(b,{inner}))"})
    assert steps >= STATUS_ITEMS**2 * max(1, words // 32)
