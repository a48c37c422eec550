"""The tree keeps its promises."""

import operator
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_folder_operator_does_not_shadow_pythons_operator():
    assert not (ROOT / "operator" / "__init__.py").exists()
    script = "import operator; print(operator.itemgetter(0)('ab'), operator.__spec__.origin)"
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["a", str(operator.__spec__.origin)]


def test_derived_files_are_what_the_code_says():
    result = subprocess.run(
        [sys.executable, "tools/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
