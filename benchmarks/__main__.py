"""Run the benchmarks and print each figure beside what it is compared with."""

import sys
from collections.abc import Callable, Mapping
from typing import Final

import click
import msgspec

from benchmarks import dump, fleet, operator_sync, pace, steady, sweep, writes
from benchmarks.report import Missing, Report, plain, table

BENCHMARKS: Final[Mapping[str, tuple[str, Callable[[], Report]]]] = {
    "dump": (dump.TITLE, dump.run),
    "sweep": (sweep.TITLE, sweep.run),
    "pace": (pace.TITLE, pace.run),
    "steady": (steady.TITLE, steady.run),
    "writes": (writes.TITLE, writes.run),
    "fleet": (fleet.TITLE, fleet.run),
    "operator": (operator_sync.TITLE, operator_sync.run),
}
EPILOG: Final = "\b\nNames:\n" + "\n".join(f"  {name:8} {title}" for name, (title, _run) in BENCHMARKS.items())


@click.command(
    epilog=f"""\b
{EPILOG}

\b
Examples:
  python -m benchmarks                 all of them
  python -m benchmarks dump sweep      two of them
  python -m benchmarks -o json dump    for a program to read
"""
)
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print the results.")
def main(names: tuple[str, ...], output: str) -> None:
    """Measure, as root, on this machine's kernel, in network namespaces of its own, which are gone afterwards.

    The exit code is 1 when a target is missed. A benchmark that lacks something says what, and is skipped.
    """
    reports = []
    for name in names or BENCHMARKS:
        title, run = BENCHMARKS[name]
        try:
            report = run()
        except Missing as missing:
            report = Report(name, title, skipped=str(missing))
        reports.append(report)
        if output == "table":
            click.echo(table(report) + "\n")
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode([plain(report) for report in reports])))
    sys.exit(any(report.missed for report in reports))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
