"""Which value each sysctl of a network namespace shall have, and the next step from what is to what shall be.

Pure and level-based: `decide` is asked again after every step, with the record as it was last made durable and the
value as the kernel shows it, so a crash between any two steps is nothing special. Values are compared as text and must
be canonical (:func:`sockethealth_core.sysctls.canonical`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from sockethealth_core.resources import AssignedProfile, ProfileTarget
from sockethealth_core.selectors import matches
from sockethealth_core.sysctl_rules import combination_refusal, refusals
from sockethealth_core.sysctls import PORT_RANGE, RESERVED_PORTS, canonical

OWN_SPEC: Final = "the pod's own securityContext.sysctls"
"""Who overrides a profile where the pod's author has chosen a value."""

_APPLY_FIRST: Final = (RESERVED_PORTS,)
_APPLY_LAST: Final = (PORT_RANGE,)


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace as profiles select it.

    Attributes:
        where: as reports name it: node, or namespace/name of the pod.
        target: Node for the node's own namespace, Pods for that of one pod.
        namespace: the pod's Kubernetes namespace.
        uid: the pod's.
        labels: the pod's.
        own_sysctls: names that the pod sets itself in securityContext.sysctls.
    """

    where: str = "node"
    target: ProfileTarget = "Node"
    namespace: str = ""
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    own_sysctls: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A canonical value, and the profile and revision that ask for it."""

    value: str
    profile: str
    revision: str


@dataclass(frozen=True, slots=True)
class Effective:
    """What all profiles together mean for one namespace.

    Attributes:
        wanted: by sysctl, what shall be in force.
        audited: by Audit profile, what it alone would put in force if it were enforced.
        overridden: by profile and sysctl, who has more say.
        refused: by profile, why nothing of it is written here.
    """

    wanted: Mapping[str, Wanted]
    audited: Mapping[str, Mapping[str, str]]
    overridden: Mapping[str, Mapping[str, str]]
    refused: Mapping[str, str]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one sysctl of one namespace, durably and from before the first write.

    Attributes:
        found: the value before our first write.
        ours: values that are ours if the kernel shows them; the last is the one that is meant.
        phase: Intended: it is about to be written, or was; Applied: it was read back; Restoring: `found` is about to be
            written, or was.
        displaced: for a re-application, the value of someone else that it displaces.
        reapplied: someone changed the value once since it was asked for, and it was put in force again.
        profile: who asked for it.
        revision: of that profile.
    """

    found: str
    ours: tuple[str, ...]
    phase: Literal["Intended", "Applied", "Restoring"] = "Intended"
    displaced: str | None = None
    reapplied: bool = False
    profile: str = ""
    revision: str = ""

    @property
    def meant(self) -> str:
        """The value that was asked for last."""
        return self.ours[-1]


@dataclass(frozen=True, slots=True)
class Note:
    """Make this record durable, then ask again."""

    record: Record


@dataclass(frozen=True, slots=True)
class Write:
    """Write this value, read it back, then ask again. `restoring`: it is the value that was found."""

    value: str
    restoring: bool


@dataclass(frozen=True, slots=True)
class Forget:
    """Durably remove the record. `left`: the value of someone else that stays in force, if that is why."""

    left: str | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing to do. `drifted`: someone else's value is in force, and is not fought over."""

    drifted: bool = False


Step = Note | Write | Forget | Keep


def selects(profile: AssignedProfile, place: Place) -> bool:
    """Whether a profile is for a namespace. Pods of the node's own network are no place of their own."""
    if profile.target != place.target:
        return False
    if place.target == "Node":
        return True
    if profile.namespaces is not None and place.namespace not in profile.namespaces:
        return False
    if profile.pods is not None and all(pod.uid != place.uid for pod in profile.pods):
        return False
    return matches(profile.pod_selector, place.labels)


def refusal_of(profile: AssignedProfile, node_ports: tuple[int, int] | None) -> str | None:
    """Why nothing of a profile may be written, as a sentence; None: all of it may.

    One sysctl that is refused refuses the profile, so that no half of what a person thought of as one is in force.
    """
    values: dict[str, str] = {}
    for sysctl in profile.sysctls:
        if sysctl.name in values:
            return f"{sysctl.name} is asked for twice"
        values[sysctl.name] = sysctl.value
    return next(iter(refusals(values, profile.target, node_ports)), None)


def effective(
    profiles: Iterable[AssignedProfile], place: Place, *, node_ports: tuple[int, int] | None = None
) -> Effective:
    """What the profiles that are for a namespace mean for it.

    Of two that set one sysctl, the one of higher priority wins, then the first by name. An Audit profile takes nothing
    from an Enforce one. What the pod sets itself is left to it.

    Args:
        profiles: all that the node was assigned.
        place: the namespace.
        node_ports: first and last port of Services of type NodePort, or None where there are none.
    """
    selected = sorted((one for one in profiles if selects(one, place)), key=_rank)
    refused = {one.profile: why for one in selected if (why := refusal_of(one, node_ports)) is not None}
    while True:
        found = _ranked([one for one in selected if one.profile not in refused], place, refused)
        # Of one profile the range, of another the reserved ports: together they may be what neither is alone.
        together = {name: wanted.value for name, wanted in found.wanted.items()}
        why = combination_refusal(together, place.target, node_ports)
        if why is None:
            return found
        refused[found.wanted[PORT_RANGE].profile] = why


