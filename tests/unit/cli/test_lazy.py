"""Commands that are loaded when they are used."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from sockethealth_cli.lazy import LazyGroup
from sockethealth_cli.main import main
from sockethealth_cli.plugin import plugin


@pytest.mark.parametrize("program", [main, plugin])
def test_every_command_is_listed_with_its_help_and_can_be_loaded(program):
    context = click.Context(program)
    names = program.list_commands(context)
    shown = CliRunner().invoke(program, ["--help"])
    assert shown.exit_code == 0
    for name in names:
        assert program.get_command(context, name).name == name
        assert f"\n  {name} " in shown.output
    assert program.get_command(context, "nothing") is None


def test_what_is_no_command_is_a_fault_of_ours():
    group = LazyGroup("tool", elsewhere={"broken": "sockethealth_cli.lazy:Mapping"})
    with pytest.raises(TypeError, match="Mapping is no command of click"):
        group.get_command(click.Context(group), "broken")


def test_to_show_the_version_loads_neither_netlink_nor_the_kubernetes_client():
    program = "import sys, sockethealth_cli.main; print(*{'pyroute2', 'kubernetes', 'rich'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == ""
