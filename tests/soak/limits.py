"""How much of each figure is allowed, and why: the table that a soak is judged by."""

from dataclasses import dataclass
from typing import Final

from soak.judgement import Always, Increase, Limit, Rise, Spread
from sockethealth_core import metrics

MEBIBYTE: Final = 1024 * 1024

WORK: Final = frozenset(
    one.name
    for one in (
        metrics.AGENT_DUMPS,
        metrics.AGENT_WRITES,
        metrics.AGENT_SUPPRESSED,
        metrics.OPERATOR_TRANSITIONS,
        metrics.OPERATOR_WRITES,
    )
)
"""Counters of what is done. Any other counter that a program keeps of itself is one of errors, also one that is added
later, and its budget is zero but for BUDGET."""

BUDGET: Final[dict[str, str]] = {
    f'{metrics.AGENT_API_ERRORS.name}{{status="404"}}': "a report that went with its pod before it was written",
    f'{metrics.AGENT_API_ERRORS.name}{{status="409"}}': "a report of a pod that was replaced meanwhile",
    f'{metrics.OPERATOR_API_ERRORS.name}{{status="404"}}': "a workload or pod that went before it was annotated",
    f'{metrics.OPERATOR_API_ERRORS.name}{{status="409"}}': "an object that was written meanwhile; judged anew",
    f'{metrics.SYSCTL_WRITES.name}{{result="applied"}}': "work: a profile is applied",
    f'{metrics.SYSCTL_WRITES.name}{{result="restored"}}': "work: a profile is taken away",
}
"""Samples of counters of errors that churn must cause, and by what."""


@dataclass(frozen=True)
class Limits:
    """Of one run.

    Attributes:
        memory_rise_bytes: of anonymous memory while it is judged. What a file's pages add is the kernel's cache, and
            theirs whose image it is.
        open_files_rise: the same of open files. One more is a sample that meets an open() in each of three looks; in
            the first minutes the pool of connections grows too.
    """

    memory_rise_bytes: float
    open_files_rise: float = 1

    def of(self, figure: str) -> tuple[Limit, ...]:
        """The limits of a figure; none for one that is only recorded."""
        if figure.partition("{")[0].endswith("_total"):
            return () if figure in BUDGET or figure.partition("{")[0] in WORK else (Increase(),)
        of_this_run = {
            "anonymous_bytes": (Rise(self.memory_rise_bytes),),
            "open_files": (Rise(self.open_files_rise), Spread(self.open_files_rise + 5)),
        }
        return {**of_this_run, **_FIXED}.get(figure.partition("{")[0], ())


_FIXED: Final[dict[str, tuple[Limit, ...]]] = {
    "network_namespaces_held": (Spread(2),),
    "threads": (Spread(0),),
    "processes": (Spread(0),),
    "restarts": (Increase(),),
    "log_lines": (Increase(most=20, per_minute=2),),
    "log_warnings": (Increase(),),
    # One that ends while it is read is counted for a sweep.
    metrics.AGENT_PODS_FAILED.name: (Rise(0), Spread(1)),
    metrics.OPERATOR_API_UP.name: (Always(1),),
    metrics.NODE_SILENT.name: (Always(0),),
}
