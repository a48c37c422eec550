"""The table of sysctls and its rules: what is let through is exactly what was meant."""

import re
import string
from itertools import pairwise
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockethealth_core.sysctl_rules import advice, combination_refusal, refusal, uncovered_listeners
from sockethealth_core.sysctls import (
    KERNEL_DEFAULTS,
    KERNEL_PORT_RANGE,
    MINIMUM_PORT_RANGE,
    PORT_RANGE,
    RESERVED_PORTS,
    SYSCTLS,
    canonical,
    find,
    merged,
    parse_port_list,
    path_of,
    safe_for_pods,
)

NAMES = [sysctl.name for sysctl in SYSCTLS]
INTEGERS = [sysctl for sysctl in SYSCTLS if sysctl.kind == "Integer"]
FIN_TIMEOUT = "net.ipv4.tcp_fin_timeout"
NODE_PORTS = (30000, 32767)

targets = st.sampled_from(["Node", "Pods"])
names = st.sampled_from(NAMES)
ports = st.integers(0, 65535)
entries = st.lists(st.tuples(ports, ports).map(sorted).map(tuple), max_size=8)
near_values = st.text("0123456789- \t\n,x", max_size=12) | st.text(max_size=12) | st.integers().map(str)


def listed(several):
    return ",".join(f"{low}-{high}" for low, high in several)


def held(several):
    return {port for low, high in several for port in range(low, high + 1)}


