"""What the writer states of each profile, from what each namespace came to. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from sockethealth_core.resources import (
    AssignedProfile,
    OverriddenSysctl,
    ProfileState,
    SysctlChange,
    SysctlProfileReport,
)
from sockethealth_core.sysctl_plan import Effective, Place, Wanted

MOST_CHANGES: Final = 20
MOST_OVERRIDDEN: Final = 32
MOST_REPORTS: Final = 64
LONGEST_MESSAGE: Final = 1024
_MOST_SENTENCES: Final = 3


@dataclass(frozen=True)
class Outcome:
    """What one sysctl of one namespace came to.

    Attributes:
        wanted: what was asked for.
        state: Unsupported: this kernel does not have it, or its module is not loaded.
        found: the value before the first write.
        current: the value in force.
        sentence: why it failed, or in Audit would fail.
    """

    wanted: Wanted
    state: Literal["Applied", "Drifted", "Failed", "Unsupported"]
    found: str
    current: str
    sentence: str = ""


@dataclass(frozen=True)
class Visit:
    """What one namespace came to.

    Attributes:
        key: in the journal.
        place: the namespace.
        effective: what the profiles mean for it.
        profiles: those that are for it.
        outcomes: by sysctl, of what is wanted.
        audited: by Audit profile and sysctl.
        stuck: by sysctl, why it could not be put back.
        trouble: why nothing could be read or written, as a sentence.
        gone: the namespace went away meanwhile.
    """

    key: str
    place: Place
    effective: Effective
    profiles: tuple[str, ...]
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    audited: Mapping[str, Mapping[str, Outcome]] = field(default_factory=dict)
    stuck: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""
    gone: bool = False


@dataclass(frozen=True)
class Leftover:
    """A value of ours that is no longer asked for and is still in force; `why` it is."""

    profile: str
    where: str
    name: str
    found: str
    why: str

    def __str__(self) -> str:
        """As a message has it."""
        return f"{self.name} of {self.where} could not be put back to '{self.found}' yet: {self.why}"


def reports(
    assigned: Sequence[AssignedProfile], visits: Sequence[Visit], leftovers: Sequence[Leftover]
) -> list[SysctlProfileReport]:
    """One report for each assigned profile, and for each that is gone but still has a value in force; by name."""
    found = {profile.profile: _report(profile, visits, leftovers) for profile in assigned}
    for profile in {one.profile for one in leftovers} - found.keys():
        left = [one for one in leftovers if one.profile == profile]
        found[profile] = SysctlProfileReport(
            profile=profile,
            revision="",
            state="Restoring",
            targets=len({one.where for one in left}),
            message=_joined(str(one) for one in left),
        )
    return [found[name] for name in sorted(found)][:MOST_REPORTS]


@dataclass
class _Tally:
    changes: list[SysctlChange] = field(default_factory=list)
    targets: int = 0
    failed: list[str] = field(default_factory=list)
    drifted: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unsupported: set[str] = field(default_factory=set)
    overridden: set[tuple[str, str]] = field(default_factory=set)
    in_force: int = 0


def _report(profile: AssignedProfile, visits: Sequence[Visit], leftovers: Sequence[Leftover]) -> SysctlProfileReport:
    tally = _Tally()
    name = profile.profile
    for visit in visits:
        if name in visit.profiles and not visit.gone:
            _count(tally, profile, visit)
    tally.remarks += [str(one) for one in leftovers if one.profile == name]
    state, sentences = _state(profile, tally)
    return SysctlProfileReport(
        profile=name,
        revision=profile.revision,
        mode=profile.mode,
        state=state,
        targets=tally.targets,
        changes=tally.changes[:MOST_CHANGES],
        changes_total=len(tally.changes),
        overridden=[OverriddenSysctl(name=sysctl, by=by) for sysctl, by in sorted(tally.overridden)[:MOST_OVERRIDDEN]],
        unsupported=sorted(tally.unsupported),
        message=_joined([*sentences, *tally.remarks]),
    )


def _count(tally: _Tally, profile: AssignedProfile, visit: Visit) -> None:
    name, where = profile.profile, visit.place.where
    tally.targets += 1
    tally.overridden |= set(visit.effective.overridden.get(name, {}).items())
    if name in visit.effective.refused:
        tally.failed.append(visit.effective.refused[name])
        return
    if visit.trouble:
        tally.failed.append(visit.trouble)
        return
    outcomes = {key: one for key, one in visit.outcomes.items() if one.wanted.profile == name}
    for sysctl, outcome in {**outcomes, **visit.audited.get(name, {})}.items():
        value = outcome.wanted.value
        if outcome.state == "Unsupported":
            tally.unsupported.add(sysctl)
            continue
        if outcome.state == "Failed":
            tally.failed.append(outcome.sentence)
            continue
        if outcome.sentence:
            tally.remarks.append(f"Enforce would be refused: {outcome.sentence}")
        if outcome.state == "Drifted":
            tally.drifted.append(
                f"{sysctl} of {where} is '{outcome.current}': someone changed it again after it had been set to "
                f"'{value}' a second time, and it is left so"
            )
        tally.in_force += 1
        if outcome.found != value:
            tally.changes.append(SysctlChange(where=where, name=sysctl, found=outcome.found, wanted=value))


def _state(profile: AssignedProfile, tally: _Tally) -> tuple[ProfileState, list[str]]:
    if tally.failed:
        return "Failed", tally.failed
    if tally.drifted:
        return "Drifted", tally.drifted
    places = _counted(tally.targets, "network namespace")
    if profile.mode == "Audit":
        changes = _counted(len(tally.changes), "value")
        return "Audited", [f"Enforce would change {changes} in {places}"]
    if not tally.targets:
        return "Applied", ["No network namespace of this node is selected"]
    return "Applied", [f"{_counted(tally.in_force, 'value')} in force in {places}"]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _joined(sentences: Iterable[str]) -> str:
    unique = list(dict.fromkeys(sentence.rstrip(".") for sentence in sentences))
    text = ". ".join(unique[:_MOST_SENTENCES]) + "."
    if len(unique) > _MOST_SENTENCES:
        text += f" And {len(unique) - _MOST_SENTENCES} more."
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + "..."
