"""A queue of keys: each is there once, is worked on by one worker at a time, and comes back later when due.

Work is level-based: a key says "look at this again", never what to do, so any number of changes of an object
while it waits are one piece of work. That bounds the queue by the number of objects.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K")

_FIRST_RETRY_SECONDS: Final = 0.5
_LAST_RETRY_SECONDS: Final = 60.0


class WorkQueue(Generic[K]):
    """Keys ready for work, in order, and keys that become ready at a time.

    Args:
        clock: seconds that only go forward, as ``asyncio``'s loop has them.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ready: dict[K, None] = {}
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._failures: dict[K, int] = {}
        self._wake_worker = asyncio.Event()
        self._wake_timer = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: K) -> None:
        """Make a key ready; if it is being worked on, it is worked on once more afterwards."""
        if key in self._working:
            self._again.add(key)
        else:
            self._ready[key] = None
            self._wake_worker.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Make a key ready in a while, or earlier if it is already due earlier."""
        when = self._clock() + max(seconds, 0.0)
        if self._due.get(key, float("inf")) <= when:
            return
        self._due[key] = when
        heapq.heappush(self._heap, (when, next(self._order), key))
        self._wake_timer.set()

    async def get(self) -> K:
        """The next ready key, once there is one; :meth:`done` or :meth:`failed` must follow."""
        while not self._ready:
            self._wake_worker.clear()
            await self._wake_worker.wait()
        key = next(iter(self._ready))
        del self._ready[key]
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """Work on a key has ended well."""
        self._failures.pop(key, None)
        self._leave(key)

    def failed(self, key: K, at_least_seconds: float = 0.0) -> float:
        """Work on a key has failed: it comes back after a pause that doubles each time.

        Args:
            key: what was worked on.
            at_least_seconds: what the API server asked for (Retry-After).

        Returns:
            The pause in seconds.
        """
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        pause = max(min(_FIRST_RETRY_SECONDS * 2.0 ** min(count, 30), _LAST_RETRY_SECONDS), at_least_seconds)
        self._leave(key)
        self.add_after(key, pause)
        return pause

    def put_back(self, key: K) -> None:
        """Return a key untouched, without counting a failure."""
        self._working.discard(key)
        self._again.discard(key)
        self.add(key)

    async def run_timer(self) -> None:
        """Make keys ready when they are due, for ever."""
        while True:
            self._wake_timer.clear()
            pause = self.release_due()
            try:
                async with asyncio.timeout(pause):
                    await self._wake_timer.wait()
            except TimeoutError:
                continue

    def release_due(self) -> float | None:
        """Make ready what is due; seconds until the next one is, or None."""
        while self._heap:
            when, _, key = self._heap[0]
            if self._due.get(key) != when:
                heapq.heappop(self._heap)
                continue
            left = when - self._clock()
            if left > 0:
                return left
            heapq.heappop(self._heap)
            del self._due[key]
            self.add(key)
        return None

    def _leave(self, key: K) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
