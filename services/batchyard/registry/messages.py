"""Between the messages of the API and what a storage engine keeps of them."""

from collections.abc import Iterator
from typing import Final

from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail
from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.api.registry.v1.job_queue_pb2 import JobQueueDetail
from batchyard.api.registry.v1.resource_state_pb2 import ResourceStatus
from batchyard.api.registry.v1.scheduling_policy_pb2 import SchedulingPolicyDetail
from batchyard.api.scheduler.v1.resources_service_pb2 import ResourceChange
from batchyard.domain.names import ResourceKind
from batchyard.storage.registry import DELETED, RegistryReader, RegistryWriter, ResourceKey, StoredResource, Use

ResourceMessage = ComputeEnvironmentDetail | JobQueueDetail | JobDefinition | SchedulingPolicyDetail

_STATUS_PREFIX: Final = "RESOURCE_STATUS_"
_VALID: Final = "VALID"


def environment_key(namespace: str, name: str) -> ResourceKey:
    """Return the key of a compute environment."""
    return ResourceKey(ResourceKind.COMPUTE_ENVIRONMENT, namespace, name)


def queue_key(namespace: str, name: str) -> ResourceKey:
    """Return the key of a job queue."""
    return ResourceKey(ResourceKind.JOB_QUEUE, namespace, name)


def definition_key(namespace: str, name: str, revision: int) -> ResourceKey:
    """Return the key of a revision of a job definition."""
    return ResourceKey(ResourceKind.JOB_DEFINITION, namespace, name, revision)


def policy_key(namespace: str, name: str) -> ResourceKey:
    """Return the key of a scheduling policy."""
    return ResourceKey(ResourceKind.SCHEDULING_POLICY, namespace, name)


def environment_in(stored: StoredResource) -> ComputeEnvironmentDetail:
    """Return the compute environment that is stored."""
    return ComputeEnvironmentDetail.FromString(stored.body)


def queue_in(stored: StoredResource) -> JobQueueDetail:
    """Return the job queue that is stored."""
    return JobQueueDetail.FromString(stored.body)


def definition_in(stored: StoredResource) -> JobDefinition:
    """Return the job definition that is stored."""
    return JobDefinition.FromString(stored.body)


def policy_in(stored: StoredResource) -> SchedulingPolicyDetail:
    """Return the scheduling policy that is stored."""
    return SchedulingPolicyDetail.FromString(stored.body)


def message_in(stored: StoredResource) -> ResourceMessage:
    """Return the resource that is stored."""
    return _parsed(stored.key.kind, stored.body)


def find_live(reader: RegistryReader, key: ResourceKey) -> StoredResource | None:
    """Return a resource, or None if there is none or its tombstone."""
    stored = reader.find(key)
    return None if stored is None or stored.status == DELETED else stored


def put(
    writer: RegistryWriter, namespace: str, message: ResourceMessage, *, before: ResourceMessage | None = None
) -> StoredResource:
    """Store a resource as it is to be from now on; with `before`, until it is decided whether it holds.

    A queue holds on to its environments and its policy, while undecided also to those of before.
    """
    held: set[Use] = set()
    for version in (message, before):
        if isinstance(version, JobQueueDetail):
            held.update(_uses_of(version))
    return writer.put(
        key_of(namespace, message),
        _status_of(message),
        message.SerializeToString(),
        before=None if before is None else before.SerializeToString(),
        uses=sorted(held),
    )


def bury(writer: RegistryWriter, namespace: str, policy: SchedulingPolicyDetail) -> StoredResource:
    """Store the tombstone of a scheduling policy, whose message has no status to say it by."""
    return writer.put(key_of(namespace, policy), DELETED, policy.SerializeToString())


def message_before(stored: StoredResource) -> ResourceMessage:
    """Return what to go back to from an undecided change."""
    assert stored.before is not None
    return _parsed(stored.key.kind, stored.before)


def stored_change(stored: StoredResource) -> ResourceChange:
    """Return a stored resource as watches show it."""
    change = ResourceChange(
        revision=stored.revision,
        namespace=stored.key.namespace,
        created=stored.created,
        deleted=stored.status == DELETED,
    )
    match stored.key.kind:
        case ResourceKind.JOB_QUEUE:
            change.job_queue.ParseFromString(stored.body)
        case ResourceKind.JOB_DEFINITION:
            change.job_definition.ParseFromString(stored.body)
        case ResourceKind.SCHEDULING_POLICY:
            change.scheduling_policy.ParseFromString(stored.body)
        case _:
            change.compute_environment.ParseFromString(stored.body)
    return change


def told_change(revision: int, stored: StoredResource, message: ResourceMessage) -> ResourceChange:
    """Return a resource as the job store is told of it before it is decided; `stored` is the undecided change."""
    change = ResourceChange(revision=revision, namespace=stored.key.namespace, created=stored.created)
    match message:
        case JobQueueDetail():
            change.job_queue.CopyFrom(message)
        case JobDefinition():
            change.job_definition.CopyFrom(message)
        case SchedulingPolicyDetail():
            change.scheduling_policy.CopyFrom(message)
        case ComputeEnvironmentDetail():
            change.compute_environment.CopyFrom(message)
    return change


def key_of(namespace: str, message: ResourceMessage) -> ResourceKey:
    """Return the key under which a resource is stored."""
    match message:
        case JobQueueDetail():
            return queue_key(namespace, message.job_queue_name)
        case JobDefinition():
            return definition_key(namespace, message.job_definition_name, message.revision)
        case SchedulingPolicyDetail():
            return policy_key(namespace, message.name)
        case ComputeEnvironmentDetail():
            return environment_key(namespace, message.compute_environment_name)


def _status_of(message: ResourceMessage) -> str:
    if isinstance(message, JobDefinition):
        return message.status
    if isinstance(message, SchedulingPolicyDetail):
        return _VALID
    return ResourceStatus.Name(message.status).removeprefix(_STATUS_PREFIX)


def _parsed(kind: ResourceKind, body: bytes) -> ResourceMessage:
    match kind:
        case ResourceKind.JOB_QUEUE:
            return JobQueueDetail.FromString(body)
        case ResourceKind.JOB_DEFINITION:
            return JobDefinition.FromString(body)
        case ResourceKind.SCHEDULING_POLICY:
            return SchedulingPolicyDetail.FromString(body)
        case _:
            return ComputeEnvironmentDetail.FromString(body)


def _uses_of(queue: JobQueueDetail) -> Iterator[Use]:
    for entry in queue.compute_environment_order:
        yield ResourceKind.COMPUTE_ENVIRONMENT, _name_in_arn(entry.compute_environment)
    if queue.scheduling_policy_arn:
        yield ResourceKind.SCHEDULING_POLICY, _name_in_arn(queue.scheduling_policy_arn)


def _name_in_arn(arn: str) -> str:
    return arn.rpartition("/")[2]
