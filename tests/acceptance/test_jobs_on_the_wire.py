"""Jobs as they stand in the JSON of answers, which boto3 hides: exact members, numbers, zeros, and what is absent."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.aws import Account, Json
from support.installation import Installation

pytestmark = pytest.mark.usefixtures("queue")

ALWAYS_IN_CONTAINER: Json = {
    "command": [],
    "environment": [],
    "mountPoints": [],
    "networkInterfaces": [],
    "resourceRequirements": [],
    "secrets": [],
    "ulimits": [],
    "volumes": [],
}
TIMES = ("createdAt", "startedAt", "stoppedAt")


def ask(installation: Installation, account: Account, operation: str, **members: Any) -> Json:
    """Send an operation as JSON; return the members of the answer, or of the error with its type."""
    address = urlsplit(installation.http_url)
    credential = f"{account.access_key}/20260101/us-east-1/batch/aws4_request"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=00"
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    try:
        connection.request("POST", f"/v1/{operation}", json.dumps(members), {"Authorization": authorization})
        response = connection.getresponse()
        answer: Json = json.load(response)
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-amzn-requestid"]
        error_type = response.headers.get("x-amzn-errortype")
        return answer if error_type is None else {"type": error_type, "status": response.status, **answer}
    finally:
        connection.close()


def described(installation: Installation, account: Account, job_id: str) -> Json:
    (job,) = ask(installation, account, "describejobs", jobs=[job_id])["jobs"]
    assert isinstance(job, dict)
    return job


def test_a_job_that_waits_has_every_list_and_nothing_of_what_has_not_happened(
    installation: Installation, account: Account
) -> None:
    properties = {"image": "busybox", "vcpus": 1, "memory": 16}
    account.batch.register_job_definition(
        jobDefinitionName="bare",
        type="container",
        containerProperties=properties,  # type: ignore[arg-type]  # boto3's own dicts
    )
    first = account.submit(jobDefinition="bare", containerOverrides={"vcpus": 1000})
    job_id = account.submit(jobDefinition="bare", dependsOn=[{"jobId": first}])
    job = described(installation, account, job_id)
    arn = f"arn:aws:batch:us-east-1:{account.access_key}"
    assert type(job.pop("createdAt")) is int
    assert job == {
        "jobArn": f"{arn}:job/{job_id}",
        "jobId": job_id,
        "jobName": "job",
        "jobQueue": f"{arn}:job-queue/queue",
        "jobDefinition": f"{arn}:job-definition/bare:1",
        "status": "PENDING",
        "attempts": [],
        "dependsOn": [{"jobId": first}],
        "parameters": {},
        "tags": {},
        "retryStrategy": {"attempts": 1, "evaluateOnExit": []},
        "isCancelled": False,
        "isTerminated": False,
        "propagateTags": False,
        "platformCapabilities": [],
        "container": {**ALWAYS_IN_CONTAINER, **properties},
    }
    account.batch.terminate_jobs(jobs=[first, job_id], reason="seen")


def test_a_job_that_has_run_has_its_zeros_and_its_numbers_are_numbers(
    installation: Installation, account: Account
) -> None:
    account.define()
    account.wait(job_id := account.submit())
    job = described(installation, account, job_id)
    assert all(type(job[member]) is int for member in TIMES)
    assert type(job["container"]["exitCode"]) is int
    (attempt,) = job["attempts"]
    assert set(attempt) == {"container", "startedAt", "stoppedAt", "statusReason"}
    assert set(attempt["container"]) == {
        *("containerInstanceArn", "exitCode", "logStreamName", "networkInterfaces", "taskArn")
    }
    assert (attempt["container"]["exitCode"], attempt["container"]["networkInterfaces"]) == (0, [])
    assert "reason" not in job["container"]
    (summary,) = ask(installation, account, "listjobs", jobQueue="queue", jobStatus="SUCCEEDED")["jobSummaryList"]
    assert all(type(summary[member]) is int for member in TIMES)
    assert summary["container"] == {"exitCode": 0}
    assert "isCancelled" not in summary


def test_a_job_that_never_ran_has_neither_times_nor_an_exit(installation: Installation, account: Account) -> None:
    account.define()
    account.wait(failed := account.submit(["/no/such/program"]))
    account.batch.cancel_job(jobId=(cancelled := account.submit(containerOverrides={"vcpus": 1000})), reason="enough")
    for job_id in (failed, cancelled):
        job = described(installation, account, job_id)
        assert job["status"] == "FAILED"
        assert not {"startedAt", "stoppedAt", "exitCode", "logStreamName"} & (job.keys() | job["container"].keys())
    (attempt,) = described(installation, account, failed)["attempts"]
    assert not {"exitCode", "logStreamName"} & attempt["container"].keys()
    assert "startedAt" not in attempt
    answer = ask(installation, account, "listjobs", jobQueue="queue", jobStatus="FAILED", maxResults=1)
    assert [job["jobId"] for job in answer["jobSummaryList"]] == [cancelled]
    assert answer["jobSummaryList"][0]["isCancelled"] is True
    rest = ask(installation, account, "listjobs", jobQueue="queue", jobStatus="FAILED", nextToken=answer["nextToken"])
    assert [job["jobId"] for job in rest["jobSummaryList"]] == [failed]
    assert "nextToken" not in rest


def test_what_has_no_output_is_an_empty_object_and_a_refusal_has_its_type(
    installation: Installation, account: Account
) -> None:
    assert ask(installation, account, "canceljob", jobId="none", reason="x") == {}
    assert ask(installation, account, "terminatejob", jobId="none", reason="x") == {}
    answer = ask(installation, account, "canceljobs", jobs=["none"], reason="x")
    assert answer == {"successful": ["none"], "errors": []}
    assert ask(installation, account, "describejobs", jobs=[]) == {"jobs": []}
    assert ask(installation, account, "canceljob", jobId="", reason="x") == {
        "type": "ClientException",
        "status": 400,
        "message": "'jobId' is a required field (cannot be an empty string)",
    }
