"""The rules of :mod:`sockethealth_core.sysctl_rules` in CEL, for the API server: what it refuses and what it warns of.

``self`` is an entry of a profile's sysctls, its spec, or, in a ValidatingAdmissionPolicy, ``object.spec`` is the spec.
The API server estimates what an expression can cost from the bounds of the fields, so ports are cut out of a text with
indexOf and substring: a nested loop over parts of parts would be over its limit.
"""

from dataclasses import dataclass
from typing import Final

from sockethealth_core.sysctl_rules import (
    INVERTED,
    NOT_INHERITED,
    RECYCLE_REFUSED,
    TOO_SMALL,
    UNKNOWN,
    advises_default,
    caution_advice,
    default_advice,
    node_ports_refused,
    own_spec_advice,
    wrong_target,
)
from sockethealth_core.sysctls import (
    MINIMUM_PORT_RANGE,
    NODE_PORTS,
    PATTERNS,
    PORT_RANGE,
    RESERVED_PORTS,
    SYSCTLS,
    TCP_TW_RECYCLE,
    Caution,
    Sysctl,
    SysctlKind,
)


@dataclass(frozen=True, slots=True)
class Check:
    """An expression that is true where all is well, and the sentence where it is not.

    ``message_expression`` is CEL for the sentence with the value in it. The API server falls back to the sentence where
    that value has line breaks.
    """

    expression: str
    sentence: str
    message_expression: str | None = None


def _not(sentence: str) -> str:
    return f'"{sentence}, not \'" + self.value + "\'"'


def _matches(value: str, kind: SysctlKind) -> str:
    return f"{value}.matches(r'^{PATTERNS[kind]}$')"


def _spaced(value: str) -> str:
    return rf"{value}.replace('\t', ' ').replace('\n', ' ').trim()"


def _range_first(value: str) -> str:
    return f"int({_spaced(value)}.substring(0, {_spaced(value)}.indexOf(' ')))"


def _range_last(value: str) -> str:
    return f"int({_spaced(value)}.substring({_spaced(value)}.lastIndexOf(' ') + 1))"


def _entries(value: str) -> str:
    return rf"{value}.replace(' ', '').replace('\t', '').replace('\n', '').split(',')"


def _entry_first(entry: str) -> str:
    return f"int({entry}.split('-')[0])"


def _entry_last(entry: str) -> str:
    return f"int({entry}.substring({entry}.lastIndexOf('-') + 1))"


def _integer_check(sysctl: Sysctl) -> Check:
    number = "int(self.value.trim())"
    return Check(
        f"self.name != '{sysctl.name}' || ({_matches('self.value', 'Integer')} && "
        f"{number} >= {sysctl.low} && {number} <= {sysctl.high})",
        sysctl.requirement,
        _not(sysctl.requirement),
    )


def _range_checks(sysctl: Sysctl) -> tuple[Check, ...]:
    first, last = _range_first("self.value"), _range_last("self.value")
    written = _matches("self.value", "PortRange")
    in_bounds = (
        f"{first} >= {sysctl.low} && {first} <= {sysctl.high} && {last} >= {sysctl.low} && {last} <= {sysctl.high}"
    )
    # Of several faults only the first is told: what is inverted is also too small.
    other = f"self.name != '{sysctl.name}' || !{written} || !({in_bounds})"
    return (
        Check(
            f"self.name != '{sysctl.name}' || ({written} && {in_bounds})", sysctl.requirement, _not(sysctl.requirement)
        ),
        Check(f"{other} || {first} <= {last}", INVERTED, _not(INVERTED)),
        Check(
            f"{other} || {first} > {last} || {last} - {first} + 1 >= {MINIMUM_PORT_RANGE}", TOO_SMALL, _not(TOO_SMALL)
        ),
    )


def _list_check(sysctl: Sysctl) -> Check:
    first, last = _entry_first("entry"), _entry_last("entry")
    return Check(
        f"self.name != '{sysctl.name}' || ({_matches('self.value', 'PortList')} && (self.value.trim() == '' || "
        f"{_entries('self.value')}.all(entry, {first} >= {sysctl.low} && {first} <= {last} && "
        f"{last} <= {sysctl.high})))",
        sysctl.requirement,
        _not(sysctl.requirement),
    )


def _value_checks(sysctl: Sysctl) -> tuple[Check, ...]:
    if sysctl.kind == "PortRange":
        return _range_checks(sysctl)
    if sysctl.kind == "PortList":
        return (_list_check(sysctl),)
    return (_integer_check(sysctl),)


