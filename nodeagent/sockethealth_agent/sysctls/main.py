"""The writer's command: wires the parts together and runs until it is told to stop."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from sockethealth_agent.kubeapi import ApiError, ConfigError, KubeApi, from_kubeconfig, in_cluster
from sockethealth_agent.netns import NetnsStuck
from sockethealth_agent.pods import pods_of
from sockethealth_agent.program import NODE_OPTIONS, PROGRAM_OPTIONS, on_end_signal, options, own_version
from sockethealth_agent.reporter import own_node
from sockethealth_agent.sysctls.applier import Applier
from sockethealth_agent.sysctls.journal import Journal, JournalError
from sockethealth_agent.sysctls.leaving import ask_why_for_good
from sockethealth_agent.sysctls.metrics import WriterMetrics
from sockethealth_agent.sysctls.namespaces import SYSCTL_ROOT, KernelNamespaces
from sockethealth_agent.sysctls.writer import SysctlWriter
from sockethealth_agent.web import WebServer
from sockethealth_core import logs
from sockethealth_core.resources import SysctlWriter as WriterIdentity

LOG = logging.getLogger(__name__)
JOURNAL: Final = Path("/var/lib/sockethealth")
SHORTEST_PAUSE_SECONDS: Final = 1.0
"""Least time between two passes, however many pods come and go."""
ASK_SECONDS: Final = 10.0
"""How long the API server has to say whether the writer ends for good."""
REPORT_SECONDS: Final = 5.0
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The writer's settings; see the options below for what each means."""

    node_name: str
    interval_seconds: float
    proc_root: Path
    sysctl_root: Path
    journal: Path
    host_netns: str | None
    node_ports: tuple[int, int] | None
    daemonset: str | None
    container: str
    metrics_address: str
    metrics_port: int
    kubeconfig: Path | None
    log_level: str
    log_json: bool
    restore: bool


class WriterProcess:
    """The running writer: watches its node's object and pods, and passes over the namespaces."""

    def __init__(self, settings: Settings, applier: Applier, journal: Journal, metrics: WriterMetrics) -> None:
        """Opens no connection yet.

        Raises:
            ConfigError: there are no usable credentials.
        """
        self._settings = settings
        self._metrics = metrics
        endpoint = in_cluster() if settings.kubeconfig is None else from_kubeconfig(settings.kubeconfig)
        self._api = KubeApi(
            endpoint, user_agent=f"sockethealth-sysctl-writer/{own_version()}", on_error=metrics.api_error
        )
        self._own = own_node(self._api, settings.node_name, self._look_again)
        self._pods = pods_of(self._api, settings.node_name, self._wake)
        identity = WriterIdentity(version=own_version(), boot_id=journal.boot_id)
        self._writer = SysctlWriter(
            self._api, settings.node_name, applier, identity=identity, own=self._own, pods=self._pods, sink=metrics
        )
        self._wanted: object = None
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._passed_at = time.monotonic()

    def stop(self) -> None:
        """Have `run` return soon."""
        self._stopping.set()
        self._woken.set()

    def waiting(self) -> None:
        """Say that all is well though there is no pass yet."""
        self._passed_at = time.monotonic()

    def health(self) -> str | None:
        """A sentence when the passes have stopped."""
        silent = time.monotonic() - self._passed_at
        if silent > 4 * self._settings.interval_seconds + 60:
            return f"no pass for {silent:.0f} s"
        return None

    def run(self) -> None:
        """Pass until `stop`; then put everything back if no other writer will follow.

        Raises:
            NetnsStuck: this process can no longer tell namespaces apart and must end.
        """
        self._own.start()
        self._pods.start()
        try:
            while not self._stopping.is_set():
                self._woken.clear()
                self._writer.step()
                self._passed_at = time.monotonic()
                self._metrics.passed()
                self._stopping.wait(SHORTEST_PAUSE_SECONDS)
                self._woken.wait(self._settings.interval_seconds - SHORTEST_PAUSE_SECONDS)
            self._leave()
        finally:
            self._own.stop(timeout_seconds=0.2)
            self._pods.stop(timeout_seconds=0.2)
            self._api.close()

    def _leave(self) -> None:
        settings = self._settings
        daemonset = settings.daemonset
        if daemonset is None:
            return
        try:
            why = _within(
                ASK_SECONDS,
                lambda: ask_why_for_good(self._api, daemonset, settings.container, settings.node_name),
            )
        except (ApiError, TimeoutError) as error:
            LOG.warning("All values stay as they are, because it cannot be told whether the writer goes: %s", error)
            return
        if why is None:
            return
        LOG.info("Everything is put back: %s.", why)
        left = self._writer.put_back()
        for one in left:
            LOG.error("%s.", one)
        try:
            _within(REPORT_SECONDS, self._writer.withdraw)
        except TimeoutError:
            LOG.warning("The API server was not told that everything is put back: it does not answer.")

    def _wake(self) -> None:
        self._woken.set()

    def _look_again(self) -> None:
        # Heartbeats and reports come back on this watch too; only other profiles are worth a pass at once.
        node = self._own.items.get(self._settings.node_name)
        wanted = None if node is None else (node.metadata.uid, node.spec.sysctl_profiles)
        if wanted != self._wanted:
            self._wanted = wanted
            self._woken.set()


