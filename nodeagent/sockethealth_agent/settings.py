"""What the agent can be told: flags, each with an environment variable of the same name."""

from dataclasses import dataclass
from pathlib import Path

from sockethealth_core.resources import ReportMode


@dataclass(frozen=True)
class Settings:
    """The agent's settings; see the options of main.py for what each means."""

    node_name: str
    interval_seconds: float
    heartbeat_seconds: float
    proc_root: Path
    cgroup_root: Path
    host_netns: str | None
    metrics_address: str
    metrics_port: int
    metrics_destinations: bool
    writes_per_second: float
    report_mode: ReportMode
    kubeconfig: Path | None
    log_level: str
    log_json: bool
    once: bool
