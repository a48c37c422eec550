"""The operator's settings, from command line and environment; the only place that reads either."""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from sockethealth_core.logs import LEVELS
from sockethealth_core.units import parse_duration
from sockethealth_operator.election import Terms
from sockethealth_operator.objects import ResourceType

F = TypeVar("F", bound=Callable[..., Any])

ENVIRONMENT_PREFIX = "SOCKETHEALTH"
"""Every option is also read from a variable: ``run --log-level`` from SOCKETHEALTH_RUN_LOG_LEVEL, and so on."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``sockethealth-operator run`` is told. Times in seconds."""

    kubeconfig: Path | None = None
    health_address: tuple[str, int] = ("0.0.0.0", 8080)  # noqa: S104 (probes come from the node)
    metrics_address: tuple[str, int] = ("0.0.0.0", 9090)  # noqa: S104 (scrapes come from other pods)
    workers: int = 8
    resync_seconds: float = 300.0
    workload_kinds: tuple[ResourceType, ...] = ()
    lease: tuple[str, str] = ("sockethealth", "sockethealth-operator")
    lease_terms: Terms = field(default_factory=Terms)
    instance: str = field(default_factory=socket.gethostname)


def from_options(options: Mapping[str, Any]) -> Settings:
    """Settings of the parsed options of :func:`run_options`.

    Raises:
        click.UsageError: options that do not go together, with a sentence.
    """
    terms = _terms(options["lease_duration"], options["lease_deadline"], options["lease_renew"])
    return Settings(
        kubeconfig=options["kubeconfig"],
        health_address=options["health_address"],
        metrics_address=options["metrics_address"],
        workers=options["workers"],
        resync_seconds=options["resync"],
        workload_kinds=tuple(options["workload_kind"]),
        lease=options["lease"],
        lease_terms=terms,
        instance=options["instance"] or socket.gethostname(),
    )


def _terms(duration_seconds: float, deadline_seconds: float, renew_seconds: float) -> Terms:
    if not (duration_seconds.is_integer() and renew_seconds > 0):
        raise click.UsageError("--lease-duration is in whole seconds, as a Lease has it, and --lease-renew above zero")
    terms = Terms(int(duration_seconds), deadline_seconds, renew_seconds)
    fault = terms.fault()
    if fault is not None:
        raise click.UsageError(fault)
    return terms


class Duration(click.ParamType[float]):
    """A duration such as 30s or 5m, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the text of an option."""
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Address(click.ParamType[tuple[str, int]]):
    """A host and a port to listen on."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Read the text of an option."""
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            self.fail(f"'{value}' is no address to listen on: write host:port, such as 0.0.0.0:8080", param, ctx)
        return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 (":8080" means all addresses)


class WorkloadKind(click.ParamType[ResourceType]):
    """A kind of workload as group/version/plural."""

    name = "group/version/plural"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ResourceType:
        """Read the text of an option."""
        if isinstance(value, ResourceType):
            return value
        parts = str(value).split("/")
        if len(parts) != 3 or not all(parts):
            self.fail(
                f"'{value}' is no kind: write group/version/plural, such as argoproj.io/v1alpha1/rollouts", param, ctx
            )
        return ResourceType(parts[0], parts[1], parts[2], parts[2], namespaced=True)


class NamespacedName(click.ParamType[tuple[str, str]]):
    """An object as namespace/name."""

    name = "namespace/name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Read the text of an option."""
        if isinstance(value, tuple):
            return value
        namespace, _, name = str(value).partition("/")
        if not namespace or not name or "/" in name:
            self.fail(f"'{value}' names no object: write namespace/name, such as sockethealth/operator", param, ctx)
        return namespace, name


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator; ``--help`` shows them in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def common_options(function: F) -> F:
    """Options of every command."""
    return _options(
        click.option(
            "--kubeconfig",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Kubeconfig to use. Otherwise the pod's service account, or KUBECONFIG.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["json", "plain"]),
            default="json",
            show_default=True,
            help="One JSON object or one line of text an event.",
        ),
        click.option(
            "--log-level",
            type=click.Choice(LEVELS),
            default="info",
            show_default=True,
            help="What is logged.",
        ),
    )(function)


def workload_kind_option(function: F) -> F:
    """Which kinds may carry annotations beside those of Kubernetes itself."""
    return click.option(
        "--workload-kind",
        type=WorkloadKind(),
        multiple=True,
        help="A further kind to search for forgotten annotations, such as argoproj.io/v1alpha1/rollouts; repeatable.",
    )(function)


def run_options(function: F) -> F:
    """Options of ``run``."""
    return _options(
        click.option(
            "--health-address",
            type=Address(),
            default="0.0.0.0:8080",
            show_default=True,
            help="Where /healthz and /readyz are served.",
        ),
        click.option(
            "--metrics-address",
            type=Address(),
            default="0.0.0.0:9090",
            show_default=True,
            help="Where /metrics is served.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, 64),
            default=8,
            show_default=True,
            help="Objects worked on at once.",
        ),
        click.option(
            "--resync",
            type=Duration(),
            default="5m",
            show_default=True,
            help="How often the cluster is compared with what is remembered.",
        ),
        click.option(
            "--lease",
            type=NamespacedName(),
            default="sockethealth/sockethealth-operator",
            show_default=True,
            help="The Lease, as namespace/name, that the replica has that does the work; the others stand by.",
        ),
        click.option(
            "--lease-duration",
            type=Duration(),
            default="13s",
            show_default=True,
            help="How long a Lease that is not renewed is left to its holder.",
        ),
        click.option(
            "--lease-deadline",
            type=Duration(),
            default="11s",
            show_default=True,
            help="When a holder that cannot renew it stops its work; shorter than --lease-duration.",
        ),
        click.option(
            "--lease-renew",
            type=Duration(),
            default="2s",
            show_default=True,
            help="How often the holder renews it, and others look.",
        ),
        click.option(
            "--instance",
            default=lambda: os.environ.get("POD_NAME", ""),
            help="Name of this instance in Events and in the Lease. Default: POD_NAME, or the host's name.",
        ),
        workload_kind_option,
        common_options,
    )(function)


def cleanup_options(function: F) -> F:
    """Options of ``cleanup``."""
    return _options(
        common_options,
        workload_kind_option,
        click.option(
            "--delete-deployment",
            type=NamespacedName(),
            multiple=True,
            help="A Deployment to delete first, as namespace/name: the operator's own, which would annotate again.",
        ),
        click.option(
            "--delete-lease",
            type=NamespacedName(),
            multiple=True,
            help="A Lease to delete, as namespace/name, once no Deployment is left that would take it anew.",
        ),
        click.option(
            "--delete-daemonset",
            type=NamespacedName(),
            multiple=True,
            help="A DaemonSet to delete, as namespace/name: the agent's.",
        ),
        click.option(
            "--restore-sysctls",
            is_flag=True,
            help="Before any DaemonSet is deleted, have every node put back the sysctls that profiles have changed.",
        ),
        click.option(
            "--restore-timeout",
            type=Duration(),
            default="60s",
            show_default=True,
            help="How long nodes have for that; it is not part of --timeout.",
        ),
        click.option("--delete-reports", is_flag=True, help="Delete the SocketHealths and NodeSocketHealths too."),
        click.option(
            "--delete-crds",
            is_flag=True,
            help="Delete the CustomResourceDefinitions and all of their objects too.",
        ),
        click.option("--timeout", type=Duration(), default="60s", show_default=True, help="When to give up."),
    )(function)
