"""Installing the CustomResourceDefinitions: Helm installs those of a chart once and never upgrades them."""

import asyncio
from typing import Final

from sockethealth_core.crd import KINDS, definition
from sockethealth_operator.api import Api
from sockethealth_operator.objects import DEFINITION, ObjectRef

_POLL_SECONDS: Final = 0.5


async def apply_definitions(api: Api) -> list[str]:
    """Server-side apply all of them and wait until they are served; their names.

    Raises:
        ApiError: when one is refused.
        TimeoutError: never by itself; give it a timeout.
    """
    names = []
    for kind in KINDS:
        wanted = definition(kind)
        name = wanted["metadata"]["name"]
        ref = ObjectRef(DEFINITION.api_version, DEFINITION.kind, "", name, "")
        fields = {"metadata": {"labels": wanted["metadata"]["labels"]}, "spec": wanted["spec"]}
        await api.apply(DEFINITION, ref, fields)
        names.append(name)
    for name in names:
        while not await _established(api, name):  # noqa: ASYNC110 (the server's state, not ours)
            await asyncio.sleep(_POLL_SECONDS)
    return names


async def delete_definitions(api: Api) -> list[str]:
    """Delete all of them, with all of their objects; sentences about those that could not be.

    Raises:
        UnreachableError: when the API server is away.
    """
    faults = []
    for kind in KINDS:
        fault = await api.try_delete(DEFINITION, "", kind.definition_name)
        if fault:
            faults.append(fault)
    return faults


async def _established(api: Api, name: str) -> bool:
    raw = await api.get(DEFINITION, "", name)
    conditions = (raw.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
