"""Events of jobs through `batchyard events`, beside what boto3 says of the same jobs."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.aws import Account
from support.installation import Installation, batchyard, start_up

pytestmark = pytest.mark.usefixtures("queue")


def events(installation: Installation, account: Account, *arguments: str) -> list[Any]:
    """Return all events that there are."""
    command = ["events", "--endpoint", installation.grpc_target, "--account", account.access_key, *arguments]
    done = subprocess.run(
        [sys.executable, "-m", "batchyard.cli", *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_change_of_a_job_is_an_event_and_the_last_one_has_the_job_as_boto3_shows_it(
    installation: Installation, account: Account
) -> None:
    account.define()
    job_id = account.submit(["sh", "-c", "exit 3"], retryStrategy={"attempts": 2}, tags={"batchyard:fault": "1:oom"})
    job: Any = account.wait(job_id)
    account.wait(account.submit())
    found = events(installation, account, "--job", job_id)
    assert [event["detail"]["status"] for event in found] == [
        *("RUNNABLE", "STARTING", "RUNNING"),
        *("RUNNABLE", "STARTING", "RUNNING", "FAILED"),
    ]
    last = found[-1]
    assert last.pop("detail") == job
    assert last.pop("id")
    assert last.pop("time").endswith("Z")
    assert last == {
        "version": "0",
        "detail-type": "Batch Job State Change",
        "source": "aws.batch",
        "account": account.access_key,
        "region": "us-east-1",
        "resources": [job["jobArn"]],
    }


def test_events_are_filtered_by_queue_and_status(installation: Installation, account: Account) -> None:
    account.define()
    account.make_queue("other")
    first, second = account.submit(), account.submit(jobQueue="other")
    account.wait_all([first, second])
    ends = events(installation, account, "--status", "succeeded", "--status", "FAILED")
    assert {event["detail"]["jobId"] for event in ends} == {first, second}
    of_queue = events(installation, account, "--queue", "other")
    assert {event["detail"]["jobId"] for event in of_queue} == {second}
    assert events(installation, account, "--queue", "nothing") == []


def test_events_are_followed_over_a_restart_of_the_server_until_interrupted(tmp_path: Path) -> None:
    folder, log = tmp_path / "data", tmp_path / "events.log"
    up = start_up(folder)
    port = up.grpc_target.rpartition(":")[2]
    follow = ["events", "--endpoint", up.grpc_target, "--follow", "--replay", "--status", "SUCCEEDED"]
    try:
        with batchyard(follow, log=log) as following:
            job_ids = []
            for _ in range(2):
                account = Account(up.http_url, "any")
                account.define()
                job_ids.append(account.submit(jobQueue="default"))
                account.wait(job_ids[-1])
                if len(job_ids) == 1:
                    first = json.loads(following.ready_line())
                    assert first["detail"]["jobId"] == job_ids[0]
                    up.close()
                    up = start_up(folder, "--grpc-port", port)
                account.close()
            lines = following.lines(2)
            assert [json.loads(line)["detail"]["jobId"] for line in lines] == job_ids
            assert following.interrupt(signal.SIGINT) == 130
            assert "Traceback" not in log.read_text()
    finally:
        up.close()


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "batchyard.cli", "events", "--endpoint", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "the server at grpc://127.0.0.1:1 does not answer" in done.stderr
