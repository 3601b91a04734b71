"""What a job definition must be like, and what it is made of. Pure."""

import re
from typing import Final

from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties, JobDefinition
from batchyard.api.registry.v1.registry_service_pb2 import RegisterJobDefinitionRequest
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.names import RESOURCE_NAME, Caller, ResourceKind
from batchyard.domain.resources import (
    check_environment,
    check_tags,
    check_timeout,
    reserved_resources,
)
from batchyard.domain.retries import check_retry_strategy

ACTIVE: Final = "ACTIVE"
INACTIVE: Final = "INACTIVE"

DEFINITION_KIB_MAX: Final = 24
"""AWS's limit; it also keeps a page of definitions within one message."""

_UNLIMITED: Final = -1
# fmt: off
_ULIMITS: Final = frozenset((
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack",
))
# fmt: on
_VOLUME_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_USER: Final = re.compile(r"[a-z0-9_][a-z0-9_-]{0,30}(:[a-z0-9_][a-z0-9_-]{0,30})?")


def check_definition(request: RegisterJobDefinitionRequest) -> None:
    """Raise InvalidRequestError for a definition that could never run."""
    if not RESOURCE_NAME.fullmatch(request.job_definition_name):
        raise InvalidRequestError("Job Definition name should match a valid pattern.", field="jobDefinitionName")
    if request.type == "multinode":
        raise InvalidRequestError("Node properties of multinode job is required.", field="nodeProperties")
    if request.type != "container":
        raise InvalidRequestError(
            f"Job definition type {request.type} is not valid. Valid types: [container, multinode]", field="type"
        )
    _check_container(request.container_properties)
    if request.HasField("retry_strategy"):
        strategy = request.retry_strategy
        attempts = strategy.attempts if strategy.HasField("attempts") else None
        check_retry_strategy(attempts, strategy.evaluate_on_exit)
    if request.timeout.HasField("attempt_duration_seconds"):
        check_timeout(request.timeout.attempt_duration_seconds)
    check_tags(request.tags)
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
        type=request.type,
        parameters=request.parameters,
        container_properties=request.container_properties,
        tags=request.tags,
    )
    if request.HasField("retry_strategy"):
        definition.retry_strategy.CopyFrom(request.retry_strategy)
    if request.HasField("timeout"):
        definition.timeout.CopyFrom(request.timeout)
    return definition


def deregistered_definition(definition: JobDefinition) -> JobDefinition:
    """Return a definition that takes no more jobs."""
    inactive = JobDefinition()
    inactive.CopyFrom(definition)
    inactive.status = INACTIVE
    return inactive


def _check_container(container: ContainerProperties) -> None:
    """Check a container's members, in the order of the model."""
    if not container.image:
        raise InvalidRequestError("ECS Container Image must be provided.", field="image")
    reserved_resources(container)
    _check_volumes(container)
    check_environment(container.environment)
    _check_mount_points(container)
    _check_ulimits(container)
    if container.user and not _USER.fullmatch(container.user):
        raise InvalidRequestError(f"User '{container.user}' does not match regex", field="user")


def _check_volumes(container: ContainerProperties) -> None:
    for volume in container.volumes:
        if not _VOLUME_NAME.fullmatch(volume.name):
            raise InvalidRequestError("Volume name should match a valid pattern.", field="volumes")
    if len({volume.name for volume in container.volumes}) < len(container.volumes):
        raise InvalidRequestError("Duplicate volume names.", field="volumes")


def _check_mount_points(container: ContainerProperties) -> None:
    volumes = {volume.name for volume in container.volumes}
    for mount_point in container.mount_points:
        if not mount_point.container_path:
            raise InvalidRequestError("containerPath is required.", field="mountPoints")
        if mount_point.source_volume not in volumes:
            raise InvalidRequestError(
                f"Source volume {mount_point.source_volume} of a mount point is not among the volumes.",
                field="mountPoints",
            )


def _check_ulimits(container: ContainerProperties) -> None:
    for ulimit in container.ulimits:
        if ulimit.name not in _ULIMITS:
            raise InvalidRequestError(
                f"Ulimit name {ulimit.name} is not valid. Valid names: [{', '.join(sorted(_ULIMITS))}]",
                field="ulimits",
            )
        if ulimit.hard_limit != _UNLIMITED and not 0 <= ulimit.soft_limit <= ulimit.hard_limit:
            raise InvalidRequestError("Ulimit softLimit must be between 0 and hardLimit.", field="ulimits")
