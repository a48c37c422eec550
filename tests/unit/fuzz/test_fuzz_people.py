"""What people may write, built to look right: policies of odd values, expressions of odd shapes, and what takes long.

Whoever may write a SocketHealthPolicy in a namespace of their own has the operator read it: nothing in one may end the
operator, or keep it busy.
"""

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import cgroup, expression, policy, profile
from sockethealth_core.detectors import DETECTORS
from sockethealth_core.detectors.expression import check
from sockethealth_core.detectors.expression_cost import cost_of
from sockethealth_core.policy import PolicyError, read_policy
from sockethealth_core.units import parse_duration

BOUNDED = settings(
    max_examples=120,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

ODD = st.sampled_from(
    [None, True, 0, -1, 2**63, 1e308, -0.0, "", "\x00", "\ud7ff\u202e\x1b[2J", "9" * 40 + "h", [], {}, [[]], {"a": {}}]
) | st.text(max_size=12)
DURATIONS = st.sampled_from(["0s", "2m", "1h30m", "99999999999999999999h", "876000h", "876001h", "1m1ms", "h"]) | ODD
SELECTORS = st.fixed_dictionaries(
    {},
    optional={
        "matchLabels": st.dictionaries(st.text(max_size=5), ODD, max_size=2) | ODD,
        "matchExpressions": st.lists(
            st.fixed_dictionaries(
                {"key": ODD, "operator": st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "in"]) | ODD},
                optional={"values": st.lists(ODD, max_size=2)},
            ),
            max_size=2,
        ),
    },
)
RULES = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b"]) | ODD, "detector": st.sampled_from(sorted(DETECTORS)) | ODD},
    optional={
        "threshold": st.floats(allow_nan=False, allow_infinity=False) | ODD,
        "clearThreshold": st.floats(allow_nan=False, allow_infinity=False) | ODD,
        "for": DURATIONS,
        "clearAfter": DURATIONS,
        "severity": st.sampled_from(["Info", "Warning", "Critical"]) | ODD,
        "parameters": st.dictionaries(st.sampled_from(["minAge", "expression", "x"]), DURATIONS, max_size=2) | ODD,
    },
)
POLICIES = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["SocketHealthPolicy", "ClusterSocketHealthPolicy"]),
        "metadata": st.fixed_dictionaries({"name": st.just("p") | ODD}, optional={"namespace": ODD, "labels": ODD})
        | ODD,
        "spec": st.fixed_dictionaries(
            {"rules": st.lists(RULES, max_size=3) | ODD},
            optional={"podSelector": SELECTORS | ODD, "nodeSelector": SELECTORS, "mode": ODD, "actions": ODD},
        )
        | ODD,
    }
)


@BOUNDED
@given(POLICIES)
def test_a_policy_of_odd_values_breaks_nothing(raw):
    policy.run(json.dumps(raw).encode())


LEAVES = st.sampled_from(
    [
        "status", "status.sockets.established", "status.closeWait.owners", "status.listeners", "status.sysctls",
        "status.timeWait.closesPerSecond", "status.nothing", "x", "y", "0", "1", "-1", "9223372036854775807",
        "2u", "1.5", "1e308",
        "true", "false", "null", "''", "'a'", '"\\\\w+"', "r'\\d'", "b'a'", "[]", "[0,1,2]", "{}", "{'a':1}",
        "timestamp('9999-12-31T23:59:59Z')", "timestamp('0001-01-01T00:00:00Z')", "duration('1h')",
        "duration('-9e18s')", "duration('2562047h')", "'9'", "'\U0001f600'",
    ]
)  # fmt: skip
OPERATORS = ["+", "-", "*", "/", "%", "==", "!=", "<", ">=", "&&", "||", " in "]
FUNCTIONS = ["size", "int", "uint", "double", "string", "bytes", "type", "dyn", "duration", "timestamp", "has", "bool"]
METHODS = ["size", "contains", "startsWith", "endsWith", "getFullYear", "getDayOfYear", "getHours", "getMilliseconds"]
MACROS = ["all", "exists", "exists_one", "existsOne", "map", "filter"]


