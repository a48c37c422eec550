"""How long CLOSE_WAIT sockets have been there at least: the kernel's bound and our own first sight. Pure.

The kernel does not keep when a socket entered CLOSE_WAIT. Two lower bounds are known: the time since the peer's last
ACK (tcp_info), which starts anew if the peer sends another, and the time since this agent first saw the socket in
that state, which starts anew with the agent. Both are bounds from below, so the larger one is right.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sockethealth_agent.folding import CloseWaitFacts, TrackedSocket


def first_sightings(known: Mapping[int, float], tracked: Iterable[TrackedSocket], now: float) -> dict[int, float]:
    """When each of the sockets was first seen, by cookie; those that are gone are forgotten."""
    return {one.cookie: known.get(one.cookie, now) for one in tracked}


@dataclass(frozen=True, slots=True)
class Ages:
    """Ages of a namespace's CLOSE_WAIT sockets: of the tracked ones singly, of the rest by the kernel's bound."""

    found: CloseWaitFacts
    sightings: Mapping[int, float]
    now: float

    @property
    def oldest_seconds(self) -> float:
        """At least this old is the oldest."""
        return max([self.found.oldest_ms / 1000, *(self._age(one) for one in self.found.tracked)], default=0.0)

    def older_than(self, seconds: float) -> int:
        """How many are certainly this old."""
        tracked = sum(self._age(one) >= seconds for one in self.found.tracked)
        tracked_by_kernel = sum(one.at_least_ms // 1000 >= seconds for one in self.found.tracked)
        return tracked + max(0, self.found.older_than(seconds) - tracked_by_kernel)

    def _age(self, one: TrackedSocket) -> float:
        return max(one.at_least_ms / 1000, self.now - self.sightings.get(one.cookie, self.now))