def _rank(profile: AssignedProfile) -> tuple[int, str]:
    return -profile.priority, profile.profile


def _ranked(profiles: Sequence[AssignedProfile], place: Place, refused: Mapping[str, str]) -> Effective:
    wanted: dict[str, Wanted] = {}
    audited: dict[str, dict[str, str]] = {}
    overridden: dict[str, dict[str, str]] = {}
    winners: dict[str, AssignedProfile] = {}
    for profile in sorted(profiles, key=lambda one: one.mode == "Audit"):
        for sysctl in profile.sysctls:
            winner = winners.get(sysctl.name)
            value = canonical(sysctl.name, sysctl.value)
            if sysctl.name in place.own_sysctls:
                overridden.setdefault(profile.profile, {})[sysctl.name] = OWN_SPEC
            elif winner is not None and _rank(winner) < _rank(profile):
                overridden.setdefault(profile.profile, {})[sysctl.name] = winner.profile
            elif profile.mode == "Audit":
                audited.setdefault(profile.profile, {})[sysctl.name] = value
            else:
                winners[sysctl.name] = profile
                wanted[sysctl.name] = Wanted(value, profile.profile, profile.revision)
    return Effective(wanted, audited, overridden, refused)


def apply_order(names: Iterable[str]) -> list[str]:
    """Names in the order in which they are written: reserved ports before the range they are reserved from."""
    return sorted(names, key=lambda name: (name not in _APPLY_FIRST, name in _APPLY_LAST, name))


def restore_order(names: Iterable[str]) -> list[str]:
    """Names in the order in which what was found is put back: the other way round."""
    return apply_order(names)[::-1]


def decide(record: Record | None, current: str, wanted: Wanted | None) -> Step:
    """The next step for one sysctl of one namespace.

    Args:
        record: what was made durable last; None: nothing of ours is in force.
        current: the value in force.
        wanted: what shall be; None: what was found.
    """
    if wanted is None:
        return Keep() if record is None else _back(record, current)
    if record is None:
        return Note(_record(current, (), wanted))
    asked = (record.meant, record.profile, record.revision)
    if record.phase == "Restoring" or asked != (wanted.value, wanted.profile, wanted.revision):
        return Note(_asked_anew(record, current, wanted))
    return _forth(record, current)


def miscarried(record: Record, current: str) -> Note | Forget:
    """The step after a write that the kernel refused, or did not take as it was meant; then decide with no wanted.

    Args:
        record: in phase Intended.
        current: what is in force after the write, which is our doing whatever it is.
    """
    if current == record.found:
        return Forget()
    ours = (*(value for value in record.ours if value != current), current)
    return Note(replace(record, phase="Restoring", ours=ours, displaced=None))


def _record(found: str, kept: tuple[str, ...], wanted: Wanted) -> Record:
    ours = (*(value for value in kept if value != wanted.value), wanted.value)
    return Record(found=found, ours=ours, profile=wanted.profile, revision=wanted.revision)


def _asked_anew(record: Record, current: str, wanted: Wanted) -> Record:
    if record.phase == "Applied" and current == record.meant == wanted.value:
        return replace(record, profile=wanted.profile, revision=wanted.revision, reapplied=False)
    if current in record.ours:
        return _record(record.found, (current,), wanted)
    # A value that is neither ours nor what we found was set by someone after us, and is what they find again.
    return _record(current, (), wanted)


def _forth(record: Record, current: str) -> Step:
    if record.phase == "Applied":
        return Keep() if current == record.meant else _drifted(record, current)
    if current == record.meant:
        return Note(replace(record, phase="Applied", ours=(current,), displaced=None))
    if current in (record.found, record.displaced, *record.ours):
        return Write(record.meant, restoring=False)
    return _drifted(record, current)


def _drifted(record: Record, current: str) -> Step:
    if not record.reapplied:
        return Note(replace(record, phase="Intended", ours=(record.meant,), displaced=current, reapplied=True))
    if record.phase == "Applied":
        return Keep(drifted=True)
    return Note(replace(record, phase="Applied", ours=(record.meant,), displaced=None))


def _back(record: Record, current: str) -> Step:
    if current == record.found:
        return Forget()
    if current not in record.ours:
        return Forget(left=current)
    if record.phase != "Restoring":
        return Note(replace(record, phase="Restoring", displaced=None))
    return Write(record.found, restoring=True)
