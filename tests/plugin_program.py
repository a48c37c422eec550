"""`kubectl sockethealth` as tests call it: in this process, because a new one takes half a second to start."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from sockethealth_cli.plugin import plugin

_PROGRAM = str(Path(sys.executable).with_name("kubectl-sockethealth"))
_COLUMNS = {"COLUMNS": "100"}


def run(*arguments: str, kubeconfig: Path | str) -> "subprocess.CompletedProcess[str]":
    """Run a command; what it printed, and its exit code. A fault of the program is raised as it is."""
    argv = [*arguments, "--kubeconfig", str(kubeconfig)]
    done = CliRunner().invoke(plugin, argv, prog_name="kubectl sockethealth", env=_COLUMNS)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(argv, done.exit_code, done.stdout, done.stderr)


def run_as_installed(*arguments: str, kubeconfig: Path | str) -> "subprocess.CompletedProcess[str]":
    """The same with the installed program, in a process of its own."""
    argv = [_PROGRAM, *arguments, "--kubeconfig", str(kubeconfig)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ | _COLUMNS)
