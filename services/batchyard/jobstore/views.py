"""How jobs look to clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from batchyard.api.agent.v1.run_pb2 import JobSpec
from batchyard.api.jobs.v1.jobs_pb2 import (
    ArrayPropertiesDetail,
    ArrayPropertiesSummary,
    AttemptContainerDetail,
    AttemptDetail,
    ContainerSummary,
    JobCapacityUsageSummary,
    JobDetail,
    JobStatus,
    JobSummary,
)
from batchyard.api.operations.v1.job_operations_service_pb2 import IndexRange
from batchyard.api.operations.v1.job_operations_service_pb2 import JobChange as JobChangeMessage
from batchyard.domain.arrays import Children, from_bytes, ranges
from batchyard.domain.jobs import Attempt, Job, JobChange
from batchyard.domain.lifecycle import JobState
from batchyard.domain.names import ResourceKind
from batchyard.storage.job_reader import JobRecord

CAPACITY_UNIT: Final = "VCPU"

_STATUS: Final = {state: JobStatus.Value(f"JOB_STATUS_{state.name}") for state in JobState}
_STATE: Final = {status: state for state, status in _STATUS.items()}


def state_of(status: "JobStatus.ValueType") -> JobState | None:
    """Return the state that a status names, or None for UNSPECIFIED."""
    return _STATE.get(status)


def job_detail(record: JobRecord) -> JobDetail:
    """Return the job as DescribeJobs shows it: what has nothing to say is absent, zero is not nothing."""
    job, spec = record.job, JobSpec.FromString(record.spec)
    job_arn = _sibling_arn(spec.job_arn, ResourceKind.JOB, job.key.job_id)
    detail = JobDetail(
        job_arn=job_arn,
        job_name=job.job_name,
        job_id=job.key.job_id,
        job_queue=spec.job_queue_arn,
        status=_STATUS[job.state],
        status_reason=job.status_reason,
        created_at=job.created_at,
        started_at=job.started_at,
        stopped_at=job.stopped_at,
        depends_on=spec.depends_on,
        job_definition=spec.job_definition_arn,
        parameters=spec.parameters,
        container=spec.container,
        attempts=[
            _attempt_detail(attempt, _Cluster(spec.job_arn, record.clusters.get(attempt.cluster or 0)))
            for attempt in record.attempts
        ],
        retry_strategy=spec.retry_strategy,
        timeout=spec.timeout if spec.HasField("timeout") else None,
        # Those of an array are its own.
        tags=tags_of(record, spec) if job.parent is None else {},
        is_cancelled=job.cancelled,
        is_terminated=job.terminated,
        share_identifier=spec.share_identifier or None,
        scheduling_priority=spec.scheduling_priority if spec.HasField("scheduling_priority") else None,
        propagate_tags=spec.propagate_tags,
        platform_capabilities=spec.platform_capabilities,
    )
    if job.parent is not None:
        detail.array_properties.index = job.index
    if job.children is not None:
        detail.array_properties.CopyFrom(ArrayPropertiesDetail(**_array_properties(job.children)))
    _show_latest_attempt(detail, job, _Cluster(spec.job_arn, record.clusters.get(job.cluster or 0)))
    return detail


def job_arn(job: Job) -> str:
    """Return a job's ARN."""
    return _sibling_arn(job.job_definition, ResourceKind.JOB, job.key.job_id)


def tags_of(record: JobRecord, spec: JobSpec) -> Mapping[str, str]:
    """Return the tags of a job as they are now."""
    return spec.tags if record.tags is None else record.tags


def job_summary(job: Job) -> JobSummary:
    """Return the job as ListJobs shows it."""
    summary = JobSummary(
        job_arn=job_arn(job),
        job_id=job.key.job_id,
        job_name=job.job_name,
        created_at=job.created_at,
        status=_STATUS[job.state],
        status_reason=job.status_reason,
        started_at=job.started_at,
        stopped_at=job.stopped_at,
        job_definition=job.job_definition,
        capacity_usage=[JobCapacityUsageSummary(capacity_unit=CAPACITY_UNIT, quantity=job.vcpus_milli / 1000)],
        share_identifier=job.share_identifier,
        is_cancelled=job.cancelled or None,
        is_terminated=job.terminated or None,
    )
    if job.exit_code is not None or job.reason is not None:
        summary.container.CopyFrom(ContainerSummary(exit_code=job.exit_code, reason=job.reason))
    if job.parent is not None:
        summary.array_properties.index = job.index
    if job.children is not None:
        summary.array_properties.CopyFrom(ArrayPropertiesSummary(**_array_properties(job.children)))
    return summary


