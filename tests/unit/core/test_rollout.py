"""Roll-outs of sysctl profiles in virtual time, over nodes that apply, fail, fall silent and raise findings."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockethealth_core.names import ANNOTATION_RETRY
from sockethealth_core.resources import (
    LabelSelector,
    ObjectMeta,
    OverriddenSysctl,
    ProfileSysctl,
    Rollout,
    SysctlProfile,
    SysctlProfileReport,
    SysctlProfileSpec,
    SysctlProfileStatus,
    decode,
    encode,
)
from sockethealth_core.rollout import ANSWER_SECONDS, NodeFinding, NodeView, Plan, advance, content_of
from sockethealth_core.units import format_time, parse_time

TraceFunction = Callable[..., Any]
START = 1_800_000_000.0
STEP = 5
NEVER = 10**9


def profile_of(value: str = "1", mode: str = "Enforce", annotations: dict[str, str] | None = None, **spec: Any):
    """A profile that sets tcp_tw_reuse; keywords of the roll-out and of the spec may be mixed."""
    options = {key: spec.pop(key) for key in list(spec) if key in Rollout.__struct_fields__}
    return SysctlProfile(
        metadata=ObjectMeta(name="p", generation=7, annotations=annotations or {}),
        spec=SysctlProfileSpec(
            mode=mode,
            target=spec.pop("target", "Node"),
            sysctls=spec.pop("sysctls", [ProfileSysctl(name="net.ipv4.tcp_tw_reuse", value=value)]),
            rollout=Rollout(**options),
            **spec,
        ),
    )


@dataclass
class Machine:
    """A node: what is in its spec, what its writer has done about it, and how it behaves.

    `bad` holds values that this node cannot bear, with what then happens: fails, drifts, silent, mute (never answers)
    or finding.
    """

    name: str
    delay: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    selected: bool = True
    writer: bool = True
    silent: bool = False
    changes: int = 0
    spec: tuple[str, str, str] | None = None
    asked: float = 0.0
    in_force: str = ""
    report: SysctlProfileReport | None = None
    findings: tuple[NodeFinding, ...] = ()

    def view(self) -> NodeView:
        revision, mode, _ = self.spec or ("", "Audit", "")
        return NodeView(
            name=self.name,
            selected=self.selected,
            assigned=revision,
            assigned_mode=mode,
            report=self.report,
            has_writer=self.writer,
            silent=self.silent,
            findings=self.findings,
        )

    def ask(self, spec: tuple[str, str, str] | None, now: float) -> None:
        if spec != self.spec:
            self.changes += 1
            self.spec, self.asked = spec, now

    def live(self, now: float) -> None:
        fate = self.bad.get(self.spec[2], "") if self.spec and self.spec[1] == "Enforce" else ""
        if fate == "silent":
            self.silent = True
        if not self.writer or self.silent or fate == "mute" or now < self.asked + self.delay:
            return
        if self.spec is None:
            self.in_force, self.report = "", None
            return
        revision, mode, value = self.spec
        self.in_force = value if mode == "Enforce" and fate != "fails" else ""
        enforced = {"fails": "Failed", "drifts": "Drifted"}.get(fate, "Applied")
        if fate == "finding" and not self.findings:
            self.findings = (NodeFinding("Critical", now, "CloseWaitLeak of shop/web-1"),)
        self.report = SysctlProfileReport(
            profile="p",
            revision=revision,
            mode=mode,
            state=enforced if mode == "Enforce" else "Audited",
            changes_total=1,
            message="Invalid argument" if fate == "fails" else "",
        )

    @property
    def value(self) -> str:
        """What the node is asked to have in force."""
        return self.spec[2] if self.spec and self.spec[1] == "Enforce" else ""

    @property
    def in_transition(self) -> bool:
        return bool(self.value) and self.in_force != self.value


class Fleet:
    """Nodes under one profile, and an operator that reads back what it wrote at every step, as after a restart."""

    def __init__(self, profile: SysctlProfile, machines: list[Machine]) -> None:
        self.machines = {machine.name: machine for machine in machines}
        self.profile = profile
        self.now = START
        self.plan: Plan | None = None
        self.most_in_transition = 0

    def edit(self, profile: SysctlProfile) -> None:
        self.profile = msgspec.structs.replace(profile, status=self.profile.status)

    def call(self, faults: tuple[str, ...] = ()) -> Plan:
        views = [machine.view() for machine in self.machines.values()]
        plan = advance(self.profile, list(reversed(views)), self.now, faults=faults)
        status = SysctlProfileStatus(nodes=plan.nodes, rollout=plan.state, conditions=list(plan.conditions))
        written = msgspec.structs.replace(self.profile, status=status)
        self.profile = decode(SysctlProfile, msgspec.json.decode(msgspec.json.encode(encode(written))))
        self.plan = plan
        return plan

    def step(self, faults: tuple[str, ...] = (), *, killed: bool = False) -> None:
        """One reconciliation, and what the nodes make of it; killed: the status is written, and nothing else."""
        plan = self.call(faults)
        if not killed:
            for machine in self.machines.values():
                given = plan.assignments.get(machine.name)
                machine.ask(
                    (given.content.revision, given.mode, given.content.sysctls[0].value) if given else None, self.now
                )
            assert plan.assignments.keys() <= {m.name for m in self.machines.values() if m.selected}
        self.away()

    def away(self) -> None:
        """Nodes go on while no operator is there."""
        for machine in self.machines.values():
            machine.live(self.now)
        moving = sum(machine.in_transition for machine in self.machines.values())
        self.most_in_transition = max(self.most_in_transition, moving)
        self.now += STEP

    def run(self, seconds: float) -> "Fleet":
        for _ in range(int(seconds // STEP)):
            self.step()
        return self

    def condition(self, kind: str):
        assert self.plan is not None
        return next(condition for condition in self.plan.conditions if condition.type == kind)

    def says(self, kind: str) -> tuple[str, str]:
        condition = self.condition(kind)
        return condition.status, condition.reason

    @property
    def phase(self) -> str:
        assert self.plan is not None
        return self.plan.state.phase

    @property
    def values(self) -> dict[str, str]:
        return {name: machine.value for name, machine in self.machines.items()}

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]


def fleet(count: int = 4, profile: SysctlProfile | None = None, **machines: dict[str, Any]) -> Fleet:
    """Nodes n01, n02, ... with what `machines` says of some of them."""
    names = [f"n{number:02}" for number in range(1, count + 1)]
    return Fleet(profile or profile_of(pause_seconds=10), [Machine(name, **machines.get(name, {})) for name in names])


@pytest.mark.parametrize(
    "other",
    [
        profile_of(mode="Audit"),
        profile_of(max_concurrent_nodes="10%", pause_seconds=1, stop_on="Never", paused=True),
        profile_of(node_selector=LabelSelector(match_labels={"a": "b"})),
        profile_of(activation="OnFinding", hold="1h"),
        profile_of(value=" 1\t"),
        profile_of(annotations={"other": "x"}),
    ],
)
def test_what_does_not_concern_a_node_leaves_the_revision(other):
    assert content_of(other) == content_of(profile_of())


@pytest.mark.parametrize(
    "other",
    [
        profile_of(value="2"),
        profile_of(priority=1),
        profile_of(target="Pods"),
        profile_of(target="Pods", pod_selector=LabelSelector(match_labels={"a": "b"})),
        profile_of(target="Pods", namespace_selector=LabelSelector(match_labels={"a": "b"})),
        profile_of(annotations={ANNOTATION_RETRY: "1"}),
    ],
)
def test_what_a_node_is_asked_for_makes_the_revision(other):
    assert content_of(other).revision != content_of(profile_of()).revision


def test_the_order_of_sysctls_and_labels_and_a_tab_make_no_revision():
    ports = ProfileSysctl(name="net.ipv4.ip_local_port_range", value="10240 65000")
    tabbed = ProfileSysctl(name="net.ipv4.ip_local_port_range", value="10240\t65000")
    reuse = ProfileSysctl(name="net.ipv4.tcp_tw_reuse", value="1")
    labels = {"a": "1", "b": "2"}
    turned = dict(reversed(labels.items()))
    one = content_of(profile_of(target="Pods", sysctls=[reuse, ports], pod_selector=LabelSelector(match_labels=labels)))
    two = content_of(
        profile_of(target="Pods", sysctls=[tabbed, reuse], pod_selector=LabelSelector(match_labels=turned))
    )
    assert one.revision == two.revision
    assert [sysctl.name for sysctl in one.sysctls] == sorted(sysctl.name for sysctl in one.sysctls)
    assert len(one.revision) == 12
    assert set(one.revision) <= set("0123456789abcdef")


def test_audit_asks_every_node_at_once_and_counts_what_would_change():
    f = fleet(4, profile_of(mode="Audit"), n02={"writer": False}, n03={"delay": NEVER})
    f.step()
    assert {name: given.mode for name, given in f.plan.assignments.items()} == dict.fromkeys(
        ["n01", "n03", "n04"], "Audit"
    )
    f.step()
    assert (f.plan.nodes.selected, f.plan.nodes.audited, f.plan.nodes.would_change, f.plan.nodes.pending) == (
        4,
        2,
        2,
        2,
    )
    assert f.phase == "Audit"
    assert f.says("Progressing") == ("False", "Audited")
    message = f.condition("Progressing").message
    assert message.startswith("Audit: Enforce would change 2 of 2 nodes; see status.sysctlProfiles of their Node")
    assert "1 node has not answered yet." in message
    assert "1 node has no sysctl writer (sysctls.enabled is false there, or its pod does not run): n02." in message


def test_audit_takes_values_back_and_enforce_starts_anew_with_nothing_stable():
    f = fleet(3).run(200)
    assert f.phase == "Complete"
    f.edit(profile_of(mode="Audit", pause_seconds=10))
    f.step()
    assert set(f.values.values()) == {""}
    assert f.plan.state.stable is None
    f.step()
    f.edit(profile_of(pause_seconds=10))
    f.step()
    assert f.plan.state.batch == ["n01"]
    # An audit changes nothing, so nobody has to wait for its turn to be rid of it.
    assert f.plan.assignments.keys() == {"n01"}


def test_batches_go_by_name_and_each_is_watched_before_the_next():
    f = fleet(5, profile_of(max_concurrent_nodes=2, pause_seconds=20), n01={"delay": 5}, n02={"delay": 30})
    batches = []
    for _ in range(60):
        f.step()
        if f.plan.state.batch and (not batches or batches[-1][1] != f.plan.state.batch):
            batches.append((f.now - STEP - START, f.plan.state.batch))
    # n02 takes 30 s and is seen the step after it reported: 35 s; then 20 s of watching.
    assert batches == [(0, ["n01", "n02"]), (55, ["n03", "n04"]), (80, ["n05"])]
    assert f.phase == "Complete"
    assert f.most_in_transition == 2


def test_the_last_batch_is_watched_too_before_the_rollout_is_complete():
    f = fleet(1, profile_of(pause_seconds=20))
    f.step()
    f.step()
    assert (f.phase, f.plan.state.settled_since) == ("Progressing", format_time(START + STEP))
    assert f.condition("Progressing").message == "1 of 1 node has the values. Watching n01 for 20 s."
    f.run(15)
    assert f.phase == "Progressing"
    f.step()
    assert f.phase == "Complete"
    assert f.plan.state.stable == content_of(f.profile)
    assert f.says("Progressing") == ("False", "Complete")
    assert f.plan.nodes.applied == 1
    assert f.plan.next_due is None


@pytest.mark.parametrize(
    ("wanted", "count", "batch"), [(1, 5, 1), (3, 5, 3), (9, 5, 5), ("10%", 5, 1), ("50%", 5, 2), ("100%", 5, 5)]
)
def test_batch_sizes(wanted, count, batch):
    f = fleet(count, profile_of(max_concurrent_nodes=wanted))
    f.step()
    assert len(f.plan.state.batch) == batch


@pytest.mark.parametrize("wanted", ["many", "", 0, "0%", -1])
def test_a_batch_size_that_is_none_is_a_fault_and_changes_nothing(wanted):
    f = fleet(2, profile_of(max_concurrent_nodes=wanted))
    f.step()
    assert f.says("Accepted") == ("False", "Invalid")
    assert f"maxConcurrentNodes is '{wanted}'" in f.condition("Accepted").message
    assert not f.plan.assignments


def test_next_due_is_the_deadline_for_answers_and_then_the_end_of_the_pause():
    f = fleet(2, profile_of(pause_seconds=20), n01={"delay": 10})
    f.step()
    assert f.plan.next_due == START + ANSWER_SECONDS
    f.run(15)
    assert f.plan.next_due == f.now - STEP + 20


def test_paused_holds_the_next_batch_back_and_says_so():
    f = fleet(3)
    f.step()
    f.edit(profile_of(pause_seconds=10, paused=True))
    f.run(60)
    assert f.values == {"n01": "1", "n02": "", "n03": ""}
    assert f.says("Progressing") == ("False", "Paused")
    assert "2 nodes wait until spec.rollout.paused is false" in f.condition("Progressing").message
    f.edit(profile_of(pause_seconds=10))
    f.run(100)
    assert f.phase == "Complete"


def test_nodes_without_writer_or_word_are_named_and_hold_nobody_up():
    f = fleet(5, n01={"writer": False}, n02={"silent": True}, n03={"writer": False})
    f.run(100)
    assert f.values == {"n01": "", "n02": "", "n03": "", "n04": "1", "n05": "1"}
    assert f.says("Progressing") == ("True", "Waiting")
    message = f.condition("Progressing").message
    assert (
        "2 nodes have no sysctl writer (sysctls.enabled is false there, or its pod does not run): n01, n03." in message
    )
    assert "1 node cannot be reached, as its agent is silent: n02." in message
    f["n02"].silent = False
    f["n01"].writer = f["n03"].writer = True
    f.run(100)
    assert f.phase == "Complete"


def test_a_node_that_comes_back_late_risks_only_itself():
    f = fleet(3, profile_of("1", pause_seconds=10)).run(100)
    f["n03"].silent = True
    f["n03"].bad = {"2": "fails"}
    f.edit(profile_of("2", pause_seconds=10))
    f.run(100)
    assert f.values == {"n01": "2", "n02": "2", "n03": "1"}, "a node that is silent keeps what it has"
    f["n01"].findings = (NodeFinding("Critical", f.now, "PortExhaustion of shop/web"),)
    f["n03"].silent = False
    f.run(50)
    assert f.phase == "Stopped"
    assert f.values == {"n01": "2", "n02": "2", "n03": ""}


@pytest.mark.parametrize(
    ("fate", "reason", "said", "after"),
    [
        ("fails", "NodeFailed", "Node n03 could not be changed (Invalid argument); edit the profile", 2 * STEP),
        ("drifts", "NodeFailed", "On node n03 someone else changed a value back", 2 * STEP),
        ("silent", "AgentSilent", "The agent of node n03 stopped reporting", 2 * STEP),
        ("mute", "NoAnswer", "Node n03 did not report the values in force within 120 s", ANSWER_SECONDS + STEP),
        ("finding", "FindingRaised", "Node n03 has a Critical finding since it was changed (CloseWaitLeak", 2 * STEP),
    ],
)
@pytest.mark.parametrize("stable", ["", "1"])
def test_a_bad_node_stops_the_rollout_and_everything_goes_back(fate, reason, said, after, stable):
    f = fleet(5, profile_of(stable or "1", pause_seconds=10))
    if stable:
        f.run(200)
        assert f.phase == "Complete"
    f["n03"].bad = {"2": fate}
    f.edit(profile_of("2", pause_seconds=10))
    while f["n03"].value != "2":
        f.step()
    asked = f.now - STEP
    while f.phase == "Progressing":
        f.step()
    assert f.now - asked == after
    assert f.plan.state.stopped_reason == reason
    assert said in f.plan.state.stopped_because
    assert ANNOTATION_RETRY in f.plan.state.stopped_because
    assert f.plan.state.batch == ["n01", "n02", "n03"]
    assert set(f.values.values()) == {stable}
    assert f.says("Progressing") == ("False", "Stopped")
    assert f.says("Degraded") == ("True", reason)
    to = "the values that were stable" if stable else "the values found there"
    assert f"3 nodes go back to {to}: done on 0, not yet on n01, n02, n03." in f.condition("Degraded").message
    f.run(500)
    assert f.phase == "Stopped"
    assert set(f.values.values()) == {stable}
    end = "done on 2, not yet on n03." if fate == "silent" else "done."
    assert f.condition("Degraded").message.endswith(end)


@pytest.mark.parametrize(
    ("stop_on", "severity", "phase"),
    [
        ("Critical", "Critical", "Stopped"),
        ("Critical", "Warning", "Complete"),
        ("Warning", "Warning", "Stopped"),
        ("Warning", "Info", "Complete"),
        ("Never", "Critical", "Complete"),
    ],
)
def test_which_findings_stop(stop_on, severity, phase):
    f = fleet(3, profile_of(pause_seconds=10, stop_on=stop_on))
    f.step()
    f["n01"].findings = (NodeFinding(severity, f.now, "x"),)
    f.run(200)
    assert f.phase == phase


def test_a_finding_from_before_the_change_stops_nothing():
    f = fleet(2, n02={"findings": (NodeFinding("Critical", START + 2, "x"),)}).run(100)
    assert f.phase == "Complete"


@pytest.mark.parametrize("activation", ["Always", "OnFinding"])
def test_a_finding_raised_while_a_node_waited_for_its_turn_stops_nothing(activation):
    f = fleet(6, profile_of(pause_seconds=10, activation=activation))
    for number, machine in enumerate(f.machines.values()):
        # Each has been found ill after the roll-out began, before its own turn.
        machine.findings = (NodeFinding("Critical", START + number, "x"),)
        machine.selected = number < 2 or activation == "Always"
    f["n01"].findings = ()
    f.step()
    for machine in f.machines.values():
        machine.selected = True
        f.step()
    f.run(200)
    assert f.phase == "Complete"


def test_a_finding_that_became_known_late_stops_in_the_next_batch():
    f = fleet(4)
    while f["n02"].value != "1":
        f.step()
    f["n01"].findings = (NodeFinding("Critical", f.now - 2 * STEP, "late"),)
    f.step()
    assert f.phase == "Stopped"


def test_a_finding_stops_also_while_paused():
    f = fleet(4)
    f.step()
    f.edit(profile_of(pause_seconds=10, paused=True))
    f.run(100)
    assert f.says("Progressing") == ("False", "Paused")
    f["n01"].findings = (NodeFinding("Critical", f.now, "late"),)
    f.step()
    assert f.phase == "Stopped"


def test_a_report_from_before_an_assignment_is_no_answer_to_it():
    f = fleet(1, profile_of(pause_seconds=0)).run(30)
    f["n01"].delay = NEVER
    f["n01"].selected = False
    f.step()
    assert f["n01"].report.state == "Applied"
    f["n01"].selected = True
    f.step(killed=True)
    f.step(killed=True)
    assert f.plan.state.batch == ["n01"]
    assert f.plan.state.settled_since is None
    assert f.plan.nodes.applied == 0


def test_a_finding_on_a_node_of_an_earlier_batch_stops_too_but_not_on_others():
    f = fleet(6)
    f.run(40)
    assert f["n02"].value == "1"
    assert "n01" not in f.plan.state.batch
    f["n06"].findings = (NodeFinding("Critical", f.now, "elsewhere"),)
    f.step()
    assert f.phase == "Progressing"
    f["n01"].findings = (NodeFinding("Critical", f.now, "late"),)
    f.step()
    assert f.phase == "Stopped"
    assert "Node n01 has a Critical finding since it was changed (late)" in f.plan.state.stopped_because
    assert set(f.values.values()) == {""}


def test_a_failure_on_a_node_of_an_earlier_batch_stops_and_its_silence_does_not():
    f = fleet(6)
    f.run(40)
    f["n01"].silent = True
    f.run(20)
    assert f.phase == "Progressing"
    f["n01"].silent = False
    f["n01"].bad = {"1": "fails"}
    f.run(15)
    assert f.phase == "Stopped"


def test_a_node_that_joins_later_loses_it_alone_when_it_fails():
    f = fleet(3).run(200)
    f.machines["n04"] = Machine("n04", bad={"1": "fails"})
    f.machines["n05"] = Machine("n05")
    f.run(100)
    assert f.phase == "Stopped"
    assert f.values == {"n01": "1", "n02": "1", "n03": "1", "n04": "", "n05": ""}
    assert f.says("Degraded") == ("True", "NodeFailed")
    assert f.condition("Degraded").message.endswith("1 node goes back to the values found there: done.")
    f["n04"].bad = {}
    f.edit(profile_of(pause_seconds=10, annotations={ANNOTATION_RETRY: "1"}))
    f.run(200)
    assert f.phase == "Complete"
    assert set(f.values.values()) == {"1"}


def test_fifty_nodes_with_one_failing_stop_within_its_batch():
    f = fleet(50, profile_of(max_concurrent_nodes="10%", pause_seconds=10), n23={"bad": {"1": "fails"}})
    f.run(1000)
    assert f.phase == "Stopped"
    assert set(f.values.values()) == {""}
    # Batches of five: n21 to n25 were the last; each changed node was given it once and lost it once.
    assert [m.changes for m in f.machines.values()] == [2] * 25 + [0] * 25
    assert "25 nodes go back to the values found there: done." in f.condition("Degraded").message


def test_once_settled_a_pod_that_starts_on_the_node_is_no_missing_answer():
    f = fleet(1, profile_of(pause_seconds=300))
    f.run(15)
    f["n01"].delay = NEVER
    f["n01"].report = msgspec.structs.replace(f["n01"].report, state="Pending")
    f.run(200)
    assert f.phase == "Progressing"


def test_assignments_that_could_not_be_written_do_not_use_up_the_time_to_answer():
    f = fleet(2, n01={"delay": 60})
    for _ in range(int(ANSWER_SECONDS) // STEP * 3):
        f.step(killed=True)
    f.run(200)
    assert f.phase == "Complete"


def test_a_node_that_falls_silent_before_it_was_asked_is_left_out():
    f = fleet(2)
    f.step(killed=True)
    f["n01"].silent = True
    f.run(60)
    assert f.says("Progressing") == ("True", "Waiting")
    assert f.values == {"n01": "", "n02": "1"}


def test_a_deselected_node_loses_it_at_once_and_leaves_the_batch():
    f = fleet(3, n01={"delay": NEVER})
    f.step()
    f["n01"].selected = False
    f.step()
    assert f.values == {"n01": "", "n02": "1", "n03": ""}
    assert f.plan.state.batch == ["n02"]


def test_a_node_that_is_gone_leaves_the_batch():
    f = fleet(3, n01={"delay": NEVER})
    f.step()
    del f.machines["n01"]
    f.run(100)
    assert f.phase == "Complete"


def test_nothing_selected():
    f = fleet(2, profile_of(activation="OnFinding"), n01={"selected": False}, n02={"selected": False})
    f.step()
    assert f.condition("Progressing").message == "No finding asks for it."
    assert f.says("Progressing") == ("False", "NoFinding")
    assert f.says("Degraded") == ("False", "AsExpected")
    assert f.plan.state.stable is None
    f.edit(profile_of())
    f.step()
    assert f.says("Progressing") == ("False", "NoNodeSelected")


def test_on_finding_nodes_come_and_go():
    f = fleet(3, profile_of(activation="OnFinding", pause_seconds=0))
    for machine in f.machines.values():
        machine.selected = False
    f.step()
    f["n02"].selected = True
    f.run(30)
    assert (f.phase, f.values) == ("Complete", {"n01": "", "n02": "1", "n03": ""})
    f["n02"].selected = False
    f.run(10)
    assert f.says("Progressing") == ("False", "NoFinding")
    # What no node has is not what a node goes back to.
    f["n03"].bad = {"2": "fails"}
    f.edit(profile_of("2", activation="OnFinding", pause_seconds=0))
    f.step()
    f["n03"].selected = True
    f.run(30)
    assert (f.phase, f["n03"].value) == ("Stopped", "")


def test_an_edit_half_way_takes_the_half_back_to_stable_at_once():
    f = fleet(6).run(300)
    f.edit(profile_of("2", pause_seconds=10))
    f.run(60)
    half = sum(value == "2" for value in f.values.values())
    assert 1 < half < 6
    f.edit(profile_of("0", pause_seconds=10))
    f.step()
    assert f.values == {"n01": "0", "n02": "1", "n03": "1", "n04": "1", "n05": "1", "n06": "1"}
    f.run(300)
    assert f.phase == "Complete"
    assert set(f.values.values()) == {"0"}


def test_an_edit_back_to_stable_restores_it_everywhere():
    f = fleet(6).run(300)
    f.edit(profile_of("2", pause_seconds=10))
    f.run(60)
    f.edit(profile_of("1", pause_seconds=10))
    f.step()
    assert set(f.values.values()) == {"1"}
    f.run(60)
    assert f.phase == "Complete"


def test_an_edit_and_its_reversal_watch_the_node_left_behind():
    f = fleet(3, n01={"delay": 20})
    f.step()
    f.edit(profile_of("2", pause_seconds=10))
    f.step(killed=True)
    f.edit(profile_of("1", pause_seconds=10))
    f.run(10)
    assert f.plan.state.batch == ["n01"]
    assert f.most_in_transition == 1


@pytest.mark.parametrize("annotations", [{}, {ANNOTATION_RETRY: "1"}])
def test_only_another_revision_or_audit_ends_a_stop(annotations):
    f = fleet(2, n01={"bad": {"1": "fails"}}).run(50)
    assert f.phase == "Stopped"
    f["n01"].bad = {}
    f.edit(profile_of(pause_seconds=1, stop_on="Never", max_concurrent_nodes=2, annotations=annotations))
    f.run(50)
    assert f.phase == ("Complete" if annotations else "Stopped")


def test_a_stop_ends_with_audit():
    f = fleet(2, n01={"bad": {"1": "fails"}}).run(50)
    f["n01"].bad = {}
    f.edit(profile_of(mode="Audit"))
    f.run(10)
    assert f.phase == "Audit"
    f.edit(profile_of(pause_seconds=10))
    f.run(100)
    assert f.phase == "Complete"


def test_an_invalid_edit_keeps_what_is_stable_and_starts_nothing():
    faults = ("spec.sysctls[0]: net.x is no sysctl a profile may set",)
    f = fleet(4).run(200)
    f.machines["n05"] = Machine("n05")
    f.edit(profile_of("9", pause_seconds=10))
    for _ in range(5):
        f.step(faults)
    assert f.values == {"n01": "1", "n02": "1", "n03": "1", "n04": "1", "n05": ""}
    assert f.says("Accepted") == ("False", "Invalid")
    assert f.condition("Accepted").message == faults[0]
    assert f.says("Progressing") == ("False", "Invalid")
    assert f.plan.nodes.applied == 4
    f.edit(profile_of("1", pause_seconds=10))
    f.run(60)
    assert f.phase == "Complete"
    assert set(f.values.values()) == {"1"}


def test_an_invalid_edit_takes_back_what_was_half_rolled_out_and_forgets_no_stop():
    f = fleet(4)
    f.run(30)
    f.edit(profile_of("9", pause_seconds=10))
    f.step(("no",))
    assert set(f.values.values()) == {""}
    g = fleet(2, n01={"bad": {"1": "fails"}}).run(50)
    changes = g["n01"].changes
    g.step(("no",))
    assert g.phase == "Stopped"
    assert g.says("Degraded") == ("True", "NodeFailed")
    g.run(50)
    assert g.phase == "Stopped"
    assert g["n01"].changes == changes


def test_an_invalid_audit_asks_nothing_of_anybody():
    f = fleet(2).run(100)
    f.edit(profile_of("9", mode="Audit"))
    f.step(("no",))
    assert not f.plan.assignments
    assert f.phase == "Audit"


def test_drift_and_failure_after_completion_degrade_and_take_nothing_back():
    f = fleet(8, profile_of(pause_seconds=0)).run(200)
    assert f.says("Degraded") == ("False", "AsExpected")
    since = f.condition("Degraded").last_transition_time
    for name in list(f.machines)[:7]:
        f[name].bad = {"1": "drifts"}
    f.run(10)
    assert f.says("Degraded") == ("True", "Drifted")
    changed = f.condition("Degraded").last_transition_time
    assert parse_time(changed) > parse_time(since)
    assert f.condition("Degraded").message.startswith("n01, n02, n03, n04, n05 and 2 more: has a value")
    assert (f.plan.nodes.drifted, f.plan.nodes.applied) == (7, 1)
    f["n08"].bad = {"1": "fails"}
    f.run(10)
    assert f.says("Degraded") == ("True", "NodeFailed")
    assert f.condition("Degraded").last_transition_time == changed
    assert "n08 says: Invalid argument." in f.condition("Degraded").message
    assert f.plan.nodes.failed == 1
    assert set(f.values.values()) == {"1"}
    assert f.condition("Degraded").observed_generation == 7


def test_a_restore_that_fails_degrades_also_on_a_node_the_profile_is_not_for():
    f = fleet(2).run(100)
    f["n02"].selected = False
    f["n02"].delay = NEVER
    f["n02"].report = SysctlProfileReport(profile="p", revision="", state="Restoring", message="EPERM")
    f.step()
    assert f.says("Degraded") == ("True", "RestoreFailed")
    assert f.condition("Degraded").message == "n02: could not put every value back yet. n02 says: EPERM."


def test_overridden_is_there_from_the_first_time_on():
    f = fleet(3).run(100)
    assert "Overridden" not in {condition.type for condition in f.plan.conditions}
    views = [
        replace(
            machine.view(),
            report=msgspec.structs.replace(
                machine.report, overridden=[OverriddenSysctl(name="net.ipv4.tcp_tw_reuse", by="profile other")]
            ),
        )
        for machine in f.machines.values()
    ]
    plan = advance(f.profile, views, f.now)
    overridden = next(condition for condition in plan.conditions if condition.type == "Overridden")
    assert (overridden.status, overridden.message) == (
        "True",
        "net.ipv4.tcp_tw_reuse is set by profile other on 3 nodes.",
    )
    f.profile = msgspec.structs.replace(
        f.profile, status=SysctlProfileStatus(conditions=list(plan.conditions), rollout=plan.state)
    )
    f.step()
    assert f.says("Overridden") == ("False", "NotOverridden")


def test_counts_add_up_to_what_is_selected():
    f = fleet(6, profile_of(max_concurrent_nodes=2, pause_seconds=10, stop_on="Never"), n06={"selected": False})
    for _ in range(30):
        f.step()
        nodes = f.plan.nodes
        assert nodes.selected == 5
        assert nodes.applied + nodes.drifted + nodes.failed + nodes.pending == 5
    assert nodes.applied == 5


class Name(str):
    """A node's name that counts how often it is compared: what a search through a list costs."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def work_of_a_step(nodes: int) -> int:
    """Lines of Python that are run, and names that are compared, in the midst of a roll-out over so many nodes."""
    names = [f"n{number:04}" for number in range(nodes)]
    f = Fleet(profile_of(max_concurrent_nodes="10%", pause_seconds=0), [Machine(name) for name in names])
    f.run(30)
    views = [replace(machine.view(), name=Name(name)) for name, machine in f.machines.items()]
    lines = 0

    def count(frame: FrameType, event: str, argument: object) -> TraceFunction:
        nonlocal lines
        del frame, argument
        lines += event == "line"
        return count

    Name.compared, before = 0, sys.gettrace()
    sys.settrace(count)
    try:
        advance(f.profile, views, f.now)
    finally:
        sys.settrace(before)
    return lines + Name.compared


