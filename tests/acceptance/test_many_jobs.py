"""Five hundred jobs at once, and again while everything is killed in the middle."""

from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account
from support.installation import start_up
from support.waiting import soon

JOBS = 500


def submit_many(account: Account, count: int, command: list[str]) -> list[str]:
    definition = account.define("many", command)
    return [
        account.batch.submit_job(jobName=f"job-{number}", jobQueue="queue", jobDefinition=definition)["jobId"]
        for number in range(count)
    ]


@pytest.mark.usefixtures("queue")
def test_five_hundred_jobs_succeed_and_each_log_holds_its_own_id(account: Account) -> None:
    job_ids = submit_many(account, JOBS, ["sh", "-c", "echo $AWS_BATCH_JOB_ID"])
    assert len(set(job_ids)) == JOBS
    ended = account.wait_all(job_ids)
    assert {job["status"] for job in ended.values()} == {"SUCCEEDED"}
    assert {job["container"]["exitCode"] for job in ended.values()} == {0}
    printed = {job_id: account.log_lines(job) for job_id, job in ended.items()}
    assert printed == {job_id: [job_id] for job_id in job_ids}


class Journal:
    """What jobs wrote about themselves into one shared file, a line at their start and a line at their end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.command = [
            "sh",
            "-c",
            f'echo "start $AWS_BATCH_JOB_ID $$" >> {path}; sleep 0.05; echo "end $AWS_BATCH_JOB_ID $$" >> {path}',
        ]

    def lines(self) -> list[list[str]]:
        """Return the words of every line."""
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def ended(self) -> int:
        """Return how many runs came to their end."""
        return sum(line[0] == "end" for line in self.lines())

    def overlapping(self) -> list[str]:
        """Return the jobs of which one run began while another had begun and not ended."""
        open_runs: dict[str, int] = defaultdict(int)
        found = []
        for word, job_id, *_ in self.lines():
            open_runs[job_id] += 1 if word == "start" else -1
            if open_runs[job_id] > 1:
                found.append(job_id)
        return found

    def starts_of(self, job_id: str) -> int:
        """Return how often a job began."""
        return sum(line[:2] == ["start", job_id] for line in self.lines())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder that outlives the processes on it."""
    return tmp_path / "data"


def test_killing_everything_in_the_middle_loses_no_job_and_runs_none_twice_at_a_time(
    folder: Path, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal")
    first = start_up(folder)
    account = Account(first.http_url, DEFAULT_NAMESPACE)
    account.make_queue()
    try:
        job_ids = submit_many(account, JOBS, journal.command)
        soon(lambda: journal.ended() >= 20, "some jobs have ended")
    finally:
        account.close()
        first.processes["up"].kill_group()
        first.close()
    assert journal.ended() < JOBS, "all jobs had ended before the kill: nothing was tested"

    with closing(start_up(folder)) as second, closing(Account(second.http_url, DEFAULT_NAMESPACE)) as account:
        ended = account.wait_all(job_ids)
    assert sorted(ended) == sorted(job_ids)
    assert journal.overlapping() == []
    for job_id, job in ended.items():
        # A run whose end nobody could learn of has failed, and says so; every other one ran once and succeeded.
        if job["status"] == "FAILED":
            assert job["statusReason"].startswith("Host EC2"), job
        else:
            assert journal.starts_of(job_id) == 1, job
