"""Between the messages on the streams and the words of the scheduler's core."""

from collections.abc import Iterable

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail, ComputeEnvironmentType
from batchyard.api.registry.v1.job_queue_pb2 import JobQueueDetail
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.api.registry.v1.scheduling_policy_pb2 import SchedulingPolicyDetail
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.arrays import from_bytes
from batchyard.domain.jobs import Fence, JobId, JobKey
from batchyard.domain.leases import lease_of
from batchyard.domain.names import ResourceKind, name_in_reference
from batchyard.scheduler.fairshare import WEIGHT_DEFAULT
from batchyard.scheduler.model import (
    Agent,
    ComputeEnvironment,
    HeldRun,
    JobQueue,
    LineKey,
    LineRequest,
    Offer,
    QueuedChildren,
    QueuedJob,
    ResourceKey,
    Resources,
    SchedulingPolicy,
    ShareUse,
    WaitingLine,
    WaitReason,
)


def fence_of(message: run_pb2.Fence) -> Fence:
    """Return a fence."""
    return Fence(message.epoch, message.number)


def fence_messages(fences: Iterable[Fence]) -> list[run_pb2.Fence]:
    """Return the messages of fences."""
    return [run_pb2.Fence(epoch=fence.epoch, number=fence.number) for fence in fences]


def job_key_of(message: wire.JobRef) -> JobKey:
    """Return a job's key."""
    return JobKey(message.namespace, JobId(message.job_id))


def queued_job_of(message: wire.QueuedJob) -> QueuedJob:
    """Return a job that is to be placed."""
    need = Resources(message.vcpus_milli, message.memory_mib, message.gpus)
    return QueuedJob(
        *(job_key_of(message.job), message.job_queue, message.sequence, need, message.version),
        *(message.share_identifier, message.scheduling_priority, message.time_limit_s or None),
    )


def queued_children_of(message: wire.QueuedChildren) -> QueuedChildren:
    """Return children of an array that are to be placed."""
    return QueuedChildren(
        job_key_of(message.array),
        message.job_queue,
        message.sequence,
        Resources(message.vcpus_milli, message.memory_mib, message.gpus),
        message.version,
        from_bytes(message.indices),
        message.share_identifier,
        message.scheduling_priority,
        message.time_limit_s or None,
    )


def waiting_line_of(message: wire.LinePart) -> WaitingLine:
    """Return jobs of a line that are to be placed."""
    line = message.line
    return WaitingLine(
        LineKey(
            ResourceKey(line.namespace, line.job_queue),
            line.share_identifier,
            Resources(line.vcpus_milli, line.memory_mib, line.gpus),
            line.time_limit_s or None,
        ),
        message.after,
        tuple(zip(message.places, map(JobId, message.job_ids), message.versions, strict=True)),
        message.places[-1] if message.more else None,
    )


def line_request_message(request: LineRequest) -> wire.LineRequest:
    """Return the wish to know more of a line."""
    line = request.line
    return wire.LineRequest(
        line=wire.LineRef(
            namespace=line.queue.namespace,
            job_queue=line.queue.name,
            share_identifier=line.share,
            vcpus_milli=line.need.vcpus_milli,
            memory_mib=line.need.memory_mib,
            gpus=line.need.gpus,
            time_limit_s=line.time_limit_s or 0,
        ),
        after=request.after,
        limit=request.limit,
    )


def held_run_of(message: wire.HeldRun) -> HeldRun:
    """Return a run that takes up room."""
    need = Resources(message.vcpus_milli, message.memory_mib, message.gpus)
    return HeldRun(
        fence_of(message.fence),
        job_key_of(message.job),
        message.agent_id,
        message.compute_environment,
        need,
        claimed=message.state != run_pb2.RUN_STATE_OFFERED,
        job_queue=message.job_queue,
        share=message.share_identifier,
        time_limit_s=message.time_limit_s or None,
    )


