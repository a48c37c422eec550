"""Command lines of the pages that no test types as they stand: the program takes them, and the test named has them."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

import pages
from pages import ROOT
from sockethealth_cli.main import main
from sockethealth_cli.plugin import plugin

BLOCKS = [block for page in pages.PAGES for block in pages.blocks(page) if block.tested_by]
PROGRAMS = {("sockethealth",): main, ("kubectl", "sockethealth"): plugin}
TOOLS = {"docker", "kubectl", "helm", "make", "pip", "pre-commit"}
SHELL = set("|&;()<>")


def lines(script: str) -> Iterator[list[str]]:
    """Commands of a script as words, without sudo, the program's folder and what is done with its output."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if not SHELL.issuperset(word):
                command.append(word)
            elif command:
                yield plain(command)
                command = []


def plain(command: list[str]) -> list[str]:
    words = command[1:] if command[0] == "sudo" else command
    return [words[0].removeprefix(".venv/bin/"), *words[1:]]


@dataclass(frozen=True)
class Ours:
    """A command of this project as a page has it, with the arguments of the whole program."""

    program: click.Group
    command: click.Command
    arguments: list[str]

    def options(self) -> Iterator[set[str]]:
        """All names of each option that is given."""
        for word in self.arguments:
            for parameter in self.command.params:
                if word.partition("=")[0] in parameter.opts:
                    yield set(parameter.opts)


def ours(words: list[str]) -> Ours | None:
    """The command of this project that is run, if it is one."""
    for prefix, program in PROGRAMS.items():
        if tuple(words[: len(prefix)]) == prefix:
            context, arguments = click.Context(program), words[len(prefix) :]
            name = next(word for word in arguments if word in program.list_commands(context))
            command = program.get_command(context, name)
            assert command is not None
            return Ours(program, command, arguments)
    return None


COMMANDS = [(block, words) for block in BLOCKS for words in lines(block.script)]
each_command = pytest.mark.parametrize(
    ("block", "words"), COMMANDS, ids=[f"{block.page}: {' '.join(words[:4])}" for block, words in COMMANDS]
)
OURS = [(block, found) for block, words in COMMANDS if (found := ours(words))]
each_of_ours = pytest.mark.parametrize(
    ("block", "command"), OURS, ids=[f"{block.page}: {' '.join(found.arguments[:4])}" for block, found in OURS]
)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sudo sockethealth top > top.txt", [["sockethealth", "top"], ["top.txt"]]),
        (
            'docker build -t "$REPOSITORY:1" . && docker push x',
            [["docker", "build", "-t", "$REPOSITORY:1", "."], ["docker", "push", "x"]],
        ),
        ("helm install a \\\n  --set b=c  # words", [["helm", "install", "a", "--set", "b=c"]]),
    ],
)
def test_a_script_is_read_as_a_shell_reads_it(script, words):
    assert list(lines(script)) == words


@each_command
def test_every_command_is_of_a_known_program(block, words):
    assert ours(words) or words[0] in TOOLS, f"{block.page}:{block.line}: what is {words[0]}?"


@each_of_ours
def test_the_program_takes_the_command_line(block, command, monkeypatch):
    taken: list[Mapping[str, Any]] = []
    monkeypatch.setattr(command.command, "callback", lambda **options: taken.append(options))
    done = CliRunner().invoke(command.program, command.arguments)
    assert done.exit_code == 0, f"{block.page}:{block.line}: {done.output}"
    assert taken or "--help" in command.arguments


@each_of_ours
def test_the_tests_named_run_the_command_with_its_options(block, command):
    sources = [(ROOT / name).read_text(encoding="utf-8") for name in block.tested_by]
    for names in [{command.command.name}, *command.options()]:
        quoted = re.compile(rf"[\"' ]({'|'.join(map(re.escape, names))})[\"' =,]")
        assert any(map(quoted.search, sources)), f"{block.page}:{block.line}: none of {names} in {block.tested_by}"


@each_command
def test_a_target_of_make_exists(block, words):
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in words[1:]:
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{block.page}: no target {target}"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_value_that_a_page_sets_is_one_of_the_charts(page):
    values = yaml.safe_load((ROOT / "charts/sockethealth/values.yaml").read_text(encoding="utf-8"))
    for name in re.findall(r"--set(?:-string)? ([\w.]+)=", page.read_text(encoding="utf-8")):
        found: Any = values
        for key in name.split("."):
            assert key in found, f"{page.name}: the chart has no value {name}"
            found = found[key]
