"""A report from a real Prometheus, which holds an hour of a pod whose ports ran out; and from what is none."""

import contextlib
import http.client
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

import lab
from harness import packages
from harness.errors import HarnessError
from harness.plugin import skip_or_fail
from report_page import Document
from sockethealth_cli.main import main
from sockethealth_core import metrics
from sockethealth_core.metrics import Series
from sockethealth_core.units import format_time

pytestmark = pytest.mark.kernel

SECONDS = 30
STEP = 15
STEPS = 160
ONSET = 80
"""Step at which the ports begin to fill."""
RAISED, ESCALATED = 100, 110
POD = {"namespace": "shop", "pod": 'cart-"1', "node": "node-a", "instance": "10.0.0.7:9101", "job": "agent"}
RULE = {
    "type": "EphemeralPortExhaustion",
    "policy_kind": "ClusterSocketHealthPolicy",
    "policy": "sockethealth-default",
    "mode": "Enforce",
}


def exposition(begin: float) -> str:
    """The hour in OpenMetrics' text."""
    families: dict[str, list[str]] = {}

    def add(series: Series, step: int, value: float, **labels: str) -> None:
        name = series.name
        all_labels = {**POD, **labels}
        text = ",".join(f'{key}="{label}"'.replace('cart-"1', 'cart-\\"1') for key, label in all_labels.items())
        families.setdefault(name, []).append(f"{name}{{{text}}} {value} {begin + step * STEP:.3f}")

    for step in range(STEPS):
        filled = min(1.0, max(0, step - ONSET) / 40)
        add(metrics.POD_SOCKETS, step, 20, state="established")
        add(metrics.POD_SOCKETS, step, 100 + 25_000 * filled, state="timeWait")
        add(metrics.POD_TIME_WAIT, step, 100 + 25_000 * filled, role="outbound")
        add(metrics.POD_TIME_WAIT, step, 0, role="inbound")
        add(metrics.POD_PORTS_USED, step, 0.004 + 0.9 * filled)
        add(metrics.POD_CLOSES, step, 2 + 400 * (filled > 0))
        add(metrics.POD_ACTIVE_OPENS, step, step * STEP * 2 + max(0, step - ONSET) * STEP * 400)
        add(metrics.POD_DESTINATION_PORTS, step, 100 + 25_000 * filled, destination="10.96.14.3:6379")
        if filled > 0:
            add(metrics.POD_PORTS_EXHAUSTION, step, 40.0)
        if RAISED <= step < ESCALATED:
            add(metrics.FINDING, step, 60.0, severity="Warning", rule="ephemeral-ports-warning", **RULE)
        elif step >= ESCALATED:
            add(metrics.FINDING, step, 90.4, severity="Critical", rule="ephemeral-ports-critical", **RULE)
    parts = []
    for name, lines in families.items():
        kind, family = ("counter", name.removesuffix("_total")) if name.endswith("_total") else ("gauge", name)
        # OpenMetrics wants the samples of one series next to each other, in the order of time.
        parts += [f"# TYPE {family} {kind}", *sorted(lines, key=lambda line: line.rpartition("}")[0])]
    return "\n".join([*parts, "# EOF", ""])


@dataclass(frozen=True)
class Hour:
    url: str
    begin: float

    @property
    def end(self) -> float:
        return self.begin + (STEPS - 1) * STEP


@pytest.fixture(scope="module")
def hour() -> Iterator[Hour]:
    try:
        packages.ensure(packages.MONITORING)
    except HarnessError as error:
        skip_or_fail(f"Prometheus is missing: {error}")
    begin = time.time() // 3600 * 3600 - 4 * 3600
    with tempfile.TemporaryDirectory(prefix="sockethealth-prometheus-") as name:
        folder = Path(name)
        (folder / "hour.txt").write_text(exposition(begin))
        command = [
            "promtool",
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            str(folder / "hour.txt"),
            str(folder / "db"),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        (folder / "prometheus.yml").write_text("global: {scrape_interval: 15s}\n")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "prometheus", f"--config.file={folder / 'prometheus.yml'}"),
                    *(f"--storage.tsdb.path={folder / 'db'}", f"--web.listen-address=127.0.0.1:{port}"),
                    "--storage.tsdb.retention.time=10y",
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "GOMAXPROCS": "1"},
            )
        try:
            url = f"http://127.0.0.1:{port}"
            lab.wait_until(lambda: process.poll() is not None or ready(port), SECONDS, (folder / "log").read_text)
            assert process.poll() is None, (folder / "log").read_text()
            yield Hour(url, begin)
        finally:
            process.kill()
            process.wait()


def ready(port: int) -> bool:
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(asking):
        asking.request("GET", "/-/ready")
        return asking.getresponse().status == 200
    return False


def report(*arguments: str):
    return CliRunner().invoke(main, ["report", "-o", "-", *arguments])


def of_pod(hour: Hour, pod: str = str(POD["pod"])):
    span = ("--since", "40m", "--until", format_time(hour.end))
    return report("--prometheus", hour.url, "--namespace", "shop", "--pod", pod, *span)


def test_it_tells_of_a_pod_what_broke_and_when(hour):
    result = of_pod(hour)
    assert result.exit_code == 0, result.stderr
    document = Document(result.stdout)
    (data,) = document.data
    (finding,) = data["findings"]
    assert (finding["type"], finding["severity"], finding["value"]) == ("EphemeralPortExhaustion", "Critical", 90.4)
    assert [(one["severity"], one["begin"]) for one in finding["segments"]] == [
        ("Warning", format_time(hour.begin + RAISED * STEP)),
        ("Critical", format_time(hour.begin + ESCALATED * STEP)),
    ]
    assert "Pod shop/cart-&quot;1" in result.stdout
    assert "the default policy's rule raises at 80" in document.text
    assert data["outlook"]["state"] == "WillBreak"
    assert data["outlook"]["at"] == format_time(hour.end + 40)


def test_its_series_are_those_of_the_pod(hour):
    (data,) = Document(of_pod(hour).stdout).data
    series = {one["key"]: one["values"] for one in data["series"]}
    assert len(data["times"]) == 161
    assert series["sockets.timeWaitOutbound"][-1] == 25_100
    assert series["ports.usedPercent"][-1] == pytest.approx(90.4)
    assert series["ports.10.96.14.3:6379"][-1] == 25_100
    assert series["rates.activeOpens"][-1] == pytest.approx(402, abs=1)
    changed = {one["what"]: (one["before"], one["after"]) for one in data["changes"]}
    assert changed["Ports in use to 10.96.14.3:6379"][1] == "25,100"


def test_a_pod_that_it_does_not_know_is_told_with_what_to_check(hour):
    result = of_pod(hour, "none")
    assert result.exit_code == 2
    assert "has no sockets of pod shop/none" in result.stderr
    assert "honorLabels" in result.stderr
    assert result.stdout == ""


def test_a_prometheus_that_is_not_there_is_told():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    result = report("--prometheus", url, "--namespace", "shop", "--pod", "web")
    assert result.exit_code == 2
    assert f"the Prometheus at {url} does not answer: [Errno 111] Connection refused" in " ".join(result.stderr.split())
