"""What a pod is made from: the workload whose template a person can change. Pure: objects in, typed values out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sockethealth_core.pod_fix import PodSpec

Object = Mapping[str, Any]

_TEMPLATE: Final = ("spec", "template")
_JOB_TEMPLATE: Final = ("spec", "jobTemplate", "spec", "template")
_RUN_ONCE: Final = "Job"
_OF_CONTROLLERS: Final = frozenset(
    {
        "pod-template-hash",
        "pod-template-generation",
        "controller-revision-hash",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
        "batch.kubernetes.io/job-completion-index",
        "controller-uid",
        "job-name",
    }
)
"""Labels that controllers give pods: they change with each roll-out or differ from pod to pod."""
_MESH_PORTS: Final[Mapping[str, range]] = {"istio-proxy": range(15000, 15091)}
"""Sidecars that listen on more ports than they declare (Istio, Application Requirements)."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a pod is made from.

    Attributes:
        raw: the workload, or the pod itself where nothing that has a template controls it.
        path: fields that lead to its pod template; empty for a pod.
        above: what controls the workload in turn and has no template that could be changed, or None.
    """

    raw: Object
    path: tuple[str, ...]
    above: Object | None = None

    @property
    def kind(self) -> str:
        """Kind of the workload."""
        return str(self.raw["kind"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.raw["metadata"]["name"])

    @property
    def changeable(self) -> bool:
        """Whether its template can be changed: a Job's cannot, and a pod has none."""
        return bool(self.path) and self.kind != _RUN_ONCE

    @property
    def template(self) -> Object:
        """The pod template, or the pod."""
        found: Object = self.raw
        for key in self.path:
            found = found[key]
        return found


def source_of(lineage: Sequence[Object]) -> Source:
    """What a pod is made from.

    Args:
        lineage: the pod, then its controllers, the nearest first.
    """
    pod, *owners = lineage
    found = Source(pod, ())
    for owner in owners:
        path = next((path for path in (_TEMPLATE, _JOB_TEMPLATE) if _is_template(owner, path)), None)
        found = Source(found.raw, found.path, owner) if path is None else Source(owner, path)
    return found


def _is_template(owner: Object, path: Sequence[str]) -> bool:
    found: Any = owner
    for key in (*path, "spec"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return isinstance(found, Mapping) and isinstance(found.get("containers"), list)


def pod_spec(pod: Object, source: Source) -> PodSpec:
    """The part of pod and template that a fix depends on."""
    spec = source.template.get("spec") or {}
    return PodSpec(
        host_network=bool(spec.get("hostNetwork")),
        ports=frozenset(_ports(pod.get("spec") or {})) | frozenset(_ports(spec)),
        sysctls=_sysctls(spec),
        running=frozenset(_sysctls(pod.get("spec") or {})),
    )


def selector(pod: Object, source: Source) -> Object | None:
    """Labels that select the workload's pods and no others; None where there are none."""
    own = (source.raw.get("spec") or {}).get("selector")
    if source.changeable and isinstance(own, Mapping) and set(own) & {"matchLabels", "matchExpressions"}:
        return own
    labels = ((source.template if source.path else pod).get("metadata") or {}).get("labels") or {}
    lasting = {key: value for key, value in labels.items() if key not in _OF_CONTROLLERS}
    return {"matchLabels": lasting} if lasting else None


def _sysctls(spec: Object) -> dict[str, str]:
    listed = (spec.get("securityContext") or {}).get("sysctls") or []
    return {str(one["name"]): str(one["value"]) for one in listed}


def _ports(spec: Object) -> Iterator[int]:
    for container in (*(spec.get("containers") or []), *(spec.get("initContainers") or [])):
        yield from _MESH_PORTS.get(container.get("name", ""), ())
        for port in container.get("ports") or []:
            if port.get("protocol", "TCP") == "TCP":
                yield int(port["containerPort"])
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            for way in ("httpGet", "tcpSocket", "grpc"):
                port = ((container.get(probe) or {}).get(way) or {}).get("port")
                if isinstance(port, int):
                    yield port
