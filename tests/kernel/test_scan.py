"""`sockethealth scan`, as a person runs it, over real network namespaces with real sockets."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import lab
from harness.plugin import skip_or_fail
from sockethealth_cli import measure, namespaces
from sockethealth_cli.naming import name_all

pytestmark = pytest.mark.kernel

PROGRAM = str(Path(sys.executable).with_name("sockethealth"))
NOBODY = "65534"
SS_NAMES = {
    "established": "ESTAB",
    "synSent": "SYN-SENT",
    "synRecv": "SYN-RECV",
    "finWait1": "FIN-WAIT-1",
    "finWait2": "FIN-WAIT-2",
    "timeWait": "TIME-WAIT",
    "closeWait": "CLOSE-WAIT",
    "lastAck": "LAST-ACK",
    "closing": "CLOSING",
    "listen": "LISTEN",
}
POLICY = """\
apiVersion: sockethealth.io/v1alpha1
kind: ClusterSocketHealthPolicy
metadata: {name: young-leaks}
spec:
  rules:
  - {name: leak, detector: CloseWaitLeak, threshold: 50, clearThreshold: 10, parameters: {minAge: 10ms}}
"""


@contextlib.contextmanager
def nameless() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a network namespace that nobody gave a name; it ends with its standard input, and so with us."""
    process = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
    try:
        lab.wait_until(
            lambda: Path(f"/proc/{process.pid}/comm").read_text() == "cat\n", 5, lambda: "unshare did not become cat"
        )
        yield process
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class Troubled:
    client: lab.Namespace
    server: lab.Namespace
    quiet: lab.Namespace
    close_wait_port: int


@pytest.fixture(scope="module")
def troubled() -> Iterator[Troubled]:
    """A client that leaks and runs out of ports, a server that closes first, and a namespace that does nothing."""
    with lab.netns() as quiet, lab.namespaces(2) as (client, server):
        client.sysctl("net.ipv4.ip_local_port_range", "40001 41000")
        leaky = server.listen(port=8080)
        client.close_wait(leaky, 150, unread=10)
        follows = server.listen(port=9090, serve="follow")
        client.time_wait(follows, n=700)
        front = server.listen(address="::", port=80, serve="close_first")
        client.visit(front, n=1100)
        client.connect(server.listen(port=81), 20)
        client.connect(server.listen(address="::", port=82), 30)
        server.syn_recv(leaky, 3)
        client.syn_sent(2, ipv6=True)
        yield Troubled(client, server, quiet, leaky.port)


def scan(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, PROGRAM, "scan", "--interval", "0", *arguments], capture_output=True, text=True, check=False
    )


def by_netns(*namespaces: lab.Namespace) -> list[str]:
    return [word for one in namespaces for word in ("--netns", one.name)]


def swept_name(last: str) -> str:
    """A name in /run/netns that the lab's sweep removes should this process die."""
    return f"{lab.PREFIX}{os.getpid()}-{lab._start_time(os.getpid())}-{last}"


