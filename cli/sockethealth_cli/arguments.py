"""The order of arguments that kubectl's users are used to. Pure."""

from collections.abc import Collection, Sequence

_GROUPS_OWN = frozenset({"-h", "--help", "--version"})


def command_first(arguments: Sequence[str], valued: Collection[str], default: str | None) -> list[str]:
    """The command, then everything else: ``-n shop pod web`` becomes ``pod -n shop web``.

    Without a command it is the default one, unless help or the version is asked for. Whether
    the first word is a command is for click to say.

    Args:
        arguments: as they were typed.
        valued: options whose value is the next argument.
        default: the command when there is none; None leaves it so.
    """
    skip = False
    for index, argument in enumerate(arguments):
        if skip:
            skip = False
        elif argument in valued:
            skip = True
        elif not argument.startswith("-"):
            return [argument, *arguments[:index], *arguments[index + 1 :]]
    if default is None or _GROUPS_OWN & set(arguments):
        return list(arguments)
    return [default, *arguments]
