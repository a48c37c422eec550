"""Whatever the numbers are, what is drawn is within its picture and can be read."""

import re
import xml.etree.ElementTree as ET
from math import isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockethealth_cli.report import svg
from sockethealth_cli.report.svg import NARROW, WIDE, Scale, Words
from sockethealth_cli.report.timeline import Series
from unit.cli.builders import NOW
from unit.cli.report_builders import running_out

WORDS = Words("i0-test", "Title <&", "Description")
KEYS = ("established", "timeWaitOutbound", "closeWait")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
PAIR = re.compile(r"[ML](-?[\d.]+) (-?[\d.]+)")

values = st.one_of(
    st.none(),
    st.floats(min_value=0, max_value=1e9, allow_nan=False, width=32),
    st.integers(min_value=0, max_value=65_536),
)


@st.composite
def pictures(draw):
    """Times and series over them."""
    count = draw(st.integers(min_value=1, max_value=30))
    gaps = draw(st.lists(st.floats(min_value=0.2, max_value=1e5), min_size=count, max_size=count))
    times = [NOW + sum(gaps[:index]) for index in range(count)]
    several = draw(st.integers(min_value=1, max_value=3))
    series = [
        Series(
            f"sockets.{KEYS[place]}",
            KEYS[place],
            "sockets",
            tuple(draw(st.lists(values, min_size=count, max_size=count))),
        )
        for place in range(several)
    ]
    return times, series


def parsed(text):
    assert "nan" not in text.lower()
    assert "inf" not in text
    return ET.fromstring(text)  # noqa: S314 (our own drawing)


def points_of(picture, kind):
    for path in picture.iter("path"):
        if kind in (path.get("class") or "").split():
            yield from ((float(x), float(y)) for x, y in PAIR.findall(path.get("d") or ""))


def assert_within(points, frame):
    for x, y in points:
        assert frame.left - 2.1 <= x <= frame.plot_right + 2.1
        assert frame.top - 0.1 <= y <= frame.plot_bottom + 0.1


@settings(max_examples=40)
@given(pictures(), st.sampled_from([WIDE, NARROW]))
def test_every_point_of_an_area_is_within_the_plot(picture, frame):
    times, series = picture
    drawn = parsed(svg.stacked(WORDS, times, series, frame, since=times[-1]))
    points = list(points_of(drawn, "area"))
    assert points
    assert_within(points, frame)


@settings(max_examples=40)
@given(pictures(), st.sampled_from([WIDE, NARROW]))
def test_every_point_of_a_line_is_within_the_plot(picture, frame):
    times, series = picture
    limit = Series("limit", "limit", "ports", (28_232.0,) * len(times))
    drawn = parsed(svg.lines(WORDS, times, series, frame, limit=limit))
    assert_within(points_of(drawn, "line"), frame)
    assert_within(points_of(drawn, "limit"), frame)


@settings(max_examples=40)
@given(pictures())
def test_every_known_value_between_unknown_ones_is_a_dot(picture):
    times, series = picture
    drawn = parsed(svg.lines(WORDS, times, series, WIDE))
    alone = 0
    for one in series:
        padded = (None, *one.values, None)
        alone += sum(
            here is not None and before is None and after is None
            for before, here, after in zip(padded, padded[1:], padded[2:], strict=False)
        )
    assert len(list(drawn.iter("circle"))) == alone


def test_the_higher_value_is_higher_in_the_picture_and_the_later_one_further_right():
    drawn = parsed(svg.lines(WORDS, [NOW, NOW + 10], [Series("a.b", "a", "sockets", (10.0, 20.0))], WIDE))
    (first_x, first_y), (last_x, last_y) = points_of(drawn, "line")
    assert last_y < first_y
    assert (first_x, last_x) == (WIDE.left, WIDE.plot_right)


def test_areas_are_stacked_from_zero_to_the_sum():
    times = [NOW, NOW + 10]
    low = Series("sockets.established", "low", "sockets", (10.0, 10.0))
    high = Series("sockets.closeWait", "high", "sockets", (30.0, 30.0))
    drawn = parsed(svg.stacked(WORDS, times, [low, high], WIDE))
    edges = [path for path in drawn.iter("path") if "edge" in (path.get("class") or "")]
    assert [path.get("class") for path in edges] == ["edge e-established", "edge e-closeWait"]
    scale = svg.value_scale(40, WIDE)
    heights = [[float(y) for _, y in PAIR.findall(path.get("d"))] for path in edges]
    assert heights == [pytest.approx([scale(10)] * 2, abs=0.1), pytest.approx([scale(40)] * 2, abs=0.1)]


