"""`sockethealth scan`: the socket health of this machine's network namespaces, once, without a cluster."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from typing import IO

import click

from sockethealth_cli import measure, namespaces, output, policies, render
from sockethealth_cli.demo import how_to_run
from sockethealth_cli.errors import UsageProblem
from sockethealth_cli.naming import FoundNetns, NamedNetns, name_all, with_unique_names
from sockethealth_cli.objects import socket_health
from sockethealth_cli.text import counted, printable
from sockethealth_core.resources import encode

_EPILOG = """\b
Examples:
  sudo sockethealth scan                        every namespace of this machine
  sudo sockethealth scan --netns blue -o json   one `ip netns`, for programs
  sudo sockethealth scan --policy rules.yaml    try policies without a cluster
  sockethealth scan --exit-code                 for scripts: 1 if Critical
\b
Exit codes:
  0  done
  1  something is Critical (with --exit-code)
  2  the scan could not be done as asked, or not of every namespace
"""


def _complete_netns(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in namespaces.ip_netns_names() if name.startswith(incomplete)]


def policy_option(command: output.AnyCommand) -> output.AnyCommand:
    """The option ``--policy``, as ``policy_files``."""
    return click.option(
        "--policy",
        "policy_files",
        type=click.File("r", encoding="utf-8"),
        multiple=True,
        metavar="FILE",
        help="Evaluate the policies in FILE (YAML, - for standard input) instead of the default policy. Repeatable.",
    )(command)


def netns_option(command: output.AnyCommand) -> output.AnyCommand:
    """The option ``--netns``, as ``netns_names``."""
    return click.option(
        "--netns",
        "netns_names",
        multiple=True,
        metavar="NAME",
        shell_complete=_complete_netns,
        help="Read only the network namespace that `ip netns` calls NAME. Repeatable.",
    )(command)


@click.command(epilog=_EPILOG)
@output.format_option
@policy_option
@netns_option
@click.option(
    "--interval",
    type=click.FloatRange(min=0, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between the two samples that rates are made of; 0 takes one sample, without rates.",
)
@output.exit_code_option
def scan(
    form: output.Format,
    policy_files: Sequence[IO[str]],
    netns_names: Sequence[str],
    interval: float,
    exit_code: bool,
) -> None:
    """Show the TCP socket health of this machine's network namespaces.

    One look, no cluster needed: sockets by state, ephemeral ports left to each destination, what the policy
    makes of it, and what helps. A look has no memory: a rule's `for` counts as zero, and the age of a
    CLOSE_WAIT is a lower bound. Without root, only the namespace you are in can be read.
    """
    rule_set = rule_set_of(policy_files)
    survey = namespaces.survey()
    chosen = chosen_of(survey, netns_names) if netns_names else name_all(survey.found)
    readings = measure.read_all(chosen, measure.ages_asked_for(rule_set.rules), interval)
    now = time.time()
    items = sorted(
        (
            socket_health(one.named, one.facts, rule_set.rules, node_name=platform.node(), now=now)
            for one in readings.read
        ),
        key=render.rank,
    )
    if form == "table":
        output.print_report(render.report(items, "machine"))
        if output.on_terminal() and not netns_names and items and not any(item.status.findings for item in items):
            click.echo(f"Nothing wrong here. `{how_to_run()}` shows what trouble looks like.")
    else:
        output.print_text(output.serialized([encode(item) for item in items], form))
    for sentence in rule_set.notes:
        output.note(sentence)
    failed = _tell_unread(readings.unread, survey.hidden, asked_by_name=bool(netns_names))
    if failed:
        sys.exit(2)
    if exit_code and any(item.status.health == "Critical" for item in items):
        sys.exit(1)


def rule_set_of(files: Sequence[IO[str]]) -> policies.RuleSet:
    """The rules of the files, or the default ones without any.

    Raises:
        UsageProblem: with what is wrong with the files.
    """
    if not files:
        return policies.default_rule_set()
    try:
        return policies.rule_set_of_files([policies.PolicyFile(file.name, file.read()) for file in files])
    except UnicodeDecodeError as error:
        raise UsageProblem(f"a policy file is not UTF-8 text: {error}") from error
    except policies.PolicyFileError as error:
        raise UsageProblem("\n       ".join(error.faults)) from error


def chosen_of(survey: namespaces.Survey, names: Sequence[str]) -> list[NamedNetns]:
    """The namespaces that `ip netns` calls so.

    Raises:
        UsageProblem: there is none of a name.
    """
    wanted: list[tuple[str, FoundNetns]] = []
    for name in dict.fromkeys(names):
        found = namespaces.chosen(survey.found, name)
        if found is None:
            existing = ", ".join(printable(known) for known in namespaces.ip_netns_names())
            raise UsageProblem(
                f"`ip netns` knows no network namespace '{printable(name)}'; it knows {existing or 'none at all'}. "
                "Without --netns, scan also shows those that have processes and no name."
            )
        wanted.append((name, found))
    return with_unique_names(wanted)


def _tell_unread(unread: Sequence[measure.Unread], hidden: int, *, asked_by_name: bool) -> bool:
    """Say what could not be read; whether that makes the scan a failed one."""
    refused = [one for one in unread if one.refused]
    for one in unread:
        if not one.refused:
            output.note(f"network namespace {one.named.name} could not be read: {printable(one.reason)}")
        elif asked_by_name:
            output.note(f"network namespace {one.named.name} {_way_in(1)}")
    if asked_by_name:
        return bool(unread)
    # A namespace that has a name and processes is among both, and without privilege nothing tells which.
    further = max(hidden, len(refused))
    if further:
        least = "at least " if hidden and refused else ""
        output.note(f"{least}{counted(further, 'further network namespace')} of this machine {_way_in(further)}")
    return any(not one.refused and not one.gone for one in unread)


def _way_in(number: int) -> str:
    verb = "needs" if number == 1 else "need"
    if os.geteuid() == 0:
        return (
            f"{verb} more to be read than root has here: CAP_SYS_ADMIN, CAP_SYS_PTRACE, or a security module's leave."
        )
    return f"{verb} root to be read: run with sudo."
