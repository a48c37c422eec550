"""`sockethealth top` in a real terminal (tmux), over real namespaces, and without a terminal."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import lab
from harness.plugin import skip_or_fail

pytestmark = pytest.mark.kernel

PROGRAM = str(Path(sys.executable).with_name("sockethealth"))
SECONDS = 15


class Terminal:
    """A shell of 80x24 in a tmux server of its own, which ends with the test."""

    def __init__(self, folder: Path) -> None:
        self._tmux = [str(shutil.which("tmux")), "-S", str(folder / "socket"), "-f", "/dev/null"]
        self._folder = folder
        self.pid = 0

    def start(self) -> None:
        # tmux's server would outlive a test that is killed: the shell in it watches for that and ends it.
        watch = f"while kill -0 {os.getpid()} 2>/dev/null; do sleep 1; done; kill -9 $$"
        shell = f"({watch}) & PS1='ready> ' exec sh -i"
        self.tmux("new-session", "-d", "-x", "80", "-y", "24", "-e", "ENV=", shell)
        self.shows("ready>")

    def tmux(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], check=True, capture_output=True, text=True).stdout

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def shows(self, *parts: str) -> str:
        """The screen, once all of that is on it."""
        seen: list[str] = []

        def there() -> bool:
            seen[:] = [self.screen()]
            return all(part in seen[0] for part in parts)

        lab.wait_until(there, SECONDS, lambda: f"no {parts} on the screen:\n{seen[0]}")
        return seen[0]

    def run(self, *arguments: str) -> None:
        self.press("clear; " + " ".join([PROGRAM, "top", "-d", "0.3", *arguments]) + "; echo ended $?", "Enter")

    def settings(self) -> str:
        """The terminal's settings, as stty has them."""
        file = self._folder / "settings"
        file.unlink(missing_ok=True)
        self.press(f"stty -a > {file}.part; mv {file}.part {file}", "Enter")
        lab.wait_until(file.exists, SECONDS, lambda: f"the shell does not answer:\n{self.screen()}")
        return file.read_text()

    def process_of_top(self) -> int:
        shell = int(self.tmux("display-message", "-p", "#{pane_pid}"))
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                if PROGRAM.encode() in words and parent == shell:
                    return int(entry.name)
        raise AssertionError("top does not run")


