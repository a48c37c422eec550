"""The commands of the runbooks run, and what they print has the form that the page shows.

Blocks marked `sh` run as root with `PID`, a process of the namespace in question. Each line of the `text` block below
must come out of them, apart from numbers, names in quotes, timers and socket cookies.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import lab

pytestmark = pytest.mark.kernel

RUNBOOKS = Path(__file__).resolve().parents[2] / "docs" / "runbooks"
Scene = Iterator[lab.Namespace]


@contextmanager
def outbound() -> Scene:
    with lab.namespaces(2) as (client, server):
        client.time_wait(server.listen(8080, serve="follow"), 5)
        client.wait_for(TIME_WAIT=5)
        yield client


@contextmanager
def inbound() -> Scene:
    with lab.namespaces(2) as (client, server):
        client.visit(server.listen(8080, serve="close_first"), 5)
        server.wait_for(TIME_WAIT=5)
        yield server


@contextmanager
def close_wait() -> Scene:
    with lab.namespaces(2) as (client, server):
        client.connect(server.listen(8080), 3).close()
        server.wait_for(CLOSE_WAIT=3)
        yield server


@contextmanager
def fin_wait_2() -> Scene:
    with lab.namespaces(2) as (client, server):
        client.connect(server.listen(8080), 3).close()
        client.wait_for(FIN_WAIT_2=3)
        yield client


@contextmanager
def full_accept_queue() -> Scene:
    with lab.namespaces(2) as (client, server):
        client.connect(server.listen(8080, backlog=2, serve="none"), 3)
        yield server


@contextmanager
def half_open() -> Scene:
    with lab.netns() as server:
        server.syn_recv(server.listen(8080, backlog=4), 9)
        yield server


@contextmanager
def lossy() -> Scene:
    if not shutil.which("iptables"):
        pytest.skip("iptables is missing: it drops the segments that are then sent again")
    with lab.namespaces(2) as (client, server):
        link = client.connect(server.listen(8080), 1)
        with server.dropping(8080):
            link.send(100)
            lab.wait_until(
                lambda: client.run("nstat", "-asz", "TcpRetransSegs").split()[-2] != "0", 5, lambda: "nothing was lost"
            )
        yield client


@contextmanager
def conntrack() -> Scene:
    if not shutil.which("conntrack"):
        pytest.skip("conntrack is missing. On Debian: apt-get install conntrack")
    if not Path("/proc/sys/net/netfilter/nf_conntrack_max").exists():
        pytest.skip("nf_conntrack is missing in this kernel")
    with lab.netns() as made:
        yield made


@contextmanager
def established() -> Scene:
    with lab.namespaces(2) as (client, server):
        client.connect(server.listen(8080), 2)
        yield client


SCENES = {
    "EphemeralPortExhaustion": outbound,
    "OutboundTimeWait": outbound,
    "InboundTimeWait": inbound,
    "SingleSourceChurn": inbound,
    "CloseWaitLeak": close_wait,
    "FinWait2Buildup": fin_wait_2,
    "AcceptQueueOverflow": full_accept_queue,
    "SynBacklogPressure": half_open,
    "TimeWaitTableOverflow": outbound,
    "RetransmissionStorm": lossy,
    "UnsafeSysctl": inbound,
    "TcpMemoryPressure": established,
    "ConntrackPressure": conntrack,
    "Expression": established,
}


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def form(line: str) -> str:
    """A line without what differs from machine to machine."""
    line = re.sub(r"timer:\(\w+,[^,]*,\d+\)", "timer", line)
    line = re.sub(r"sk:\w+", "sk", line)
    line = re.sub(r'"[^"]*"', "name", line)
    return " ".join(re.sub(r"\d+", "N", line).split())


def test_every_page_has_a_scene():
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"index", "OwnHealth"} == set(SCENES)


@pytest.mark.parametrize(("name", "scene"), SCENES.items(), ids=list(SCENES))
def test_commands_run_and_print_what_the_page_shows(
    name: str, scene: Callable[[], AbstractContextManager[lab.Namespace]]
):
    page = RUNBOOKS / f"{name}.md"
    (commands,), (shown,) = blocks(page, "sh"), blocks(page, "text")
    with scene() as namespace:
        environment = {"PID": str(namespace.pid), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, f"{commands}\n{done.stderr}"
    assert done.stderr == ""
    printed = [form(line) for line in done.stdout.splitlines()]
    for line in shown.splitlines():
        assert any(form(line) in one for one in printed), f"no line like {line!r} in\n{done.stdout}"
