"""All that is known of one namespace, pod, node or workload, as a person reads it: what is wrong first. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sockethealth_cli import render
from sockethealth_cli.text import counted, printable
from sockethealth_core.detectors import DETECTORS
from sockethealth_core.resources import (
    Destination,
    Finding,
    Health,
    Listener,
    NodeSocketHealth,
    Rates,
    RuleState,
    SocketHealth,
    Sockets,
)
from sockethealth_core.units import format_count, format_duration, parse_time

_STATES: Final[Mapping[str, str]] = {
    "established": "ESTABLISHED",
    "syn_sent": "SYN_SENT",
    "syn_recv": "SYN_RECV",
    "fin_wait1": "FIN_WAIT_1",
    "fin_wait2": "FIN_WAIT_2",
    "time_wait": "TIME_WAIT",
    "close_wait": "CLOSE_WAIT",
    "last_ack": "LAST_ACK",
    "closing": "CLOSING",
    "listen": "LISTEN",
}
_RATES: Final[Mapping[str, str]] = {
    "active_opens": "opened",
    "passive_opens": "accepted",
    "attempt_fails": "attempts failed",
    "segments_out": "segments sent",
    "retransmits": "sent again",
    "syn_retransmits": "SYN sent again",
    "listen_overflows": "dropped at full accept queues",
    "listen_drops": "dropped at listeners",
    "time_wait_overflows": "TIME_WAIT destroyed early",
}
_INDENT: Final = 2
_LABEL_WIDTH: Final = 12
_MISSED_HEARTBEATS: Final = 3


@dataclass(frozen=True, slots=True)
class Silence:
    """The agent of a node has not reported for longer than it may; ``since`` is its last heartbeat, if any."""

    node: str
    since: str | None


def silence_of(node: NodeSocketHealth, now: float) -> Silence | None:
    """Whether a node's agent is silent: three intervals without a heartbeat, as the operator counts."""
    agent = node.status.agent
    if not agent.version and parse_time(agent.heartbeat_time) <= 0:
        return Silence(node.metadata.name, None)
    overdue = now - parse_time(agent.heartbeat_time) > _MISSED_HEARTBEATS * agent.interval_seconds
    return Silence(node.metadata.name, agent.heartbeat_time) if overdue else None


def of_namespace(item: SocketHealth, now: float, pending: Sequence[Finding] = ()) -> RenderableType:
    """A network namespace of a machine without a cluster.

    Args:
        item: the object.
        now: epoch seconds.
        pending: findings that it will have if what holds goes on to hold.
    """
    parts: list[RenderableType] = [_title("Network namespace", printable(item.metadata.name), item, now)]
    for finding in pending:
        parts += [Text(), Text("If this lasts as long as the rule's `for`:", style="dim")]
        parts.append(_finding(finding, now, "sockethealth", dated=False))
    return Group(*parts, *_body(item, now, "sockethealth"))


def of_pod(item: SocketHealth, now: float, silence: Silence | None = None) -> RenderableType:
    """A pod of a cluster.

    Args:
        item: the object.
        now: epoch seconds.
        silence: when the agent of its node does not report.
    """
    node = printable(item.spec.node_name) or "an unknown node"
    what = f"{printable(item.metadata.namespace or '')}/{printable(item.metadata.name)} on node {node}"
    parts: list[RenderableType] = [_title("Pod", what, item, now)]
    if item.spec.host_network:
        parts.append(Text("It shares its node's network namespace: ports and TIME_WAIT are the node's.", style="dim"))
    if silence is not None or item.status.health == "Unknown":
        parts.append(_silent(silence, node, item.status.observed_time, now))
    return Group(*parts, *_body(item, now, "kubectl sockethealth"))


