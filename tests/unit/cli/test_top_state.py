from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_cli.naming import NamedNetns
from sockethealth_cli.objects import subject, with_judgement
from sockethealth_cli.policies import default_rule_set
from sockethealth_cli.top_state import HISTORY, SORTS, Samples, View, ordered, pressed, row_of, sparkline, window
from sockethealth_core.engine import evaluate, snapshot
from sockethealth_core.resources import Judgement, Rates
from unit.cli.builders import NOW, closing_first, exhausted, judged, leaking, netns, quiet

RULES = default_rule_set().rules


def row(name: str, facts=None):
    return row_of(judged(name, facts or quiet()))


def keys(view: View, *pressed_keys: str, rows=()) -> View:
    for key in pressed_keys:
        view = pressed(view, key, rows)
    return view


THREE = [row("calm"), row("leaky", leaking()), row("busy", exhausted())]


@pytest.mark.parametrize(
    ("key", "first"), [("P", "busy"), ("T", "busy"), ("C", "leaky"), ("E", "calm"), ("N", "busy"), ("c", "leaky")]
)
def test_a_key_sorts_by_its_column_with_the_most_first(key, first):
    assert ordered(THREE, keys(View(), key))[0].name == first


def test_r_turns_the_order_round_and_again_back():
    view = keys(View(), "N", "R")
    assert [one.name for one in ordered(THREE, view)] == ["leaky", "calm", "busy"]
    assert ordered(THREE, keys(view, "r")) == ordered(THREE, keys(View(), "N"))


@given(st.permutations(THREE), st.sampled_from(list(SORTS)), st.booleans())
def test_the_order_does_not_depend_on_the_order_of_discovery(rows, sort, is_reversed):
    view = View(sort=sort, reversed=is_reversed)
    assert ordered(rows, view) == ordered(THREE, view)


@pytest.mark.parametrize("key", ["q", "Q", "interrupt"])
def test_q_and_ctrl_c_quit(key):
    assert keys(View(), key).quit


def test_ctrl_c_quits_from_every_screen_and_q_only_leads_back_to_the_table():
    for screen in ("details", "help", "delay"):
        view = View(screen=screen)
        assert keys(view, "interrupt").quit
        assert keys(view, "q") == View()


@pytest.mark.parametrize("key", ["h", "?"])
def test_help_opens_and_closes_with_the_same_key(key):
    assert keys(View(), key).screen == "help"
    assert keys(View(), key, key) == View()


def test_space_pauses_and_goes_on():
    assert keys(View(), " ").paused
    assert not keys(View(), " ", " ").paused


@pytest.mark.parametrize(
    ("typed", "delay"), [("5", 5), ("0.5", 0.5), ("0", 0.2), ("99999", 3600), ("", 2), (".", 2), ("x1y", 1)]
)
def test_a_delay_is_typed_and_bounded_and_nonsense_leaves_it(typed, delay):
    view = keys(View(), "d", *typed, "enter")
    assert (view.screen, view.delay, view.entry) == ("table", delay, "")


def test_a_delay_can_be_corrected_and_given_up():
    assert keys(View(), "s", "9", "backspace", "4", "enter").delay == 4
    assert keys(View(), "s", "9", "escape") == View()


def test_arrows_choose_a_namespace_that_stays_chosen_as_it_moves():
    view = keys(View(), "down", "down", "down", rows=THREE)
    assert view.selected == "leaky"
    assert keys(view, "C", rows=THREE).selected == "leaky"
    assert keys(view, "home", "end", "down", rows=THREE).selected == "leaky", "the last one stays the last one"
    assert keys(view, "home", "up", rows=THREE).selected == "busy"


def test_arrows_without_any_namespace_do_nothing():
    assert keys(View(), "down", "enter", rows=()) == View()


def test_one_that_is_gone_is_not_chosen_any_more():
    view = replace(View(), selected="gone")
    assert keys(view, "enter", rows=THREE).selected == "busy"
    assert keys(view, "down", rows=THREE).selected == "busy"


def test_enter_shows_details_that_scroll_and_enter_leads_back():
    view = keys(View(), "enter", "down", "down", "up", rows=THREE)
    assert (view.screen, view.selected, view.scroll) == ("details", "busy", 1)
    assert keys(view, "enter").screen == "table"
    assert keys(view, "home").scroll == 0


def test_a_key_without_meaning_changes_nothing():
    for key in ("x", "1", "pageleft", "\u00e9"):
        assert keys(View(), key, rows=THREE) == View()


def test_the_history_has_the_last_samples_and_forgets_who_is_gone():
    samples = Samples()
    for number in range(HISTORY + 5):
        samples = samples.followed_by([row("a", quiet(number)), row("b")], at=float(number))
    samples = samples.followed_by([row("a", quiet(99))], at=99.0)
    assert [one.item.status.sockets.established for one in samples.history["a"]] == [*range(6, HISTORY + 5), 99]
    assert set(samples.history) == {"a"}


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30))
def test_a_sparkline_has_a_bar_for_each_value_and_the_highest_is_full(values):
    line = sparkline(values)
    assert len(line) == len(values)
    assert set(line) <= set("▁▂▃▄▅▆▇█")
    if max(values) > 0:
        assert line[values.index(max(values))] == "█"


def test_a_sparkline_of_nothing_is_flat():
    assert sparkline([0, 0, 0]) == "▁▁▁"
    assert sparkline([]) == ""


@given(st.integers(0, 200), st.integers(0, 60), st.data())
def test_the_chosen_row_is_always_among_those_shown(total, height, data):
    chosen = data.draw(st.none() | st.integers(0, total - 1)) if total else None
    first, last = window(total, chosen, height)
    assert 0 <= first <= last <= total
    assert last - first == min(total, height)
    if chosen is not None and height:
        assert first <= chosen < last


def test_new_connections_are_those_opened_and_those_accepted():
    facts = replace_rates(quiet(), Rates(active_opens=3.0, passive_opens=4.5))
    assert row("a", facts).opens_per_second == 7.5


def replace_rates(facts, rates):
    return type(facts)(**{name: getattr(facts, name) for name in facts.__struct_fields__} | {"rates": rates})


def in_time(facts, previous: Judgement, now: float):
    named = NamedNetns("web", "web", netns())
    judgement = evaluate(subject(named), facts, RULES, previous, now).judgement
    instant = snapshot(subject(named), facts, RULES, now).findings
    shown = row_of(with_judgement(named, facts, judgement, node_name="machine"), instant)
    return judgement, (shown.finding.type, shown.finding.severity, shown.is_pending)


def test_a_finding_is_pending_until_the_rules_for_has_passed():
    judgement, at_first = in_time(leaking(), Judgement(), NOW)
    assert at_first == ("CloseWaitLeak", "Warning", True)
    judgement, before = in_time(leaking(), judgement, NOW + 119)
    assert before == ("CloseWaitLeak", "Warning", True)
    _, after = in_time(leaking(), judgement, NOW + 120)
    assert after == ("CloseWaitLeak", "Warning", False)


def test_of_several_pending_the_worst_is_shown():
    _, shown = in_time(exhausted(), Judgement(), NOW)
    assert shown == ("EphemeralPortExhaustion", "Critical", True)


def test_an_active_finding_comes_before_a_pending_one():
    judgement, _ = in_time(closing_first(), Judgement(), NOW)
    judgement, shown = in_time(closing_first(), judgement, NOW + 121)
    assert shown == ("InboundTimeWait", "Info", False)
