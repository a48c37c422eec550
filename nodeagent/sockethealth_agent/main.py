"""The agent's command: wires the parts together and runs until it is told to stop."""

import logging
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, get_args

import click

from sockethealth_agent import facts
from sockethealth_agent.kubeapi import ConfigError, KubeApi, from_kubeconfig, in_cluster
from sockethealth_agent.metrics import Metrics
from sockethealth_agent.netns import NetnsStuck
from sockethealth_agent.pods import pods_of
from sockethealth_agent.program import NODE_OPTIONS, PROGRAM_OPTIONS, on_end_signal, options, own_version
from sockethealth_agent.reporter import AgentIdentity, Reporter, Submission, own_node, watchpoints_of
from sockethealth_agent.sampler import Sampler
from sockethealth_agent.settings import Settings
from sockethealth_agent.web import WebServer
from sockethealth_core import logs
from sockethealth_core.resources import ReportMode

LOG = logging.getLogger(__name__)
STALE_SWEEPS: Final = 4
"""After so many intervals without a sweep the agent calls itself unhealthy and is restarted."""
ONCE_SECONDS: Final = 60.0


class AgentProcess:
    """The running agent: watches pods, sweeps, and hands what it found to the reporter."""

    def __init__(self, settings: Settings) -> None:
        """Opens no connection yet.

        Raises:
            ConfigError: there are no usable credentials.
        """
        self._settings = settings
        number = own_version()
        self.metrics = Metrics(settings.node_name, number, destinations=settings.metrics_destinations)
        endpoint = in_cluster() if settings.kubeconfig is None else from_kubeconfig(settings.kubeconfig)
        self._api = KubeApi(endpoint, user_agent=f"sockethealth-agent/{number}", on_error=self.metrics.api_error)
        self._pods = pods_of(self._api, settings.node_name)
        self._own_node = own_node(self._api, settings.node_name, self._look_again)
        self._sampler = Sampler(
            proc=settings.proc_root, cgroup_root=settings.cgroup_root, host_netns=settings.host_netns
        )
        identity = AgentIdentity(
            node_name=settings.node_name,
            version=number,
            boot_id=(settings.proc_root / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
            kernel=os.uname().release,
        )
        self.reporter = Reporter(
            self._api,
            identity,
            sink=self.metrics,
            interval_seconds=settings.interval_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            writes_per_second=settings.writes_per_second,
            mode=settings.report_mode,
        )
        self._stopping = threading.Event()
        self._wanted = threading.Event()
        self._swept_at = time.monotonic()

    def stop(self) -> None:
        """Have `run` return soon."""
        self._stopping.set()
        self._wanted.set()

    def health(self) -> str | None:
        """A sentence when the sweeps have stopped."""
        silent = time.monotonic() - self._swept_at
        if silent > STALE_SWEEPS * self._settings.interval_seconds + 30:
            return f"no sweep for {silent:.0f} s"
        return None

    def readiness(self) -> str | None:
        """A sentence until the node has reported once."""
        return None if self.reporter.reported.is_set() else "the first sweep is not reported yet"

    def run(self) -> None:
        """Sweep and report until `stop`, or once.

        Raises:
            NetnsStuck: this process can no longer tell namespaces apart and must end.
        """
        self._pods.start()
        self._own_node.start()
        self.reporter.start()
        try:
            self._sweep_for_ever()
        finally:
            self.reporter.stop()
            self._pods.stop(timeout_seconds=0.2)
            self._own_node.stop(timeout_seconds=0.2)
            self._api.close()

    def _sweep_for_ever(self) -> None:
        interval = self._settings.interval_seconds
        # Without the pods there is nothing to report on, but a silent start would look like a hang.
        while not self._stopping.is_set() and not self._pods.synced.wait(0.1):
            self._swept_at = time.monotonic()
        # A random phase, so that the agents of many nodes do not write at the same moment.
        due = time.monotonic() + interval * random.random()  # noqa: S311 (spreads load)
        while not self._stopping.is_set():
            self._sweep()
            if self._settings.once:
                self._wait_for_report()
                return
            self._wanted.wait(max(0.0, due - time.monotonic()))
            self._wanted.clear()
            while due <= time.monotonic():
                due += interval

    def _sweep(self) -> None:
        watchpoints = watchpoints_of(self._own_node)
        pods = self._pods.items
        sweep = self._sampler.sweep(pods, facts.min_ages(watchpoints))
        self._swept_at = time.monotonic()
        self.metrics.swept(sweep)
        self.reporter.submit(Submission(sweep, self._swept_at, pods, watchpoints))

    def _wait_for_report(self) -> None:
        deadline = time.monotonic() + ONCE_SECONDS
        while not self.reporter.idle and time.monotonic() < deadline:
            if self._stopping.wait(0.1):
                return

    def _look_again(self) -> None:
        # Its own heartbeats come back on this watch too; only other watchpoints are worth a sweep.
        watchpoints = watchpoints_of(self._own_node)
        if watchpoints != getattr(self, "_seen_watchpoints", None):
            self._seen_watchpoints = watchpoints
            self._wanted.set()


def run(settings: Settings) -> int:
    """Run the agent; the exit code is 1 when it cannot start, and 2 when it must be restarted."""
    logs.configure(settings.log_level, json=settings.log_json)
    try:
        agent = AgentProcess(settings)
        web = WebServer(
            settings.metrics_address,
            settings.metrics_port,
            agent.metrics.registry,
            {"/healthz": agent.health, "/readyz": agent.readiness},
        )
    except (ConfigError, OSError) as error:
        LOG.error("The agent cannot start: %s", error)  # noqa: TRY400 (the sentence says it all)
        return 1

    on_end_signal(agent.stop)
    LOG.info("Watching the TCP sockets of node %s, every %g s.", settings.node_name, settings.interval_seconds)
    web.start()
    try:
        agent.run()
    except NetnsStuck as error:
        LOG.error("%s", error)  # noqa: TRY400 (the sentence says it all)
        return 2
    finally:
        web.stop()
    return 0


@click.command(context_settings={"auto_envvar_prefix": "SOCKETHEALTH_AGENT", "show_default": True})
@options(*NODE_OPTIONS)
@click.option(
    "--interval", "interval_seconds", type=click.FloatRange(min=0.5), default=15.0, help="Seconds between sweeps."
)
@click.option(
    "--heartbeat",
    "heartbeat_seconds",
    type=click.FloatRange(min=1),
    default=120.0,
    help="Seconds between reports of the node itself.",
)
@click.option(
    "--cgroup-root",
    type=click.Path(path_type=Path),
    default=Path("/sys/fs/cgroup"),
    help="The node's /sys/fs/cgroup, for pods of the host network.",
)
@click.option("--metrics-address", default="::", help="Where /metrics, /healthz and /readyz listen; :: is IPv4 too.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=9101, help="Their port.")
@click.option(
    "--metrics-destinations",
    is_flag=True,
    help="Show the busiest destinations of each pod in /metrics too, at most 5 of each.",
)
@click.option(
    "--writes-per-second",
    type=click.FloatRange(min=0.1),
    default=5.0,
    help="Long-run limit of writes to the API server.",
)
@click.option(
    "--report-mode",
    type=click.Choice(get_args(ReportMode)),
    default="All",
    help="Whether each pod gets a SocketHealth, or only those near a threshold or with many sockets.",
)
@click.option("--once", is_flag=True, help="Sweep once, report, and end.")
@options(*PROGRAM_OPTIONS)
def command(log_format: str, **given: Any) -> None:
    """State facts about the TCP sockets of this node's pods in the Kubernetes API."""
    sys.exit(run(Settings(**given, log_json=log_format == "json")))


def main() -> None:
    """Entry point of ``sockethealth-agent``."""
    command()


if __name__ == "__main__":
    main()
