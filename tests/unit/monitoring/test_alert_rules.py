"""Every alert, run by promtool over series made up here: it fires, says the number, waits for `for`, and ends."""

import re
import subprocess
from dataclasses import dataclass, field

import yaml

from sockethealth_core import metrics
from sockethealth_core.metrics import Series
from sockethealth_core.units import parse_duration
from sockethealth_monitoring.alerts import derived

STEP_SECONDS = 30
STEPS = 40
ONSET = STEPS * STEP_SECONDS
"""What an alert is about begins here, after as long a time in which it must not fire."""
END = 2 * ONSET
RUNBOOKS = "https://runbooks.example/of"
RULES = [rule for group in derived()["groups"] for rule in group["rules"]]
POD = {"namespace": "shop", "pod": "web-1", "node": "node-a"}
NODE = {"node": "node-a"}
TARGET = {"job": "monitoring/sockethealth", "instance": "10.244.0.7:9101"}


def steps(below: float, above: float) -> str:
    """A gauge's samples: `below`, `above` from ONSET to END, `below` again."""
    return f"{below}+0x{STEPS - 1} {above}+0x{STEPS - 1} {below}+0x{2 * STEPS}"


def counts(below: float, above: float) -> str:
    """A counter's samples, by its increase per second below and above."""
    low, high = below * STEP_SECONDS, above * STEP_SECONDS
    before = low * (STEPS - 1)
    after = before + high * STEPS
    return f"0+{low}x{STEPS - 1} {before + high}+{high}x{STEPS - 1} {after + low}+{low}x{2 * STEPS}"


STOPS = f"0+{STEP_SECONDS}x{STEPS - 1} {ONSET - STEP_SECONDS}+0x{STEPS - 1} {END}+{STEP_SECONDS}x{2 * STEPS}"
"""A time that is always now, stands still from ONSET on, and is now again from END on."""
SHOWN_STOPPED = "20m 0s"
"""What time() is ahead of STOPS at the last moment before END."""


def series(what: Series | str, **labels: str) -> str:
    name = what if isinstance(what, str) else what.name
    return f"{name}{{{', '.join(f'{label}={value!r}' for label, value in labels.items())}}}".replace("'", '"')


@dataclass(frozen=True)
class Case:
    """Attributes:
    alert: its name.
    series: samples by series.
    summary: what it says, with the number.
    shown: the number as it stands in the description.
    labels: of the alert, without severity.
    fires: severities of the rules that fire.
    onset_seconds: when the condition begins to hold.
    lag_seconds: how long it goes on holding after END.
    further: what stands for a conditional part of the description.
    runbook: name of the page.
    """

    alert: str
    series: dict[str, str]
    summary: str
    shown: str = ""
    labels: dict[str, str] = field(default_factory=lambda: POD)
    fires: tuple[str, ...] = ("warning",)
    onset_seconds: int = ONSET
    lag_seconds: int = 0
    further: str = ""
    runbook: str = ""


def pod(what: Series, samples: str, **labels: str) -> dict[str, str]:
    return {series(what, **POD, **labels, **TARGET): samples}


def node(what: Series, samples: str, **labels: str) -> dict[str, str]:
    return {series(what, **NODE, **labels, **TARGET): samples}


def operator(what: Series, samples: str, **labels: str) -> dict[str, str]:
    return {series(what, **labels, job="sockethealth-operator", instance="10.244.0.8:9090"): samples}


def finding(samples: str, **labels: str) -> dict[str, str]:
    defaults = {"policy_kind": "SocketHealthPolicy", "policy": "own", "rule": "r", "mode": "Enforce"}
    return operator(metrics.FINDING, samples, **{**POD, **defaults, **labels})


