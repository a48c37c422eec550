"""What addresses mean in the cluster: a Service by its ClusterIP and port, or by a backend's; a Pod; a Node.

A pod's socket to a Service has the ClusterIP as destination: kube-proxy translates later, outside of the pod's
network namespace. With a socket load balancer it has a backend's address, which the Service's EndpointSlices have
too. Pods are known from their SocketHealths, so that no pod need be watched for this.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

import msgspec

from sockethealth_core.resources import Target
from sockethealth_operator.objects import ENDPOINT_SLICE, NODE, SERVICE, Key, key_of

_NO_ADDRESS: Final = ("", "None")
_SERVICE_LABEL: Final = "kubernetes.io/service-name"
_Place = tuple[str, int]


@dataclass(slots=True)
class Targets:
    """Names by address. ``port`` 0 stands for any port of the address.

    An address and port can have several names, such as two Services over one pod: the first by name is told.
    """

    _names: dict[_Place, Counter[str]] = field(default_factory=dict)
    _learned: dict[Key, tuple[str, frozenset[_Place]]] = field(default_factory=dict)

    def observe_service(self, raw: Mapping[str, Any]) -> None:
        """Learn the addresses of a Service, as the API server has it."""
        spec = raw.get("spec") or {}
        addresses = [a for a in spec.get("clusterIPs") or [spec.get("clusterIP") or ""] if a not in _NO_ADDRESS]
        ports = [p["port"] for p in spec.get("ports") or [] if p.get("protocol", "TCP") == "TCP"]
        metadata = raw["metadata"]
        name = f"Service {metadata['namespace']}/{metadata['name']}"
        self._learn(key_of(SERVICE.kind, raw), name, ((address, port) for address in addresses for port in ports))

    def observe_endpoint_slice(self, raw: Mapping[str, Any]) -> None:
        """Learn the backends of a Service from one of its EndpointSlices."""
        metadata = raw["metadata"]
        service = (metadata.get("labels") or {}).get(_SERVICE_LABEL)
        if not service:
            return
        ports = [p["port"] for p in raw.get("ports") or [] if p.get("port") and p.get("protocol", "TCP") == "TCP"]
        addresses = [address for end in raw.get("endpoints") or [] for address in end.get("addresses") or []]
        name = f"Service {metadata['namespace']}/{service}"
        key = key_of(ENDPOINT_SLICE.kind, raw)
        self._learn(key, name, ((address, port) for address in addresses for port in ports))

    def observe_pod(self, raw: Mapping[str, Any]) -> None:
        """Learn the addresses of a pod from its SocketHealth."""
        metadata, addresses = raw["metadata"], (raw.get("spec") or {}).get("podIPs") or []
        name = f"Pod {metadata['namespace']}/{metadata['name']}"
        self._learn(key_of("SocketHealth", raw), name, ((address, 0) for address in addresses))

    def observe_node(self, raw: Mapping[str, Any]) -> None:
        """Learn the addresses of a Node, as the API server has it."""
        addresses = (raw.get("status") or {}).get("addresses") or []
        places = ((a["address"], 0) for a in addresses if a.get("type") in ("InternalIP", "ExternalIP"))
        self._learn(key_of(NODE.kind, raw), f"Node {raw['metadata']['name']}", places)

    def forget(self, key: Key) -> None:
        """Forget what an object was learned to be; nothing happens for one that has no address."""
        name, places = self._learned.pop(key, ("", frozenset()))
        for place in places:
            names = self._names[place]
            names[name] -= 1
            if not names[name]:
                del names[name]
            if not names:
                del self._names[place]

    def name(self, target: Target) -> Target:
        """The target with its name, where its address has one."""
        address = _canonical(target.address)
        names = self._names.get((address, target.port)) or self._names.get((address, 0))
        return msgspec.structs.replace(target, name=min(names)) if names else target

    def _learn(self, key: Key, name: str, found: Iterable[_Place]) -> None:
        places = frozenset((_canonical(address), port) for address, port in found)
        if self._learned.get(key) == (name, places):
            return
        self.forget(key)
        if not places:
            return
        self._learned[key] = (name, places)
        for place in places:
            # Two slices of a Service may have the same backend, so names are counted.
            self._names.setdefault(place, Counter())[name] += 1


def _canonical(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