def _within(seconds: float, work: Callable[[], T]) -> T:
    """The result of a call, in a thread that is given up after so long; TimeoutError then."""
    results: list[T] = []
    errors: list[ApiError] = []

    def run() -> None:
        try:
            results.append(work())
        except ApiError as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="last words", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


def run(settings: Settings) -> int:
    """Run the writer; the exit code is 1 when it cannot start or put all back, and 2 when it must be restarted."""
    logs.configure(settings.log_level, json=settings.log_json)
    metrics = WriterMetrics(settings.node_name, own_version())
    boot_id = (settings.proc_root / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    journal = Journal(settings.journal, boot_id)
    namespaces = KernelNamespaces(settings.proc_root, settings.sysctl_root, settings.host_netns)
    applier = Applier(namespaces, journal, node_ports=settings.node_ports, sink=metrics)
    try:
        if settings.restore:
            return _restore(settings, journal, applier)
        return _serve(settings, journal, applier, metrics)
    except (ConfigError, JournalError, OSError) as error:
        LOG.error("The sysctl writer cannot start: %s", error)  # noqa: TRY400 (the sentence says it all)
        return 1
    except NetnsStuck as error:
        LOG.error("%s", error)  # noqa: TRY400 (the sentence says it all)
        return 2


def _restore(settings: Settings, journal: Journal, applier: Applier) -> int:
    with journal.locked() as alone:
        if not alone:
            LOG.error("Another sysctl writer uses the journal %s: end it first.", settings.journal)
            return 1
        journal.open()
        left = applier.leftovers(applier.restore())
    for one in left:
        LOG.error("%s.", one)
    return 1 if left else 0


def _serve(settings: Settings, journal: Journal, applier: Applier, metrics: WriterMetrics) -> int:
    process = WriterProcess(settings, applier, journal, metrics)
    checks = {"/healthz": process.health}
    web = WebServer(settings.metrics_address, settings.metrics_port, metrics.registry, checks)
    stopped = _stop_on_signal(process)
    web.start()
    try:
        LOG.info("Writing sysctls of node %s as its profiles ask.", settings.node_name)
        _run_alone(process, journal, stopped)
    finally:
        web.stop()
    return 0


def _run_alone(process: WriterProcess, journal: Journal, stopped: threading.Event) -> None:
    waited = False
    while not stopped.is_set():
        with journal.locked() as alone:
            if alone:
                journal.open()
                process.run()
                return
        if not waited:
            LOG.info("Waiting for the writer before this one to end.")
            waited = True
        process.waiting()
        stopped.wait(SHORTEST_PAUSE_SECONDS)


def _stop_on_signal(process: WriterProcess) -> threading.Event:
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        process.stop()

    on_end_signal(stop)
    return stopped


def _port_range(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, int] | None:
    if not text:
        return None
    first, dash, last = text.partition("-")
    if dash and first.isascii() and first.isdigit() and last.isascii() and last.isdigit():
        ports = int(first), int(last)
        if 1 <= ports[0] <= ports[1] <= 65535:
            return ports
    raise click.BadParameter(f"'{text}' is no range of ports such as 30000-32767")


@click.command(context_settings={"auto_envvar_prefix": "SOCKETHEALTH_SYSCTL_WRITER", "show_default": True})
@options(*NODE_OPTIONS)
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(min=1),
    default=5.0,
    help="Seconds between passes, for values that others change and namespaces that appear; events bring one at once.",
)
@click.option(
    "--sysctl-root",
    type=click.Path(path_type=Path),
    default=SYSCTL_ROOT,
    help="A /proc/sys/net that can be written: in a container a bind mount of it.",
)
@click.option(
    "--journal",
    type=click.Path(path_type=Path, file_okay=False),
    default=JOURNAL,
    help="Folder of the node for what was found before the first write; it must outlive the container.",
)
@click.option(
    "--node-ports",
    default="30000-32767",
    callback=_port_range,
    help="Ports of Services of type NodePort (kube-apiserver --service-node-port-range); empty: there are none.",
)
@click.option(
    "--daemonset",
    default=None,
    help="NAMESPACE/NAME of the writer's DaemonSet: is it gone when the writer ends, everything is put back.",
)
@click.option("--container", default="sysctl-writer", help="The writer's container in that DaemonSet.")
@click.option("--metrics-address", default="::", help="Where /metrics and /healthz listen; :: is IPv4 too.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=9102, help="Their port.")
@click.option("--restore", is_flag=True, help="Put back every value in the journal, without the API server, and end.")
@options(*PROGRAM_OPTIONS)
def command(log_format: str, **given: Any) -> None:
    """Write the sysctls that SysctlProfiles ask of this node and its pods, and put them back."""
    sys.exit(run(Settings(**given, log_json=log_format == "json")))


def main() -> None:
    """Entry point of ``sockethealth-sysctl-writer``."""
    command()


if __name__ == "__main__":
    main()
