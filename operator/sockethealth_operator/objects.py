"""What the operator calls the objects it watches and writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sockethealth_core.crd import KINDS
from sockethealth_core.names import GROUP, VERSION


@dataclass(frozen=True, slots=True)
class ResourceType:
    """How a kind is served. ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """As objects carry it: ``apps/v1``, or ``v1`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Path on the API server of one object, or of all of a namespace or the cluster."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)

    def __str__(self) -> str:
        """As a Role names it: ``deployments.apps``, or ``pods``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One object at one time of its life: a successor of the same name has another ``uid``."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        """As messages name it: ``Deployment shop/web``."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What is queued for work: a kind of the API by namespace and name, or a holder of annotations by UID."""

    kind: str
    namespace: str
    name: str


HOLDER: Final = "AnnotationHolder"
"""Kind of the keys of workloads and pods that carry annotations; their name is the UID."""

NODE_HEALTH: Final = "NodeSocketHealth"
PROFILE: Final = "SysctlProfile"

POD: Final = ResourceType("", "v1", "pods", "Pod", namespaced=True)
NODE: Final = ResourceType("", "v1", "nodes", "Node", namespaced=False)
NAMESPACE: Final = ResourceType("", "v1", "namespaces", "Namespace", namespaced=False)
SERVICE: Final = ResourceType("", "v1", "services", "Service", namespaced=True)
ENDPOINT_SLICE: Final = ResourceType("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", namespaced=True)
EVENT: Final = ResourceType("events.k8s.io", "v1", "events", "Event", namespaced=True)
DEPLOYMENT: Final = ResourceType("apps", "v1", "deployments", "Deployment", namespaced=True)
DAEMON_SET: Final = ResourceType("apps", "v1", "daemonsets", "DaemonSet", namespaced=True)
LEASE: Final = ResourceType("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)
DEFINITION: Final = ResourceType(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)

OURS: Final[Mapping[str, ResourceType]] = {
    kind.name: ResourceType(GROUP, VERSION, kind.plural, kind.name, namespaced=kind.namespaced) for kind in KINDS
}

MANY: Final = (OURS["SocketHealth"], OURS["NodeSocketHealth"])
"""Kinds of which there is one object a pod or a node: followed by :mod:`watching`."""

FEW: Final = (*(kind for kind in OURS.values() if kind not in MANY), NAMESPACE, NODE, SERVICE, ENDPOINT_SLICE)
"""Kinds that kopf watches."""

WATCHED: Final = (*MANY, *FEW)
"""Everything the operator watches."""

WORKLOADS: Final = (
    DEPLOYMENT,
    ResourceType("apps", "v1", "statefulsets", "StatefulSet", namespaced=True),
    DAEMON_SET,
    ResourceType("apps", "v1", "replicasets", "ReplicaSet", namespaced=True),
    ResourceType("batch", "v1", "jobs", "Job", namespaced=True),
    ResourceType("batch", "v1", "cronjobs", "CronJob", namespaced=True),
)
"""Kinds that are searched for forgotten annotations; others are added by ``--workload-kind``."""


def ref_of(resource: ResourceType, raw: Mapping[str, Any]) -> ObjectRef:
    """Reference to an object of which at least the metadata is at hand."""
    metadata = raw["metadata"]
    return ObjectRef(
        resource.api_version, resource.kind, metadata.get("namespace", ""), metadata["name"], metadata["uid"]
    )


def version_of(raw: Mapping[str, Any]) -> int:
    """Resource version of an object; those of one kind can be compared as numbers (KEP-5504)."""
    text = raw["metadata"].get("resourceVersion", "0")
    return int(text) if text.isdecimal() else 0


def key_of(kind: str, raw: Mapping[str, Any]) -> Key:
    """Key of an object of a watched kind."""
    metadata = raw["metadata"]
    return Key(kind, metadata.get("namespace", ""), metadata["name"])
