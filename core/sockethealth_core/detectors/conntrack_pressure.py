"""ConntrackPressure: the node's connection tracking table is nearly full."""

from sockethealth_core.detectors.base import Advice, AnyFacts, DefaultRule, Detector, Parameters, Reading, Subject
from sockethealth_core.resources import NodeFacts
from sockethealth_core.units import format_count


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """Entries as percent of nf_conntrack_max; None where connection tracking is not loaded."""
    if not isinstance(facts, NodeFacts) or facts.conntrack is None or facts.conntrack.maximum <= 0:
        return None
    table = facts.conntrack
    evidence = {
        "entries": str(table.entries),
        "maximum": str(table.maximum),
        "insertFailedPerSecond": f"{table.insert_failed_per_second:.2f}",
    }
    return Reading(100 * table.entries / table.maximum, evidence=evidence)


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:  # noqa: ARG001 (the detector's signature)
    """Say what is dropped when it is full, and what a failing insert means."""
    entries, maximum = (format_count(float(reading.evidence.get(key, "0"))) for key in ("entries", "maximum"))
    failing = float(reading.evidence.get("insertFailedPerSecond", "0"))
    inserts = (
        f" {format_count(failing)} inserts/s fail: masqueraded egress runs out of source ports on the node, while the "
        "pods' own ports look fine."
        if failing > 0
        else ""
    )
    return Advice(
        f"{subject} tracks {entries} of at most {maximum} connections ({reading.value:.0f}%); when the table is full, "
        f"new connections of every pod are dropped.{inserts}",
        "Find who makes them (`conntrack -L` by source), mostly a client without keep-alive: pool its connections. "
        "Then raise net.netfilter.nf_conntrack_max, at about 320 bytes an entry.",
    )


DETECTOR = Detector(
    name="ConntrackPressure",
    summary="The node's connection tracking table is nearly full.",
    unit="conntrack entries as percent of the maximum",
    scope="node",
    defaults=(DefaultRule("conntrack", 80, 70, "1m", "Warning"),),
    measure=measure,
    advise=advise,
)
