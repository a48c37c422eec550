"""What sysctls help against the findings of a pod, and where they can be set: its own spec first, else a profile.

Pure: findings, facts, the pod's spec and the cluster's version in; settings with their reasons out. Numbers come from
:mod:`sockethealth_core.capacity`. What a pod may set itself is Kubernetes' list of safe sysctls, which the kubelet
checks when it admits the pod (pkg/kubelet/sysctl); under hostNetwork that is no net.* at all.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Final

from sockethealth_core.capacity import hold_seconds, port_range
from sockethealth_core.detectors.base import describe, per_second
from sockethealth_core.engine import SEVERITY_ORDER
from sockethealth_core.resources import Destination, Facts, Finding, Listener
from sockethealth_core.sysctls import (
    KERNEL_DEFAULTS,
    MINIMUM_PORT_RANGE,
    NODE_PORTS,
    PORT_RANGE,
    RESERVED_PORTS,
    SYSCTLS,
    merged,
    parse_port_list,
    safe_for_pods,
)
from sockethealth_core.units import format_count

TW_REUSE: Final = "net.ipv4.tcp_tw_reuse"
FIN_TIMEOUT: Final = "net.ipv4.tcp_fin_timeout"
SYNCOOKIES: Final = "net.ipv4.tcp_syncookies"
TW_BUCKETS: Final = "net.ipv4.tcp_max_tw_buckets"
SYN_BACKLOG: Final = "net.ipv4.tcp_max_syn_backlog"
SOMAXCONN: Final = "net.core.somaxconn"

WIDE_LOW: Final = 10240
"""Above the ports that servers use by custom."""
WIDE_HIGH: Final = 64999
"""Of the other parity than WIDE_LOW, as Documentation/networking/ip-sysctl.rst asks for."""
NODE_SERVERS: Final = (10248, 10259)
"""Where kubelet, kube-proxy, kube-controller-manager and kube-scheduler listen by default."""

_SHORTER_FIN_TIMEOUT: Final = 15
_HOLD_WITHOUT_REUSE: Final = 60.0
_SPARE: Final = 1.25
_QUEUE_FACTOR: Final = 4
_LONGEST_QUEUE: Final = 65535
_MOST_BUCKETS_BY_DEFAULT: Final = 262144
"""tcp_max_tw_buckets of a node with much memory (half of ``tcp_ehash_entries``, net/ipv4/tcp_ipv4.c)."""
_BUCKET_STEP: Final = 1024
_KERNEL: Final[Mapping[str, tuple[int, int]]] = {
    RESERVED_PORTS: (3, 16),
    FIN_TIMEOUT: (4, 6),
    "net.ipv4.tcp_keepalive_time": (4, 5),
    "net.ipv4.tcp_keepalive_intvl": (4, 5),
    "net.ipv4.tcp_keepalive_probes": (4, 5),
}
"""Kernels before these keep one value for all namespaces, and their kubelet does not let a pod set it."""
_EFFECTS: Final = {sysctl.name: sysctl for sysctl in SYSCTLS}


@dataclass(frozen=True, slots=True)
class PodSpec:
    """What a fix depends on in a pod and in the template it was made from.

    Attributes:
        host_network: it shares its node's network namespace.
        ports: TCP ports that it says it listens on; what it does not say is not known.
        sysctls: the template's securityContext.sysctls, in their order.
        running: names the running pod itself sets: its kubelet accepts those, whatever the list of safe ones says.
    """

    host_network: bool = False
    ports: frozenset[int] = frozenset()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    running: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Platform:
    """``minor`` of Kubernetes 1.minor, and the node's kernel release (uname -r), empty where it is not known."""

    minor: int
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """A sysctl and its value; ``reasons`` are sentences, and none for one that is kept as it is."""

    name: str
    value: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fix:
    """What to set, where, and what else to know.

    Attributes:
        sysctls: all that the template's securityContext.sysctls shall hold: the list is replaced as a whole.
        removed: settings of the template that are left out of it, with the value that they have there.
        profile: what the pod may not set itself, and a SysctlProfile can.
        first: the next step of each finding for which there is a setting: a setting seldom is the cure.
        advice: sentences about what a sysctl does not help with.
    """

    sysctls: tuple[Setting, ...] = ()
    removed: tuple[Setting, ...] = ()
    profile: tuple[Setting, ...] = ()
    first: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[Setting, ...]:
        """Those of ``sysctls`` that are new or have another value."""
        return tuple(setting for setting in self.sysctls if setting.reasons)

    @property
    def changes_template(self) -> bool:
        """Whether there is anything to change in the template."""
        return bool(self.changed or self.removed)


