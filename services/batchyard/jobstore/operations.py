"""JobOperationsService: many jobs in one call, and a watch in place of polling."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import grpc.aio

from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest
from batchyard.api.operations.v1.job_operations_service_pb2 import (
    SubmitJobResult,
    SubmitJobsRequest,
    SubmitJobsResponse,
    WatchJobsRequest,
    WatchJobsResponse,
)
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceServicer
from batchyard.domain.errors import BatchyardError, HistoryGoneError, InvalidRequestError, UnavailableError
from batchyard.domain.jobs import JobChange, JobId, JobKey
from batchyard.domain.names import Caller, ResourceKind
from batchyard.jobstore.feed import Feed
from batchyard.jobstore.repeats import request_key
from batchyard.jobstore.service import Reading, Submitter
from batchyard.jobstore.views import change_message, change_of
from batchyard.rpc.identity import caller_of, invocation_of
from batchyard.rpc.validation import check_required
from batchyard.storage.jobs import RequestKey

SUBMITTED_JOBS_MAX: Final = 1000
COMMITS_A_READ: Final = 200


class JobOperationsServicer(JobOperationsServiceServicer):
    """What AWS has no operation for."""

    def __init__(self, *, feed: Feed, reading: Reading, submitter: Submitter) -> None:
        self._feed = feed
        self._reading = reading
        self._submitter = submitter

    async def SubmitJobs(  # noqa: N802  # the name of the RPC, as below
        self, request: SubmitJobsRequest, context: grpc.aio.ServicerContext[SubmitJobsRequest, SubmitJobsResponse]
    ) -> SubmitJobsResponse:
        """Take jobs in, each for itself, in their order."""
        if len(request.jobs) > SUBMITTED_JOBS_MAX:
            raise InvalidRequestError(f"Maximum number of jobs supported is {SUBMITTED_JOBS_MAX}.", field="jobs")
        caller = caller_of(context)
        invocation = invocation_of(context)
        keys = [request_key(caller, invocation, "SubmitJobs", job, index) for index, job in enumerate(request.jobs)]
        results = await asyncio.gather(
            *(self._submit(caller, job, key) for job, key in zip(request.jobs, keys, strict=True))
        )
        return SubmitJobsResponse(results=results)

    async def _submit(self, caller: Caller, request: SubmitJobRequest, key: RequestKey | None) -> SubmitJobResult:
        try:
            check_required(request)
            return SubmitJobResult(submitted=await self._submitter.submit(caller, request, key))
        except UnavailableError:
            raise
        except BatchyardError as error:
            return SubmitJobResult(error=error.message)

    async def WatchJobs(  # noqa: N802
        self, request: WatchJobsRequest, context: grpc.aio.ServicerContext[WatchJobsRequest, WatchJobsResponse]
    ) -> AsyncIterator[WatchJobsResponse]:
        """Send changes until the client leaves.

        Raises HistoryGoneError for a revision that this store has never reached, as one that was restored from a backup
        may not have: waiting for it would pass over everything up to there.
        """
        caller = caller_of(context)
        wanted = frozenset(JobKey(caller.namespace, JobId(job_id)) for job_id in request.job_ids)
        if request.HasField("after_revision"):
            revision = request.after_revision
            newest = await self._reading.ask(lambda reader: reader.revision())
            if revision > newest:
                raise HistoryGoneError(f"revision {revision} is ahead of this job store, which is at {newest}")
        else:
            revision, jobs = await self._reading.ask(lambda reader: reader.jobs_at(wanted))
            yield _message(caller, revision, [change_of(job) for job in jobs])
        while True:
            commits, revision = await self._changes_after(revision)
            for committed, changes in commits:
                mine = [
                    change
                    for change in changes
                    if (change.key in wanted if wanted else change.key.namespace == caller.namespace)
                ]
                if mine:
                    yield _message(caller, committed, mine)
            if revision >= self._feed.revision:
                await self._feed.wait()

    async def _changes_after(self, revision: int) -> tuple[list[tuple[int, list[JobChange]]], int]:
        """Return the next commits with changes, and the revision up to which there are no others."""
        newest = max(self._feed.revision, revision)
        remembered = self._feed.changes_after(revision)
        if remembered is not None:
            return remembered, newest
        found = await self._reading.ask(lambda reader: reader.changes_after(revision, COMMITS_A_READ))
        if len(found) == COMMITS_A_READ:
            return found, found[-1][0]
        return found, max([newest, *(committed for committed, _ in found)])


def _message(caller: Caller, revision: int, changes: list[JobChange]) -> WatchJobsResponse:
    arn = caller.arn(ResourceKind.JOB, "")
    return WatchJobsResponse(revision=revision, changes=[change_message(change, arn) for change in changes])
