import pytest

from sockethealth_cli.arguments import command_first

VALUED = {"-n", "--context"}


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        ([], ["list"]),
        (["-n", "shop"], ["list", "-n", "shop"]),
        (["--exit-code"], ["list", "--exit-code"]),
        (["pod", "web", "-n", "shop"], ["pod", "web", "-n", "shop"]),
        (["-n", "shop", "pod", "web"], ["pod", "-n", "shop", "web"]),
        (["-n", "pod"], ["list", "-n", "pod"]),
        (["--context=a", "node", "x"], ["node", "--context=a", "x"]),
        (["--context", "a", "-n", "b", "pod", "c"], ["pod", "--context", "a", "-n", "b", "c"]),
        (["--help"], ["--help"]),
        (["-h"], ["-h"]),
        (["--version"], ["--version"]),
        (["pod", "-h"], ["pod", "-h"]),
        (["pot", "web"], ["pot", "web"]),
    ],
)
def test_the_command_comes_first_and_nothing_else_moves(typed, ordered):
    assert command_first(typed, VALUED, "list") == ordered


def test_without_a_default_nothing_is_added():
    assert command_first([], VALUED, None) == []
