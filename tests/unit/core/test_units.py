import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_core.units import format_count, format_duration, format_time, parse_duration, parse_time


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("2m", 120), ("1h30m", 5400), ("500ms", 0.5), ("0s", 0)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "2 minutes", "-5s", "1d", "5s2m", "2m ", "\u0661m", "2m\n", "1e3s"])
def test_what_is_no_duration_is_refused_with_what_to_write(text):
    with pytest.raises(ValueError, match="such as 30s, 2m or 1h30m"):
        parse_duration(text)


@given(st.integers(0, 10**9))
def test_times_of_whole_seconds_survive(moment):
    assert parse_time(format_time(moment)) == moment


@pytest.mark.parametrize(
    ("seconds", "text"), [(42.4, "42s"), (60, "1m"), (190, "3m10s"), (7500, "2h5m"), (3600, "1h"), (273600, "3d4h")]
)
def test_durations_are_written_as_people_say_them(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(28232, "28,232"), (0.1234, "0.12"), (4.56, "4.6"), (7.0, "7"), (12.6, "13")]
)
def test_counts(number, text):
    assert format_count(number) == text
