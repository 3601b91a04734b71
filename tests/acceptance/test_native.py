"""The same round as with boto3, with generated stubs and plain grpc.aio on the gateway's gRPC port."""

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from batchyard.api.common.v1.container_pb2 import RetryStrategy
from batchyard.api.jobs.v1.jobs_pb2 import (
    JOB_STATUS_FAILED,
    JOB_STATUS_SUCCEEDED,
    ContainerOverrides,
    JobDependency,
    JobStatus,
)
from batchyard.api.jobs.v1.jobs_service_pb2 import (
    CancelJobRequest,
    DescribeJobsRequest,
    ListJobsRequest,
    SubmitJobRequest,
    TerminateJobRequest,
)
from batchyard.api.operations.v1.agents_service_pb2 import ListAgentsRequest
from batchyard.api.operations.v1.job_operations_service_pb2 import JobChange, SubmitJobsRequest, WatchJobsRequest
from batchyard.api.operations.v1.logs_service_pb2 import FollowLogEventsRequest, GetLogEventsRequest
from batchyard.api.registry.v1.compute_environment_pb2 import COMPUTE_ENVIRONMENT_TYPE_UNMANAGED
from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties
from batchyard.api.registry.v1.job_queue_pb2 import ComputeEnvironmentOrder
from batchyard.api.registry.v1.registry_service_pb2 import (
    CreateComputeEnvironmentRequest,
    CreateJobQueueRequest,
    DeleteComputeEnvironmentRequest,
    DeleteJobQueueRequest,
    DeregisterJobDefinitionRequest,
    DescribeComputeEnvironmentsRequest,
    DescribeJobDefinitionsRequest,
    DescribeJobQueuesRequest,
    RegisterJobDefinitionRequest,
    UpdateComputeEnvironmentRequest,
    UpdateJobQueueRequest,
)
from batchyard.api.registry.v1.resource_state_pb2 import RESOURCE_STATE_DISABLED, RESOURCE_STATUS_VALID
from batchyard.rpc.errors import error_from
from support.native import NativeClient

PUBLIC_SERVICES = {
    "batchyard.api.registry.v1.RegistryService",
    "batchyard.api.jobs.v1.JobsService",
    "batchyard.api.operations.v1.JobOperationsService",
    "batchyard.api.operations.v1.AgentsService",
    "batchyard.api.operations.v1.LogsService",
    "batchyard.api.operations.v1.OverviewService",
}


@pytest.fixture
async def ready(native: NativeClient) -> NativeClient:
    """A client whose account has a queue and a definition, both named `native`."""
    await native.registry.CreateComputeEnvironment(
        CreateComputeEnvironmentRequest(compute_environment_name="native", type=COMPUTE_ENVIRONMENT_TYPE_UNMANAGED),
        **native.call,
    )
    await native.registry.CreateJobQueue(
        CreateJobQueueRequest(
            job_queue_name="native",
            priority=1,
            compute_environment_order=[ComputeEnvironmentOrder(order=1, compute_environment="native")],
        ),
        **native.call,
    )
    await native.registry.RegisterJobDefinition(
        RegisterJobDefinitionRequest(
            job_definition_name="native",
            type="container",
            container_properties=ContainerProperties(image="busybox", vcpus=1, memory=16, command=["true"]),
        ),
        **native.call,
    )
    return native


def a_job(*command: str, **members: Any) -> SubmitJobRequest:
    overrides = ContainerOverrides(command=command) if command else None
    return SubmitJobRequest(
        job_name="job", job_queue="native", job_definition="native", container_overrides=overrides, **members
    )


async def the_end_of(client: NativeClient, job_id: str) -> tuple[list[JobStatus.ValueType], JobChange]:
    """Return the statuses that a watch shows, and the last change, once the job has ended."""
    statuses = []
    async for response in client.operations.WatchJobs(WatchJobsRequest(job_ids=[job_id]), **client.call):
        for change in response.changes:
            statuses.append(change.status)
            if change.status in (JOB_STATUS_SUCCEEDED, JOB_STATUS_FAILED):
                return statuses, change
    raise AssertionError("the watch ended before the job")