def of_node(
    node: NodeSocketHealth, pods: Sequence[SocketHealth] | None, now: float, silence: Silence | None
) -> RenderableType:
    """A node: what is wrong with it, its agent, its totals and limits, and its pods that are not well.

    Args:
        node: the object.
        pods: the SocketHealths of its pods; None when they could not be read.
        now: epoch seconds.
        silence: when its agent does not report.
    """
    status = node.status
    name = printable(node.metadata.name)
    parts: list[RenderableType] = [_headline("Node", name, status.health, status.findings, now)]
    if silence is not None:
        parts.append(_silent(silence, name, status.observed_time, now))
    parts += _findings(status.findings, status.evaluation, now, "kubectl sockethealth")
    rows: list[tuple[str, str]] = [("Sockets", f"{_sockets(status.sockets)} (all pods and the node itself)")]
    rows.append(("Node's own", _sockets(status.host_sockets)))
    if (memory := status.tcp_memory) is not None:
        limits = f"pressure above {memory.pressure:,}, connections reset above {memory.high:,}"
        rows.append(("TCP memory", f"{memory.pages:,} pages; {limits}"))
    if (orphans := status.orphans) is not None:
        rows.append(("Orphans", f"{orphans.count:,} of at most {orphans.maximum:,} sockets without a process"))
    if (conntrack := status.conntrack) is not None:
        failed = conntrack.insert_failed_per_second
        rows.append(
            (
                "Conntrack",
                f"{conntrack.entries:,} of at most {conntrack.maximum:,} entries"
                + (f", {format_count(failed)} inserts/s fail" if failed else ""),
            )
        )
    agent = status.agent
    beat = _ago(agent.heartbeat_time, now)
    rows.append(("Agent", f"version {printable(agent.version) or '?'}, last heartbeat {beat}"))
    failed_pods = f"; {counted(status.pods_failed, 'pod')} could not be read" if status.pods_failed else ""
    rows.append(("Pods", f"{counted(status.pods, 'pod')} read{failed_pods}"))
    parts += [Text(), _facts(rows)]
    if pods is not None:
        unwell = [one for one in sorted(pods, key=render.rank) if one.status.health != "Healthy"]
        parts += [Text(), render.summary(pods, "cluster")]
        if unwell:
            parts.append(render.overflowing(render.table(unwell, "cluster")))
    return Group(*parts)


def of_workload(
    title: str, items: Sequence[SocketHealth], unreported: Sequence[str], now: float, silences: Iterable[Silence] = ()
) -> RenderableType:
    """A workload: its pods worst first, then each different thing that is wrong, once.

    Args:
        title: kind, namespace and name.
        items: the SocketHealths of its pods.
        unreported: its pods that have none.
        now: epoch seconds.
        silences: of the nodes that its pods run on.
    """
    health: Health = min((one.status.health for one in items), key=render.HEALTH_ORDER.__getitem__, default="Unknown")
    ranked = sorted(items, key=render.rank)
    everything = [finding for item in ranked for finding in item.status.findings]
    parts: list[RenderableType] = [_headline(printable(title), "", health, everything, now)]
    parts += [_silent(one, printable(one.node), None, now) for one in silences]
    if ranked:
        parts += [Text(), render.overflowing(render.table(ranked, "cluster")), Text()]
        parts.append(render.summary(ranked, "cluster"))
    if unreported:
        names = ", ".join(printable(name) for name in unreported)
        parts.append(Text(f"Without a report: {names}.", style=render.STYLES["Unknown"], overflow="fold"))
    # Ten replicas of one bug are one bug: the pod that has it worst stands for them.
    seen: dict[tuple[str, str], list[tuple[SocketHealth, Finding]]] = {}
    for item in ranked:
        for finding in item.status.findings:
            seen.setdefault((finding.severity, finding.type), []).append((item, finding))
    for same in sorted(seen.values(), key=lambda pairs: render.severity_rank(pairs[0][1])):
        item, finding = max(same, key=lambda pair: pair[1].value)
        pods = ", ".join(printable(one.metadata.name) for one, _ in same[:5]) + (" ..." if len(same) > 5 else "")
        where = f"{counted(len(same), 'pod')}: {pods}"
        parts += [Text(), _finding(finding, now, "kubectl sockethealth", where=where)]
    if ranked and everything:
        first = ranked[0].metadata
        command = f"kubectl sockethealth pod {first.name} -n {first.namespace}"
        # A command is there to be copied, so it is never broken.
        parts += [Text(), Text(f"The story of one: {command}", no_wrap=True, overflow="ignore")]
    return Group(*parts)


