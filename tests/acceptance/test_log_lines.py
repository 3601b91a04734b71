"""What the services log of a request and of a job can be found by their ids."""

import json
from contextlib import closing
from pathlib import Path

import grpc

from batchyard.api.jobs.v1.jobs_service_pb2 import DescribeJobsRequest
from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceStub
from batchyard.domain.names import DEFAULT_NAMESPACE
from batchyard.rpc.log_context import REQUEST_ID_KEY
from support.aws import Account
from support.installation import Installation, start_up


def test_the_id_of_an_answer_finds_what_its_request_did_in_every_process(
    installation: Installation, account: Account, queue: str
) -> None:
    account.define(command=["sleep", "60"])
    job_id = account.submit()
    answer = account.batch.terminate_job(jobId=job_id, reason="no need for it")
    request_id = answer["ResponseMetadata"]["RequestId"]
    logs = {process.log for process in installation.processes.values()}
    lines = [line for log in logs for line in log.read_text().splitlines() if f"request_id={request_id}" in line]
    assert any(f"job_id={job_id}" in line and 'reason="no need for it"' in line for line in lines), lines


def test_every_step_of_a_job_is_a_line_with_its_id(tmp_path: Path) -> None:
    with (
        closing(start_up(tmp_path / "data", "--log-format", "json", "--log-level", "debug")) as up,
        closing(Account(up.http_url, DEFAULT_NAMESPACE)) as account,
    ):
        account.define(command=["sh", "-c", "exit 3"])
        submitted = account.batch.submit_job(
            jobName="one", jobQueue="default", jobDefinition="definition", retryStrategy={"attempts": 2}
        )
        account.wait(submitted["jobId"])
        with grpc.insecure_channel(up.grpc_target) as channel:
            _, call = JobsServiceStub(channel).DescribeJobs.with_call(DescribeJobsRequest(jobs=[submitted["jobId"]]))
            native_id = dict(call.trailing_metadata())[REQUEST_ID_KEY]
    assert len(native_id) == len(submitted["ResponseMetadata"]["RequestId"])
    entries = [json.loads(line) for line in up.processes["up"].log.read_text().splitlines()]
    mine = [entry for entry in entries if submitted["jobId"] in json.dumps(entry)]
    assert all(entry["job_id"] == submitted["jobId"] for entry in mine), mine
    assert {entry["logger"].split(".")[1] for entry in mine} >= {"jobstore", "scheduler", "agent"}
    steps = [(entry["message"], entry.get("attempt")) for entry in mine if "jobstore" in entry["logger"]]
    assert [step for step in steps if step[0] in ("RUNNING", "FAILED")] == [
        ("RUNNING", 1),
        ("RUNNING", 2),
        ("FAILED", 2),
    ]
    request = [entry for entry in entries if entry.get("request_id") == submitted["ResponseMetadata"]["RequestId"]]
    assert {entry["message"] for entry in request} >= {"submitted to default", "SubmitJob is answered with 200"}
