import pytest

from agent_builders import facts
from sockethealth_core.crossings import gauges, read
from sockethealth_core.noteworthy import MANY_SOCKETS, noteworthy
from sockethealth_core.resources import Listener, Watchpoint

LEAK = Watchpoint(detector="CloseWaitLeak", values=[10, 50], parameters={"minAge": "60s"})
EXPLAINED = Watchpoint(detector="OutboundTimeWait", values=[500], severity="Info")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (facts(established=5), False),
        (facts(close_wait=9, older=9), False),
        (facts(close_wait=10, older=10), True),
        (facts(close_wait=10, older=9), False),
        (facts(used=500, time_wait=500), True),
        (facts(established=MANY_SOCKETS - 1), False),
        (facts(established=MANY_SOCKETS - 2, close_wait=2), True),
        (facts(listeners=[Listener(address="::", port=80, queue=4, backlog=4)]), False),
        (facts(listeners=[Listener(address="::", port=80, queue=5, backlog=4)]), True),
    ],
)
def test_a_pod_is_noteworthy_from_its_lowest_watched_value_on(found, expected):
    by = gauges([LEAK, EXPLAINED])
    assert noteworthy(found, read(found, by), by) is expected
