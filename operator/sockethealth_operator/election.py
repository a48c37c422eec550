"""Which replica leads: the rules of a Lease, without I/O and without a clock of their own.

They are those of client-go's leaderelection package: whoever holds the Lease writes it every few seconds. The others
never compare the times written in it with a clock of theirs. They note when, by their own clock, it last changed, and
take it once it has not changed for as long as it says. The holder counts from before its last write was sent, and
gives up earlier than that. So two replicas never lead at once, however their clocks are set, as long as one does not
run faster than the other by the ratio of the two times. Every write names the version of the Lease that it was
decided on, so of two that want it one is refused (kubernetes.io/docs/concepts/architecture/leases;
coordination.k8s.io/v1, LeaseSpec).
"""

from dataclasses import dataclass, replace
from typing import Final

_RELEASED_SECONDS: Final = 1
"""A Lease must say some time above zero (LeaseSpec.leaseDurationSeconds); of a released one nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Times of an election, in seconds.

    Attributes:
        duration_seconds: how long others wait for a Lease that does not change.
        deadline_seconds: how long after its last write the holder gives up.
        renew_seconds: how often the holder writes, and the others look.
    """

    duration_seconds: int = 13
    deadline_seconds: float = 11.0
    renew_seconds: float = 2.0

    def fault(self) -> str | None:
        """A sentence about what is wrong with these times, or None."""
        if self.deadline_seconds < 2 * self.renew_seconds:
            return (
                f"--lease-deadline {self.deadline_seconds:g}s is less than twice --lease-renew "
                f"{self.renew_seconds:g}s: one write that fails would end the lead"
            )
        if self.duration_seconds < self.deadline_seconds + 1:
            return (
                f"--lease-duration {self.duration_seconds:g}s is not a second longer than --lease-deadline "
                f"{self.deadline_seconds:g}s: another could take the Lease before its holder has given up"
            )
        return None


@dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says (LeaseSpec).

    Attributes:
        holder: identity of the replica that leads; empty for none.
        duration_seconds: how long others shall wait for it.
        acquired: when it was taken, RFC 3339, for people to read.
        renewed: when it was last written, likewise.
        transitions: how often it has changed hands.
    """

    holder: str = ""
    duration_seconds: int = 0
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """A write of the Lease: in place of one version of it, or (None) where there is none."""

    record: Record
    version: str | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One replica's view.

    Attributes:
        identity: unlike that of any other process, also of an earlier one of the same pod.
        terms: the times it keeps.
        record: the Lease as last seen; None when there was none, or before the first look.
        version: resource version of that.
        changed_at: when, by this replica's clock, the record last changed; None before the first look.
        wait_seconds: how long from then on the Lease is another's.
        renewed_at: when, by this replica's clock, its last write that succeeded was sent; None when it does not lead.
    """

    identity: str
    terms: Terms
    record: Record | None = None
    version: str | None = None
    changed_at: float | None = None
    wait_seconds: float = 0.0
    renewed_at: float | None = None

    def seconds_left(self, now: float) -> float:
        """Seconds for which this replica still leads; 0 when it does not."""
        if self.renewed_at is None:
            return 0.0
        return max(self.renewed_at + self.terms.deadline_seconds - now, 0.0)

    def seconds_to_wait(self, now: float, attempted_at: float) -> float:
        """Seconds until the next attempt: to renew, or to look whether the Lease can be had.

        Counted from the beginning of the last attempt, so that a slow API server does not make renewals rarer.
        """
        pause = max(attempted_at + self.terms.renew_seconds - now, 0.0)
        if self.renewed_at is not None:
            return min(pause, self.seconds_left(now))
        if self._is_anothers(now) and self.changed_at is not None:
            return min(pause, max(self.changed_at + self.wait_seconds - now, 0.0))
        return pause

    def seen(self, record: Record | None, version: str | None, now: float) -> "Candidate":
        """The Lease was read.

        Args:
            record: what it says, or None when there is none.
            version: its resource version.
            now: this replica's clock once the answer was there, never before.
        """
        # Deleted by somebody: who led goes on, and who knew it waits, as it may have been taken since then.
        anothers = record is not None and record.holder != self.identity
        renewed_at = None if anothers else self.renewed_at
        if record == self.record and self.changed_at is not None:
            return replace(self, version=version, renewed_at=renewed_at)
        if record is not None:
            wait = float(record.duration_seconds)
        else:
            wait = 0.0 if self.changed_at is None else max(self.wait_seconds, self.terms.duration_seconds)
        return replace(self, record=record, version=version, changed_at=now, wait_seconds=wait, renewed_at=renewed_at)

    def claim(self, now: float, wall: str) -> Claim | None:
        """What to write to lead from here on, or None while the Lease is another's.

        Args:
            now: this replica's clock.
            wall: the time of day as the Lease shall show it.
        """
        if self.changed_at is None or self._is_anothers(now):
            return None
        before = self.record or Record()
        mine = before.holder == self.identity
        record = Record(
            holder=self.identity,
            duration_seconds=self.terms.duration_seconds,
            acquired=before.acquired if mine else wall,
            renewed=wall,
            transitions=before.transitions if mine or self.record is None else before.transitions + 1,
        )
        return Claim(record, self.version if self.record is not None else None)

    def claimed(self, claim: Claim, version: str, sent_at: float) -> "Candidate":
        """The write succeeded.

        Args:
            claim: what was written.
            version: resource version of the Lease since then.
            sent_at: this replica's clock before the request was sent, never after.
        """
        wait = float(claim.record.duration_seconds)
        return replace(
            self, record=claim.record, version=version, changed_at=sent_at, wait_seconds=wait, renewed_at=sent_at
        )

    def stepped_down(self) -> "Candidate":
        """It leads no longer, whatever the Lease says; to lead again it has to write it again."""
        return replace(self, renewed_at=None)

    def release(self, wall: str) -> Claim | None:
        """What to write so that another can lead at once, or None when there is nothing to release."""
        if self.record is None or self.record.holder != self.identity:
            return None
        free = Record("", _RELEASED_SECONDS, wall, wall, self.record.transitions)
        return Claim(free, self.version)

    def _is_anothers(self, now: float) -> bool:
        if self.changed_at is None or self.seconds_left(now) > 0:
            return False
        if self.record is not None and self.record.holder in {"", self.identity}:
            return False
        return now < self.changed_at + self.wait_seconds
