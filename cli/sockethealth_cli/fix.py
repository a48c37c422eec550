"""A fix as YAML that a person reads and applies: each sysctl with its reasons as comments. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any, Final

import yaml

from sockethealth_cli.templates import Source
from sockethealth_cli.text import printable
from sockethealth_core.names import API_VERSION
from sockethealth_core.pod_fix import Fix, Setting

FIELD_MANAGER: Final = "kubectl-sockethealth"
"""Who owns the sysctls of a workload that a fix was applied to."""

_WIDTH: Final = 110
_NAME_LENGTH: Final = 253
_KEPT: Final = "Kept as it is: the list is replaced as a whole."
_RESTARTS: Final[Mapping[str, str]] = {
    "CronJob": "Its next Job has them; Jobs that run stay as they are.",
    "ReplicaSet": "Pods made from then on have them; delete the others, one after the other.",
    "ReplicationController": "Pods made from then on have them; delete the others, one after the other.",
}


def patch(source: Source, fix: Fix) -> dict[str, Any]:
    """The part of the workload that changes, for server-side apply or `kubectl patch`."""
    sysctls = [{"name": one.name, "value": one.value} for one in fix.sysctls]
    inner: dict[str, Any] = {"spec": {"securityContext": {"sysctls": sysctls}}}
    for key in reversed(source.path):
        inner = {key: inner}
    metadata = source.raw["metadata"]
    head = {
        "apiVersion": source.raw["apiVersion"],
        "kind": source.kind,
        "metadata": {"name": source.name, "namespace": metadata["namespace"]},
    }
    return head | inner


def profile(
    name: str,
    settings: Sequence[Setting],
    *,
    pods_of: str,
    selector: Mapping[str, Any] | None,
    nodes: Mapping[str, Any],
) -> dict[str, Any]:
    """A SysctlProfile in Audit with the settings.

    Args:
        name: what it shall be called.
        settings: its sysctls.
        pods_of: namespace of the pods.
        selector: of the pods; None: for nodes.
        nodes: labels of the nodes; none: all.
    """
    spec: dict[str, Any] = {"mode": "Audit", "target": "Node" if selector is None else "Pods"}
    if selector is not None:
        spec["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": pods_of}}
        spec["podSelector"] = dict(selector)
    elif nodes:
        spec["nodeSelector"] = {"matchLabels": dict(nodes)}
    spec["sysctls"] = [{"name": one.name, "value": one.value} for one in settings]
    return {"apiVersion": API_VERSION, "kind": "SysctlProfile", "metadata": {"name": name}, "spec": spec}


def profile_name(source: Source) -> str:
    """A name for the profile: the namespace's and the workload's."""
    return f"{source.raw['metadata']['namespace']}-{source.name}"[:_NAME_LENGTH].rstrip("-.")


def patch_text(source: Source, fix: Fix, pod: str, minor: int) -> str:
    """The patch as YAML with comments.

    Args:
        source: the workload.
        fix: what to set.
        pod: name of the pod that it was found on.
        minor: of the cluster's Kubernetes 1.minor.
    """
    metadata = source.raw["metadata"]
    place = f"{metadata['namespace']}/{source.name}"
    force = " --force-conflicts" if source_has_sysctls(source) else ""
    merge = "" if str(source.raw["apiVersion"]).partition("/")[0] in {"apps", "batch", "v1"} else " --type=merge"
    head = [
        f"{source.kind} {place}: sysctls for its pods, against what was found on pod {metadata['namespace']}/{pod}.",
        *_first(fix),
        _RESTARTS.get(source.kind, "Applying this restarts the pods, as the workload's update strategy says."),
        f"The kubelet of Kubernetes 1.{minor} accepts what is new here; an older node may not.",
        "Put the same into the manifest or chart that the workload comes from: else its next deployment may undo it.",
    ]
    commands = [
        f"  kubectl sockethealth fix {pod} -n {metadata['namespace']} |",
        f"    kubectl apply --server-side --field-manager={FIELD_MANAGER}{force} -f -",
        f"  kubectl patch {source.kind.lower()} {source.name} -n {metadata['namespace']}{merge} --patch-file FILE",
    ]
    if force:
        head.append("--force-conflicts, as the list has another owner so far; it is kept below, where not corrected.")
    head += [f"Left out: {one.name}={one.value}. {' '.join(one.reasons)}" for one in fix.removed]
    return _commented(head, commands, patch(source, fix), fix.sysctls)


def profile_text(made: Mapping[str, Any], settings: Sequence[Setting], fix: Fix, title: str) -> str:
    """The profile as YAML with comments."""
    audit = (
        "In mode Audit it changes nothing: each node says what it would change (kubectl sockethealth profiles "
        f"{made['metadata']['name']}). Then set mode: Enforce. It needs the chart's sysctls.enabled=true."
    )
    head = [f"{title}.", *_first(fix), audit]
    if made["spec"]["target"] == "Node":
        head.append(
            "It changes the network namespace of the nodes, and with it every pod that has hostNetwork. A node refuses "
            "a port range that covers a listener of its own which is not reserved, and names the port."
        )
    else:
        head.append(
            "Pods are not restarted; a new pod has the values a moment after its start, until the profile goes."
        )
    return _commented(head, [], made, settings)


def _first(fix: Fix) -> Iterator[str]:
    return (f"First, against {step}" for step in fix.first)


def source_has_sysctls(source: Source) -> bool:
    """Whether the template has sysctls, whoever owns them."""
    context = (source.template.get("spec") or {}).get("securityContext") or {}
    return bool(context.get("sysctls"))


def _commented(
    head: Sequence[str], commands: Sequence[str], document: Mapping[str, Any], settings: Sequence[Setting]
) -> str:
    lines = [line for sentence in head for line in _comment(sentence, "")]
    lines += [f"# {printable(command)}" for command in commands]
    pending = iter(settings)
    for line in yaml.safe_dump(dict(document), sort_keys=False, width=_WIDTH).splitlines():
        # Nothing but sysctls has a list of named things here.
        if line.lstrip().startswith("- name: "):
            indent = line[: len(line) - len(line.lstrip())]
            for reason in next(pending).reasons or (_KEPT,):
                lines += _comment(reason, indent)
        lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def _comment(sentence: str, indent: str) -> Iterator[str]:
    # Names of processes and Services are others' text: a line break in one would end the comment.
    for line in wrap(printable(sentence), _WIDTH - len(indent) - 2, break_on_hyphens=False, break_long_words=False):
        yield f"{indent}# {line}"
