"""Command line of the operator."""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from sockethealth_core import logs
from sockethealth_operator import application, settings
from sockethealth_operator.api import Api, ApiError
from sockethealth_operator.cleanup import Outcome, Request, clean_up
from sockethealth_operator.definitions import apply_definitions
from sockethealth_operator.objects import ResourceType
from sockethealth_operator.verify import Installation, Result
from sockethealth_operator.verify import verify as verify_installation


class _RunByDefault(click.Group):
    """A group whose command is ``run`` when none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_RunByDefault,
    context_settings={"auto_envvar_prefix": settings.ENVIRONMENT_PREFIX, "help_option_names": ["-h", "--help"]},
    epilog="Every option can be given by a variable, such as SOCKETHEALTH_RUN_LOG_LEVEL=debug.",
)
def main() -> None:
    """Judges the sockets of pods by policies, and says so on workloads and in Events.

    \b
    Examples:
      sockethealth-operator                                   in a pod
      sockethealth-operator run --kubeconfig ~/.kube/config --log-format plain
      sockethealth-operator apply-crds
      sockethealth-operator cleanup --timeout 30s
      sockethealth-operator verify
    """  # noqa: D301 (click's mark for keeping lines)


@main.command()
@settings.run_options
def run(**options: Any) -> None:
    """Run the operator (the default).

    \b
    Examples:
      sockethealth-operator run --log-format plain --log-level debug
      sockethealth-operator run --workload-kind argoproj.io/v1alpha1/rollouts
    """  # noqa: D301 (click's mark for keeping lines)
    _configure_logs(options)
    _finish(application.run(settings.from_options(options)))


@main.command("apply-crds")
@settings.common_options
@click.option("--timeout", type=settings.Duration(), default="60s", show_default=True, help="When to give up.")
def apply_crds(timeout: float, kubeconfig: Path | None, **options: Any) -> None:
    """Install or upgrade the CustomResourceDefinitions, and wait until they are served.

    \b
    Example:
      sockethealth-operator apply-crds --timeout 30s
    """  # noqa: D301 (click's mark for keeping lines)
    _configure_logs(options)

    async def work() -> None:
        async with asyncio.timeout(timeout), await Api.connect(kubeconfig) as api:
            for name in await apply_definitions(api):
                print(f"{name} applied")

    _finish(work())


@main.command()
@settings.cleanup_options
def cleanup(
    timeout: float,
    kubeconfig: Path | None,
    workload_kind: tuple[ResourceType, ...],
    delete_deployment: tuple[tuple[str, str], ...],
    delete_lease: tuple[tuple[str, str], ...],
    delete_daemonset: tuple[tuple[str, str], ...],
    restore_sysctls: bool,
    restore_timeout: float,
    delete_reports: bool,
    delete_crds: bool,
    **options: Any,
) -> None:
    """Remove all annotations from workloads and pods. Exits with 1 if something is left.

    \b
    Examples:
      sockethealth-operator cleanup --delete-deployment sockethealth/sockethealth-operator --timeout 60s
      sockethealth-operator cleanup --restore-sysctls --delete-deployment sockethealth/sockethealth-operator
    """  # noqa: D301 (click's mark for keeping lines)
    _configure_logs(options)
    outcome = Outcome(0, [])

    async def work() -> None:
        restore_seconds = restore_timeout if restore_sysctls else None
        request = Request(
            deployments=delete_deployment,
            leases=delete_lease,
            daemon_sets=delete_daemonset,
            restore_seconds=restore_seconds,
            extra_kinds=workload_kind,
            reports=delete_reports,
            definitions=delete_crds,
        )
        try:
            async with asyncio.timeout(timeout + (restore_seconds or 0.0)), await Api.connect(kubeconfig) as api:
                await clean_up(api, request, outcome)
        except TimeoutError:
            outcome.faults.append(f"Not done within {timeout:g} s: run it again, or with a longer --timeout")

    _finish(work())
    print(f"Annotations removed from {outcome.cleaned} objects.")
    for fault in outcome.faults:
        print(fault, file=sys.stderr)
    if outcome.faults:
        sys.exit(1)


@main.command()
@settings.common_options
@click.option(
    "--daemonset",
    type=settings.NamespacedName(),
    default="sockethealth/sockethealth-agent",
    show_default=True,
    help="The agent's DaemonSet, as namespace/name.",
)
@click.option(
    "--deployment",
    type=settings.NamespacedName(),
    default="sockethealth/sockethealth-operator",
    show_default=True,
    help="The operator's Deployment, as namespace/name.",
)
@click.option("--sysctl-writer", is_flag=True, help="Each node is to have a sysctl writer.")
@click.option("--timeout", type=settings.Duration(), default="60s", show_default=True, help="When to give up.")
def verify(
    timeout: float,
    kubeconfig: Path | None,
    daemonset: tuple[str, str],
    deployment: tuple[str, str],
    sysctl_writer: bool,
    **options: Any,
) -> None:
    """Prove an installation: kinds served, agents reporting, a bad sysctl refused. Changes nothing.

    \b
    Examples:
      sockethealth-operator verify --kubeconfig ~/.kube/config
      sockethealth-operator verify --daemonset monitoring/sockethealth-agent \\
        --deployment monitoring/sockethealth-operator --timeout 2m
    """  # noqa: D301 (click's mark for keeping lines)
    _configure_logs(options)
    result = Result([], [])

    async def work() -> None:
        try:
            async with asyncio.timeout(timeout), await Api.connect(kubeconfig) as api:
                await verify_installation(api, Installation(daemonset, deployment, sysctl_writer), result)
        except TimeoutError:
            result.faults = result.faults or [f"The API server did not answer everything within {timeout:g} s"]

    _finish(work())
    for sentence in result.proofs:
        print(sentence)
    for sentence in result.faults:
        print(sentence, file=sys.stderr)
    if result.faults:
        sys.exit(1)


def _configure_logs(options: dict[str, Any]) -> None:
    logs.configure(options["log_level"], json=options["log_format"] == "json")


def _finish(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(work)
    except ApiError as error:
        sys.exit(str(error))
    except TimeoutError:
        sys.exit("The API server did not do it in time: run it again, or with a longer --timeout")
