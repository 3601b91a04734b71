"""What a native client learns of a refusal: the code, the reason and the member."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.json_format import ParseDict
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from batchyard.api.registry.v1 import registry_service_pb2 as api
from support.contexts import held_open
from support.registry import RegistryUnderTest, a_registry, refused

ARN = "arn:aws:batch:us-east-1:123456789012"
CONTAINER = {"image": "busybox", "vcpus": 1, "memory": 128}
DEFINITION = {"jobDefinitionName": "d", "type": "container", "containerProperties": CONTAINER}
QUEUE = {"jobQueueName": "q", "priority": 1, "computeEnvironmentOrder": [{"order": 1, "computeEnvironment": "e"}]}
NO_CHILDREN = {"resourceArn": f"{ARN}:job/1:0"}


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[RegistryUnderTest]:
    async with held_open(a_registry(tmp_path)) as registry:
        environment = {"computeEnvironmentName": "e", "type": "COMPUTE_ENVIRONMENT_TYPE_UNMANAGED"}
        await call(registry, "CreateComputeEnvironment", environment)
        yield registry


async def call(registry: RegistryUnderTest, operation: str, members: dict[str, Any]) -> Any:
    request = ParseDict(members, getattr(api, f"{operation}Request")())
    return await getattr(registry.api, operation)(request)


@pytest.mark.parametrize(
    ("operation", "members", "code", "reason", "field"),
    [
        ("CreateJobQueue", {}, StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "jobQueueName"),
        ("CreateJobQueue", QUEUE | {"priority": -1}, StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "priority"),
        (
            "CreateJobQueue",
            QUEUE | {"schedulingPolicyArn": "x"},
            StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "schedulingPolicyArn",
        ),
        (
            "CreateComputeEnvironment",
            {"type": 2},
            StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "computeEnvironmentName",
        ),
        (
            "CreateComputeEnvironment",
            {"computeEnvironmentName": "e", "type": 2},
            StatusCode.ALREADY_EXISTS,
            "ALREADY_EXISTS",
            "computeEnvironmentName",
        ),
        (
            "CreateComputeEnvironment",
            {"computeEnvironmentName": "m", "type": 1, "computeResources": {"type": "EC2", "minvCpus": -1}},
            StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "computeResources.minvCpus",
        ),
        ("UpdateJobQueue", {"jobQueue": "none"}, StatusCode.NOT_FOUND, "NOT_FOUND", None),
        ("DeleteComputeEnvironment", {"computeEnvironment": "e"}, StatusCode.FAILED_PRECONDITION, "WRONG_STATE", None),
        (
            "RegisterJobDefinition",
            DEFINITION | {"containerProperties": CONTAINER | {"memory": 3}},
            StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "memory",
        ),
        (
            "RegisterJobDefinition",
            DEFINITION | {"containerProperties": CONTAINER | {"ulimits": [{"name": "core"}]}},
            StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "containerProperties.ulimits[0].hardLimit",
        ),
        (
            "CreateSchedulingPolicy",
            {"name": "p", "fairsharePolicy": {"computeReservation": 100}},
            StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "fairsharePolicy.computeReservation",
        ),
        ("TagResource", {"resourceArn": "x", "tags": {"a": ""}}, StatusCode.NOT_FOUND, "NOT_FOUND", "resourceArn"),
        ("ListTagsForResource", NO_CHILDREN, StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "resourceArn"),
    ],
)
async def test_a_refusal_names_its_reason_and_its_member(
    registry: RegistryUnderTest,
    operation: str,
    members: dict[str, Any],
    code: StatusCode,
    reason: str,
    field: str | None,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(registry, operation, members)
    assert caught.value.code() is code
    info, violation = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status_of(caught.value).details:
        detail.Unpack(info) or detail.Unpack(violation)
    assert (info.reason, info.domain) == (reason, "batchyard")
    assert [found.field for found in violation.field_violations] == ([] if field is None else [field])


@pytest.mark.parametrize(
    ("operation", "members"),
    [("ListTagsForResource", {}), ("TagResource", {"tags": {"a": ""}}), ("UntagResource", {"tagKeys": ["a"]})],
)
async def test_the_tags_of_a_job_are_asked_of_the_job_store(
    registry: RegistryUnderTest, operation: str, members: dict[str, Any]
) -> None:
    arn = f"{ARN}:job/1"
    asked = call(registry, operation, members | {"resourceArn": arn})
    await refused(asked, StatusCode.NOT_FOUND, f"Resource {arn} does not exist")
    with registry.job_store.failing(StatusCode.UNAVAILABLE, "away"):
        asked = call(registry, operation, members | {"resourceArn": arn})
        await refused(asked, StatusCode.UNAVAILABLE, "away")


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    details = (error.trailing_metadata() or {})["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    return status_pb2.Status.FromString(details)
