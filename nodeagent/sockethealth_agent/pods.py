"""The pods of this node as the API server tells of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from sockethealth_agent.kubeapi import KubeApi
from sockethealth_agent.watching import Collection, Mirror

PODS_PATH: Final = "/api/v1/pods"
COMPLETED: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class PodInfo:
    """A pod, as far as its sockets are concerned.

    Attributes:
        containers: name by container id, without the runtime's scheme; init and ephemeral containers included.
        ips: the pod's addresses, IPv4 and IPv6.
        deleting: it was asked to end, and its processes may still run.
        sysctls: names, with dots, that its securityContext.sysctls sets.
    """

    namespace: str
    name: str
    uid: str
    host_network: bool
    phase: str
    labels: Mapping[str, str]
    containers: Mapping[str, str]
    ips: tuple[str, ...]
    deleting: bool = False
    sysctls: frozenset[str] = frozenset()

    @property
    def completed(self) -> bool:
        """All its containers have ended, and none will be started again."""
        return self.phase in COMPLETED

    def __str__(self) -> str:
        """As a message names it."""
        return f"pod {self.namespace}/{self.name}"


class _ContainerStatus(msgspec.Struct, frozen=True):
    name: str = ""
    container_id: str = msgspec.field(default="", name="containerID")


class _PodIp(msgspec.Struct, frozen=True):
    ip: str = ""


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""
    container_statuses: list[_ContainerStatus] = []
    init_container_statuses: list[_ContainerStatus] = []
    ephemeral_container_statuses: list[_ContainerStatus] = []
    pod_ips: list[_PodIp] = msgspec.field(default_factory=list, name="podIPs")


class _Sysctl(msgspec.Struct, frozen=True):
    name: str = ""


class _SecurityContext(msgspec.Struct, frozen=True):
    sysctls: list[_Sysctl] = []


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    host_network: bool = False
    security_context: _SecurityContext | None = None


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    uid: str
    labels: dict[str, str] = {}
    deletion_timestamp: str | None = None


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()
    status: _Status = _Status()


def read_pod(raw: bytes) -> PodInfo:
    """A pod from its JSON.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    pod = msgspec.json.decode(raw, type=_Pod)
    status, security = pod.status, pod.spec.security_context or _SecurityContext()
    return PodInfo(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        host_network=pod.spec.host_network,
        phase=status.phase,
        labels=pod.metadata.labels,
        containers={
            container.container_id.rpartition("//")[2]: container.name
            for containers in (
                status.container_statuses,
                status.init_container_statuses,
                status.ephemeral_container_statuses,
            )
            for container in containers
            if container.container_id
        },
        ips=tuple(ip.ip for ip in status.pod_ips),
        deleting=pod.metadata.deletion_timestamp is not None,
        # Kubernetes takes slashes for dots (kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster).
        sysctls=frozenset(sysctl.name.replace("/", ".") for sysctl in security.sysctls),
    )


def pods_of(api: KubeApi, node_name: str, on_change: Callable[[], None] = lambda: None) -> Mirror[PodInfo]:
    """The pods bound to a node, by UID; not started yet."""
    selector = {"fieldSelector": f"spec.nodeName={node_name}"}
    return Mirror(api, Collection(PODS_PATH, selector, read_pod, lambda pod: pod.uid), on_change=on_change)
