"""A queue of keys: each is there once, is worked on by one worker at a time, and comes back later when due.

Work is level-based: a key says "look at this again", never what to do, so any number of changes of an object
while it waits are one piece of work. That bounds the queue by the number of objects.

A closed queue takes nothing in: a replica that stands by works on no key, and looks at everything once it leads.

There are two levels: what can wait is taken when nothing else is ready, and every so often although something is.
"""

import asyncio
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K")

_FIRST_RETRY_SECONDS: Final = 0.5
_LAST_RETRY_SECONDS: Final = 60.0
_LATER_EVERY: Final = 8
"""Of so many keys taken while both levels have some, one is of those that can wait."""
_STALE: Final = 64
"""Due times that have been brought forward, and are kept beside the one that counts, at most for so many keys."""


class WorkQueue(Generic[K]):
    """Keys ready for work, in order, and keys that become ready at a time.

    Args:
        clock: seconds that only go forward, as ``asyncio``'s loop has them.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # The first of a plain dict is found by walking over all that were taken before it.
        self._ready: OrderedDict[K, float] = OrderedDict()
        self._later: OrderedDict[K, float] = OrderedDict()
        self._in_a_row = 0
        self._working: dict[K, bool] = {}
        self._again: set[K] = set()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._failures: dict[K, tuple[int, float]] = {}
        self._wake_worker = asyncio.Event()
        self._wake_timer = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready) + sum(key not in self._ready for key in self._later)

    def close(self) -> None:
        """Drop everything, and take nothing in until it is opened. No worker may be at work."""
        self._closed = True
        for content in (self._ready, self._later, self._working, self._again, self._due, self._heap, self._failures):
            content.clear()

    def open(self) -> None:
        """Take keys in."""
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it takes nothing in."""
        return self._closed

    @property
    def pressed(self) -> bool:
        """Whether something is ready that is not to wait."""
        return bool(self._ready)

    def longest_wait_seconds(self) -> float:
        """How long the key that waits longest has been ready; 0 when there is none."""
        first = [next(iter(level.values())) for level in (self._ready, self._later) if level]
        return self._clock() - min(first) if first else 0.0

    def add(self, key: K) -> None:
        """Make a key ready; if it is being worked on, it is worked on once more afterwards."""
        if self._closed:
            return
        if key in self._working:
            self._again.add(key)
        else:
            self._ready.setdefault(key, self._clock())
            self._wake_worker.set()

    def defer(self, key: K) -> None:
        """Have a key that is being worked on come back when there is nothing better to do."""
        self._later.setdefault(key, self._clock())

    def deferred(self, key: K) -> bool:
        """Whether a key that is being worked on was taken from those that can wait."""
        return self._working[key]

    def add_after(self, key: K, seconds: float) -> None:
        """Make a key ready in a while, or earlier if it is already due earlier."""
        when = self._clock() + max(seconds, 0.0)
        if self._closed or self._due.get(key, float("inf")) <= when:
            return
        self._due[key] = when
        if len(self._heap) > 2 * len(self._due) + _STALE:
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (when, next(self._order), key))
        self._wake_timer.set()

    async def get(self) -> K:
        """The next ready key, once there is one; :meth:`done` or :meth:`failed` must follow."""
        while (found := self._next()) is None:
            self._wake_worker.clear()
            await self._wake_worker.wait()
        key, later = found
        self._ready.pop(key, None)
        self._later.pop(key, None)
        self._working[key] = later
        return key

    def done(self, key: K) -> None:
        """Work on a key has ended well, or was deferred, which says nothing of whether it would have."""
        if key not in self._later:
            self._failures.pop(key, None)
        self._leave(key)

    def failed(self, key: K, at_least_seconds: float = 0.0) -> float:
        """Work on a key has failed: it comes back after a pause that doubles each time.

        A change of the object is looked at before the pause is over; when that fails too, the pause stays as it was.

        Args:
            key: what was worked on.
            at_least_seconds: what the API server asked for (Retry-After).

        Returns:
            The pause in seconds.
        """
        now = self._clock()
        count, until = self._failures.get(key, (0, now))
        pause = until - now
        if pause <= 0:
            pause = min(_FIRST_RETRY_SECONDS * 2.0 ** min(count, 30), _LAST_RETRY_SECONDS)
            count += 1
        pause = max(pause, at_least_seconds)
        self._failures[key] = count, now + pause
        self._leave(key)
        self.add_after(key, pause)
        return pause

    def put_back(self, key: K) -> None:
        """Return a key untouched, without counting a failure."""
        if self._working[key]:
            self.defer(key)
        else:
            self._again.add(key)
        self._leave(key)

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
        del self._working[key]
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        if key in self._later:
            self._wake_worker.set()

    def _next(self) -> tuple[K, bool] | None:
        # What is worked on may have been deferred, and waits for the end of its work.
        waiting = next((key for key in self._later if key not in self._working), None)
        if waiting is not None and (not self._ready or self._in_a_row >= _LATER_EVERY - 1):
            self._in_a_row = 0
            return waiting, True
        if not self._ready:
            return None
        self._in_a_row = self._in_a_row + 1 if waiting is not None else 0
        return next(iter(self._ready)), False
