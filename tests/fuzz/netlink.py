"""What the kernel answers to a socket dump: the walk over its messages, and every fold of them."""

from collections import Counter
from typing import Any

from sockethealth_agent import folding, inet_diag
from sockethealth_agent.folding import CgroupFold, CloseWaitFold, ConversationFold, ListenerFold, Roles
from sockethealth_agent.inet_diag import DumpFailed, TcpState

_ROLES = Roles(frozenset({80, 443, 8080}), 32768, 60999)
_CGROUPS = frozenset({0, 1, 4242})


def run(data: bytes) -> None:
    """Read one datagram of a dump in each way the agent does.

    May raise nothing: DumpFailed is the answer to what is no dump.

    Raises:
        AssertionError: the fast fold and the plain decoder count different sockets.
    """
    inet_diag._may_end(memoryview(data))
    sockets = _plainly(data)
    conversations = _folded(ConversationFold(_ROLES), data)
    for other in (
        ListenerFold(),
        CloseWaitFold(_ROLES.listening_ports),
        CgroupFold(_ROLES),
        folding._CgroupCloseWaitFold(_ROLES.listening_ports, folding.DEFAULT_LIMITS, _CGROUPS),
    ):
        _folded(other, data)
    if sockets is not None and conversations is not None:
        _compare(sockets, conversations)


def _plainly(data: bytes) -> list[inet_diag.Socket] | None:
    try:
        return list(inet_diag.iter_sockets([memoryview(data)]))
    except DumpFailed:
        return None


def _folded(fold: Any, data: bytes) -> Any:
    try:
        folding.fold_into(fold, [memoryview(data)])
    except DumpFailed:
        return None
    return fold.facts()


def _compare(sockets: list[inet_diag.Socket], found: folding.Conversations) -> None:
    expected = Counter(one.state for one in sockets)
    expected[TcpState.SYN_RECV] += expected.pop(TcpState.NEW_SYN_RECV, 0)
    counted = Counter(dict(found.states))
    assert found.unknown_states == sum(expected.values()) - sum(counted.values()), (expected, found)
    for state, count in counted.items():
        assert count == expected[state], (state, count, expected)
