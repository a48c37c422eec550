"""Before an uninstall: having every node put back the sysctls that profiles have changed, and saying what it could not.

The operator must be gone by then: it would ask the nodes for its profiles again.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from sockethealth_core.resources import InvalidObjectError, NodeSocketHealth, SysctlProfileReport, decode
from sockethealth_operator.api import Api, ApiError, ConflictError, NotFoundError, UnreachableError
from sockethealth_operator.objects import NODE_HEALTH, OURS, ref_of

_POLL_SECONDS: Final = 1.0
_NAMED: Final = 5
"""Sysctls that a sentence names before it counts the rest."""


async def restore(api: Api, seconds: float) -> list[str]:
    """Ask no node for any profile any more, and wait until all have put their values back.

    Args:
        api: the cluster.
        seconds: how long nodes have for it.

    Returns:
        Sentences about what is still in force, one for each node.

    Raises:
        UnreachableError: when the API server is away.
    """
    faults: list[str] = []
    left: dict[str, list[str]] = {}
    try:
        async with asyncio.timeout(seconds):
            await _ask_for_nothing(api, faults)
            while left := await _in_force(api):  # noqa: ASYNC110 (the nodes' state, not ours)
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        for node, profiles in sorted(left.items()):
            faults.append(f"node {node}: {'; '.join(profiles)}; run `sockethealth-sysctl-writer --restore` there")
        faults = faults or [f"Sysctls: nodes could not be asked within {seconds:g} s to put them back"]
    except NotFoundError:
        return faults  # the kind is not served, so no node was ever asked for anything
    except UnreachableError:
        raise
    except ApiError as error:
        faults.append(f"Sysctls that profiles have changed may be in force still: {error}")
    return faults


async def _ask_for_nothing(api: Api, faults: list[str]) -> None:
    async for raw in api.list_objects(OURS[NODE_HEALTH]):
        if not (raw.get("spec") or {}).get("sysctlProfiles"):
            continue
        ref = ref_of(OURS[NODE_HEALTH], raw)
        try:
            # Without the watchpoints too: nobody judges any more.
            await api.apply(OURS[NODE_HEALTH], ref, {"spec": {"watchpoints": [], "sysctlProfiles": []}})
        except (NotFoundError, ConflictError):
            continue
        except UnreachableError:
            raise
        except ApiError as error:
            faults.append(f"node {ref.name}: could not be asked to put its sysctls back: {error}")


async def _in_force(api: Api) -> dict[str, list[str]]:
    """What nodes with a sysctl writer still have in force, in words, by node."""
    return {raw["metadata"]["name"]: said async for raw in api.list_objects(OURS[NODE_HEALTH]) if (said := _still(raw))}


def _still(raw: Mapping[str, Any]) -> list[str]:
    try:
        status = decode(NodeSocketHealth, raw).status
    except InvalidObjectError as error:
        return [f"its status cannot be read ({error})"]
    if status.sysctl_writer is None:
        return []
    # In mode Audit nothing was changed.
    return [_sentence(report) for report in status.sysctl_profiles if report.mode == "Enforce"]


def _sentence(report: SysctlProfileReport) -> str:
    shown = [f"{change.name} ({change.where})" for change in report.changes[:_NAMED]]
    total = max(report.changes_total, len(report.changes))
    more = f" and {total - len(shown)} more" if total > len(shown) else ""
    said = f": {report.message.rstrip('.')}" if report.message else ""
    if not shown:
        return f"profile {report.profile} still has values in force{said}"
    plural = "" if total == 1 else "s"
    return f"profile {report.profile} still has {total} sysctl{plural} in force: {', '.join(shown)}{more}{said}"
