"""Looking at an installation from inside: what ``helm test`` runs. It changes nothing."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sockethealth_core.names import API_VERSION
from sockethealth_core.resources import InvalidObjectError, NodeSocketHealth, decode
from sockethealth_core.units import parse_time
from sockethealth_operator.api import Api, ApiError, InvalidError, NotFoundError, UnreachableError
from sockethealth_operator.installation import AgentPod, Answer, Seen, faults_of, proofs_of
from sockethealth_operator.objects import DAEMON_SET, DEPLOYMENT, NODE_HEALTH, OURS, POD, PROFILE, ResourceType

_POLL_SECONDS: Final = 1.0
_GOOD: Final = ("net.core.somaxconn", "4096")
_BAD: Final = ("kernel.panic", "1")
_NOT_SEEN: Final = Answer("Failed", "it was not asked")


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the programs of a release are, each as namespace and name."""

    daemon_set: tuple[str, str]
    deployment: tuple[str, str]
    sysctl_writer: bool


@dataclass(slots=True)
class Result:
    """What the last look has shown: sentences about faults, or, when there are none, about what was proved."""

    faults: list[str]
    proofs: list[str]


async def verify(api: Api, installation: Installation, result: Result) -> None:
    """Look until there is no fault; without end by itself, so give it a timeout.

    Args:
        api: the cluster.
        installation: what to look at.
        result: what the last look has shown, also when a timeout ends it.

    Raises:
        ApiError: when something may not be looked at.
    """
    while True:
        try:
            seen = await _look(api, installation)
        except UnreachableError as error:
            result.faults = [str(error)]
        else:
            result.faults = faults_of(seen, now=time.time(), sysctl_writer=installation.sysctl_writer)
            if not result.faults:
                result.proofs = proofs_of(seen)
                return
        await asyncio.sleep(_POLL_SECONDS)


async def _look(api: Api, installation: Installation) -> Seen:
    served = frozenset(resource.kind for resource in await api.served(API_VERSION))
    complete = served >= OURS.keys()
    daemon_set = await _find(api, DAEMON_SET, installation.daemon_set)
    deployment = await _find(api, DEPLOYMENT, installation.deployment)
    return Seen(
        served=served,
        agents_wanted=_count(daemon_set, "desiredNumberScheduled"),
        agents=[] if daemon_set is None else await _pods_of(api, daemon_set),
        operator_ready=_count(deployment, "readyReplicas"),
        reports=await _reports(api) if complete else {},
        good_profile=await _ask(api, *_GOOD) if complete else _NOT_SEEN,
        bad_profile=await _ask(api, *_BAD) if complete else _NOT_SEEN,
    )


async def _find(api: Api, resource: ResourceType, name: tuple[str, str]) -> dict[str, Any] | None:
    try:
        return await api.get(resource, *name)
    except NotFoundError:
        return None


def _count(raw: Mapping[str, Any] | None, field: str) -> int | None:
    return None if raw is None else int((raw.get("status") or {}).get(field) or 0)


async def _pods_of(api: Api, daemon_set: Mapping[str, Any]) -> list[AgentPod]:
    labels: Mapping[str, str] = daemon_set["spec"]["selector"]["matchLabels"]
    query = {"labelSelector": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))}
    answer = await api.request("GET", POD.path(daemon_set["metadata"]["namespace"]), query=query)
    return [
        AgentPod(pod["spec"].get("nodeName", ""), _started(pod))
        for pod in answer.get("items") or []
        if "deletionTimestamp" not in pod["metadata"]
    ]


def _started(pod: Mapping[str, Any]) -> float | None:
    started = (pod.get("status") or {}).get("startTime")
    return parse_time(started) if started else None


async def _reports(api: Api) -> dict[str, NodeSocketHealth]:
    found = {}
    async for raw in api.list_objects(OURS[NODE_HEALTH]):
        name = raw["metadata"]["name"]
        try:
            found[name] = decode(NodeSocketHealth, raw)
        except InvalidObjectError as error:
            raise ApiError(f"NodeSocketHealth {name} cannot be read: {error}", 0) from error
    return found


async def _ask(api: Api, sysctl: str, value: str) -> Answer:
    body = {
        "apiVersion": API_VERSION,
        "kind": PROFILE,
        "metadata": {"generateName": "verify-"},
        "spec": {"target": "Node", "sysctls": [{"name": sysctl, "value": value}]},
    }
    try:
        await api.request("POST", OURS[PROFILE].path(), query={"dryRun": "All"}, body=body)
    except InvalidError as error:
        return Answer("Invalid", str(error))
    except UnreachableError:
        raise
    except ApiError as error:
        return Answer("Failed", str(error))
    return Answer("Accepted")
