"""The source of a live report: this machine's network namespaces, looked at again and again."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sockethealth_agent import procfs
from sockethealth_cli import measure, namespaces, scan
from sockethealth_cli.naming import NamedNetns, Process, name_all
from sockethealth_cli.objects import subject
from sockethealth_cli.policies import RuleSet
from sockethealth_cli.report import incident
from sockethealth_cli.report.page import Other, Report
from sockethealth_cli.report.timeline import Descriptors, Incident, Sample
from sockethealth_cli.text import counted, printable
from sockethealth_core.detectors import Subject
from sockethealth_core.engine import SEVERITY_ORDER
from sockethealth_core.resources import Facts
from sockethealth_core.units import format_duration

MOST_LOOKS: Final = 1800
"""Looks that a report keeps: more would make the page slow, and are no clearer."""
MOST_INCIDENTS: Final = 5
"""Namespaces with a part of the page of their own, unless more were asked for by name."""
_MOST_OTHERS: Final = 20
_MOST_PROCESSES: Final = 50
_LIMIT_OF_FILES: Final = "Max open files"

Progress = Callable[[int, int, float], None]
"""Told after each look: its number, how many namespaces were read, and the seconds that are left."""


@dataclass(slots=True)
class _Seen:
    subject: Subject
    samples: list[Sample] = field(default_factory=list)


def watch(
    rule_set: RuleSet, netns_names: Sequence[str], duration_seconds: float, interval_seconds: float, tell: Progress
) -> Report | None:
    """Look for so long, and make a report of what was seen; after Ctrl-C, of what was seen until then.

    Args:
        rule_set: rules in force.
        netns_names: names of `ip netns`; all namespaces without any.
        duration_seconds: for how long.
        interval_seconds: time from one look to the next.
        tell: told of the progress.

    Returns:
        The report, or None if nothing could be read at all.

    Raises:
        UsageProblem: there is no namespace of a name.
    """
    sampler = measure.Sampler(measure.ages_asked_for(rule_set.rules))
    seen: dict[str, _Seen] = {}
    unread: dict[str, str] = {}
    begun = due = time.monotonic()
    interrupted = False
    looks = hidden = 0
    try:
        while True:
            survey = namespaces.survey()
            hidden = 0 if netns_names else survey.hidden
            chosen = scan.chosen_of(survey, netns_names) if netns_names else name_all(survey.found)
            readings = sampler.sample(chosen)
            now = time.time()
            for one in readings.read:
                # A pid, and a name with it, can come back as another namespace, whose story is another one.
                key = f"{one.named.netns.id.device}:{one.named.netns.id.inode}:{one.named.name}"
                seen.setdefault(key, _Seen(subject(one.named))).samples.append(_sample(one.named, one.facts, now))
            unread |= {one.named.name: one.reason for one in readings.unread if not one.gone}
            looks += 1
            left = begun + duration_seconds - time.monotonic()
            tell(looks, len(readings.read), max(0.0, left))
            due += interval_seconds
            if due > begun + duration_seconds + interval_seconds / 2:
                break
            time.sleep(max(0.0, due - time.monotonic()))
    except KeyboardInterrupt:
        interrupted = True
    if not seen:
        return None
    incidents = sorted(
        (incident.of_samples(one.subject, one.samples, rule_set.rules) for one in seen.values()), key=rank
    )
    shown = incidents if netns_names else worth_showing(incidents)
    others = incidents[len(shown) :]
    took = time.monotonic() - begun
    return Report(
        incidents=tuple(shown),
        source=(
            f"Read live on {printable(platform.node())}: {counted(looks, 'look')} in {format_duration(took)}, "
            f"{interval_seconds:g} s apart."
        ),
        created=time.time(),
        others=tuple(Other(str(one.subject), _health(one)) for one in others[:_MOST_OTHERS]),
        notes=(
            *rule_set.notes,
            *([f"Looking was interrupted after {format_duration(took)}."] if interrupted else []),
            *([f"{counted(len(unread), 'network namespace')} could not be read."] if unread else []),
            *([f"{counted(len(others) - _MOST_OTHERS, 'more')} were looked at."] if len(others) > _MOST_OTHERS else []),
            *([f"Root would have read {counted(hidden, 'further network namespace')}."] if hidden else []),
        ),
    )


def _sample(named: NamedNetns, facts: Facts, now: float) -> Sample:
    ordered = sorted(named.netns.processes, key=Process.age_order)
    holders = {owner.pid: owner.process for owner in facts.close_wait.owners if owner.pid and owner.process}
    return Sample(
        at=now,
        facts=facts,
        processes=tuple(f"{printable(one.comm)} ({one.pid})" for one in ordered[:_MOST_PROCESSES]),
        descriptors=tuple(made for pid, name in holders.items() if (made := open_files(pid, name)) is not None),
    )


def open_files(pid: int, process: str, proc: Path = procfs.PROC) -> Descriptors | None:
    """Open files of a process and their limit (/proc/PID/fd and limits, proc(5)); None if they cannot be read."""
    folder = proc / str(pid)
    try:
        used = sum(1 for _ in (folder / "fd").iterdir())
        line = next(one for one in (folder / "limits").read_text().splitlines() if one.startswith(_LIMIT_OF_FILES))
    except (OSError, StopIteration):
        return None
    soft = line.removeprefix(_LIMIT_OF_FILES).split()[0]
    return Descriptors(process, pid, used, int(soft)) if soft.isdecimal() else None


def rank(one: Incident) -> tuple[int, bool, float, str]:
    """Sorts worst first, then those with most sockets."""
    worst = one.worst
    severity = len(SEVERITY_ORDER) if worst is None else SEVERITY_ORDER[worst.severity]
    sockets = sum(series.peak for series in one.states)
    return severity, worst is not None and not worst.raised, -sockets, str(one.subject)


def worth_showing(incidents: Sequence[Incident]) -> list[Incident]:
    """Of incidents, worst first, those that get a part of the page.

    They are those with a finding that wants a person, else those with any, else the one with most sockets.
    """
    for wanted in ({"Critical", "Warning"}, {"Info"}):
        found = [one for one in incidents if one.worst is not None and one.worst.severity in wanted]
        if found:
            return found[:MOST_INCIDENTS]
    return list(incidents[:1])


def _health(one: Incident) -> str:
    return "nothing found" if one.worst is None else f"{one.worst.severity}: {one.worst.finding.type}"
