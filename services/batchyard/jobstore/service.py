"""JobsService: the operations that AWS has for jobs."""

from collections.abc import Iterable
from typing import Final

import grpc.aio

from batchyard.api.jobs.v1.jobs_pb2 import JobStatus, JobSummary
from batchyard.api.jobs.v1.jobs_service_pb2 import (
    CancelJobRequest,
    CancelJobResponse,
    CancelJobsErrorDetail,
    CancelJobsRequest,
    CancelJobsResponse,
    DescribeJobsRequest,
    DescribeJobsResponse,
    GetJobQueueSnapshotRequest,
    GetJobQueueSnapshotResponse,
    ListJobsRequest,
    ListJobsResponse,
    SubmitJobRequest,
    SubmitJobResponse,
    TerminateJobRequest,
    TerminateJobResponse,
    TerminateJobsErrorDetail,
    TerminateJobsRequest,
    TerminateJobsResponse,
)
from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceServicer
from batchyard.domain.clock import Clock
from batchyard.domain.errors import InvalidRequestError, NotFoundError
from batchyard.domain.jobs import Job, JobId, JobKey
from batchyard.domain.lifecycle import JobState
from batchyard.domain.names import Caller, ResourceKind, name_in_reference
from batchyard.domain.pagination import decode_token, encode_token, page_size
from batchyard.jobstore.feed import Feed
from batchyard.jobstore.fronts import Fronts
from batchyard.jobstore.group import Group
from batchyard.jobstore.listing import filter_of
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.reasons import WaitReasons
from batchyard.jobstore.repeats import request_key
from batchyard.jobstore.resources import ResourceCopies
from batchyard.jobstore.snapshots import FRONT_JOBS_MAX, queue_snapshot
from batchyard.jobstore.stops import Stopper, job_keys
from batchyard.jobstore.submitter import Submitter
from batchyard.jobstore.views import described, job_summary, state_of
from batchyard.jobstore.writer import Writer
from batchyard.rpc.identity import caller_of, invocation_of
from batchyard.storage.jobs import QueueCopy, QueueKey
from batchyard.storage.listings import Position

DESCRIBED_JOBS_MAX: Final = 100
LISTED_JOBS_MAX: Final = 1000


