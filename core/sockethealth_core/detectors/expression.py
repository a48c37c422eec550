"""Expression: a condition of one's own over the facts, in CEL (github.com/google/cel-spec).

The library is imported where it is needed: the node agent knows all detectors for their watchpoints, and must not
carry an interpreter it never uses.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

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
from sockethealth_core.resources import Facts, encode

if TYPE_CHECKING:
    import cel

MAXIMUM_LENGTH: Final = 1024
MAXIMUM_NESTING: Final = 2
"""Macros within macros. Lists of a status have at most 64 items, so two levels are at most some thousand steps."""

_STRINGS: Final = re.compile(r"""r?("([^"\\]|\\.)*"|'([^'\\]|\\.)*')""")
_MACRO_OR_BRACKET: Final = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(|\(|\)")


def check(parameters: Parameters) -> list[str]:
    """Sentences about an expression that cannot be used; empty when it is well."""
    text = parameters.get("expression", "")
    if not text.strip():
        return ['detector Expression needs parameters.expression, such as "status.sockets.synSent > 100"']
    if len(text) > MAXIMUM_LENGTH:
        return [f"parameter expression has {len(text)} characters: at most {MAXIMUM_LENGTH} are evaluated"]
    if _nesting(text) > MAXIMUM_NESTING:
        return [f"parameter expression nests all/exists/map/filter more than {MAXIMUM_NESTING} deep: write it flatter"]
    return [f"parameter expression {fault}" for fault in _faults_without_sockets(text)]


def _faults_without_sockets(text: str) -> Iterator[str]:
    try:
        _compile(text).execute({"status": encode(Facts())})
    except RuntimeError:
        yield "uses a name or function that does not exist: only status is known, such as status.sockets.timeWait"
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


def _nesting(text: str) -> int:
    depth = deepest = 0
    inside: list[bool] = []
    for found in _MACRO_OR_BRACKET.finditer(_STRINGS.sub("''", text)):
        if found.group() == ")":
            if inside:
                depth -= inside.pop()
            continue
        macro = found.group() != "("
        inside.append(macro)
        depth += macro
        deepest = max(deepest, depth)
    return deepest


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
