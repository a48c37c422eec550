"""The policy a fresh installation starts with, made of the detectors' default rules."""

from typing import Final

from sockethealth_core.detectors import DETECTORS
from sockethealth_core.names import API_VERSION, DEFAULT_POLICY_NAME
from sockethealth_core.resources import (
    ClusterSocketHealthPolicy,
    ClusterSocketHealthPolicySpec,
    ObjectMeta,
    PolicyRule,
)


def default_rules() -> list[PolicyRule]:
    """Every default rule of every detector, in the order of the detectors."""
    return [
        PolicyRule(
            name=default.name,
            detector=detector.name,
            threshold=default.threshold,
            clear_threshold=default.clear_threshold,
            for_=default.for_,
            severity=default.severity,
        )
        for detector in DETECTORS.values()
        for default in detector.defaults
    ]


DEFAULT_POLICY: Final = ClusterSocketHealthPolicy(
    api_version=API_VERSION,
    metadata=ObjectMeta(name=DEFAULT_POLICY_NAME),
    spec=ClusterSocketHealthPolicySpec(rules=default_rules()),
)
"""What ``scan`` evaluates without ``--policy``, and what the chart installs."""
