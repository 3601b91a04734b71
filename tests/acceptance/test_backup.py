"""Backing up an installation that runs, and going on from the backup elsewhere."""

from pathlib import Path

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account
from support.installation import batchyard, start_up
from support.waiting import soon


def told(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run a command; return its exit code and what it said."""
    with batchyard(arguments, log=folder / "command.log") as command:
        return command.wait(), command.log.read_text()


def test_what_is_restored_starts_nothing_before_the_agents_leases_are_over_and_says_so(tmp_path: Path) -> None:
    original, restored, archive = tmp_path / "original", tmp_path / "restored", tmp_path / "backup.tar.gz"
    up = start_up(original, "--no-agent")
    account = Account(up.http_url, DEFAULT_NAMESPACE)
    try:
        account.define()
        waiting = account.submit(jobQueue="default")
        assert told(["backup", "--data-dir", str(original), str(archive)], tmp_path)[0] == 0
    finally:
        account.close()
        up.close()
    assert told(["restore", "--data-dir", str(restored), str(archive)], tmp_path)[0] == 0
    for _ in range(2):  # a restart does not change it
        up = start_up(restored)
        account = Account(up.http_url, DEFAULT_NAMESPACE)
        try:
            job = soon(
                lambda account=account: (
                    found  # type: ignore[misc]
                    if "was set back" in (found := account.describe(waiting)).get("statusReason", "")
                    else None
                ),
                "the job says why it waits",
            )
            assert job["status"] == "RUNNABLE"
        finally:
            account.close()
            up.close()


def test_jobs_of_a_backup_run_where_it_is_restored(tmp_path: Path) -> None:
    original, restored, archive = tmp_path / "original", tmp_path / "restored", tmp_path / "backup.tar.gz"
    up = start_up(original, "--no-agent")
    account = Account(up.http_url, DEFAULT_NAMESPACE)
    try:
        account.define()
        waiting = account.submit(jobQueue="default")
        assert told(["backup", "--data-dir", str(original), str(archive)], tmp_path)[0] == 0
        code, text = told(["restore", "--data-dir", str(original), str(archive)], tmp_path)
        assert (code, "is in use" in text) == (2, True), text
    finally:
        account.close()
        up.close()
    code, text = told(["restore", "--agents-stopped", "--data-dir", str(restored), str(archive)], tmp_path)
    assert code == 0, text
    up = start_up(restored)
    account = Account(up.http_url, DEFAULT_NAMESPACE)
    try:
        assert account.wait(waiting)["status"] == "SUCCEEDED"
    finally:
        account.close()
        up.close()
