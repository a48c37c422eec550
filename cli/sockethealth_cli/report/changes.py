"""What changed between the calm and the incident, largest first. Pure."""

from collections.abc import Callable, Iterable, Sequence
from math import log
from statistics import median
from typing import Final

from sockethealth_cli.render import sentence
from sockethealth_cli.report.timeline import Change, Sample, Series, calm_and_incident, place
from sockethealth_cli.text import printable
from sockethealth_core.units import format_count

MOST_CHANGES: Final = 12
_MOST_OF_A_KIND: Final = 4
_SMALLEST_FACTOR: Final = 1.3
_SMALLEST_DIFFERENCE: Final = {"per second": 0.5, "percent": 1.0}
_SMALLEST_COUNT: Final = 5.0
_UNITS: Final = {"per second": "/s", "percent": "%", "seconds": " s"}


def of_samples(samples: Sequence[Sample], series: Iterable[Series], began: float | None) -> tuple[Change, ...]:
    """What appeared, went away or was set, then the quantities that changed most.

    Args:
        samples: all looks, in order.
        series: quantities over their times.
        began: when the finding began; None without one.
    """
    times = [one.at for one in samples]
    appeared = [
        *_sysctls(samples),
        *_appeared(samples, "Process", lambda one: one.processes),
        *_appeared(samples, "Destination", _destinations),
        *_appeared(samples, "Listener with a queue", _listeners),
    ]
    return (*appeared, *of_series(times, series, began))[:MOST_CHANGES]


def of_series(times: Sequence[float], series: Iterable[Series], began: float | None) -> tuple[Change, ...]:
    """The quantities that changed by most, as a factor, from the calm's median to the incident's peak or median."""
    calm, incident = calm_and_incident(times, began)
    changes = []
    for one in series:
        before = [value for index in calm if (value := one.values[index]) is not None]
        after = [value for index in incident if (value := one.values[index]) is not None]
        if not before or not after:
            continue
        usual = median(before)
        # A single look at nothing, as of a rate, is no fall; a single peak may be what broke it.
        extreme = max((max(after), median(after)), key=lambda value: _distance(usual, value))
        factor = _distance(usual, extreme)
        floor = _SMALLEST_DIFFERENCE.get(one.unit, _SMALLEST_COUNT)
        if abs(extreme - usual) >= floor and factor >= log(_SMALLEST_FACTOR):
            changes.append((factor, _of_quantity(one, usual, extreme)))
    changes.sort(key=lambda pair: -pair[0])
    return tuple(change for _, change in changes)


def _distance(usual: float, value: float) -> float:
    # One is added, so that from 0 to 3 is less than from 100 to 1000, and nothing is divided by 0.
    return abs(log((value + 1) / (usual + 1)))


def _of_quantity(series: Series, usual: float, extreme: float) -> Change:
    low, high = sorted((usual, extreme))
    name = f"ports in use to {series.label}" if series.unit == "ports" else series.label
    shown = _UNITS.get(series.unit, "")
    return Change(
        sentence(name), f"{format_count(usual)}{shown}", f"{format_count(extreme)}{shown}", high / low if low else None
    )


def _sysctls(samples: Sequence[Sample]) -> list[Change]:
    changes = []
    before = _settings(samples[0])
    for sample in samples[1:]:
        after = _settings(sample)
        changes += [
            Change(
                f"Sysctl {printable(name)}",
                printable(before.get(name, "the kernel's default")),
                printable(after.get(name, "the kernel's default")),
                at=sample.at,
            )
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name)
        ]
        before = after
    return changes[:_MOST_OF_A_KIND]


def _settings(sample: Sample) -> dict[str, str]:
    ports = sample.facts.ephemeral_ports
    return {**sample.facts.sysctls, "net.ipv4.ip_local_port_range": f"{ports.low} {ports.high}"}


def _appeared(samples: Sequence[Sample], kind: str, names_of: Callable[[Sample], Iterable[str]]) -> list[Change]:
    """Names of a kind that the first sample has and the last has not, or the other way round."""
    first, last = dict.fromkeys(names_of(samples[0])), dict.fromkeys(names_of(samples[-1]))
    came = [
        Change(f"{kind} {name}", "not there", "there", at=next(one.at for one in samples if name in set(names_of(one))))
        for name in last
        if name not in first
    ]
    went = [
        Change(
            f"{kind} {name}",
            "there",
            "gone",
            at=next(one.at for one in samples if name not in set(names_of(one))),
        )
        for name in first
        if name not in last
    ]
    return [*came[:_MOST_OF_A_KIND], *went[:_MOST_OF_A_KIND]]


def _destinations(sample: Sample) -> list[str]:
    return [place(one.address, one.port) for one in sample.facts.ephemeral_ports.destinations if one.used]


def _listeners(sample: Sample) -> list[str]:
    return [
        f"{place(one.address, one.port)} ({printable(one.process)})" if one.process else place(one.address, one.port)
        for one in sample.facts.listeners
        if one.queue
    ]
