"""A group of commands each of which is loaded when it is used: to start `scan` need not wait for a web page's parts."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A click group that knows some of its commands by where they are.

    Args:
        elsewhere: by name, as ``module:attribute``. Commands that are added as usual come beside them.
    """

    def __init__(self, *args: Any, elsewhere: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._elsewhere = elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, those of commands that are not loaded included."""
        return sorted({*super().list_commands(ctx), *self._elsewhere})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, loaded if need be; None when there is none of this name."""
        if cmd_name in self.commands or cmd_name not in self._elsewhere:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._elsewhere[cmd_name].partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self._elsewhere[cmd_name]} is no command of click")
        self.add_command(command, cmd_name)
        return command
