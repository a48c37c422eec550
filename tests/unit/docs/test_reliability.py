"""docs/reliability.md: every row is a test that is there, with what was seen."""

import ast
import re

import pytest

from pages import ROOT

PAGE = ROOT / "docs" / "reliability.md"
ROWS = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|") and "`tests/" in line]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`(tests/[^`]+)`", row)})


@pytest.mark.parametrize("name", NAMED)
def test_the_test_of_a_row_is_there(name):
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert not function or function in functions
    assert any(one.startswith("test_") for one in functions)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_a_row_says_what_was_injected_what_survived_and_what_was_seen(row):
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 4
    assert all(cells)


@pytest.mark.parametrize(
    "file", sorted({str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "faults").glob("test_*.py")})
)
def test_every_fault_of_the_lane_is_told_of(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    told = {name.partition("::")[2] for name in NAMED if name.startswith(f"{file}::")}
    assert tests - told <= {"test_at_the_end_nothing_is_left_over"}
