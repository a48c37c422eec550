"""What a profile may ask for, what it may not and why, and what to tell those whose profile will not help.

The same rules and sentences as CEL, for the API server: :mod:`sockethealth_core.sysctl_cel`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from sockethealth_core.sysctls import (
    MINIMUM_PORT_RANGE,
    PATTERNS,
    PORT_RANGE,
    RESERVED_PORTS,
    SYSCTLS,
    TCP_TW_RECYCLE,
    Caution,
    Sysctl,
    Target,
    canonical,
    find,
    parse_port_list,
    parse_port_range,
    shown,
)

RECYCLE_REFUSED: Final = (
    f"{TCP_TW_RECYCLE} is never set: it drops connections of clients behind NAT, and the kernel has not had it since "
    "4.12. Pool connections, or set net.ipv4.tcp_tw_reuse to 1"
)
_TIMEOUT: Final = "net.netfilter.nf_conntrack_tcp_timeout_"
UNKNOWN: Final = (
    "is not a sysctl a profile may set: use one of "
    + ", ".join(sysctl.name for sysctl in SYSCTLS if not sysctl.name.startswith(_TIMEOUT))
    + f", or {_TIMEOUT} followed by "
    + ", ".join(sysctl.name.removeprefix(_TIMEOUT) for sysctl in SYSCTLS if sysctl.name.startswith(_TIMEOUT))
)
INVERTED: Final = f"{PORT_RANGE} takes the first and the last port with the lower one first"
TOO_SMALL: Final = (
    f"{PORT_RANGE} takes the first and the last port with at least {MINIMUM_PORT_RANGE} ports from one to the other, "
    f"enough for {MINIMUM_PORT_RANGE // 60} new connections a second to one destination"
)
NOT_INHERITED: Final = (
    "target Node sets the values of the node's own network namespace, which hostNetwork pods share: no other pod "
    "inherits them. Use target: Pods for those."
)


def wrong_target(sysctl: Sysctl) -> str:
    """Why a node-wide sysctl is no part of a profile with target Pods."""
    return f"{sysctl.name} is one value for the whole node, which no pod has of its own: use target: Node"


def node_ports_refused(node_ports: tuple[int, int]) -> str:
    """Why a port range on the node may not cover NodePorts, and what to add."""
    first, last = node_ports
    return (
        f"{PORT_RANGE} covers NodePorts ({first}-{last}), which connections of the node would take from Services: add "
        f"{RESERVED_PORTS} with {first}-{last} as one entry, or begin the range at {last + 1}"
    )


def default_advice(sysctl: Sysctl) -> str:
    """What to tell those who set a sysctl to the value that it has anyway."""
    value = f"'{sysctl.default}'" if sysctl.default else "no port"
    return f"{sysctl.name}: {value} is the kernel's default, so only namespaces in which someone has changed it change."


def own_spec_advice(sysctl: Sysctl) -> str:
    """What to tell those who set in pods from outside what a pod may set itself."""
    since = f", from Kubernetes {sysctl.safe_release} on" if sysctl.safe_since else ""
    return (
        f"{sysctl.name}: a pod may set it itself in securityContext.sysctls{since}, and then has it from its first "
        "connection on."
    )


def caution_advice(sysctl: Sysctl, caution: Caution) -> str:
    """A caution of the table as a sentence that names the sysctl."""
    first, last = caution.outside or (0, 0)
    return f"{sysctl.name}: {caution.sentence.format(outside=f'{first}-{last}')}"


def refusal(name: str, value: str, target: Target) -> str | None:
    """Why a profile with this target may not set a sysctl to a value, and what to do instead; None: it may.

    What is not in the table by its exact name is refused, whatever path it would lead to. A None says nothing of the
    other sysctls of the profile (:func:`combination_refusal`) or of a namespace (:func:`uncovered_listeners`).
    """
    if name == TCP_TW_RECYCLE:
        return RECYCLE_REFUSED
    sysctl = find(name)
    if sysctl is None:
        return f"{shown(name)} {UNKNOWN}"
    if sysctl.scope == "Node" and target == "Pods":
        return wrong_target(sysctl)
    return _value_refusal(sysctl, value)


def _value_refusal(sysctl: Sysctl, value: str) -> str | None:
    numbers = _numbers(sysctl, value)
    if numbers is None or not all(sysctl.low <= number <= sysctl.high for number in numbers):
        return f"{sysctl.requirement}, not {shown(value)}"
    if sysctl.kind == "PortRange":
        first, last = numbers
        if first > last:
            return f"{INVERTED}, not {shown(value)}"
        if last - first + 1 < MINIMUM_PORT_RANGE:
            return f"{TOO_SMALL}, not {shown(value)}"
    return None


def _numbers(sysctl: Sysctl, value: str) -> list[int] | None:
    # All numbers in a value; None: it is not written as one of this kind.
    if not re.fullmatch(PATTERNS[sysctl.kind], value):
        return None
    if sysctl.kind != "PortList":
        return [int(number) for number in value.split()]
    try:
        return [port for entry in parse_port_list(value) for port in entry]
    except ValueError:
        return None


def combination_refusal(values: Mapping[str, str], target: Target, node_ports: tuple[int, int] | None) -> str | None:
    """Why sysctls that may be set one by one may not be set together; None: they may.

    A port range for target Node that covers a NodePort must come with one entry of reserved ports that covers them all.

    Args:
        values: all sysctls of the profile, each of which :func:`refusal` lets pass.
        target: of the profile.
        node_ports: first and last port of Services of type NodePort, or None where there are none.

    Raises:
        ValueError: with a sentence, when one of the two is no value, which :func:`refusal` would have said.
    """
    if target != "Node" or node_ports is None or PORT_RANGE not in values:
        return None
    first, last = parse_port_range(values[PORT_RANGE])
    reserved = parse_port_list(values.get(RESERVED_PORTS, ""))
    covered = first <= node_ports[1] and last >= node_ports[0]
    if not covered or any(low <= node_ports[0] and node_ports[1] <= high for low, high in reserved):
        return None
    return node_ports_refused(node_ports)


def refusals(values: Mapping[str, str], target: Target, node_ports: tuple[int, int] | None) -> list[str]:
    """Why not all of these may be set together: each that is refused by itself, or else what they are together."""
    found = [sentence for name, value in values.items() if (sentence := refusal(name, value, target))]
    if found:
        return found
    together = combination_refusal(values, target, node_ports)
    return [together] if together else []


def uncovered_listeners(
    range_value: str, reserved_value: str, range_in_force: str, listening: Iterable[int]
) -> list[int]:
    """Ports of listeners that a new port range would open to connect(): a server could not come back after a restart.

    Args:
        range_value: ip_local_port_range that is asked for.
        reserved_value: ip_local_reserved_ports that will be in force with it.
        range_in_force: ip_local_port_range of the namespace so far; listeners in it are no worse off.
        listening: ports of the namespace's listeners.

    Returns:
        Those in the new range, not in the one in force, and not reserved; sorted, each once.

    Raises:
        ValueError: with a sentence, when one of the values is none.
    """
    first, last = parse_port_range(range_value)
    old_first, old_last = parse_port_range(range_in_force)
    reserved = parse_port_list(reserved_value)
    return sorted(
        port
        for port in set(listening)
        if first <= port <= last
        and not old_first <= port <= old_last
        and not any(low <= port <= high for low, high in reserved)
    )


def advice(values: Mapping[str, str], target: Target) -> list[str]:
    """What is allowed and will not help, or not as expected: sentences in the table's order, each once.

    Sysctls whose value is refused get none: their refusal says what to do.
    """
    valid = {name: canonical(name, value) for name, value in values.items() if refusal(name, value, target) is None}
    found = []
    for sysctl in SYSCTLS:
        if sysctl.name not in valid:
            continue
        value = valid[sysctl.name]
        found += [caution_advice(sysctl, one) for one in sysctl.cautions if _due(one, sysctl, valid, target)]
        if advises_default(sysctl) and value == sysctl.default:
            found.append(default_advice(sysctl))
        if target == "Pods" and sysctl.safe_since is not None:
            found.append(own_spec_advice(sysctl))
    if target == "Node" and any(sysctl.scope == "Netns" for sysctl in SYSCTLS if sysctl.name in valid):
        found.append(NOT_INHERITED)
    return found


def advises_default(sysctl: Sysctl) -> bool:
    """Whether the general advice on a value that is the default is due: not where a caution is on that value."""
    return sysctl.default is not None and all(str(one.equals) != sysctl.default for one in sysctl.cautions)


def _due(caution: Caution, sysctl: Sysctl, values: Mapping[str, str], target: Target) -> bool:
    value = values[sysctl.name]
    if caution.target not in (None, target):
        return False
    if caution.unless is not None:
        other, with_value = caution.unless
        if other in values and with_value in (None, _integer(values[other])):
            return False
    if caution.outside is not None:
        first, last = caution.outside
        return any(low < first or high > last for low, high in parse_port_list(value))
    if caution.equals is not None:
        return _integer(value) == caution.equals
    return caution.below is None or int(value) < caution.below


def _integer(value: str) -> int | None:
    return int(value) if re.fullmatch(PATTERNS["Integer"], value) else None
