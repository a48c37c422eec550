"""A node's pods as an agent finds them, sweep by sweep, in virtual time: what applications do, without sockets.

Connections come and go by chance (Poisson), demand rises and falls slowly by itself (a first-order autoregression)
and with the day, and TIME_WAIT is what was closed within the last minute. From the same seed come the same numbers.
"""

import math
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sockethealth_agent.pods import PodInfo
from sockethealth_agent.reporter import Submission
from sockethealth_agent.sampler import Observation, Sweep
from sockethealth_core.capacity import TIME_WAIT_SECONDS
from sockethealth_core.resources import (
    AgeCount,
    CloseWait,
    Destination,
    EphemeralPorts,
    Facts,
    NodeFacts,
    Owner,
    Peer,
    Rates,
    Sockets,
    TimeWait,
    Watchpoint,
)
from sockethealth_core.units import format_time

Kind = Literal["idle", "steady", "churning"]

USABLE_PORTS: Final = EphemeralPorts().usable
SEGMENTS_A_CONNECTION: Final = 12
LOST_SHARE: Final = 0.0002
_DAY_SECONDS: Final = 86400.0
_DAY_SWING: Final = 0.5
"""Demand at noon is 1.5 times the day's mean, at midnight half of it."""
_MEMORY_SECONDS: Final = 120.0
"""After this long, two thirds of a swing in demand are forgotten."""
_IDLE_CHANGE_SECONDS: Final = 1800.0


@dataclass
class PretendPod:
    """One pod.

    Attributes:
        pod: as the API server has it.
        kind: idle: a few connections, of which one comes or goes now and then; steady: connections are kept and busy;
            churning: a connection for each request, closed by this side.
        per_second: requests a second over the day.
        swing: how far demand goes from that by itself: the standard deviation of its logarithm.
        leaking: connections a second of which the peer's close goes unnoticed.
    """

    pod: PodInfo
    kind: Kind
    per_second: float = 0.0
    swing: float = 0.0
    leaking: float = 0.0
    _held: int = 4
    _demand: float = 0.0
    _closed: deque[int] = field(default_factory=lambda: deque(maxlen=64))
    _leaked: deque[tuple[float, int]] = field(default_factory=deque)

    def sweep(self, now: float, interval_seconds: float, chance: random.Random) -> Facts:
        """The facts after one more interval."""
        keep = math.exp(-interval_seconds / _MEMORY_SECONDS)
        self._demand = keep * self._demand + math.sqrt(1 - keep * keep) * chance.gauss(0, self.swing)
        day = 1 + _DAY_SWING * math.sin(2 * math.pi * now / _DAY_SECONDS)
        per_second = self.per_second * day * math.exp(self._demand)
        if self.kind == "idle" and chance.random() < interval_seconds / _IDLE_CHANGE_SECONDS:
            self._held = max(1, self._held + chance.choice((-1, 1)))
        opened = poisson(per_second * interval_seconds, chance) if self.kind == "churning" else 0
        self._closed.append(opened)
        in_wait = max(1, round(TIME_WAIT_SECONDS / interval_seconds))
        time_wait = round(sum(list(self._closed)[-in_wait:]) * min(1.0, TIME_WAIT_SECONDS / interval_seconds))
        if self.leaking:
            self._leaked.append((now, poisson(self.leaking * interval_seconds, chance)))
        held = self._held
        if self.kind == "steady":
            held = poisson(per_second * 2.0, chance)
        elif self.kind == "churning":
            held += poisson(per_second * 0.2, chance)
        segments = (opened if self.kind == "churning" else per_second * interval_seconds) * SEGMENTS_A_CONNECTION
        sent = poisson(segments, chance) / interval_seconds
        closes = opened / interval_seconds
        return Facts(
            observed_time=format_time(now),
            sockets=Sockets(established=held, time_wait=time_wait, close_wait=self._leaks(now, 0.0), listen=1),
            time_wait=TimeWait(outbound=time_wait, closes_per_second=round(closes, 1)),
            close_wait=self._close_wait(now),
            ephemeral_ports=EphemeralPorts(destinations=_destinations(time_wait, closes)),
            rates=Rates(
                active_opens=round(closes, 2),
                passive_opens=0.1,
                segments_out=round(sent, 2),
                retransmits=round(poisson(segments * LOST_SHARE, chance) / interval_seconds, 2),
            ),
        )

    def _leaks(self, now: float, older_than_seconds: float) -> int:
        return sum(count for at, count in self._leaked if now - at >= older_than_seconds)

    def _close_wait(self, now: float) -> CloseWait:
        count = self._leaks(now, 0.0)
        return CloseWait(
            oldest_seconds=round(now - self._leaked[0][0], 1) if count else 0.0,
            ages=[AgeCount(older_than_seconds=60.0, count=self._leaks(now, 60.0))],
            owners=[Owner(container="main", process="python3", pid=4711, count=count)] if count else [],
            peers=[Peer(address="10.96.0.20", port=6379, count=count)] if count else [],
        )


