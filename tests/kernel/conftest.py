"""The score of the scenarios, shown at the end of the run."""

import pytest

import host_sysctls
from scenarios import SCORE_KEY, Judge, Score


@pytest.fixture
def score(request: pytest.FixtureRequest) -> Score:
    """All verdicts so far."""
    return request.config.stash.setdefault(SCORE_KEY, Score())


@pytest.fixture
def judge(request: pytest.FixtureRequest, score: Score) -> Judge:
    """Judges namespaces on behalf of the test."""
    return Judge(score, request.node.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print recall and false alarms, where scenarios ran."""
    score = config.stash.get(SCORE_KEY, None)
    if score is not None and score.verdicts:
        terminalreporter.section("scenarios on this kernel, judged by the default policy")
        for line in score.table():
            terminalreporter.write_line(line)


@pytest.fixture
def host_sysctls_stay():
    """For a test that compares this machine's own sysctls: those of a real node change them meanwhile."""
    with host_sysctls.unchanged():
        yield
