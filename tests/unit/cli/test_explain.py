import os
import pty
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sockethealth_cli.main import main
from sockethealth_cli.plugin import plugin
from sockethealth_core.detectors import DETECTORS

PROGRAM = Path(sys.executable).with_name("sockethealth")


def run(*arguments: str, program=main):
    return CliRunner().invoke(program, ["explain", *arguments])


def page(name: str) -> str:
    return (resources.files("sockethealth_cli") / "runbooks" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("program", [main, plugin])
@pytest.mark.parametrize("name", list(DETECTORS))
def test_every_finding_has_a_page_and_a_pipe_gets_it_as_it_is_written(name, program):
    result = run(name.lower(), program=program)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == page(name)


def test_without_a_name_every_finding_is_listed_with_its_summary():
    said = " ".join(run().stdout.split())
    for name, detector in DETECTORS.items():
        assert f"{name} {detector.summary}" in said


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("CloseWait", "CloseWaitLeak"),
        ("overfl", "AcceptQueueOverflow or TimeWaitTableOverflow"),
        ("timewait", "InboundTimeWait"),
        ("portexhaustion", "Ephemeral"),
    ],
)
def test_a_name_that_is_not_quite_right_is_answered_with_those_that_are(typed, near):
    result = run(typed)
    assert result.exit_code == 2
    assert f"no finding is called '{typed}': did you mean" in result.stderr
    assert near in result.stderr


def test_a_name_that_is_like_nothing_is_answered_with_where_they_are_listed():
    result = run("\x1b[31mxyz")
    assert result.exit_code == 2
    assert "lists them all" in result.stderr
    assert "\x1b" not in result.stderr


def test_names_are_completed_whatever_the_case():
    environment = {
        **os.environ,
        "_SOCKETHEALTH_COMPLETE": "bash_complete",
        "COMP_WORDS": "sockethealth explain closew",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plain,CloseWaitLeak"]


def test_a_terminal_gets_it_rendered_without_markdowns_signs():
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [PROGRAM, "explain", "CloseWaitLeak"], stdout=theirs, check=True, env={**os.environ, "TERM": "xterm"}
        )
        said = os.read(ours, 1 << 16).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert "What it means" in said
    assert "## " not in said
    assert "\x1b[" in said


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_page_for_a_program(form):
    shown = run("closewaitleak", "-o", form)
    told = yaml.safe_load(shown.stdout)
    assert (shown.exit_code, told["finding"]) == (0, "CloseWaitLeak")
    assert told["page"] == page("CloseWaitLeak")
    listed = yaml.safe_load(run("-o", form).stdout)["findings"]
    assert {one["finding"] for one in listed} == set(DETECTORS)