def mangled(name):
    """Other spellings that could lead a careless writer to a sysctl, or out of the tree."""
    return [
        name.replace(".", "/"),
        name.upper(),
        f" {name}",
        f"{name} ",
        f"{name}\n",
        f"{name}\0",
        f"{name}/",
        f"{name}.",
        f"./{name}",
        f"../{name}",
        f"net.ipv4/../{name}",
        f"/proc/sys/{name.replace('.', '/')}",
        name.replace(".", "..", 1),
        name.replace(".", "\N{ONE DOT LEADER}"),
        name.replace("e", "\N{CYRILLIC SMALL LETTER IE}"),
        name.replace("t", "\N{FULLWIDTH LATIN SMALL LETTER T}"),
        f"{name[:-1]}\N{ZERO WIDTH SPACE}{name[-1]}",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_no_other_spelling_of_an_allowed_name_is_accepted(name):
    low = {"PortRange": "10240 65000", "PortList": "8080"}.get(find(name).kind, str(find(name).low))
    assert refusal(name, low, "Node") is None
    for spelling in mangled(name):
        assert spelling != name
        assert find(spelling) is None
        assert "is not a sysctl a profile may set" in refusal(spelling, low, "Node")
        with pytest.raises(ValueError, match="is not a sysctl"):
            path_of(spelling)
        with pytest.raises(ValueError, match="is not a sysctl"):
            canonical(spelling, low)


@given(name=st.text() | st.from_regex(r"net\.(ipv4|core|netfilter)[./][a-z_./]{0,30}", fullmatch=True), target=targets)
def test_nothing_outside_of_the_table_is_accepted(name, target):
    if name not in NAMES:
        assert refusal(name, "1", target)
        with pytest.raises(ValueError, match="is not a sysctl"):
            path_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_stays_in_the_tree_and_says_the_same_name(name):
    path = PurePosixPath(path_of(name))
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert path.parts[0] in ("ipv4", "core", "netfilter")
    assert ".".join(("net", *path.parts)) == name


@given(name=names, value=near_values, target=targets)
def test_what_is_accepted_is_ascii_and_within_bounds(name, value, target):
    if refusal(name, value, target) is not None:
        return
    sysctl, spelled = find(name), canonical(name, value)
    assert value.isascii()
    assert set(spelled) <= set(string.digits + " ,-")
    assert all(sysctl.low <= int(number) <= sysctl.high for number in re.findall("[0-9]+", spelled))
    assert not (target == "Pods" and sysctl.scope == "Node")


@given(name=names, value=near_values)
def test_the_canonical_spelling_is_its_own_canonical_spelling(name, value):
    try:
        once = canonical(name, value)
    except ValueError:
        assert refusal(name, value, "Node")
        return
    assert canonical(name, once) == once


@given(number=st.integers(0, 10**7), zeros=st.integers(0, 2), before=st.text(" \t\n", max_size=3))
def test_a_number_has_one_spelling(number, zeros, before):
    assert canonical(FIN_TIMEOUT, f"{before}{'0' * zeros}{number}\n") == str(number)


@settings(deadline=None)  # sets of tens of thousands of ports
@given(several=entries)
def test_a_port_list_keeps_its_ports_and_is_merged_as_the_kernel_prints_it(several):
    spelled = canonical(RESERVED_PORTS, listed(several))
    found = parse_port_list(spelled)
    assert held(found) == held(several)
    assert all(low > previous + 1 for (_, previous), (low, _) in pairwise(found))
    assert merged(found) == list(found)


@pytest.mark.parametrize(
    ("name", "written", "spelled"),
    [
        (PORT_RANGE, "10240\t65000\n", "10240 65000"),
        (PORT_RANGE, " 10240   65000", "10240 65000"),
        (RESERVED_PORTS, "\n", ""),
        (RESERVED_PORTS, "9000, 80,81-90,30000-32767,85-100\n", "80-100,9000,30000-32767"),
        (RESERVED_PORTS, "7-7", "7"),
        (FIN_TIMEOUT, "030", "30"),
        ("net.core.somaxconn", "2147483647", "2147483647"),
        ("net.netfilter.nf_conntrack_tcp_timeout_close", "-1", "-1"),
    ],
)
def test_spellings(name, written, spelled):
    assert canonical(name, written) == spelled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (FIN_TIMEOUT, ""),
        (FIN_TIMEOUT, "30s"),
        (FIN_TIMEOUT, "3 0"),
        (FIN_TIMEOUT, "1_0"),
        (FIN_TIMEOUT, "+30"),
        (FIN_TIMEOUT, "0x1e"),
        (FIN_TIMEOUT, "\N{ARABIC-INDIC DIGIT THREE}\N{ARABIC-INDIC DIGIT ZERO}"),
        (FIN_TIMEOUT, "30\N{NO-BREAK SPACE}"),
        (FIN_TIMEOUT, "30\0"),
        (FIN_TIMEOUT, "3" * 5000),
        (PORT_RANGE, "10240"),
        (PORT_RANGE, "10240-65000"),
        (PORT_RANGE, "10240\N{EM SPACE}65000"),
        (PORT_RANGE, "65000 10240"),
        (PORT_RANGE, "0 65000"),
        (PORT_RANGE, "10240 65536"),
        (RESERVED_PORTS, "80,,90"),
        (RESERVED_PORTS, ","),
        (RESERVED_PORTS, "90-80"),
        (RESERVED_PORTS, "80-"),
        (RESERVED_PORTS, "80 90"),
        (RESERVED_PORTS, "70000"),
        (RESERVED_PORTS, "\N{SUPERSCRIPT TWO}2"),
    ],
)
def test_what_is_no_value_has_no_spelling_and_is_refused(name, value):
    with pytest.raises(ValueError, match="is n") as found:
        canonical(name, value)
    assert str(found.value).isprintable()
    sentence = refusal(name, value, "Pods")
    assert sentence.startswith(name)
    assert sentence.isprintable()
    assert len(sentence) < 1024, "the writer's report takes no more"


@pytest.mark.parametrize("sysctl", INTEGERS, ids=lambda one: one.name)
def test_bounds_are_inclusive_and_told(sysctl):
    for number in (sysctl.low, sysctl.high):
        assert refusal(sysctl.name, str(number), "Node") is None
    for number in (sysctl.low - 1, sysctl.high + 1):
        sentence = refusal(sysctl.name, str(number), "Node")
        assert str(sysctl.low) in sentence
        assert f"not '{number}'" in sentence


