"""Finished jobs and what they printed are there for the time that was set, and then gone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.aws import Account
from support.installation import Installation, start_six, start_up
from support.waiting import soon

RETENTION = ("--job-retention", "2s")


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(lambda folder: start_up(folder, *RETENTION), id="one process"),
        pytest.param(lambda folder: start_six(folder, jobstore=RETENTION), id="six processes"),
    ],
)
def test_a_finished_job_and_its_log_go_and_others_stay(start: Callable[[Path], Installation], tmp_path: Path) -> None:
    installation = start(tmp_path / "data")
    account = Account(installation.http_url, "100000000000")
    try:
        account.make_queue()
        account.define()
        ran = tmp_path / "ran"
        running = account.submit(["sh", "-c", "echo stays; exec sleep 600"])
        stream = account.wait(running, "RUNNING")["container"]["logStreamName"]
        assert account.lines_of(stream) == ["stays"]
        finished = account.submit(["sh", "-c", f"echo goes; echo ran > {ran}"])
        soon(lambda: account.batch.describe_jobs(jobs=[finished])["jobs"] == [], "the job is gone")
        assert ran.read_text() == "ran\n"
        logs = {*(tmp_path / "data").rglob("*.log"), *(tmp_path / "data").rglob("*.marks")}
        kept = stream.rpartition("/")[2]

        def others_are_gone() -> bool:
            found = (tmp_path / "data").rglob("default/*")
            return {file.stem for file in found} == {kept}

        assert logs
        soon(others_are_gone, "the log is gone")
        assert account.stream_lines(stream) == ["stays"]
        assert account.describe(running)["status"] == "RUNNING"
    finally:
        account.close()
        installation.close()