def fix_for(
    findings: Iterable[Finding], facts: Facts, pod: PodSpec, platform: Platform, *, include_info: bool = False
) -> Fix:
    """Settings that help against findings, worst finding first.

    Args:
        findings: of the pod.
        facts: of the pod.
        pod: its spec.
        platform: the cluster's version.
        include_info: also for findings that only explain what is harmless.
    """
    draft = _Draft(facts, pod, platform)
    counted = [one for one in findings if include_info or one.severity != "Info"]
    by_type: dict[str, Finding] = {}
    for finding in sorted(counted, key=lambda one: SEVERITY_ORDER[one.severity]):
        by_type.setdefault(finding.type, finding)
    for finding in by_type.values():
        draft.help(finding)
    return draft.fix()


def may_set(name: str, pod: PodSpec, platform: Platform) -> bool:
    """Whether the kubelet admits a pod that sets a sysctl itself."""
    if pod.host_network:
        return False
    if name in pod.running:
        return True
    return name in safe_for_pods(platform.minor) and _kernel(platform.kernel) >= _KERNEL.get(name, (0, 0))


def port_list(ports: Iterable[int]) -> str:
    """Ports as ``ip_local_reserved_ports`` takes them, neighbours as a range: ``8080,9148-9150``."""
    runs = merged(tuple((port, port) for port in ports))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _kernel(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    # A kernel that is not known is taken for a recent one: Kubernetes itself asks for more than these.
    return (int(match[1]), int(match[2])) if match else (99, 0)


class _Draft:
    """A fix in the making."""

    def __init__(self, facts: Facts, pod: PodSpec, platform: Platform) -> None:
        self.facts = facts
        self.pod = pod
        self._platform = platform
        self._wanted: dict[str, Setting] = {}
        self._removed: dict[str, Setting] = {}
        self._first: list[str] = []
        self._advice: list[str] = []

    def help(self, finding: Finding) -> None:
        """What there is for one finding."""
        before = dict(self._wanted)
        _HELP.get(finding.type, _no_sysctl)(self, finding)
        # A remedy begins with its one next step; that of UnsafeSysctl is the correction itself.
        step = finding.remedy.partition(". ")[0].rstrip(".")
        if self._wanted != before and step and finding.type != "UnsafeSysctl":
            self._first.append(f"{finding.type}: {step}.")

    def want(self, name: str, value: str, *reasons: str) -> None:
        """A value that helps, with the reasons; the reasons of a second finding are added."""
        earlier = self._wanted.get(name)
        if earlier is None and self.pod.sysctls.get(name, "").split() == value.split() != []:
            self.advise(
                f"{name} is {value} in the template already, and not in this pod: it was made before, or something "
                "sets another value after the pod's start"
            )
            return
        no_effect = _EFFECTS[name].no_effect
        told = (earlier.reasons if earlier else ()) + reasons + ((no_effect,) if no_effect else ())
        self._wanted[name] = Setting(name, value, tuple(dict.fromkeys(told)))

    def remove(self, name: str, reason: str) -> None:
        """A setting of the template that does harm."""
        self._removed[name] = Setting(name, self.pod.sysctls[name], (reason,))

    def advise(self, sentence: str) -> None:
        """Something that no setting does."""
        self._advice.append(f"{sentence.rstrip('.')}.")

    def own(self, name: str) -> bool:
        """Whether the value in force is the template's, or the node's own, so that setting it there helps."""
        return self.pod.host_network or name in self.pod.sysctls

    def may_set(self, name: str) -> bool:
        return may_set(name, self.pod, self._platform)

    def in_force(self, name: str) -> int:
        """Its value in the pod; 0 where neither that nor the kernel's default is known."""
        text = self.facts.sysctls.get(name, "") or KERNEL_DEFAULTS.get(name, "0")
        return int(text) if text.isdigit() else 0

    def fix(self) -> Fix:
        own = {name: setting for name, setting in self._wanted.items() if self.may_set(name)}
        listed = {name: Setting(name, value) for name, value in self.pod.sysctls.items()} | own
        sysctls = tuple(setting for name, setting in listed.items() if name not in self._removed)
        profile = tuple(self._for_profile(one) for name, one in self._wanted.items() if name not in own)
        return Fix(sysctls, tuple(self._removed.values()), profile, tuple(self._first), tuple(self._advice))

    def _for_profile(self, setting: Setting) -> Setting:
        if self.pod.host_network:
            return setting
        refused = (
            f"Kubernetes 1.{self._platform.minor} does not have it on its list of safe sysctls: the kubelet refuses a "
            f"pod that sets it (SysctlForbidden), unless it runs with --allowed-unsafe-sysctls={setting.name}"
        )
        return Setting(setting.name, setting.value, (*setting.reasons, f"{refused}."))


def _no_sysctl(draft: _Draft, finding: Finding) -> None:
    draft.advise(f"{finding.type}: no sysctl of the pod helps. {finding.message} {finding.remedy}")


def _exhaustion(draft: _Draft, finding: Finding) -> None:
    destination = _destination(draft.facts, finding)
    rate = destination.closes_per_second if destination else 0.0
    usable = draft.facts.ephemeral_ports.usable
    taken = f"{format_count(destination.used - destination.reusable)} of " if destination else ""
    why = (
        f"{finding.type} ({finding.severity}): {taken}{format_count(usable)} local ports in use to "
        f"{describe(finding.target)}" + (f", {per_second(rate, 'closes')}" if rate else "")
    )
    hold = hold_seconds(draft.facts.sysctls, destination.address) if destination else _HOLD_WITHOUT_REUSE
    _wider_range(draft, why, hold, rate)
    if finding.type == "EphemeralPortExhaustion":
        _reuse(draft, why, hold, usable)


def _wider_range(draft: _Draft, why: str, hold: float, rate: float) -> None:
    ports = draft.facts.ephemeral_ports
    low, high, reserved = _best_range(draft)
    wide = port_range(low, high, reserved, ())
    if wide.usable <= ports.usable or _too_small(low, high):
        draft.advise(
            f"{why}. Its range {ports.low}-{ports.high} leaves {format_count(ports.usable)} ports already, and a wider "
            "one is not to be had: pool connections, or spread them over more destination addresses"
        )
        return
    carries = (
        f"{low}-{high} carries {format_count(wide.usable / hold)} connections/s to one destination instead of "
        f"{format_count(ports.usable / hold)}"
    )
    if rate > wide.usable / hold:
        carries += f": less than the {per_second(rate, 'closes')} measured, so it only delays the end"
    _want_range(draft, low, high, reserved, f"{why}.", f"{carries}.")


def _want_range(draft: _Draft, low: int, high: int, reserved: str, *reasons: str) -> None:
    draft.want(PORT_RANGE, f"{low} {high}", *reasons)
    if reserved and reserved != draft.pod.sysctls.get(RESERVED_PORTS):
        _want_reserved(draft, reserved, f"{low}-{high}")


def _want_reserved(draft: _Draft, reserved: str, covered: str) -> None:
    node = ", and of NodePorts and the node's own servers" if draft.pod.host_network else ""
    draft.want(
        RESERVED_PORTS,
        reserved,
        f"{covered} covers these ports of the pod's listeners{node}: connect() could take one while its server "
        "restarts, which then fails with EADDRINUSE.",
        "Listeners that the pod's spec does not declare as ports are not known here: add them (ss -ltn in the pod).",
    )


def _best_range(draft: _Draft) -> tuple[int, int, str]:
    """Low, high and the reserved ports of the widest range that leaves known listeners alone."""
    listening = _listening(draft)
    held = _held(draft)
    if draft.pod.host_network:
        return WIDE_LOW, WIDE_HIGH, port_list({*held, *_inside(listening), *_ports(NODE_PORTS), *_ports(NODE_SERVERS)})
    if draft.may_set(RESERVED_PORTS):
        return WIDE_LOW, WIDE_HIGH, port_list({*held, *_inside(listening)})
    low, high = max(_gaps(listening), key=lambda gap: gap[1] - gap[0])
    return low, high, ""


def _too_small(low: int, high: int) -> bool:
    return high - low + 1 < MINIMUM_PORT_RANGE


def _held(draft: _Draft) -> set[int]:
    """Ports that the template reserves, or that are reserved in the pod."""
    held: set[int] = set()
    for text in (draft.pod.sysctls.get(RESERVED_PORTS, ""), draft.facts.sysctls.get(RESERVED_PORTS, "")):
        try:
            held.update(port for ends in parse_port_list(text) for port in _ports(ends))
        except ValueError as error:
            draft.advise(f"{RESERVED_PORTS} is set to something that the kernel does not take: {error}")
    return held


def _ports(ends: tuple[int, int]) -> range:
    return range(ends[0], ends[1] + 1)


def _listening(draft: _Draft) -> set[int]:
    return {*draft.pod.ports, *(listener.port for listener in draft.facts.listeners)}


def _inside(ports: Iterable[int]) -> Iterator[int]:
    return (port for port in ports if WIDE_LOW <= port <= WIDE_HIGH)


def _gaps(ports: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ranges between ports, with ends of different parity."""
    edges = [WIDE_LOW - 1, *sorted(_inside(ports)), WIDE_HIGH + 1]
    for before, after in pairwise(edges):
        low, high = before + 1, after - 1
        yield low, high - ((high - low) % 2 == 0)


def _reuse(draft: _Draft, why: str, hold: float, usable: int) -> None:
    sysctls = draft.facts.sysctls
    if hold < _HOLD_WITHOUT_REUSE or sysctls.get("net.ipv4.tcp_timestamps", "1") == "0":
        return
    delay = draft.in_force("net.ipv4.tcp_tw_reuse_delay") / 1000
    draft.want(
        TW_REUSE,
        "1",
        f"{why}.",
        f"connect() may take the port of a TIME_WAIT after {format_count(delay)} s instead of 60 s, if the peer has "
        f"timestamps on as well: {format_count(usable)} ports then carry up to {format_count(usable / delay)} "
        "connections/s to one destination.",
    )


def _destination(facts: Facts, finding: Finding) -> Destination | None:
    destinations = facts.ephemeral_ports.destinations
    if (target := finding.target) is not None:
        same = [one for one in destinations if (one.address, one.port) == (target.address, target.port)]
        if same:
            return same[0]
    return max(destinations, key=lambda one: one.used - one.reusable, default=None)


def _fin_wait2(draft: _Draft, finding: Finding) -> None:
    current = draft.in_force(FIN_TIMEOUT)
    held = (
        "Those that the application still holds, by shutdown() without close(), never end by it: look at the peers for "
        "CLOSE_WAIT"
    )
    if current <= _SHORTER_FIN_TIMEOUT:
        draft.advise(
            f"{finding.type}: tcp_fin_timeout is {current} s already, and {format_count(finding.value)} FIN_WAIT_2 "
            f"remain. {held}"
        )
        return
    left = finding.value * _SHORTER_FIN_TIMEOUT / current
    draft.want(
        FIN_TIMEOUT,
        str(_SHORTER_FIN_TIMEOUT),
        f"{finding.type} ({finding.severity}): {format_count(finding.value)} FIN_WAIT_2 sockets.",
        f"An orphaned one ends after {_SHORTER_FIN_TIMEOUT} s instead of {current} s: at the same rate about "
        f"{format_count(ceil(left))} remain, if all of them are orphaned.",
        f"{held}.",
    )


def _accept_queue(draft: _Draft, finding: Finding) -> None:
    worst = max(draft.facts.listeners, key=lambda one: one.queue / max(one.backlog, 1), default=None)
    _longer_queue(draft, finding, worst, f"{per_second(finding.value, 'connections')} dropped")


def _syn_backlog(draft: _Draft, finding: Finding) -> None:
    worst = max(draft.facts.listeners, key=lambda one: one.syn_recv / max(one.syn_backlog, 1), default=None)
    number = f"{finding.value:.0f}% of the half-open connections that are possible"
    _longer_queue(draft, finding, worst, number)
    # With SYN cookies on it bounds nothing: net/ipv4/tcp_input.c, tcp_conn_request.
    if draft.in_force(SYNCOOKIES) == 0:
        limit = worst.syn_backlog if worst else 128
        value = min(_EFFECTS[SYN_BACKLOG].high, max(_EFFECTS[SYN_BACKLOG].low, limit * _QUEUE_FACTOR))
        draft.want(
            SYN_BACKLOG,
            str(value),
            f"{finding.type} ({finding.severity}): {number} at {describe(finding.target)}.",
            f"With SYN cookies off, {format_count(value * 3 // 4)} may be half open. SYN cookies are the better cure.",
        )


def _longer_queue(draft: _Draft, finding: Finding, worst: Listener | None, number: str) -> None:
    limit = draft.in_force(SOMAXCONN)
    why = f"{finding.type} ({finding.severity}): {number} at {describe(finding.target)}"
    who = f"process {worst.process}" if worst and worst.process else "the server"
    if worst is not None and worst.backlog < limit:
        draft.advise(
            f"{why}. {who} asks for a backlog of {format_count(worst.backlog)}, and somaxconn allows "
            f"{format_count(limit)}: raise listen(backlog) in its configuration, no sysctl helps. First look why "
            "it does not call accept() fast enough"
        )
        return
    value = min(_LONGEST_QUEUE, limit * _QUEUE_FACTOR)
    if value <= limit:
        draft.advise(f"{why}. somaxconn is {format_count(limit)}: a longer queue only adds delay. Add replicas")
        return
    draft.want(
        SOMAXCONN,
        str(value),
        f"{why}.",
        f"Accept queues hold up to {format_count(value)} instead of {format_count(limit)}, and only if {who} asks "
        "listen(backlog) for as many: the lower one wins.",
        "It helps over bursts. A server that is too slow all the time needs CPU, workers or replicas.",
    )


def _time_wait_table(draft: _Draft, finding: Finding) -> None:
    held = draft.facts.sockets.time_wait
    needed = held + finding.value * _HOLD_WITHOUT_REUSE
    current = draft.in_force(TW_BUCKETS)
    bounds = _EFFECTS[TW_BUCKETS]
    steps = ceil(max(needed, current) * _SPARE / _BUCKET_STEP)
    value = min(bounds.high, max(_MOST_BUCKETS_BY_DEFAULT, steps * _BUCKET_STEP))
    draft.want(
        TW_BUCKETS,
        str(value),
        f"{finding.type} ({finding.severity}): {per_second(finding.value, 'TIME_WAIT sockets')} destroyed early, "
        f"{format_count(held)} held.",
        f"At this rate {format_count(ceil(needed))} would be held; each costs a few hundred bytes.",
    )


def _unsafe(draft: _Draft, finding: Finding) -> None:
    for name, fault in finding.evidence.items():
        why = f"{finding.type} ({finding.severity}): {name} {fault}"
        if name == RESERVED_PORTS:
            _unreserved(draft, why)
        elif not draft.own(name):
            draft.advise(
                f"{why}. The workload's spec does not set it: look for an init container, a plugin of the network, or "
                "a SysctlProfile that does"
            )
        elif name == PORT_RANGE:
            low, high, reserved = _best_range(draft)
            if _too_small(low, high):
                draft.advise(f"{why}. No good range is left between the pod's listeners: remove the setting")
                continue
            carried = format_count(port_range(low, high, reserved, ()).usable / _HOLD_WITHOUT_REUSE)
            sentence = f"{low}-{high} carries {carried} connections/s to one destination."
            _want_range(draft, low, high, reserved, f"{why}.", sentence)
        elif name == SYNCOOKIES:
            draft.want(SYNCOOKIES, "1", f"{why}.")
        elif name in draft.pod.sysctls:
            draft.remove(name, f"{why}.")
        else:
            draft.advise(f"{why}. Look in the node's sysctl.d, as the pod shares its node's network namespace")


def _unreserved(draft: _Draft, why: str) -> None:
    ports = draft.facts.ephemeral_ports
    held = _held(draft)
    known = {port for port in _listening(draft) if ports.low <= port <= ports.high} - held
    if len(known) < ports.listening:
        draft.advise(
            f"{why}. Of these {ports.listening} the pod's spec declares {len(known)}: `ss -ltn` in the pod shows all "
            f"of them, for {RESERVED_PORTS}"
        )
    if known:
        _want_reserved(draft, port_list({*held, *known}), f"{ports.low}-{ports.high}")


_HELP: Final = {
    "EphemeralPortExhaustion": _exhaustion,
    "OutboundTimeWait": _exhaustion,
    "FinWait2Buildup": _fin_wait2,
    "AcceptQueueOverflow": _accept_queue,
    "SynBacklogPressure": _syn_backlog,
    "TimeWaitTableOverflow": _time_wait_table,
    "UnsafeSysctl": _unsafe,
}