@pytest.fixture
def terminal(tmp_path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        skip_or_fail("tmux is missing. On Debian: apt-get install tmux")
    made = Terminal(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.tmux("kill-server")


@pytest.fixture(scope="module")
def troubled() -> Iterator[tuple[lab.Namespace, lab.Namespace]]:
    """A client that leaks and runs out of ports, and the server it talks to."""
    with lab.namespaces(2) as (client, server):
        client.sysctl("net.ipv4.ip_local_port_range", "40001 42000")
        client.close_wait(server.listen(port=8080), 150)
        client.time_wait(server.listen(port=9090, serve="follow"), n=900)
        server.connect(server.listen(port=81), 20)
        yield client, server


def by_netns(*namespaces: lab.Namespace) -> list[str]:
    return [word for one in namespaces for word in ("--netns", one.name)]


def first_row(screen: str) -> str:
    lines = screen.splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith("NETNS"))
    return lines[header + 1]


def test_it_starts_sorts_shows_details_and_ends_as_it_was(terminal, troubled):
    client, _server = troubled
    before = terminal.settings()
    terminal.run(*by_netns(*troubled))
    screen = terminal.shows("sockethealth top", "2 netns", "q quit")
    assert "45%" in first_row(screen), screen
    terminal.press("E")
    terminal.shows("▁")
    lab.wait_until(lambda: " 40 " in first_row(terminal.screen()), SECONDS, terminal.screen)
    terminal.press("C")
    lab.wait_until(lambda: " 150 " in first_row(terminal.screen()), SECONDS, terminal.screen)
    terminal.press("Down", "Enter")
    story = terminal.shows(f"Network namespace {client.name}", "q or Esc: back")
    assert "ended" not in story
    terminal.press("q")
    terminal.shows("q quit")
    terminal.press("h")
    terminal.shows("sort by ports")
    terminal.press("Escape")
    terminal.shows("q quit")
    terminal.press("q")
    after = terminal.shows("ended 0")
    assert "sockethealth top" not in after.replace(PROGRAM, ""), "the screen before top is back"
    assert terminal.settings() == before


def test_the_history_grows_pauses_and_the_delay_changes(terminal, troubled):
    terminal.run("--sort", "C", *by_netns(troubled[0]))
    terminal.shows("█████")
    terminal.press("Space")
    terminal.shows("PAUSED")
    terminal.press("Space", "d", "0", ".", "2", "5", "Enter")
    lab.wait_until(lambda: "every 0.25s" in terminal.screen(), SECONDS, terminal.screen)
    assert "PAUSED" not in terminal.screen()
    terminal.press("C-c")
    terminal.shows("ended 0")


def test_a_window_that_changes_its_size_is_filled_anew(terminal, troubled):
    terminal.run(*by_netns(*troubled))
    terminal.shows("q quit")
    terminal.press("Space")
    terminal.shows("PAUSED")
    terminal.tmux("resize-window", "-x", "120", "-y", "10")
    lab.wait_until(
        lambda: (
            terminal.screen().rstrip("\n").splitlines()[-1].startswith("q quit")
            and len(terminal.screen().splitlines()) == 10
        ),
        SECONDS,
        terminal.screen,
    )
    assert len(terminal.screen().splitlines()) == 10
    terminal.press("q")
    terminal.shows("ended 0")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_with_the_terminal_restored(terminal, troubled, number, code):
    before = terminal.settings()
    terminal.run(*by_netns(*troubled))
    terminal.shows("q quit")
    os.kill(terminal.process_of_top(), number)
    terminal.shows(f"ended {code}")
    assert terminal.settings() == before


def test_ctrl_z_gives_the_shell_a_working_terminal_and_fg_takes_it_again(terminal, troubled):
    before = terminal.settings()
    terminal.run(*by_netns(*troubled))
    terminal.shows("q quit")
    terminal.press("C-z")
    terminal.shows("Stopped")
    assert terminal.settings() == before
    terminal.press("clear; fg", "Enter")
    terminal.shows("q quit", "2 netns")
    terminal.press("q")
    lab.wait_until(lambda: "q quit" not in terminal.screen(), SECONDS, terminal.screen)
    assert terminal.settings() == before


def test_an_exception_leaves_the_terminal_as_it_was(terminal, troubled):
    """A namespace that `ip netns` forgets while top shows it by that name is a failure half way."""
    before = terminal.settings()
    with lab.netns("brief") as brief:
        terminal.run(*by_netns(brief))
        terminal.shows("q quit")
    terminal.shows("ended 2", "knows no network namespace")
    assert terminal.settings() == before


def test_without_a_terminal_it_prints_as_many_tables_as_asked_for(troubled):
    client, _ = troubled
    command = [PROGRAM, "top", "-n", "2", "-d", "0.3", *by_netns(client)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert done.stdout.count("NETNS") == 2
    assert done.stdout.count(client.name) == 2
    assert "\x1b" not in done.stdout
    first, second = (line for line in done.stdout.splitlines() if line.startswith(client.name))
    assert first.split()[1:5] == second.split()[1:5] == ["45%", "900", "150", "0"]


def test_batch_is_plain_in_a_terminal_too(terminal, troubled):
    terminal.run("-b", "-n", "1", *by_netns(troubled[0]))
    screen = terminal.shows("ended 0", "NETNS")
    assert "q quit" not in screen


def test_for_a_program_each_sample_is_a_list_of_objects(troubled):
    command = [PROGRAM, "top", "-n", "2", "-d", "0.5", "-o", "yaml", *by_netns(*troubled)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    samples = list(yaml.safe_load_all(shown))
    assert [len(sample["items"]) for sample in samples] == [2, 2]
    assert {one["kind"] for sample in samples for one in sample["items"]} == {"SocketHealth"}
