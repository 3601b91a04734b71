"""What a job queue must be like, and what it is made of. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail
from batchyard.api.registry.v1.job_queue_pb2 import ComputeEnvironmentOrder, JobQueueDetail, JobStateTimeLimitAction
from batchyard.api.registry.v1.registry_service_pb2 import CreateJobQueueRequest, UpdateJobQueueRequest
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.domain.errors import InvalidRequestError, WrongStateError
from batchyard.domain.names import RESOURCE_NAME, Caller, ResourceKind, name_in_reference
from batchyard.domain.resources import check_tags
from batchyard.registry.environment_rules import is_fargate, state_or

HEALTHY: Final = "JobQueue Healthy"
ENVIRONMENTS_MAX: Final = 3

TIME_LIMIT_S: Final = range(600, 86_401)

_ORDER: Final = "computeEnvironmentOrder"
_ACTIONS: Final = "jobStateTimeLimitActions"
_ECS: Final = "ECS"
_ECS_FARGATE: Final = "ECS_FARGATE"
_LIMITED_REASONS: Final = (
    "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY",
    "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE",
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT",
    "MISCONFIGURATION:EC2_INSTANCE_CONFIGURATION_UNSUPPORTED",
)
"""Why a job may wait so that a time limit can end it, as its status reason begins."""
_NOT_USABLE: Final = "Compute Environments must be created and valid before attaching them to a job queue"


@dataclass(frozen=True, slots=True)
class EnvironmentPlace:
    """An environment in the order of a queue, by its name."""

    order: int
    name: str


def environment_places(entries: Sequence[ComputeEnvironmentOrder], namespace: str) -> list[EnvironmentPlace]:
    """Return the entries of an order by name; raise InvalidRequestError if they are no order."""
    if not entries:
        raise InvalidRequestError("computeEnvironmentOrder is required.", field=_ORDER)
    if len(entries) > ENVIRONMENTS_MAX:
        raise InvalidRequestError(
            f"Only {ENVIRONMENTS_MAX} environments are allowed in job queue request.", field=_ORDER
        )
    places = []
    for entry in entries:
        name = name_in_reference(entry.compute_environment, ResourceKind.COMPUTE_ENVIRONMENT, namespace)
        if name is None:
            raise InvalidRequestError(_NOT_USABLE, field=_ORDER)
        places.append(EnvironmentPlace(entry.order, name))
    if len({place.order for place in places}) < len(places):
        raise InvalidRequestError("Duplicate ComputeEnvironment order values.", field=_ORDER)
    if len({place.name for place in places}) < len(places):
        raise InvalidRequestError("Duplicate ComputeEnvironments within order list.", field=_ORDER)
    return places


def environment_order(
    places: Sequence[EnvironmentPlace], environments: Mapping[str, ComputeEnvironmentDetail]
) -> list[ComputeEnvironmentOrder]:
    """Return an order with ARNs, lowest first, given the environments that exist, by name.

    Raises InvalidRequestError if one is missing or not VALID, or if some are Fargate and some are not.
    """
    used = []
    for place in places:
        environment = environments.get(place.name)
        if environment is None or environment.status != ResourceStatus.RESOURCE_STATUS_VALID:
            raise InvalidRequestError(_NOT_USABLE, field=_ORDER)
        used.append(environment)
    if len({is_fargate(environment) for environment in used}) > 1:
        raise InvalidRequestError("Fargate and EC2 compute environments can not be mixed.", field=_ORDER)
    return [
        ComputeEnvironmentOrder(order=place.order, compute_environment=environments[place.name].compute_environment_arn)
        for place in sorted(places, key=lambda place: place.order)
    ]


def check_new_queue(request: CreateJobQueueRequest) -> None:
    """Raise InvalidRequestError for members of a new queue that can't be, its environments and its policy aside."""
    if not RESOURCE_NAME.fullmatch(request.job_queue_name):
        raise InvalidRequestError("Job Queue name should match a valid pattern.", field="jobQueueName")
    state_or(request.state, ResourceState.RESOURCE_STATE_ENABLED)
    _check_priority(request.priority)
    _check_is_of_containers(request)
    if request.HasField("job_queue_type") and request.job_queue_type not in (_ECS, _ECS_FARGATE):
        raise InvalidRequestError(
            f"Job queue type {request.job_queue_type} is not supported by this server. "
            f"Supported types: [{_ECS}, {_ECS_FARGATE}]",
            field="jobQueueType",
        )
    check_tags(request.tags)
    _check_time_limits(request.job_state_time_limit_actions)


def check_queue_update(request: UpdateJobQueueRequest) -> None:
    """Raise InvalidRequestError for members of an update that can't be, its environments and its policy aside."""
    state_or(request.state, ResourceState.RESOURCE_STATE_ENABLED)
    _check_priority(request.priority)
    _check_is_of_containers(request)
    _check_time_limits(request.job_state_time_limit_actions)


