"""What a job definition must be like, and what it is made of. Pure."""

from collections.abc import Sequence
from typing import Final, cast

from google.protobuf.message import Message

from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.api.registry.v1.registry_service_pb2 import RegisterJobDefinitionRequest
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.names import RESOURCE_NAME, Caller, ResourceKind
from batchyard.domain.resources import check_scheduling_priority, check_tags, check_timeout
from batchyard.domain.retries import check_retry_strategy
from batchyard.registry.container_rules import check_consumable_resources, check_container
from batchyard.registry.node_rules import check_nodes
from batchyard.registry.task_rules import check_ecs_properties

ACTIVE: Final = "ACTIVE"
INACTIVE: Final = "INACTIVE"

DEFINITION_KIB_MAX: Final = 24
"""AWS's limit; it also keeps a page of definitions within one message."""

_CONTAINER: Final = "container"
_MULTINODE: Final = "multinode"
_FARGATE: Final = "FARGATE"
_CAPABILITIES: Final = (_FARGATE, "EC2")
_ORCHESTRATION: Final = "ECS"


def check_definition(request: RegisterJobDefinitionRequest) -> None:
    """Raise InvalidRequestError for a definition that could never run."""
    if not RESOURCE_NAME.fullmatch(request.job_definition_name):
        raise InvalidRequestError("Job Definition name should match a valid pattern.", field="jobDefinitionName")
    if request.type not in (_CONTAINER, _MULTINODE):
        raise InvalidRequestError(
            f"Job definition type {request.type} is not valid. Valid types: [{_CONTAINER}, {_MULTINODE}]", field="type"
        )
    if request.HasField("scheduling_priority"):
        check_scheduling_priority(request.scheduling_priority, "schedulingPriority")
    _check_capabilities(request.platform_capabilities)
    fargate = _FARGATE in request.platform_capabilities
    if request.type == _MULTINODE:
        _check_multinode(request, fargate=fargate)
    else:
        _check_containers(request, fargate=fargate)
    if request.HasField("retry_strategy"):
        strategy = request.retry_strategy
        attempts = strategy.attempts if strategy.HasField("attempts") else None
        check_retry_strategy(attempts, strategy.evaluate_on_exit)
    if request.timeout.HasField("attempt_duration_seconds"):
        check_timeout(request.timeout.attempt_duration_seconds)
    check_tags(request.tags)
    check_consumable_resources(request.consumable_resource_properties.consumable_resource_list)
    size_kib = -(-request.ByteSize() // 1024)
    if size_kib > DEFINITION_KIB_MAX:
        raise InvalidRequestError(f"Job definition size must be less than {DEFINITION_KIB_MAX} KiB, got {size_kib} KiB")


def new_definition(request: RegisterJobDefinitionRequest, caller: Caller, revision: int) -> JobDefinition:
    """Return the revision that a checked request describes."""
    name = request.job_definition_name
    definition = JobDefinition(
        job_definition_name=name,
        job_definition_arn=caller.arn(ResourceKind.JOB_DEFINITION, f"{name}:{revision}"),
        revision=revision,
        status=ACTIVE,
        container_orchestration_type=_ORCHESTRATION,
        propagate_tags=False,
    )
    # Every member of the request stands in the definition by the same name.
    definition.MergeFrom(_as_definition(request))
    return definition


def deregistered_definition(definition: JobDefinition) -> JobDefinition:
    """Return a definition that takes no more jobs."""
    inactive = JobDefinition()
    inactive.CopyFrom(definition)
    inactive.status = INACTIVE
    return inactive


def _as_definition(request: RegisterJobDefinitionRequest) -> JobDefinition:
    """Return a definition with the members of a request, and no others."""
    registered: Message = JobDefinition()
    for field, value in request.ListFields():
        if field.is_repeated:
            getattr(registered, field.name).MergeFrom(value)
        elif field.message_type is not None:
            getattr(registered, field.name).CopyFrom(value)
        else:
            setattr(registered, field.name, value)
    return cast("JobDefinition", registered)


def _check_multinode(request: RegisterJobDefinitionRequest, *, fargate: bool) -> None:
    if not request.HasField("node_properties"):
        raise InvalidRequestError("Node properties of multinode job is required.", field="nodeProperties")
    for member, is_given in (
        ("containerProperties", request.HasField("container_properties")),
        ("ecsProperties", request.HasField("ecs_properties")),
        ("eksProperties", request.HasField("eks_properties")),
    ):
        if is_given:
            raise InvalidRequestError(f"Cannot use both nodeProperties and {member}", field=member)
    check_nodes(request.node_properties, fargate=fargate)


def _check_containers(request: RegisterJobDefinitionRequest, *, fargate: bool) -> None:
    has_container, has_task = request.HasField("container_properties"), request.HasField("ecs_properties")
    if request.HasField("node_properties"):
        raise InvalidRequestError(
            f"nodeProperties can only be used with job definition type {_MULTINODE}.", field="nodeProperties"
        )
    if request.HasField("eks_properties"):
        if has_container:
            raise InvalidRequestError(
                "Cannot use both ECS containerProperties and eksProperties", field="eksProperties"
            )
        raise InvalidRequestError(
            "eksProperties is not supported by this server: it has no Kubernetes.", field="eksProperties"
        )
    if has_container and has_task:
        raise InvalidRequestError("Cannot use both ECS containerProperties and ecsProperties", field="ecsProperties")
    if has_task:
        check_ecs_properties(request.ecs_properties, fargate=fargate)
    else:
        check_container(request.container_properties, fargate=fargate)


def _check_capabilities(capabilities: Sequence[str]) -> None:
    for capability in capabilities:
        if capability not in _CAPABILITIES:
            raise InvalidRequestError(
                f"Capability {capability} is not valid. Valid capabilities: [{', '.join(_CAPABILITIES)}]",
                field="platformCapabilities",
            )
    if len(capabilities) > 1:
        raise InvalidRequestError("Exactly 1 capability must be provided.", field="platformCapabilities")
