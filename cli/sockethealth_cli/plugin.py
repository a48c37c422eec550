"""`kubectl sockethealth`: the SocketHealths of a cluster, worst first."""

import click

from sockethealth_cli import cluster, output, render
from sockethealth_cli.errors import UsageProblem
from sockethealth_core.resources import InvalidObjectError, SocketHealth, decode

_EPILOG = """\b
Examples:
  kubectl sockethealth
  kubectl sockethealth -n shop -o yaml
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.option("-n", "--namespace", help="Only the pods of this namespace; without it, those of all.")
@click.option("--context", help="Context of the kubeconfig; without it, the current one.")
@click.option("--kubeconfig", type=click.Path(), help="Without it, $KUBECONFIG or ~/.kube/config.")
@output.format_option
def plugin(namespace: str | None, context: str | None, kubeconfig: str | None, form: output.Format) -> None:
    """List the TCP socket health of the cluster's pods, worst first."""
    try:
        raw = cluster.socket_healths(namespace=namespace, context=context, kubeconfig=kubeconfig)
        pairs = [(decode(SocketHealth, item), item) for item in raw]
    except (cluster.ClusterError, InvalidObjectError) as error:
        raise UsageProblem(str(error)) from error
    pairs.sort(key=lambda pair: render.rank(pair[0]))
    if form == "table":
        output.print_report(render.report([typed for typed, _ in pairs], "cluster"))
    else:
        # As the API server has them, so that nothing a newer operator writes is lost.
        output.print_text(output.serialized([item for _, item in pairs], form))
