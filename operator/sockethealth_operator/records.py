"""What the operator remembers of each object."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sockethealth_core.detectors import Subject
from sockethealth_core.detectors.base import AnyFacts
from sockethealth_core.policy import Policy
from sockethealth_core.resources import (
    AssignedProfile,
    Condition,
    Judgement,
    SysctlProfile,
    SysctlProfileReport,
    Watchpoint,
)
from sockethealth_core.rollout import Assignment
from sockethealth_operator.annotations import Entry
from sockethealth_operator.events import Announcement
from sockethealth_operator.objects import Key, ObjectRef


@dataclass(slots=True)
class Tracked:
    """A SocketHealth or NodeSocketHealth.

    Attributes:
        ref: the object itself.
        regarding: the pod or node that it speaks of.
        judgement: what its status holds, as far as is known.
        host_network: the pod shares its node's network namespace.
        written_version: resource version of the operator's last write.
        workload: the pod's top-level workload; meaningful once ``workload_known``.
        settled: has been judged and reported since this replica leads.
        unannounced: Events that are to be created, in order.
    """

    ref: ObjectRef
    subject: Subject
    regarding: ObjectRef
    node: str
    labels: Mapping[str, str]
    facts: AnyFacts
    judgement: Judgement
    host_network: bool = False
    written_version: int = 0
    workload: ObjectRef | None = None
    workload_known: bool = False
    settled: bool = False
    unannounced: list[Announcement] = field(default_factory=list)


@dataclass(slots=True)
class Host:
    """A node's part in roll-outs: what its NodeSocketHealth asks of the agent, and what its sysctl writer reports.

    Attributes:
        ref: the NodeSocketHealth.
        watchpoints: what its spec has.
        assigned: profiles in its spec, by name.
        reports: what the writer says of profiles, by name.
        has_writer: the node has a sysctl writer.
        written_version: resource version of the operator's last write of the spec.
        hushed: its silence has been noticed.
    """

    ref: ObjectRef
    watchpoints: list[Watchpoint]
    assigned: dict[str, AssignedProfile]
    reports: dict[str, SysctlProfileReport]
    has_writer: bool
    written_version: int = 0
    hushed: bool = False


@dataclass(slots=True)
class ProfileRecord:
    """A SysctlProfile.

    Attributes:
        profile: as it is stored, its status as far as is known.
        written_version: resource version of the operator's last write of the status.
        assignments: by node, what the roll-out has come to; None until it was looked at, and what nodes have stays.
        drifted: nodes known to have drifted; None until it was looked at.
        looked_at: epoch seconds at which its roll-out was last looked at.
    """

    ref: ObjectRef
    profile: SysctlProfile
    written_version: int = 0
    assignments: Mapping[str, Assignment] | None = None
    drifted: frozenset[str] | None = None
    looked_at: float = 0.0


@dataclass(slots=True)
class Holder:
    """A workload, or a pod for itself, whose annotations say what is found on its pods.

    Attributes:
        entries: what was last made known, annotated or not; meaningful once ``loaded``.
        verified: the annotations were read since the last resync, and are as written.
        controlled: it was found with annotations and has a controller, of which they may be a copy.
        unannounced: Events that are to be created, in order.
    """

    ref: ObjectRef
    members: set[Key] = field(default_factory=set)
    entries: tuple[Entry, ...] = ()
    loaded: bool = False
    verified: bool = False
    controlled: bool = False
    unannounced: list[Announcement] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A policy as it is stored, valid or not."""

    ref: ObjectRef
    generation: int | None
    policy: Policy | None
    faults: tuple[str, ...]
    profile: str | None
    conditions: tuple[Condition, ...]