def agent_of(message: session_pb2.Registration) -> Agent:
    """Return an agent as it presents itself."""
    capacity = message.capacity
    return Agent(
        message.agent_id,
        message.incarnation,
        Resources(capacity.vcpus_milli, capacity.memory_mib, capacity.gpus),
        tuple(message.compute_environments),
    )


def environment_of(namespace: str, message: ComputeEnvironmentDetail) -> ComputeEnvironment | None:
    """Return a compute environment, or None if it is gone."""
    if message.status == ResourceStatus.RESOURCE_STATUS_DELETED:
        return None
    managed = message.type == ComputeEnvironmentType.COMPUTE_ENVIRONMENT_TYPE_MANAGED
    return ComputeEnvironment(
        ResourceKey(namespace, message.compute_environment_name),
        enabled=message.state == ResourceState.RESOURCE_STATE_ENABLED,
        valid=message.status == ResourceStatus.RESOURCE_STATUS_VALID,
        max_vcpus_milli=message.compute_resources.maxv_cpus * 1000 if managed else None,
        unmanaged_vcpus_milli=message.unmanagedv_cpus * 1000 if message.HasField("unmanagedv_cpus") else None,
        lease_s=lease_of(message.tags, message.compute_resources.type),
    )


def queue_of(namespace: str, message: JobQueueDetail) -> JobQueue | None:
    """Return a job queue, or None if it is gone. A disabled one goes on placing what it holds."""
    if message.status == ResourceStatus.RESOURCE_STATUS_DELETED:
        return None
    references = [
        entry.compute_environment for entry in sorted(message.compute_environment_order, key=lambda entry: entry.order)
    ]
    names = [name_in_reference(reference, ResourceKind.COMPUTE_ENVIRONMENT, namespace) for reference in references]
    arn = message.scheduling_policy_arn
    policy = name_in_reference(arn, ResourceKind.SCHEDULING_POLICY, namespace) if arn else None
    return JobQueue(
        ResourceKey(namespace, message.job_queue_name),
        message.priority,
        tuple(name for name in names if name),
        ResourceKey(namespace, policy) if policy else None,
    )


def policy_of(namespace: str, message: SchedulingPolicyDetail) -> SchedulingPolicy:
    """Return a scheduling policy."""
    policy = message.fairshare_policy
    return SchedulingPolicy(
        ResourceKey(namespace, message.name),
        policy.share_decay_seconds,
        policy.compute_reservation,
        tuple(
            (share.share_identifier, share.weight_factor if share.HasField("weight_factor") else WEIGHT_DEFAULT)
            for share in policy.share_distribution
        ),
    )


def share_use_of(message: wire.ShareUse) -> ShareUse:
    """Return what a share has used."""
    queue = ResourceKey(message.namespace, message.job_queue)
    return ShareUse(queue, message.share_identifier, message.used_vcpu_seconds, message.ago_ms / 1000)


def share_use_message(use: ShareUse) -> wire.ShareUse:
    """Return what a share has used up to now."""
    return wire.ShareUse(
        namespace=use.queue.namespace,
        job_queue=use.queue.name,
        share_identifier=use.share,
        used_vcpu_seconds=use.used,
    )


def proposal_message(offer: Offer) -> wire.OfferProposal:
    """Return a proposal."""
    return wire.OfferProposal(
        job=_ref(offer.job),
        version=offer.version,
        agent_id=offer.agent_id,
        incarnation=offer.incarnation,
        compute_environment=offer.environment,
    )


def wait_reason_message(reason: WaitReason) -> wire.WaitReason:
    """Return why a line waits."""
    return wire.WaitReason(
        namespace=reason.queue.namespace,
        job_queue=reason.queue.name,
        vcpus_milli=reason.need.vcpus_milli,
        memory_mib=reason.need.memory_mib,
        gpus=reason.need.gpus,
        reason=reason.reason,
        share_identifier=reason.share,
    )


def _ref(key: JobKey) -> wire.JobRef:
    return wire.JobRef(namespace=key.namespace, job_id=key.job_id)
