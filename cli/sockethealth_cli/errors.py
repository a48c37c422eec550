"""How the commands fail: a sentence on standard error, and a documented exit code."""

import click


class UsageProblem(click.ClickException):
    """What was asked for cannot be done as asked; exit code 2."""

    exit_code = 2
