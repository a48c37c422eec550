"""What a soak has found: a table for people, a file with every reading for those who want to look closer."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from soak.judgement import Reading, Verdict
from soak.limits import MEBIBYTE


def write_readings(folder: Path, readings: Iterable[Reading], warnings: Iterable[str]) -> None:
    """Write readings.csv, a line a value, and warnings.txt, what was logged above level info."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "readings.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("at_seconds", "container", "figure", "value"))
        for one in readings:
            lines.writerows((f"{one.at_seconds:.1f}", one.container, *pair) for pair in one.figures.items())
    (folder / "warnings.txt").write_text("".join(f"{line}\n" for line in warnings))


def write_verdicts(folder: Path, verdicts: Sequence[Verdict]) -> None:
    """Write table.txt, and verdicts.json with the same."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdicts.json").write_text(json.dumps([asdict(one) for one in verdicts], indent=1))
    (folder / "table.txt").write_text("\n".join(table(verdicts)) + "\n")


def table(verdicts: Iterable[Verdict]) -> list[str]:
    """A line for each figure; bytes are shown in MiB."""
    rows = [f"{'container':24}{'figure':64}{'start':>10}{'end':>10}{'most':>10}{'per hour':>10}  limit"]
    for one in verdicts:
        is_bytes = one.figure.endswith("_bytes")
        shown = "".join(
            f"{value / MEBIBYTE:10.2f}" if is_bytes else f"{value:10.4g}"
            for value in (one.start, one.end, one.most, one.per_hour)
        )
        said = "; ".join(one.faults) or one.limits
        rows.append(f"{one.container:24}{one.figure:64}{shown}  {said}")
    return rows
