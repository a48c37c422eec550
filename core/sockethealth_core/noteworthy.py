"""Which pods are worth an object of their own where not every pod has one. Pure."""

from collections.abc import Iterable
from typing import Final

from sockethealth_core.crossings import Gauge, Values, reached
from sockethealth_core.resources import Facts

MANY_SOCKETS: Final = 1000
QUIET_SECONDS: Final = 600.0
"""A pod that has been below all of it for so long is not noteworthy any more."""


def noteworthy(facts: Facts, values: Values, by: Iterable[Gauge]) -> bool:
    """Whether a watched value is reached, as gauges read the facts, a queue overflows, or the pod has many sockets."""
    return (
        sum(getattr(facts.sockets, state) for state in facts.sockets.__struct_fields__) >= MANY_SOCKETS
        or any(listener.queue > listener.backlog > 0 for listener in facts.listeners)
        or reached(values, by)
    )
