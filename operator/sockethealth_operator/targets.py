"""What addresses mean in the cluster: a Service by its ClusterIP and port, a node by its address.

A pod's socket to a Service has the ClusterIP as destination: kube-proxy translates later, outside of the pod's
network namespace. Pods are not watched for this; with a socket load balancer the address stays a number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import msgspec

from sockethealth_core.resources import Target

_NO_ADDRESS = ("", "None")


@dataclass(slots=True)
class Targets:
    """Names by address. ``port`` 0 stands for any port of the address."""

    _names: dict[tuple[str, int], str] = field(default_factory=dict)
    _places: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def observe_service(self, raw: Mapping[str, Any]) -> None:
        """Learn the addresses of a Service, as the API server has it."""
        spec = raw.get("spec") or {}
        addresses = [a for a in spec.get("clusterIPs") or [spec.get("clusterIP") or ""] if a not in _NO_ADDRESS]
        ports = [p["port"] for p in spec.get("ports") or [] if p.get("protocol", "TCP") == "TCP"]
        self._learn(service_name(raw), [(_canonical(address), port) for address in addresses for port in ports])

    def observe_node(self, raw: Mapping[str, Any]) -> None:
        """Learn the addresses of a Node, as the API server has it."""
        addresses = (raw.get("status") or {}).get("addresses") or []
        places = [(_canonical(a["address"]), 0) for a in addresses if a.get("type") in ("InternalIP", "ExternalIP")]
        self._learn(node_name(raw), places)

    def forget(self, name: str) -> None:
        """Forget a Service or Node by the name it is given here."""
        for place in self._places.pop(name, []):
            # Its address may be another's by the time its deletion is heard of.
            if self._names.get(place) == name:
                del self._names[place]

    def name(self, target: Target) -> Target:
        """The target with its name, where its address has one."""
        address = _canonical(target.address)
        name = self._names.get((address, target.port)) or self._names.get((address, 0))
        return msgspec.structs.replace(target, name=name) if name else target

    def _learn(self, name: str, places: list[tuple[str, int]]) -> None:
        if self._places.get(name) == places:
            return
        self.forget(name)
        self._places[name] = places
        self._names.update(dict.fromkeys(places, name))


def service_name(raw: Mapping[str, Any]) -> str:
    """What findings call a Service."""
    return f"Service {raw['metadata']['namespace']}/{raw['metadata']['name']}"


def node_name(raw: Mapping[str, Any]) -> str:
    """What findings call a Node."""
    return f"Node {raw['metadata']['name']}"


def _canonical(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