class JobsServicer(JobsServiceServicer):
    """Answers once what it says is on disk."""

    def __init__(
        self,
        *,
        writer: Writer,
        feed: Feed,
        reading: Reading,
        copies: ResourceCopies,
        submitter: Submitter,
        reasons: WaitReasons,
        fronts: Fronts,
        clock: Clock,
    ) -> None:
        self._stopper = Stopper(writer=writer, feed=feed)
        self._reasons = reasons
        self._fronts = fronts
        self._clock = clock
        self._reading = reading
        self._copies = copies
        self._submitter = submitter

    async def SubmitJob(  # noqa: N802  # the name of the RPC, as below
        self, request: SubmitJobRequest, context: grpc.aio.ServicerContext[SubmitJobRequest, SubmitJobResponse]
    ) -> SubmitJobResponse:
        """Take a job in."""
        caller = caller_of(context)
        key = request_key(caller, invocation_of(context), "SubmitJob", request)
        return await self._submitter.submit(caller, request, key)

    async def DescribeJobs(  # noqa: N802
        self, request: DescribeJobsRequest, context: grpc.aio.ServicerContext[DescribeJobsRequest, DescribeJobsResponse]
    ) -> DescribeJobsResponse:
        """Describe jobs by id or ARN."""
        caller = caller_of(context)
        if len(request.jobs) > DESCRIBED_JOBS_MAX:
            raise InvalidRequestError(f"Maximum number of jobs supported is {DESCRIBED_JOBS_MAX}.", field="jobs")
        keys = job_keys(caller, request.jobs)
        records = await self._reading.ask(lambda reader: reader.describe(keys))
        for record in records:
            self._reasons.explain(record.job)
        return DescribeJobsResponse(jobs=described(records))

    async def ListJobs(  # noqa: N802
        self, request: ListJobsRequest, context: grpc.aio.ServicerContext[ListJobsRequest, ListJobsResponse]
    ) -> ListJobsResponse:
        """List a page of a queue's jobs in one state, or of those that a filter lets through."""
        caller = caller_of(context)
        state = _listed_state(request)
        limit = page_size(request.max_results if request.HasField("max_results") else None, maximum=LISTED_JOBS_MAX)
        if sum(map(bool, (request.job_queue, request.array_job_id, request.multi_node_job_id))) != 1:
            raise InvalidRequestError(
                "Exactly one of jobQueue, arrayJobId and multiNodeJobId is required.", field="jobQueue"
            )
        if request.array_job_id:
            return await self._list_children(caller, request, state, limit)
        if request.multi_node_job_id:
            return ListJobsResponse()
        queue = await self._listed_queue(caller, request.job_queue)
        if request.filters:
            return await self._list_filtered(caller, request, queue.key, limit)
        listing = f"jobs {caller.namespace} {queue.key.name} {state.name}"
        before = int(decode_token(request.next_token, listing)[0]) if request.next_token else None
        jobs = await self._reading.ask(lambda reader: reader.page(queue.key, state, before, limit + 1))
        response = ListJobsResponse(job_summary_list=self._summaries(jobs[:limit]))
        if len(jobs) > limit:
            response.next_token = encode_token(listing, [jobs[limit - 1].sequence])
        return response

    async def _list_filtered(
        self, caller: Caller, request: ListJobsRequest, queue: QueueKey, limit: int
    ) -> ListJobsResponse:
        state = _listed_state(request) if request.HasField("job_status") else None
        wanted = filter_of(request.filters, state, caller.namespace)
        listing = f"jobs {caller.namespace} {queue.name} {wanted!r}"
        after = Position(*map(int, decode_token(request.next_token, listing))) if request.next_token else None
        page = await self._reading.ask(lambda reader: reader.filtered(queue, wanted, after, limit))
        response = ListJobsResponse(job_summary_list=self._summaries(page.jobs))
        if page.end is not None:
            response.next_token = encode_token(listing, page.end)
        return response

    def _summaries(self, jobs: Iterable[Job]) -> list[JobSummary]:
        summaries = []
        for job in jobs:
            self._reasons.explain(job)
            summaries.append(job_summary(job))
        return summaries

    async def _list_children(
        self, caller: Caller, request: ListJobsRequest, state: JobState, limit: int
    ) -> ListJobsResponse:
        """List a page of an array's children in one state, by index; none of what is no array."""
        name = name_in_reference(request.array_job_id, ResourceKind.JOB, caller.namespace)
        if name is None:
            return ListJobsResponse()
        listing = f"children {caller.namespace} {name} {state.name}"
        after = int(decode_token(request.next_token, listing)[0]) if request.next_token else -1
        key = JobKey(caller.namespace, JobId(name))
        children = await self._reading.ask(lambda reader: reader.children(key, state, after, limit + 1))
        response = ListJobsResponse(job_summary_list=self._summaries(children[:limit]))
        if len(children) > limit:
            response.next_token = encode_token(listing, [children[limit - 1].index])
        return response

    async def CancelJob(  # noqa: N802
        self, request: CancelJobRequest, context: grpc.aio.ServicerContext[CancelJobRequest, CancelJobResponse]
    ) -> CancelJobResponse:
        """Cancel jobs that no agent has begun."""
        await self._stopper.stop_text(caller_of(context), request.job_id, request.reason, Group.cancel)
        return CancelJobResponse()

    async def TerminateJob(  # noqa: N802
        self, request: TerminateJobRequest, context: grpc.aio.ServicerContext[TerminateJobRequest, TerminateJobResponse]
    ) -> TerminateJobResponse:
        """End jobs in whatever state."""
        await self._stopper.stop_text(caller_of(context), request.job_id, request.reason, Group.terminate)
        return TerminateJobResponse()

    async def CancelJobs(  # noqa: N802
        self, request: CancelJobsRequest, context: grpc.aio.ServicerContext[CancelJobsRequest, CancelJobsResponse]
    ) -> CancelJobsResponse:
        """Cancel those jobs of a list that no agent has begun."""
        stopped, others = await self._stopper.stop_list(caller_of(context), request.jobs, request.reason, Group.cancel)
        errors = [CancelJobsErrorDetail(job=each.job, code=each.code, message=each.message) for each in others]
        return CancelJobsResponse(successful=stopped, errors=errors)

    async def TerminateJobs(  # noqa: N802
        self,
        request: TerminateJobsRequest,
        context: grpc.aio.ServicerContext[TerminateJobsRequest, TerminateJobsResponse],
    ) -> TerminateJobsResponse:
        """End the jobs of a list in whatever state."""
        caller = caller_of(context)
        stopped, others = await self._stopper.stop_list(caller, request.jobs, request.reason, Group.terminate)
        errors = [TerminateJobsErrorDetail(job=each.job, code=each.code, message=each.message) for each in others]
        return TerminateJobsResponse(successful=stopped, errors=errors)

    async def GetJobQueueSnapshot(  # noqa: N802
        self,
        request: GetJobQueueSnapshotRequest,
        context: grpc.aio.ServicerContext[GetJobQueueSnapshotRequest, GetJobQueueSnapshotResponse],
    ) -> GetJobQueueSnapshotResponse:
        """Tell which jobs of a queue are first."""
        queue = await self._listed_queue(caller_of(context), request.job_queue)
        first = await self._fronts.ask(queue.key, FRONT_JOBS_MAX)
        now_ms = self._clock.now_ms()
        return await self._reading.ask(lambda reader: queue_snapshot(reader, queue, first, now_ms))

    async def _listed_queue(self, caller: Caller, reference: str) -> QueueCopy:
        try:
            return await self._copies.queue(caller, reference)
        except NotFoundError as error:
            raise NotFoundError(f"{reference} does not exist", field="jobQueue") from error


def _listed_state(request: ListJobsRequest) -> JobState:
    if not request.HasField("job_status"):
        return JobState.RUNNING
    state = state_of(request.job_status)
    if state is None:
        legal = ", ".join(JobStatus.Name(number).removeprefix("JOB_STATUS_") for number in JobStatus.values()[1:])
        raise InvalidRequestError(f"jobStatus is not valid. Valid values: [{legal}]", field="jobStatus")
    return state
