"""What a CEL expression can cost at most, found from its text alone, before it is ever evaluated.

Whoever may write a policy in a namespace of their own has the operator evaluate it, and the interpreter cannot be
interrupted. CEL always ends, but not soon: macros within macros multiply, a chain of map() doubles a text with each
link, and matches() compiles its pattern each time. So what multiplies is bounded here.

Tokens are those of the language definition (github.com/google/cel-spec, doc/langdef.md, "Syntax"). Text that is none
is counted as code, which errs on the side of dear; the interpreter refuses it by itself.
"""

import re
from dataclasses import dataclass
from typing import Final

STATUS_ITEMS: Final = 32
"""Most entries of a list or map of a status: the lists have at most 16, and its sysctls are fewer than this."""

_WORDS_OF_A_STEP: Final = 32
"""What is within a macro is evaluated for each item: the more there is, the more a step is."""
_MACROS: Final = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter"})

_TOKEN: Final = re.compile(
    r"""
    (?P<skipped>\s+|//[^\n]*)
    |(?P<string>
        (?:[rR][bB]?|[bB][rR])(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n\r]*"|'[^'\n\r]*')
        |[bB]?(?:\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}(?:[^\\]|\\.)*?'{3}|"(?:[^"\\\n\r]|\\.)*"|'(?:[^'\\\n\r]|\\.)*')
    )
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_RAW: Final = re.compile(r"[bB]?[rR]")
_HIDDEN: Final = re.compile(r"\\[xXuU0-3]")
_BRACES: Final = re.compile(r"(?P<named>\\[pPxuU])?\{(?P<counts>[^}]*)")
_COUNTS: Final = re.compile(r"\s*([0-9]+)\s*(?:,\s*([0-9]*)\s*)?")

_MATCH_STEPS: Final = 4
_CLASS_STEPS: Final = 50
"""Some 240 us to compile one Unicode class such as \\w, and 5 us for a step of some length; measured."""
_UNREADABLE_COUNT: Final = 1000
"""The interpreter's patterns may have blanks and comments within braces; who writes that there pays for it."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an expression multiplies.

    Attributes:
        nesting: macros within macros, at the deepest.
        steps: times that the innermost part is evaluated, or as much work, at most.
        faults: what cannot be bounded, as the end of a sentence about the expression.
    """

    nesting: int
    steps: int
    faults: tuple[str, ...]


def cost_of(text: str) -> Cost:
    """The most that an expression can cost over any status."""
    tokens = [found for found in _TOKEN.finditer(text) if found.lastgroup != "skipped"]
    words = [found.group() for found in tokens]
    nesting, maps = _macros(words)
    items = max(STATUS_ITEMS, words.count(",") + 1)
    # A map() puts what it is given into each item as often as its body names it: once for each + or comma, and once.
    growth = 1 + words.count("+") + words.count(",")
    patterns, faults = _patterns(tokens)
    size = 1 + len(words) // _WORDS_OF_A_STEP
    steps = items**nesting * growth**maps * (size + sum(map(_compiling, patterns)))
    return Cost(nesting, steps, faults)


def _macros(words: list[str]) -> tuple[int, int]:
    """How deep macros nest, and how many of them are map()."""
    depth = deepest = maps = 0
    inside: list[bool] = []
    for index, word in enumerate(words):
        if word == ")" and inside:
            depth -= inside.pop()
        elif word == "(":
            macro = index > 0 and words[index - 1] in _MACROS
            maps += macro and words[index - 1] == "map"
            inside.append(macro)
            depth += macro
            deepest = max(deepest, depth)
    return deepest, maps


def _patterns(tokens: list[re.Match[str]]) -> tuple[list[str], tuple[str, ...]]:
    """The patterns of matches(), as they are written, and what is wrong with them."""
    found: list[str] = []
    for index, token in enumerate(tokens):
        if token.group() != "matches":
            continue
        following = tokens[index + 1 : index + 4]
        if [one.group() for one in following[::2]] != ["(", ")"] or following[1].lastgroup != "string":
            return [], ('calls matches with other than one text: write it as in name.matches("^java")',)
        pattern = following[1].group()
        if not _RAW.match(pattern) and _HIDDEN.search(pattern):
            return [], ("has a pattern with a character by its number: write the character",)
        found.append(pattern)
    return found, ()


def _compiling(pattern: str) -> int:
    backslashes = pattern.count("\\")
    classes = backslashes if _RAW.match(pattern) else (backslashes + 1) // 2
    return _MATCH_STEPS + (len(pattern) + _CLASS_STEPS * classes) * _repeated(pattern)


def _repeated(pattern: str) -> int:
    """How often the most repeated part of a pattern may be compiled, as {n} and {n,m} are written out."""
    product = 1
    for braces in _BRACES.finditer(pattern):
        if braces["named"]:
            continue
        counts = _COUNTS.fullmatch(braces["counts"])
        product *= max((int(one) for one in counts.groups() if one), default=1) if counts else _UNREADABLE_COUNT
    return product
