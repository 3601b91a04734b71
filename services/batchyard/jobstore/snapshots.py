"""GetJobQueueSnapshot: who stands at the front of a queue, and what its jobs use."""

from typing import Final

from batchyard.api.jobs.v1.jobs_pb2 import (
    FrontOfQueueDetail,
    FrontOfQueueJobSummary,
    QueueSnapshotCapacityUsage,
    QueueSnapshotUtilizationDetail,
)
from batchyard.api.jobs.v1.jobs_service_pb2 import GetJobQueueSnapshotResponse
from batchyard.domain.jobs import Job
from batchyard.jobstore.views import CAPACITY_UNIT, job_arn
from batchyard.storage.jobs import JobReader, QueueKey

FRONT_JOBS_MAX: Final = 100


def queue_snapshot(reader: JobReader, queue: QueueKey, now_ms: int) -> GetJobQueueSnapshotResponse:
    """Return the first jobs of a queue in the order of submission, in which they are placed."""
    front, used_milli = reader.front(queue, FRONT_JOBS_MAX)
    return GetJobQueueSnapshotResponse(
        front_of_queue=FrontOfQueueDetail(
            jobs=[_in_front(job) for job in front],
            last_updated_at=now_ms,
        ),
        queue_utilization=QueueSnapshotUtilizationDetail(
            total_capacity_usage=[QueueSnapshotCapacityUsage(capacity_unit=CAPACITY_UNIT, quantity=used_milli / 1000)],
            last_updated_at=now_ms,
        ),
    )


def _in_front(job: Job) -> FrontOfQueueJobSummary:
    return FrontOfQueueJobSummary(job_arn=job_arn(job), earliest_time_at_position=job.runnable_at or job.created_at)
