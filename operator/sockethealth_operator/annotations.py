"""The text of the ``sockethealth.io`` annotations on workloads and pods: written, read back, compared.

``findings`` is a compact JSON list, worst first, and is also the operator's own memory of what it has told of a
workload: it is read back after a restart. What a stranger wrote there is data like any other.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from sockethealth_core.names import ANNOTATION_FINDINGS, ANNOTATION_HEALTH, ANNOTATION_SINCE, WORKLOAD_ANNOTATIONS
from sockethealth_core.resources import Severity
from sockethealth_core.units import parse_time

MAX_ENTRIES: Final = 8
MAX_BYTES: Final = 2048
_MESSAGE_CHARACTERS: Final = 160

REMOVED: Final[Mapping[str, str | None]] = dict.fromkeys(WORKLOAD_ANNOTATIONS)
"""The patch that takes all of them away."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One policy's finding of one type on a workload, over all of its pods.

    Attributes:
        since: when the first of its pods had it, RFC 3339.
        pods: how many of its pods have it.
        pod: one of those, with the worst severity.
    """

    type: str
    severity: Severity
    since: str
    policy: str
    policy_kind: str = ""
    rule: str = ""
    pods: int = 1
    pod: str = ""
    message: str = ""

    @property
    def identity(self) -> tuple[str, ...]:
        """The same as :func:`sockethealth_core.engine.identity_of` of its finding."""
        return (self.policy_kind, self.policy, self.type, self.rule if self.type == "Expression" else "")


def render(entries: Sequence[Entry]) -> dict[str, str | None]:
    """The annotations that say so; None where one shall not be there."""
    if not entries:
        return dict(REMOVED)
    kept = [_short(entry) for entry in entries[:MAX_ENTRIES]]
    text = _dump(kept)
    while len(text) > MAX_BYTES and len(kept) > 1:
        kept.pop()
        text = _dump(kept)
    critical = any(entry.severity == "Critical" for entry in entries)
    return {
        ANNOTATION_HEALTH: "Critical" if critical else "Warning",
        ANNOTATION_FINDINGS: text,
        ANNOTATION_SINCE: min(entry.since for entry in entries),
    }


def parse(annotations: Mapping[str, str | None]) -> list[Entry]:
    """What was written; nothing when it is not what :func:`render` writes."""
    try:
        entries = msgspec.json.decode(annotations.get(ANNOTATION_FINDINGS) or "[]", type=list[Entry])
        for entry in entries:
            parse_time(entry.since)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []
    return entries[:MAX_ENTRIES]


def annotated(annotations: Mapping[str, str]) -> bool:
    """Whether any of ours is there."""
    return any(name in annotations for name in WORKLOAD_ANNOTATIONS)


def differs(present: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> bool:
    """Whether a write is worth it: a number that drifts inside a message is not."""
    for name in (ANNOTATION_HEALTH, ANNOTATION_SINCE):
        if present.get(name) != wanted.get(name):
            return True
    text = wanted.get(ANNOTATION_FINDINGS)
    if text is None or present.get(ANNOTATION_FINDINGS) is None:
        return present.get(ANNOTATION_FINDINGS) != text
    return _signature(parse(present)) != _signature(parse({ANNOTATION_FINDINGS: text}))


def _signature(entries: Sequence[Entry]) -> list[tuple[object, ...]]:
    return [(entry.identity, entry.severity, entry.rule, entry.since, entry.pods) for entry in entries]


def _short(entry: Entry) -> Entry:
    if len(entry.message) <= _MESSAGE_CHARACTERS:
        return entry
    return msgspec.structs.replace(entry, message=entry.message[: _MESSAGE_CHARACTERS - 3].rstrip() + "...")


def _dump(entries: Sequence[Entry]) -> str:
    # ASCII only: a process can give itself any name, and a terminal must not act on it.
    return json.dumps([msgspec.to_builtins(entry) for entry in entries], separators=(",", ":"), ensure_ascii=True)
