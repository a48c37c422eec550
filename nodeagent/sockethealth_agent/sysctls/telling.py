"""Which of what happened to sysctls is logged, so that the log does not grow with pods.

Of the node's own namespace everything is, as it is one. Of pods each profile's first is: the first value set, and the
first put back, and so again once the profile has come or gone. The others are counted in the metrics, and logged at
debug level.
"""

import logging
from collections.abc import Iterable
from typing import Literal

from sockethealth_core.sysctl_plan import Place

What = Literal["set", "failed", "put back", "left"]


class Telling:
    """Remembers what was told of the pods of which profile."""

    def __init__(self) -> None:
        """Nothing was told yet."""
        self._told: set[tuple[What, str, str]] = set()
        self._there: frozenset[str] = frozenset()

    def begin(self, profiles: Iterable[str]) -> None:
        """A pass begins; of profiles that came or went since the last, everything is told again.

        Args:
            profiles: names of those that there are.
        """
        there = frozenset(profiles)
        changed = there ^ self._there
        self._told = {one for one in self._told if one[1] not in changed}
        self._there = there

    def level(self, place: Place, what: What, profile: str, detail: str, level: int) -> int:
        """The level at which to log it.

        Args:
            place: where it happened.
            what: has happened.
            profile: whose value it is.
            detail: what tells it from other things of this kind, such as the sysctl and its value.
            level: of the first.
        """
        if place.target == "Node":
            return level
        one = (what, profile, detail)
        first = one not in self._told
        self._told.add(one)
        return level if first else logging.DEBUG
