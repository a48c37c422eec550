"""This machine's own sysctls are changed by tests of a real node, and compared by tests beside them: never at once."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = Path(tempfile.gettempdir(), "sockethealth-test-host-sysctls.lock")


@contextmanager
def unchanged() -> Iterator[None]:
    """While held, no test of another lane changes them."""
    with _held(fcntl.LOCK_SH):
        yield


@contextmanager
def changing() -> Iterator[None]:
    """While held, no test of another lane relies on them; the kernel gives it up when its process ends."""
    with _held(fcntl.LOCK_EX):
        yield


@contextmanager
def _held(kind: int) -> Iterator[None]:
    with _LOCK.open("w") as file:
        fcntl.flock(file, kind)
        yield
