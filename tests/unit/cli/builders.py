"""SocketHealths and namespaces with what a test cares about, and nothing else."""

from sockethealth_agent.netns import NetnsId
from sockethealth_cli.naming import FoundNetns, NamedNetns, Process
from sockethealth_cli.objects import socket_health
from sockethealth_cli.policies import default_rule_set
from sockethealth_core.resources import (
    CloseWait,
    Destination,
    EphemeralPorts,
    Facts,
    Owner,
    SocketHealth,
    Sockets,
    TimeWait,
)
from sockethealth_core.resources.sockethealth import AgeCount

NOW = 1_700_000_000.0


def netns(inode: int = 1, **fields) -> FoundNetns:
    return FoundNetns(id=NetnsId(4, inode), path=f"/run/netns/{inode}", **fields)


def process(pid: int, comm: str, started_ticks: int = 0, pod_uid: str = "") -> Process:
    return Process(pid, comm, started_ticks, pod_uid)


def judged(name: str, facts: Facts) -> SocketHealth:
    named = NamedNetns(name, name, netns())
    return socket_health(named, facts, default_rule_set().rules, node_name="machine", now=NOW)


def quiet(established: int = 3) -> Facts:
    return Facts(sockets=Sockets(established=established))


def exhausted(used: int = 26_000, address: str = "10.0.0.9", seconds: float | None = 12.0) -> Facts:
    percent = 100 * used / 28_232
    worst = Destination(
        address=address,
        port=6379,
        used=used,
        used_percent=percent,
        time_wait=used,
        closes_per_second=430.0,
        seconds_to_exhaustion=seconds,
    )
    return Facts(
        sockets=Sockets(time_wait=used),
        time_wait=TimeWait(outbound=used, closes_per_second=430.0),
        ephemeral_ports=EphemeralPorts(destinations=[worst]),
    )


def leaking(count: int = 80, comm: str = "java") -> Facts:
    return Facts(
        sockets=Sockets(close_wait=count),
        close_wait=CloseWait(
            oldest_seconds=400,
            ages=[AgeCount(older_than_seconds=60, count=count)],
            owners=[Owner(process=comm, pid=4711, count=count)],
        ),
    )


def closing_first(count: int = 2000) -> Facts:
    return Facts(sockets=Sockets(time_wait=count), time_wait=TimeWait(inbound=count, closes_per_second=count / 60))
