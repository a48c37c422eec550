"""What `sockethealth demo` stages: who connects where, how often, and the words for it. Pure."""

from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.policy import CompiledRule, compile_policy
from sockethealth_core.resources import ObjectMeta, PolicyRule
from sockethealth_core.units import format_count

MIN_AGE: Final = "1s"
"""A demo does not take the minute that makes a CLOSE_WAIT suspicious elsewhere."""

# Numbers on purpose: more than the 1,024 ports below which UnsafeSysctl would speak up, and fewer than the 1,000
# TIME_WAIT from which OutboundTimeWait and SingleSourceChurn would: each namespace shows one thing.
PORT_RANGE: Final = (32768, 33867)
HELD_OPEN: Final = 150
LEAKED: Final = 200
VISITS: Final = 1200
VISITS_PER_SECOND: Final = 20
ANSWER: Final = b"HTTP/1.0 200 OK\r\n\r\nhello\n"

DATABASE: Final = ("10.10.1.1", 5432)
OTHER_DATABASE: Final = ("10.10.1.1", 5433)
API: Final = ("10.10.2.1", 8080)
WEB: Final = ("10.10.3.2", 80)
VISITOR_SOURCES: Final = tuple(f"10.10.3.{last}" for last in range(101, 121))


@dataclass(frozen=True, slots=True)
class Link:
    """A misbehaving namespace's address, and those of its peers on the same network."""

    address: str
    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of trouble: who plays it, the finding it is, and what a person should know beside it.

    Attributes:
        role: of the actor, and part of its namespace's name.
        finding: the finding that it must lead to.
        title: what goes on, in a line.
        why: how it comes about.
        helpless: what people try that does not help.
    """

    role: str
    finding: str
    title: str
    why: str
    helpless: str

    @property
    def name(self) -> str:
        """What its process and its namespace are called."""
        return f"demo-{self.role}"


SCENES: Final = (
    Scene(
        "churn",
        "EphemeralPortExhaustion",
        "A client that opens a connection for each request",
        "Each connection takes a local port. Whoever closes first keeps it in TIME_WAIT for 60 s, toward that "
        "destination only. A pod's or node's total tells nothing: what counts is ports per destination.",
        "tcp_fin_timeout: it concerns FIN_WAIT_2, and TIME_WAIT is fixed at 60 s. tcp_tw_recycle: it broke clients "
        "behind NAT and is gone since Linux 4.12. SO_REUSEADDR in the client: it adds no port.",
    ),
    Scene(
        "leak",
        "CloseWaitLeak",
        "An application that forgets to close",
        "The other side has closed; read() says so by returning nothing. The kernel now waits for this application "
        "to call close(), for ever. At the limit of open files it stops: 'Too many open files'.",
        "Any sysctl: no timer ends CLOSE_WAIT. A higher limit of open files: it makes the crash later and larger.",
    ),
    Scene(
        "server",
        "InboundTimeWait",
        "A server that closes first, which looks bad and is not",
        "The server hangs up after each answer, so it keeps the TIME_WAIT, on its listening port. New clients come "
        "from other ports and are not in its way.",
        "Alarms on the number of TIME_WAIT sockets: this is why the finding is an Info and the health stays Healthy. "
        "SO_LINGER 0: it sends RST and loses data that is still on its way.",
    ),
)


def links() -> tuple[Link, Link, Link]:
    """The networks of the three namespaces, in the order of SCENES."""
    return (
        Link("10.10.1.2", (DATABASE[0],)),
        Link("10.10.2.2", (API[0],)),
        Link(WEB[0], ("10.10.3.1", *VISITOR_SOURCES)),
    )


def rules() -> tuple[CompiledRule, ...]:
    """The default rules, with the demo's own minAge."""
    spec = DEFAULT_POLICY.spec
    policy = replace(
        DEFAULT_POLICY,
        metadata=ObjectMeta(name="demo"),
        spec=replace(spec, rules=[_young(rule) for rule in spec.rules]),
    )
    return compile_policy(policy).rules


def _young(rule: PolicyRule) -> PolicyRule:
    if rule.detector != "CloseWaitLeak":
        return rule
    return replace(rule, parameters={**rule.parameters, "minAge": MIN_AGE})


def proof(opened: int) -> str:
    """What the churning client itself saw."""
    address, port = OTHER_DATABASE
    return (
        f"connect() number {format_count(opened + 1)} was refused so; {address}:{port} still answers, as the limit is "
        "one for each destination."
    )