def test_the_work_of_a_step_grows_no_faster_than_the_nodes():
    few, many = work_of_a_step(100), work_of_a_step(2000)
    assert few > 100, "each node is looked at"
    assert many <= 20 * few


FATES = ["", "", "", "", "fails", "drifts", "silent", "mute", "finding"]


@st.composite
def fleets(draw, fates=FATES):
    """What makes a fleet with value 1 stable, partly without writers, that may bear value 2 or not."""
    return {
        "limit": draw(st.integers(1, 4)),
        "pause": draw(st.sampled_from([0, 5, 15])),
        "stable": draw(st.booleans()),
        "machines": draw(
            st.lists(
                st.tuples(st.sampled_from([0, 5, 40]), st.sampled_from(fates), st.booleans()), min_size=1, max_size=9
            )
        ),
    }


def build(plan: dict[str, Any]) -> Fleet:
    """That fleet, about to roll value 2 out."""
    options = {"max_concurrent_nodes": plan["limit"], "pause_seconds": plan["pause"]}
    machines = [
        Machine(f"n{number}", delay=delay, bad={"2": fate} if fate else {})
        for number, (delay, fate, _) in enumerate(plan["machines"])
    ]
    f = Fleet(profile_of("1", **options), machines)
    if plan["stable"]:
        f.run(1200)
        assert f.phase == "Complete"
    f.edit(profile_of("2", **options))
    return f


