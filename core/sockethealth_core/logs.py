"""How every program of the project logs: one line an event, as JSON for collectors or plain for people."""

import logging
import sys
import time
from typing import Any, Final

from pythonjsonlogger.json import JsonFormatter

LEVELS: Final = ("debug", "info", "warning", "error")
"""Levels a program's ``--log-level`` takes."""

_FIELDS: Final = ["levelname", "name", "message"]


def configure(level: str, *, json: bool) -> None:
    """Send all logs to standard error; whatever was configured before is replaced.

    Args:
        level: one of :data:`LEVELS`; below it nothing is shown.
        json: one JSON object a line with ``time``, ``level``, ``logger``, ``message`` and whatever a call
            gives as ``extra``; otherwise one line of text.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json_formatter() if json else _plain_formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _json_formatter() -> logging.Formatter:
    return JsonFormatter(
        _FIELDS, rename_fields={"levelname": "level", "name": "logger"}, timestamp="time", json_ensure_ascii=True
    )


class _OneLine(logging.Formatter):
    """A line an event whatever is in it: a name may hold what steers a terminal, or a line break and a forged event."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        return _shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        return "\n".join(f"  {_shown(line)}" for line in super().formatException(ei).split("\n"))


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _plain_formatter() -> logging.Formatter:
    formatter = _OneLine("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    return formatter
