"""One line per step with the seconds it took, so that minutes of building never look like a hang."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


_sink: Callable[[str], None] = _to_stderr


def report_through(sink: Callable[[str], None]) -> None:
    """Send progress lines to `sink`, as pytest captures stderr while tests run."""
    global _sink  # noqa: PLW0603 - one terminal, one sink
    _sink = sink


def say(line: str) -> None:
    """Show one line of progress."""
    _sink(f"[cluster] {line}")


@contextmanager
def step(what: str, *, takes: str = "") -> Iterator[None]:
    """Report `what` with its duration once it is done; with `takes`, announce it before it starts too."""
    if takes:
        say(f"{what} (takes {takes})")
    began = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - began:.1f} s")
