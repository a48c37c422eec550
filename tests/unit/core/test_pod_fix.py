"""What sysctls help a pod, what each carries, and where it can be set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.detectors import DETECTORS, Subject
from sockethealth_core.pod_fix import Fix, Platform, PodSpec, fix_for, may_set, port_list
from sockethealth_core.resources import (
    CloseWait,
    Destination,
    EphemeralPorts,
    Facts,
    Finding,
    Listener,
    Owner,
    Peer,
    Rates,
    Sockets,
    Target,
)
from sockethealth_core.resources.sockethealth import AgeCount
from sockethealth_core.sysctl_rules import combination_refusal, refusal
from sockethealth_core.sysctls import NODE_PORTS, parse_port_list

RANGE = "net.ipv4.ip_local_port_range"
RESERVED = "net.ipv4.ip_local_reserved_ports"
REUSE = "net.ipv4.tcp_tw_reuse"
RECENT = Platform(34, "6.18.0")
ANY = PodSpec()


def finding(name: str, facts: Facts, severity="Critical") -> Finding:
    """What the default rules would say."""
    detector = DETECTORS[name]
    reading = detector.measure(facts, detector.parameters)
    assert reading is not None
    advice = detector.advise(Subject("pod", "web-1", "shop"), facts, reading)
    return Finding(
        type=name,
        severity=severity,
        since="2026-01-02T03:04:05Z",
        policy=DEFAULT_POLICY.metadata.name,
        rule="rule",
        value=reading.value,
        target=reading.target,
        evidence=dict(reading.evidence),
        message=advice.message,
        remedy=advice.remedy,
    )


def fixed(name: str, facts: Facts, pod: PodSpec = ANY, platform: Platform = RECENT) -> Fix:
    return fix_for([finding(name, facts)], facts, pod, platform)


def values(settings) -> dict[str, str]:
    return {setting.name: setting.value for setting in settings}


def reasons(settings, name: str) -> str:
    return " ".join(next(setting.reasons for setting in settings if setting.name == name))


def busy(rate: float = 430, *, low=32768, high=60999, held_open=10, address="10.0.0.9", **fields) -> Facts:
    usable = high - low + 1
    used = usable * 9 // 10
    worst = Destination(
        address=address,
        port=6379,
        used=used,
        used_percent=90,
        time_wait=used - held_open,
        closes_per_second=rate,
        seconds_to_exhaustion=12,
    )
    return Facts(ephemeral_ports=EphemeralPorts(low=low, high=high, usable=usable, destinations=[worst]), **fields)


def test_a_wider_range_says_what_it_carries_instead():
    found = fixed("EphemeralPortExhaustion", busy())
    assert values(found.sysctls) == {RANGE: "10240 64999"}
    told = reasons(found.changed, RANGE)
    assert "25,408 of 28,232 local ports in use to 10.0.0.9:6379, 430 closes/s" in told
    # 54,760 ports / 60 s, and 28,232 / 60 s.
    assert "carries 913 connections/s to one destination instead of 471" in told
    (step,) = found.first
    assert step.startswith("EphemeralPortExhaustion: Reuse connections: a pool of about 15 carries this rate")


def test_a_range_that_is_too_narrow_for_the_rate_says_that_it_only_delays():
    told = reasons(fixed("EphemeralPortExhaustion", busy(rate=1500)).changed, RANGE)
    assert "less than the 1,500 closes/s measured, so it only delays the end" in told
    assert "delays" not in reasons(fixed("EphemeralPortExhaustion", busy(rate=900)).changed, RANGE)


def test_a_range_as_wide_as_it_gets_is_not_made_narrower():
    found = fixed("EphemeralPortExhaustion", busy(low=1024, high=65535), PodSpec(sysctls={RANGE: "1024 65535"}))
    assert not found.changes_template
    assert "leaves 64,512 ports already" in found.advice[0]


def test_listeners_that_a_range_covers_are_reserved_with_what_was_reserved_before():
    facts = busy(listeners=[Listener(address="::", port=50051)])
    pod = PodSpec(ports=frozenset({8080, 15020, 15021}), sysctls={RESERVED: "40000"})
    found = fixed("EphemeralPortExhaustion", facts, pod)
    assert values(found.sysctls) == {RESERVED: "15020-15021,40000,50051", RANGE: "10240 64999"}
    assert "913 connections/s" in reasons(found.changed, RANGE), "54,756 ports / 60 s"


def test_before_kubernetes_1_27_the_range_avoids_listeners_and_keeps_ends_of_different_parity():
    pod = PodSpec(ports=frozenset({15021, 50051}))
    found = fixed("EphemeralPortExhaustion", busy(), pod, Platform(26))
    assert values(found.sysctls) == {RANGE: "15022 50049"}, "50050 is even, as 15022 is"
    assert "584 connections/s" in reasons(found.changed, RANGE)


def test_before_kubernetes_1_27_a_listener_in_the_middle_can_leave_nothing_to_gain():
    found = fixed("EphemeralPortExhaustion", busy(), PodSpec(ports=frozenset({37000})), Platform(26))
    assert not found.changes_template
    assert "a wider one is not to be had" in found.advice[0]


def test_ports_of_listeners_that_leave_no_good_range_are_told_instead():
    everywhere = frozenset(range(11000, 65000, 5000))
    own = {RANGE: "50000 50500"}
    facts = Facts(sysctls=own, ephemeral_ports=EphemeralPorts(low=50000, high=50500, usable=501))
    found = fixed("UnsafeSysctl", facts, PodSpec(sysctls=own, ports=everywhere), Platform(26))
    assert not found.changes_template
    assert "No good range is left between the pod's listeners" in found.advice[0]


def test_reuse_is_for_a_profile_and_says_how_else_a_pod_gets_it():
    found = fixed("EphemeralPortExhaustion", busy())
    assert values(found.profile) == {REUSE: "1"}
    told = reasons(found.profile, REUSE)
    assert "after 1 s instead of 60 s" in told
    assert "--allowed-unsafe-sysctls=net.ipv4.tcp_tw_reuse" in told


@pytest.mark.parametrize(
    ("sysctls", "address"),
    [
        ({REUSE: "1"}, "10.0.0.9"),
        ({"net.ipv4.tcp_timestamps": "0"}, "10.0.0.9"),
        ({}, "127.0.0.1"),
    ],
    ids=["in force", "without timestamps", "on loopback by default"],
)
def test_reuse_is_not_offered_where_it_is_in_force_or_cannot_work(sysctls, address):
    assert fixed("EphemeralPortExhaustion", busy(address=address, sysctls=sysctls)).profile == ()


def test_a_pod_that_runs_with_an_unsafe_sysctl_may_keep_setting_it():
    pod = PodSpec(sysctls={REUSE: "2"}, running=frozenset({REUSE}))
    found = fixed("EphemeralPortExhaustion", busy(), pod)
    assert values(found.sysctls)[REUSE] == "1"
    assert found.profile == ()


def test_other_sysctls_of_the_template_stay_in_their_order():
    pod = PodSpec(sysctls={"kernel.shm_rmid_forced": "1", RANGE: "20000 40000", "net.core.somaxconn": "9"})
    found = fixed("EphemeralPortExhaustion", busy(low=20000, high=40000), pod)
    assert list(values(found.sysctls).items()) == [
        ("kernel.shm_rmid_forced", "1"),
        (RANGE, "10240 64999"),
        ("net.core.somaxconn", "9"),
    ]
    assert [setting.name for setting in found.changed] == [RANGE]


def test_what_the_template_has_already_is_not_printed_again():
    found = fixed("EphemeralPortExhaustion", busy(), PodSpec(sysctls={RANGE: "10240 64999"}))
    assert not found.changes_template
    assert "in the template already, and not in this pod" in found.advice[0]


def test_with_host_network_everything_is_for_a_profile_of_nodes_with_node_ports_reserved():
    found = fixed("EphemeralPortExhaustion", busy(), PodSpec(host_network=True, ports=frozenset({9100, 19100})))
    assert not found.changes_template
    assert values(found.profile) == {
        RANGE: "10240 64999",
        RESERVED: "10248-10259,19100,30000-32767",
        REUSE: "1",
    }
    assert NODE_PORTS in parse_port_list(values(found.profile)[RESERVED])
    # 54,760 - 12 - 1 - 2,768 = 51,979 ports.
    assert "866 connections/s" in reasons(found.profile, RANGE)
    assert "SysctlForbidden" not in reasons(found.profile, REUSE)


def test_harmless_time_wait_is_left_alone_unless_asked_for():
    facts = busy()
    found = [finding("OutboundTimeWait", facts, "Info")]
    assert fix_for(found, facts, ANY, RECENT) == Fix()
    asked = fix_for(found, facts, ANY, RECENT, include_info=True)
    assert values(asked.sysctls) == {RANGE: "10240 64999"}
    assert asked.profile == ()
    assert asked.first == ("OutboundTimeWait: Nothing is broken.",)


def test_fin_wait_2_gets_a_shorter_timeout_with_what_remains():
    found = fixed("FinWait2Buildup", Facts(sockets=Sockets(fin_wait2=1800)))
    assert values(found.sysctls) == {"net.ipv4.tcp_fin_timeout": "15"}
    told = reasons(found.changed, "net.ipv4.tcp_fin_timeout")
    assert "after 15 s instead of 60 s: at the same rate about 450 remain" in told
    assert "Does not shorten TIME_WAIT" in told
    assert "by shutdown() without close(), never end by it" in told


def test_a_timeout_that_is_short_already_is_left():
    facts = Facts(sockets=Sockets(fin_wait2=1800), sysctls={"net.ipv4.tcp_fin_timeout": "10"})
    found = fixed("FinWait2Buildup", facts)
    assert not found.changes_template
    assert "tcp_fin_timeout is 10 s already" in found.advice[0]


@pytest.mark.parametrize(
    ("platform", "own"), [(Platform(28), False), (Platform(29), True), (Platform(29, "4.4.1"), False)]
)
def test_the_fin_timeout_is_the_pods_own_since_kubernetes_1_29_on_kernels_that_keep_it_by_namespace(platform, own):
    found = fixed("FinWait2Buildup", Facts(sockets=Sockets(fin_wait2=1800)), platform=platform)
    assert bool(found.changed) is own
    assert bool(found.profile) is not own


def test_close_wait_has_no_sysctl_and_names_process_and_peer():
    facts = Facts(
        sockets=Sockets(close_wait=80),
        close_wait=CloseWait(
            oldest_seconds=400,
            ages=[AgeCount(older_than_seconds=60, count=80)],
            owners=[Owner(container="app", process="java", pid=4711, count=80)],
            peers=[Peer(address="10.0.0.7", port=5432, count=80)],
        ),
    )
    found = fixed("CloseWaitLeak", facts)
    assert (found.sysctls, found.profile) == ((), ())
    (sentence,) = found.advice
    assert "no sysctl of the pod helps" in sentence
    assert "java" in sentence
    assert "10.0.0.7:5432" in sentence


def overflowing(backlog: int, **fields) -> Facts:
    listener = Listener(address="0.0.0.0", port=8080, queue=backlog + 1, backlog=backlog, process="gunicorn")
    return Facts(listeners=[listener], rates=Rates(listen_overflows=12), **fields)


def test_a_backlog_that_the_program_asks_for_is_not_helped_by_somaxconn():
    found = fixed("AcceptQueueOverflow", overflowing(128))
    assert found.profile == ()
    assert "process gunicorn asks for a backlog of 128, and somaxconn allows 4,096" in found.advice[0]


def test_a_backlog_that_somaxconn_cuts_is_helped_by_both_together():
    found = fixed("AcceptQueueOverflow", overflowing(128, sysctls={"net.core.somaxconn": "128"}))
    assert not found.changes_template
    assert values(found.profile) == {"net.core.somaxconn": "512"}
    told = reasons(found.profile, "net.core.somaxconn")
    assert "12 connections/s dropped at 0.0.0.0:8080" in told
    assert "only if process gunicorn asks listen(backlog) for as many" in told
    assert "keep the limit they started with" in told


def test_half_open_connections_get_a_syn_backlog_only_without_cookies():
    listener = Listener(address="0.0.0.0", port=80, backlog=4096, syn_recv=4000, syn_backlog=4096)
    with_cookies = fixed("SynBacklogPressure", Facts(listeners=[listener]))
    assert values(with_cookies.profile) == {"net.core.somaxconn": "16384"}
    without = fixed("SynBacklogPressure", Facts(listeners=[listener], sysctls={"net.ipv4.tcp_syncookies": "0"}))
    assert values(without.profile) == {"net.core.somaxconn": "16384", "net.ipv4.tcp_max_syn_backlog": "16384"}


def test_the_time_wait_table_grows_by_what_a_minute_adds_and_never_below_the_kernels_own():
    small = Facts(sockets=Sockets(time_wait=8192), rates=Rates(time_wait_overflows=100))
    found = fixed("TimeWaitTableOverflow", small)
    assert values(found.profile) == {"net.ipv4.tcp_max_tw_buckets": "262144"}
    assert "14,192 would be held" in reasons(found.profile, "net.ipv4.tcp_max_tw_buckets")
    large = Facts(sockets=Sockets(time_wait=262_144), rates=Rates(time_wait_overflows=1000))
    (value,) = values(fixed("TimeWaitTableOverflow", large).profile).values()
    assert 262_144 + 60_000 < int(value) < 2 * 262_144


def test_unsafe_settings_of_the_template_are_corrected_or_left_out():
    own = {"net.ipv4.tcp_syncookies": "0", "net.ipv4.tcp_max_tw_buckets": "512", RANGE: "50000 50500"}
    facts = Facts(
        sysctls={**own, "net.ipv4.tcp_timestamps": "0", REUSE: "1"},
        ephemeral_ports=EphemeralPorts(low=50000, high=50500, usable=501),
    )
    found = fixed("UnsafeSysctl", facts, PodSpec(sysctls=own, running=frozenset(own)))
    assert values(found.sysctls) == {"net.ipv4.tcp_syncookies": "1", RANGE: "10240 64999"}
    assert values(found.removed) == {"net.ipv4.tcp_max_tw_buckets": "512"}
    (sentence,) = found.advice
    assert "net.ipv4.tcp_timestamps is 0" in sentence
    assert "look for an init container" in sentence


def test_listeners_in_a_range_that_someone_chose_are_reserved_and_those_not_known_are_told():
    ports = EphemeralPorts(low=10000, high=60000, usable=49_999, listening=2)
    own = {RANGE: "10000 60000"}
    found = fixed("UnsafeSysctl", Facts(ephemeral_ports=ports), PodSpec(sysctls=own, ports=frozenset({15021, 8080})))
    assert values(found.sysctls) == {RANGE: "10000 60000", RESERVED: "15021"}
    assert "Of these 2 the pod's spec declares 1" in found.advice[0]


def test_one_finding_of_two_policies_counts_once():
    facts = busy()
    twice = [finding("EphemeralPortExhaustion", facts, severity) for severity in ("Warning", "Critical")]
    once = fix_for(twice, facts, ANY, RECENT)
    assert "(Critical)" in reasons(once.changed, RANGE)
    assert "(Warning)" not in reasons(once.changed, RANGE)


def test_no_finding_no_fix():
    assert fix_for([], busy(), PodSpec(sysctls={RANGE: "1024 65535"}), RECENT).changes_template is False


def test_a_reserved_list_that_cannot_be_read_is_told():
    found = fixed("EphemeralPortExhaustion", busy(), PodSpec(sysctls={RESERVED: "many"}))
    assert any("'many' is neither a port" in sentence for sentence in found.advice)


@pytest.mark.parametrize(
    ("ports", "text"), [([], ""), ([80], "80"), ([3, 1, 2, 9, 2], "1-3,9"), ([65535, 65534], "65534-65535")]
)
def test_a_list_of_ports_is_as_short_as_it_can_be(ports, text):
    assert port_list(ports) == text


def test_with_host_network_a_pod_may_set_nothing():
    assert not any(
        may_set(name, PodSpec(host_network=True, running=frozenset({RANGE})), RECENT) for name in (RANGE, REUSE)
    )


ranges = st.tuples(st.integers(1024, 65535), st.integers(1024, 65535)).filter(lambda ends: ends[1] - ends[0] >= 10)


@given(
    ends=ranges,
    ports=st.frozensets(st.integers(1, 65535), max_size=60),
    reserved=st.lists(st.integers(1, 65535), max_size=10),
    minor=st.integers(20, 40),
    host_network=st.booleans(),
    numbers=st.tuples(st.integers(1000, 500_000), st.integers(1000, 10_000_000), st.integers(128, 65535)),
)
def test_whatever_the_pod_every_generated_sysctl_passes_the_projects_own_rules(
    ends, ports, reserved, minor, host_network, numbers
):
    fin_wait2, time_wait, somaxconn = numbers
    facts = busy(
        low=ends[0],
        high=ends[1],
        held_open=1,
        sysctls={"net.core.somaxconn": str(somaxconn), RESERVED: port_list(reserved), "net.ipv4.tcp_syncookies": "0"},
        sockets=Sockets(fin_wait2=fin_wait2, time_wait=time_wait),
        rates=Rates(time_wait_overflows=time_wait / 100, listen_overflows=5),
        listeners=[Listener(address="::", port=80, backlog=somaxconn, syn_recv=somaxconn, syn_backlog=somaxconn)],
    )
    pod = PodSpec(host_network=host_network, ports=ports, sysctls={"net.ipv4.tcp_syncookies": "0"})
    types = (
        "EphemeralPortExhaustion",
        "FinWait2Buildup",
        "AcceptQueueOverflow",
        "SynBacklogPressure",
        "TimeWaitTableOverflow",
        "UnsafeSysctl",
    )
    found = fix_for([finding(name, facts) for name in types], facts, pod, Platform(minor))
    target = "Node" if host_network else "Pods"
    for setting in (*found.changed, *found.profile):
        assert refusal(setting.name, setting.value, target) is None, setting
    assert combination_refusal(values(found.profile), target, NODE_PORTS) is None
    both = values((*found.changed, *found.profile))
    if RANGE in both:
        low, high = map(int, both[RANGE].split())
        assert (high - low) % 2 == 1
        kept = {port for first, last in parse_port_list(both.get(RESERVED, "")) for port in range(first, last + 1)}
        assert not {port for port in ports if low <= port <= high} - kept, "a listener could lose its port"


def test_the_target_of_a_finding_is_the_destination_told():
    facts = busy()
    named = finding("EphemeralPortExhaustion", facts)
    target = Target(address="10.0.0.9", port=6379, name="Service shop/redis")
    (setting,) = fix_for([_with(named, target)], facts, ANY, RECENT).changed
    assert "to Service shop/redis (10.0.0.9:6379)" in setting.reasons[0]


def _with(found: Finding, target: Target) -> Finding:
    return Finding(**{name: getattr(found, name) for name in found.__struct_fields__} | {"target": target})
