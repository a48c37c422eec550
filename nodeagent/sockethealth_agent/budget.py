"""A token bucket over writes. Pure: the caller gives the time."""

from dataclasses import dataclass


@dataclass
class WriteBudget:
    """At most `burst` writes at once and `per_second` in the long run.

    Attributes:
        per_second: tokens that come back each second.
        burst: tokens of a full bucket.
        tokens: what is left.
        at: when `tokens` was right, in the caller's seconds.
    """

    per_second: float
    burst: float
    tokens: float = -1.0
    at: float = 0.0

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        if self.left(now) >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.per_second

    def left(self, now: float) -> float:
        """How many tokens there are."""
        if self.tokens < 0:
            self.tokens, self.at = self.burst, now
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.per_second)
        self.at = now
        return self.tokens