def by_name(done: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    assert done.returncode == 0, done.stderr
    return {item["metadata"]["name"]: item for item in json.loads(done.stdout)["items"]}


def as_ss_counts(item: dict) -> dict[str, int]:
    return {SS_NAMES[state]: count for state, count in item["status"]["sockets"].items() if count}


def findings(item: dict) -> dict[str, dict]:
    return {finding["type"]: finding for finding in item["status"]["findings"]}


def settled(scanned: list[lab.Namespace]) -> dict[str, dict]:
    """One scan between two looks of `ss` that agree, so that all three speak of the same moment."""
    found: dict[str, dict] = {}

    def quiet_meanwhile() -> bool:
        before = [one.ss_states() for one in scanned]
        found.update(by_name(scan("-o", "json", *by_netns(*scanned))))
        return before == [one.ss_states() for one in scanned]

    lab.wait_until(quiet_meanwhile, 20, lambda: "the sockets kept changing while they were counted")
    return found


def test_counts_are_those_of_ss_state_by_state_for_ipv4_and_ipv6(troubled):
    scanned = [troubled.client, troubled.server, troubled.quiet]
    found = settled(scanned)
    for one in scanned:
        assert as_ss_counts(found[one.name]) == one.ss_states()
    assert as_ss_counts(found[troubled.client.name])["CLOSE-WAIT"] == 150
    assert as_ss_counts(found[troubled.server.name])["ESTAB"] == 50
    assert as_ss_counts(found[troubled.server.name])["SYN-RECV"] == 3
    assert as_ss_counts(found[troubled.client.name])["SYN-SENT"] == 2


def test_a_leak_is_found_with_process_and_peer_by_a_policy_of_a_file(troubled, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    names = (troubled.client.name, troubled.server.name, troubled.quiet.name)
    found = by_name(
        scan("-o", "json", "--policy", str(policy), *(word for name in names for word in ("--netns", name)))
    )
    leak = findings(found[troubled.client.name])["CloseWaitLeak"]
    assert (leak["severity"], leak["value"], leak["policy"], leak["rule"]) == ("Warning", 150, "young-leaks", "leak")
    assert leak["target"] == {"address": troubled.server.address, "port": troubled.close_wait_port, "name": ""}
    assert str(troubled.client.pid) in leak["message"]
    assert found[troubled.client.name]["status"]["health"] == "Warning"
    assert findings(found[troubled.server.name]) == findings(found[troubled.quiet.name]) == {}


def test_port_exhaustion_names_the_destination_and_the_percentage_of_a_small_range(troubled):
    status = by_name(scan("-o", "json", "--netns", troubled.client.name))[troubled.client.name]["status"]
    exhaustion = findings({"status": status})["EphemeralPortExhaustion"]
    assert (exhaustion["severity"], exhaustion["value"]) == ("Warning", 70)
    assert exhaustion["target"] == {"address": troubled.server.address, "port": 9090, "name": ""}
    assert (status["ephemeralPorts"]["low"], status["ephemeralPorts"]["high"]) == (40001, 41000)
    worst = status["ephemeralPorts"]["destinations"][0]
    assert (worst["used"], worst["timeWait"], worst["usedPercent"]) == (700, 700, 70)


def test_inbound_time_wait_is_explained_and_is_no_ill_health(troubled):
    item = by_name(scan("-o", "json", "--netns", troubled.server.name))[troubled.server.name]
    inbound = findings(item)["InboundTimeWait"]
    assert (inbound["severity"], inbound["value"]) == ("Info", 1100)
    assert item["status"]["health"] == "Healthy"
    assert item["status"]["timeWait"]["outbound"] == 0


def test_a_quiet_namespace_is_healthy_and_says_so_in_one_sentence(troubled):
    done = scan("--netns", troubled.quiet.name)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"Network namespace {troubled.quiet.name} is healthy (0 TCP sockets)."
    assert "\x1b" not in done.stdout


def test_rates_are_of_two_samples(troubled):
    with lab.namespaces(2) as (client, server):
        to = server.listen(port=80, serve="follow")
        scanner = subprocess.Popen(
            [PROGRAM, "scan", "--interval", "1.5", "-o", "json", "--netns", server.name],
            stdout=subprocess.PIPE,
            text=True,
        )
        with scanner:
            while scanner.poll() is None:
                client.time_wait(to, n=20)
                time.sleep(0.1)  # as fast as it goes, this takes both processors
            assert scanner.stdout is not None
            (item,) = json.loads(scanner.stdout.read())["items"]
    rates = item["status"]["rates"]
    assert rates["passiveOpens"] > 10
    assert rates["activeOpens"] == 0


def test_all_namespaces_are_shown_once_the_nameless_after_its_oldest_process(troubled):
    with nameless() as process:
        found = by_name(scan("-o", "json"))
    assert {troubled.client.name, troubled.server.name, troubled.quiet.name} <= set(found)
    assert f"cat-{process.pid}" in found
    assert "host" in found


def test_exit_code_is_one_when_something_is_critical(troubled):
    assert scan("--netns", troubled.client.name, "--exit-code").returncode == 0
    with lab.namespaces(2) as (client, server):
        client.sysctl("net.ipv4.ip_local_port_range", "40001 40100")
        client.time_wait(server.listen(port=80, serve="follow"), n=90)
        done = scan("--netns", client.name, "--exit-code")
    assert done.returncode == 1, done.stderr
    assert "Critical" in done.stdout


def test_a_name_of_ip_netns_that_could_steer_a_terminal_is_shown_escaped():
    hostile = swept_name("\x1b[31mRed")
    subprocess.run(["ip", "netns", "add", hostile], check=True)
    try:
        done = scan("--netns", hostile)
    finally:
        subprocess.run(["ip", "netns", "del", hostile], check=True)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert swept_name("31mred") in "".join(done.stdout.split())


def test_a_file_under_a_name_that_is_no_namespace_is_told_and_the_rest_is_read(troubled):
    file = lab.RUN_NETNS / swept_name("dead")
    file.touch()
    try:
        done = scan("-o", "json", "--netns", file.name, "--netns", troubled.quiet.name)
    finally:
        file.unlink()
    assert done.returncode == 2
    assert [item["metadata"]["name"] for item in json.loads(done.stdout)["items"]] == [troubled.quiet.name]
    assert f"network namespace {file.name} could not be read" in done.stderr


def test_a_namespace_whose_last_process_exits_between_the_samples_is_told_and_the_rest_is_read(monkeypatch):
    with nameless() as process:

        def exits(_seconds: float) -> None:
            process.kill()
            process.wait()

        monkeypatch.setattr(measure.time, "sleep", exits)
        readings = measure.read_all(name_all(namespaces.survey().found), [60.0], 1.0)
    (gone,) = [one for one in readings.unread if one.named.name == f"cat-{process.pid}"]
    assert gone.gone
    assert "is gone" in gone.reason
    assert "host" in {one.named.name for one in readings.read}


@pytest.fixture
def without_root() -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        skip_or_fail("setpriv is missing. On Debian: apt-get install util-linux")
    prefix = (str(setpriv), "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups")
    readable = subprocess.run([*prefix, PROGRAM, "--version"], capture_output=True, text=True, check=False)
    if readable.returncode:
        skip_or_fail(
            f"A program that user nobody may run is missing: {PROGRAM} and its interpreter are out of reach. "
            "Put the checkout and Python where other users may read them."
        )
    return prefix


def test_without_root_it_shows_its_own_namespace_and_says_what_root_would_add(without_root):
    with lab.namespaces(2) as (one, other):
        to = other.listen(port=80)
        one.connect(to, 5)
        inside = ("nsenter", f"--net={one.path}", "--", *without_root)
        done = scan("-o", "json", prefix=inside)
        (item,) = json.loads(done.stdout)["items"]
        assert as_ss_counts(item) == one.ss_states() == {"ESTAB": 5}
    assert done.returncode == 0
    (note,) = done.stderr.splitlines()
    told = re.search(r"(\d+) further network namespaces of this machine need root to be read: run with sudo", note)
    assert told, note
    assert int(told[1]) >= 2, "the other one and the machine's own are further ones"


def test_without_root_only_the_machines_own_namespace_is_called_host(without_root):
    (own,) = by_name(scan("-o", "json", prefix=without_root)).values()
    assert own["metadata"]["name"] == "host"
    with nameless() as process:
        inside = ("nsenter", "--target", str(process.pid), "--net", "--", *without_root)
        (other,) = by_name(scan("-o", "json", prefix=inside)).values()
    assert other["metadata"]["name"].startswith("sockethealth-")


def test_without_root_a_namespace_asked_for_by_name_is_a_failure(without_root, troubled):
    done = scan("--netns", troubled.quiet.name, prefix=without_root)
    assert done.returncode == 2
    assert f"{troubled.quiet.name} needs root to be read: run with sudo" in done.stderr
