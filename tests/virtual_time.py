"""An event loop whose clock jumps to what is due next: tests of waiting take no time, and no machine is too busy.

For coroutines that wait for each other and for time alone: nothing of the outside wakes them.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Jumping(selectors.SelectSelector):
    """Waits by setting the clock forward."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "Every coroutine waits for something that nobody is left to do."
            self.now += timeout
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns, at the speed of the machine and by a clock of its own."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)


def now() -> float:
    """The clock of the running loop, in seconds."""
    return asyncio.get_running_loop().time()
