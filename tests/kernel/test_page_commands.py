"""What the pages say to type on a machine without a cluster, typed."""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import pages
from harness.images import REPOSITORY

pytestmark = pytest.mark.kernel

# A namespace `blue` that nobody else sees: this shell has a /run/netns of its own.
PRELUDE = """
mount -t tmpfs none /run/netns
ip netns add blue
page-someone() { false; }
"""
CHECKOUT = ("Makefile", "pyproject.toml", "requirements")


@functools.cache
def typed(script: str) -> "subprocess.CompletedProcess[str]":
    """What a script does in a checkout; pages that say the same are typed once."""
    with tempfile.TemporaryDirectory() as folder:
        for name in CHECKOUT:
            (Path(folder) / name).symlink_to(REPOSITORY / name)
        (Path(folder) / ".venv").symlink_to(sys.prefix)
        # `make setup` may not make the environment anew in which this runs.
        made = {"MAKEFLAGS": "--assume-old=.venv/.installed"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["unshare", "--mount", "bash", "-euo", "pipefail", "-c", PRELUDE + script],
            env={**os.environ, **made, "PATH": path},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


@pytest.fixture(autouse=True, scope="module")
def run_netns():
    """The folder over which the namespace's own is mounted; ip(8) makes it as well."""
    Path("/run/netns").mkdir(exist_ok=True)


@pytest.mark.parametrize("block", pages.that_run("machine"), ids=lambda block: f"{block.page}:{block.line}")
def test_the_commands_run(block):
    # Who runs these tests is root already.
    done = typed(block.script.replace("sudo ", ""))
    assert done.returncode == block.exit_code, done.stdout
    if block.prints_this:
        assert done.stdout == block.output
