"""Which of what happened to sysctls is logged, so that the log does not grow with pods.

Of the node's own namespace everything is, as it is one. Of pods each profile's first is: the first value set while the
profile is there, the first put back once it is gone. The others are counted in the metrics, and logged at debug level.
"""

import logging
from collections.abc import Iterable
from typing import Final, Literal

from sockethealth_core.sysctl_plan import Place

What = Literal["set", "failed", "put back", "left"]

_WHILE_THERE: Final = frozenset({"set", "failed"})


class Telling:
    """Remembers what was told of the pods of which profile."""

    def __init__(self) -> None:
        """Nothing was told yet."""
        self._told: set[tuple[What, str, str]] = set()

    def begin(self, profiles: Iterable[str]) -> None:
        """A pass begins; of profiles that came or went since the last, what follows from that is told again.

        Args:
            profiles: names of those that there are.
        """
        there = frozenset(profiles)
        self._told = {one for one in self._told if (one[0] in _WHILE_THERE) == (one[1] in there)}

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