ON_POD = "Pod shop/web-1"
RATE_LAG = 120 - STEP_SECONDS
ONCE = f"_x{STEPS} {{}}+0x{STEPS - 1} stale"
INCREASE_LAG = 600 - STEP_SECONDS
GONE = f"stale _x{STEPS - 1}"
FOUND = {"type": "Expression", "policy": "own", "rule": "r"}
BOTH = ("warning", "critical")
LOSSES = pod(metrics.POD_SEGMENTS_SENT, counts(90, 90))
CASES = [
    Case(
        "SocketHealthEphemeralPortExhaustion",
        pod(metrics.POD_PORTS_USED, steps(0.49, 0.62)) | pod(metrics.POD_PORTS_EXHAUSTION, steps(500, 95)),
        f"{ON_POD} uses 62% of its ephemeral ports toward one destination.",
        "62%",
        further="At this rate they run out in 1m 35s, and connect() fails. ",
        runbook="EphemeralPortExhaustion",
    ),
    Case(
        "SocketHealthEphemeralPortExhaustion",
        pod(metrics.POD_PORTS_USED, steps(0.3, 0.85)),
        f"{ON_POD} uses 85% of its ephemeral ports toward one destination.",
        "85%",
        fires=BOTH,
        runbook="EphemeralPortExhaustion",
    ),
    Case(
        "SocketHealthCloseWaitLeak",
        pod(metrics.POD_CLOSE_WAIT_AGED, steps(49, 730), older_than_seconds="60")
        | pod(metrics.POD_CLOSE_WAIT_AGED, steps(5000, 5000), older_than_seconds="10"),
        f"{ON_POD} holds 730 CLOSE_WAIT sockets older than 60s.",
        "730",
        runbook="CloseWaitLeak",
    ),
    Case(
        "SocketHealthCloseWaitLeak",
        pod(metrics.POD_CLOSE_WAIT_AGED, steps(0, 1200), older_than_seconds="60"),
        f"{ON_POD} holds 1200 CLOSE_WAIT sockets older than 60s.",
        "1200",
        fires=BOTH,
        runbook="CloseWaitLeak",
    ),
    Case(
        "SocketHealthFinWait2Buildup",
        pod(metrics.POD_SOCKETS, steps(999, 4321), state="finWait2")
        | pod(metrics.POD_SOCKETS, steps(9000, 9000), state="established"),
        f"{ON_POD} holds 4321 FIN_WAIT_2 sockets.",
        "4321",
        runbook="FinWait2Buildup",
    ),
    Case(
        "SocketHealthAcceptQueueOverflow",
        pod(metrics.POD_LISTEN_OVERFLOWS, counts(0.05, 2.5)),
        f"{ON_POD} drops 2.50 connections/s because an accept queue is full.",
        "2.50",
        fires=("critical",),
        lag_seconds=RATE_LAG,
        runbook="AcceptQueueOverflow",
    ),
    Case(
        "SocketHealthSynBacklogPressure",
        pod(metrics.POD_SYN_BACKLOG, steps(0.79, 0.91)),
        f"{ON_POD} has a listener whose SYN backlog is 91% full of half-open connections.",
        "91%",
        runbook="SynBacklogPressure",
    ),
    Case(
        "SocketHealthTimeWaitTableOverflow",
        pod(metrics.POD_TIME_WAIT_OVERFLOWS, counts(0, 3)),
        f"{ON_POD} drops 3.00 TIME_WAIT sockets/s early, as it holds all that tcp_max_tw_buckets allows.",
        "3.00",
        fires=("critical",),
        lag_seconds=RATE_LAG,
        runbook="TimeWaitTableOverflow",
    ),
    Case(
        "SocketHealthRetransmissionStorm",
        LOSSES
        | pod(metrics.POD_SEGMENTS_RETRANSMITTED, counts(4, 30))
        # A quarter of what is half open waits for this side's SYN/ACK: 20 of 30 are the path's.
        | pod(metrics.POD_SYN_SEGMENTS_RETRANSMITTED, counts(0, 30))
        | pod(metrics.POD_SOCKETS, steps(10, 10), state="synRecv")
        | pod(metrics.POD_SOCKETS, steps(20, 20), state="synSent"),
        f"{ON_POD} sends 18.18% of its segments again.",
        "18.18%",
        lag_seconds=RATE_LAG,
        runbook="RetransmissionStorm",
    ),
    Case(
        "SocketHealthUnsafeSysctl",
        finding(ONCE.format(2), type="UnsafeSysctl", severity="Warning", policy="sockethealth-default"),
        f"{ON_POD} runs with 2 network sysctls that are unsafe or cannot work.",
        "2",
        runbook="UnsafeSysctl",
    ),
    Case(
        "SocketHealthTcpMemoryPressure",
        node(metrics.NODE_TCP_MEMORY_USED, steps(0.89, 0.95)),
        "Node node-a has TCP buffers of 95% of the mark above which the kernel saves memory.",
        "95%",
        NODE,
        ("critical",),
        runbook="TcpMemoryPressure",
    ),
    Case(
        "SocketHealthConntrackPressure",
        node(metrics.NODE_CONNTRACK_USED, steps(0.79, 0.875)),
        "Node node-a tracks 87.5% of the connections it can.",
        "87.5%",
        NODE,
        runbook="ConntrackPressure",
    ),
    Case(
        "SocketHealthPolicyFinding",
        finding(ONCE.format(7), type="Expression", severity="Warning"),
        "Pod shop/web-1 on node node-a: Expression by policy own.",
        "7",
        POD | FOUND,
        further="sockethealth -n shop web-1",
        runbook="Expression",
    ),
    Case(
        "SocketHealthPolicyFinding",
        operator(
            metrics.FINDING,
            ONCE.format(99),
            namespace="",
            pod="",
            node="node-a",
            policy_kind="ClusterSocketHealthPolicy",
            mode="Enforce",
            **(FOUND | {"type": "ConntrackPressure"}),
            severity="Critical",
        ),
        "Node node-a: ConntrackPressure by policy own.",
        "99",
        NODE | FOUND | {"type": "ConntrackPressure"},
        ("critical",),
        further="nodesockethealth node-a",
        runbook="ConntrackPressure",
    ),
]
OWN_CASES = [
    Case(
        "SocketHealthAgentSilent",
        operator(metrics.NODE_SILENT, steps(0, 1), node="node-a"),
        "The agent of node node-a has missed its heartbeats.",
        labels=NODE,
    ),
    Case(
        "SocketHealthAgentDown",
        node(metrics.AGENT_BUILD, f"1+0x{STEPS - 1} {GONE} 1+0x{STEPS}", version="0.1.0")
        | {series("up", **TARGET): steps(1, 0), series("up", job="other", instance="10.244.0.9:80"): steps(0, 0)},
        "Prometheus cannot scrape the agent of node node-a at 10.244.0.7:9101.",
        labels=NODE | {"instance": TARGET["instance"]},
    ),
    Case(
        "SocketHealthAgentsAbsent",
        node(metrics.AGENT_BUILD, f"1+0x{STEPS - 1} {GONE} 1+0x{STEPS}", version="0.1.0"),
        "Prometheus has no series of any SocketHealth agent.",
        labels={},
        fires=("critical",),
    ),
    Case(
        "SocketHealthAgentCannotSweep",
        node(metrics.AGENT_LAST_SWEEP, STOPS),
        f"The agent on node node-a has read no sockets for {SHOWN_STOPPED}.",
        SHOWN_STOPPED,
        NODE,
        onset_seconds=ONSET + 300,
    ),
    Case(
        "SocketHealthAgentCannotReadPods",
        node(metrics.AGENT_PODS_FAILED, steps(0, 3)),
        "The agent on node node-a cannot read the sockets of 3 pods.",
        "3",
        NODE,
    ),
    Case(
        "SocketHealthAgentCannotReport",
        node(metrics.AGENT_LAST_REPORT, STOPS),
        f"The API server has taken no write of the agent on node node-a for {SHOWN_STOPPED}.",
        SHOWN_STOPPED,
        NODE,
        onset_seconds=ONSET + 480,
    ),
    Case(
        "SocketHealthAgentRefused",
        node(metrics.AGENT_API_ERRORS, counts(0, 0.1), status="403")
        | node(metrics.AGENT_API_ERRORS, counts(5, 5), status="429"),
        "The API server has refused 60 requests of the agent on node node-a with 403 within 10m.",
        "60",
        NODE | {"status": "403"},
        lag_seconds=INCREASE_LAG,
    ),
    Case(
        "SocketHealthOperatorAbsent",
        operator(metrics.OPERATOR_BUILD, f"1+0x{STEPS - 1} {GONE} 1+0x{STEPS}", version="0.1.0"),
        "Prometheus has no series of the SocketHealth operator.",
        labels={},
        fires=("critical",),
    ),
    Case(
        "SocketHealthOperatorNotLeading",
        operator(metrics.OPERATOR_LEADING, steps(1, 0)) | {series(metrics.OPERATOR_LEADING, instance="b"): steps(0, 0)},
        "No replica of the SocketHealth operator is leading.",
        labels={},
        fires=("critical",),
    ),
    Case(
        "SocketHealthOperatorTwoLeaders",
        operator(metrics.OPERATOR_LEADING, steps(1, 1)) | {series(metrics.OPERATOR_LEADING, instance="b"): steps(0, 1)},
        "2 replicas of the SocketHealth operator are leading.",
        "2",
        {},
    ),
    Case(
        "SocketHealthOperatorCannotReachApi",
        operator(metrics.OPERATOR_API_UP, steps(1, 0)),
        "The SocketHealth operator gets no answer from the API server.",
        labels={},
        fires=("critical",),
    ),
    Case(
        "SocketHealthOperatorFallingBehind",
        operator(metrics.OPERATOR_QUEUE_OLDEST, steps(60, 90)),
        "The SocketHealth operator is behind by 1m 30s.",
        "1m 30s",
        {},
    ),
    Case(
        "SocketHealthOperatorHandlerErrors",
        operator(metrics.OPERATOR_ERRORS, counts(0, 0.2), kind="Node"),
        "The SocketHealth operator has failed 120 times within 10m at Node objects.",
        "120",
        {"kind": "Node"},
        lag_seconds=INCREASE_LAG,
    ),
    Case(
        "SocketHealthOperatorUnreadableObjects",
        operator(metrics.OPERATOR_UNREADABLE, counts(0, 0.1), kind="SocketHealthPolicy"),
        "The SocketHealth operator has skipped 90 objects of kind SocketHealthPolicy that it cannot read.",
        "90",
        {"kind": "SocketHealthPolicy"},
        lag_seconds=15 * 60 - STEP_SECONDS,
    ),
    Case(
        "SocketHealthOperatorRefused",
        operator(metrics.OPERATOR_API_ERRORS, counts(0, 0.1), status="401")
        | operator(metrics.OPERATOR_API_ERRORS, counts(5, 5), status="404"),
        "The API server has refused 60 requests of the SocketHealth operator with 401 within 10m.",
        "60",
        {"status": "401"},
        lag_seconds=INCREASE_LAG,
    ),
    Case(
        "SocketHealthRolloutDegraded",
        operator(metrics.PROFILE_CONDITION, steps(0, 1), profile="wide", type="Degraded", status="True")
        | operator(metrics.PROFILE_CONDITION, steps(1, 1), profile="wide", type="Accepted", status="True"),
        "The roll-out of SysctlProfile wide is degraded.",
        labels={"profile": "wide"},
    ),
    Case(
        "SocketHealthSysctlDrift",
        node(metrics.PROFILE_STATE, steps(0, 1), profile="wide", state="Drifted"),
        "Someone else has changed a sysctl of profile wide on node node-a.",
        labels=NODE | {"profile": "wide"},
    ),
    Case(
        "SocketHealthSysctlFailed",
        node(metrics.PROFILE_STATE, steps(0, 1), profile="wide", state="Failed"),
        "A sysctl of profile wide cannot be set on node node-a.",
        labels=NODE | {"profile": "wide"},
    ),
    Case(
        "SocketHealthSysctlWriterStuck",
        node(metrics.WRITER_LAST_PASS, STOPS),
        f"The sysctl writer on node node-a has looked at no value for {SHOWN_STOPPED}.",
        SHOWN_STOPPED,
        NODE,
        onset_seconds=ONSET + 300,
    ),
    Case(
        "SocketHealthSysctlWriterRefused",
        node(metrics.WRITER_API_ERRORS, counts(0, 0.1), status="403"),
        "The API server has refused 60 requests of the sysctl writer on node node-a with 403 within 10m.",
        "60",
        NODE | {"status": "403"},
        lag_seconds=INCREASE_LAG,
    ),
]
QUIET = {
    "the usual range is not taken for exhaustion of another pod": (
        "SocketHealthEphemeralPortExhaustion",
        pod(metrics.POD_PORTS_USED, steps(0.1, 0.49)),
    ),
    "half of a few segments": (
        "SocketHealthRetransmissionStorm",
        pod(metrics.POD_SEGMENTS_SENT, counts(4, 4)) | pod(metrics.POD_SEGMENTS_RETRANSMITTED, counts(0, 4)),
    ),
    "a SYN flood's unanswered SYN/ACKs": (
        "SocketHealthRetransmissionStorm",
        LOSSES
        | pod(metrics.POD_SEGMENTS_RETRANSMITTED, counts(1, 50))
        | pod(metrics.POD_SYN_SEGMENTS_RETRANSMITTED, counts(1, 50))
        | pod(metrics.POD_SOCKETS, steps(200, 200), state="synRecv")
        | pod(metrics.POD_SOCKETS, steps(0, 0), state="synSent"),
    ),
    "a policy that only audits": (
        "SocketHealthPolicyFinding",
        finding(steps(1, 1), type="CloseWaitLeak", severity="Critical", mode="Audit"),
    ),
    "what a policy finds worth knowing only": (
        "SocketHealthPolicyFinding",
        finding(steps(1, 1), type="InboundTimeWait", severity="Info"),
    ),
    "what the default policy finds, as it has alerts of its own": (
        "SocketHealthPolicyFinding",
        finding(steps(1, 1), type="CloseWaitLeak", severity="Critical", policy="sockethealth-default"),
    ),
    "a target that is gone and not down": (
        "SocketHealthAgentDown",
        node(metrics.AGENT_BUILD, f"1+0x{STEPS - 1} stale", version="0.1.0")
        | {series("up", **TARGET): f"1+0x{STEPS - 1} stale"},
    ),
    "conflicts and objects that are gone": (
        "SocketHealthOperatorRefused",
        operator(metrics.OPERATOR_API_ERRORS, counts(3, 3), status="409"),
    ),
}


