"""How long to wait before an API server that failed is asked again. Pure: chance comes from the caller."""

from typing import Final

FIRST_SECONDS: Final = 0.5


def backoff_seconds(failures: int, retry_after_seconds: float | None, chance: float, longest_seconds: float) -> float:
    """How long to wait after so many failures in a row, of which there is one at least.

    Doubles from half a second to the longest; chance (0 to 1) spreads it over the upper half, so that those who failed
    together do not come back at once. A server's Retry-After is the least.
    """
    step = min(longest_seconds, FIRST_SECONDS * 2.0 ** min(failures - 1, 10))
    return max(step * (0.5 + chance / 2), retry_after_seconds or 0.0)
