"""The runbook pages that come with the package, one for each finding."""

from difflib import get_close_matches
from importlib import resources
from typing import Final

from sockethealth_core.detectors import DETECTORS

_HOW_MANY: Final = 3


class UnknownFindingError(Exception):
    """No finding is called so; the text is a sentence with those that are called nearly so."""


def named(text: str) -> str:
    """The name of a finding, whatever its case.

    Raises:
        UnknownFindingError: there is none.
    """
    by_lower: dict[str, str] = {name.lower(): name for name in DETECTORS}
    if (found := by_lower.get(text.lower())) is not None:
        return found
    part_of = [name for name in by_lower if text.lower() in name]
    alike = get_close_matches(text.lower(), by_lower, _HOW_MANY, 0.5)
    close = [by_lower[name] for name in dict.fromkeys([*part_of, *alike])][:_HOW_MANY]
    hint = f"did you mean {' or '.join(close)}?" if close else "`explain` without a name lists them all."
    raise UnknownFindingError(f"no finding is called '{text}': {hint}")


def page(name: str) -> str:
    """The Markdown of a finding's runbook.

    Raises:
        FileNotFoundError: this installation lacks the page.
    """
    folder = resources.files("sockethealth_cli") / "runbooks"
    return (folder / f"{name}.md").read_text(encoding="utf-8")


def summaries() -> dict[str, str]:
    """What each finding is about, in a line, by its name."""
    return {name: detector.summary for name, detector in DETECTORS.items()}