_BY_NAME: Final = {sysctl.name: sysctl for sysctl in SYSCTLS}
_NAMES: Final = "[" + ", ".join(f"'{sysctl.name}'" for sysctl in SYSCTLS) + "]"

ENTRY_CHECKS: Final[tuple[Check, ...]] = (
    Check(f"self.name != '{TCP_TW_RECYCLE}'", RECYCLE_REFUSED),
    Check(
        f"self.name == '{TCP_TW_RECYCLE}' || self.name in {_NAMES}",
        f"the name {UNKNOWN}",
        f'"\'" + self.name + "\' {UNKNOWN}"',
    ),
    *(check for sysctl in SYSCTLS for check in _value_checks(sysctl)),
)
"""What admission asks of one sysctl of a profile."""


def _node_ports_check() -> Check:
    first, last = NODE_PORTS
    low, high = _range_first("one.value"), _range_last("one.value")
    begin, end = _entry_first("entry"), _entry_last("entry")
    covers = (
        f"self.sysctls.exists(one, one.name == '{PORT_RANGE}' && {_matches('one.value', 'PortRange')} && "
        f"{low} <= {last} && {high} >= {first})"
    )
    # Two loops side by side: one inside of the other is 65 times over the API server's limit.
    reserves = (
        f"self.sysctls.exists(other, other.name == '{RESERVED_PORTS}' && {_matches('other.value', 'PortList')} && "
        f"other.value.trim() != '' && {_entries('other.value')}.exists(entry, {begin} <= {first} && {end} >= {last}))"
    )
    return Check(f"self.target != 'Node' || !{covers} || {reserves}", node_ports_refused(NODE_PORTS))


SPEC_CHECKS: Final[tuple[Check, ...]] = (
    *(
        Check(f"self.target != 'Pods' || !self.sysctls.exists(one, one.name == '{sysctl.name}')", wrong_target(sysctl))
        for sysctl in SYSCTLS
        if sysctl.scope == "Node"
    ),
    _node_ports_check(),
)
"""What admission asks of a profile's sysctls together, and with its target."""


def advice_checks() -> tuple[Check, ...]:
    """The sentences of :func:`sockethealth_core.sysctl_rules.advice`, for a ValidatingAdmissionPolicy that warns."""
    found = []
    for sysctl in SYSCTLS:
        found += [Check(_caution(sysctl, one), caution_advice(sysctl, one)) for one in sysctl.cautions]
        if advises_default(sysctl):
            found.append(Check(_none(sysctl, _is_default(sysctl)), default_advice(sysctl)))
        if sysctl.safe_since is not None:
            found.append(Check(f"object.spec.target != 'Pods' || {_none(sysctl)}", own_spec_advice(sysctl)))
    of_a_namespace = "[" + ", ".join(f"'{sysctl.name}'" for sysctl in SYSCTLS if sysctl.scope == "Netns") + "]"
    expression = f"object.spec.target != 'Node' || !object.spec.sysctls.exists(one, one.name in {of_a_namespace})"
    return (*found, Check(expression, NOT_INHERITED))


def _none(sysctl: Sysctl, condition: str = "") -> str:
    return f"!{_sets('one', sysctl, condition)}"


def _sets(variable: str, sysctl: Sysctl, condition: str) -> str:
    value = f" && {_matches(f'{variable}.value', sysctl.kind)} && {condition}" if condition else ""
    return f"object.spec.sysctls.exists({variable}, {variable}.name == '{sysctl.name}'{value})"


def _is_default(sysctl: Sysctl) -> str:
    if sysctl.kind == "Integer":
        return f"int(one.value.trim()) == {sysctl.default}"
    if not sysctl.default:
        return "one.value.trim() == ''"
    first, last = sysctl.default.split()
    return f"{_range_first('one.value')} == {first} && {_range_last('one.value')} == {last}"


def _caution(sysctl: Sysctl, caution: Caution) -> str:
    condition = ""
    if caution.outside is not None:
        first, last = caution.outside
        condition = (
            f"one.value.trim() != '' && {_entries('one.value')}.exists(entry, "
            f"{_entry_first('entry')} < {first} || {_entry_last('entry')} > {last})"
        )
    elif caution.equals is not None:
        condition = f"int(one.value.trim()) == {caution.equals}"
    elif caution.below is not None:
        condition = f"int(one.value.trim()) < {caution.below}"
    expression = _none(sysctl, condition)
    if caution.unless is not None:
        name, number = caution.unless
        same = "" if number is None else f"int(other.value.trim()) == {number}"
        expression = f"{_sets('other', _BY_NAME[name], same)} || {expression}"
    if caution.target is not None:
        expression = f"object.spec.target != '{caution.target}' || {expression}"
    return expression
