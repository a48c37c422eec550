"""Runs the whole test suite in lanes, because tests on an API server or a node mostly wait for timers.

One lane is shown as it runs; the others are shown when they are done. All must pass. The last line counts all. Reports
in JUnit's format, with the figures that tests record, and logs stay in dist/test-reports.

The lane of the node takes longest, as there can be one node on a machine: the processors are its own first, and the
others take what it leaves, so that all end at about the same time. Each lane is a session, and so an autogroup of the
scheduler, of which the niceness counts and not that of a process in it (sched(7)). They end with this program, however
that ends.
"""

import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "dist" / "test-reports"
SHOWN = "tests/kernel"
# The longest two: one waits for pods most of the time, the other computes.
_NICE = {"tests/node": 0, SHOWN: 13}
_NICE_OF_OTHERS = 15
# Bytecode is kept, whatever the machine's settings: each lane and each program that a test starts would compile anew.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
_OPERATOR = tuple(sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests/api").glob("test_operator_*.py")))
# In the lane of others of their kind these would make it the longest.
_IMAGE = "tests/node/test_image.py"
_REPLICAS = "tests/api/test_operator_replicas.py"
_CHURN_AND_DEMO = ("tests/kernel/test_agent_faults.py", "tests/kernel/test_demo.py")
LANES = {
    SHOWN: ("tests/kernel", *(f"--ignore={file}" for file in _CHURN_AND_DEMO)),
    "tests/node": ("tests/node", f"--ignore={_IMAGE}"),
    "tests/api of the operator": tuple(file for file in _OPERATOR if file != _REPLICAS),
    "tests/api of the others": ("tests/api", _IMAGE, *(f"--ignore={file}" for file in _OPERATOR)),
    "tests/unit, churn and demo": ("tests/unit", *_CHURN_AND_DEMO),
    "tests/faults and replicas": ("tests/faults", _REPLICAS),
}


def main() -> int:
    """The worst exit code of the lanes."""
    started = time.monotonic()
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    lanes = [_Lane(name, arguments) for name, arguments in LANES.items()]
    try:
        codes = [lane.finish() for lane in lanes]
    finally:
        for lane in lanes:
            lane.end()
    counts = [_counts(lane.report) for lane in lanes]
    passed, failed, skipped = (sum(column) for column in zip(*counts, strict=True))
    sys.stdout.write(f"all lanes took {time.monotonic() - started:.0f} s\n")
    sys.stdout.write(f"{passed} passed, {failed} failed, {skipped} skipped\n")
    return max(*codes, int(failed > 0), int(passed == 0))


class _Lane:
    """A lane that runs beside the others, its output in a file until it is done, but for the one that is shown."""

    def __init__(self, name: str, arguments: tuple[str, ...]) -> None:
        self._name = name
        self.report = REPORTS / f"{name.replace('/', '-').replace(',', '').replace(' ', '-')}.xml"
        self._log = None if name == SHOWN else self.report.with_suffix(".log").open("w+", encoding="utf-8")
        self._run = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *_pytest(arguments, self.report)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
        _stand_back(self._run.pid, _NICE.get(name, _NICE_OF_OTHERS))

    def finish(self) -> int:
        """Wait for it, show what it printed, and return its exit code."""
        code = self._run.wait()
        if self._log is not None:
            self._log.seek(0)
            sys.stdout.write(f"\n{self._name}, meanwhile:\n{self._log.read()}\n")
        return code

    def end(self) -> None:
        """End it if it still runs: told to end, pytest takes its cluster away; a killed one's watchdog does."""
        if self._run.poll() is None:
            self._run.terminate()
            self._run.wait()
        if self._log is not None:
            self._log.close()


def _stand_back(session: int, nice: int) -> None:
    group = Path(f"/proc/{session}/autogroup")
    if group.exists():  # the kernel may be built without, or the lane be over already
        group.write_text(str(nice))


def _pytest(arguments: tuple[str, ...], report: Path) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments, *sys.argv[1:], f"--junitxml={report}"]


def _counts(report: Path) -> tuple[int, int, int]:
    if not report.is_file():
        return (0, 1, 0)
    suites = ET.parse(report).getroot().iter("testsuite")  # noqa: S314 (written by pytest a moment ago)
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return (total - failed - skipped, failed, skipped)


if __name__ == "__main__":
    sys.exit(main())
