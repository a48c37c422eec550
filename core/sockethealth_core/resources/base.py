"""What all resources share: metadata, conditions, selectors, and how a field is described.

The types in this package are the one source of the schemas: :mod:`sockethealth_core.crd` turns their
annotations into the CustomResourceDefinitions, and the same types decode and encode every object.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from sockethealth_core.sysctls import Target

T = TypeVar("T")


class Rule(NamedTuple):
    """A CEL rule that the API server checks at admission, and the sentence it answers with.

    ``message`` is plain text unless ``message_expression`` is set, which is CEL and may name the value; the API
    server estimates its cost, so it can only name values of bounded length. ``field_path`` is the field the answer
    points at, such as ``.clearThreshold``.
    """

    rule: str
    message: str
    message_expression: str | None = None
    field_path: str | None = None

    def rendered(self) -> dict[str, str]:
        """As ``x-kubernetes-validations`` has it."""
        parts = {
            "rule": self.rule,
            "message": self.message,
            "messageExpression": self.message_expression,
            "fieldPath": self.field_path,
        }
        return {key: part for key, part in parts.items() if part is not None}


def about(
    description: str,
    *,
    rules: tuple[Rule, ...] = (),
    map_key: str | None = None,
    max_items: int | None = None,
    max_properties: int | None = None,
    max_length: int | None = None,
    min_length: int | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    date_time: bool = False,
    int_or_string: bool = False,
    atomic: bool = False,
) -> Meta:
    """Describe a field for ``kubectl explain``, with the bounds admission checks.

    An atomic map is replaced as a whole. Applied without its last entry, any other is left as null by the API server,
    which refuses that itself (422).
    """
    extra: dict[str, Any] = {}
    if rules:
        extra["x-kubernetes-validations"] = [rule.rendered() for rule in rules]
    if map_key:
        extra |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [map_key]}
    if date_time:
        extra["format"] = "date-time"
    if int_or_string:
        extra["x-kubernetes-int-or-string"] = True
    if atomic:
        extra["x-kubernetes-map-type"] = "atomic"
    # max_items, max_properties, max_length and bounds are for admission and CEL's cost estimate: what is stored is read
    # whatever they say, so that a tightened bound never makes a stored object unreadable.
    for key, bound in (
        ("maxItems", max_items),
        ("maxProperties", max_properties),
        ("maxLength", max_length),
        ("minLength", min_length),
        ("minimum", at_least),
        ("maximum", at_most),
    ):
        if bound is not None:
            extra[key] = bound
    return Meta(description=description, extra_json_schema=extra or None)


class Resource(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of every typed part of a resource: immutable, camelCase on the wire, unknown fields ignored."""

    admission_rules: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules over the whole object."""


class OwnerReference(Resource, frozen=True, kw_only=True):
    """Who an object belongs to (``metav1.OwnerReference``)."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None


class ObjectMeta(Resource, frozen=True, kw_only=True):
    """The part of ``metav1.ObjectMeta`` that is read or written here."""

    name: str
    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []


class Condition(Resource, frozen=True, kw_only=True):
    """One aspect of the object's state (``metav1.Condition``)."""

    type: Annotated[str, about("What the condition is about, in CamelCase.")]
    status: Annotated[Literal["True", "False", "Unknown"], about("Whether it holds.")]
    reason: Annotated[str, about("Why, as one CamelCase word.")]
    message: Annotated[str, about("Why, as a sentence for a person.")]
    last_transition_time: Annotated[str, about("When status last changed.", date_time=True)]
    observed_generation: Annotated[
        int | None, about("metadata.generation that the condition speaks of.", at_least=0)
    ] = None


Conditions = Annotated[list[Condition], about("What is known of the object's state.", map_key="type", max_items=16)]


ProfileTarget = Target
"""Whose network namespaces a SysctlProfile is for."""


class LabelSelectorRequirement(Resource, frozen=True, kw_only=True):
    """One condition on a label."""

    admission_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.values) && size(self.values) > 0) == (self.operator in ['In', 'NotIn'])",
            "In and NotIn need values; Exists and DoesNotExist take none",
        ),
    )

    key: Annotated[str, about("Name of the label.", max_length=317, min_length=1)]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"], about("How the label is compared with values.")
    ]
    values: Annotated[
        list[Annotated[str, about("A value.", max_length=63)]],
        about("Values for In and NotIn.", max_items=64),
    ] = []


class LabelSelector(Resource, frozen=True, kw_only=True):
    """Selects objects by their labels; empty selects all."""

    match_labels: Annotated[dict[str, str], about("Labels that must all be there, with these values.")] = {}
    match_expressions: Annotated[
        list[LabelSelectorRequirement], about("Conditions that must all hold.", max_items=32)
    ] = []


class InvalidObjectError(Exception):
    """An object could not be read: the text is a sentence that names the object, the field and the fault."""


def decode(kind: type[T], raw: Mapping[str, Any]) -> T:
    """Read a typed object from what the API server sent.

    Raises:
        InvalidObjectError: when a field has a wrong type; it names object and field.
    """
    try:
        return msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidObjectError(f"{raw.get('kind') or kind.__name__} {place_of(raw)}: {error}") from error


def place_of(raw: Mapping[str, Any]) -> str:
    """Namespace and name of an object as messages name it, whatever shape its metadata has."""
    metadata = raw.get("metadata")
    named = metadata if isinstance(metadata, Mapping) else {}
    return "/".join(str(named[key]) for key in ("namespace", "name") if named.get(key)) or "(no name)"


def encode(value: msgspec.Struct) -> dict[str, Any]:
    """The plain form for the API server, JSON or YAML: zeros and empty lists stay, absent values go."""
    plain: dict[str, Any] = _without_none(msgspec.to_builtins(value))
    return plain


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
