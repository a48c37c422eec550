"""`explain`: the runbook of a finding in the terminal, for both programs."""

import click
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from sockethealth_cli import output, runbooks
from sockethealth_cli.errors import UsageProblem
from sockethealth_cli.text import printable

_WIDTH = 100


def _complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in runbooks.summaries() if name.lower().startswith(incomplete.lower())]


@click.command()
@click.argument("finding", required=False, shell_complete=_complete)
@output.format_option
def explain(finding: str | None, form: output.Format) -> None:
    """Show a finding's runbook: what it means, how to confirm it, what fixes it, and what does not.

    FINDING is its type, such as CloseWaitLeak, in any case. Without it, all findings are listed.
    On a pipe, the page is Markdown as it is written.
    """
    summaries = runbooks.summaries()
    if finding is None and form != "table":
        listed = [{"finding": name, "summary": summary} for name, summary in summaries.items()]
        output.print_text(output.serialized_object({"findings": listed}, form))
        return
    if finding is None:
        output.print_report(_list())
        click.echo(f"\n{click.get_current_context().command_path} FINDING shows one of them.")
        return
    try:
        name = runbooks.named(finding)
        text = runbooks.page(name)
    except runbooks.UnknownFindingError as error:
        raise UsageProblem(printable(str(error))) from error
    except FileNotFoundError as error:
        raise UsageProblem(f"this installation lacks the page of {name}: install sockethealth again") from error
    if form != "table":
        output.print_text(output.serialized_object({"finding": name, "summary": summaries[name], "page": text}, form))
    elif output.on_terminal():
        output.print_report(Markdown(text, code_theme="ansi_dark", hyperlinks=False), most=_WIDTH)
    else:
        output.print_text(text)


def _list() -> Table:
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, summary in runbooks.summaries().items():
        grid.add_row(Text(name, style="bold"), Text(summary))
    return grid
