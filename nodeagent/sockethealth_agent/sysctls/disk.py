"""The system calls by which the writer touches a disk or /proc/sys, in one place: tests end the process at each."""

import os


class Disk:
    """Plain system calls; a file descriptor is an int that the caller closes."""

    def open(self, path: str, flags: int, mode: int = 0o600, folder: int | None = None) -> int:
        """Relative to an open folder where one is given; never inherited, and never through a link at the end."""
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode, dir_fd=folder)

    def close(self, file: int) -> None:
        """Close a descriptor."""
        os.close(file)

    def read(self, file: int, most: int) -> bytes:
        """At most so many bytes, in one system call."""
        return os.read(file, most)

    def write(self, file: int, data: bytes) -> int:
        """How many of the bytes one system call takes."""
        return os.write(file, data)

    def fsync(self, file: int) -> None:
        """Have a file, or a folder's entries, on the disk."""
        os.fsync(file)

    def rename(self, old: str, new: str, folder: int) -> None:
        """Rename within a folder, over what is there."""
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)

    def unlink(self, name: str, folder: int) -> None:
        """Remove a file of a folder."""
        os.unlink(name, dir_fd=folder)