def test_a_line_is_broken_where_nothing_is_known():
    one = Series("a.b", "a", "sockets", (1.0, 2.0, None, 3.0, 4.0))
    drawn = parsed(svg.lines(WORDS, [NOW + step for step in range(5)], [one], WIDE))
    (path,) = [path for path in drawn.iter("path") if path.get("class") == "line l-0"]
    assert path.get("d").count("M") == 2


def test_a_limit_far_above_is_not_drawn_and_one_that_is_near_is_with_its_number():
    times = [NOW, NOW + 1]
    used = Series("ports.a", "a", "ports", (100.0, 200.0))
    far, near = (Series("limit", "", "ports", (limit, limit)) for limit in (28_232.0, 1000.0))
    assert "limit" not in svg.lines(WORDS, times, [used], WIDE, limit=far)
    assert "limit 1,000" in svg.lines(WORDS, times, [used], WIDE, limit=near)


def test_it_has_a_title_and_a_description_for_who_cannot_see_it():
    drawn = parsed(svg.lines(WORDS, [NOW], [Series("a.b", "a", "sockets", (1.0,))], NARROW))
    assert drawn.get("role") == "img"
    named = [drawn.find(f".//*[@id='{one}']").text for one in drawn.get("aria-labelledby").split()]
    assert named == ["Title <&", "Description"]


def test_bars_are_one_row_each_with_a_shape_for_each_change():
    made = running_out()
    drawn = parsed(svg.bars(WORDS, made.times, made.findings, WIDE, lambda span: span.finding.type))
    labels = [text.text for text in drawn.iter("text") if text.get("class") == "bar-label"]
    assert labels == ["EphemeralPortExhaustion", "OutboundTimeWait"]
    rows = {float(bar.get("y")) for bar in drawn.iter("rect") if bar.get("class")}
    assert len(rows) == 2
    assert sum(path.get("class") == "mark" for path in drawn.iter("path")) == sum(
        mark.change != "Began" for span in made.findings for mark in span.marks
    )
    for bar in drawn.iter("rect"):
        right = float(bar.get("x")) + float(bar.get("width"))
        assert WIDE.left <= float(bar.get("x")) < right <= WIDE.plot_right + 0.1


@given(st.floats(min_value=0, max_value=1e15))
def test_ticks_of_values_are_few_round_and_reach_the_highest(highest):
    ticks = svg.value_ticks(highest)
    assert 2 <= len(ticks) <= 7
    assert ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-6)
    assert ticks == sorted(ticks)


@given(st.floats(min_value=1e9, max_value=2e9), st.floats(min_value=0, max_value=3e7), st.integers(2, 12))
def test_ticks_of_times_are_within_the_time_and_not_more_than_there_is_room_for(begin, length, most):
    ticks = svg.time_ticks(begin, begin + length, most)
    assert len(ticks) <= most + 1
    assert all(begin <= tick <= begin + length for tick in ticks)


def test_times_are_labelled_as_finely_as_they_are_apart():
    assert svg.time_label(NOW, 1) == "22:13:20"
    assert svg.time_label(NOW, 300) == "22:13"
    assert svg.time_label(NOW, 86400) == "14 Nov"


@given(st.lists(values, min_size=1, max_size=500), st.integers(3, 50))
def test_thinning_keeps_the_ends_and_the_peak(several, most):
    chosen = svg.thinned(several, most)
    assert len(chosen) <= max(most, 3)
    assert chosen == sorted(set(chosen))
    assert {0, len(several) - 1} <= set(chosen)
    assert max(several[index] or 0 for index in chosen) == max(value or 0 for value in several)


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.floats(-1e12, 1e12))
def test_a_scale_never_leaves_its_range(low, span, value):
    scale = Scale(low, low + span, 10.0, 90.0)
    assert isfinite(scale(value))
    assert 10.0 - 1e-6 <= scale(value) <= 90.0 + 1e-6
