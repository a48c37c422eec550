"""CustomResourceDefinitions, generated from the types of :mod:`sockethealth_core.resources`.

Structural schemas as KEP 1111 asks for: no references, no unions but int-or-string, every level typed.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import inspect

from sockethealth_core.names import GROUP, VERSION
from sockethealth_core.resources import (
    ClusterSocketHealthPolicy,
    NodeSocketHealth,
    SocketHealth,
    SocketHealthPolicy,
    SysctlProfile,
)
from sockethealth_core.resources.base import Resource


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; wide ones only with ``-o wide``."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a resource is served."""

    type: type[Resource]
    plural: str
    singular: str
    short_names: tuple[str, ...]
    namespaced: bool
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """CamelCase name of the kind."""
        return self.type.__name__

    @property
    def definition_name(self) -> str:
        """Name of the CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_READY = Column("Ready", ".status.conditions[?(@.type=='Ready')].status", description="Whether it is in force.")
_MODE = Column("Mode", ".spec.mode")

KINDS: Final = (
    Kind(
        SocketHealth,
        "sockethealths",
        "sockethealth",
        ("sh",),
        namespaced=True,
        columns=(
            Column("Health", ".status.health", description="Worst active finding above Info."),
            Column("Estab", ".status.sockets.established", "integer", description="Open connections."),
            Column("Time-Wait", ".status.sockets.timeWait", "integer", description="Closed first by this side."),
            Column("Close-Wait", ".status.sockets.closeWait", "integer", description="Not closed by this side."),
            Column(
                "Ports",
                ".status.ephemeralPorts.destinations[0].usedPercent",
                "number",
                description="Percent of usable ephemeral ports in use for the worst destination.",
            ),
            Column("Finding", ".status.findings[0].type", description="Worst finding."),
            _AGE,
            Column("Node", ".spec.nodeName", wide=True),
            Column(
                "Destination",
                ".status.ephemeralPorts.destinations[0].address",
                wide=True,
                description="Destination that uses most ports.",
            ),
            Column(
                "Overflows",
                ".status.rates.listenOverflows",
                "number",
                wide=True,
                description="Connections dropped at full accept queues per second.",
            ),
        ),
        selectable=(".spec.nodeName",),
    ),
    Kind(
        NodeSocketHealth,
        "nodesockethealths",
        "nodesockethealth",
        ("nsh",),
        namespaced=False,
        columns=(
            Column("Health", ".status.health"),
            Column("Pods", ".status.pods", "integer"),
            Column("Estab", ".status.sockets.established", "integer"),
            Column("Time-Wait", ".status.sockets.timeWait", "integer"),
            Column("Close-Wait", ".status.sockets.closeWait", "integer"),
            Column("Heartbeat", ".status.agent.heartbeatTime", "date"),
            Column("Agent", ".status.agent.version", wide=True),
            Column("Finding", ".status.findings[0].type"),
            _AGE,
            Column("Kernel", ".status.agent.kernel", wide=True),
            Column(
                "Sysctls",
                ".status.sysctlWriter.version",
                wide=True,
                description="Version of the container that writes sysctls; empty where there is none.",
            ),
        ),
    ),
    Kind(
        SocketHealthPolicy,
        "sockethealthpolicies",
        "sockethealthpolicy",
        ("shp",),
        namespaced=True,
        columns=(_MODE, _READY, _AGE),
    ),
    Kind(
        ClusterSocketHealthPolicy,
        "clustersockethealthpolicies",
        "clustersockethealthpolicy",
        ("cshp",),
        namespaced=False,
        columns=(_MODE, _READY, _AGE),
    ),
    Kind(
        SysctlProfile,
        "sysctlprofiles",
        "sysctlprofile",
        ("scp",),
        namespaced=False,
        columns=(
            _MODE,
            Column("Target", ".spec.target"),
            Column("Selected", ".status.nodes.selected", "integer", description="Nodes the profile is for."),
            Column("Applied", ".status.nodes.applied", "integer", description="Nodes that have its values."),
            Column("Failed", ".status.nodes.failed", "integer", description="Nodes that could not be changed."),
            Column(
                "Progress",
                ".status.conditions[?(@.type=='Progressing')].reason",
                description="Where the roll-out stands, such as RollingOut, Complete, Stopped or Audited.",
            ),
            Column(
                "Degraded",
                ".status.conditions[?(@.type=='Degraded')].status",
                description="Whether a node failed or drifted, or the roll-out stopped.",
            ),
            _AGE,
            Column("Pending", ".status.nodes.pending", "integer", wide=True),
            Column("Drifted", ".status.nodes.drifted", "integer", wide=True),
            Column(
                "Would-Change",
                ".status.nodes.wouldChange",
                "integer",
                wide=True,
                description="In mode Audit: nodes on which Enforce would change something.",
            ),
        ),
    ),
)

CATEGORY: Final = GROUP.replace(".", "-")
"""All five kinds at once. Any kind's own name would shadow the kind: kubectl expands categories first."""
_PRODUCT: Final = GROUP.partition(".")[0]


def definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind, as the API server takes it."""
    names = {
        "kind": kind.name,
        "listKind": f"{kind.name}List",
        "plural": kind.plural,
        "singular": kind.singular,
        "shortNames": list(kind.short_names),
        "categories": [CATEGORY],
    }
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": _top_level(kind.type)},
    }
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.definition_name, "labels": {"app.kubernetes.io/name": _PRODUCT}},
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [version],
        },
    }


def _column(column: Column) -> dict[str, Any]:
    rendered: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        rendered["description"] = column.description
    if column.wide:
        rendered["priority"] = 1
    return rendered


def _top_level(kind: type[Resource]) -> dict[str, Any]:
    schema = _struct(kind, defaults=False)
    schema["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    } | {name: part for name, part in schema["properties"].items() if name in ("spec", "status")}
    schema["required"] = [name for name in schema.get("required", []) if name == "spec"]
    if not schema["required"]:
        del schema["required"]
    return schema


def _struct(kind: type[msgspec.Struct], *, defaults: bool) -> dict[str, Any]:
    info = inspect.type_info(kind)
    if not isinstance(info, inspect.StructType) or not issubclass(kind, Resource):
        raise TypeError(f"{kind.__name__} is no resource")
    properties: dict[str, Any] = {}
    required = []
    for field in info.fields:
        # Defaults are for what people write: in a status or a spec that programs write they would
        # fight server-side apply, and an absent fact must stay absent.
        with_defaults = defaults or (field.name == "spec" and kind in _WRITTEN_BY_PEOPLE)
        schema = _any(field.type, defaults=with_defaults)
        if defaults and field.default not in (msgspec.NODEFAULT, None) and not isinstance(field.default, list):
            schema["default"] = _plain(field.default)
        properties[field.encode_name] = schema
        if field.required:
            required.append(field.encode_name)
    schema = {"type": "object", "description": _first_paragraph(kind), "properties": properties}
    if required:
        schema["required"] = required
    if kind.admission_rules:
        schema["x-kubernetes-validations"] = [rule.rendered() for rule in kind.admission_rules]
    return schema


_WRITTEN_BY_PEOPLE: Final = (SocketHealthPolicy, ClusterSocketHealthPolicy, SysctlProfile)


def _plain(value: Any) -> Any:
    # A default of an object is empty: the API server fills in the defaults of what is in it.
    return {} if isinstance(value, msgspec.Struct) else value


def _any(info: inspect.Type, *, defaults: bool) -> dict[str, Any]:  # noqa: PLR0911 (a table of types)
    if isinstance(info, inspect.Metadata):
        schema = _any(info.type, defaults=defaults)
        # The sentence beside the field says more than the type's own.
        return schema | dict(info.extra_json_schema or {}) | _merged_rules(schema, info.extra_json_schema)
    if isinstance(info, inspect.UnionType):
        parts = [part for part in info.types if not isinstance(part, inspect.NoneType)]
        if len(parts) == 1:
            return _any(parts[0], defaults=defaults)
        return {}
    if isinstance(info, inspect.StructType):
        return _struct(info.cls, defaults=defaults)
    if isinstance(info, inspect.ListType):
        return {"type": "array", "items": _any(info.item_type, defaults=defaults)}
    if isinstance(info, inspect.DictType):
        return {"type": "object", "additionalProperties": _any(info.value_type, defaults=defaults)}
    if isinstance(info, inspect.LiteralType):
        return {"type": "string", "enum": list(info.values)}
    for scalar, name in _SCALARS.items():
        if isinstance(info, scalar):
            return {"type": name}
    raise TypeError(f"no schema for {info}")


_SCALARS: Final = {
    inspect.StrType: "string",
    inspect.BoolType: "boolean",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
}


def _merged_rules(schema: dict[str, Any], extra: dict[str, Any] | None) -> dict[str, Any]:
    key = "x-kubernetes-validations"
    rules = [*schema.get(key, []), *(extra or {}).get(key, [])]
    return {key: rules} if rules else {}


def _first_paragraph(kind: type[msgspec.Struct]) -> str:
    return " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
