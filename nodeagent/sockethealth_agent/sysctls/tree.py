"""Read and write net.* sysctls of the network namespace the calling thread is in: the last line of defence.

/proc/sys/net shows the namespace of the thread that looks a name up (fs/proc/proc_sysctl.c, net/sysctl_net.c), also
through a bind mount of it. A name leads to a path only through the compiled-in table, and a value to a write only
through its rules, whoever asks.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sockethealth_agent.sysctls.disk import Disk
from sockethealth_core.resources import ProfileTarget
from sockethealth_core.sysctl_rules import refusal
from sockethealth_core.sysctls import canonical, path_of

LONGEST_WRITE: Final = 4095
"""What the kernel takes of a list of ports in one write (proc_do_large_bitmap in kernel/sysctl.c)."""
_LONGEST_READ: Final = 256 * 1024
"""A list of every second port; the kernel gives all of it to the first read only."""
_ABSENT: Final = {errno.ENOENT, errno.ENOTDIR}


class TreeError(Exception):
    """A sysctl that could not be read or written; the text is a sentence with its name."""


class Tree:
    """The sysctls below a root such as /proc/sys/net."""

    def __init__(self, disk: Disk | None = None) -> None:
        """Opens nothing; disk is how to reach files."""
        self._disk = disk or Disk()

    def read(self, root: Path, name: str) -> str | None:
        """The value in force, in its canonical form; None where this kernel does not have it.

        Raises:
            TreeError: it cannot be read, or is no value of its kind.
            ValueError: the table has no such name.
        """
        path = path_of(name)
        try:
            with self._opened(root, path, os.O_RDONLY) as file:
                text = self._disk.read(file, _LONGEST_READ).decode("ascii", errors="replace")
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise TreeError(f"{name} cannot be read: {error.strerror}") from error
        try:
            return canonical(name, text)
        except ValueError as error:
            raise TreeError(f"{name} is in force with a value that is not understood: {error}") from error

    def write(self, root: Path, name: str, value: str, target: ProfileTarget) -> None:
        """Write a value that a profile asks for; it is to be read back.

        Raises:
            TreeError: it is refused, by the rules or by the kernel.
            ValueError: the table has no such name.
        """
        if sentence := refusal(name, value, target):
            raise TreeError(sentence)
        self._write(root, name, value)

    def put_back(self, root: Path, name: str, value: str) -> None:
        """Write a value that was found, which may lie outside of the bounds of profiles; it is to be read back.

        Raises:
            TreeError: the kernel refuses it.
            ValueError: the table has no such name, or it is no value of its kind.
        """
        self._write(root, name, value)

    def _write(self, root: Path, name: str, value: str) -> None:
        path = path_of(name)
        # A line end, because an empty list is written by an empty line and not by nothing.
        data = (canonical(name, value) + "\n").encode("ascii")
        if len(data) > LONGEST_WRITE:
            raise TreeError(f"{name} cannot be written: its value of {len(data)} bytes is too long for one write")
        try:
            with self._opened(root, path, os.O_WRONLY) as file:
                taken = self._disk.write(file, data)
        except OSError as error:
            raise TreeError(f"the kernel refuses {name} = '{value}': {error.strerror}") from error
        if taken != len(data):
            raise TreeError(f"the kernel took only {taken} of {len(data)} bytes of {name} = '{value}'")

    @contextmanager
    def _opened(self, root: Path, path: str, flags: int) -> Iterator[int]:
        # One name after the other, none of them through a link, and nothing is ever made or cut short.
        *folders, last = path.split("/")
        opened = [self._disk.open(str(root), os.O_RDONLY | os.O_DIRECTORY)]
        try:
            for folder in folders:
                opened.append(self._disk.open(folder, os.O_RDONLY | os.O_DIRECTORY, folder=opened[-1]))
            opened.append(self._disk.open(last, flags, folder=opened[-1]))
            yield opened[-1]
        finally:
            for one in reversed(opened):
                self._disk.close(one)
