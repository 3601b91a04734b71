"""One full round with the aws command, from the first resource to the log of the job."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.aws import TERMINAL, Account, Json
from support.installation import Installation
from support.waiting import soon

Aws = Callable[..., Json]


@pytest.fixture
def aws(installation: Installation, account: Account, tmp_path: Path) -> Aws:
    """The aws command, as a function of its arguments that returns what it printed."""
    program = Path(sys.executable).with_name("aws")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": account.access_key,
        "AWS_SECRET_ACCESS_KEY": "any secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": installation.http_url,
        "AWS_PAGER": "",
    }

    def call(*arguments: str) -> Json:
        command = [sys.executable, str(program), *arguments, "--output", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        answer: Json = json.loads(done.stdout) if done.stdout.strip() else {}
        return answer

    return call


def test_a_full_round(aws: Aws, account: Account) -> None:
    aws("batch", "create-compute-environment", "--compute-environment-name", "ce", "--type", "UNMANAGED")
    order = "order=1,computeEnvironment=ce"
    aws("batch", "create-job-queue", "--job-queue-name", "q", "--priority", "1", "--compute-environment-order", order)
    properties = json.dumps({"image": "busybox", "vcpus": 1, "memory": 16, "command": ["echo", "Ref::word"]})
    definition = ("--job-definition-name", "d", "--type", "container", "--container-properties", properties)
    assert aws("batch", "register-job-definition", *definition)["revision"] == 1

    submission = ("--job-name", "j", "--job-queue", "q", "--job-definition", "d", "--parameters", "word=hello")
    job_id = aws("batch", "submit-job", *submission)["jobId"]

    def ended() -> Json | None:
        (job,) = aws("batch", "describe-jobs", "--jobs", job_id)["jobs"]
        return job if job["status"] in TERMINAL else None

    job = soon(ended, "the end of the job")
    assert (job["status"], job["container"]["exitCode"]) == ("SUCCEEDED", 0)
    listed = aws("batch", "list-jobs", "--job-queue", "q", "--job-status", "SUCCEEDED")["jobSummaryList"]
    assert [summary["jobId"] for summary in listed] == [job_id]
    stream = ("--log-group-name", "/aws/batch/job", "--log-stream-name", job["container"]["logStreamName"])
    events = soon(lambda: aws("logs", "get-log-events", *stream)["events"], "the log of the job")
    assert [event["message"] for event in events] == ["hello"]
    search = ("--log-group-name", "/aws/batch/job", "--filter-pattern", "?hello ?other")
    found = aws("logs", "filter-log-events", *search)["events"]
    assert [(event["message"], event["logStreamName"]) for event in found] == [("hello", stream[-1])]
    assert aws("sts", "get-caller-identity")["Account"] == account.access_key

    aws("batch", "update-job-queue", "--job-queue", "q", "--state", "DISABLED")
    aws("batch", "delete-job-queue", "--job-queue", "q")
    aws("batch", "update-compute-environment", "--compute-environment", "ce", "--state", "DISABLED")
    aws("batch", "delete-compute-environment", "--compute-environment", "ce")
    aws("batch", "deregister-job-definition", "--job-definition", "d:1")
    assert aws("batch", "describe-job-queues")["jobQueues"] == []
