"""The writer's own metrics."""

from collections.abc import Iterable
from typing import Final, Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from sockethealth_core.resources import ProfileState, SysctlProfileReport

RESULTS: Final = ("applied", "restored", "failed", "left")


class Sink(Protocol):
    """What is told of writes and of the state reached."""

    def wrote(self, result: str) -> None:
        """One of RESULTS; left: a value of someone else was not overwritten by a restore."""

    def stands(self, profiles: Iterable[SysctlProfileReport]) -> None:
        """All profiles after a pass."""


class Unheard:
    """A sink for those who do not want to know."""

    def wrote(self, result: str) -> None:
        """See Sink."""

    def stands(self, profiles: Iterable[SysctlProfileReport]) -> None:
        """See Sink."""


class WriterMetrics:
    """A sink of Prometheus metrics, in a registry of its own."""

    def __init__(self, version: str) -> None:
        """Register everything; version labels ``sockethealth_sysctl_writer_build_info``."""
        self.registry = CollectorRegistry()
        info = Gauge(
            "sockethealth_sysctl_writer_build_info",
            "Version of the sysctl writer.",
            ["version"],
            registry=self.registry,
        )
        info.labels(version).set(1)
        self._writes = Counter(
            "sockethealth_sysctl_writes",
            "Sysctls written (applied, restored), refused by the kernel (failed), or left to who set them (left).",
            ["result"],
            registry=self.registry,
        )
        for result in RESULTS:
            self._writes.labels(result)
        self._states = Gauge(
            "sockethealth_sysctl_profile_state",
            "1 for the state in which a profile is on this node.",
            ["profile", "state"],
            registry=self.registry,
        )
        self._shown: set[str] = set()

    def wrote(self, result: str) -> None:
        """See Sink."""
        self._writes.labels(result).inc()

    def stands(self, profiles: Iterable[SysctlProfileReport]) -> None:
        """See Sink."""
        shown = {one.profile: one for one in profiles}
        for profile in self._shown - shown.keys():
            for state in get_args(ProfileState):
                self._states.remove(profile, state)
        self._shown = set(shown)
        for one in shown.values():
            for state in get_args(ProfileState):
                self._states.labels(one.profile, state).set(one.state == state)
