"""What both programs of the agent's pod share: options, the version, and how they are told to end."""

import signal
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from sockethealth_agent import procfs
from sockethealth_core import logs

F = TypeVar("F", bound=Callable[..., Any])

NODE_OPTIONS: Final = (
    click.option("--node-name", envvar="NODE_NAME", required=True, help="Name of the node this runs on."),
    click.option(
        "--proc-root",
        type=click.Path(path_type=Path),
        default=procfs.PROC,
        help="The node's /proc; it must show all its processes.",
    ),
    click.option(
        "--host-netns",
        default=None,
        help="An ns/net file of the node's own network namespace, where process 1 is not in it.",
    ),
)
"""Where the program runs."""

PROGRAM_OPTIONS: Final = (
    click.option(
        "--kubeconfig",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        help="Use this instead of the pod's service account, for development.",
    ),
    click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", help="Least level shown."),
    click.option(
        "--log-format", type=click.Choice(["json", "text"]), default="json", help="One JSON object a line, or text."
    ),
    click.version_option(package_name="sockethealth"),
)
"""How it speaks to the API server and to people."""


def options(*groups: Callable[[F], F]) -> Callable[[F], F]:
    """Add options in the order in which ``--help`` shows them."""

    def decorate(function: F) -> F:
        for option in reversed(groups):
            function = option(function)
        return function

    return decorate


def own_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("sockethealth")
    except PackageNotFoundError:
        return "unknown"


def on_end_signal(stop: Callable[[], None]) -> None:
    """Call `stop` from a thread of its own at the first SIGTERM or SIGINT.

    A handler would run inside whatever the main thread does, which may hold the very lock that `stop` takes. So the
    signals are blocked, in every thread started from here on, and one thread waits for them.
    """
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)

    def wait() -> None:
        signal.sigwait(ending)
        stop()

    threading.Thread(target=wait, name="signals", daemon=True).start()