def larger(inner):
    return st.one_of(
        st.builds("({}{}{})".format, inner, st.sampled_from(OPERATORS), inner),
        st.builds("{}{}".format, st.sampled_from(["!", "-"]), inner),
        st.builds("{}({})".format, st.sampled_from(FUNCTIONS), inner),
        st.builds("{}.{}({})".format, inner, st.sampled_from(METHODS), inner | st.just("")),
        st.builds("{}.{}(x,{})".format, inner, st.sampled_from(MACROS), inner),
        st.builds("{}.map(y,{},{})".format, inner, inner, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("({}?{}:{})".format, inner, inner, inner),
        st.builds("[{},{}]".format, inner, inner),
        st.builds("{{{}:{}}}".format, inner, inner),
        st.builds("{}.matches({})".format, inner, st.sampled_from(["'^a'", "r'\\w'", '"(a*)*$"', "'['", "x"])),
    )


@BOUNDED
@given(st.recursive(LEAVES, larger, max_leaves=8))
def test_an_expression_of_odd_shape_breaks_nothing(text):
    expression.run(text.encode())


ITEMS = ",".join(["0"] * 64)


@pytest.mark.parametrize(
    "text",
    [
        '["a"]' + ".map(x, x+x)" * 40 + '[0] != ""',
        "[[0]]" + ".map(x, [x,x])" * 40 + " == []",
        "[0]" + ".map(,)" * 140,
    ],
)
def test_what_doubles_with_each_link_is_refused_unevaluated(text):
    (fault,) = check({"expression": text})
    assert "too many steps" in fault


@pytest.mark.parametrize(
    "between", [".all(", ". all (", ".//\nall(", ".existsOne(", ".exists_one // (\n (", ".filter("]
)
@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), (r"r'\' != '' && ", " || '' == ''"), ("'''a' '''!='b'&&", ""), ("b'\\'' != b'' && ", "")],
)
def test_macros_that_hide_behind_texts_and_comments_are_counted(between, before, after):
    text = before + "".join(f"[0,0]{between}{name}," for name in "abc") + "true" + ")))" + after
    assert cost_of(text).nesting == 3
    (fault,) = check({"expression": text})
    assert "more than 2 deep" in fault


def test_a_bracket_or_macro_within_a_text_is_none():
    text = r"""status.closeWait.owners.exists(o, o.process == "a.all(b.all(c.all(" || o.process == 'don\'t.all((')"""
    assert cost_of(text).nesting == 1
    assert check({"expression": text}) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[{ITEMS}].all(i, 'a'.matches(r'\\w{{300}}'))", "too many steps"),
        (f"[{ITEMS}].all(i, 'a'.matches('\\\\w\\x7b300}}'))", "a character by its number"),
        (f"[{ITEMS}].all(i, 'a'.matches(r'(?:(?:a{{9}}){{9}}){{9}}'))", "too many steps"),
        (f"[{ITEMS}].all(i, 'a'.matches(r'(?x)a{{ 10 00 }}'))", "too many steps"),
        ("status.closeWait.owners.all(o, 'a'.matches(o.process))", "calls matches with other than one text"),
        ("'a'.matches('a' + 'b')", "calls matches with other than one text"),
        ("'a'.matches(", "calls matches with other than one text"),
        (f"[{ITEMS}].all(i, 'a'.matches(r'" + r"\w" * 40 + "'))", "too many steps"),
    ],
)
def test_a_pattern_that_takes_long_to_compile_is_refused(text, words):
    (fault,) = check({"expression": text})
    assert words in fault


def test_a_pattern_that_is_none_is_called_so():
    (fault,) = check({"expression": "'a'.matches('(')"})
    assert "not a valid regex" in fault
    assert "\n" not in fault


