"""Waiting for a condition with a bounded deadline."""

import time
from collections.abc import Callable

from harness.errors import HarnessError


def until(
    condition: Callable[[], bool],
    what: str,
    *,
    seconds: float,
    poll_seconds: float = 0.05,
    explain: Callable[[], str] = lambda: "",
) -> None:
    """Return once `condition()` holds.

    Args:
        condition: Asked every `poll_seconds`.
        what: The condition in words; ends up in "waited N s for {what}".
        seconds: The deadline.
        poll_seconds: The pause between two questions.
        explain: Asked after the deadline for what helps to find the cause, such as the tail of a log.

    Raises:
        HarnessError: The deadline passed.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            details = explain()
            raise HarnessError(f"Waited {seconds:g} s for {what}, in vain." + (f"\n{details}" if details else ""))
        time.sleep(poll_seconds)
