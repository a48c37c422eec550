"""Which value each namespace shall have, and every way from what is to what shall be."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sockethealth_core.resources import AssignedPod, AssignedProfile, LabelSelector, SysctlValue
from sockethealth_core.sysctl_plan import (
    OWN_SPEC,
    Forget,
    Keep,
    Note,
    Place,
    Record,
    Wanted,
    Write,
    apply_order,
    decide,
    effective,
    miscarried,
    restore_order,
    selects,
)
from sockethealth_core.sysctls import NODE_PORTS, PORT_RANGE, RESERVED_PORTS

FIN, KEEPALIVE, TW = "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_tw_reuse"
POD = Place("shop/web-1", "Pods", "shop", "u-1", {"app": "web"})


def profile(name="a", target="Pods", mode="Enforce", *, values=None, **more):
    sysctls = [SysctlValue(name=key, value=value) for key, value in (values or {FIN: "30"}).items()]
    return AssignedProfile(profile=name, revision="r1", mode=mode, target=target, sysctls=sysctls, **more)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, True),
        ({"pod_selector": LabelSelector(match_labels={"app": "web"})}, True),
        ({"pod_selector": LabelSelector(match_labels={"app": "db"})}, False),
        ({"namespaces": ["shop"]}, True),
        ({"namespaces": ["bank"]}, False),
        ({"namespaces": []}, False),
        ({"pods": [AssignedPod(namespace="shop", name="web-1", uid="u-1")]}, True),
        ({"pods": [AssignedPod(namespace="shop", name="web-1", uid="u-2")]}, False),
        ({"pods": []}, False),
        ({"target": "Node"}, False),
    ],
)
def test_which_pods_a_profile_is_for(more, expected):
    assert selects(profile(**more), POD) is expected


def test_target_pods_never_selects_the_node():
    assert not selects(profile(target="Pods"), Place())
    assert selects(profile(target="Node"), Place())


def wanted(found):
    return {name: (one.value, one.profile) for name, one in found.wanted.items()}


def test_higher_priority_wins_then_the_name_and_losers_say_to_whom():
    found = effective(
        [
            profile("c", priority=1, values={FIN: "30", TW: "1"}),
            profile("b", priority=5, values={FIN: "40"}),
            profile("a", priority=1, values={FIN: "50", TW: "0"}),
        ],
        POD,
    )
    assert wanted(found) == {FIN: ("40", "b"), TW: ("0", "a")}
    assert found.overridden == {"a": {FIN: "b"}, "c": {FIN: "b", TW: "a"}}


def test_audit_takes_nothing_and_says_what_it_would_put_in_force():
    found = effective(
        [
            profile("strong", "Pods", "Audit", priority=9, values={FIN: "20", TW: "0"}),
            profile("weak", "Pods", "Audit", priority=-9, values={FIN: "25", KEEPALIVE: "60"}),
            profile("real", priority=0, values={FIN: "30"}),
        ],
        POD,
    )
    assert wanted(found) == {FIN: ("30", "real")}
    assert found.audited == {"strong": {FIN: "20", TW: "0"}, "weak": {KEEPALIVE: "60"}}
    assert found.overridden == {"weak": {FIN: "real"}}


def test_what_the_pod_sets_itself_is_left_to_it():
    place = Place("shop/web-1", "Pods", "shop", "u-1", {}, frozenset({FIN}))
    found = effective([profile(values={FIN: "30", TW: "1"}), profile("b", mode="Audit")], place)
    assert wanted(found) == {TW: ("1", "a")}
    assert found.overridden == {"a": {FIN: OWN_SPEC}, "b": {FIN: OWN_SPEC}}
    assert found.audited == {}


def test_values_are_made_canonical():
    found = effective([profile(values={PORT_RANGE: " 10240\t65000 ", RESERVED_PORTS: "20002,20000,20001"})], POD)
    assert wanted(found) == {PORT_RANGE: ("10240 65000", "a"), RESERVED_PORTS: ("20000-20002", "a")}


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({FIN: "30", "net.ipv4.ip_forward": "1"}, "ip_forward"),
        ({FIN: "30", "net.ipv4.tcp_tw_recycle": "1"}, "recycle"),
        ({FIN: "4"}, FIN),
        ({FIN: "30", "net.ipv4.tcp_max_orphans": "8192"}, "tcp_max_orphans"),
    ],
)
def test_one_refused_sysctl_refuses_the_profile(values, word):
    found = effective([profile(values=values), profile("other", values={TW: "1"})], POD)
    assert wanted(found) == {TW: ("1", "other")}
    assert word in found.refused["a"]


def test_a_sysctl_asked_for_twice_is_refused():
    twice = [SysctlValue(name=FIN, value="30"), SysctlValue(name=FIN, value="31")]
    one = AssignedProfile(profile="a", revision="r", mode="Enforce", target="Pods", sysctls=twice)
    assert "twice" in effective([one], POD).refused["a"]


def test_node_ports_must_be_reserved_by_the_profiles_together_too():
    low = profile("low", "Node", values={PORT_RANGE: "10240 65000", RESERVED_PORTS: "30000-32767"})
    assert wanted(effective([low], Place(), node_ports=NODE_PORTS))[PORT_RANGE] == ("10240 65000", "low")
    high = profile("high", "Node", priority=1, values={RESERVED_PORTS: "8080"})
    found = effective([low, high], Place(), node_ports=NODE_PORTS)
    assert wanted(found) == {RESERVED_PORTS: ("8080", "high")}
    assert "30000-32767" in found.refused["low"]


def test_reserved_ports_go_before_the_range_and_come_back_after_it():
    names = {PORT_RANGE, RESERVED_PORTS, FIN}
    assert apply_order(names) == [RESERVED_PORTS, FIN, PORT_RANGE]
    assert restore_order(names) == [PORT_RANGE, FIN, RESERVED_PORTS]


def ask(value, revision="r1"):
    return Wanted(value, "a", revision)


def record(found="60", ours=("30",), phase="Applied", **more):
    return Record(found=found, ours=ours, phase=phase, profile="a", revision="r1", **more)


INTENDED, APPLIED, RESTORING = (record(phase=phase) for phase in ("Intended", "Applied", "Restoring"))
DISPLACING = record(phase="Intended", displaced="99", reapplied=True)


@pytest.mark.parametrize(
    ("before", "current", "value", "expected"),
    [
        (None, "60", None, Keep()),
        (None, "60", "30", Note(INTENDED)),
        (None, "30", "30", Note(record(found="30", phase="Intended"))),
        (INTENDED, "60", "30", Write("30", restoring=False)),
        (INTENDED, "30", "30", Note(APPLIED)),
        (INTENDED, "99", "30", Note(DISPLACING)),
        (DISPLACING, "99", "30", Write("30", restoring=False)),
        (DISPLACING, "60", "30", Write("30", restoring=False)),
        (DISPLACING, "30", "30", Note(record(reapplied=True))),
        (DISPLACING, "98", "30", Note(record(reapplied=True))),
        (DISPLACING, "99", None, Forget(left="99")),
        (APPLIED, "30", "30", Keep()),
        (APPLIED, "99", "30", Note(DISPLACING)),
        (APPLIED, "60", "30", Note(record(phase="Intended", displaced="60", reapplied=True))),
        (record(reapplied=True), "99", "30", Keep(drifted=True)),
        (record(reapplied=True), "30", "30", Keep()),
        (APPLIED, "30", "40", Note(record(ours=("30", "40"), phase="Intended"))),
        (APPLIED, "60", "40", Note(record(ours=("40",), phase="Intended"))),
        (record(reapplied=True), "99", "40", Note(record(found="99", ours=("40",), phase="Intended"))),
        (record(ours=("30", "40"), phase="Intended"), "30", "40", Write("40", restoring=False)),
        (record(ours=("30", "40"), phase="Intended"), "40", "40", Note(record(ours=("40",)))),
        (APPLIED, "30", None, Note(RESTORING)),
        (INTENDED, "30", None, Note(RESTORING)),
        (APPLIED, "60", None, Forget()),
        (INTENDED, "60", None, Forget()),
        (APPLIED, "99", None, Forget(left="99")),
        (RESTORING, "30", None, Write("60", restoring=True)),
        (RESTORING, "60", None, Forget()),
        (RESTORING, "99", None, Forget(left="99")),
        (RESTORING, "30", "30", Note(INTENDED)),
        (RESTORING, "60", "30", Note(INTENDED)),
        (RESTORING, "99", "30", Note(record(found="99", phase="Intended"))),
    ],
)
def test_the_next_step(before, current, value, expected):
    assert decide(before, current, None if value is None else ask(value)) == expected


def test_a_new_revision_with_the_same_value_writes_nothing_and_takes_up_a_drifted_value_again():
    newer = Record(found="60", ours=("30",), phase="Applied", profile="a", revision="r2")
    assert decide(record(reapplied=True), "30", ask("30", "r2")) == Note(newer)
    step = decide(record(reapplied=True), "99", ask("30", "r2"))
    assert isinstance(step, Note)
    assert decide(step.record, "99", ask("30", "r2")) == Write("30", restoring=False)


def test_a_write_that_miscarried_goes_back_to_what_was_found():
    assert miscarried(INTENDED, "60") == Forget()
    step = miscarried(INTENDED, "29")
    assert isinstance(step, Note)
    assert decide(step.record, "29", None) == Write("60", restoring=True)


OURS = ("30", "31", "32")
THEIRS = ("90", "91", "92")


class Writer(RuleBasedStateMachine):
    """One sysctl, one writer that may die after any step, others that set it, profiles that come and go, reboots."""

    @initialize(found=st.sampled_from((*THEIRS, "30")))
    def boot(self, found):
        self.kernel = found
        self.default = found
        self.before_us = found
        self.set_by_us = False
        self.disturbed = False
        self.record = None
        self.wanted = None
        self.revision = 0

    @rule(value=st.sampled_from(OURS))
    def ask_for(self, value):
        self.revision += 1
        self.wanted = Wanted(value, "a", f"r{self.revision}")

    @rule()
    def withdraw(self):
        self.wanted = None

    @rule(value=st.sampled_from(THEIRS))
    def someone_sets(self, value):
        self.kernel = value
        self.set_by_us = False
        if self.record is None:
            self.before_us = value
        else:
            self.disturbed = True

    @rule()
    def reboot(self):
        self.boot(self.default)

    @rule(steps=st.integers(1, 12))
    def run_and_die_after(self, steps):
        for _ in range(steps):
            if not self.take_a_step():
                return

    @rule()
    def settle(self):
        for _ in range(12):
            if not self.take_a_step():
                break
        else:
            raise AssertionError(f"no end: {self.record} with {self.kernel}, wanted {self.wanted}")
        if self.wanted is None:
            assert self.record is None
            if not self.disturbed:
                assert self.kernel == self.before_us
            assert not self.set_by_us or self.kernel not in OURS or self.kernel == self.before_us
            self.before_us, self.disturbed = self.kernel, False
        elif not self.disturbed:
            assert self.kernel == self.wanted.value

    def take_a_step(self):
        step = decide(self.record, self.kernel, self.wanted)
        if isinstance(step, Keep):
            return False
        if isinstance(step, Note):
            self.record = step.record
        elif isinstance(step, Forget):
            if step.left is None and not self.disturbed:
                assert self.kernel == self.record.found
            self.record = None
            self.before_us, self.disturbed = self.kernel, False
        else:
            assert self.record is not None, "a write that no crash could undo"
            if step.restoring:
                assert self.kernel not in THEIRS, f"{self.kernel}, which someone set after us, is overwritten"
            else:
                assert step.value in self.record.ours
            self.kernel, self.set_by_us = step.value, True
        return True

    @precondition(lambda self: self.record is not None)
    @invariant()
    def what_was_found_is_never_a_value_of_ours(self):
        assert self.record.found in (*THEIRS, self.default)


TestWriter = Writer.TestCase
TestWriter.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


@given(
    st.lists(
        st.builds(
            lambda name, mode, priority, values: profile(name, "Pods", mode, priority=priority, values=values),
            st.sampled_from("abcd"),
            st.sampled_from(("Audit", "Enforce")),
            st.integers(-2, 2),
            st.dictionaries(st.sampled_from((FIN, KEEPALIVE)), st.sampled_from(("30", "40")), min_size=1),
        ),
        unique_by=lambda one: one.profile,
    )
)
def test_every_sysctl_of_every_profile_is_wanted_audited_or_overridden(profiles):
    found = effective(profiles, POD)
    for one in profiles:
        for sysctl in one.sysctls:
            places = [
                found.wanted.get(sysctl.name) == Wanted(sysctl.value, one.profile, "r1"),
                sysctl.name in found.audited.get(one.profile, {}),
                sysctl.name in found.overridden.get(one.profile, {}),
            ]
            assert places.count(True) == 1
