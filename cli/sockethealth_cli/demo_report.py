"""What the demo shows: the table of a scan, then each trouble in plain words. Pure: objects to renderables."""

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sockethealth_cli import render
from sockethealth_cli.demo_scenes import MIN_AGE, SCENES, Scene
from sockethealth_cli.text import printable
from sockethealth_core.resources import SocketHealth

FAREWELL: Final = """
All of it is gone again: the namespaces, their processes and their sockets.
Next:  sudo sockethealth scan               this machine, as it is
       sudo sockethealth top                the same, live
       sockethealth explain CloseWaitLeak   how to confirm and fix it"""

_JUDGED_BY: Final = (
    f"Judged by the default rules with one change: a CLOSE_WAIT counts from {MIN_AGE} of age instead of 60s, as a "
    "demo does not wait a minute."
)
_WIDTH: Final = 80


def report(items: Sequence[SocketHealth], proof: str) -> RenderableType:
    """Table, and one block for each scene.

    Args:
        items: one for each of SCENES, in that order.
        proof: what the client that ran out of ports saw itself.
    """
    parts: list[RenderableType] = [render.table(items, "machine"), Text(), Text(_JUDGED_BY, overflow="fold")]
    for number, (scene, item) in enumerate(zip(SCENES, items, strict=True), 1):
        parts += [Text(), _block(number, scene, item, proof if scene.finding == "EphemeralPortExhaustion" else "")]
    return Group(*parts)


def _block(number: int, scene: Scene, item: SocketHealth, proof: str) -> RenderableType:
    finding = next((one for one in item.status.findings if one.type == scene.finding), None)
    heading = Text.assemble((f"{number}. {scene.title}", "bold"))
    if finding is None:
        # A kernel that behaves otherwise than all we know is shown as it is rather than explained away.
        return Group(heading, Text(f"   The scan did not find {scene.finding} here; the sockets may have drained."))
    lines = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False, width=_WIDTH)
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    severity = Text.assemble((finding.severity, render.STYLES[finding.severity]), f"  {finding.type}")
    rows = [
        ("Finding", severity),
        ("You see", Text(_joined(render.sentence(printable(finding.message)), proof))),
        ("Why", Text(scene.why)),
        ("What helps", Text(printable(finding.remedy))),
        ("What does not", Text(scene.helpless)),
    ]
    for name, text in rows:
        lines.add_row(Text(f"   {name}", style="bold"), text)
    return Group(heading, lines)


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))
