"""What the pages say to type on a machine without a cluster, typed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pages

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("block", pages.that_run("machine"), ids=lambda block: f"{block.page}:{block.line}")
def test_the_commands_run(block, tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        env={**os.environ, "PATH": path},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == block.exit_code, done.stderr
