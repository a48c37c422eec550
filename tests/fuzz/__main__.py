"""Coverage-guided fuzzing: `make fuzz`, or `PYTHONPATH=tests python -m fuzz [--seconds N] [TARGET...]`.

Each target runs in a process of its own, as the fuzzer ends with it. What it learns is kept in dist/fuzz/TARGET and is
where the next run begins; an input that breaks a target is written to dist/fuzz/TARGET-crash-DIGEST.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from fuzz import targets

_LEARNT = Path(__file__).resolve().parents[2] / "dist" / "fuzz"
_LONGEST_INPUT_BYTES = {"netlink": 8192, "expression": 1100}
_LONGEST_BYTES = 4096
_INSTRUMENTED = ["sockethealth_core", "sockethealth_agent"]


def main() -> int:
    """1 when a target broke, else 0."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Look for inputs that break a parser.")
    parser.add_argument("--seconds", type=int, default=60, help="how long each target runs (default: %(default)s)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets.NAMES)} (default: all)")
    asked = parser.parse_args()
    unknown = set(asked.targets) - set(targets.NAMES)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}: use {', '.join(targets.NAMES)}")
    if asked.one:
        _fuzz(asked.targets[0], asked.seconds)
        return 0
    broken = [name for name in asked.targets or targets.NAMES if not _survives(name, asked.seconds)]
    if broken:
        sys.stderr.write(f"broken: {', '.join(broken)}; the inputs are in {_LEARNT}\n")
    return int(bool(broken))


def _survives(name: str, seconds: int) -> bool:
    sys.stderr.write(f"--- {name}, {seconds} s\n")
    command = [sys.executable, "-m", "fuzz", "--one", "--seconds", str(seconds), name]
    return subprocess.run(command, check=False).returncode == 0


def _fuzz(name: str, seconds: int) -> None:
    try:
        import atheris  # noqa: PLC0415 - an optional dependency, which only this needs
    except ImportError:
        sys.exit("atheris is not installed; `make fuzz` installs it from requirements/fuzz.txt")
    learnt = _LEARNT / name
    learnt.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=_INSTRUMENTED):
        run = targets.harness(name)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={_LONGEST_INPUT_BYTES.get(name, _LONGEST_BYTES)}",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        "-verbosity=1",
        f"-dict={targets.dictionary(name)}",
        f"-artifact_prefix={learnt}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(learnt), str(targets.seeds_folder(name))], run)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