async def test_a_job_runs_and_is_watched_and_read(ready: NativeClient) -> None:
    submitted = await ready.jobs.SubmitJob(a_job("sh", "-c", "echo $AWS_BATCH_JOB_ID; exit 3"), **ready.call)
    statuses, end = await the_end_of(ready, submitted.job_id)
    assert statuses == sorted(set(statuses))
    assert (end.status, end.exit_code) == (JOB_STATUS_FAILED, 3)

    follow = FollowLogEventsRequest(log_stream_name=end.log_stream_name)
    followed = [
        event.message async for page in ready.logs.FollowLogEvents(follow, **ready.call) for event in page.events
    ]
    assert followed == [submitted.job_id]
    read = await ready.logs.GetLogEvents(
        GetLogEventsRequest(log_stream_name=end.log_stream_name, start_from_head=True), **ready.call
    )
    assert [event.message for event in read.events] == followed

    described = await ready.jobs.DescribeJobs(DescribeJobsRequest(jobs=["unknown", submitted.job_id]), **ready.call)
    (job,) = described.jobs
    assert job.created_at <= job.started_at <= job.stopped_at
    assert job.container.HasField("exit_code")
    listed = await ready.jobs.ListJobs(ListJobsRequest(job_queue="native", job_status=JOB_STATUS_FAILED), **ready.call)
    assert [summary.job_id for summary in listed.job_summary_list] == [submitted.job_id]


async def test_jobs_are_cancelled_and_terminated(ready: NativeClient) -> None:
    running = await ready.jobs.SubmitJob(a_job("sleep", "600"), **ready.call)
    waiting = await ready.jobs.SubmitJob(a_job(depends_on=[JobDependency(job_id=running.job_id)]), **ready.call)
    await ready.jobs.CancelJob(CancelJobRequest(job_id=waiting.job_id, reason="cancelled"), **ready.call)
    await ready.jobs.TerminateJob(TerminateJobRequest(job_id=running.job_id, reason="terminated"), **ready.call)
    for submitted, reason in ((waiting, "cancelled"), (running, "terminated")):
        _, end = await the_end_of(ready, submitted.job_id)
        assert (end.status, end.status_reason) == (JOB_STATUS_FAILED, reason)


async def test_a_batch_is_answered_job_by_job(ready: NativeClient) -> None:
    jobs = [a_job(), SubmitJobRequest(job_name="x", job_queue="nothing", job_definition="native"), a_job()]
    answer = await ready.operations.SubmitJobs(SubmitJobsRequest(jobs=jobs), **ready.call)
    assert [result.WhichOneof("result") for result in answer.results] == ["submitted", "error", "submitted"]
    refused = answer.results[1]
    assert "nothing" in refused.error
    assert (refused.error_reason, refused.error_field) == ("NOT_FOUND", "jobQueue")


