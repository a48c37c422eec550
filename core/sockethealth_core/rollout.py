"""How a SysctlProfile spreads over nodes: a pure function of the profile, its remembered state, the nodes and the time.

Level-based: each call says what every node shall be asked for, from what is, so that it goes on after a restart of
the operator from what the API server holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sockethealth_core.resources import (
    Condition,
    Mode,
    ProfileContent,
    ProfileNodes,
    RolloutState,
    Severity,
    SysctlProfile,
    SysctlProfileReport,
)

ANSWER_SECONDS: Final = 120.0
"""A node whose writer has not reported a new assignment by then has failed."""


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


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a node shall be asked for."""

    content: ProfileContent
    mode: Mode


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows.

    Attributes:
        assignments: by node, for the nodes that shall have one; all other nodes shall have none.
        state: to be remembered in the profile's status, before assignments are written.
        nodes: counts for the status.
        conditions: Accepted, Progressing, Degraded, Overridden; see `advance`.
        next_due: epoch seconds at which to look again though nothing happens, or None.
    """

    assignments: Mapping[str, Assignment]
    state: RolloutState
    nodes: ProfileNodes
    conditions: tuple[Condition, ...]
    next_due: float | None


def content_of(profile: SysctlProfile) -> ProfileContent:
    """What a profile asks for, with its revision: a digest that ignores mode, selectors of nodes, and roll-out options.

    The annotation sockethealth.io/retry is part of the digest.
    """
    raise NotImplementedError


def advance(
    profile: SysctlProfile,
    nodes: Sequence[NodeView],
    now: float,
    *,
    faults: Sequence[str] = (),
) -> Plan:
    """The next step of a roll-out, from `profile.status.rollout` on."""
    raise NotImplementedError
