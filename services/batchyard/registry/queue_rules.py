"""What a job queue must be like, and what it is made of. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail
from batchyard.api.registry.v1.job_queue_pb2 import ComputeEnvironmentOrder, JobQueueDetail
from batchyard.api.registry.v1.registry_service_pb2 import CreateJobQueueRequest, UpdateJobQueueRequest
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.domain.errors import InvalidRequestError, WrongStateError
from batchyard.domain.names import RESOURCE_NAME, Caller, ResourceKind, name_in_reference
from batchyard.domain.resources import check_tags
from batchyard.registry.environment_rules import is_fargate, state_or

HEALTHY: Final = "JobQueue Healthy"
ENVIRONMENTS_MAX: Final = 3

_ORDER: Final = "computeEnvironmentOrder"
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
    """Raise InvalidRequestError for members of a new queue that can't be, its environments aside."""
    if not RESOURCE_NAME.fullmatch(request.job_queue_name):
        raise InvalidRequestError("Job Queue name should match a valid pattern.", field="jobQueueName")
    state_or(request.state, ResourceState.RESOURCE_STATE_ENABLED)
    _check_priority(request.priority)
    check_tags(request.tags)


def check_queue_update(request: UpdateJobQueueRequest) -> None:
    """Raise InvalidRequestError for members of an update that can't be, its environments aside."""
    state_or(request.state, ResourceState.RESOURCE_STATE_ENABLED)
    _check_priority(request.priority)


def new_queue(
    request: CreateJobQueueRequest, caller: Caller, order: Sequence[ComputeEnvironmentOrder]
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
    )


def updated_queue(
    current: JobQueueDetail, request: UpdateJobQueueRequest, order: Sequence[ComputeEnvironmentOrder]
) -> JobQueueDetail:
    """Return the queue as a checked update makes it; an empty order leaves the old one."""
    updated = JobQueueDetail()
    updated.CopyFrom(current)
    updated.state = state_or(request.state, current.state)
    if request.HasField("priority"):
        updated.priority = request.priority
    if order:
        del updated.compute_environment_order[:]
        updated.compute_environment_order.extend(order)
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


def _check_priority(priority: int) -> None:
    if priority < 0:
        raise InvalidRequestError("Priority must be greater than or equal to 0.", field="priority")