@pytest.mark.parametrize(
    ("name", "value", "target", "sentence"),
    [
        ("net.ipv4.tcp_tw_recycle", "1", "Node", "clients behind NAT"),
        ("net.ipv4.tcp_tw_recycle", "0", "Pods", "is never set"),
        ("net.ipv4.tcp_syncookies", "0", "Pods", "can only be 1, not '0'"),
        ("net.ipv4.tcp_max_orphans", "65536", "Pods", "use target: Node"),
        ("net.core.netdev_max_backlog", "2000", "Pods", "use target: Node"),
        ("net.netfilter.nf_conntrack_max", "262144", "Pods", "use target: Node"),
        (PORT_RANGE, "60000 50000", "Pods", "with the lower one first, not '60000 50000'"),
        (PORT_RANGE, f"20000 {20000 + MINIMUM_PORT_RANGE - 2}", "Pods", "at least 8192 ports"),
        (PORT_RANGE, "1023 65535", "Pods", "from 1024 to 65535"),
        (RESERVED_PORTS, "0", "Pods", "from 1 to 65535"),
    ],
)
def test_a_refusal_says_what_and_why(name, value, target, sentence):
    assert sentence in refusal(name, value, target)


def test_the_smallest_port_range_is_accepted():
    assert refusal(PORT_RANGE, f"20000 {20000 + MINIMUM_PORT_RANGE - 1}", "Pods") is None


def test_a_hostile_name_is_shown_harmless_and_short():
    sentence = refusal("\x1b[31m\n" + "\N{GRINNING FACE}" * 5000, "1", "Node")
    assert sentence.isascii()
    assert sentence.isprintable()
    assert len(sentence) < 1024, "the writer's report takes no more"


@pytest.mark.parametrize(
    ("ports_range", "reserved", "allowed"),
    [
        ("10240 65000", None, False),
        ("10240 65000", "30000-32767", True),
        ("10240 65000", "8080,20000-40000", True),
        ("10240 65000", "30000-32766", False),
        ("32767 65000", None, False),
        ("32767 65000", "32767", False),
        ("32768 65000", None, True),
        ("1024 29999", None, True),
        ("1024 30000", "80", False),
    ],
)
def test_node_ports_in_the_range_of_a_node_are_reserved_as_one_entry(ports_range, reserved, allowed):
    values = {PORT_RANGE: ports_range} | ({} if reserved is None else {RESERVED_PORTS: reserved})
    sentence = combination_refusal(values, "Node", NODE_PORTS)
    assert (sentence is None) == allowed
    if sentence:
        assert "30000-32767 as one entry" in sentence
    assert combination_refusal(values, "Pods", NODE_PORTS) is None
    assert combination_refusal(values, "Node", None) is None


def test_node_ports_of_a_cluster_that_chose_others():
    assert "20000-22767" in combination_refusal({PORT_RANGE: "10240 65000"}, "Node", (20000, 22767))
    assert combination_refusal({RESERVED_PORTS: "80"}, "Node", (20000, 22767)) is None


@settings(deadline=None)  # sets of tens of thousands of ports
@given(
    new=st.tuples(ports, ports).map(sorted),
    old=st.tuples(ports, ports).map(sorted),
    reserved=entries,
    listening=st.lists(ports, max_size=30),
)
def test_a_listener_is_uncovered_when_the_new_range_alone_opens_its_port(new, old, reserved, listening):
    new, old = [max(1, port) for port in new], [max(1, port) for port in old]
    found = uncovered_listeners(f"{new[0]} {new[1]}", listed(reserved), f"{old[0]}\t{old[1]}\n", listening)
    assert found == sorted(
        set(listening) & set(range(new[0], new[1] + 1)) - set(range(old[0], old[1] + 1)) - held(reserved)
    )


def test_what_a_pod_may_set_itself_grows_with_kubernetes():
    assert set(safe_for_pods(26)) == {PORT_RANGE, "net.ipv4.tcp_syncookies"}
    assert set(safe_for_pods(28)) == {*safe_for_pods(26), RESERVED_PORTS}
    assert set(safe_for_pods(29)) == {
        *safe_for_pods(28),
        FIN_TIMEOUT,
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
    }


