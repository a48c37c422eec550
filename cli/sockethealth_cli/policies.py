"""The rules a scan evaluates: the chart's default policy, or those of files. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sockethealth_cli.text import printable
from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.policy import CompiledRule, Policy, PolicyError, compile_policy, read_policy
from sockethealth_core.resources import LabelSelector


class PolicyFileError(Exception):
    """Policy files that cannot be used; ``faults`` are sentences, each with its file."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A file as it was read: its name for messages, and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in force for every namespace of the scan, and sentences about what differs from a cluster."""

    rules: tuple[CompiledRule, ...]
    notes: tuple[str, ...] = ()


def default_rule_set() -> RuleSet:
    """The rules a fresh installation evaluates."""
    return RuleSet(compile_policy(DEFAULT_POLICY).rules)


def rule_set_of_files(files: Iterable[PolicyFile]) -> RuleSet:
    """The rules of every policy in the files; each file may hold several documents, or a List.

    Raises:
        PolicyFileError: with every fault of every file.
    """
    faults: list[str] = []
    policies: list[Policy] = []
    for file in files:
        before = len(faults), len(policies)
        for place, document in _documents(file, faults):
            policy = _policy(place, document, faults)
            if policy is not None:
                if any(_identity(policy) == _identity(known) for known in policies):
                    faults.append(f"{place}: {_title(policy)} is there twice: keep one of them")
                policies.append(policy)
        if before == (len(faults), len(policies)):
            faults.append(
                f"{printable(file.name)} holds no policy: write a SocketHealthPolicy or ClusterSocketHealthPolicy in it"
            )
    if faults:
        raise PolicyFileError(faults)
    return _in_force(policies)


def _documents(file: PolicyFile, faults: list[str]) -> Iterator[tuple[str, Any]]:
    name = printable(file.name)
    try:
        documents = list(yaml.safe_load_all(file.text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        faults.append(f"{name} is not YAML{where}: {error.problem or error.context}")
        return
    except yaml.YAMLError as error:
        faults.append(f"{name} is not YAML: {printable(str(error))}")
        return
    several = len(documents) > 1
    for number, document in enumerate(documents, 1):
        place = f"{name}, document {number}" if several else name
        if document is None:
            continue
        if isinstance(document, Mapping) and document.get("kind") == "List":
            items = document.get("items")
            for index, item in enumerate(items if isinstance(items, list) else []):
                yield f"{place}, items[{index}]", item
        else:
            yield place, document


def _policy(place: str, document: Any, faults: list[str]) -> Policy | None:
    if not isinstance(document, Mapping):
        faults.append(f"{place}: not a policy: an object with apiVersion, kind, metadata and spec is wanted")
        return None
    for field in ("metadata", "spec"):
        if not isinstance(document.get(field), Mapping):
            faults.append(f"{place}: {field} is missing or is no object: write '{field}:' with indented fields below")
            return None
    try:
        return read_policy(document)
    except PolicyError as error:
        faults.extend(printable(f"{place}: {error.policy}: {fault}") for fault in error.faults)
        return None


def _in_force(policies: Iterable[Policy]) -> RuleSet:
    rules: list[CompiledRule] = []
    notes: list[str] = []
    for policy in policies:
        selectors = [
            name
            for name, selector in (
                ("podSelector", policy.pod_selector),
                ("namespaceSelector", policy.namespace_selector),
                ("nodeSelector", policy.node_selector),
            )
            if selector not in (None, LabelSelector())
        ]
        if selectors:
            notes.append(
                f"{_title(policy)} was evaluated for nothing, as a scan knows no labels to match with its "
                f"{' and '.join(selectors)}. Leave that out of a copy of the file to try the rules."
            )
            continue
        if policy.namespace is not None:
            notes.append(
                f"{_title(policy)} was evaluated for every network namespace: a scan knows no Kubernetes "
                f"namespaces. In a cluster it concerns the pods of namespace {printable(policy.namespace)} only."
            )
        rules.extend(policy.rules)
    return RuleSet(tuple(rules), tuple(notes))


def _identity(policy: Policy) -> tuple[str, str | None, str]:
    return policy.kind, policy.namespace, policy.name


def _title(policy: Policy) -> str:
    place = f"{policy.namespace}/{policy.name}" if policy.namespace is not None else policy.name
    return printable(f"{policy.kind} {place}")
