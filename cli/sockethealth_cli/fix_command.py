"""`kubectl sockethealth fix`: reads a pod, what is found on it, and what it is made from. It changes nothing."""

import json
import sys
from typing import Final, Literal

import click

from sockethealth_cli import cluster, fix, output, owners, templates
from sockethealth_cli.cluster import Cluster, MissingError, Object, RefusedError
from sockethealth_cli.errors import UsageProblem
from sockethealth_cli.place import Place, connected, unreported
from sockethealth_cli.text import printable
from sockethealth_core.pod_fix import Fix, Platform, fix_for
from sockethealth_core.resources import NodeSocketHealth, SocketHealth, decode

_NOTHING_TO_PRINT: Final = 3
_FIX_EPILOG: Final = f"""\b
Examples:
  kubectl sockethealth fix cart-7c9f6d5b8-x2x9k -n shop
  kubectl sockethealth fix cart-7c9f6d5b8-x2x9k -n shop |
    kubectl apply --server-side --field-manager={fix.FIELD_MANAGER} -f -
  kubectl sockethealth fix cart-7c9f6d5b8-x2x9k -n shop > patch.yaml
    kubectl patch deployment cart -n shop --patch-file patch.yaml
  kubectl sockethealth fix web-0 -n shop --profile | kubectl apply -f -
\b
Exit codes:
  0  YAML is printed; what else to know is on standard error
  2  it could not be done as asked
  3  nothing is printed, as no sysctl of the pod's spec (or, with --profile,
     of a profile) helps; standard error says what does
"""


@click.command(name="fix", epilog=_FIX_EPILOG)
@click.argument("name")
@click.option(
    "--profile", "as_profile", is_flag=True, help="A SysctlProfile with what the workload's own spec cannot carry."
)
@click.option("--all", "include_info", is_flag=True, help="Also for findings that are Info: harmless as they are.")
@connected(
    click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(["yaml", "json"]),
        default="yaml",
        show_default=True,
        help="yaml has the reasons as comments.",
    )
)
def print_fix(name: str, place: Place, as_profile: bool, include_info: bool, form: Literal["yaml", "json"]) -> None:
    """Print the patch of a pod's workload whose sysctls help against what is found on the pod.

    It changes nothing. NAME is the pod's; NAMESPACE/NAME does as well.
    """
    namespace, _, bare = name.rpartition("/")
    namespace = namespace or place.one_namespace
    item, pod_raw = _pod_and_health(place.cluster, bare, namespace)
    source = templates.source_of(_lineage(place.cluster, pod_raw, namespace))
    spec = templates.pod_spec(pod_raw, source)
    platform = Platform(place.cluster.minor(), _kernel(place.cluster, item.spec.node_name))
    found = fix_for(item.status.findings, item.status, spec, platform, include_info=include_info)
    for sentence in found.advice:
        output.note(printable(sentence))
    if not (found.advice or found.changes_template or found.profile):
        output.note(printable(_nothing_found(item, namespace, include_info=include_info)))
    if as_profile:
        _print_profile(source, pod_raw, found, form, namespace=namespace, host_network=spec.host_network)
    else:
        _print_patch(source, found, form, bare, platform.minor, host_network=spec.host_network)


def _pod_and_health(connection: Cluster, name: str, namespace: str) -> tuple[SocketHealth, Object]:
    try:
        raw = connection.get(cluster.PODS, name, namespace)
        item = decode(SocketHealth, connection.get(cluster.SOCKET_HEALTHS, name, namespace))
    except MissingError as error:
        raise UsageProblem(printable(unreported(connection, name, namespace))) from error
    if item.spec.pod_uid and item.spec.pod_uid != raw["metadata"]["uid"]:
        raise UsageProblem(
            printable(f"what is reported of {namespace}/{name} is of a pod before it: try again after the next sweep")
        )
    if item.status.health == "Unknown":
        output.note(f"the agent of its node is silent: this is from what it said at {item.status.observed_time}")
    return item, raw


