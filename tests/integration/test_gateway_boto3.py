"""The gateway as boto3 sees it."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import pytest
from anyio import to_thread
from botocore.config import Config
from botocore.exceptions import ClientError
from grpc import StatusCode

from batchyard.api.common.v1 import container_pb2
from batchyard.api.jobs.v1 import jobs_pb2, jobs_service_pb2
from batchyard.api.operations.v1 import logs_service_pb2
from batchyard.api.registry.v1 import job_queue_pb2, registry_service_pb2, resource_state_pb2
from batchyard.gateway.app import GatewayAddresses
from batchyard.rpc.identity import NAMESPACE_KEY, REGION_KEY
from support.aws import boto3_session
from support.gateway import ACCOUNT, FakeServices, refusing

if TYPE_CHECKING:
    from types_boto3_batch import BatchClient
    from types_boto3_logs import CloudWatchLogsClient

T = TypeVar("T")


@pytest.fixture
def session() -> boto3.Session:
    return boto3_session(ACCOUNT, region="eu-west-1")


@pytest.fixture
async def batch(gateway: GatewayAddresses, session: boto3.Session) -> AsyncIterator["BatchClient"]:
    config = Config(retries={"total_max_attempts": 1})
    client = await to_thread.run_sync(lambda: session.client("batch", endpoint_url=gateway.http, config=config))
    yield client
    client.close()


@pytest.fixture
async def logs(gateway: GatewayAddresses, session: boto3.Session) -> AsyncIterator["CloudWatchLogsClient"]:
    config = Config(retries={"total_max_attempts": 1})
    client = await to_thread.run_sync(lambda: session.client("logs", endpoint_url=gateway.http, config=config))
    yield client
    client.close()


async def in_thread(call: Callable[..., T], **members: Any) -> T:
    """Call a boto3 operation without holding up the gateway."""
    return await to_thread.run_sync(lambda: call(**members))


async def test_submits_a_job(batch: "BatchClient", services: FakeServices) -> None:
    services.answer("SubmitJob", jobs_service_pb2.SubmitJobResponse(job_id="1", job_name="a", job_arn="arn:1"))
    answer = await in_thread(
        batch.submit_job,
        jobName="a",
        jobQueue="q",
        jobDefinition="d",
        parameters={"in": "1"},
        containerOverrides={"command": ["true"], "environment": [{"name": "A", "value": "B"}]},
        retryStrategy={"attempts": 3},
    )
    assert (answer["jobId"], answer["jobName"], answer["jobArn"]) == ("1", "a", "arn:1")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["ResponseMetadata"]["RequestId"]
    (call,) = services.received
    assert call.request == jobs_service_pb2.SubmitJobRequest(
        job_name="a",
        job_queue="q",
        job_definition="d",
        parameters={"in": "1"},
        container_overrides=jobs_pb2.ContainerOverrides(
            command=["true"], environment=[container_pb2.KeyValuePair(name="A", value="B")]
        ),
        retry_strategy=container_pb2.RetryStrategy(attempts=3),
    )


async def test_its_access_key_is_the_account_and_its_region_goes_along(
    batch: "BatchClient", services: FakeServices
) -> None:
    await in_thread(batch.describe_job_queues)
    (call,) = services.received
    assert (call.metadata[NAMESPACE_KEY], call.metadata[REGION_KEY]) == (ACCOUNT, "eu-west-1")


async def test_sees_times_as_numbers_zeros_as_zeros_and_empty_lists_as_lists(
    batch: "BatchClient", services: FakeServices
) -> None:
    job = jobs_pb2.JobDetail(
        job_id="1",
        status=jobs_pb2.JOB_STATUS_SUCCEEDED,
        created_at=1480460782010,
        container=jobs_pb2.ContainerDetail(exit_code=0),
    )
    services.answer("DescribeJobs", jobs_service_pb2.DescribeJobsResponse(jobs=[job]))
    (seen,) = (await in_thread(batch.describe_jobs, jobs=["1"]))["jobs"]
    assert (seen["status"], seen["createdAt"], seen["container"]["exitCode"]) == ("SUCCEEDED", 1480460782010, 0)
    assert (seen["dependsOn"], seen["attempts"], seen["container"]["environment"]) == ([], [], [])
    assert "startedAt" not in seen


async def test_pages_as_its_paginators_do(batch: "BatchClient", services: FakeServices) -> None:
    async def page(request: Any, context: Any) -> registry_service_pb2.DescribeJobQueuesResponse:
        number = int(request.next_token or "0")
        queue = job_queue_pb2.JobQueueDetail(
            job_queue_name=f"q{number}", priority=0, state=resource_state_pb2.RESOURCE_STATE_ENABLED
        )
        following = str(number + 1) if number < 2 else None
        return registry_service_pb2.DescribeJobQueuesResponse(job_queues=[queue], next_token=following)

    services.answer("DescribeJobQueues", page)
    pages = await to_thread.run_sync(lambda: list(batch.get_paginator("describe_job_queues").paginate()))
    assert [queue["jobQueueName"] for answer in pages for queue in answer["jobQueues"]] == ["q0", "q1", "q2"]
    assert "nextToken" not in pages[-1]


async def test_catches_a_client_exception_by_its_type(batch: "BatchClient", services: FakeServices) -> None:
    services.answer("CancelJob", refusing(StatusCode.NOT_FOUND, "Job x does not exist", reason="NOT_FOUND"))
    with pytest.raises(batch.exceptions.ClientException) as error:
        await in_thread(batch.cancel_job, jobId="x", reason="r")
    assert error.value.response["Error"] == {"Code": "ClientException", "Message": "Job x does not exist"}
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


async def test_catches_a_server_exception_by_its_type(batch: "BatchClient", services: FakeServices) -> None:
    services.answer("CancelJob", refusing(StatusCode.INTERNAL, "broken"))
    with pytest.raises(batch.exceptions.ServerException):
        await in_thread(batch.cancel_job, jobId="x", reason="r")


async def test_tries_again_when_the_server_failed(
    gateway: GatewayAddresses, session: boto3.Session, services: FakeServices
) -> None:
    async def fail_once(request: Any, context: Any) -> jobs_service_pb2.ListJobsResponse:
        if len(services.received) == 1:
            await context.abort(StatusCode.UNAVAILABLE, "not yet")
        return jobs_service_pb2.ListJobsResponse()

    services.answer("ListJobs", fail_once)
    client = session.client("batch", endpoint_url=gateway.http)
    answer = await in_thread(client.list_jobs, jobQueue="q")
    client.close()
    assert (answer["jobSummaryList"], len(services.received)) == ([], 2)


async def test_is_told_which_words_an_enum_has(batch: "BatchClient", services: FakeServices) -> None:
    with pytest.raises(batch.exceptions.ClientException, match=r"'SLEEPING' is not valid. Valid values: \[ENABLED, "):
        await in_thread(batch.update_job_queue, jobQueue="q", state="SLEEPING")
    assert services.received == []


async def test_is_told_that_an_operation_is_not_supported(batch: "BatchClient", services: FakeServices) -> None:
    for call, members in (
        (batch.list_consumable_resources, {}),
        (batch.describe_service_job, {"jobId": "j"}),
    ):
        with pytest.raises(batch.exceptions.ClientException, match="not supported by this server"):
            await in_thread(call, **members)


async def test_reads_log_events(logs: "CloudWatchLogsClient", services: FakeServices) -> None:
    event = logs_service_pb2.LogEvent(timestamp=1480460782010, message="hi", ingestion_time=1480460782010)
    services.answer(
        "GetLogEvents",
        logs_service_pb2.GetLogEventsResponse(events=[event], next_forward_token="f/1", next_backward_token="b/1"),
    )
    start = datetime(2016, 11, 29, tzinfo=UTC)
    answer = await in_thread(
        logs.get_log_events,
        logGroupName="/aws/batch/job",
        logStreamName="d/default/1",
        startTime=int(start.timestamp() * 1000),
        startFromHead=True,
    )
    assert answer["events"] == [{"timestamp": 1480460782010, "message": "hi", "ingestionTime": 1480460782010}]
    assert (answer["nextForwardToken"], answer["nextBackwardToken"]) == ("f/1", "b/1")
    (call,) = services.received
    assert call.request.start_from_head
    assert call.request.start_time == int(start.timestamp() * 1000)


async def test_catches_a_missing_log_stream_by_its_type(logs: "CloudWatchLogsClient", services: FakeServices) -> None:
    services.answer("GetLogEvents", refusing(StatusCode.NOT_FOUND, "The specified log stream does not exist."))
    with pytest.raises(logs.exceptions.ResourceNotFoundException, match="log stream does not exist"):
        await in_thread(logs.get_log_events, logStreamName="x")


async def test_is_told_that_a_log_operation_is_not_supported(logs: "CloudWatchLogsClient") -> None:
    with pytest.raises(ClientError, match="not supported by this server") as caught:
        await in_thread(logs.delete_log_group, logGroupName="g")
    assert caught.value.response["Error"]["Code"] == "UnknownOperationException"


async def test_is_told_for_which_account_it_acts(gateway: GatewayAddresses, session: boto3.Session) -> None:
    sts: Any = await to_thread.run_sync(lambda: session.client("sts", endpoint_url=gateway.http))
    answer = await in_thread(sts.get_caller_identity)
    assert (answer["Account"], answer["Arn"]) == (ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root")
    assert answer["UserId"] == ACCOUNT
    assert answer["ResponseMetadata"]["RequestId"]
    with pytest.raises(ClientError, match="GetCallerIdentity alone") as caught:
        await in_thread(sts.get_session_token)
    assert caught.value.response["Error"]["Code"] == "InvalidAction"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    sts.close()
