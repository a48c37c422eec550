"""Events of ``events.k8s.io/v1``, each with a name of its own: what is created twice is refused the second time.

The name is a hash of what the Event says happened: regarding whom, which policy, detector, rule and severity, raised or
cleared, and since when. So an operator that was killed may try again whatever it is not sure of. The API server
keeps Events for one hour (``--event-ttl``); for ``ENSURE_SECONDS`` after a finding was raised a restart makes sure
that its Event is there, and later leaves it alone.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from sockethealth_core.names import GROUP
from sockethealth_core.resources import Finding
from sockethealth_operator.annotations import Entry
from sockethealth_operator.objects import EVENT, ObjectRef

ENSURE_SECONDS: Final = 15 * 60.0
_NOTE_BYTES: Final = 1024
_CONTROLLER: Final = f"{GROUP}/operator"


@dataclass(frozen=True, slots=True)
class Announcement:
    """An Event to be there."""

    name: str
    type: Literal["Normal", "Warning"]
    reason: str
    regarding: ObjectRef
    related: ObjectRef | None
    note: str
    action: str = "Evaluate"


def raised(
    regarding: ObjectRef, related: ObjectRef | None, cause: Finding | Entry, severity_since: str, note: str
) -> Announcement:
    """A finding was raised or became more severe.

    Args:
        regarding: pod, node or workload that has it.
        related: for a workload, the pod.
        cause: the finding, or the workload's summary of it.
        severity_since: when that was.
        note: what the Event says.
    """
    name = _name(regarding, cause, "raised", severity_since)
    return Announcement(name, "Warning", cause.type, regarding, related, note)


def cleared(regarding: ObjectRef, cause: Finding | Entry, note: str) -> Announcement:
    """A finding is gone."""
    name = _name(regarding, cause, "cleared", cause.since)
    return Announcement(name, "Normal", f"{cause.type}Cleared", regarding, None, note)


def rolled_out(profile: ObjectRef, reason: str, note: str, *happening: str, warning: bool = False) -> Announcement:
    """A roll-out of a SysctlProfile took a turn.

    Args:
        profile: the SysctlProfile.
        reason: which turn, as one CamelCase word.
        note: what the Event says.
        happening: what tells this turn from others of its kind, such as the revision.
        warning: a person is wanted.
    """
    name = _hashed(profile, profile.uid, reason, *happening)
    return Announcement(name, "Warning" if warning else "Normal", reason, profile, None, note, "RollOut")


def body(announcement: Announcement, instance: str, now: float) -> dict[str, Any]:
    """The Event as the API server takes it.

    Args:
        announcement: what it says.
        instance: name of the operator's pod.
        now: epoch seconds.
    """
    event: dict[str, Any] = {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": announcement.name, "namespace": namespace_of(announcement.regarding)},
        "eventTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": _CONTROLLER,
        "reportingInstance": instance[:128],
        "action": announcement.action,
        "type": announcement.type,
        "reason": announcement.reason[:128],
        "regarding": _reference(announcement.regarding),
        "note": cut(announcement.note, _NOTE_BYTES),
    }
    if announcement.related is not None:
        event["related"] = _reference(announcement.related)
    return event


def namespace_of(regarding: ObjectRef) -> str:
    """Where an Event lives: with its object, or in ``default`` for one of the cluster."""
    return regarding.namespace or "default"


def cut(text: str, limit_bytes: int) -> str:
    """Text of at most so many bytes of UTF-8, printable, cut between words."""
    text = "".join(character if character.isprintable() else " " for character in text)
    raw = text.encode()
    if len(raw) <= limit_bytes:
        return text
    head = raw[: limit_bytes - 3].decode(errors="ignore")
    return head.rpartition(" ")[0] + "..." if " " in head else head + "..."


def _name(regarding: ObjectRef, cause: Finding | Entry, change: str, since: str) -> str:
    parts = (regarding.uid, cause.policy_kind, cause.policy, cause.type, cause.rule, cause.severity, change, since)
    return _hashed(regarding, *parts)


def _hashed(regarding: ObjectRef, *parts: str) -> str:
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return f"{regarding.name[:230].rstrip('.-')}.{digest}"


def _reference(ref: ObjectRef) -> Mapping[str, str]:
    reference = {"apiVersion": ref.api_version, "kind": ref.kind, "name": ref.name, "uid": ref.uid}
    return reference | ({"namespace": ref.namespace} if ref.namespace else {})
