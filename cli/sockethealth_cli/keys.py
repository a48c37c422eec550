"""Keys of a terminal: bytes to names (pure), and a terminal that gives them without Enter and is put back."""

import os
import re
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_NAMES: Final = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x03": "interrupt",
    "\x1a": "suspend",
    "\x1b": "escape",
}
# What follows ESC: CSI or, in application mode, SS3 (ECMA-48; xterm's ctlseqs, "PC-Style Function Keys").
_SEQUENCES: Final = {
    "A": "up",
    "B": "down",
    "H": "home",
    "F": "end",
    "1~": "home",
    "7~": "home",
    "4~": "end",
    "8~": "end",
    "5~": "pageup",
    "6~": "pagedown",
}
_KEY: Final = re.compile(r"\x1b[\[O]([0-9;]*[A-Za-z~])|(.)", re.DOTALL)


def names_of(data: bytes) -> list[str]:
    """The keys in what one read of a terminal gave: characters, and names such as ``up``; unknown ones are left out."""
    keys = []
    for sequence, character in _KEY.findall(data.decode("utf-8", "replace")):
        key = _SEQUENCES.get(sequence) if sequence else _NAMES.get(character, character)
        if key is not None and (len(key) > 1 or key.isprintable()):
            keys.append(key)
    return keys


@contextmanager
def unbuffered(terminal: int) -> Iterator[None]:
    """Keys at once and unechoed, Ctrl-C and Ctrl-Z as keys; the terminal is as before afterwards, come what may.

    Raises:
        termios.error: the file descriptor is no terminal.
    """
    before = termios.tcgetattr(terminal)
    changed = termios.tcgetattr(terminal)
    changed[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    termios.tcsetattr(terminal, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def woken_by_signals() -> Iterator[int]:
    """A descriptor that becomes readable when the terminal's size changes; SIGTERM and SIGHUP unwind the stack."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    # Only signals with a handler of Python's own are written to the wakeup descriptor.
    before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: None)
    wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield read_end
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_end)
        os.close(write_end)
