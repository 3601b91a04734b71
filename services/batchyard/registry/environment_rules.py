"""What a compute environment must be like, and what it is made of. Pure."""

from collections.abc import Sequence
from typing import Final

from batchyard.api.registry.v1.compute_environment_pb2 import (
    ComputeEnvironmentDetail,
    ComputeEnvironmentType,
    UpdatePolicy,
)
from batchyard.api.registry.v1.registry_service_pb2 import (
    CreateComputeEnvironmentRequest,
    UpdateComputeEnvironmentRequest,
)
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.domain.compat import Compat
from batchyard.domain.errors import InvalidRequestError, WrongStateError
from batchyard.domain.leases import check_lease_tag
from batchyard.domain.names import RESOURCE_NAME, Caller, ResourceKind
from batchyard.domain.resources import check_tags
from batchyard.registry import compute_resource_rules
from batchyard.registry.compute_resource_rules import new_compute_resources, updated_compute_resources

HEALTHY: Final = "ComputeEnvironment Healthy"

_ORCHESTRATION: Final = "ECS"

_MANAGED: Final = ComputeEnvironmentType.COMPUTE_ENVIRONMENT_TYPE_MANAGED
_UNMANAGED: Final = ComputeEnvironmentType.COMPUTE_ENVIRONMENT_TYPE_UNMANAGED
_ENABLED: Final = ResourceState.RESOURCE_STATE_ENABLED
_DISABLED: Final = ResourceState.RESOURCE_STATE_DISABLED
_CONTAINER_INSIGHTS: Final = ("ENABLED", "ENHANCED", "DISABLED")
_UPDATE_TIMEOUT_MINUTES: Final = range(1, 7201)
_UPDATE_TIMEOUT_MINUTES_DEFAULT: Final = 30


def is_fargate(environment: ComputeEnvironmentDetail) -> bool:
    """Return whether jobs of this environment run on Fargate, in AWS's terms."""
    return compute_resource_rules.is_fargate(environment.compute_resources)


def new_environment(
    request: CreateComputeEnvironmentRequest, caller: Caller, compat: Compat, uuid: str
) -> ComputeEnvironmentDetail:
    """Return the environment that a request describes, with its defaults; raise InvalidRequestError if it can't be.

    `uuid` tells it from others of its name; the name of its ECS cluster ends in it.
    """
    name = request.compute_environment_name
    if not RESOURCE_NAME.fullmatch(name):
        raise InvalidRequestError(
            "Compute environment name should match a valid pattern.", field="computeEnvironmentName"
        )
    if request.type not in (_MANAGED, _UNMANAGED):
        raise InvalidRequestError("Type must be MANAGED or UNMANAGED.", field="type")
    state = state_or(request.state, _ENABLED)
    if state == _DISABLED and compat is Compat.AWS:
        raise InvalidRequestError("Compute Environment must be created in ENABLED state.", field="state")
    _check_unmanaged_vcpus(request, request.type)
    _check_shared_members(request)
    check_tags(request.tags)
    check_lease_tag(request.tags)
    environment = ComputeEnvironmentDetail(
        compute_environment_name=name,
        compute_environment_arn=caller.arn(ResourceKind.COMPUTE_ENVIRONMENT, name),
        ecs_cluster_arn=f"arn:aws:ecs:{caller.region}:{caller.namespace}:cluster/{name}_Batch_{uuid}",
        type=request.type,
        state=state,
        status=ResourceStatus.RESOURCE_STATUS_VALID,
        status_reason=HEALTHY,
        service_role=request.service_role or _default_service_role(caller.namespace),
        tags=request.tags,
        unmanagedv_cpus=request.unmanagedv_cpus if request.HasField("unmanagedv_cpus") else None,
        container_orchestration_type=_ORCHESTRATION,
        uuid=uuid,
        context=request.context if request.HasField("context") else None,
        ecs_settings=request.ecs_settings if request.HasField("ecs_settings") else None,
    )
    if request.type == _MANAGED:
        if not request.HasField("compute_resources"):
            raise InvalidRequestError("computeResources is required.", field="computeResources")
        environment.compute_resources.CopyFrom(new_compute_resources(request.compute_resources, compat))
    return environment


def check_environment_update(request: UpdateComputeEnvironmentRequest) -> None:
    """Raise InvalidRequestError for members of an update that can't be, whatever they are merged into."""
    state_or(request.state, _ENABLED)
    _check_shared_members(request)
    minutes = request.update_policy.job_execution_timeout_minutes
    if request.update_policy.HasField("job_execution_timeout_minutes") and minutes not in _UPDATE_TIMEOUT_MINUTES:
        raise InvalidRequestError(
            "jobExecutionTimeoutMinutes must be between 1 and 7200.", field="updatePolicy.jobExecutionTimeoutMinutes"
        )


