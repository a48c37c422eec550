"""UnsafeSysctl: settings in force that are dangerous, or that cannot do what they were set for."""

from collections.abc import Iterator
from typing import Final

from sockethealth_core.capacity import TIME_WAIT_SECONDS
from sockethealth_core.detectors.base import Advice, AnyFacts, DefaultRule, Detector, Parameters, Reading, Subject
from sockethealth_core.resources import EphemeralPorts, Facts
from sockethealth_core.sysctls import KERNEL_PORT_RANGE
from sockethealth_core.units import format_count

SMALL_TIME_WAIT_TABLE: Final = 4096
"""tcp_max_tw_buckets below this is no memory limit but an attempt to clear TIME_WAIT."""

TINY_PORT_RANGE: Final = 1024
"""Fewer ports than this carry no more than 17 connections a second to one destination."""


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """How many settings in force are unsafe or cannot work."""
    if not isinstance(facts, Facts):
        return None
    found = list(faults(facts))
    return Reading(len(found), evidence=dict(found))


def faults(facts: Facts) -> Iterator[tuple[str, str]]:
    """Name of a sysctl, and what is wrong with its value."""
    values = facts.sysctls
    if values.get("net.ipv4.tcp_tw_recycle", "0") != "0":
        yield (
            "net.ipv4.tcp_tw_recycle",
            "is on: connections of clients behind NAT are dropped at random; set it to 0",
        )
    if values.get("net.ipv4.tcp_timestamps") == "0" and values.get("net.ipv4.tcp_tw_reuse") == "1":
        yield (
            "net.ipv4.tcp_timestamps",
            "is 0, so tcp_tw_reuse=1 does nothing: it needs timestamps; set tcp_timestamps to 1",
        )
    if values.get("net.ipv4.tcp_syncookies") == "0":
        yield "net.ipv4.tcp_syncookies", "is 0: a SYN flood makes the server unreachable; set it to 1"
    buckets = values.get("net.ipv4.tcp_max_tw_buckets", "")
    if buckets.isdigit() and int(buckets) < SMALL_TIME_WAIT_TABLE:
        yield (
            "net.ipv4.tcp_max_tw_buckets",
            f"is {buckets}: TIME_WAIT sockets beyond that lose their protection; remove the setting",
        )
    yield from _port_range_faults(facts.ephemeral_ports)


def _port_range_faults(ports: EphemeralPorts) -> Iterator[tuple[str, str]]:
    name = "net.ipv4.ip_local_port_range"
    size = max(0, ports.high - ports.low + 1 - ports.reserved)
    if ports.low > ports.high:
        yield name, f"is inverted ({ports.low} {ports.high}): connect() finds no port; write the lower one first"
    elif size < TINY_PORT_RANGE:
        rate = format_count(size / TIME_WAIT_SECONDS)
        yield name, f"leaves {size} ports, for {rate} connections/s to one destination; leave some thousands"
    # The kernel's own range holds ports that servers use by custom, so only a range that someone chose is
    # held against its listeners: else every gRPC server on 50051 would be a finding.
    if ports.listening and (ports.low, ports.high) != KERNEL_PORT_RANGE:
        many = f"{ports.listening} listening port{'s' if ports.listening > 1 else ''}"
        fault = f"leaves out {many} in {ports.low}-{ports.high}, which connect() can take while the server restarts"
        yield "net.ipv4.ip_local_reserved_ports", f"{fault}; reserve them"


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:  # noqa: ARG001 (the detector's signature)
    """List each setting with its fault."""
    listed = "; ".join(f"{name} {fault}" for name, fault in reading.evidence.items())
    return Advice(
        f"{subject} runs with {format_count(reading.value)} unsafe setting"
        f"{'s' if reading.value > 1 else ''}: {listed}.",
        "Correct it where it was set: the pod's securityContext.sysctls, an init container, or the node's sysctl.d for "
        "hostNetwork. A pod does not inherit the node's values.",
    )


DETECTOR = Detector(
    name="UnsafeSysctl",
    summary="Settings in force are dangerous, or cannot do what they were set for.",
    unit="settings in force in the netns that are unsafe or cannot work",
    scope="pod",
    defaults=(DefaultRule("unsafe-sysctl", 1, 1, "0s", "Warning"),),
    measure=measure,
    advise=advise,
)
