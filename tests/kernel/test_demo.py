"""`sockethealth demo`, as a newcomer runs it, and what is left of it: nothing."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import lab
from harness.plugin import skip_or_fail
from sockethealth_agent import netns
from sockethealth_cli.namespaces import RUN_NETNS, ip_netns_names

pytestmark = pytest.mark.kernel

PROGRAM = str(Path(sys.executable).with_name("sockethealth"))
LONGEST_SECONDS = 15
NOBODY = "65534"


def actors_of(parent: int) -> dict[int, tuple[int, str]]:
    """Pid and network namespace of the processes that a demo has started."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError, netns.NetnsGone):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"sockethealth_cli.demo_actor" in words and str(parent).encode() in words:
                found[int(entry.name)] = identity(entry / "ns" / "net")
    return found


def identity(ns_net: Path) -> tuple[int, str]:
    """Inode and cookie of a network namespace: the kernel gives an inode that became free to the next one at once."""
    with netns.entered(ns_net) as found:
        return found.inode, netns.cookie()


def namespaces_in_use() -> set[tuple[int, str]]:
    """Those that have a process, and those that `ip netns` keeps."""
    processes = (entry / "ns" / "net" for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    found = {}
    for file in (*processes, *(RUN_NETNS / name for name in ip_netns_names())):
        with contextlib.suppress(OSError):
            found[file.stat().st_ino] = file
    identities = set()
    for file in found.values():
        with contextlib.suppress(netns.NetnsGone):
            identities.add(identity(file))
    return identities


@contextlib.contextmanager
def started(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [PROGRAM, "demo", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def all_four_act(process: "subprocess.Popen[str]") -> dict[int, tuple[int, str]]:
    found: dict[int, tuple[int, str]] = {}

    def act() -> bool:
        found.clear()
        found.update(actors_of(process.pid))
        own = identity(Path("/proc/self/ns/net"))
        return len(found) == 4 and own not in found.values()

    lab.wait_until(act, LONGEST_SECONDS, lambda: f"the demo has {found}, not four processes in namespaces of their own")
    return dict(found)


def nothing_is_left(acted: dict[int, tuple[int, str]]) -> None:
    lab.wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in acted),
        5,
        lambda: f"of {sorted(acted)} some still run",
    )
    assert not set(acted.values()) & namespaces_in_use()


def test_three_troubles_are_made_found_explained_and_gone():
    with started() as process:
        acted = all_four_act(process)
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    assert complained == ""
    table = [line.split() for line in said.splitlines() if line.startswith("demo-")]
    assert [(row[0], row[1], row[-1]) for row in table] == [
        ("demo-churn", "Critical", "EphemeralPortExhaustion"),
        ("demo-leak", "Warning", "CloseWaitLeak"),
        ("demo-server", "Healthy", "InboundTimeWait"),
    ]
    words = " ".join(said.split())
    assert "uses 1,100 of 1,100 ephemeral ports (100%) to 10.10.1.1:5432" in words
    assert "10.10.1.1:5433 still answers" in words
    assert re.search(r"holds 200 CLOSE_WAIT sockets older than 1s: .* process demo-leak \(pid \d+\)", words)
    assert "a CLOSE_WAIT counts from 1s of age instead of 60s" in words
    for part in ("You see", "Why", "What helps", "What does not"):
        assert said.count(f"   {part}  ") == 3, part
    assert max(map(len, said.splitlines())) <= 80
    nothing_is_left(acted)


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_ended_half_way_leaves_nothing(way):
    ended_half_way(way)


def ended_half_way(way):
    with started("--hold") as process:
        acted = all_four_act(process)
        process.send_signal(way)
        process.wait(timeout=10)
    nothing_is_left(acted)


def test_a_demo_that_is_killed_half_way_leaves_nothing_and_the_next_one_runs():
    ended_half_way(signal.SIGKILL)
    with started() as process:
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    assert "demo-churn" in said


def test_ctrl_c_in_a_terminal_ends_it_with_a_sentence_and_no_traceback():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(PROGRAM, [PROGRAM, "demo", "--hold"])  # noqa: S606 - the child of pty.fork becomes the program
    said = b""
    try:
        deadline = time.monotonic() + LONGEST_SECONDS
        acted: dict[int, tuple[int, str]] = {}
        while b"Held:" not in said:
            assert time.monotonic() < deadline, said
            ready, _, _ = select.select([terminal], [], [], 1)
            said += os.read(terminal, 4096) if ready else b""
            acted = actors_of(pid) or acted
        assert len(acted) == 4
        os.write(terminal, b"\x03")
        with contextlib.suppress(OSError):  # EIO: the last process of the terminal is gone (pty(7))
            while select.select([terminal], [], [], 5)[0]:
                chunk = os.read(terminal, 4096)
                said += chunk
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert b"Interrupted. The demo's namespaces and processes are gone." in said
    assert b"Traceback" not in said
    nothing_is_left(acted)


def test_held_it_stays_full_until_enter():
    with started("--hold") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Held:"):
                break
        acted = actors_of(process.pid)
        assert len(acted) == 4
        scan = subprocess.run([PROGRAM, "scan", "--interval", "0"], capture_output=True, text=True, check=True)
        assert re.search(r"demo-churn-\d+", "".join(scan.stdout.split()))
        process.stdin.write("\n")
        process.stdin.flush()
        rest, complained = process.communicate(timeout=10)
    assert process.returncode == 0, complained
    assert "All of it is gone again" in rest
    nothing_is_left(acted)


def test_without_root_it_says_what_to_run():
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        skip_or_fail("setpriv is missing. On Debian: apt-get install util-linux")
    prefix = [str(setpriv), "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
    if subprocess.run([*prefix, PROGRAM, "--version"], capture_output=True, check=False).returncode:
        skip_or_fail(f"A program that user nobody may run is missing: {PROGRAM} is out of reach.")
    done = subprocess.run([*prefix, PROGRAM, "demo"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"which needs root: run sudo {PROGRAM} demo")


def test_for_a_program_it_gives_objects_and_nothing_else():
    done = subprocess.run([PROGRAM, "demo", "-o", "json"], capture_output=True, text=True, check=True, timeout=60)
    health = {one["metadata"]["name"]: one["status"]["health"] for one in json.loads(done.stdout)["items"]}
    assert health == {"demo-churn": "Critical", "demo-leak": "Warning", "demo-server": "Healthy"}
    assert "[4/4]" in done.stderr