def rules_of(alert: str) -> list[dict]:
    return [rule for rule in RULES if rule["alert"] == alert]


def filled(template: str, case: Case) -> str:
    """A template with what Prometheus puts in, by hand: the labels, the number, and the conditional parts."""
    text = re.sub(r"\{\{ if \$labels.pod \}\}Pod.*?\{\{ end \}\}", case.summary.partition(":")[0], template)
    text = re.sub(r"\{\{ (with|if) .*?\{\{ end \}\}", case.further, text)
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: case.labels[found[1]], text)
    return re.sub(r"\{\{ \$value \|[^}]*\}\}", case.shown, text)


def seconds(duration: str) -> int:
    return int(parse_duration(duration))


def promtool_test(name: str, samples: dict[str, str], **checks: list[dict]) -> dict:
    values = [{"series": one, "values": value} for one, value in samples.items()]
    return {"name": name, "interval": f"{STEP_SECONDS}s", "input_series": values, **checks}


def firing(alert: str, severity: str, at_seconds: int, expected: int) -> dict:
    selector = series("ALERTS", alertname=alert, alertstate="firing", severity=severity)
    return {
        "expr": f"count({selector}) or vector(0)",
        "eval_time": f"{at_seconds}s",
        "exp_samples": [{"labels": "{}", "value": expected}],
    }


