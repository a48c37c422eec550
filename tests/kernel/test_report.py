"""`sockethealth report` of real trouble, begun while it looks."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lab
from report_page import Document

pytestmark = pytest.mark.kernel

PROGRAM = str(Path(sys.executable).with_name("sockethealth"))
SECONDS = 30
POLICY = """\
apiVersion: sockethealth.io/v1alpha1
kind: ClusterSocketHealthPolicy
metadata: {name: at-once}
spec:
  rules:
  - {name: leak, detector: CloseWaitLeak, threshold: 50, clearThreshold: 10, for: 0s, parameters: {minAge: 10ms}}
  - {name: ports, detector: EphemeralPortExhaustion, threshold: 80, for: 1s, severity: Critical}
"""


@contextmanager
def looking(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A report that has looked once."""
    with subprocess.Popen(
        [PROGRAM, "report", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("look 1:")
            yield process
        finally:
            process.kill()


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    return str(file)


def test_it_tells_who_leaks_and_which_destination_ran_out_and_when(policy, tmp_path):
    file = tmp_path / "incident.html"
    with lab.namespaces(2) as (client, server):
        client.sysctl("net.ipv4.ip_local_port_range", "40001 41000")
        leaky = server.listen(port=8080)
        database = server.listen(port=5432, serve="follow")
        options = ("--netns", client.name, "--policy", policy, "--for", "3s", "--interval", "250ms", "-o", str(file))
        with looking(*options) as report:
            client.close_wait(leaky, 150)
            client.time_wait(database, n=950)
            _, stderr = report.communicate(timeout=SECONDS)
        assert report.returncode == 0, stderr
        pid = client.pid
        page = Document(file.read_text())
    (incident,) = page.data
    ports, leak = incident["findings"]
    assert (ports["type"], ports["severity"], ports["target"]["port"]) == ("EphemeralPortExhaustion", "Critical", 5432)
    assert ports["target"]["address"] == server.address
    assert ports["value"] >= 95
    assert ports["segments"][0]["phase"] == "Pending"
    assert ports["segments"][-1]["phase"] == "Active"
    assert (leak["type"], leak["value"]) == ("CloseWaitLeak", 150)
    assert leak["evidence"]["process"].startswith("python")
    series = {one["key"]: one["values"] for one in incident["series"]}
    assert series["sockets.closeWait"][0] == 0
    assert max(series["sockets.closeWait"]) == 150
    assert series[f"ports.{server.address}:5432"][-1] == 950
    assert set(series["ports.usable"]) == {1000}
    assert series[f"files.{pid}"][-1] >= 150
    assert f"{server.address}:5432" in page.text
    assert "uses 950 of 1,000 ephemeral ports (95%)" in page.text
    assert f"({pid})" in page.text
    changed = {one["what"]: (one["before"], one["after"]) for one in incident["changes"]}
    assert changed[f"Destination {server.address}:5432"] == ("not there", "there")
    before, after = changed["CLOSE_WAIT"]
    assert int(before) < 50
    assert after == "150"


def test_interrupted_it_writes_what_it_has(policy, tmp_path):
    file = tmp_path / "incident.html"
    with lab.netns() as quiet, looking("--netns", quiet.name, "--for", "10m", "-o", str(file)) as report:
        report.send_signal(signal.SIGINT)
        _, stderr = report.communicate(timeout=SECONDS)
    assert report.returncode == 0, stderr
    page = Document(file.read_text())
    assert len(page.data[0]["times"]) >= 1
    assert "interrupted" in page.text
    assert "no rule found anything wrong" in page.text
