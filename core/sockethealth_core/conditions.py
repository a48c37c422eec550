"""Conditions of a status, as ``metav1.Condition`` wants them kept."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sockethealth_core.resources import Condition
from sockethealth_core.units import format_time

MESSAGE_CHARACTERS: Final = 4096


class Statement(NamedTuple):
    """What a condition says: its type, whether it holds, and why as one CamelCase word and as sentences."""

    type: str
    holds: bool
    reason: str
    message: str


def stated(
    statements: Iterable[tuple[str, bool, str, str]],
    *,
    generation: int | None,
    previous: Sequence[Condition],
    now: float,
) -> list[Condition]:
    """Statements as conditions, sorted by type.

    Args:
        statements: each a :class:`Statement`, or a tuple like one.
        generation: ``metadata.generation`` of the object they speak of.
        previous: the object's conditions; ``lastTransitionTime`` is kept where the status stays.
        now: epoch seconds.
    """
    old = {condition.type: condition for condition in previous}
    return [_condition(Statement(*entry), old.get(entry[0]), generation, now) for entry in sorted(statements)]


def _condition(statement: Statement, old: Condition | None, generation: int | None, now: float) -> Condition:
    kept = old is not None and old.status == str(statement.holds)
    return Condition(
        type=statement.type,
        status="True" if statement.holds else "False",
        reason=statement.reason,
        message=statement.message[:MESSAGE_CHARACTERS],
        last_transition_time=old.last_transition_time if old and kept else format_time(now),
        observed_generation=generation,
    )
