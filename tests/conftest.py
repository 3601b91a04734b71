"""What holds for all tests: which may be skipped, and what is said about those that were."""

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("support")

# An example may take as long as a busy machine needs.
settings.register_profile("unhurried", settings(), deadline=None)
settings.load_profile("unhurried")

# A shell has what it starts in the background ignore these, and everything that tests start would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

RUN_ALL = bool(os.environ.get("BATCHYARD_TEST_ALL"))
"""Set in CI, where a test may be skipped only for what no installation of a package can bring."""

EXCUSES = ("kernel:", "hardware:")
"""How the reason of such a skip begins."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn skips into failures where everything has to run."""
    report = yield
    if RUN_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = _reason(report)
        if not reason.startswith(EXCUSES):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped where every test has to run: {reason}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where everything has to run, list what could not, or say that nothing was left out."""
    if not RUN_ALL:
        return
    reasons = sorted(
        {report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", ())}
    )
    terminalreporter.section("exclusions")
    for reason in reasons or ["none: every test ran"]:
        terminalreporter.line(reason)


def _reason(report: pytest.TestReport) -> str:
    """Return why a test was skipped."""
    assert isinstance(report.longrepr, tuple)
    return report.longrepr[2].removeprefix("Skipped: ")
