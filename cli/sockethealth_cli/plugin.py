"""`kubectl sockethealth`: the sockets of a cluster's pods, worst first, and the story of one."""

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final

import click

from sockethealth_cli import cluster, output, owners, profiles, render, story
from sockethealth_cli.arguments import command_first
from sockethealth_cli.cluster import Cluster, ClusterError, MissingError, Object, RefusedError
from sockethealth_cli.errors import UsageProblem
from sockethealth_cli.lazy import LazyGroup
from sockethealth_cli.place import Place, common, connected, unreported
from sockethealth_cli.text import counted, printable
from sockethealth_core.resources import NodeSocketHealth, SocketHealth, SysctlProfile, decode

_EPILOG: Final = """\b
Examples:
  kubectl sockethealth                            all pods, worst first
  kubectl sockethealth list -n shop --exit-code   for scripts: 1 if Critical
  kubectl sockethealth pod cart-7c9f6d5b8-x2x9k -n shop
  kubectl sockethealth workload deployment/cart -n shop
  kubectl sockethealth node node-a -o yaml
  kubectl sockethealth fix cart-7c9f6d5b8-x2x9k -n shop > patch.yaml
  kubectl sockethealth profiles wider-ports       what it changes, by node
  kubectl sockethealth report pod cart-7c9f6d5b8-x2x9k -n shop \
    --prometheus http://localhost:9090 -o incident.html
  kubectl sockethealth explain CloseWaitLeak
\b
Exit codes:
  0  done
  1  something is Critical (with --exit-code)
  2  it could not be done as asked
  3  fix: there is nothing to print, no sysctl of the pod's spec helps
\b
Shell completion (bash; zsh_source and fish_source for others):
  eval "$(_KUBECTL_SOCKETHEALTH_COMPLETE=bash_source kubectl-sockethealth)"
"""
_VALUED: Final = frozenset(
    {"-n", "--namespace", "--context", "--kubeconfig", "-o", "--output", "--prometheus", "--since", "--until"}
)
_DEFAULT: Final = "list"
_MOST_BLOCKS: Final = 5


