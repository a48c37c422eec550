"""The programs `sockethealth` and `kubectl sockethealth`: their commands, and nothing else."""

import click

from sockethealth_cli.lazy import LazyGroup

_EPILOG = """\b
Shell completion (bash; zsh_source and fish_source for others):
  eval "$(_SOCKETHEALTH_COMPLETE=bash_source sockethealth)"
"""


@click.group(
    cls=LazyGroup,
    elsewhere={
        "scan": "sockethealth_cli.scan:scan",
        "demo": "sockethealth_cli.demo:demo",
        "top": "sockethealth_cli.top:top",
        "report": "sockethealth_cli.report_command:report",
        "explain": "sockethealth_cli.explain:explain",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.version_option(package_name="sockethealth")
def main() -> None:
    """Which TCP sockets are running out, why, when it will break, and what to do."""


def kubectl_main() -> None:
    """Entry point of the kubectl plugin."""
    # The kubernetes client takes longer to load than a scan to run, and a scan never needs it.
    from sockethealth_cli.plugin import plugin  # noqa: PLC0415

    plugin(prog_name="kubectl sockethealth", complete_var="_KUBECTL_SOCKETHEALTH_COMPLETE")
