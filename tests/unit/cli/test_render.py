import io
import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from sockethealth_cli import output, render
from sockethealth_cli.text import printable
from sockethealth_core.resources import encode
from unit.cli.builders import closing_first, exhausted, judged, leaking, quiet

SGR = re.compile(r"\x1b\[[0-9;]*m")


def shown(items, width: int = 80, *, terminal: bool = False, place: render.Place = "machine", env=None) -> str:
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        _environ=env or {},
        highlight=False,
    )
    console.print(render.report(items, place), crop=False)
    return file.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


ANY_FACTS = st.one_of(
    st.builds(quiet, st.integers(0, 10**7)),
    st.builds(
        exhausted, st.integers(15_000, 28_232), st.sampled_from(["10.0.0.1", "2001:db8:1111:2222:3333:4444:5:6"])
    ),
    st.builds(leaking, st.integers(50, 10**6), st.text(max_size=15)),
    st.builds(closing_first, st.integers(1000, 10**6)),
)


@given(st.lists(st.tuples(st.from_regex(r"[a-z0-9]{1,63}", fullmatch=True), ANY_FACTS), max_size=6))
def test_no_line_is_wider_than_80_columns_and_no_control_character_is_shown(pairs):
    text = shown([judged(name, facts) for name, facts in pairs])
    assert max(cell_len(line) for line in text.splitlines()) <= 80  # columns: a combining character takes none
    assert all(char.isprintable() or char == "\n" for char in text)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_the_worst_comes_first(kinds):
    made = [quiet(), closing_first(), leaking(), exhausted()]
    items = [judged(f"n{index}", made[kind]) for index, kind in enumerate(kinds)]
    lines = shown(items).splitlines()[1 : len(items) + 1]
    order = [int(line.split()[0][1:]) for line in lines]
    assert [kinds[index] for index in order] == sorted(kinds, reverse=True)


def test_the_table_has_the_contracts_columns_and_numbers():
    header, row, *_ = shown([judged("web", exhausted(used=25_409))]).splitlines()
    assert header.split() == ["NAMESPACE", "HEALTH", "ESTAB", "TIME-WAIT", "CLOSE-WAIT", "PORTS", "FINDING"]
    assert row.split() == ["web", "Critical", "0", "25409", "0", "90%", "EphemeralPortExhaustion"]


def test_a_long_name_is_shown_whole_and_the_finding_stays_on_one_line():
    name = "a-name-of-sixty-three-characters-" + "x" * 30
    lines = shown([judged(name, exhausted())]).splitlines()
    table = lines[1 : lines.index("")]
    assert "".join(line.split()[0] for line in table) == name
    assert table[0].rstrip().endswith("EphemeralPortExhaustion")


def test_a_finding_says_who_what_and_what_helps_in_that_order():
    text = words(shown([judged("web", leaking(count=80, comm="java"))]))
    message = text.index("web holds 80 CLOSE_WAIT sockets older than 1m")
    assert text.index("Warning CloseWaitLeak web") < message
    assert message < text.index("What helps: Fix the code of process java (pid 4711)") < text.index("Runbook: https://")


def test_an_info_finding_is_told_without_remedy_and_leaves_health_healthy():
    text = words(shown([judged("web", closing_first())]))
    assert "Info InboundTimeWait web" in text
    assert "What helps" not in text
    assert "Network namespace web is healthy" in text


def test_a_healthy_machine_is_told_so_in_one_sentence():
    lines = shown([judged("a", quiet(3)), judged("b", quiet(4))]).splitlines()
    assert lines[-1].strip() == "All 2 network namespaces are healthy (7 TCP sockets)."


def test_the_summary_counts_by_health():
    items = [judged("a", exhausted()), judged("b", leaking()), judged("c", quiet()), judged("d", quiet())]
    assert "4 network namespaces: 1 Critical, 1 Warning, 2 Healthy." in shown(items)


def test_a_cluster_has_namespace_and_name():
    item = judged("web-1", quiet())
    header, row, *_ = shown([item], place="cluster").splitlines()
    assert header.split()[:3] == ["NAMESPACE", "NAME", "HEALTH"]
    assert row.split()[:2] == ["web-1", "Healthy"]


def test_a_pods_name_stays_on_one_line_however_narrow_the_terminal():
    item = judged("checkout-worker-7d9f8b6c5d-x2x4z-and-more", exhausted())
    row = shown([item], width=60, place="cluster").splitlines()[1]
    assert row.split()[0] == item.metadata.name
    assert row.rstrip().endswith("EphemeralPortExhaustion")


def test_colours_are_for_terminals_only():
    items = [judged("web", exhausted())]
    assert "\x1b" not in shown(items)
    assert SGR.search(shown(items, terminal=True))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown(items, terminal=True, env={"NO_COLOR": "1"}))


@pytest.mark.parametrize("hostile", ["\x1b]0;pwned\x07", "a\u202eb", "a\nb", "\x9b2J"])
def test_a_hostile_process_name_is_shown_escaped(hostile):
    text = shown([judged("web", leaking(comm=hostile))], terminal=True)
    assert hostile not in text
    assert printable(hostile) in words(SGR.sub("", text))


def test_markup_in_a_name_is_text():
    assert "process [red]x[/] (pid" in words(shown([judged("web", leaking(comm="[red]x[/]"))]))


@pytest.mark.parametrize(("form", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_json_and_yaml_are_lists_with_every_field_and_no_raw_escape(form, parse):
    items = [encode(judged("web", leaking(comm="\x1b[2J")))]
    text = output.serialized(items, form)
    assert "\x1b" not in text
    whole = parse(text)
    assert (whole["apiVersion"], whole["kind"]) == ("v1", "List")
    (item,) = whole["items"]
    assert (item["apiVersion"], item["kind"]) == ("sockethealth.io/v1alpha1", "SocketHealth")
    status = item["status"]
    assert set(status["sockets"]) == {
        "established", "synSent", "synRecv", "finWait1", "finWait2",
        "timeWait", "closeWait", "lastAck", "closing", "listen",
    }  # fmt: skip
    assert status["listeners"] == []
    assert status["ephemeralPorts"]["destinations"] == []
    assert status["closeWait"]["owners"] == [{"container": "", "process": "\x1b[2J", "pid": 4711, "count": 80}]
    assert set(status["rates"]) >= {"activeOpens", "listenOverflows", "timeWaitOverflows"}
    (finding,) = status["findings"]
    assert finding["since"] == "2023-11-14T22:13:20Z"
    assert {"type", "severity", "policy", "rule", "value", "threshold", "message", "remedy", "runbook"} <= set(finding)


def test_of_many_findings_the_worst_are_told_and_the_number_of_the_others():
    items = [judged(f"leaky-{number}", leaking()) for number in range(9)] + [judged("web", exhausted())]
    file = io.StringIO()
    Console(file=file, width=80).print(render.report(items, "cluster", most=3))
    text = words(file.getvalue())
    others = sum(len(item.status.findings) for item in items) - 3
    assert text.count("What helps:") == 3
    assert text.index("Critical EphemeralPortExhaustion web") < text.index("Warning CloseWaitLeak leaky-0")
    assert f"And {others} further findings" in text
