"""What was found before the first write, kept where neither a crash nor a restart of the container loses it.

One JSON file a network namespace. A file is replaced as a whole: written beside, fsync, rename, fsync of the folder
(rename(2), fsync(2)), so that after a crash it is the old one or the new one.
"""

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from sockethealth_agent.sysctls.disk import Disk
from sockethealth_core.sysctl_plan import Record

LOG = logging.getLogger(__name__)
NODE: Final = "node"
"""Key of the node's own namespace; all others are UIDs of pods."""
VERSION: Final = 1
_UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}", re.ASCII)
_FILE: Final = ".json"
_BESIDE: Final = ".new"
_LOCK: Final = "lock"
_LARGEST: Final = 4 * 1024 * 1024


class JournalError(Exception):
    """A journal that cannot be read or written; the text names the file and says what to do."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One network namespace.

    Attributes:
        boot_id: the kernel's boot; with another one the namespace and all its values are gone.
        netns: what makes it this namespace and no other since that boot.
        where: as reports name it.
        records: by sysctl.
        version: of this layout.
    """

    boot_id: str
    netns: str
    where: str
    records: dict[str, Record]
    version: int = VERSION


class _Versioned(msgspec.Struct, frozen=True):
    version: int


class Journal:
    """The entries of this boot. All methods are for one thread, within `locked`."""

    def __init__(self, folder: Path, boot_id: str, disk: Disk | None = None) -> None:
        """Reads nothing yet: see `open`.

        Args:
            folder: on a disk of the node; made with mode 0700.
            boot_id: /proc/sys/kernel/random/boot_id.
            disk: how to reach it.
        """
        self._folder = folder
        self._disk = disk or Disk()
        self._entries: dict[str, Entry] = {}
        self._unreadable: dict[str, str] = {}
        self.boot_id = boot_id

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Whether this process alone uses the journal, for the length of the block; released when the process ends.

        Raises:
            JournalError: the folder cannot be made or used.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"The journal {self._folder} cannot be used: {error.strerror}.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(lock)

    def open(self) -> None:
        """Read all entries. Those of other boots are removed; one that cannot be read stays as it is.

        Raises:
            JournalError: the folder cannot be read.
        """
        self._entries, self._unreadable = {}, {}
        try:
            names = sorted(os.listdir(self._folder))  # noqa: PTH208 - names are all that is wanted
        except OSError as error:
            raise JournalError(f"The journal {self._folder} cannot be read: {error.strerror}.") from error
        for name in names:
            key = name.removesuffix(_FILE)
            if key == name or not _is_key(key):
                continue
            try:
                entry = self._load(name)
            except JournalError as error:
                LOG.warning("%s", error)
                self._unreadable[key] = str(error)
                continue
            self._entries[key] = entry
            if entry.boot_id != self.boot_id:
                self.forget(key)

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Entries by key: `NODE`, or the pod's UID."""
        return self._entries

    def unreadable(self, key: str) -> str | None:
        """Why the entry of a namespace cannot be read, as a sentence; its values are not to be touched."""
        return self._unreadable.get(key)

    def put(self, key: str, entry: Entry) -> None:
        """Make an entry durable; on return it is.

        Raises:
            JournalError: it may not be, and nothing may be written that it does not yet know of.
            ValueError: the key is none.
        """
        if not _is_key(key):
            raise ValueError(f"{key!r} is neither '{NODE}' nor the UID of a pod.")
        if not entry.records:
            self.forget(key)
            return
        name = key + _FILE
        try:
            with self._opened(self._folder, os.O_RDONLY | os.O_DIRECTORY) as folder:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                with self._opened(name + _BESIDE, flags, folder) as file:
                    rest = msgspec.json.encode(entry)
                    while rest:
                        rest = rest[self._disk.write(file, rest) :]
                    self._disk.fsync(file)
                self._disk.rename(name + _BESIDE, name, folder)
                self._disk.fsync(folder)
        except OSError as error:
            raise JournalError(
                f"{self._folder / name} cannot be written ({error.strerror}), and without it no sysctl is: make room "
                "on that disk, or make it writable."
            ) from error
        self._entries[key] = entry

    def forget(self, key: str) -> None:
        """Durably remove an entry; without one nothing happens.

        Raises:
            JournalError: it may still be there.
        """
        if key not in self._entries:
            return
        name = key + _FILE
        try:
            with self._opened(self._folder, os.O_RDONLY | os.O_DIRECTORY) as folder:
                self._disk.unlink(name, folder)
                self._disk.fsync(folder)
        except OSError as error:
            raise JournalError(f"{self._folder / name} cannot be removed: {error.strerror}.") from error
        del self._entries[key]

    def _load(self, name: str) -> Entry:
        path = self._folder / name
        advice = (
            "the values found before are not known, so that namespace is left as it is: put its sysctls back by hand, "
            "and remove the file"
        )
        try:
            with self._opened(path, os.O_RDONLY) as file:
                raw = self._disk.read(file, _LARGEST)
            version = msgspec.json.decode(raw, type=_Versioned).version
            if version == VERSION:
                return msgspec.json.decode(raw, type=Entry)
        except OSError as error:
            raise JournalError(f"{path} cannot be read ({error.strerror}): {advice}.") from error
        except msgspec.MsgspecError as error:
            raise JournalError(f"{path} is no journal ({error}): {advice}.") from error
        raise JournalError(f"{path} is of version {version}, and this writer knows {VERSION}: {advice}.")

    @contextmanager
    def _opened(self, path: Path | str, flags: int, folder: int | None = None) -> Iterator[int]:
        file = self._disk.open(str(path), flags, folder=folder)
        try:
            yield file
        finally:
            self._disk.close(file)


def _is_key(key: str) -> bool:
    return key == NODE or _UID.fullmatch(key) is not None
