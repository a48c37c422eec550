"""The lab leaves nothing behind, also when its owner is killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lab

pytestmark = pytest.mark.kernel

PREFIX = "shlost-"
OWNER = f"""
import sys, lab
lab.PREFIX = {PREFIX!r}
with lab.namespaces(2) as (client, server):
    client.connect(server.listen(80), 2)
    print(client.name, client.pid, server.name, server.pid, flush=True)
    sys.stdin.read()
"""


def test_a_killed_owner_leaves_no_process_and_the_next_lab_removes_its_namespaces(monkeypatch):
    # Under another prefix, or a lab of another test that runs beside this one removes them first.
    monkeypatch.setattr(lab, "PREFIX", PREFIX)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(lab.__file__).parent,
    )
    with owner:
        name, pid, other_name, other_pid = owner.stdout.readline().split()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        for child in (pid, other_pid):
            lab.wait_until(lambda child=child: not Path(f"/proc/{child}").exists(), 10, lambda: f"{pid} still runs")
    left = {path.name for path in lab.RUN_NETNS.iterdir()}
    assert {name, other_name} <= left
    with lab.netns() as mine:
        left = {path.name for path in lab.RUN_NETNS.iterdir()}
        assert not {name, other_name} & left
        assert mine.name in left
    assert not Path(mine.path).exists()


def test_a_command_that_fails_says_why():
    with lab.netns() as one, pytest.raises(lab.LabError, match="ConnectionRefusedError"):
        one.connect(("127.0.0.1", 1))


def test_three_namespaces_reach_each_other():
    with lab.namespaces(3) as (first, second, third):
        front = second.listen(80)
        first.connect(front, 1)
        third.connect(front, 2)
        second.wait_for(ESTAB=3)