@settings(deadline=None, max_examples=50)
@given(fleets())
def test_never_more_than_allowed_are_in_transition_and_a_stop_ends_at_stable_or_nothing(plan):
    f = build(plan)
    f.most_in_transition = 0
    for _ in range(400):
        f.step()
        if f.phase != "Progressing":
            break
        assert f.most_in_transition <= plan["limit"]
    assert f.phase == ("Stopped" if any(fate for _, fate, _ in plan["machines"]) else "Complete")
    if f.phase == "Stopped":
        assert set(f.values.values()) == {"1" if plan["stable"] else ""}
        touched = set(f.plan.state.batch)
        before = {name: machine.changes for name, machine in f.machines.items()}
        f.run(300)
        assert {name: machine.changes for name, machine in f.machines.items()} == before
        assert all(machine.changes == plan["stable"] for name, machine in f.machines.items() if name not in touched)
    else:
        assert set(f.values.values()) == {"2"}
        assert all(machine.in_force == "2" for machine in f.machines.values())


@settings(deadline=None, max_examples=50)
@given(fleets(), st.dictionaries(st.integers(0, 60), st.sampled_from(["killed", "killed again", "away"]), max_size=8))
def test_a_restart_at_any_step_gives_the_same_outcome(plan, restarts):
    straight, broken = build(plan), build(plan)
    for number in range(400):
        straight.step()
        happens = restarts.get(number, "")
        if happens.startswith("killed"):
            broken.call()
            first = broken.plan
            # It is there again at once, with its assignments unwritten: it must plan the same.
            again = broken.call()
            assert (again.assignments, again.state) == (first.assignments, first.state)
        if happens == "killed again":
            broken.step(killed=True)
        elif happens == "away":
            for _ in range(10):
                broken.away()
        else:
            broken.step()
    assert broken.phase == straight.phase
    assert broken.values == straight.values


@settings(deadline=None, max_examples=50)
@given(fleets(), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=10))
def test_deselected_nodes_never_have_an_assignment(plan, flips):
    f = build(plan)
    for number in range(60):
        for at, which in flips:
            machine = f.machines.get(f"n{which}")
            if at == number and machine:
                machine.selected = not machine.selected
        f.step()
        assert not any(machine.spec for machine in f.machines.values() if not machine.selected)


@settings(deadline=None, max_examples=50)
@given(fleets(fates=[""]), st.integers(0, 60))
def test_with_healthy_nodes_every_rollout_completes(plan, joins):
    f = build(plan)
    for number, (_, _, late) in enumerate(plan["machines"]):
        f[f"n{number}"].writer = not late
    f.run(joins * STEP)
    for machine in f.machines.values():
        machine.writer = True
    f.run(1500)
    assert f.phase == "Complete"
    assert all(machine.in_force == "2" for machine in f.machines.values())
    assert f.says("Progressing") == ("False", "Complete")
