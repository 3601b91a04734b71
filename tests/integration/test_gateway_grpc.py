"""The gateway's public gRPC port, between a real client and real services."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio
import grpc
import grpc.aio
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from batchyard.api.jobs.v1 import jobs_service_pb2, jobs_service_pb2_grpc
from batchyard.api.operations.v1 import (
    agents_service_pb2,
    agents_service_pb2_grpc,
    job_operations_service_pb2,
    job_operations_service_pb2_grpc,
)
from batchyard.gateway.aws_errors import STATUS_DETAILS_KEY
from batchyard.gateway.config import GatewayConfig
from batchyard.gateway.upstreams import PUBLIC_SERVICES
from batchyard.rpc.identity import CREDENTIAL_KEY, INVOCATION_KEY, NAMESPACE_KEY, REGION_KEY
from batchyard.rpc.log_context import REQUEST_ID_KEY
from support.gateway import ACCOUNT, FakeServices, a_gateway, refusing, status_details
from support.waiting import eventually

if TYPE_CHECKING:
    from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceAsyncStub
    from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceAsyncStub


CONFIG = GatewayConfig(port=0, grpc_port=0, account="111122223333", region="eu-central-1")


@pytest.fixture
async def channel(services: FakeServices) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        a_gateway(services, CONFIG) as gateway,
        grpc.aio.insecure_channel(gateway.grpc.removeprefix("grpc://")) as channel,
    ):
        yield channel


@pytest.fixture
def jobs(channel: grpc.aio.Channel) -> "JobsServiceAsyncStub":
    return jobs_service_pb2_grpc.JobsServiceStub(channel)


@pytest.fixture
def operations(channel: grpc.aio.Channel) -> "JobOperationsServiceAsyncStub":
    return job_operations_service_pb2_grpc.JobOperationsServiceStub(channel)


async def test_passes_a_call_on_and_its_response_back(jobs: "JobsServiceAsyncStub", services: FakeServices) -> None:
    services.answer("SubmitJob", jobs_service_pb2.SubmitJobResponse(job_id="1"))
    request = jobs_service_pb2.SubmitJobRequest(job_name="a", job_queue="q", job_definition="d")
    assert (await jobs.SubmitJob(request)).job_id == "1"
    assert services.received[0].request == request


async def test_submissions_that_come_while_one_is_under_way_go_on_together(
    jobs: "JobsServiceAsyncStub", services: FakeServices
) -> None:
    requests = [
        jobs_service_pb2.SubmitJobRequest(job_name=f"job-{number}", job_queue="q", job_definition="d")
        for number in range(6)
    ]
    async with services.disk:
        calls = [jobs.SubmitJob(requests[0])]
        await eventually(lambda: services.together, "the first is under way")
        calls += [jobs.SubmitJob(request) for request in requests[1:]]
        # Sent after them on the same connection: when it is answered they are there.
        await jobs.DescribeJobs(jobs_service_pb2.DescribeJobsRequest(jobs=["1"]))
    for call in calls:
        await call
    assert services.together == [1, 5]
    assert sorted(received.request.job_name for received in services.received if received.method == "SubmitJob") == [
        request.job_name for request in requests
    ]


async def test_passes_calls_of_every_public_service_on(channel: grpc.aio.Channel, services: FakeServices) -> None:
    answer = agents_service_pb2.ListAgentsResponse(agents=[agents_service_pb2.AgentSummary(agent_id="a")])
    services.answer("ListAgents", answer)
    stub: agents_service_pb2_grpc.AgentsServiceAsyncStub = agents_service_pb2_grpc.AgentsServiceStub(channel)
    assert await stub.ListAgents(agents_service_pb2.ListAgentsRequest()) == answer


async def test_only_who_calls_and_which_request_it_is_pass(
    jobs: "JobsServiceAsyncStub", services: FakeServices
) -> None:
    mine = {NAMESPACE_KEY: ACCOUNT, REGION_KEY: "eu-west-1", INVOCATION_KEY: "an-id"}
    metadata = (*mine.items(), ("x-other", "1"), ("authorization", "Bearer x"), (CREDENTIAL_KEY, "forged"))
    call = jobs.DescribeJobs(jobs_service_pb2.DescribeJobsRequest(jobs=["1"]), metadata=metadata)
    await call
    sent = {key: value for key, value in services.received[0].metadata.items() if key != "user-agent"}
    request_id = dict(await call.trailing_metadata() or ())[REQUEST_ID_KEY]
    assert sent == {**mine, CREDENTIAL_KEY: "", REQUEST_ID_KEY: request_id}


@pytest.mark.parametrize("given", ["mine-17", "two words", "x" * 129])
async def test_a_caller_may_name_its_request_for_the_log(
    jobs: "JobsServiceAsyncStub", services: FakeServices, given: str
) -> None:
    services.answer("DescribeJobs", refusing(StatusCode.NOT_FOUND, "no such job"))
    told = []
    for account in (ACCOUNT, "nobody"):  # refused by the service, and by the gateway itself
        metadata = ((REQUEST_ID_KEY, given), (NAMESPACE_KEY, account))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await jobs.DescribeJobs(jobs_service_pb2.DescribeJobsRequest(jobs=["1"]), metadata=metadata)
        told.append(dict(error.value.trailing_metadata() or ())[REQUEST_ID_KEY])
    assert [request_id == given for request_id in told] == [given == "mine-17"] * 2
    assert [call.metadata[REQUEST_ID_KEY] for call in services.received] == told[:1]


async def test_a_call_that_names_no_caller_acts_for_the_configured_one(
    jobs: "JobsServiceAsyncStub", services: FakeServices
) -> None:
    await jobs.DescribeJobs(jobs_service_pb2.DescribeJobsRequest(jobs=["1"]))
    metadata = services.received[0].metadata
    assert (metadata[NAMESPACE_KEY], metadata[REGION_KEY]) == ("111122223333", "eu-central-1")


@pytest.mark.parametrize(
    ("key", "value"), [(NAMESPACE_KEY, "1234"), (NAMESPACE_KEY, "12345678901a"), (REGION_KEY, "a b"), (REGION_KEY, "")]
)
async def test_refuses_callers_that_cannot_be(
    jobs: "JobsServiceAsyncStub", services: FakeServices, key: str, value: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=key) as error:
        await jobs.DescribeJobs(jobs_service_pb2.DescribeJobsRequest(jobs=["1"]), metadata=((key, value),))
    assert error.value.code() is StatusCode.INVALID_ARGUMENT
    assert services.received == []


async def test_passes_a_status_and_its_details_back_as_they_are(
    jobs: "JobsServiceAsyncStub", services: FakeServices
) -> None:
    refusal = (StatusCode.FAILED_PRECONDITION, "queue é is closed", "WRONG_STATE")
    services.answer("DescribeJobs", refusing(refusal[0], refusal[1], reason=refusal[2]))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await jobs.DescribeJobs(jobs_service_pb2.DescribeJobsRequest(jobs=["1"]))
    assert (error.value.code(), error.value.details()) == refusal[:2]
    trailing = {str(key): value for key, value in error.value.trailing_metadata() or ()}
    assert trailing[STATUS_DETAILS_KEY] == dict(status_details(*refusal))[STATUS_DETAILS_KEY]


async def test_a_callers_deadline_goes_along(jobs: "JobsServiceAsyncStub", services: FakeServices) -> None:
    await jobs.DescribeJobs(jobs_service_pb2.DescribeJobsRequest(jobs=["1"]), timeout=20)
    # gRPC rounds what is left up, by some milliseconds on each way.
    assert (services.received[0].time_remaining_s or 0) < 21


async def test_a_call_without_deadline_gets_the_configured_one(
    jobs: "JobsServiceAsyncStub", services: FakeServices
) -> None:
    await jobs.DescribeJobs(jobs_service_pb2.DescribeJobsRequest(jobs=["1"]))
    assert 20 < (services.received[0].time_remaining_s or 0) < CONFIG.deadline_s + 1


async def test_a_callers_cancellation_goes_along(jobs: "JobsServiceAsyncStub", services: FakeServices) -> None:
    arrived, cancelled = anyio.Event(), anyio.Event()

    async def wait(request: Any, context: Any) -> None:
        arrived.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    services.answer("DescribeJobs", wait)
    call = jobs.DescribeJobs(jobs_service_pb2.DescribeJobsRequest(jobs=["1"]))
    await arrived.wait()
    call.cancel()
    await cancelled.wait()


async def test_passes_a_stream_back_as_it_comes(
    operations: "JobOperationsServiceAsyncStub", services: FakeServices
) -> None:
    go_on = anyio.Event()

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        yield job_operations_service_pb2.WatchJobsResponse(revision=request.after_revision + 1)
        await go_on.wait()
        yield job_operations_service_pb2.WatchJobsResponse(revision=request.after_revision + 2)

    services.answer("WatchJobs", watch)
    revisions = []
    async for response in operations.WatchJobs(job_operations_service_pb2.WatchJobsRequest(after_revision=4)):
        revisions.append(response.revision)
        go_on.set()
    assert revisions == [5, 6]
    assert services.received[0].time_remaining_s is None


async def test_a_stream_that_fails_fails_in_the_same_way(
    operations: "JobOperationsServiceAsyncStub", services: FakeServices
) -> None:
    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        yield job_operations_service_pb2.WatchJobsResponse(revision=1)
        await context.abort(StatusCode.OUT_OF_RANGE, "gone", status_details(StatusCode.OUT_OF_RANGE, "gone", "GONE"))

    services.answer("WatchJobs", watch)
    call = operations.WatchJobs(job_operations_service_pb2.WatchJobsRequest())
    first = await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert first == job_operations_service_pb2.WatchJobsResponse(revision=1)
    assert (error.value.code(), error.value.details()) == (StatusCode.OUT_OF_RANGE, "gone")
    assert STATUS_DETAILS_KEY in dict(error.value.trailing_metadata() or ())


async def test_a_stream_that_its_reader_leaves_ends_at_its_source(
    operations: "JobOperationsServiceAsyncStub", services: FakeServices
) -> None:
    ended = anyio.Event()

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            yield job_operations_service_pb2.WatchJobsResponse(revision=1)
            await anyio.sleep_forever()
        finally:
            ended.set()

    services.answer("WatchJobs", watch)
    call = operations.WatchJobs(job_operations_service_pb2.WatchJobsRequest())
    async for _ in call:
        break
    call.cancel()
    await ended.wait()


async def test_health_knows_every_public_service(channel: grpc.aio.Channel) -> None:
    stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
    for name in ("", *(service.full_name for service in PUBLIC_SERVICES)):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_public_services_and_no_others(services: FakeServices) -> None:
    async with a_gateway(services) as gateway:
        listed = await anyio.to_thread.run_sync(_reflected, gateway.grpc.removeprefix("grpc://"))
    ours = {name for name in listed if name.startswith("batchyard.")}
    assert ours == {service.full_name for service in PUBLIC_SERVICES}


def _reflected(address: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        return list(ProtoReflectionDescriptorDatabase(channel).get_services())
