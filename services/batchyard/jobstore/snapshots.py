"""GetJobQueueSnapshot: who stands at the front of a queue, and what its jobs use."""

from collections.abc import Mapping, Sequence
from typing import Final

from batchyard.api.jobs.v1.jobs_pb2 import (
    FairshareCapacityUtilization,
    FairshareUtilizationDetail,
    FrontOfQueueDetail,
    FrontOfQueueJobSummary,
    QueueSnapshotCapacityUsage,
    QueueSnapshotUtilizationDetail,
)
from batchyard.api.jobs.v1.jobs_service_pb2 import GetJobQueueSnapshotResponse
from batchyard.domain.jobs import Job, JobId, JobKey
from batchyard.domain.lifecycle import JobState
from batchyard.jobstore.views import CAPACITY_UNIT, job_arn
from batchyard.storage.job_reader import JobReader
from batchyard.storage.jobs import QueueCopy

FRONT_JOBS_MAX: Final = 100
TOP_SHARES_MAX: Final = 20


def queue_snapshot(
    reader: JobReader, queue: QueueCopy, first: Sequence[JobId] | None, now_ms: int
) -> GetJobQueueSnapshotResponse:
    """Return the first jobs of a queue.

    They are in the order in which the scheduler says that it will place them; without one, in that of submission.
    """
    front, used_milli = reader.front(queue.key, FRONT_JOBS_MAX)
    if first is not None:
        _, jobs = reader.jobs_at([JobKey(queue.key.namespace, job_id) for job_id in first])
        known = {job.key.job_id: job for job in jobs if job.state is JobState.RUNNABLE and job.run is None}
        front = [known[job_id] for job_id in first if job_id in known]
    utilization = QueueSnapshotUtilizationDetail(total_capacity_usage=[_usage(used_milli)], last_updated_at=now_ms)
    if queue.fair_share:
        utilization.fairshare_utilization.CopyFrom(_fairshare_utilization(reader.share_use(queue.key)))
    return GetJobQueueSnapshotResponse(
        front_of_queue=FrontOfQueueDetail(jobs=map(_in_front, front), last_updated_at=now_ms),
        queue_utilization=utilization,
    )


def _fairshare_utilization(used_milli: Mapping[str, int]) -> FairshareUtilizationDetail:
    biggest = sorted(used_milli.items(), key=lambda share: (-share[1], share[0]))[:TOP_SHARES_MAX]
    return FairshareUtilizationDetail(
        active_share_count=len(used_milli),
        top_capacity_utilization=[
            FairshareCapacityUtilization(share_identifier=share, capacity_usage=[_usage(used)])
            for share, used in biggest
        ],
    )


def _usage(vcpus_milli: int) -> QueueSnapshotCapacityUsage:
    return QueueSnapshotCapacityUsage(capacity_unit=CAPACITY_UNIT, quantity=vcpus_milli / 1000)


def _in_front(job: Job) -> FrontOfQueueJobSummary:
    return FrontOfQueueJobSummary(job_arn=job_arn(job), earliest_time_at_position=job.runnable_at or job.created_at)
