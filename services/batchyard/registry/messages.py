"""Between the messages of the API and what a storage engine keeps of them."""

from typing import Final

from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail
from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.api.registry.v1.job_queue_pb2 import JobQueueDetail
from batchyard.api.registry.v1.resource_state_pb2 import ResourceStatus
from batchyard.api.scheduler.v1.resources_service_pb2 import ResourceChange
from batchyard.domain.names import ResourceKind
from batchyard.storage.registry import DELETED, RegistryWriter, ResourceKey, StoredResource

ResourceMessage = ComputeEnvironmentDetail | JobQueueDetail | JobDefinition

_STATUS_PREFIX: Final = "RESOURCE_STATUS_"


def environment_key(namespace: str, name: str) -> ResourceKey:
    """Return the key of a compute environment."""
    return ResourceKey(ResourceKind.COMPUTE_ENVIRONMENT, namespace, name)


def queue_key(namespace: str, name: str) -> ResourceKey:
    """Return the key of a job queue."""
    return ResourceKey(ResourceKind.JOB_QUEUE, namespace, name)


def definition_key(namespace: str, name: str, revision: int) -> ResourceKey:
    """Return the key of a revision of a job definition."""
    return ResourceKey(ResourceKind.JOB_DEFINITION, namespace, name, revision)


def environment_in(stored: StoredResource) -> ComputeEnvironmentDetail:
    """Return the compute environment that is stored."""
    return ComputeEnvironmentDetail.FromString(stored.body)


def queue_in(stored: StoredResource) -> JobQueueDetail:
    """Return the job queue that is stored."""
    return JobQueueDetail.FromString(stored.body)


def definition_in(stored: StoredResource) -> JobDefinition:
    """Return the job definition that is stored."""
    return JobDefinition.FromString(stored.body)


def find_live(writer: RegistryWriter, key: ResourceKey) -> StoredResource | None:
    """Return a resource, or None if there is none or its tombstone."""
    stored = writer.find(key)
    return None if stored is None or stored.status == DELETED else stored


def put(
    writer: RegistryWriter, namespace: str, message: ResourceMessage, *, before: ResourceMessage | None = None
) -> StoredResource:
    """Store a resource as it is to be from now on; with `before`, until it is decided whether it holds.

    A queue holds on to its environments, while undecided also to those of before.
    """
    held: set[str] = set()
    for version in (message, before):
        if isinstance(version, JobQueueDetail):
            held.update(_name_in_arn(entry.compute_environment) for entry in version.compute_environment_order)
    return writer.put(
        key_of(namespace, message),
        _status_of(message),
        message.SerializeToString(),
        before=None if before is None else before.SerializeToString(),
        compute_environments=sorted(held),
    )


def message_before(stored: StoredResource) -> ResourceMessage:
    """Return what to go back to from an undecided change."""
    assert stored.before is not None
    match stored.key.kind:
        case ResourceKind.JOB_QUEUE:
            return JobQueueDetail.FromString(stored.before)
        case ResourceKind.JOB_DEFINITION:
            return JobDefinition.FromString(stored.before)
        case _:
            return ComputeEnvironmentDetail.FromString(stored.before)


def stored_change(stored: StoredResource) -> ResourceChange:
    """Return a stored resource as watches show it."""
    change = ResourceChange(revision=stored.revision, namespace=stored.key.namespace)
    match stored.key.kind:
        case ResourceKind.JOB_QUEUE:
            change.job_queue.ParseFromString(stored.body)
        case ResourceKind.JOB_DEFINITION:
            change.job_definition.ParseFromString(stored.body)
        case _:
            change.compute_environment.ParseFromString(stored.body)
    return change


def told_change(revision: int, namespace: str, message: ResourceMessage) -> ResourceChange:
    """Return a resource as the job store is told of it before it is decided."""
    match message:
        case JobQueueDetail():
            return ResourceChange(revision=revision, namespace=namespace, job_queue=message)
        case JobDefinition():
            return ResourceChange(revision=revision, namespace=namespace, job_definition=message)
        case ComputeEnvironmentDetail():
            return ResourceChange(revision=revision, namespace=namespace, compute_environment=message)


def key_of(namespace: str, message: ResourceMessage) -> ResourceKey:
    """Return the key under which a resource is stored."""
    match message:
        case JobQueueDetail():
            return queue_key(namespace, message.job_queue_name)
        case JobDefinition():
            return definition_key(namespace, message.job_definition_name, message.revision)
        case ComputeEnvironmentDetail():
            return environment_key(namespace, message.compute_environment_name)


def _status_of(message: ResourceMessage) -> str:
    if isinstance(message, JobDefinition):
        return message.status
    return ResourceStatus.Name(message.status).removeprefix(_STATUS_PREFIX)


def _name_in_arn(arn: str) -> str:
    return arn.rpartition("/")[2]
