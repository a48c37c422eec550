"""Which pods belong to a workload, by controller owner references. Pure: objects in, names out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

_SHORT: Final = {
    "deploy": "deployment",
    "sts": "statefulset",
    "ds": "daemonset",
    "rs": "replicaset",
    "cj": "cronjob",
    "rc": "replicationcontroller",
}
_HOW_MANY: Final = 5


@dataclass(frozen=True, slots=True, order=True)
class Workload:
    """Kind and name of what controls pods."""

    kind: str
    name: str

    def __str__(self) -> str:
        """As a person writes it: ``Deployment/web``."""
        return f"{self.kind}/{self.name}"


def parsed(text: str) -> Workload:
    """KIND/NAME as kubectl takes it: any case, short, plural, and with its group (``deployments.apps/web``).

    Raises:
        ValueError: with a sentence.
    """
    kind, slash, name = text.partition("/")
    if not slash or not kind or not name or "/" in name:
        raise ValueError(f"'{text}' is no workload: write KIND/NAME, such as deployment/web")
    plain = kind.lower().partition(".")[0]
    return Workload(_SHORT.get(plain, plain), name)


def is_it(wanted: Workload, found: Workload) -> bool:
    """Whether an owner is the workload that a person means."""
    kind = found.kind.lower()
    return wanted.name == found.name and wanted.kind in (kind, f"{kind}s")


def controller(raw: Mapping[str, Any]) -> Workload | None:
    """What controls an object, if anything."""
    reference = controller_reference(raw)
    return Workload(reference["kind"], reference["name"]) if reference is not None else None


def controller_reference(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """The owner reference of what controls an object, if anything."""
    for owner in (raw.get("metadata") or {}).get("ownerReferences") or []:
        if owner.get("controller"):
            return dict(owner)
    return None


def lineage(raw: Mapping[str, Any], between: Mapping[Workload, Workload | None]) -> Iterator[Workload]:
    """The controllers of an object, the nearest first.

    Args:
        raw: the object.
        between: what controls the ReplicaSets and Jobs of its namespace.
    """
    seen: set[Workload] = set()
    owner = controller(raw)
    while owner is not None and owner not in seen:
        seen.add(owner)
        yield owner
        owner = between.get(owner)


def controllers(kind: str, items: Iterable[Mapping[str, Any]]) -> dict[Workload, Workload | None]:
    """What controls each object of one kind; the items of a list do not say their kind themselves."""
    return {Workload(kind, item["metadata"]["name"]): controller(item) for item in items}


def pods_of(
    wanted: Workload, pods: Iterable[Mapping[str, Any]], between: Mapping[Workload, Workload | None]
) -> list[Mapping[str, Any]]:
    """The pods that the workload controls, directly or through others."""
    return [pod for pod in pods if any(is_it(wanted, owner) for owner in lineage(pod, between))]


def nearest(wanted: Workload, pods: Iterable[Mapping[str, Any]], between: Mapping[Workload, Workload | None]) -> str:
    """The workloads that have pods, those first that are called most alike."""
    tops = {str(list(lineage(pod, between))[-1]) for pod in pods if controller(pod) is not None}
    by_lower = {text.lower(): text for text in sorted(tops)}
    return listed([by_lower[text] for text in closest(str(wanted).lower(), list(by_lower))])


def closest(text: str, names: Sequence[str]) -> list[str]:
    """Some of the names, those first that are most alike; all of them when they are few."""
    alike = get_close_matches(text, names, _HOW_MANY, 0.6)
    # A pod's name is its workload's with a suffix, so what people type is often a beginning.
    begun = [name for name in sorted(names) if name.startswith(text) or text.startswith(name)]
    found = list(dict.fromkeys([*begun, *alike]))[:_HOW_MANY]
    return found or sorted(names)[:_HOW_MANY]


def listed(names: Sequence[str]) -> str:
    """Names in a sentence; ``none at all`` without any."""
    return ", ".join(names) or "none at all"
