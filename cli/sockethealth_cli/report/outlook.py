"""When it breaks, or when it broke. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

from sockethealth_cli.report.timeline import Descriptors, FindingSpan, Outlook, Sample, Series, grows_per_second
from sockethealth_cli.report.words import clock
from sockethealth_cli.text import printable
from sockethealth_core.capacity import TIME_WAIT_SECONDS
from sockethealth_core.detectors.ephemeral_ports import worst_destination
from sockethealth_core.units import format_count, format_duration

_BROKEN_BY_NATURE: Final = {
    "AcceptQueueOverflow": "connections that clients had completed are dropped since",
    "SynBacklogPressure": "requests for connections may be dropped since",
    "TimeWaitTableOverflow": "TIME_WAIT sockets are destroyed early since",
    "RetransmissionStorm": "segments are lost since",
}
"""Findings that are the failure itself, with what fails from their beginning on."""
_LONGEST_SECONDS: Final = 30 * 86400
"""A date further away than this says nothing about an incident."""


def of_samples(span: FindingSpan, samples: Sequence[Sample]) -> Outlook | None:
    """When what was found breaks, from what was sampled; None of a finding that breaks nothing."""
    times = [one.at for one in samples]
    makers: dict[str, Callable[[], Outlook]] = {
        "EphemeralPortExhaustion": lambda: of_ports([(one.at, _seconds_left(one)) for one in samples]),
        "CloseWaitLeak": lambda: _of_leak(
            times,
            grows_per_second(times, Series("", "", "", tuple(float(one.facts.sockets.close_wait) for one in samples))),
            samples[-1].descriptors,
        ),
    }
    maker = makers.get(span.finding.type)
    return maker() if maker is not None else of_failure(span, times)


def of_failure(span: FindingSpan, times: Sequence[float]) -> Outlook | None:
    """A finding that is a failure by its nature broke when it began; None of any other."""
    since = _BROKEN_BY_NATURE.get(span.finding.type)
    return None if since is None else Outlook("Broke", span.began, f"It is broken: {since} {clock(span.began, times)}.")


def of_ports(looks: Sequence[tuple[float, float | None]]) -> Outlook:
    """When the ports run out.

    Args:
        looks: epoch seconds, and the seconds that were left then; None if the rate was no danger.
    """
    times = [at for at, _ in looks]
    broke = next((at for at, left in looks if left is not None and left <= 0), None)
    if broke is not None:
        over = next((at for at, left in reversed(looks) if left is not None and left <= 0), broke)
        ended = "" if over == looks[-1][0] else f" It was so last at {clock(over, times)}."
        return Outlook(
            "Broke", broke, f"It broke at {clock(broke, times)} at the latest: all ports were taken then.{ended}"
        )
    at, left = looks[-1]
    if left is None:
        return Outlook(
            "Holds",
            None,
            f"If the rate of the last look stays, it levels off below the limit within {TIME_WAIT_SECONDS} s.",
        )
    return Outlook(
        "WillBreak",
        at + left,
        f"If the rate stays, it breaks at {clock(at + left, times)}, {_soon(left)} after the last look.",
    )


def _soon(seconds: float) -> str:
    return format_duration(seconds) if seconds >= 1 else "less than a second"


def _seconds_left(sample: Sample) -> float | None:
    worst = worst_destination(sample.facts)
    return None if worst is None else worst.seconds_to_exhaustion


def _of_leak(times: Sequence[float], growth_per_second: float, holders: Sequence[Descriptors]) -> Outlook:
    end = times[-1]
    holder = min(holders, key=lambda one: one.limit - one.used, default=None)
    grows = f"It grows by {format_count(growth_per_second * 60)} a minute" if growth_per_second > 0 else ""
    if holder is None:
        return Outlook(
            "Holds",
            None,
            f'{grows or "It did not grow while it was looked at"}. It breaks with "Too many open files" at the '
            "process's limit of open files (/proc/PID/limits), which could not be read here.",
        )
    who = f"{printable(holder.process)} ({holder.pid}) has {holder.used:,} of at most {holder.limit:,} files open"
    if holder.used >= holder.limit:
        return Outlook("Broke", end, f'{who}: accept() and connect() fail with "Too many open files".')
    if growth_per_second <= 0:
        return Outlook("Holds", None, f"{who}. It did not grow while it was looked at.")
    left = (holder.limit - holder.used) / growth_per_second
    if left > _LONGEST_SECONDS:
        return Outlook("Holds", None, f"{who}. {grows}, which is no danger for the next 30 days.")
    return Outlook(
        "WillBreak",
        end + left,
        f'{who}. {grows}, so it reaches "Too many open files" at {clock(end + left, times)}, {_soon(left)} '
        "after the last look.",
    )
