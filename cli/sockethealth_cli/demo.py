"""`sockethealth demo`: three kinds of trouble, made here, scanned and explained; nothing of it stays."""

import json
import os
import platform
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import click

from sockethealth_cli import demo_report, measure, namespaces, output
from sockethealth_cli.demo_scenes import SCENES, VISITS, proof, rules
from sockethealth_cli.errors import UsageProblem
from sockethealth_cli.naming import NamedNetns
from sockethealth_cli.objects import socket_health
from sockethealth_cli.text import printable
from sockethealth_core.resources import SocketHealth, encode

_STEP_SECONDS: Final = 30
_INTERVAL_SECONDS: Final = 1.2

_EPILOG = """\b
Examples:
  sudo sockethealth demo
  sudo sockethealth demo --hold     then, elsewhere: sudo sockethealth top
"""


def how_to_run() -> str:
    """The demo's command line for this installation; `sudo` searches a PATH of its own."""
    return f"sudo {shlex.quote(sys.argv[0])} demo"


@click.command(epilog=_EPILOG)
@click.option("--hold", is_flag=True, help="Keep the trouble up until Enter or Ctrl-C, to look at it with other tools.")
@output.format_option
def demo(hold: bool, form: output.Format) -> None:
    """Show what trouble looks like: make three kinds of it, scan, explain, clean up.

    Takes about five seconds and needs root. All of it happens in network namespaces that the demo makes and that
    are gone with it, also when it is interrupted or killed.
    """
    if os.geteuid() != 0:
        raise UsageProblem(f"the demo makes network namespaces, which needs root: run {how_to_run()}")
    try:
        _play(form, hold=hold)
    except KeyboardInterrupt:
        click.echo("\nInterrupted. The demo's namespaces and processes are gone.")
        sys.exit(130)


def _play(form: output.Format, *, hold: bool) -> None:
    def tell(line: str) -> None:
        # Beside objects for a program, what is told to a person goes where it does no harm.
        click.echo(line, err=form != "table")

    tell("Three network namespaces will misbehave; nothing outside of them is touched.\n")
    with ExitStack() as stack:
        peers = stack.enter_context(_actor("peers"))
        actors = {scene.role: stack.enter_context(_actor(scene.role)) for scene in SCENES}
        _ask(peers, "peers", pids=[actors[scene.role].pid for scene in SCENES])
        for role, actor in actors.items():
            _ask(actor, "join", role=role)
        leaked = _ask(actors["leak"], "leak")["leaked"]
        tell(f"  [1/4] an application forgot to close {leaked} connections")
        _ask(actors["server"], "serve")
        _ask(peers, "visit")
        tell(f"  [2/4] a server hung up on {VISITS:,} visitors")
        seen = _ask(actors["churn"], "churn")
        tell(f"  [3/4] a client opened {seen['opened']:,} connections, one a request, and got stuck")
        items = _scan([actors[scene.role].pid for scene in SCENES])
        tell(f"  [4/4] scanned the three, twice, {_INTERVAL_SECONDS} s apart\n")
        if form == "table":
            output.print_report(demo_report.report(items, proof(seen["opened"])))
        else:
            output.print_text(output.serialized([encode(item) for item in items], form))
        if hold:
            tell("\nHeld: look elsewhere with `sockethealth top`, `sockethealth scan` or `ss`. Enter ends it.")
            sys.stdin.readline()
    tell(demo_report.FAREWELL)


def _scan(pids: Sequence[int]) -> list[SocketHealth]:
    compiled = rules()
    chosen = _those_of(pids)
    readings = measure.read_all(chosen, measure.ages_asked_for(compiled), _INTERVAL_SECONDS)
    for one in readings.unread:
        raise UsageProblem(f"{one.named.name} could not be read: {printable(one.reason)}")
    now = time.time()
    return [socket_health(one.named, one.facts, compiled, node_name=platform.node(), now=now) for one in readings.read]


def _those_of(pids: Sequence[int]) -> list[NamedNetns]:
    by_pid = {process.pid: found for found in namespaces.survey().found for process in found.processes}
    return [NamedNetns(scene.name, scene.name, by_pid[pid]) for scene, pid in zip(SCENES, pids, strict=True)]


@contextmanager
def _actor(role: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "sockethealth_cli.demo_actor", role, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            _answer(process)
            yield process
        finally:
            process.kill()


def _ask(actor: "subprocess.Popen[str]", step: str, **arguments: Any) -> Mapping[str, Any]:
    if actor.stdin is None:
        raise AssertionError("an actor is started with pipes")
    actor.stdin.write(json.dumps({"step": step, **arguments}) + "\n")
    actor.stdin.flush()
    return _answer(actor)


def _answer(actor: "subprocess.Popen[str]") -> Mapping[str, Any]:
    if actor.stdout is None:
        raise AssertionError("an actor is started with pipes")
    # One line answers one step, so nothing waits in Python's buffer that select would not see.
    ready, _, _ = select.select([actor.stdout], [], [], _STEP_SECONDS)
    line = actor.stdout.readline() if ready else ""
    answer: dict[str, Any] = json.loads(line) if line else {"error": "a process of the demo did not answer"}
    if "error" in answer:
        raise UsageProblem(f"the demo cannot be staged here: {printable(answer['error'])}")
    return answer
