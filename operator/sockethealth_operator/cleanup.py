"""Leaving nothing behind: what the chart runs before it is uninstalled.

The operator would put annotations and profiles back as long as it runs, so it is deleted and gone first. The sysctl
writers put the nodes' values back, so they go after that.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sockethealth_operator.annotations import REMOVED
from sockethealth_operator.api import Api, ApiError, ForbiddenError, NotFoundError
from sockethealth_operator.definitions import delete_definitions
from sockethealth_operator.objects import DAEMON_SET, DEPLOYMENT, LEASE, OURS, POD, WORKLOADS, ResourceType, ref_of
from sockethealth_operator.restoring import restore
from sockethealth_operator.resync import annotated_objects

_POLL_SECONDS: Final = 0.5
REPORTED: Final = ("SocketHealth", "NodeSocketHealth")
"""Kinds that agents write. Policies and profiles are written by people, and stay."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to remove.

    Attributes:
        deployments: by namespace and name, deleted first.
        leases: by namespace and name, deleted once no pod of a Deployment is left.
        daemon_sets: by namespace and name, deleted once sysctls are put back.
        restore_seconds: how long nodes have to put sysctls back; None to leave them.
        extra_kinds: kinds that may carry annotations beside those of Kubernetes.
        reports: delete what agents wrote.
        definitions: delete the CustomResourceDefinitions.
    """

    deployments: tuple[tuple[str, str], ...]
    leases: tuple[tuple[str, str], ...]
    daemon_sets: tuple[tuple[str, str], ...]
    restore_seconds: float | None
    extra_kinds: tuple[ResourceType, ...]
    reports: bool
    definitions: bool


@dataclass(slots=True)
class Outcome:
    """What was done, and sentences about what could not be."""

    cleaned: int
    faults: list[str]


async def clean_up(api: Api, request: Request, outcome: Outcome) -> None:
    """Remove, in order: the operator and its Lease, sysctls, the agents, annotations, the agents' reports, the CRDs.

    Args:
        api: the cluster.
        request: what to remove.
        outcome: filled in as it goes, so that a timeout leaves a true account.

    Raises:
        UnreachableError: when the API server is away.
    """
    await _stop(api, DEPLOYMENT, request.deployments, outcome)
    for namespace, name in request.leases:
        refused = await api.try_delete(LEASE, namespace, name)
        outcome.faults += [refused] if refused else []
    if request.restore_seconds is not None:
        outcome.faults += await restore(api, request.restore_seconds)
    await _stop(api, DAEMON_SET, request.daemon_sets, outcome)
    for resource in (*WORKLOADS, POD, *request.extra_kinds):
        await _clean_kind(api, resource, outcome)
    if request.reports:
        for kind in REPORTED:
            await _delete_reports(api, OURS[kind], outcome)
    if request.definitions:
        outcome.faults += await delete_definitions(api)


async def _stop(api: Api, resource: ResourceType, names: Sequence[tuple[str, str]], outcome: Outcome) -> None:
    for namespace, name in names:
        try:
            # In the foreground: the object is there until its pods are gone.
            await api.delete(resource, namespace, name, propagation="Foreground")
            while True:
                await api.get_metadata(resource, namespace, name)
                await asyncio.sleep(_POLL_SECONDS)
        except NotFoundError:
            continue
        except ForbiddenError as error:
            outcome.faults.append(f"{resource.kind} {namespace}/{name} could not be deleted: {error}")


async def _delete_reports(api: Api, resource: ResourceType, outcome: Outcome) -> None:
    try:
        places = {item["metadata"].get("namespace", "") async for item in api.list_metadata(resource)}
        for namespace in sorted(places):
            await api.delete_all(resource, namespace)
    except NotFoundError:
        return
    except ForbiddenError as error:
        outcome.faults.append(f"{resource.kind} objects of the agents stay: {error}")


async def _clean_kind(api: Api, resource: ResourceType, outcome: Outcome) -> None:
    async for raw in annotated_objects(api, resource):
        ref = ref_of(resource, raw)
        try:
            await api.annotate(resource, ref, REMOVED)
        except NotFoundError:
            continue
        except ApiError as error:
            outcome.faults.append(f"{ref} keeps its annotations: {error}")
        else:
            outcome.cleaned += 1