def updated_environment(
    current: ComputeEnvironmentDetail, request: UpdateComputeEnvironmentRequest, compat: Compat
) -> ComputeEnvironmentDetail:
    """Return the environment as an update makes it; raise InvalidRequestError if it can't be so."""
    updated = ComputeEnvironmentDetail()
    updated.CopyFrom(current)
    updated.state = state_or(request.state, current.state)
    if request.service_role:
        updated.service_role = request.service_role
    _check_unmanaged_vcpus(request, current.type)
    if request.HasField("unmanagedv_cpus"):
        updated.unmanagedv_cpus = request.unmanagedv_cpus
    if request.HasField("context"):
        updated.context = request.context
    updated.ecs_settings.MergeFrom(request.ecs_settings)
    if not updated.ecs_settings.ListFields():
        updated.ClearField("ecs_settings")
    if request.HasField("update_policy"):
        updated.update_policy.CopyFrom(_merged_policy(current.update_policy, request.update_policy))
    if request.HasField("compute_resources") and current.type == _MANAGED:
        updated.compute_resources.CopyFrom(
            updated_compute_resources(current.compute_resources, request.compute_resources, compat)
        )
    return updated


def check_deletable(environment: ComputeEnvironmentDetail, job_queues: Sequence[str]) -> None:
    """Raise WrongStateError if an environment that these job queues use must not be deleted."""
    if environment.state != _DISABLED:
        raise WrongStateError("Cannot delete, compute environment must be DISABLED")
    if job_queues:
        raise WrongStateError(f"Cannot delete, found existing JobQueue relationship ({', '.join(job_queues)})")


def deleted_environment(environment: ComputeEnvironmentDetail) -> ComputeEnvironmentDetail:
    """Return the tombstone of an environment."""
    return ComputeEnvironmentDetail(
        compute_environment_name=environment.compute_environment_name,
        compute_environment_arn=environment.compute_environment_arn,
        status=ResourceStatus.RESOURCE_STATUS_DELETED,
    )


def state_or(state: ResourceState.ValueType, default: ResourceState.ValueType) -> ResourceState.ValueType:
    """Return the state that a request asks for, or the default if it does not say."""
    if state not in (ResourceState.RESOURCE_STATE_UNSPECIFIED, _ENABLED, _DISABLED):
        raise InvalidRequestError("State must be ENABLED or DISABLED.", field="state")
    return state or default


def _default_service_role(account: str) -> str:
    return f"arn:aws:iam::{account}:role/aws-service-role/batch.amazonaws.com/AWSServiceRoleForBatch"


def _check_unmanaged_vcpus(
    request: CreateComputeEnvironmentRequest | UpdateComputeEnvironmentRequest, kind: ComputeEnvironmentType.ValueType
) -> None:
    if not request.HasField("unmanagedv_cpus"):
        return
    if kind != _UNMANAGED:
        raise InvalidRequestError(
            "unmanagedvCpus is not applicable for managed Compute Environments", field="unmanagedvCpus"
        )
    if request.unmanagedv_cpus < 0:
        raise InvalidRequestError("unmanagedvCpus should be greater than or equal to 0.", field="unmanagedvCpus")


def _check_shared_members(request: CreateComputeEnvironmentRequest | UpdateComputeEnvironmentRequest) -> None:
    """Check the members that are alike in a new environment and in an update."""
    if request.HasField("eks_configuration"):
        raise InvalidRequestError(
            "eksConfiguration is not supported by this server: it has no Kubernetes.", field="eksConfiguration"
        )
    settings = request.ecs_settings
    if settings.HasField("container_insights") and settings.container_insights not in _CONTAINER_INSIGHTS:
        raise InvalidRequestError(
            f"Container insights {settings.container_insights} is not valid. "
            f"Valid values: [{', '.join(_CONTAINER_INSIGHTS)}]",
            field="ecsSettings.containerInsights",
        )


def _merged_policy(current: UpdatePolicy, given: UpdatePolicy) -> UpdatePolicy:
    merged = UpdatePolicy(terminate_jobs_on_update=False, job_execution_timeout_minutes=_UPDATE_TIMEOUT_MINUTES_DEFAULT)
    merged.MergeFrom(current)
    merged.MergeFrom(given)
    return merged
