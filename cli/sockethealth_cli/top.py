"""`sockethealth top`: the network namespaces of this machine, live."""

import contextlib
import itertools
import os
import platform
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO, Final, Literal

import click
from rich.console import Console
from rich.live import Live

from sockethealth_cli import keys, measure, namespaces, output, scan, top_state, top_view
from sockethealth_cli.naming import NamedNetns, name_all
from sockethealth_cli.objects import subject, with_judgement
from sockethealth_cli.policies import RuleSet
from sockethealth_cli.text import counted
from sockethealth_cli.top_state import LONGEST_DELAY, SHORTEST_DELAY, SORTS, Samples, View, row_of
from sockethealth_core.engine import evaluate, snapshot
from sockethealth_core.resources import Judgement, SocketHealth, encode

_EPILOG: Final = """\b
Keys: q quit, h help, P T C E N sort, R reverse, space pause, d delay,
      arrows choose a namespace, Enter shows all of it.
\b
Examples:
  sudo sockethealth top
  sudo sockethealth top --sort C -d 5
  sudo sockethealth top -b -n 3 > top.txt      three tables, for a ticket
"""
_BATCH_WIDTH: Final = 100
_READ_SIZE: Final = 1024
_SORT_NAMES: Final = {"ports": "P", "time-wait": "T", "close-wait": "C", "established": "E", "name": "N"}


class Watching:
    """Samples of this machine's namespaces, judged in time: a rule's `for` counts from the first sample on."""

    def __init__(self, rule_set: RuleSet, netns_names: Sequence[str]) -> None:
        self._rules = rule_set.rules
        self._netns_names = netns_names
        self._sampler = measure.Sampler(measure.ages_asked_for(rule_set.rules))
        self._judgements: Mapping[str, Judgement] = {}
        self._rule_notes = rule_set.notes
        self.notes: tuple[str, ...] = ()
        self.samples = Samples()
        self.items: list[SocketHealth] = []

    def sample(self) -> None:
        """Take one more."""
        survey = namespaces.survey()
        chosen = scan.chosen_of(survey, self._netns_names) if self._netns_names else name_all(survey.found)
        readings = self._sampler.sample(chosen)
        now = time.time()
        judgements = {}
        rows = []
        self.items = []
        for one in readings.read:
            judgement = self._judge(one.named, one, now)
            judgements[_key(one.named)] = judgement
            item = with_judgement(one.named, one.facts, judgement, node_name=platform.node())
            self.items.append(item)
            instant = snapshot(subject(one.named), one.facts, self._rules, now).findings
            rows.append(row_of(item, instant))
        self._judgements = judgements
        self.samples = self.samples.followed_by(rows, now)
        unread = max(survey.hidden, sum(not one.gone for one in readings.unread))
        further = f"{counted(unread, 'further network namespace')} could not be read: run with sudo"
        self.notes = (*self._rule_notes, *([further] if unread else []))

    def _judge(self, named: NamedNetns, measured: measure.Measured, now: float) -> Judgement:
        previous = self._judgements.get(_key(named), Judgement())
        return evaluate(subject(named), measured.facts, self._rules, previous, now).judgement


def _key(named: NamedNetns) -> str:
    # A pid and with it a name can come back as another namespace, whose findings begin anew.
    return f"{named.netns.id.device}:{named.netns.id.inode}"


