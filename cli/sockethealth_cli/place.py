"""Where a command of the plugin looks: the options that say it, a connection, and why nothing is reported there."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from sockethealth_cli import cluster, output, owners
from sockethealth_cli.cluster import Cluster, ClusterError, MissingError, RefusedError
from sockethealth_cli.errors import UsageProblem
from sockethealth_cli.text import printable
from sockethealth_core.resources import InvalidObjectError

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look: a connection, and the namespace asked for, if one was."""

    cluster: Cluster
    namespace: str | None

    @property
    def one_namespace(self) -> str:
        """The namespace asked for, or the context's."""
        return self.namespace or self.cluster.namespace


def connected(*further: Callable[[AnyFunction], AnyFunction]) -> Callable[[AnyFunction], AnyFunction]:
    """Options that say where, as ``place``, and further ones; failures become sentences."""

    def decorate(command: AnyFunction) -> AnyFunction:
        @functools.wraps(command)
        def run(
            *arguments: Any,
            namespace: str | None,
            context: str | None,
            kubeconfig: str | None,
            **more: Any,
        ) -> None:
            try:
                connection = Cluster(context=context, kubeconfig=kubeconfig)
                command(*arguments, place=Place(connection, namespace), **more)
            except (ClusterError, InvalidObjectError) as error:
                raise UsageProblem(printable(str(error))) from error

        options: tuple[Any, ...] = (
            click.option("-n", "--namespace", metavar="NAMESPACE", help="Look in this namespace."),
            click.option(
                "--context", metavar="CONTEXT", help="Context of the kubeconfig; without it, the current one."
            ),
            click.option("--kubeconfig", type=click.Path(), help="Without it, $KUBECONFIG or ~/.kube/config."),
            *further,
        )
        decorated: Any = run
        for option in reversed(options):
            decorated = option(decorated)
        result: AnyFunction = decorated
        return result

    return decorate


common = connected(output.format_option, output.exit_code_option)
"""Options of a command that shows what is found."""


def unreported(connection: Cluster, name: str, namespace: str) -> str:
    """Why there is no SocketHealth of a name: no such pod, or one that nobody has reported."""
    try:
        found = connection.get(cluster.PODS, name, namespace)
    except MissingError:
        names = [one["metadata"]["name"] for one in connection.list(cluster.PODS, namespace)]
        return (
            f"there is no pod {name} in namespace {namespace}; there are {owners.listed(owners.closest(name, names))}"
        )
    except RefusedError:
        return f"nothing is reported of a pod {name} in namespace {namespace}"
    node_name = (found.get("spec") or {}).get("nodeName")
    if not node_name:
        return f"pod {namespace}/{name} is not on a node yet, so it has no sockets"
    return (
        f"nothing is reported of pod {namespace}/{name}: it is younger than a sweep, or the agent of its node is not "
        f"well (kubectl sockethealth node {node_name}), or report.mode is Noteworthy and it is not"
    )
