"""Jobs that talk back: a head job submits others, follows them and reads what they print, with AWS's own clients."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.aws import Account
from support.installation import Installation, free_ports, start_up

HEAD = """
import subprocess, sys, time, boto3

batch, logs = boto3.client("batch"), boto3.client("logs")
print("account", boto3.client("sts").get_caller_identity()["Account"])
first = batch.submit_job(
    jobName="child", jobQueue="queue", jobDefinition="child",
    containerOverrides={"command": ["sh", "-c", "echo from the child in $AWS_REGION"]},
)["jobId"]
second = subprocess.run(
    [sys.executable, sys.argv[1], "batch", "submit-job", "--job-name", "child", "--job-queue", "queue",
     "--job-definition", "child", "--depends-on", f"jobId={first}", "--query", "jobId", "--output", "text"],
    check=True, capture_output=True, text=True,
).stdout.strip()
while True:
    job = batch.describe_jobs(jobs=[second])["jobs"][0]
    if job["status"] in ("SUCCEEDED", "FAILED"):
        break
    time.sleep(0.05)
stream = batch.describe_jobs(jobs=[first])["jobs"][0]["container"]["logStreamName"]
events = logs.get_log_events(logGroupName="/aws/batch/job", logStreamName=stream)["events"]
print(job["status"], [event["message"] for event in events])
"""


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    port, grpc_port = free_ports(2)
    running = start_up(
        tmp_path / "data",
        *("--port", str(port), "--grpc-port", str(grpc_port)),
        *("--job-endpoint", f"http://127.0.0.1:{port}", "--job-region", "eu-west-1"),
    )
    yield running
    running.close()


def test_a_head_job_submits_children_and_reads_their_logs(installation: Installation) -> None:
    account = Account(installation.http_url, "210987654321")
    account.make_queue()
    command = [sys.executable, "-c", HEAD, str(Path(sys.executable).with_name("aws"))]
    account.define("head", command, containerProperties={"memory": 1024})
    account.define("child")
    head = account.wait(account.submit(jobDefinition="head"))
    assert head["status"] == "SUCCEEDED", (head, account.lines_of(head["container"]["logStreamName"], lambda _: True))
    assert account.log_lines(head) == ["account 210987654321", "SUCCEEDED ['from the child in eu-west-1']"]
    account.close()
