"""The documentation's pages as tests read them: which blocks of commands there are, and who runs them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PLACES = ("machine", "objects", "cluster", "cluster, last")
"""Where blocks are typed: on this machine, at an API server with the pages' objects, in a cluster with a node."""
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file, relative to the repository.
        language: what stands behind the fence.
        mark: the comment on the line above: ``run: WHERE`` or ``tested by: FILE...``; empty without one.
        text: what is in it.
        line: where it begins.
    """

    page: str
    language: str
    mark: str
    text: str
    line: int

    @property
    def runs(self) -> str:
        """Which of PLACES the block is run in as it stands; empty if in none."""
        return self.mark.removeprefix("run: ").partition(";")[0] if self.mark.startswith("run: ") else ""

    @property
    def exit_code(self) -> int:
        """What the block must end with."""
        found = re.search(r"; exit code (\d+)$", self.mark)
        return int(found[1]) if found else 0

    @property
    def prints_this(self) -> bool:
        """Whether the commands must print what the block shows, to the letter."""
        return "; prints this" in self.mark

    @property
    def tested_by(self) -> list[str]:
        """The files that run what is in it."""
        return self.mark.removeprefix("tested by: ").split() if self.mark.startswith("tested by: ") else []

    @property
    def script(self) -> str:
        """What is typed: all of it, or in a console what stands behind the prompt, with the lines it goes on in."""
        if self.language != "console":
            return self.text
        return "".join(command for command, _ in self._console())

    @property
    def output(self) -> str:
        """What a console shows below its commands; of other blocks nothing."""
        return "".join(shown for _, shown in self._console()) if self.language == "console" else ""

    def _console(self) -> Iterator[tuple[str, str]]:
        """Each command with what is shown below it."""
        lines = self.text.splitlines(keepends=True)
        while lines:
            command = lines.pop(0).removeprefix(_PROMPT)
            while command.endswith("\\\n"):
                command += lines.pop(0)
            shown = ""
            while lines and not lines[0].startswith(_PROMPT):
                shown += lines.pop(0)
            yield command, shown


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield Block(
            page=str(page.relative_to(ROOT)),
            language=found["language"],
            mark=found["mark"] or "",
            text=found["text"],
            line=text.count("\n", 0, found.start()) + 1,
        )


def that_run(where: str) -> list[Block]:
    """All blocks that are run somewhere, by page and in order."""
    return [block for page in PAGES for block in blocks(page) if block.runs == where]
