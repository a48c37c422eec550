"""Standard output in the three forms that both programs have: a table, JSON and YAML."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import click
import yaml
from rich.console import Console, RenderableType
from rich.theme import Theme

Format = Literal["table", "json", "yaml"]

# Rich's own has a black background, which a terminal with dark text on white shows as bars.
_THEME = Theme({"markdown.code": "bold cyan"})

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


def format_option(command: AnyCommand) -> AnyCommand:
    """The option ``-o table|json|yaml``, as ``form``."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="json and yaml: the objects themselves; a v1 List where there can be several.",
    )(command)


def exit_code_option(command: AnyCommand) -> AnyCommand:
    """The flag ``--exit-code``."""
    return click.option("--exit-code", is_flag=True, help="Exit with 1 if something is Critical.")(command)


def kubernetes_list(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A v1 List, as `kubectl get -o json` writes it."""
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def serialized(items: Sequence[dict[str, Any]], form: Literal["json", "yaml"]) -> str:
    """A v1 List as text."""
    return serialized_object(kubernetes_list(items), form)


def serialized_object(whole: dict[str, Any], form: Literal["json", "yaml"]) -> str:
    """An object as text. Both forms escape control characters, so a hostile name does not reach the terminal."""
    if form == "json":
        return json.dumps(whole, indent=2) + "\n"
    return yaml.safe_dump(whole, sort_keys=False, width=120)


def print_text(text: str) -> None:
    """Write text as it is."""
    click.echo(text, nl=False)


def on_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty()


def print_report(renderable: RenderableType, *, width: int | None = None, most: int | None = None) -> None:
    """Write a renderable: in colour on a terminal (NO_COLOR and TERM=dumb honoured), plain text elsewhere.

    Args:
        renderable: what to write.
        width: columns; without it, those of the terminal, or 80.
        most: columns used at most, of however many there are.
    """
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False, theme=_THEME)
    if most is not None:
        console.width = min(console.width, most)
    with console.capture() as capture:
        console.print(renderable, crop=False)
    # Table cells are padded to the column's width, which would leave blanks at the end of each line of a ticket.
    lines = [line.rstrip(" ") for line in capture.get().splitlines()]
    print_text("".join(f"{line}\n" for line in lines))


def note(sentence: str) -> None:
    """Tell the person something beside the result, on standard error."""
    click.echo(f"note: {sentence}", err=True)
