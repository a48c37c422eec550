"""Bytes as the objects that an API server or a file may hold."""

from collections.abc import Mapping
from typing import Any

import msgspec
import yaml


def object_of(data: bytes) -> Mapping[str, Any] | None:
    """A JSON or YAML mapping with text keys; None for anything else, which no reader of policies is given."""
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            document = yaml.load(data, Loader=_LOADER)  # noqa: S506 - the safe loader, in C where it can be had
        except (yaml.YAMLError, ValueError, RecursionError):
            return None
    if isinstance(document, dict) and all(isinstance(key, str) for key in document):
        return document
    return None


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
