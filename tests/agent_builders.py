"""Values that tests of the node agent are made of."""

import time
from collections.abc import Iterable

from sockethealth_agent.pods import PodInfo
from sockethealth_agent.reporter import Submission
from sockethealth_agent.sampler import Observation, Sweep
from sockethealth_core.resources import (
    AgeCount,
    CloseWait,
    Destination,
    EphemeralPorts,
    Facts,
    NodeFacts,
    Sockets,
    TimeWait,
    Watchpoint,
)


def pod(name="web-1", namespace="shop", uid="11111111-1111-4111-8111-111111111111", **changes) -> PodInfo:
    values = {
        "namespace": namespace,
        "name": name,
        "uid": uid,
        "host_network": False,
        "phase": "Running",
        "labels": {"app": "web"},
        "containers": {},
        "ips": (),
    }
    return PodInfo(**{**values, **changes})


def facts(
    *,
    established=0,
    close_wait=0,
    older=0,
    time_wait=0,
    used=0,
    seconds_to_exhaustion=None,
    observed="2026-01-01T00:00:00Z",
    oldest=0.0,
    **changes,
) -> Facts:
    destinations = []
    if used:
        percent = round(100 * used / 28232, 1)
        destinations = [
            Destination(
                address="10.96.0.10",
                port=443,
                used=used,
                used_percent=percent,
                time_wait=min(used, time_wait),
                seconds_to_exhaustion=seconds_to_exhaustion,
            )
        ]
    values = {
        "observed_time": observed,
        "sockets": Sockets(established=established, close_wait=close_wait, time_wait=time_wait),
        "time_wait": TimeWait(outbound=time_wait),
        "close_wait": CloseWait(oldest_seconds=oldest, ages=[AgeCount(older_than_seconds=60, count=older)]),
        "ephemeral_ports": EphemeralPorts(destinations=destinations),
    }
    return Facts(**{**values, **changes})


def submission(
    observed: Iterable[tuple[PodInfo, Facts]],
    *,
    known: Iterable[PodInfo] = (),
    watchpoints: Iterable[Watchpoint] = (),
    at: float | None = None,
) -> Submission:
    """One sweep that read these pods; `known` are further pods of the node."""
    observations = {one.uid: Observation(one, found, fresh=True) for one, found in observed}
    sweep = Sweep(
        pods=observations,
        failed={},
        node=NodeFacts(observed_time="2026-01-01T00:00:00Z", pods=len(observations)),
        dumps=0,
        seconds=0.0,
    )
    pods = {uid: observation.pod for uid, observation in observations.items()} | {one.uid: one for one in known}
    return Submission(sweep, time.monotonic() if at is None else at, pods, tuple(watchpoints))


class Counted:
    """Told of writes: the reasons of those that were accepted, and how many were left out."""

    def __init__(self):
        self.writes = []
        self.suppressed_writes = 0

    def wrote(self, reason):
        self.writes.append(reason)

    def suppressed(self, count):
        self.suppressed_writes += count
