"""Runs the whole test suite in two lanes, because tests on an API server mostly wait for its timers.

One lane is shown as it runs; the other is shown when it is done. Both must pass. The last line counts both.
"""

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("tests/unit", "tests/kernel", "tests/node")
BESIDE = ("tests/api",)


def main() -> int:
    """The worse exit code of the two lanes."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sockethealth-test-") as scratch:
        folder = Path(scratch)
        with (folder / "beside.log").open("w+", encoding="utf-8") as log:
            beside = subprocess.Popen(_pytest(BESIDE, folder / "beside.xml"), cwd=ROOT, stdout=log, stderr=log)
            try:
                shown = subprocess.run(_pytest(SHOWN, folder / "shown.xml"), cwd=ROOT, check=False)
                code = beside.wait()
            finally:
                # Told to end, pytest takes its cluster away; a killed one's watchdog does.
                if beside.poll() is None:
                    beside.terminate()
                    beside.wait()
            log.seek(0)
            sys.stdout.write(f"\n{' '.join(BESIDE)}, meanwhile:\n{log.read()}\n")
        counts = [_counts(folder / name) for name in ("shown.xml", "beside.xml")]
    passed, failed, skipped = (sum(column) for column in zip(*counts, strict=True))
    sys.stdout.write(f"all lanes took {time.monotonic() - started:.0f} s\n")
    sys.stdout.write(f"{passed} passed, {failed} failed, {skipped} skipped\n")
    return max(shown.returncode, code, int(failed > 0), int(passed == 0))


def _pytest(paths: tuple[str, ...], report: Path) -> list[str]:
    return [sys.executable, "-m", "pytest", *paths, *sys.argv[1:], f"--junitxml={report}"]


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
