"""`kubectl sockethealth report`: a pod's incident as one HTML page, from a Prometheus."""

import contextlib
from collections.abc import Sequence

import click

from sockethealth_cli import report_command
from sockethealth_cli.cluster import SOCKET_HEALTHS, MissingError
from sockethealth_cli.place import Place, connected
from sockethealth_core.resources import Finding, SocketHealth, decode


@click.command(name="report")
@click.argument("kind", type=click.Choice(["pod"]))
@click.argument("name")
@connected(
    click.option("--prometheus", "url", metavar="URL", required=True, help="A Prometheus that scrapes the agents."),
    click.option(
        "--since",
        callback=report_command.seconds,
        default="1h",
        show_default=True,
        metavar="DURATION",
        help="How far to look back.",
    ),
    click.option(
        "--until", callback=report_command.moment, metavar="TIME", help="Where to end, such as 2026-11-21T09:30:00Z."
    ),
    report_command.file_option,
)
def report_pod(
    kind: str,  # noqa: ARG001 (there is one, so that others can follow)
    name: str,
    place: Place,
    url: str,
    since: float,
    until: float | None,
    file: str,
) -> None:
    """Write one HTML page that tells a pod's incident, from a Prometheus and the pod's SocketHealth."""
    report_command.check_place(file)
    namespace, _, bare = name.rpartition("/")
    namespace = namespace or place.one_namespace
    told: Sequence[Finding] = ()
    if until is None:
        # The pod may be gone: then the series are all that is left of it.
        with contextlib.suppress(MissingError):
            told = decode(SocketHealth, place.cluster.get(SOCKET_HEALTHS, bare, namespace)).status.findings
    made = report_command.from_prometheus(url, namespace, bare, since, until, told)
    report_command.write(made, file)
