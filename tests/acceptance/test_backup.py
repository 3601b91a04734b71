"""Backing up an installation that runs, and going on from the backup elsewhere."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account
from support.installation import batchyard, start_up
from support.waiting import soon

if TYPE_CHECKING:
    from types_boto3_batch.type_defs import JobDetailTypeDef


def told(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run a command; return its exit code and what it said."""
    with batchyard(arguments, log=folder / "command.log") as command:
        return command.wait(), command.log.read_text()


def held_back(account: Account, job_id: str) -> "JobDetailTypeDef | None":
    """Return a job once it says that its installation has been restored."""
    job = account.describe(job_id)
    return job if "was set back" in job.get("statusReason", "") else None


def test_what_is_restored_starts_nothing_before_the_agents_leases_are_over_and_says_so(tmp_path: Path) -> None:
    original, restored, archive = tmp_path / "original", tmp_path / "restored", tmp_path / "backup.tar.gz"
    with closing(start_up(original, "--no-agent")) as up, closing(Account(up.http_url, DEFAULT_NAMESPACE)) as account:
        account.define()
        waiting = account.submit(jobQueue="default")
        assert told(["backup", "--data-dir", str(original), str(archive)], tmp_path)[0] == 0
    assert told(["restore", "--data-dir", str(restored), str(archive)], tmp_path)[0] == 0
    for _ in range(2):  # a restart does not change it
        with closing(start_up(restored)) as up, closing(Account(up.http_url, DEFAULT_NAMESPACE)) as account:
            job = soon(partial(held_back, account, waiting), "the job says why it waits")
            assert job["status"] == "RUNNABLE"


def test_jobs_of_a_backup_run_where_it_is_restored(tmp_path: Path) -> None:
    original, restored, archive = tmp_path / "original", tmp_path / "restored", tmp_path / "backup.tar.gz"
    with closing(start_up(original, "--no-agent")) as up, closing(Account(up.http_url, DEFAULT_NAMESPACE)) as account:
        account.define()
        waiting = account.submit(jobQueue="default")
        assert told(["backup", "--data-dir", str(original), str(archive)], tmp_path)[0] == 0
        code, text = told(["restore", "--data-dir", str(original), str(archive)], tmp_path)
        assert (code, "is in use" in text) == (2, True), text
    code, text = told(["restore", "--agents-stopped", "--data-dir", str(restored), str(archive)], tmp_path)
    assert code == 0, text
    with closing(start_up(restored)) as up, closing(Account(up.http_url, DEFAULT_NAMESPACE)) as account:
        assert account.wait(waiting)["status"] == "SUCCEEDED"
