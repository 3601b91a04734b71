"""What a command that follows a job asks of a server, with one that is in trouble."""

from typing import Any

import grpc
import pytest

from batchyard.api.jobs.v1.jobs_pb2 import JOB_STATUS_RUNNABLE, JOB_STATUS_RUNNING, JobDetail, JobStatus
from batchyard.api.jobs.v1.jobs_service_pb2 import DescribeJobsResponse
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
