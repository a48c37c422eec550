"""Samples and incidents of reports with what a test cares about. Time is virtual: NOW and seconds after it."""

from collections.abc import Sequence

from sockethealth_cli.policies import default_rule_set
from sockethealth_cli.report import incident
from sockethealth_cli.report.timeline import Descriptors, Incident, Sample
from sockethealth_core.detectors import Subject
from sockethealth_core.resources import Facts
from unit.cli.builders import NOW, exhausted, leaking, quiet

POD = Subject("pod", "cart-1", "shop")
HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m\u202e&amp;\"'`${}"
"""A name that would be HTML, JavaScript, a terminal's escape or an attribute's end, were it not text."""


def sampled(facts: Sequence[Facts], step: float = 10.0, **fields) -> list[Sample]:
    return [Sample(NOW + index * step, one, **fields) for index, one in enumerate(facts)]


def of(facts: Sequence[Facts], step: float = 10.0, **fields) -> Incident:
    return incident.of_samples(POD, sampled(facts, step, **fields), default_rule_set().rules)


def running_out(calm: int = 6, trouble: int = 12) -> Incident:
    """Calm, then ports run out: the rule's `for` is 30 s."""
    return of([quiet()] * calm + [exhausted()] * trouble)


def hostile() -> Incident:
    facts = leaking(200, comm=HOSTILE)
    holder = Descriptors(HOSTILE, 4711, 300, 1024)
    return of([quiet(), *[facts] * 20], processes=(HOSTILE,), descriptors=(holder,))
