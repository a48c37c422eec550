"""A CEL expression as anybody may write it in a policy of their own namespace."""

import time

from sockethealth_core.detectors.base import MeasureError
from sockethealth_core.detectors.expression import check, measure
from sockethealth_core.resources import CloseWait, Facts, Listener, Owner

LONGEST_SECONDS = 1.0
"""Of processor time for one expression: five times its bound."""

_OWNERS = [Owner(container="web", process="java -jar " + "a" * 40, pid=number, count=1) for number in range(5)]
_FULL = Facts(
    close_wait=CloseWait(owners=_OWNERS),
    listeners=[Listener(address="10.0.0.1", port=port, process="nginx") for port in range(5)],
    sysctls={f"net.ipv4.number_{number}": "1" for number in range(32)},
)


def run(data: bytes) -> None:
    """Check an expression, and evaluate one that passes, over no sockets and over many.

    May raise nothing: MeasureError is the answer to what cannot be evaluated over these facts.

    Raises:
        AssertionError: it took longer than LONGEST_SECONDS, or a fault is more than one line.
    """
    text = data.decode(errors="replace")
    begun = time.process_time()
    faults = check({"expression": text})
    for fault in faults:
        assert "\n" not in fault, fault
    if not faults:
        for facts in (Facts(), _FULL):
            try:
                measure(facts, {"expression": text})
            except MeasureError:
                continue
    took = time.process_time() - begun
    assert took < LONGEST_SECONDS, f"{took:.1f} s: {text}"
