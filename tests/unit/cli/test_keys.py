import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_cli.keys import names_of


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"q", ["q"]),
        (b"PC", ["P", "C"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA", ["up"]),
        (b"\x1b[5~\x1b[6~", ["pageup", "pagedown"]),
        (b"\x1b[H\x1b[4~", ["home", "end"]),
        (b"\r", ["enter"]),
        (b"\x1b", ["escape"]),
        (b"\x7f", ["backspace"]),
        (b"\x03", ["interrupt"]),
        (b"\x1a", ["suspend"]),
        (b" ", [" "]),
        (b"\x1b[1;5C", []),
        (b"\x01\x02", []),
        ("é".encode(), ["é"]),
    ],
)
def test_bytes_of_a_terminal_are_keys(data, names):
    assert names_of(data) == names


@given(st.binary(max_size=64))
def test_whatever_a_terminal_sends_is_keys_or_nothing(data):
    assert all(len(name) > 1 or name.isprintable() for name in names_of(data))
