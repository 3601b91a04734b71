"""What commands make of a server that is in trouble, or that is another one than they were made for."""

from typing import Any

import click
import grpc
import pytest

from batchyard.api.jobs.v1.jobs_pb2 import JOB_STATUS_RUNNABLE, JOB_STATUS_RUNNING, JobDetail, JobStatus
from batchyard.api.jobs.v1.jobs_service_pb2 import DescribeJobsResponse
from batchyard.cli.clients import talking_to
from batchyard.cli.job_client import JobClient
from batchyard.domain.names import Caller


class FakeJobs:
    """A service with one job, in the status that it is given; with None it does not answer."""

    def __init__(self) -> None:
        self.status: JobStatus.ValueType | None = None

    async def DescribeJobs(self, _request: object, **_: Any) -> DescribeJobsResponse:  # noqa: N802
        if self.status is None:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")
        return DescribeJobsResponse(jobs=[JobDetail(job_id="job", status=self.status, status_reason="No room")])


def test_a_server_that_does_not_know_a_call_is_an_older_one() -> None:
    nothing = grpc.aio.Metadata()
    with (
        pytest.raises(click.ClickException, match="grpc://host:1 is of an older version than this command: Method"),
        talking_to("host:1", unread=""),
    ):
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, nothing, nothing, "Method not found!")


async def test_why_a_job_waits_is_not_known_of_a_server_in_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = FakeJobs()
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        client = JobClient(channel, Caller("123456789012"))
        monkeypatch.setattr(client, "_jobs", jobs)
        assert await client.reason_for_waiting("job") == ""
        jobs.status = JOB_STATUS_RUNNABLE
        assert await client.reason_for_waiting("job") == "No room"
        jobs.status = JOB_STATUS_RUNNING
        assert await client.reason_for_waiting("job") == ""
