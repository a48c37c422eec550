"""Pieces of PromQL that alerts and dashboards share."""

from typing import Final

from sockethealth_core.metrics import (
    POD_SEGMENTS_RETRANSMITTED,
    POD_SEGMENTS_SENT,
    POD_SOCKETS,
    POD_SYN_SEGMENTS_RETRANSMITTED,
    Series,
)

RATE_WINDOW: Final = "2m"
"""Holds two samples at a scrape interval of a minute, and four at the usual 30 s."""


def select(series: Series, **labels: str) -> str:
    """A selector; a value that begins with ``~`` or ``!`` is matched by ``=~`` or ``!=``.

    Raises:
        ValueError: the series has no such label.
    """
    unknown = labels.keys() - set(series.labels)
    if unknown:
        raise ValueError(f"{series.name} has no label {', '.join(sorted(unknown))}")
    operators = {"~": "=~", "!": "!="}
    matchers = [
        f'{label}{operators[value[0]]}"{value[1:]}"' if value[:1] in operators else f'{label}="{value}"'
        for label, value in labels.items()
    ]
    return series.name + (f"{{{', '.join(matchers)}}}" if matchers else "")


def rate(series: Series, window: str = RATE_WINDOW, **labels: str) -> str:
    """A counter's increase per second."""
    return f"rate({select(series, **labels)}[{window}])"


def one_per(labels: str, expression: str) -> str:
    """One series for each value of the labels.

    The greatest, and not the sum: while an agent is replaced, two may speak of one pod.
    """
    return f"max by ({labels}) ({expression})"


def retransmitted_ratio(labels: str, window: str = RATE_WINDOW, **of: str) -> tuple[str, str]:
    """Share of segments that were sent again, and segments sent per second, as RetransmissionStorm counts them.

    Of the SYN and SYN/ACK sent again those are left out that clients leave unanswered: they are shared out by the
    connections that are half open in either direction (see ``lost_per_second`` of that detector).
    """
    half_open = one_per(labels, select(POD_SOCKETS, state="synRecv", **of))
    opening = f"({half_open} + {one_per(labels, select(POD_SOCKETS, state='synSent', **of))} > 0)"
    again = one_per(labels, rate(POD_SEGMENTS_RETRANSMITTED, window, **of))
    unanswered = (
        f"({one_per(labels, rate(POD_SYN_SEGMENTS_RETRANSMITTED, window, **of))} * {half_open} / {opening}"
        f" or {again} * 0)"
    )
    total = f"({one_per(labels, rate(POD_SEGMENTS_SENT, window, **of))} + {again} - {unanswered})"
    return f"clamp_min({again} - {unanswered}, 0) / {total}", total