def tried_as(case: Case) -> dict:
    """What promtool has to find: nothing before, nothing while it waits, the alert with its words, and its end."""
    times, said = [], []
    for rule in rules_of(case.alert):
        severity = rule["labels"]["severity"]
        if severity not in case.fires:
            times.append(firing(case.alert, severity, END - STEP_SECONDS, 0))
            continue
        starts = case.onset_seconds + seconds(rule.get("for", "0s"))
        ends = END + case.lag_seconds + seconds(rule.get("keep_firing_for", "0s"))
        times += [
            firing(case.alert, severity, ONSET - STEP_SECONDS, 0),
            firing(case.alert, severity, starts - STEP_SECONDS, 0),
            firing(case.alert, severity, starts, 1),
            firing(case.alert, severity, ends - STEP_SECONDS, 1),
            firing(case.alert, severity, ends, 0),
        ]
        annotations = {
            "summary": case.summary,
            "description": filled(rule["annotations"]["description"], case),
            "runbook_url": f"{RUNBOOKS}/{case.runbook or 'OwnHealth#' + case.alert.lower()}",
        }
        said.append({"exp_labels": {"severity": severity, **case.labels}, "exp_annotations": annotations})
    heard = {"eval_time": f"{END - STEP_SECONDS}s", "alertname": case.alert, "exp_alerts": said}
    name = f"{case.alert} {'and '.join(case.fires)}"
    return promtool_test(name, case.series, promql_expr_test=times, alert_rule_test=[heard])


