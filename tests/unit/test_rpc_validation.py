from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from batchyard.api.common.v1 import annotations_pb2
from batchyard.api.jobs.v1 import jobs_service_pb2 as jobs
from batchyard.api.operations.v1 import job_operations_service_pb2 as operations
from batchyard.api.operations.v1 import logs_service_pb2 as logs
from batchyard.api.operations.v1 import logs_service_pb2_grpc as logs_grpc
from batchyard.api.registry.v1 import registry_service_pb2 as registry
from batchyard.domain.errors import InvalidRequestError
from batchyard.rpc.channel import InProcessChannel, InProcessServer
from batchyard.rpc.errors import ErrorMapping, error_from
from batchyard.rpc.validation import RequiredMembers, check_for, check_required
from support.contexts import stopped
from support.rpc import PartialLogs, failure_of

MODULES = (jobs, operations, logs, registry)
REQUESTS = [
    method.input_type
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def is_required(field: FieldDescriptor) -> bool:
    return field.GetOptions().Extensions[annotations_pb2.rules].required


def required_fields(descriptor: Any) -> list[FieldDescriptor]:
    return [field for field in descriptor.fields if is_required(field)]


def value_for(field: FieldDescriptor) -> Any:
    """Return a value with which the member is there, its own required members included."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {"x": "x"}
    if field.message_type is not None:
        value: Any = complete(field.message_type)
    elif field.enum_type is not None:
        value = field.enum_type.values[1].number
    else:
        value = "x" if field.type == FieldDescriptor.TYPE_STRING else 0
    return [value] if field.is_repeated else value


def complete(descriptor: Any, *, without: FieldDescriptor | None = None) -> Any:
    """Return a message with its required members and nothing else."""
    members = {field.name: value_for(field) for field in required_fields(descriptor) if field is not without}
    return GetMessageClass(descriptor)(**members)


def each_required() -> Iterator[Any]:
    for descriptor in REQUESTS:
        for field in required_fields(descriptor):
            yield pytest.param(descriptor, field, id=f"{descriptor.name}.{field.json_name}")


def refusal(message: Message) -> tuple[str, str | None] | None:
    try:
        check_required(message)
    except InvalidRequestError as error:
        return error.message, error.field
    return None


@pytest.mark.parametrize("descriptor", REQUESTS, ids=lambda it: it.name)
def test_a_request_with_its_required_members_passes(descriptor: Descriptor) -> None:
    assert refusal(complete(descriptor)) is None


@pytest.mark.parametrize(("descriptor", "field"), list(each_required()))
def test_each_required_member_is_asked_for(descriptor: Descriptor, field: FieldDescriptor) -> None:
    assert refusal(complete(descriptor, without=field)) == (f"{field.json_name} is required.", field.json_name)


@pytest.mark.parametrize("descriptor", REQUESTS, ids=lambda it: it.name)
def test_the_first_missing_member_is_named(descriptor: Descriptor) -> None:
    required = required_fields(descriptor)
    expected = (f"{required[0].json_name} is required.", required[0].json_name) if required else None
    assert refusal(GetMessageClass(descriptor)()) == expected


def test_empty_strings_count_as_missing() -> None:
    request = jobs.SubmitJobRequest(job_name="x", job_queue="")
    assert refusal(request) == ("jobQueue is required.", "jobQueue")


def test_zero_is_a_value() -> None:
    assert refusal(registry.CreateJobQueueRequest(job_queue_name="q", priority=0)) is None
    assert refusal(registry.CreateJobQueueRequest(job_queue_name="q")) == ("priority is required.", "priority")


@pytest.mark.parametrize("value", [0, 99])
def test_an_enum_value_that_is_not_known_counts_as_missing(value: int) -> None:
    request = registry.CreateComputeEnvironmentRequest(compute_environment_name="c")
    request.type = value  # type: ignore[assignment]
    assert refusal(request) == ("type is required.", "type")


def test_members_of_nested_lists_are_named_by_their_path() -> None:
    request = jobs.SubmitJobRequest(job_name="n", job_queue="q", job_definition="d")
    complete_one = request.container_overrides.resource_requirements.add(type="VCPU", value="1")
    assert refusal(request) is None
    request.container_overrides.resource_requirements.add(type="MEMORY")
    assert refusal(request) == ("value is required.", "containerOverrides.resourceRequirements[1].value")
    complete_one.Clear()
    assert refusal(request) == ("value is required.", "containerOverrides.resourceRequirements[0].value")


def test_what_an_absent_message_would_need_is_not_asked_for() -> None:
    request = jobs.SubmitJobRequest(job_name="n", job_queue="q", job_definition="d")
    assert refusal(request) is None


def test_the_requests_in_a_batch_are_judged_alone() -> None:
    batch = operations.SubmitJobsRequest(jobs=[jobs.SubmitJobRequest()])
    assert refusal(batch) is None
    assert refusal(batch.jobs[0]) == ("jobName is required.", "jobName")
    assert refusal(operations.SubmitJobsRequest()) == ("jobs is required.", "jobs")


def test_a_required_list_may_be_empty_if_it_was_sent_so() -> None:
    assert refusal(jobs.DescribeJobsRequest()) == ("jobs is required.", "jobs")
    assert refusal(jobs.DescribeJobsRequest(cleared_members=["others"])) == ("jobs is required.", "jobs")
    assert refusal(jobs.DescribeJobsRequest(cleared_members=["jobs"])) is None


def test_messages_without_rules_have_no_check() -> None:
    assert check_for(jobs.ListJobsRequest.DESCRIPTOR) is None
    assert (
        check_for(jobs.DescribeJobsResponse.DESCRIPTOR) is None
        or required_fields(jobs.DescribeJobsResponse.DESCRIPTOR) == []
    )


class Logs(PartialLogs):
    async def GetLogEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        return logs.GetLogEventsResponse(next_forward_token="reached")

    async def FollowLogEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        yield logs.FollowLogEventsResponse()


async def test_the_interceptor_refuses_before_the_service_sees_the_request() -> None:
    server = InProcessServer([ErrorMapping(), RequiredMembers()])
    logs_grpc.add_LogsServiceServicer_to_server(Logs(), server)
    await server.start()
    stub: Any = logs_grpc.LogsServiceStub(InProcessChannel(server))
    for call in (
        stub.GetLogEvents(logs.GetLogEventsRequest()),
        stub.FollowLogEvents(logs.FollowLogEventsRequest()).read(),
    ):
        error = error_from(await failure_of(call))
        assert (type(error), error.field) == (InvalidRequestError, "logStreamName")
    answer = await stub.GetLogEvents(logs.GetLogEventsRequest(log_stream_name="s"))
    assert answer.next_forward_token == "reached"
    await stopped(server)
