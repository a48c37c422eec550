"""The one place where durations, times and numbers are read and written."""

import re
from datetime import UTC, datetime

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)

DURATION_PATTERN = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"
"""What admission accepts: hours, minutes, seconds and milliseconds in that order, as RE2."""


_LONGEST_TEXT = 32
_LONGEST_HOURS = 100 * 365 * 24
"""A century: a time that lies a duration ahead must still be one that can be written."""


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``2m`` or ``1h30m``, of at most 100 years.

    Raises:
        ValueError: with a sentence that says what to write instead.
    """
    match = _DURATION.fullmatch(text) if 0 < len(text) <= _LONGEST_TEXT else None
    if match is None:
        shown = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
        raise ValueError(f"'{shown}' is not a duration: write a number and a unit, such as 30s, 2m or 1h30m")
    hours, minutes, seconds, millis = (int(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + seconds + millis / 1000
    if total > _LONGEST_HOURS * 3600:
        raise ValueError(f"'{text}' is longer than 100 years: write at most {_LONGEST_HOURS}h")
    return total


def format_duration(seconds: float) -> str:
    """A duration as people say it: ``42s``, ``3m10s``, ``2h5m``, ``3d4h``; at most two units."""
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if total >= size:
            rest = total % size // smaller
            return f"{total // size}{unit}" + (f"{rest}{small_unit}" if rest else "")
    raise AssertionError("unreachable")


def format_time(epoch_seconds: float) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes ``metav1.Time``."""
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time.

    Raises:
        ValueError: when it is none.
    """
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def format_count(number: float) -> str:
    """A number for a message: whole with thousands separators, or with the decimals it needs below 10."""
    if number >= 10 or number == int(number):
        return f"{round(number):,}"
    return f"{number:.2g}" if number < 1 else f"{number:.1f}"
