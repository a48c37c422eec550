"""A policy as anybody may write it in a namespace of their own."""

from fuzz.documents import object_of
from sockethealth_core.detectors.base import MeasureError
from sockethealth_core.policy import Policy, PolicyError, Scene, read_policy, watchpoints
from sockethealth_core.resources import Facts, InvalidObjectError, NodeFacts, SocketHealth, decode
from sockethealth_core.units import format_time

_SCENE = Scene("shop", {"app": "web"}, {"team": "a"}, {"gpu": "none"})
_NOW = 1_790_000_000.0


def run(data: bytes) -> None:
    """Check a policy, and use one that passes as the operator does.

    May raise nothing: PolicyError is the answer to a policy that cannot be used.
    """
    raw = object_of(data)
    if raw is None:
        return
    try:
        _use(read_policy(raw))
    except PolicyError as error:
        str(error).encode()
    try:
        decode(SocketHealth, raw)
    except InvalidObjectError as error:
        str(error).encode()


def _use(policy: Policy) -> None:
    policy.selects(_SCENE)
    watchpoints([policy])
    for rule in policy.rules:
        format_time(_NOW + rule.for_seconds)
        format_time(_NOW + rule.clear_after_seconds)
        for facts in (Facts(), NodeFacts()):
            try:
                rule.detector.measure(facts, rule.parameters)
            except MeasureError:
                continue
