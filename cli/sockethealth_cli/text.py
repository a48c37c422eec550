"""Text of others made safe for a terminal."""


def printable(text: str) -> str:
    r"""The text on one line, with everything that could steer a terminal or reorder it shown as an escape.

    A process names itself (comm, prctl(2) PR_SET_NAME), and `ip netns` takes almost any file name: both may hold
    ESC sequences. Bidirectional overrides and line breaks are escaped too: ``\x1b``, ``\u202e``, ``\n``.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``1 network namespace``, ``3 network namespaces``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
