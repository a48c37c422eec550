"""Connection tracking's own statistics: how often a connection could not be entered into the table."""

from pathlib import Path

from sockethealth_agent import procfs


def parse_insert_failed(text: str) -> int | None:
    """Sum of insert_failed over all CPUs, from net/stat/nf_conntrack; None when the kernel has no such column.

    One line a CPU, in hexadecimal, below a line of names (net/netfilter/nf_conntrack_standalone.c).

    Raises:
        procfs.ProcLayoutError: a line does not match the names.
    """
    names, *lines = [line.split() for line in text.splitlines() if line.strip()] or [[]]
    if "insert_failed" not in names:
        return None
    column = names.index("insert_failed")
    try:
        return sum(int(line[column], 16) for line in lines)
    except (IndexError, ValueError) as error:
        raise procfs.ProcLayoutError(f"net/stat/nf_conntrack cannot be read: {error}.") from error


def read_insert_failed(proc: Path = procfs.PROC) -> int | None:
    """The count of the calling thread's namespace since it was made; None where connections are not tracked.

    Raises:
        procfs.ProcLayoutError: see parse_insert_failed.
    """
    try:
        text = (proc / "thread-self/net/stat/nf_conntrack").read_text(encoding="ascii")
    except OSError:
        return None
    return parse_insert_failed(text)