@pytest.mark.parametrize(
    ("values", "target", "sentence"),
    [
        ({FIN_TIMEOUT: "30"}, "Node", "does not shorten TIME_WAIT"),
        ({FIN_TIMEOUT: "30"}, "Pods", "a pod may set it itself in securityContext.sysctls, from Kubernetes 1.29 on"),
        ({FIN_TIMEOUT: "060"}, "Pods", "'60' is the kernel's default"),
        ({"net.ipv4.tcp_max_tw_buckets": "5000"}, "Pods", "does not cure TIME_WAIT"),
        ({"net.ipv4.tcp_tw_reuse": "2"}, "Pods", "2 is the kernel's default"),
        ({"net.ipv4.tcp_tw_reuse": "1"}, "Pods", "outgoing connections only"),
        ({"net.ipv4.tcp_tw_reuse": "0"}, "Pods", "turns reuse off on loopback"),
        ({"net.ipv4.tcp_tw_reuse_delay": "500"}, "Pods", "set net.ipv4.tcp_tw_reuse to 1 beside it"),
        (
            {"net.ipv4.tcp_tw_reuse_delay": "500", "net.ipv4.tcp_tw_reuse": "2"},
            "Pods",
            "set net.ipv4.tcp_tw_reuse to 1 beside it",
        ),
        ({"net.core.somaxconn": "8192"}, "Pods", "until the program calls listen() anew"),
        ({"net.ipv4.tcp_max_syn_backlog": "8192"}, "Pods", "raise listen(backlog) and net.core.somaxconn"),
        ({"net.netfilter.nf_conntrack_tcp_timeout_time_wait": "30"}, "Node", "frees no port"),
        ({"net.netfilter.nf_conntrack_tcp_timeout_close": "30"}, "Pods", "Use target: Node"),
        ({"net.netfilter.nf_conntrack_tcp_timeout_established": "3600"}, "Node", "forgotten before its first probe"),
        ({"net.netfilter.nf_conntrack_max": "524288"}, "Node", "kube-proxy writes it"),
        ({RESERVED_PORTS: "8080,40000"}, "Pods", "outside of the kernel's range of 32768-60999"),
        ({"net.core.somaxconn": "8192"}, "Node", "no other pod inherits them"),
    ],
)
def test_what_will_not_help_is_said_once(values, target, sentence):
    found = advice(values, target)
    assert len([one for one in found if sentence in one]) == 1
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("values", "target", "absent"),
    [
        ({"net.ipv4.tcp_max_tw_buckets": "500000"}, "Pods", "TIME_WAIT"),
        ({"net.ipv4.tcp_tw_reuse_delay": "500", "net.ipv4.tcp_tw_reuse": "1"}, "Pods", "beside it"),
        ({"net.ipv4.tcp_tw_reuse": "2"}, "Pods", "'2' is the kernel's default"),
        ({RESERVED_PORTS: "8080", PORT_RANGE: "8000 60999"}, "Pods", "outside of the kernel's range"),
        ({RESERVED_PORTS: "40000-40010"}, "Pods", "outside of the kernel's range"),
        ({"net.netfilter.nf_conntrack_max": "524288"}, "Node", "inherits"),
        ({"net.netfilter.nf_conntrack_tcp_timeout_close": "30"}, "Node", "Use target: Node"),
        ({FIN_TIMEOUT: "1"}, "Pods", "TIME_WAIT"),
        ({FIN_TIMEOUT: "30"}, "Node", "a pod may set it itself"),
    ],
)
def test_advice_is_given_only_where_it_is_true(values, target, absent):
    assert not [one for one in advice(values, target) if absent in one]


@given(values=st.dictionaries(names | st.text(max_size=5), near_values, max_size=16), target=targets)
def test_any_profile_gets_advice_that_fits_into_its_status(values, target):
    found = advice(values, target)
    assert all(one.isprintable() for one in found)
    assert len(found) <= 4 * len(values) + 1


def test_every_entry_says_what_it_does_and_is_within_its_own_bounds():
    for sysctl in SYSCTLS:
        assert sysctl.effect.endswith(".")
        assert sysctl.no_effect.endswith(".")
        assert sysctl.low <= sysctl.high
        assert all(caution.sentence.endswith(".") for caution in sysctl.cautions)
        if sysctl.default is not None:
            assert canonical(sysctl.name, sysctl.default) == sysctl.default
            assert refusal(sysctl.name, sysctl.default, "Node") is None, "what the kernel has can be asked for"
    assert len(NAMES) == len(set(NAMES))
    assert KERNEL_DEFAULTS[PORT_RANGE] == " ".join(map(str, KERNEL_PORT_RANGE))