@click.command(epilog=_EPILOG)
@click.option("-b", "--batch", is_flag=True, help="Plain tables one after the other, as when there is no terminal.")
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="COUNT", help="End after so many samples.")
@click.option(
    "-d",
    "--delay",
    type=click.FloatRange(min=SHORTEST_DELAY, max=LONGEST_DELAY),
    default=View().delay,
    show_default=True,
    metavar="SECONDS",
    help="Time between samples.",
)
@click.option(
    "--sort",
    type=click.Choice([*_SORT_NAMES, *SORTS], case_sensitive=False),
    default="ports",
    show_default=True,
    help="Column to sort by, or the key that does so.",
)
@scan.policy_option
@scan.netns_option
@output.format_option
def top(
    batch: bool,
    count: int | None,
    delay: float,
    sort: str,
    policy_files: Sequence[IO[str]],
    netns_names: Sequence[str],
    form: output.Format,
) -> None:
    """Show the TCP socket health of this machine's network namespaces, live.

    Findings are those of the policy, in time: a rule's `for` counts from the first sample on, and until it has
    passed, the finding is marked with ~. Without root, only the namespace you are in can be read. With -o json or
    yaml, each sample is a v1 List of SocketHealths.
    """
    watching = Watching(scan.rule_set_of(policy_files), netns_names)
    view = View(sort=_SORT_NAMES.get(sort.lower(), sort.upper()), delay=delay)
    if form != "table":
        with contextlib.suppress(KeyboardInterrupt):
            _samples(watching, view, count, form)
    elif batch or not (sys.stdin.isatty() and output.on_terminal()):
        with contextlib.suppress(KeyboardInterrupt):
            _batch(watching, view, count)
    else:
        _live(watching, view, count)


def _samples(watching: Watching, view: View, count: int | None, form: Literal["json", "yaml"]) -> None:
    for _ in _paced(watching, view, count):
        separator = "---\n" if form == "yaml" else ""
        output.print_text(separator + output.serialized([encode(item) for item in watching.items], form))
        sys.stdout.flush()


def _batch(watching: Watching, view: View, count: int | None) -> None:
    for taken in _paced(watching, view, count):
        if taken:
            click.echo()
        width = max(_BATCH_WIDTH, Console(file=sys.stdout).width) if output.on_terminal() else _BATCH_WIDTH
        output.print_report(top_view.batch(watching.samples, view, watching.notes, width), width=width)
        sys.stdout.flush()


def _paced(watching: Watching, view: View, count: int | None) -> Iterator[int]:
    """Take a sample each time one is due, and give its number."""
    due = time.monotonic()
    for taken in itertools.count():
        watching.sample()
        yield taken
        if taken + 1 == count:
            return
        due += view.delay
        time.sleep(max(0.0, due - time.monotonic()))


def _live(watching: Watching, view: View, count: int | None) -> None:
    terminal = sys.stdin.fileno()
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    watching.sample()
    taken, sampled_at = 1, time.monotonic()
    with (
        keys.woken_by_signals() as wakeup,
        keys.unbuffered(terminal),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while not view.quit and taken != count:
            width, height = console.size
            frame = top_view.frame(watching.samples, view, watching.notes, width, height)
            view = replace(view, scroll=frame.scroll)
            live.update(frame.body, refresh=True)
            until = None if view.paused else max(0.0, sampled_at + view.delay - time.monotonic())
            ready, _, _ = select.select([terminal, wakeup], [], [], until)
            if wakeup in ready:
                os.read(wakeup, _READ_SIZE)
            if terminal in ready:
                data = os.read(terminal, _READ_SIZE)
                if not data:
                    return
                for key in keys.names_of(data):
                    if key == "suspend":
                        _suspend(live, terminal)
                    view = top_state.pressed(view, key, watching.samples.rows)
            if not view.paused and time.monotonic() >= sampled_at + view.delay:
                watching.sample()
                taken, sampled_at = taken + 1, time.monotonic()


def _suspend(live: Live, terminal: int) -> None:
    """Ctrl-Z: give the terminal back to the shell, and take it again when the shell says so."""
    mine = termios.tcgetattr(terminal)
    shells = termios.tcgetattr(terminal)
    shells[3] |= termios.ICANON | termios.ECHO | termios.ISIG
    live.stop()
    termios.tcsetattr(terminal, termios.TCSADRAIN, shells)
    os.kill(0, signal.SIGTSTP)
    termios.tcsetattr(terminal, termios.TCSADRAIN, mine)
    live.start()