async def test_resources_live_and_die(ready: NativeClient) -> None:
    registry, call = ready.registry, ready.call
    queues = await registry.DescribeJobQueues(DescribeJobQueuesRequest(job_queues=["native"]), **call)
    assert [queue.status for queue in queues.job_queues] == [RESOURCE_STATUS_VALID]
    await registry.UpdateJobQueue(UpdateJobQueueRequest(job_queue="native", state=RESOURCE_STATE_DISABLED), **call)
    await registry.DeleteJobQueue(DeleteJobQueueRequest(job_queue="native"), **call)
    await registry.UpdateComputeEnvironment(
        UpdateComputeEnvironmentRequest(compute_environment="native", state=RESOURCE_STATE_DISABLED), **call
    )
    await registry.DeleteComputeEnvironment(DeleteComputeEnvironmentRequest(compute_environment="native"), **call)
    left = await registry.DescribeComputeEnvironments(DescribeComputeEnvironmentsRequest(), **call)
    assert list(left.compute_environments) == []
    await registry.DeregisterJobDefinition(DeregisterJobDefinitionRequest(job_definition="native:1"), **call)
    definitions = await registry.DescribeJobDefinitions(DescribeJobDefinitionsRequest(), **call)
    assert [definition.status for definition in definitions.job_definitions] == ["INACTIVE"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (SubmitJobRequest(job_name="job", job_queue="nothing", job_definition="native"), grpc.StatusCode.NOT_FOUND),
        (SubmitJobRequest(job_name="-", job_queue="native", job_definition="native"), grpc.StatusCode.INVALID_ARGUMENT),
        (SubmitJobRequest(job_name="job", job_definition="native"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_refusals_have_the_code_of_their_kind(
    ready: NativeClient, request_: SubmitJobRequest, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ready.jobs.SubmitJob(request_, **ready.call)
    assert caught.value.code() is code


@pytest.mark.parametrize(
    ("members", "reason", "field"),
    [
        ({"job_queue": "nothing"}, "NOT_FOUND", "jobQueue"),
        ({"job_definition": "native:9"}, "NOT_FOUND", "jobDefinition"),
        ({"job_name": "-"}, "INVALID_REQUEST", "jobName"),
        ({"job_name": ""}, "INVALID_REQUEST", "jobName"),
        ({"share_identifier": "a"}, "INVALID_REQUEST", "shareIdentifier"),
        ({"container_overrides": ContainerOverrides(vcpus=0)}, "INVALID_REQUEST", "vcpus"),
        ({"container_overrides": ContainerOverrides(command=[""])}, "INVALID_REQUEST", "containerOverrides.command"),
        ({"retry_strategy": RetryStrategy(attempts=11)}, "INVALID_REQUEST", "retryStrategy.attempts"),
    ],
)
async def test_a_refusal_names_the_member_and_has_a_reason_for_programs(
    ready: NativeClient, members: dict[str, Any], reason: str, field: str
) -> None:
    request = SubmitJobRequest(**{"job_name": "job", "job_queue": "native", "job_definition": "native", **members})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ready.jobs.SubmitJob(request, **ready.call)
    error = error_from(caught.value)
    assert (error.reason, error.field) == (reason, field)
    assert error.message == caught.value.details()


async def test_agents_are_listed(native: NativeClient) -> None:
    answer = await native.agents.ListAgents(ListAgentsRequest(), **native.call)
    (agent,) = answer.agents
    assert (agent.connected, agent.runtime, agent.vcpus_milli) == (True, "process", 8000)


async def test_reflection_lists_the_public_services_and_knows_their_messages(native: NativeClient) -> None:
    reflection = ServerReflectionStub(native.channel)
    requests = [
        ServerReflectionRequest(list_services=""),
        ServerReflectionRequest(file_containing_symbol="batchyard.api.jobs.v1.SubmitJobRequest"),
    ]
    answers = [answer async for answer in reflection.ServerReflectionInfo(iter(requests), timeout=60)]
    listed = {service.name for service in answers[0].list_services_response.service}
    assert listed >= PUBLIC_SERVICES | {"grpc.health.v1.Health"}
    assert not {name for name in listed if name.startswith("batchyard.")} - PUBLIC_SERVICES
    files = [
        FileDescriptorProto.FromString(serialized)
        for serialized in answers[1].file_descriptor_response.file_descriptor_proto
    ]
    fields = {message.name: [field.name for field in message.field] for file in files for message in file.message_type}
    assert "job_queue" in fields["SubmitJobRequest"]


async def test_the_health_service_says_serving(native: NativeClient) -> None:
    answer = await HealthStub(native.channel).Check(HealthCheckRequest(), timeout=60)
    assert answer.status == HealthCheckResponse.SERVING
