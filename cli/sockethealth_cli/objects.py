"""Facts of network namespaces as SocketHealth objects, judged by rules. Pure."""

from collections.abc import Sequence

from sockethealth_cli.naming import NamedNetns
from sockethealth_cli.text import printable
from sockethealth_core.detectors import Subject
from sockethealth_core.engine import snapshot
from sockethealth_core.names import API_VERSION
from sockethealth_core.policy import CompiledRule
from sockethealth_core.resources import Facts, Judgement, ObjectMeta, SocketHealth, SocketHealthSpec, SocketHealthStatus


def socket_health(
    named: NamedNetns, facts: Facts, rules: Sequence[CompiledRule], *, node_name: str, now: float
) -> SocketHealth:
    """What a cluster would show of the namespace, were it a pod's.

    Args:
        named: the namespace; its name becomes ``metadata.name``.
        facts: what was read of it.
        rules: the rules in force; each ``for`` counts as zero.
        node_name: name of this machine.
        now: epoch seconds.
    """
    return with_judgement(named, facts, snapshot(subject(named), facts, rules, now), node_name=node_name)


def subject(named: NamedNetns) -> Subject:
    """What messages call the namespace."""
    return Subject("netns", printable(named.called))


def with_judgement(named: NamedNetns, facts: Facts, judgement: Judgement, *, node_name: str) -> SocketHealth:
    """Facts and what was made of them as one object."""
    stated = {field: getattr(facts, field) for field in Facts.__struct_fields__}
    return SocketHealth(
        api_version=API_VERSION,
        metadata=ObjectMeta(name=named.name),
        spec=SocketHealthSpec(node_name=node_name, pod_uid=named.netns.pod_uid),
        status=SocketHealthStatus(
            **stated, health=judgement.health, findings=judgement.findings, evaluation=judgement.evaluation
        ),
    )