def change_message(change: JobChange, region_arn: str) -> JobChangeMessage:
    """Return a change as watches show it; `region_arn` is any ARN of the caller's namespace and region."""
    return JobChangeMessage(
        job_id=change.key.job_id,
        job_name=change.job_name,
        job_queue=_sibling_arn(region_arn, ResourceKind.JOB_QUEUE, change.job_queue),
        status=_STATUS[change.state],
        status_reason=change.status_reason,
        at=change.at,
        attempts=change.attempts,
        exit_code=change.exit_code,
        reason=change.reason,
        log_stream_name=change.log_stream_name,
        children=[IndexRange(first=first, last=last) for first, last in ranges(from_bytes(change.children or b""))],
    )


def change_of(job: Job) -> JobChange:
    """Return the change that brought a job to where it is."""
    return JobChange(
        key=job.key,
        job_name=job.job_name,
        job_queue=job.job_queue,
        state=job.state,
        status_reason=job.status_reason,
        at=job.stopped_at or job.started_at or job.created_at,
        attempts=job.attempts_made,
        exit_code=job.exit_code,
        reason=job.reason,
        log_stream_name=job.log_stream_name,
    )


def described(records: Sequence[JobRecord]) -> list[JobDetail]:
    """Return jobs as DescribeJobs shows them."""
    return [job_detail(record) for record in records]


def _array_properties(children: Children) -> dict[str, Any]:
    """Return what both messages about an array say."""
    return {
        "size": children.size,
        "status_summary": {state.name: count for state, count in children.summary().items()},
        "status_summary_last_updated_at": children.changed_at,
    }


@dataclass(frozen=True, slots=True)
class _Cluster:
    """The ECS cluster that an attempt is said to have been made in."""

    job_arn: str
    arn: str | None
    """None: one of a name for all, as of attempts from before clusters were noted."""

    def member(self, kind: str, name: str) -> str:
        """Return the ARN of something in it."""
        if self.arn is not None:
            prefix, _, cluster = self.arn.partition(":cluster/")
            return f"{prefix}:{kind}/{cluster}/{name}"
        _, _, _, region, account, _ = self.job_arn.split(":", 5)
        return f"arn:aws:ecs:{region}:{account}:{kind}/batchyard/{name}"


def _show_latest_attempt(detail: JobDetail, job: Job, cluster: _Cluster) -> None:
    container = detail.container
    if job.agent_id is not None and job.task_id is not None:
        container.container_instance_arn = cluster.member("container-instance", job.agent_id)
        container.task_arn = cluster.member("task", job.task_id)
    if job.log_stream_name is not None:
        container.log_stream_name = job.log_stream_name
    if job.exit_code is not None:
        container.exit_code = job.exit_code
    if job.reason is not None:
        container.reason = job.reason


def _attempt_detail(attempt: Attempt, cluster: _Cluster) -> AttemptDetail:
    return AttemptDetail(
        container=AttemptContainerDetail(
            container_instance_arn=cluster.member("container-instance", attempt.agent_id),
            task_arn=cluster.member("task", attempt.task_id),
            exit_code=attempt.exit_code,
            reason=attempt.reason,
            log_stream_name=attempt.log_stream_name,
        ),
        started_at=attempt.started_at,
        stopped_at=attempt.stopped_at,
        status_reason=attempt.status_reason,
    )


def _sibling_arn(arn: str, kind: ResourceKind, name: str) -> str:
    """Return the ARN of another resource of the same region and account."""
    return f"{':'.join(arn.split(':', 5)[:5])}:{kind}/{name}"
