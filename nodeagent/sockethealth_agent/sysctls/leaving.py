"""Whether the writer ends for good, so that it has to put everything back, or is only replaced."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from sockethealth_agent.kubeapi import DeniedError, KubeApi, NotFoundError, segment

T = TypeVar("T")


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}


class _Container(msgspec.Struct, frozen=True):
    name: str = ""


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    containers: list[_Container] = []
    node_selector: dict[str, str] = {}


class _Template(msgspec.Struct, frozen=True):
    spec: _PodSpec = _PodSpec()


class _DaemonSetSpec(msgspec.Struct, frozen=True):
    template: _Template = _Template()


class DaemonSet(msgspec.Struct, frozen=True):
    """An apps/v1 DaemonSet, as far as it decides whether a container runs on a node."""

    metadata: _Metadata = _Metadata()
    spec: _DaemonSetSpec = _DaemonSetSpec()


class _Node(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()


def why_for_good(daemonset: DaemonSet | None, container: str, node_labels: Mapping[str, str] | None) -> str | None:
    """Why no other writer will follow on this node, as a clause; None: one will.

    Args:
        daemonset: the writer's; None: it does not exist any more.
        container: the writer's name in its template.
        node_labels: of the node; None: it is no node of the cluster any more.
    """
    if daemonset is None or daemonset.metadata.deletion_timestamp is not None:
        return "its DaemonSet is deleted"
    pod = daemonset.spec.template.spec
    if all(one.name != container for one in pod.containers):
        return "its DaemonSet has no sysctl writer any more"
    if node_labels is None:
        return "the node has left the cluster"
    if any(node_labels.get(key) != value for key, value in pod.node_selector.items()):
        return "its DaemonSet is not for this node any more"
    return None


def ask_why_for_good(api: KubeApi, daemonset: str, container: str, node_name: str) -> str | None:
    """The same from the API server.

    Args:
        api: may get that DaemonSet and nodes.
        daemonset: namespace/name.
        container: see why_for_good.
        node_name: the node's.

    Raises:
        ApiError: the API server does not say.
    """
    namespace, _, name = daemonset.partition("/")
    path = f"/apis/apps/v1/namespaces/{segment(namespace)}/daemonsets/{segment(name)}"
    try:
        found = _read(api, path, DaemonSet)
        node = _read(api, f"/api/v1/nodes/{segment(node_name)}", _Node)
    except DeniedError:
        # Its permissions come and go with the container.
        return "its permissions are taken away"
    return why_for_good(found, container, None if node is None else node.metadata.labels)


def _read(api: KubeApi, path: str, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(api.get(path), type=kind)
    except NotFoundError:
        return None
