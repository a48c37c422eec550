"""The harness for people: `python -m harness --help`."""

import os
import signal
import sys

import click

from harness import binaries, images, packages
from harness.cluster import OwnCluster
from harness.errors import HarnessError
from harness.processes import marked
from harness.state import ClusterDir, Owner, all_clusters, clusters_lock
from harness.sweep import sweep, sweep_leftovers

DEMO = "demo"
_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


def _running() -> OwnCluster:
    """The demo cluster, or else the only one there is."""
    clusters = [each for each in all_clusters() if each.is_wanted()]
    chosen = [each for each in clusters if each.name == DEMO] or clusters
    if len(chosen) != 1:
        names = ", ".join(each.name for each in clusters) or "none"
        raise HarnessError(f"Which cluster? Running: {names}. Bring one up: python -m harness up node --detach")
    return OwnCluster(chosen[0])


@click.group(help="Brings up a real one-node Kubernetes for tests and the demo, and takes it away again.")
def commands() -> None:
    """The group of all commands."""


@commands.command()
@click.argument("what", type=click.Choice(["control-plane", "node"]))
@click.option("--detach", is_flag=True, help="Leave it running until `down`.")
@click.option("--name", default=DEMO, show_default=True, help="The cluster's name.")
def up(what: str, name: str, detach: bool) -> None:
    """Bring up a cluster; without --detach it ends with Ctrl-C."""
    if what == "node":
        packages.ensure()
        binaries.ensure(binaries.NODE)
    cluster = OwnCluster.create(name, Owner.nobody() if detach else Owner.this_process())
    try:
        cluster.start_control_plane()
        if what == "node":
            cluster.start_node()
    except BaseException:
        cluster.close()
        raise
    click.echo(f"export KUBECONFIG={cluster.kubeconfig}")
    if detach:
        return
    click.echo("Ctrl-C takes it down.", err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        cluster.close()


@commands.command()
@click.argument("name", default=DEMO)
def down(name: str) -> None:
    """Take down a cluster, and everything killed runs have left."""
    with clusters_lock():
        sweep_leftovers()
    found = [each for each in all_clusters() if each.name == name]
    if not found:
        click.echo(f"No cluster {name} is running.", err=True)
    for each in found:
        sweep(each)


def _describe(directory: ClusterDir) -> str:
    owner = directory.owner
    if owner is None or not directory.is_wanted():
        belongs = "left over by a killed run; `down` takes it away"
    else:
        belongs = f"owned by pid {owner.pid}" if owner.pid else "detached"
    components = sorted(set(marked(directory).values())) or ["nothing runs"]
    return f"{directory.name}: {belongs}; {', '.join(components)}; {directory.path}"


@commands.command()
def status() -> None:
    """List the clusters of this machine."""
    clusters = all_clusters()
    click.echo("\n".join(map(_describe, clusters)) if clusters else "No cluster is running.")


@commands.command()
def kubeconfig() -> None:
    """Print the path of the running cluster's administrator kubeconfig."""
    click.echo(_running().kubeconfig)


@commands.command()
def image() -> None:
    """Build the project's image, import it into a running node, and print its reference."""
    packages.ensure()
    running = [each for each in all_clusters() if each.name == DEMO and each.node_record.exists()]
    click.echo(OwnCluster(running[0]).image if running else images.project_archive()[0])


@commands.command()
def reproducible() -> None:
    """Build the project's image twice, and fail when what the Dockerfile adds to its base differs."""
    packages.ensure()
    first, second = images.built_twice()
    if first != second:
        raise HarnessError(
            f"Two builds of the same files differ: {first} and {second}. Look for times, orders and random names in"
            " what the Dockerfile's commands write."
        )
    click.echo(f"Both builds add {first}")


@commands.command()
def build() -> None:
    """Build or install everything that is missing, so that later commands start at once."""
    binaries.ensure((*binaries.CONTROL_PLANE, *binaries.NODE))
    packages.ensure()
    images.pause_archive()
    images.base_archive()


def _replace_process(program: str, arguments: tuple[str, ...]) -> None:
    path = str(binaries.path_of(program))
    os.execv(path, [program, f"--kubeconfig={_running().kubeconfig}", *arguments])  # noqa: S606 - no shell wanted


@commands.command(context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(arguments: tuple[str, ...]) -> None:
    """Run kubectl on the running cluster."""
    _replace_process("kubectl", arguments)


@commands.command(context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def helm(arguments: tuple[str, ...]) -> None:
    """Run Helm on the running cluster."""
    _replace_process("helm", arguments)


def main() -> None:
    """Run a command; a failure is one sentence on standard error."""
    try:
        commands(prog_name="harness")
    except HarnessError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