def _lineage(connection: Cluster, pod_raw: Object, namespace: str) -> list[Object]:
    """The pod, then what controls it, the nearest first."""
    found = [pod_raw]
    seen = {pod_raw["metadata"]["uid"]}
    # A Node controls the static pods whose manifest it reads; it has no template.
    while (reference := owners.controller_reference(found[-1])) is not None and reference["kind"] != "Node":
        if reference["uid"] in seen:
            break
        seen.add(reference["uid"])
        try:
            found.append(connection.owner(reference, namespace))
        except MissingError as error:
            output.note(f"{printable(str(error))}, which controlled {printable(found[-1]['metadata']['name'])}")
            break
        except RefusedError as error:
            if not templates.source_of(found).path:
                raise
            output.note(f"whether something above it changes the workload back is not known: {printable(str(error))}")
            break
    return found


def _kernel(connection: Cluster, node_name: str) -> str:
    if not node_name:
        return ""
    try:
        return decode(NodeSocketHealth, connection.get(cluster.NODE_SOCKET_HEALTHS, node_name)).status.agent.kernel
    except (MissingError, RefusedError) as error:
        output.note(f"the node's kernel is not known, and taken for a recent one: {printable(str(error))}")
        return ""


def _nothing_found(item: SocketHealth, namespace: str, *, include_info: bool) -> str:
    name = f"{namespace}/{item.metadata.name}"
    if item.status.findings and not include_info:
        return f"all that is found on pod {name} is Info, harmless as it is (--all takes it into account)"
    return f"nothing is found on pod {name}"


def _print_patch(
    source: templates.Source, found: Fix, form: Literal["yaml", "json"], pod: str, minor: int, *, host_network: bool
) -> None:
    if found.profile:
        names = ", ".join(setting.name for setting in found.profile)
        reason = (
            "a pod with hostNetwork may set no net.*"
            if host_network
            else f"Kubernetes 1.{minor} lets no pod set it by itself"
        )
        output.note(printable(f"not for the pod's spec: {names} ({reason}). --profile prints a SysctlProfile with it"))
    if found.changes_template and not source.changeable:
        output.note(printable(_unchangeable(source, found)))
    if not found.changes_template or not source.changeable:
        sys.exit(_NOTHING_TO_PRINT)
    if source.above is not None:
        above = f"{source.above['kind']} {source.above['metadata']['name']}"
        output.note(printable(f"{above} controls the {source.kind}, and may undo the patch: change it there"))
    if form == "json":
        output.print_text(output.serialized_object(fix.patch(source, found), "json"))
    else:
        output.print_text(fix.patch_text(source, found, pod, minor))


def _unchangeable(source: templates.Source, found: Fix) -> str:
    listed = json.dumps([{"name": one.name, "value": one.value} for one in found.sysctls])
    reference = owners.controller_reference(source.raw)
    if source.path:
        why = f"the template of Job {source.name} cannot change: write a new Job"
    elif reference is not None and reference["kind"] == "Node":
        why = f"pod {source.name} is a static one: change its manifest on node {reference['name']}"
    else:
        why = f"the sysctls of a pod cannot change: make pod {source.name} anew"
    running = ". --profile prints a SysctlProfile that sets them in the pod as it runs" if found.changed else ""
    return f"{why}, with securityContext.sysctls: {listed}{running}"


def _print_profile(
    source: templates.Source,
    pod_raw: Object,
    found: Fix,
    form: Literal["yaml", "json"],
    *,
    namespace: str,
    host_network: bool,
) -> None:
    settings = (*(() if source.changeable else found.changed), *found.profile)
    if not settings:
        if found.changes_template:
            output.note("the workload's own spec can carry all of it: run this without --profile")
        sys.exit(_NOTHING_TO_PRINT)
    selector = None if host_network else templates.selector(pod_raw, source)
    if selector is None and not host_network:
        raise UsageProblem(printable(f"pod {source.name} has no label by which a profile could select it: give it one"))
    nodes = (source.template.get("spec") or {}).get("nodeSelector") or {}
    made = fix.profile(fix.profile_name(source), settings, pods_of=namespace, selector=selector, nodes=nodes)
    if form == "json":
        output.print_text(output.serialized_object(made, "json"))
    else:
        title = f"{source.kind} {namespace}/{source.name}: sysctls that its own spec cannot carry"
        output.print_text(fix.profile_text(made, settings, found, title))
