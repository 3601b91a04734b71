"""What a compute environment must be like, and what it is made of. Pure."""

from collections.abc import Sequence
from typing import Final

from batchyard.api.registry.v1.compute_environment_pb2 import (
    ComputeEnvironmentDetail,
    ComputeEnvironmentType,
    ComputeResource,
)
from batchyard.api.registry.v1.registry_service_pb2 import (
    CreateComputeEnvironmentRequest,
    UpdateComputeEnvironmentRequest,
)
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.domain.compat import Compat
from batchyard.domain.errors import InvalidRequestError, WrongStateError
from batchyard.domain.names import RESOURCE_NAME, Caller, ResourceKind
from batchyard.domain.resources import check_tags

HEALTHY: Final = "ComputeEnvironment Healthy"

_MANAGED: Final = ComputeEnvironmentType.COMPUTE_ENVIRONMENT_TYPE_MANAGED
_UNMANAGED: Final = ComputeEnvironmentType.COMPUTE_ENVIRONMENT_TYPE_UNMANAGED
_ENABLED: Final = ResourceState.RESOURCE_STATE_ENABLED
_DISABLED: Final = ResourceState.RESOURCE_STATE_DISABLED

_RESOURCE_TYPES: Final = ("EC2", "SPOT", "FARGATE", "FARGATE_SPOT")
_FARGATE_TYPES: Final = ("FARGATE", "FARGATE_SPOT")
_ALLOCATION_STRATEGIES: Final = (
    "BEST_FIT",
    "BEST_FIT_PROGRESSIVE",
    "SPOT_CAPACITY_OPTIMIZED",
    "SPOT_PRICE_CAPACITY_OPTIMIZED",
)
_FARGATE_SUBNETS_MAX: Final = 16
_FARGATE_SECURITY_GROUPS_MAX: Final = 5

_NOT_FOR_FARGATE: Final = {
    "minv_cpus": "minvCpus",
    "desiredv_cpus": "desiredvCpus",
    "instance_types": "instanceTypes",
    "ec2_key_pair": "ec2KeyPair",
    "instance_role": "instanceRole",
    "tags": "tags",
    "bid_percentage": "bidPercentage",
    "spot_iam_fleet_role": "spotIamFleetRole",
    "allocation_strategy": "allocationStrategy",
}


def is_fargate(environment: ComputeEnvironmentDetail) -> bool:
    """Return whether jobs of this environment run on Fargate, in AWS's terms."""
    return environment.compute_resources.type in _FARGATE_TYPES


def new_environment(
    request: CreateComputeEnvironmentRequest, caller: Caller, compat: Compat, cluster_suffix: str
) -> ComputeEnvironmentDetail:
    """Return the environment that a request describes, with its defaults; raise InvalidRequestError if it can't be.

    `cluster_suffix` makes the name of the environment's ECS cluster unique.
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
    check_tags(request.tags)
    environment = ComputeEnvironmentDetail(
        compute_environment_name=name,
        compute_environment_arn=caller.arn(ResourceKind.COMPUTE_ENVIRONMENT, name),
        ecs_cluster_arn=f"arn:aws:ecs:{caller.region}:{caller.namespace}:cluster/{name}_Batch_{cluster_suffix}",
        type=request.type,
        state=state,
        status=ResourceStatus.RESOURCE_STATUS_VALID,
        status_reason=HEALTHY,
        service_role=request.service_role or _default_service_role(caller.namespace),
        tags=request.tags,
    )
    if request.type == _MANAGED:
        if not request.HasField("compute_resources"):
            raise InvalidRequestError("computeResources is required.", field="computeResources")
        environment.compute_resources.CopyFrom(_new_compute_resources(request.compute_resources, compat))
    return environment


def check_environment_update(request: UpdateComputeEnvironmentRequest) -> None:
    """Raise InvalidRequestError for members of an update that can't be, whatever they are merged into."""
    state_or(request.state, _ENABLED)


def updated_environment(
    current: ComputeEnvironmentDetail, request: UpdateComputeEnvironmentRequest, compat: Compat
) -> ComputeEnvironmentDetail:
    """Return the environment as an update makes it; raise InvalidRequestError if it can't be so."""
    updated = ComputeEnvironmentDetail()
    updated.CopyFrom(current)
    updated.state = state_or(request.state, current.state)
    if request.service_role:
        updated.service_role = request.service_role
    if request.HasField("compute_resources") and current.type == _MANAGED:
        _update_compute_resources(updated.compute_resources, request, compat)
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


def _new_compute_resources(given: ComputeResource, compat: Compat) -> ComputeResource:
    if given.type not in _RESOURCE_TYPES:
        raise InvalidRequestError(
            f"Compute resource type {given.type} is not valid. Valid types: [{', '.join(_RESOURCE_TYPES)}]",
            field="type",
        )
    resources = ComputeResource()
    resources.CopyFrom(given)
    if given.type in _FARGATE_TYPES:
        _check_fargate(given)
        return resources
    _check_instances(given, compat)
    if not resources.HasField("desiredv_cpus"):
        resources.desiredv_cpus = resources.minv_cpus
    _check_vcpus(resources)
    return resources


