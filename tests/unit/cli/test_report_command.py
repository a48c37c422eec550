"""The command: what it writes and where, and what it says when it cannot."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from report_page import Document
from sockethealth_cli import namespaces
from sockethealth_cli.main import main
from sockethealth_cli.report import live
from unit.cli.builders import closing_first, leaking, netns, quiet
from unit.cli.report_builders import of, running_out


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Only our own namespace is there, as to a user without root."""
    own = replace(netns(), id=namespaces.identity(), path=None, host=True)
    monkeypatch.setattr(namespaces, "survey", lambda: namespaces.Survey((own,), hidden=2))


def run(*arguments: str):
    return CliRunner().invoke(main, ["report", *arguments])


def test_it_writes_a_page_and_says_where(tmp_path):
    file = tmp_path / "incident.html"
    result = run("--for", "600ms", "--interval", "300ms", "-o", str(file))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert f"{file} is written" in " ".join(result.stderr.split())
    document = Document(file.read_text())
    assert len(document.data[0]["times"]) == 3
    assert document.data[0]["subject"]["name"] == "host"
    assert "Root would have read 2 further network namespaces." in document.text


def test_it_writes_to_standard_output_and_its_progress_elsewhere():
    result = run("--for", "300ms", "--interval", "300ms", "-o", "-")
    assert result.exit_code == 0
    assert result.stdout.startswith("<!doctype html>")
    assert result.stderr.startswith("look 1: 1 network namespaces")


def test_interrupted_it_writes_what_it_has(monkeypatch):
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(live.time, "sleep", interrupt)
    result = run("--for", "10m", "-o", "-")
    assert result.exit_code == 0, result.stderr
    assert "Looking was interrupted" in Document(result.stdout).text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--for", "soon"], "'soon' is not a duration"),
        (["--for", "0s"], "no time at all"),
        (["--interval", "10ms"], "--interval must be at least 200ms"),
        (["--for", "2h"], "give --interval 4s or more"),
        (["--pod", "web"], "--pod needs --prometheus URL"),
        (["--prometheus", "http://127.0.0.1:9"], "give --namespace and --pod"),
        (["--prometheus", "nowhere", "--namespace", "a", "--pod", "b"], "no address of a Prometheus"),
        (["--prometheus", "http://127.0.0.1:9", "--netns", "blue"], "leave them out with --prometheus"),
        (["--prometheus", "http://127.0.0.1:9", "--until", "noon"], "'noon' is no time"),
        (["--netns", "shlab-none"], "knows no network namespace"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(arguments, sentence):
    result = run(*arguments, "-o", "-")
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    result = run("--for", "300ms", "--interval", "300ms", "-o", str(tmp_path / "none" / "incident.html"))
    assert result.exit_code == 2
    assert "cannot be written: there is no folder" in " ".join(result.stderr.split())
    assert "look 1" not in result.stderr, "a minute of looking would be lost"


def test_its_help_has_examples():
    result = CliRunner().invoke(main, ["report", "--help"])
    assert "sudo sockethealth report -o incident.html" in result.stdout
    assert "--prometheus" in result.stdout


def test_open_files_of_a_process_are_those_of_proc(tmp_path):
    folder = tmp_path / "4711"
    (folder / "fd").mkdir(parents=True)
    for number in range(3):
        (folder / "fd" / str(number)).touch()
    (folder / "limits").write_text(
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max open files            1024                 524288               files     \n"
    )
    found = live.open_files(4711, "java", tmp_path)
    assert found is not None
    assert (found.used, found.limit) == (3, 1024)
    assert live.open_files(1, "gone", tmp_path) is None


def test_what_is_found_gets_a_part_of_the_page_worst_first_and_the_rest_is_named():
    critical, warning, calm, busy = running_out(), of([leaking(100)] * 20), of([quiet()]), of([quiet(900)])
    info = of([closing_first()] * 3)
    everything = sorted([busy, calm, info, warning, critical], key=live.rank)
    assert everything == [critical, warning, info, busy, calm]
    assert live.worth_showing(everything) == [critical, warning]
    assert live.worth_showing(everything[2:]) == [info]
    assert live.worth_showing(everything[3:]) == [busy]
    assert len(live.worth_showing([critical] * 9)) == live.MOST_INCIDENTS
