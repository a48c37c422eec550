"""Samples of one namespace and the rules in force become the Incident that a page shows. Pure."""

from collections.abc import Sequence

from sockethealth_cli.report import changes, outlook
from sockethealth_cli.report.timeline import (
    Incident,
    Sample,
    Series,
    began,
    destinations_of,
    finding_spans,
    further_of,
    judge,
    queues_of,
    rates_of,
    states_of,
)
from sockethealth_core.detectors import Subject
from sockethealth_core.policy import CompiledRule


def of_samples(subject: Subject, samples: Sequence[Sample], rules: Sequence[CompiledRule]) -> Incident:
    """What happened.

    Args:
        subject: what messages call it.
        samples: at least one, in the order of time.
        rules: those in force; each `for` counts from the first sample on.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("an incident needs at least one sample")
    spans = finding_spans(judge(subject, samples, rules))
    worst = spans[0] if spans else None
    states, destinations = states_of(samples), destinations_of(samples)
    flows, troubles = rates_of(samples)
    queues, further = queues_of(samples), further_of(samples)
    compared = (*states, *destinations, *flows, *troubles, *queues[:1], *further)
    return Incident(
        subject=subject,
        times=tuple(one.at for one in samples),
        states=states,
        destinations=destinations,
        port_limit=Series(
            "ports.usable",
            "usable toward one destination",
            "ports",
            tuple(float(one.facts.ephemeral_ports.usable) for one in samples),
        ),
        flows=flows,
        troubles=troubles,
        queues=queues,
        further=further,
        findings=spans,
        changes=changes.of_samples(samples, compared, began(spans)),
        processes=tuple(dict.fromkeys(name for one in samples for name in one.processes)),
        descriptors=samples[-1].descriptors,
        outlook=None if worst is None else outlook.of_samples(worst, samples),
    )
