"""`sockethealth report`: an incident as one HTML page, from live looks or from a Prometheus."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

import click

from sockethealth_cli import output, scan
from sockethealth_cli.errors import UsageProblem
from sockethealth_cli.policies import RuleSet
from sockethealth_cli.report import live, page
from sockethealth_cli.report.page import Report
from sockethealth_cli.text import printable
from sockethealth_core.resources import Finding
from sockethealth_core.units import format_duration, parse_duration, parse_time

_EPILOG: Final = """\b
Examples:
  sudo sockethealth report -o incident.html            a minute of all namespaces
  sudo sockethealth report --netns blue --for 5m -o incident.html
  sudo sockethealth report --for 30s -o - > incident.html
  sockethealth report --prometheus http://localhost:9090 \\
    --namespace shop --pod cart-5f5b8848c-9f925 --since 1h -o incident.html
\b
Exit codes:
  0  the page is written
  2  it could not be made as asked
"""
_SHORTEST_INTERVAL: Final = 0.2


def seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """An option's callback: seconds of a duration as people write it, such as 90s or 5m."""
    try:
        found = parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if found <= 0:
        raise click.BadParameter(f"'{value}' is no time at all: write a number above 0 with its unit, such as 30s")
    return found


def moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """An option's callback: epoch seconds of a time as people and machines write it (RFC 3339)."""
    try:
        return None if value is None else parse_time(value)
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is no time: write it like 2026-11-21T09:30:00Z") from error


file_option = click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="incident.html",
    show_default=True,
    metavar="FILE",
    help="Where the page goes; - is standard output.",
)


@click.command(epilog=_EPILOG)
@file_option
@click.option(
    "--for",
    "duration",
    callback=seconds,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="How long to look. Ctrl-C ends it earlier, with a page of what was seen.",
)
@click.option(
    "--interval", callback=seconds, default="1s", show_default=True, metavar="DURATION", help="Time between looks."
)
@scan.netns_option
@scan.policy_option
@click.option("--prometheus", "url", metavar="URL", help="Read from this Prometheus, and not from this machine.")
@click.option("--namespace", metavar="NAMESPACE", help="With --prometheus: namespace of the pod.")
@click.option("--pod", metavar="POD", help="With --prometheus: the pod.")
@click.option(
    "--since",
    callback=seconds,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="With --prometheus: how far to look back.",
)
@click.option(
    "--until", callback=moment, metavar="TIME", help="With --prometheus: where to end, such as 2026-11-21T09:30:00Z."
)
def report(
    file: str,
    duration: float,
    interval: float,
    netns_names: Sequence[str],
    policy_files: Sequence[IO[str]],
    url: str | None,
    namespace: str | None,
    pod: str | None,
    since: float,
    until: float | None,
) -> None:
    """Write one HTML page that tells an incident: what broke, when, who, why, and what helps.

    The page has pictures of socket states, ports, rates and findings over time, what changed, and the raw data. It is
    one file that asks nobody for anything. It is made from looks at this machine, or from a Prometheus that scrapes
    the agents.
    """
    check_place(file)
    if url is None:
        _refuse_without_prometheus(namespace, pod, until)
        made = _live(scan.rule_set_of(policy_files), netns_names, duration, interval)
    else:
        if netns_names or policy_files:
            raise UsageProblem("--netns and --policy are for looks at this machine: leave them out with --prometheus")
        if not namespace or not pod:
            raise UsageProblem("--prometheus needs to know the pod: give --namespace and --pod")
        made = from_prometheus(url, namespace, pod, since, until)
    write(made, file)


def from_prometheus(
    url: str, namespace: str, pod: str, since: float, until: float | None, told: Sequence[Finding] = ()
) -> Report:
    """The report of a pod from a Prometheus, and in the words of its SocketHealth where they are told.

    Raises:
        UsageProblem: Prometheus does not answer, or knows nothing of the pod.
    """
    # urllib3 takes longer to load than the rest of the program, and looks at this machine never need it.
    from sockethealth_cli.report import prometheus  # noqa: PLC0415

    end = time.time() if until is None else until
    try:
        source = prometheus.Prometheus(url)
        return prometheus.read(source, namespace, pod, end - since, end, created=time.time(), told=told)
    except prometheus.PrometheusError as error:
        raise UsageProblem(printable(str(error))) from error


def check_place(file: str) -> None:
    """Find out before anything is looked at whether the page will have a place.

    Raises:
        UsageProblem: the file's folder is not there, or nothing may be written there.
    """
    folder = Path(file).parent
    if file == "-":
        return
    if not folder.is_dir():
        raise UsageProblem(f"{printable(file)} cannot be written: there is no folder {printable(str(folder))}")
    if not os.access(folder, os.W_OK) and not os.access(file, os.W_OK):
        raise UsageProblem(f"{printable(file)} cannot be written: you may not write there. Name another file with -o")


def write(made: Report, file: str) -> None:
    """Write the page, and say where it is.

    Raises:
        UsageProblem: the file cannot be written.
    """
    text = page.render(made)
    if file == "-":
        output.print_text(text)
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageProblem(
            f"{printable(file)} could not be written: {error.strerror}. Name another file with -o"
        ) from error
    click.echo(f"{printable(file)} is written ({len(text.encode()) / 1000:,.0f} kB).", err=True)


def _live(rule_set: RuleSet, netns_names: Sequence[str], duration: float, interval: float) -> Report:
    if interval < _SHORTEST_INTERVAL:
        raise UsageProblem(f"--interval must be at least {_SHORTEST_INTERVAL * 1000:.0f}ms, or looking is all it does")
    if duration / interval > live.MOST_LOOKS:
        least = duration / live.MOST_LOOKS
        raise UsageProblem(
            f"--for {format_duration(duration)} with --interval {interval:g}s would be {duration / interval:,.0f} "
            f"looks, and a page holds {live.MOST_LOOKS:,}: give --interval {max(1, -int(-least // 1))}s or more"
        )
    progress = _Progress()
    try:
        made = live.watch(rule_set, netns_names, duration, interval, progress.tell)
    finally:
        progress.end()
    if made is None:
        raise UsageProblem("no network namespace could be read: run with sudo")
    return made


def _refuse_without_prometheus(namespace: str | None, pod: str | None, until: float | None) -> None:
    given = [
        name for name, value in (("--namespace", namespace), ("--pod", pod), ("--until", until)) if value is not None
    ]
    if given:
        raise UsageProblem(f"{' and '.join(given)} needs --prometheus URL: on this machine, name a --netns")


class _Progress:
    """One line on standard error, rewritten on a terminal; elsewhere one at the beginning."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    def tell(self, looks: int, read: int, left: float) -> None:
        line = f"look {looks}: {read} network namespaces, {format_duration(left)} left (Ctrl-C: write what there is)"
        if self._terminal:
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)
        elif looks == 1:
            click.echo(line, err=True)

    def end(self) -> None:
        if self._terminal:
            click.echo("\r\x1b[K", nl=False, err=True)
