"""What runs outside of this machine, at a commit and in a public CI, calls what is there."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from pages import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
RUN = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_runs_a_program_of_the_locked_environment_on_files_that_are_there(hook):
    program, *arguments = shlex.split(hook["entry"])
    assert (Path(sys.prefix) / "bin" / program.removeprefix(".venv/bin/")).is_file()
    for argument in arguments:
        assert "/" not in argument or (ROOT / argument).is_file()


def test_hooks_do_what_make_lint_does():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert lint
    hooked = " ".join(hook["entry"] for hook in HOOKS)
    for command in re.findall(r"\$\(BIN\)/([\w-]+(?: [a-z]+)?)", lint[1]):
        assert command in hooked


@pytest.mark.parametrize("command", RUN)
def test_the_public_ci_runs_what_is_there(command):
    program, *arguments = shlex.split(command)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in arguments)
    else:
        assert program == "apt-get" or (ROOT / program).is_file()


def test_the_public_ci_can_make_namespaces_and_does_all_that_a_clean_clone_does():
    job = next(job for job in WORKFLOW["jobs"].values() if ".ci/run" in [step.get("run") for step in job["steps"]])
    assert "--privileged" in job["container"]["options"]
    assert job["timeout-minutes"] >= 90
