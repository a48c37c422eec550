"""One node as the roll-out of a SysctlProfile sees it, and what can be read from that alone."""

from dataclasses import dataclass

from sockethealth_core.resources import Mode, Severity, SysctlProfileReport


@dataclass(frozen=True, slots=True)
class NodeFinding:
    """A finding active on a node or one of its pods; `since` in epoch seconds, `what` names finding and place."""

    severity: Severity
    since: float
    what: str


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as a profile sees it.

    Attributes:
        name: the node's name.
        selected: the profile is for it: its selector matches, and for OnFinding something is active or held there.
        assigned: revision in the node's spec for this profile, or "" for none.
        assigned_mode: with it.
        report: what the node's writer says of this profile, or None.
        has_writer: the node has a sysctl writer at all.
        silent: nothing has been heard of its agent for three heartbeats.
        findings: active findings of the node and its pods.
    """

    name: str
    selected: bool
    assigned: str = ""
    assigned_mode: Mode = "Audit"
    report: SysctlProfileReport | None = None
    has_writer: bool = True
    silent: bool = False
    findings: tuple[NodeFinding, ...] = ()

    @property
    def enforced(self) -> str:
        """Revision that the node is asked to put in force, or "": one it is asked to audit changes nothing."""
        return self.assigned if self.assigned_mode == "Enforce" else ""

    @property
    def reachable(self) -> bool:
        """Somebody is there to change it, and to say how that went."""
        return self.has_writer and not self.silent

    def answer(self, revision: str, mode: Mode = "Enforce") -> SysctlProfileReport | None:
        """What the node says of a revision that it has been asked for, or None before it has said anything.

        A report of a revision that is not in the node's spec is of an earlier time, and no answer.
        """
        asked = self.assigned == revision and self.assigned_mode == mode
        spoken = self.report is not None and self.report.revision == revision and self.report.mode == mode
        return self.report if asked and spoken else None

    def answered(self, revision: str) -> bool:
        """Asked to put `revision` in force, the node has said how that went, whatever it says."""
        answer = self.answer(revision)
        return answer is not None and answer.state != "Pending"

    def settled(self, revision: str) -> bool:
        """The values of `revision` are in force."""
        answer = self.answer(revision)
        return answer is not None and answer.state == "Applied"

    @property
    def failed(self) -> bool:
        """What the node is asked for could not be done there."""
        return self._says("Failed") and bool(self.assigned)

    @property
    def drifted(self) -> bool:
        """Someone else has changed a value of what the node is asked for, twice."""
        return self._says("Drifted") and bool(self.assigned)

    @property
    def restore_failing(self) -> bool:
        """A value of what the node is asked for no more could not be put back yet."""
        if self.report is None:
            return False
        return self.report.state == "Restoring" or (self.report.state == "Failed" and not self.report.revision)

    def _says(self, state: str) -> bool:
        return self.report is not None and self.report.state == state and self.report.revision == self.assigned