@dataclass
class PretendNode:
    """A node whose pods can be swept in virtual time.

    Args:
        name: the node's name.
        pods: its pods at first; they come and go with :meth:`turn_over`.
        seed: of all chance.
        interval_seconds: between sweeps.
    """

    name: str
    pods: list[PretendPod]
    seed: int
    interval_seconds: float

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)  # noqa: S311 - load, not secrets
        self._made = len(self.pods)

    def sweep(self, now: float, watchpoints: Sequence[Watchpoint], at: float) -> Submission:
        """What the agent has for its reporter after one sweep.

        Args:
            now: epoch seconds.
            watchpoints: in force.
            at: the same moment by the reporter's clock.
        """
        found = {one.pod.uid: one.sweep(now, self.interval_seconds, self._chance) for one in self.pods}
        known: Mapping[str, PodInfo] = {one.pod.uid: one.pod for one in self.pods}
        sweep = Sweep(
            pods={uid: Observation(known[uid], facts, fresh=True) for uid, facts in found.items()},
            failed={},
            node=NodeFacts(observed_time=format_time(now), pods=len(found)),
            dumps=0,
            seconds=0.0,
        )
        return Submission(sweep, at, known, watchpoints)

    def turn_over(self, index: int) -> PodInfo:
        """Replace one pod by another of its kind, as a Deployment's roll-out or a Job's next run does; the old one."""
        gone = self.pods[index]
        self._made += 1
        self.pods[index] = replace(
            gone,
            pod=_pod(self.name, self._made),
            leaking=0.0,
            _demand=0.0,
            _closed=deque(maxlen=64),
            _leaked=deque(),
        )
        return gone.pod


def node(name: str, seed: int, interval_seconds: float, *, idle: int, steady: int, churning: int) -> PretendNode:
    """A node with so many pods of each kind, from one request a second to a hundred, most of them small."""
    chance = random.Random(seed)  # noqa: S311 - load, not secrets
    counts: Mapping[Kind, int] = {"idle": idle, "steady": steady, "churning": churning}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    pods = [
        PretendPod(
            _pod(name, index),
            kind,
            per_second=0.0 if kind == "idle" else 10 ** chance.uniform(0, 2),
            swing=0.0 if kind == "idle" else chance.uniform(0.05, 0.25),
        )
        for index, kind in enumerate(kinds)
    ]
    return PretendNode(name, pods, seed, interval_seconds)


def _pod(node_name: str, index: int) -> PodInfo:
    return PodInfo(
        namespace=f"bench-{index % 10}",
        name=f"{node_name}-app-{index}",
        uid=f"{node_name}-{index}",
        host_network=False,
        phase="Running",
        labels={"app": f"app-{index}", "pod-template-hash": "6d4cf56db6"},
        containers={},
        ips=(f"10.{index >> 8 & 255}.{index & 255}.7",),
    )


def _destinations(time_wait: int, closes: float) -> list[Destination]:
    if not time_wait:
        return []
    return [
        Destination(
            address="10.96.0.10",
            port=443,
            used=time_wait,
            used_percent=round(100 * time_wait / USABLE_PORTS, 1),
            time_wait=time_wait,
            closes_per_second=round(closes, 1),
        )
    ]


def poisson(mean: float, chance: random.Random) -> int:
    """How many of many independent things happen where so many do on average; by a normal law where they are many."""
    if mean > 50:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        count += 1
    return count


def moments(start: float, interval_seconds: float, seconds: float) -> Iterator[float]:
    """The times of sweeps within a span."""
    for index in range(round(seconds / interval_seconds)):
        yield start + index * interval_seconds
