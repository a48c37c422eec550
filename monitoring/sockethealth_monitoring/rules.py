"""What a Prometheus rule file is made of (prometheus.io/docs/prometheus/latest/configuration/alerting_rules)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule.

    Attributes:
        name: of the alert. Two rules of one name are one thing at two depths: the usual inhibition rule of Alertmanager
            silences the warning while the critical one fires.
        expression: PromQL; its value is ``$value`` in the texts.
        for_: how long it must hold.
        keep_firing_for: how long it keeps firing after it has ceased to hold, so that it does not flap.
        severity: as people's Alertmanagers route by.
        summary: one line with the number in it, a Go template.
        description: limit, consequence and the next step, a Go template.
        runbook: the page that explains it, below the base address of runbooks.
    """

    name: str
    expression: str
    for_: str
    keep_firing_for: str
    severity: Severity
    summary: str
    description: str
    runbook: str

    def as_rule(self, runbooks: str) -> dict[str, Any]:
        """The rule as a rule file has it; durations of nothing are left out."""
        durations = {"for": self.for_, "keep_firing_for": self.keep_firing_for}
        return {
            "alert": self.name,
            "expr": self.expression,
            **{name: value for name, value in durations.items() if value != "0s"},
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{runbooks}/{self.runbook}",
            },
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated together."""

    name: str
    alerts: tuple[Alert, ...]


def rule_file(groups: Iterable[Group], runbooks: str) -> dict[str, Any]:
    """A rule file, which is also the spec of a PrometheusRule."""
    return {
        "groups": [{"name": one.name, "rules": [alert.as_rule(runbooks) for alert in one.alerts]} for one in groups]
    }
