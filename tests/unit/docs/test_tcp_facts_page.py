"""docs/tcp-facts.md and the tests that show its facts name each other's."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_names_every_test_and_no_other():
    page = (ROOT / "docs" / "tcp-facts.md").read_text(encoding="utf-8")
    tests = (ROOT / "tests" / "kernel" / "test_tcp_facts.py").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named == set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