def _check_fargate(given: ComputeResource) -> None:
    present = {descriptor.name for descriptor, _ in given.ListFields()}
    for field, member in _NOT_FOR_FARGATE.items():
        if field in present:
            raise InvalidRequestError(f"{member} is not applicable for Fargate.", field=member)
    _require(given.HasField("maxv_cpus"), "Resource maxvCpus is required.", "maxvCpus")
    _require(given.maxv_cpus >= 1, "maxvCpus should be greater than or equal to 1.", "maxvCpus")
    _require(bool(given.subnets), "subnets is required.", "subnets")
    _require(
        len(given.subnets) <= _FARGATE_SUBNETS_MAX,
        f"Number of subnets must not exceed {_FARGATE_SUBNETS_MAX} for Fargate.",
        "subnets",
    )
    _require(bool(given.security_group_ids), "Security group ids are required.", "securityGroupIds")
    _require(
        len(given.security_group_ids) <= _FARGATE_SECURITY_GROUPS_MAX,
        f"Number of security group ids must not exceed {_FARGATE_SECURITY_GROUPS_MAX} for Fargate.",
        "securityGroupIds",
    )


def _check_instances(given: ComputeResource, compat: Compat) -> None:
    """Check the members that EC2 and SPOT need, in the order of the model."""
    _require(given.HasField("minv_cpus"), "Resource minvCpus is required.", "minvCpus")
    _require(given.minv_cpus >= 0, "minvCpus should be greater than or equal to 0.", "minvCpus")
    _require(given.HasField("maxv_cpus"), "Resource maxvCpus is required.", "maxvCpus")
    _require(bool(given.instance_types), "Resource instanceTypes are required.", "instanceTypes")
    _require(bool(given.subnets), "subnets is required.", "subnets")
    _require(bool(given.security_group_ids), "Security group ids are required.", "securityGroupIds")
    _require(bool(given.instance_role), "Instance role is required.", "instanceRole")
    _require(0 <= given.bid_percentage <= 100, "Bid percentage must be between 0 to 100.", "bidPercentage")
    _require(
        not given.HasField("allocation_strategy") or given.allocation_strategy in _ALLOCATION_STRATEGIES,
        f"Allocation strategy {given.allocation_strategy} is not valid. "
        f"Valid strategies: [{', '.join(_ALLOCATION_STRATEGIES)}]",
        "allocationStrategy",
    )
    # The seed has the fleet role optional and knows no strategies: only who names BEST_FIT gets today's rule there.
    strategies_with_fleet_role = ("BEST_FIT",) if compat is Compat.SEED else ("BEST_FIT", "")
    _require(
        given.type != "SPOT"
        or given.allocation_strategy not in strategies_with_fleet_role
        or bool(given.spot_iam_fleet_role),
        "compute resource spotIamFleetRole is required.",
        "spotIamFleetRole",
    )


def _check_vcpus(resources: ComputeResource) -> None:
    """Check how minimum, maximum and wish relate."""
    _require(resources.minv_cpus >= 0, "minvCpus should be greater than or equal to 0.", "minvCpus")
    _require(
        resources.maxv_cpus >= resources.minv_cpus,
        "maxvCpus should be greater than or equal to minvCpus.",
        "maxvCpus",
    )
    _require(
        resources.minv_cpus <= resources.desiredv_cpus <= resources.maxv_cpus,
        "desiredvCpus should be between minvCpus and maxvCpus.",
        "desiredvCpus",
    )


def _update_compute_resources(
    resources: ComputeResource, request: UpdateComputeEnvironmentRequest, compat: Compat
) -> None:
    """Merge an update into the resources, and check the result."""
    update = request.compute_resources
    if resources.type in _FARGATE_TYPES:
        _require(not update.HasField("minv_cpus"), "minvCpus is not applicable for Fargate.", "minvCpus")
        _require(not update.HasField("desiredv_cpus"), "desiredvCpus is not applicable for Fargate.", "desiredvCpus")
        if update.HasField("maxv_cpus"):
            _require(update.maxv_cpus >= 1, "maxvCpus should be greater than or equal to 1.", "maxvCpus")
            resources.maxv_cpus = update.maxv_cpus
        return
    if compat is Compat.AWS and update.HasField("desiredv_cpus"):
        _require(
            update.desiredv_cpus >= resources.desiredv_cpus,
            "Manually scaling down compute environment is not supported.",
            "desiredvCpus",
        )
    resources.MergeFrom(
        ComputeResource(
            minv_cpus=update.minv_cpus if update.HasField("minv_cpus") else None,
            maxv_cpus=update.maxv_cpus if update.HasField("maxv_cpus") else None,
            desiredv_cpus=update.desiredv_cpus if update.HasField("desiredv_cpus") else None,
        )
    )
    if not update.HasField("desiredv_cpus"):
        # The wish follows the bounds that the caller moves.
        resources.desiredv_cpus = max(resources.minv_cpus, min(resources.desiredv_cpus, resources.maxv_cpus))
    _check_vcpus(resources)


def _require(holds: bool, message: str, field: str) -> None:
    if not holds:
        raise InvalidRequestError(message, field=field)