def check_new_policy(current: JobQueueDetail, request: UpdateJobQueueRequest) -> None:
    """Raise InvalidRequestError if a queue cannot get the scheduling policy that an update names."""
    if not request.HasField("scheduling_policy_arn"):
        return
    if not request.scheduling_policy_arn:
        raise InvalidRequestError(
            "The scheduling policy of a job queue can be replaced, but not removed.", field="schedulingPolicyArn"
        )
    if not current.scheduling_policy_arn:
        raise InvalidRequestError(
            "A scheduling policy cannot be added to a job queue that was created without one.",
            field="schedulingPolicyArn",
        )


def check_queue_type(wanted: str, found: str) -> None:
    """Raise InvalidRequestError if a new queue is not of the type that its request names."""
    if wanted and wanted != found:
        raise InvalidRequestError(
            f"Job queue type {wanted} does not fit its compute environments, which make it {found}.",
            field="jobQueueType",
        )


def queue_type(environments: Iterable[ComputeEnvironmentDetail]) -> str:
    """Return the type of a queue over these environments, which are all alike."""
    return _ECS_FARGATE if any(is_fargate(environment) for environment in environments) else _ECS


def new_queue(
    request: CreateJobQueueRequest, caller: Caller, order: Sequence[ComputeEnvironmentOrder], job_queue_type: str
) -> JobQueueDetail:
    """Return the queue that a checked request describes."""
    return JobQueueDetail(
        job_queue_name=request.job_queue_name,
        job_queue_arn=caller.arn(ResourceKind.JOB_QUEUE, request.job_queue_name),
        state=state_or(request.state, ResourceState.RESOURCE_STATE_ENABLED),
        status=ResourceStatus.RESOURCE_STATUS_VALID,
        status_reason=HEALTHY,
        priority=request.priority,
        compute_environment_order=order,
        tags=request.tags,
        scheduling_policy_arn=request.scheduling_policy_arn or None,
        job_queue_type=job_queue_type,
        job_state_time_limit_actions=request.job_state_time_limit_actions,
    )


def updated_queue(
    current: JobQueueDetail,
    request: UpdateJobQueueRequest,
    order: Sequence[ComputeEnvironmentOrder],
    job_queue_type: str,
) -> JobQueueDetail:
    """Return the queue as a checked update makes it; an empty order leaves the old one, and its type."""
    updated = JobQueueDetail()
    updated.CopyFrom(current)
    updated.state = state_or(request.state, current.state)
    if request.HasField("priority"):
        updated.priority = request.priority
    if order:
        del updated.compute_environment_order[:]
        updated.compute_environment_order.extend(order)
        updated.job_queue_type = job_queue_type
    if request.scheduling_policy_arn:
        updated.scheduling_policy_arn = request.scheduling_policy_arn
    if request.job_state_time_limit_actions or _ACTIONS in request.cleared_members:
        del updated.job_state_time_limit_actions[:]
        updated.job_state_time_limit_actions.extend(request.job_state_time_limit_actions)
    return updated


def check_deletable(queue: JobQueueDetail) -> None:
    """Raise WrongStateError if a queue must not be deleted, whatever its jobs."""
    if queue.state != ResourceState.RESOURCE_STATE_DISABLED:
        raise WrongStateError("Cannot delete, job queue must be DISABLED")


def deleted_queue(queue: JobQueueDetail) -> JobQueueDetail:
    """Return the tombstone of a queue."""
    return JobQueueDetail(
        job_queue_name=queue.job_queue_name,
        job_queue_arn=queue.job_queue_arn,
        status=ResourceStatus.RESOURCE_STATUS_DELETED,
    )


def with_status(queue: JobQueueDetail, status: ResourceStatus.ValueType) -> JobQueueDetail:
    """Return a queue in another status."""
    changed = JobQueueDetail()
    changed.CopyFrom(queue)
    changed.status = status
    return changed


def _check_is_of_containers(request: CreateJobQueueRequest | UpdateJobQueueRequest) -> None:
    if request.service_environment_order:
        raise InvalidRequestError(
            "serviceEnvironmentOrder is not supported by this server: it has no service jobs.",
            field="serviceEnvironmentOrder",
        )


def _check_time_limits(actions: Sequence[JobStateTimeLimitAction]) -> None:
    for action in actions:
        if action.reason not in _LIMITED_REASONS:
            raise _refused_action(
                f"Invalid job state limit reason. Valid reasons: [{', '.join(_LIMITED_REASONS)}]", "reason"
            )
        if action.state != "RUNNABLE":
            raise _refused_action("Invalid job state. Valid job states: [RUNNABLE]", "state")
        if action.max_time_seconds not in TIME_LIMIT_S:
            raise _refused_action("maxTimeSeconds must be between 600 and 86400.", "maxTimeSeconds")
        if action.action != "CANCEL":
            raise _refused_action("Invalid job action. Valid job actions: [CANCEL]", "action")
    if len({(action.state, action.reason) for action in actions}) < len(actions):
        raise InvalidRequestError("Duplicate job state limit actions are not allowed.", field=_ACTIONS)


def _refused_action(message: str, member: str) -> InvalidRequestError:
    return InvalidRequestError(message, field=f"{_ACTIONS}.{member}")


def _check_priority(priority: int) -> None:
    if priority < 0:
        raise InvalidRequestError("Priority must be greater than or equal to 0.", field="priority")
