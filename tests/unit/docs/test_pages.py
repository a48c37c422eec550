"""Pages are whole: what they link to exists, what they tell people to type is run by a test, the site builds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pages
from pages import PAGES, ROOT

COMMANDS = ("sh", "console")
LANGUAGES = {*COMMANDS, "text", "yaml", "json", "python", "promql", "{toctree}"}
RUNBOOKS = ROOT / "docs" / "runbooks"
"""Their `sh` blocks have a test of their own, tests/kernel/test_runbook_commands.py."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if RUNBOOKS not in page.parents], ids=name)
def test_every_block_of_commands_says_who_runs_it(page):
    for block in pages.blocks(page):
        place = f"{block.page}:{block.line}"
        assert block.language in LANGUAGES, f"{place}: what is in this block? {block.language!r}"
        if block.language in COMMANDS:
            assert block.runs in pages.PLACES or block.tested_by, f"{place}: nobody runs this"
        for file in block.tested_by:
            assert (ROOT / file).is_file(), f"{place}: {file} is not there"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)} links to {target}, which is not there"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name(page)} links to {target}, and there is no such heading"


def anchors(page: Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_site_and_it_builds_without_a_warning(tmp_path):
    arguments = ["-W", "--keep-going", "-q", "-b", "dummy", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
