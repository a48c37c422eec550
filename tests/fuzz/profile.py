"""A SysctlProfile, and names and values of sysctls as anybody may write them."""

from fuzz.documents import object_of
from sockethealth_core.resources import InvalidObjectError, SysctlProfile, decode
from sockethealth_core.sysctl_rules import advice, refusal, refusals, uncovered_listeners
from sockethealth_core.sysctls import NODE_PORTS, PORT_RANGE, SYSCTLS, Target, canonical

_TARGETS: tuple[Target, ...] = ("Node", "Pods")


def run(data: bytes) -> None:
    """Check a profile, or else take the text itself for a name, a value and both.

    May raise nothing: InvalidObjectError is the answer to what is no profile, ValueError of `canonical` and
    `uncovered_listeners` to what is no value.

    Raises:
        AssertionError: a value that is let pass has no canonical form, or one that means something else.
    """
    raw = object_of(data)
    if raw is not None:
        try:
            profile = decode(SysctlProfile, raw)
        except InvalidObjectError as error:
            str(error).encode()
        else:
            values = {one.name: one.value for one in profile.spec.sysctls}
            for target in _TARGETS:
                _together(values, target)
    text = data[:512].decode(errors="replace")
    name, _, value = text.partition("=")
    for target in _TARGETS:
        _one(name, value, target)
        for sysctl in SYSCTLS[:6]:
            _one(sysctl.name, text, target)
        _together({sysctl.name: text for sysctl in SYSCTLS}, target)
    for asked, reserved, in_force in ((text, "", "1 2"), ("1 65535", text, "1 2"), ("1 65535", "", text)):
        try:
            uncovered_listeners(asked, reserved, in_force, (80, 30000))
        except ValueError as error:
            _shown_on_one_line(str(error))


def _together(values: dict[str, str], target: Target) -> None:
    for sentence in (*refusals(values, target, NODE_PORTS), *advice(values, target)):
        _shown_on_one_line(sentence)


def _one(name: str, value: str, target: Target) -> None:
    sentence = refusal(name, value, target)
    try:
        spelling = canonical(name, value)
    except ValueError as error:
        _shown_on_one_line(str(error))
        assert sentence is not None, (name, value)
        return
    assert canonical(name, spelling) == spelling, (name, value)
    if sentence is None:
        assert refusal(name, spelling, target) is None, (name, value)
        assert spelling.isascii(), (name, value)
        assert name != PORT_RANGE or len(spelling.split()) == 2, value
    else:
        _shown_on_one_line(sentence)


def _shown_on_one_line(sentence: str) -> None:
    assert sentence.isascii(), sentence
    assert sentence.isprintable(), sentence
    assert len(sentence) < 4000, sentence