def test_every_alert_is_tried_at_every_severity():
    tried = {(case.alert, severity) for case in (*CASES, *OWN_CASES) for severity in case.fires}
    assert tried == {(rule["alert"], rule["labels"]["severity"]) for rule in RULES}


def test_each_fires_with_its_numbers_after_for_and_ends(promtool, tmp_path):
    tests = {}
    for case in (*CASES, *OWN_CASES):
        tests.setdefault(case.alert, []).append(tried_as(case))
    for what, (alert, samples) in QUIET.items():
        nothing = [firing(alert, severity, END - STEP_SECONDS, 0) for severity in BOTH]
        tests[alert].append(promtool_test(f"{alert} not: {what}", samples, promql_expr_test=nothing))
    files = []
    for alert, of_alert in tests.items():
        rules, file = tmp_path / f"{alert}.rules.yaml", tmp_path / f"{alert}.yaml"
        text = yaml.safe_dump({"groups": [{"name": "tried", "rules": rules_of(alert)}]})
        rules.write_text(text.replace("https://sockethealth.io/runbooks", RUNBOOKS))
        step = f"{STEP_SECONDS}s"
        file.write_text(yaml.safe_dump({"rule_files": [rules.name], "evaluation_interval": step, "tests": of_alert}))
        files.append(str(file))
    done = subprocess.run([promtool, "test", "rules", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_holds_a_wrong_number_against_a_rule(promtool, tmp_path):
    case = CASES[0]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "tried", "rules": rules_of(case.alert)}]}))
    wrong = tried_as(case)
    wrong["alert_rule_test"][0]["exp_alerts"][0]["exp_annotations"]["summary"] = case.summary.replace("62", "63")
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [wrong]}))
    argv = [promtool, "test", "rules", str(tmp_path / "tests.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "uses 62% of its ephemeral ports" in done.stdout + done.stderr