def _body(item: SocketHealth, now: float, program: str) -> list[RenderableType]:
    status = item.status
    ports = status.ephemeral_ports
    waiting = status.time_wait
    parts = _findings(status.findings, status.evaluation, now, program)
    rows = [("Sockets", _sockets(status.sockets))]
    if waiting.inbound or waiting.outbound:
        closes = f", {format_count(waiting.closes_per_second)} closes/s" if waiting.closes_per_second else ""
        text = f"{waiting.outbound:,} outbound (hold ports), {waiting.inbound:,} inbound (harmless){closes}"
        rows.append(("TIME_WAIT", text))
    rows += [
        ("", f"{one.time_wait:,} from {printable(one.address)}, {format_count(one.closes_per_second)} closes/s")
        for one in waiting.sources
    ]
    rows += _close_wait(item)
    rates = _rates(status.rates)
    if rates:
        rows.append(("Per second", rates))
    if status.sysctls:
        rows.append(("Sysctls", ", ".join(f"{printable(k)}={printable(v)}" for k, v in sorted(status.sysctls.items()))))
    rows.append(("Local ports", _range(item)))
    parts += [Text(), _facts(rows)]
    if ports.destinations:
        names = {
            (finding.target.address, finding.target.port): finding.target.name
            for finding in status.findings
            if finding.target is not None and finding.target.name
        }
        parts += [Text(), _destinations(ports.destinations, names)]
    if status.listeners:
        parts += [Text(), _listeners(status.listeners)]
    # A fact is written when it changes: old facts of an agent that reports are still true.
    if parse_time(status.observed_time) > 0:
        parts += [Text(), Text(f"As of {status.observed_time} ({_ago(status.observed_time, now)}).", style="dim")]
    return parts


def _title(kind: str, what: str, item: SocketHealth, now: float) -> Text:
    return _headline(kind, what, item.status.health, item.status.findings, now)


def _headline(kind: str, what: str, health: Health, findings: Sequence[Finding], now: float) -> Text:
    since = min((parse_time(one.since) for one in findings if one.severity == health), default=None)
    lasting = f" for {format_duration(max(0.0, now - since))}" if since is not None else ""
    name = f"{kind} {what}".rstrip()
    return Text.assemble((name, "bold"), ": ", (health, render.STYLES[health]), lasting, overflow="fold")


def _silent(silence: Silence | None, node: str, observed: str | None, now: float) -> Text:
    if silence is None:
        sentence = "The operator calls it Unknown: the agent of its node was silent when it last looked."
    elif silence.since is None:
        sentence = f"The agent of node {node} has never reported: is its pod running?"
    else:
        sentence = f"The agent of node {node} is silent since {silence.since} ({_ago(silence.since, now)})."
    if observed is not None and parse_time(observed) > 0:
        sentence += f" What follows is what it said at {observed}; nothing raises or clears until it is back."
    return Text(sentence, style=render.STYLES["Unknown"], overflow="fold")


def _findings(
    findings: Sequence[Finding], states: Sequence[RuleState], now: float, program: str
) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for finding in findings:
        parts += [Text(), _finding(finding, now, program)]
    clearing = [state for state in states if state.state == "Clearing"]
    pending = [state for state in states if state.state == "Pending"]
    for word, some in (("holds, its `for` runs", pending), ("is over, its `clearAfter` runs", clearing)):
        parts += [
            Text(
                f"Rule {printable(state.rule)} of {printable(state.policy)}: the condition {word} "
                f"since {_ago(state.since, now)}.",
                style="dim",
                overflow="fold",
            )
            for state in some
        ]
    return parts


def _finding(finding: Finding, now: float, program: str, *, where: str = "", dated: bool = True) -> RenderableType:
    heading = Text.assemble(
        (finding.severity, render.STYLES[finding.severity]),
        (f"  {printable(finding.type)}", "bold"),
        f"  since {finding.since} ({_ago(finding.since, now)})" if dated else "",
        overflow="fold",
    )
    detector = DETECTORS.get(finding.type)
    unit = f" {detector.unit}" if detector else ""
    audit = ", Audit: no annotation, no Event" if finding.mode == "Audit" else ""
    rule = (
        f"{printable(finding.policy_kind)} {printable(finding.policy)}, rule {printable(finding.rule)}: "
        f"{format_count(finding.value)} against a threshold of {format_count(finding.threshold)}{unit}{audit}"
    )
    evidence = ", ".join(f"{printable(key)} {printable(value)}" for key, value in finding.evidence.items() if value)
    rows = [
        ("Where", where),
        ("What", render.sentence(printable(finding.message))),
        ("What helps", printable(finding.remedy)),
        ("Evidence", evidence),
        ("Rule", rule.strip()),
        ("More", f"{program} explain {printable(finding.type)}"),
    ]
    return Group(heading, _facts([(label, text) for label, text in rows if text]))