class _Commands(LazyGroup):
    """Takes options before the command too, as kubectl does, and lists without any command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # While a shell completes, no command yet means that one is to be completed.
        default = None if ctx.resilient_parsing else _DEFAULT
        return super().parse_args(ctx, command_first(args, _VALUED, default))


@click.group(
    cls=_Commands,
    elsewhere={
        "fix": "sockethealth_cli.fix_command:print_fix",
        "explain": "sockethealth_cli.explain:explain",
        "report": "sockethealth_cli.report_plugin:report_pod",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.version_option(package_name="sockethealth")
def plugin() -> None:
    """Which pods run out of TCP sockets, why, when it will break, and what to do.

    Without a command: list.
    """


@plugin.command(name="list")
@click.option("-A", "--all-namespaces", is_flag=True, help="List those of all namespaces, as without -n.")
@common
def list_pods(place: Place, all_namespaces: bool, form: output.Format, exit_code: bool) -> None:
    """List pods, worst first; of all namespaces unless -n names one."""
    raw = _listed(place, all_namespaces=all_namespaces)
    pairs = sorted(((decode(SocketHealth, item), item) for item in raw), key=lambda pair: render.rank(pair[0]))
    items = [typed for typed, _ in pairs]
    if form == "table":
        output.print_report(render.report(items, "cluster", _MOST_BLOCKS))
        worst = next((item.metadata for item in items if item.status.health != "Healthy"), None)
        if worst is not None:
            click.echo(f"\nThe story of one: kubectl sockethealth pod {worst.name} -n {worst.namespace}")
        _note_what_is_left_out(place.cluster)
    else:
        # As the API server has them, so that nothing a newer operator writes is lost.
        output.print_text(output.serialized([item for _, item in pairs], form))
    _finish(items, exit_code=exit_code)


@plugin.command()
@click.argument("name")
@common
def pod(name: str, place: Place, form: output.Format, exit_code: bool) -> None:
    """Tell the story of one pod: what is wrong, since when, why, and what helps.

    NAME is the pod's; NAMESPACE/NAME, as messages have it, does as well.
    """
    namespace, _, bare = name.rpartition("/")
    namespace = namespace or place.one_namespace
    try:
        raw = place.cluster.get(cluster.SOCKET_HEALTHS, bare, namespace)
    except MissingError as error:
        raise UsageProblem(printable(unreported(place.cluster, bare, namespace))) from error
    item = decode(SocketHealth, raw)
    if form == "table":
        silences = _silences(place.cluster, [item])
        output.print_report(story.of_pod(item, time.time(), silences[0] if silences else None))
    else:
        output.print_text(output.serialized_object(raw, form))
    _finish([item], exit_code=exit_code)


@plugin.command()
@click.argument("name")
@common
def node(name: str, place: Place, form: output.Format, exit_code: bool) -> None:
    """Tell the story of one node: its limits, its agent, and its pods that are not well."""
    try:
        raw = place.cluster.get(cluster.NODE_SOCKET_HEALTHS, name)
    except MissingError as error:
        known = [one["metadata"]["name"] for one in place.cluster.list(cluster.NODE_SOCKET_HEALTHS)]
        sentence = f"no agent has reported a node {name}; reported are {owners.listed(owners.closest(name, known))}"
        raise UsageProblem(printable(sentence)) from error
    item = decode(NodeSocketHealth, raw)
    if form == "table":
        now = time.time()
        output.print_report(story.of_node(item, _pods_on(place.cluster, name), now, story.silence_of(item, now)))
    else:
        output.print_text(output.serialized_object(raw, form))
    _finish([item], exit_code=exit_code)


@plugin.command()
@click.argument("workload", metavar="KIND/NAME")
@common
def workload(workload: str, place: Place, form: output.Format, exit_code: bool) -> None:
    """Tell the story of a workload: its pods, worst first, and what is wrong with them.

    KIND is of any controller, as kubectl takes it: deployment, deploy, sts, cronjob, rollout.
    """
    try:
        wanted = owners.parsed(workload)
    except ValueError as error:
        raise UsageProblem(printable(str(error))) from error
    namespace = place.one_namespace
    pods = place.cluster.list(cluster.PODS, namespace)
    between = _between(place.cluster, namespace, pods, wanted)
    mine = owners.pods_of(wanted, pods, between)
    if not mine:
        raise UsageProblem(
            printable(
                f"no pod in namespace {namespace} belongs to {wanted}; workloads with pods there: "
                f"{owners.nearest(wanted, pods, between)}"
            )
        )
    uids = {one["metadata"]["uid"] for one in mine}
    raw = [one for one in place.cluster.list(cluster.SOCKET_HEALTHS, namespace) if _pod_uid(one) in uids]
    pairs = sorted(((decode(SocketHealth, one), one) for one in raw), key=lambda pair: render.rank(pair[0]))
    items = [typed for typed, _ in pairs]
    if form == "table":
        found = next(owner for one in mine for owner in owners.lineage(one, between) if owners.is_it(wanted, owner))
        reported = {item.metadata.name for item in items}
        unreported = [one["metadata"]["name"] for one in mine if one["metadata"]["name"] not in reported]
        title = f"{found.kind} {namespace}/{found.name}"
        silences = _silences(place.cluster, items)
        output.print_report(story.of_workload(title, items, unreported, time.time(), silences))
    else:
        output.print_text(output.serialized([one for _, one in pairs], form))
    _finish(items, exit_code=exit_code)


@plugin.command(name="profiles")
@click.argument("name", required=False)
@connected(output.format_option)
def list_profiles(name: str | None, place: Place, form: output.Format) -> None:
    """List SysctlProfiles with how far each is; with a NAME, what each node says of that one.

    In mode Audit that is what Enforce would change.
    """
    if name is None:
        raw = place.cluster.list(cluster.SYSCTL_PROFILES)
        if form == "table":
            everything = [decode(SysctlProfile, one) for one in raw]
            output.print_report(profiles.table(everything), most=render.TEXT_WIDTH)
        else:
            output.print_text(output.serialized(raw, form))
        return
    try:
        one = place.cluster.get(cluster.SYSCTL_PROFILES, name)
    except MissingError as error:
        known = [each["metadata"]["name"] for each in place.cluster.list(cluster.SYSCTL_PROFILES)]
        sentence = f"there is no SysctlProfile {name}; there are {owners.listed(owners.closest(name, known))}"
        raise UsageProblem(printable(sentence)) from error
    if form == "table":
        nodes = [decode(NodeSocketHealth, each) for each in place.cluster.list(cluster.NODE_SOCKET_HEALTHS)]
        output.print_report(profiles.story(decode(SysctlProfile, one), profiles.on_nodes(name, nodes)))
    else:
        output.print_text(output.serialized_object(one, form))


def _listed(place: Place, *, all_namespaces: bool) -> list[Object]:
    try:
        return place.cluster.list(cluster.SOCKET_HEALTHS, None if all_namespaces else place.namespace)
    except RefusedError as error:
        if all_namespaces or place.namespace is not None:
            raise
        namespace = place.cluster.namespace
        try:
            found = place.cluster.list(cluster.SOCKET_HEALTHS, namespace)
        except RefusedError:
            raise error from None
        output.note(f"{printable(str(error))}. Shown is namespace {printable(namespace)}, your context's.")
        return found


def _note_what_is_left_out(connection: Cluster) -> None:
    """Say so where agents report only some of their pods; a person who may not see nodes is not bothered with it."""
    try:
        nodes = [decode(NodeSocketHealth, one) for one in connection.list(cluster.NODE_SOCKET_HEALTHS)]
    except RefusedError:
        return
    except ClusterError as error:
        output.note(f"whether every pod is reported is not known: {printable(str(error))}")
        return
    sparing = sum(node.status.agent.report_mode == "Noteworthy" for node in nodes)
    if sparing:
        output.note(
            f"the agents of {sparing} of {counted(len(nodes), 'node')} report noteworthy pods only (report.mode), "
            "which are near a threshold or have many sockets"
        )


def _finish(items: Iterable[SocketHealth | NodeSocketHealth], *, exit_code: bool) -> None:
    if exit_code and any(item.status.health == "Critical" for item in items):
        sys.exit(1)


def _pod_uid(raw: Object) -> str | None:
    found = (raw.get("spec") or {}).get("podUID")
    return found if isinstance(found, str) else None


def _silences(connection: Cluster, items: Sequence[SocketHealth]) -> list[story.Silence]:
    """Agents that are silent, of the nodes of the pods."""
    found = []
    now = time.time()
    for name in sorted({item.spec.node_name for item in items if item.spec.node_name}):
        try:
            reported = decode(NodeSocketHealth, connection.get(cluster.NODE_SOCKET_HEALTHS, name))
        except MissingError:
            found.append(story.Silence(name, None))
            continue
        except RefusedError as error:
            output.note(f"whether the agents report is not known: {printable(str(error))}")
            return []
        silence = story.silence_of(reported, now)
        if silence is not None:
            found.append(silence)
    return found


def _pods_on(connection: Cluster, node_name: str) -> list[SocketHealth] | None:
    try:
        raw = connection.list(cluster.SOCKET_HEALTHS, field_selector=f"spec.nodeName={node_name}")
    except RefusedError as error:
        output.note(f"its pods are not shown: {printable(str(error))}")
        return None
    return [decode(SocketHealth, one) for one in raw]


def _between(
    connection: Cluster, namespace: str, pods: Sequence[Object], wanted: owners.Workload
) -> dict[owners.Workload, owners.Workload | None]:
    """What controls the ReplicaSets and Jobs that control pods, read only where the answer needs it."""
    direct = {owner for one in pods if (owner := owners.controller(one)) is not None}
    found: dict[owners.Workload, owners.Workload | None] = {}
    if any(owners.is_it(wanted, owner) for owner in direct):
        return found
    for kind, resource in (("ReplicaSet", cluster.REPLICA_SETS), ("Job", cluster.JOBS)):
        if any(owner.kind == kind for owner in direct):
            found |= owners.controllers(kind, connection.list(resource, namespace))
    return found