@pytest.mark.parametrize(
    "text",
    [
        'status.closeWait.owners.exists(o, o.process.matches("^(java|python)-[0-9]+$") && o.count > 10)',
        "status.listeners.all(l, status.closeWait.owners.exists(o, o.process == l.process && o.count + 1 > l.queue))",
        "status.ephemeralPorts.destinations.map(d, d.used).exists(u, u > 1000)",
        " || ".join(f"status.listeners.exists(l, l.port == {port})" for port in range(20)),
        "status.closeWait.owners.exists(o, o.process.matches('^[0-9a-f]{8}-x{2,}$'))",
        r"status.closeWait.owners.exists(o, o.process.matches(r'^\p{L}+\.[0-9]{1,3}$'))",
        "status.listeners.filter(l, l.queue > 0).map(l, l.port).size() > 2",
    ],
)
def test_what_people_write_is_let_pass(text):
    assert check({"expression": text}) == []


@pytest.mark.parametrize(
    "text",
    [
        "[" + ",".join(["0"] * 40) + "].all(a,[0].all(b," + "1+" * 120 + "1>0))",
        "status.sysctls.all(a,status.sysctls.all(b," + "status==status&&" * 50 + "1>0))",
        "status.sysctls.all(a,'a'.matches(r'" + r"\w" * 11 + "'))",
        '["' + "a" * 100 + '"].map(x,' + "x+" * 9 + "x).map(x," + "x+" * 2 + "x)[0].size() > 0",
    ],
)
def test_the_dearest_that_is_let_pass_is_cheap(text):
    assert check({"expression": text}) == []
    expression.run(text.encode())


LONG = 100_000


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (profile, "net.ipv4.ip_local_port_range=" + " " * LONG),
        (profile, "net.ipv4.ip_local_port_range=1" + "\t" * LONG + "x"),
        (profile, "net.ipv4.ip_local_reserved_ports=" + "1," * LONG + "x"),
        (profile, "net.ipv4.ip_local_reserved_ports=" + "1 ," * LONG + " " * LONG + "x"),
        (profile, "net.core.somaxconn=" + "1" * LONG),
        (expression, "(" * LONG),
        (cgroup, "0::/" + "/pod" * LONG),
        (cgroup, ("0::" + "-pod12345678-1234-1234-1234-" * 8 + "\n") * 400),
        (policy, json.dumps({"kind": "SocketHealthPolicy", "spec": {"rules": [{"for": "1" * LONG + "h"}]}})),
    ],
)
def test_a_long_text_takes_time_in_proportion(target, text):
    begun = time.process_time()
    target.run(text.encode())
    assert time.process_time() - begun < 1.0


@pytest.mark.parametrize("opening", ['"', "'", '"""', "r'", "'''a", "\\", "//", "/"])
def test_no_expression_of_the_greatest_length_explodes(opening):
    begun = time.process_time()
    cost_of(opening * (1024 // len(opening)))
    assert time.process_time() - begun < 2.0, "a pattern that backtracks takes minutes"


@pytest.mark.parametrize(
    "text", ["9" * 1000 + "h", "99999999999999999999h", "876001h", "1" * 33 + "s", "0" * 40 + "1h"]
)
def test_a_duration_without_bounds_is_refused_and_shown_short(text):
    with pytest.raises(ValueError, match=r"not a duration|longer than 100 years") as refused:
        parse_duration(text)
    assert len(str(refused.value)) < 130
    rule = {"name": "one", "detector": "CloseWaitLeak", "parameters": {"minAge": text}}
    with pytest.raises(PolicyError, match="rule 'one': parameter minAge"):
        read_policy({"kind": "SocketHealthPolicy", "metadata": {"name": "p"}, "spec": {"rules": [rule]}})


def test_a_century_is_a_duration():
    assert parse_duration("876000h") == 100 * 365 * 86400