def _facts(rows: Iterable[tuple[str, str]]) -> RenderableType:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, min_width=_LABEL_WIDTH)
    grid.add_column(overflow="fold", max_width=render.TEXT_WIDTH)
    for label, text in rows:
        grid.add_row(Text(label, style="bold"), Text(text, overflow="fold"))
    return Padding(grid, (0, 0, 0, _INDENT), expand=False)


def _sockets(sockets: Sockets) -> str:
    counts = [(getattr(sockets, name), called) for name, called in _STATES.items()]
    return ", ".join(f"{count:,} {called}" for count, called in counts if count) or "none"


def _close_wait(item: SocketHealth) -> list[tuple[str, str]]:
    state = item.status.close_wait
    if not item.status.sockets.close_wait:
        return []
    unread = f", {state.receive_queue_bytes:,} bytes never read" if state.receive_queue_bytes else ""
    rows = [("CLOSE_WAIT", f"oldest at least {format_duration(state.oldest_seconds)}{unread}")]
    for owner in state.owners:
        where = f" in container {printable(owner.container)}" if owner.container else ""
        holder = f"{printable(owner.process)} (pid {owner.pid})" if owner.process else "a process"
        rows.append(("", f"{owner.count:,} held by {holder}{where}"))
    rows += [("", f"{peer.count:,} closed by {_place(peer.address, peer.port)}") for peer in state.peers]
    return rows


def _rates(rates: Rates) -> str:
    values = [(getattr(rates, name), called) for name, called in _RATES.items()]
    return ", ".join(f"{format_count(value)} {called}" for value, called in values if value)


def _range(item: SocketHealth) -> str:
    ports = item.status.ephemeral_ports
    taken = [
        f"{number:,} {why}" for number, why in ((ports.reserved, "reserved"), (ports.listening, "listening")) if number
    ]
    less = f" less {' and '.join(taken)}" if taken else ""
    return f"{ports.low}-{ports.high}{less}: {ports.usable:,} for each destination"


def _destinations(destinations: Sequence[Destination], names: Mapping[tuple[str, int], str]) -> RenderableType:
    columns = ("USED", "PERCENT", "TIME-WAIT", "CLOSES/S", "RUNS OUT IN")
    grid = _grid("DESTINATION", columns)
    for one in destinations:
        name = names.get((one.address, one.port))
        place = _place(one.address, one.port)
        grid.add_row(
            Text(f"{printable(name)} ({place})" if name else place, overflow="fold"),
            f"{one.used:,}",
            f"{one.used_percent:.1f}%",
            f"{one.time_wait:,}",
            format_count(one.closes_per_second),
            _outlook(one.seconds_to_exhaustion),
        )
    return Padding(grid, (0, 0, 0, _INDENT), expand=False)


def _outlook(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return "all taken" if seconds <= 0 else format_duration(seconds)


def _listeners(listeners: Sequence[Listener]) -> RenderableType:
    grid = _grid("LISTENER", ("WAITING", "BACKLOG", "HALF OPEN", "AT MOST", "PROCESS"))
    for one in listeners:
        overflowing = one.queue > one.backlog
        grid.add_row(
            Text(_place(one.address, one.port), overflow="fold"),
            Text(f"{one.queue:,}", style=render.STYLES["Critical"] if overflowing else ""),
            f"{one.backlog:,}",
            f"{one.syn_recv:,}",
            f"{one.syn_backlog:,}",
            Text(printable(one.process) or "-"),
        )
    return Padding(grid, (0, 0, 0, _INDENT), expand=False)


def _grid(first: str, others: Sequence[str]) -> Table:
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column(first, overflow="fold")
    for name in others:
        grid.add_column(name, justify="right", no_wrap=True)
    return grid


def _place(address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return printable(f"{host}:{port}" if port else host)


def _ago(time: str, now: float) -> str:
    seconds = now - parse_time(time)
    return f"{format_duration(max(0.0, seconds))} ago" if parse_time(time) > 0 else "never"
