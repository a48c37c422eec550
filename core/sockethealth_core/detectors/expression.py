"""Expression: a condition of one's own over the facts, in CEL (github.com/google/cel-spec).

The library is imported where it is needed: the node agent knows all detectors for their watchpoints, and must not
carry an interpreter it never uses.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from sockethealth_core.detectors.base import (
    Advice,
    AnyFacts,
    DefaultRule,
    Detector,
    MeasureError,
    Parameters,
    Reading,
    Subject,
)
from sockethealth_core.detectors.expression_cost import STATUS_ITEMS, cost_of
from sockethealth_core.resources import Facts, encode

if TYPE_CHECKING:
    import cel

MAXIMUM_LENGTH: Final = 1024
MAXIMUM_NESTING: Final = 2
"""Macros within macros."""
MAXIMUM_STEPS: Final = 20_000
"""See expression_cost.Cost; a fifth of a second at the very most, where each step is as long as a text may be."""
MAXIMUM_FACTS_BYTES: Final = 16_384
"""Of facts as JSON; an agent's are some 2 KiB. What an expression costs at most is counted for no more than this."""
_TRIED_STEPS: Final = 1_000
"""Expressions of more are not tried out beforehand: a policy can hold many, and be changed all the time."""

_TOO_DEAR: Final = (
    "takes too many steps: use fewer of all/exists/map/filter within or after one another, shorter lists, and simpler "
    "patterns in matches"
)


def check(parameters: Parameters) -> list[str]:
    """Sentences about an expression that cannot be used; empty when it is well."""
    text = parameters.get("expression", "")
    if not text.strip():
        return ['detector Expression needs parameters.expression, such as "status.sockets.synSent > 100"']
    if len(text) > MAXIMUM_LENGTH:
        return [f"parameter expression has {len(text)} characters: at most {MAXIMUM_LENGTH} are evaluated"]
    cost = cost_of(text)
    if cost.nesting > MAXIMUM_NESTING:
        return [f"parameter expression nests all/exists/map/filter more than {MAXIMUM_NESTING} deep: write it flatter"]
    if cost.faults:
        return [f"parameter expression {fault}" for fault in cost.faults]
    if cost.steps > MAXIMUM_STEPS:
        return [f"parameter expression {_TOO_DEAR}"]
    found = _faults_without_sockets(text, tried=cost.steps <= _TRIED_STEPS)
    return [f"parameter expression {fault}" for fault in found]


def steps_of(parameters: Parameters) -> int:
    """Steps that one evaluation of a rule costs at most; 1 for a detector without an expression."""
    text = parameters.get("expression")
    return 1 if text is None else cost_of(text[:MAXIMUM_LENGTH]).steps


def _faults_without_sockets(text: str, *, tried: bool) -> Iterator[str]:
    try:
        program = _compile(text)
        if tried:
            program.execute({"status": encode(Facts())})
    except RuntimeError as error:
        if "Undefined" in str(error):
            yield "uses a name or function that does not exist: only status is known, such as status.sockets.timeWait"
        else:
            yield f"cannot be evaluated: {_one_line(error)}"
    except ValueError as error:
        yield f"is not CEL: {_one_line(error)}"
    except (ArithmeticError, LookupError, TypeError):
        # It may well work where there are sockets; if it does not, measure() says so.
        return


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:
    """1 when the condition holds, else 0.

    Raises:
        MeasureError: when it cannot be evaluated over these facts, or is no boolean.
    """
    if not isinstance(facts, Facts):
        return None
    text = parameters["expression"]
    if len(facts.sysctls) > STATUS_ITEMS or len(msgspec.json.encode(facts)) > MAXIMUM_FACTS_BYTES:
        raise MeasureError(
            f'expression "{text}" is not evaluated: the status is larger than any that an agent writes, with more than '
            f"{STATUS_ITEMS} sysctls or {MAXIMUM_FACTS_BYTES} bytes; see who has written it"
        )
    try:
        result = _compile(text).execute({"status": encode(facts)})
    # The library answers with the Python error nearest to CEL's: key, type, value, zero division, overflow.
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        fault = f"{type(error).__name__} {_one_line(error)}"
        raise MeasureError(f'expression "{text}" cannot be evaluated: {fault}') from error
    if not isinstance(result, bool):
        kind = type(result).__name__
        raise MeasureError(f'expression "{text}" gives {kind} instead of true or false: compare with something')
    return Reading(float(result), evidence={"expression": text})


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:  # noqa: ARG001 (the detector's signature)
    """Say which condition holds; what to do is known to whoever wrote it."""
    return Advice(
        f"{subject} meets the condition of a policy: {reading.evidence.get('expression', '')}",
        "See who wrote the policy, and the facts in the object's status.",
    )


@lru_cache(maxsize=256)
def _compile(text: str) -> "cel.Program":
    import cel  # noqa: PLC0415 (see the module's docstring)

    return cel.compile(text)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


DETECTOR = Detector(
    name="Expression",
    summary="A condition of one's own over the facts, in CEL.",
    unit="1 when parameters.expression holds over status, else 0",
    scope="pod",
    defaults=(),
    fallback=DefaultRule("expression", 1, 1, "2m", "Warning"),
    measure=measure,
    advise=advise,
    check=check,
)
