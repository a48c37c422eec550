"""A bounded memory whose content expires."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Expiring(Generic[K, V]):
    """Values by key, each for a time; the oldest goes when there are too many.

    Args:
        clock: seconds that only go forward.
        seconds: how long a value is kept.
        size: how many are kept.
    """

    def __init__(self, clock: Callable[[], float], seconds: float, size: int) -> None:
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._values: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def get(self, key: K) -> V | None:
        """The value, unless it has expired or gone."""
        found = self._values.get(key)
        if found is None:
            return None
        expires, value = found
        if expires <= self._clock():
            del self._values[key]
            return None
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value from this moment on."""
        self._values.pop(key, None)
        self._values[key] = (self._clock() + self._seconds, value)
        while len(self._values) > self._size:
            self._values.popitem(last=False)

    def drop(self, key: K) -> None:
        """Forget a value."""
        self._values.pop(key, None)


class Once:
    """Says a thing once in a while, however often it happens."""

    def __init__(self, clock: Callable[[], float], seconds: float = 3600.0, size: int = 1024) -> None:
        self._said: Expiring[Hashable, bool] = Expiring(clock, seconds, size)

    def first(self, *what: Hashable) -> bool:
        """Whether this has not been said lately; from then on it has."""
        if what in self._said:
            return False
        self._said.put(what, True)
        return True
