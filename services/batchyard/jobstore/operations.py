"""JobOperationsService: many jobs in one call, and a watch in place of polling."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import grpc.aio

from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobResponse
from batchyard.api.operations.v1.job_operations_service_pb2 import (
    SubmitJobResult,
    SubmitJobsRequest,
    SubmitJobsResponse,
    WatchJobEventsRequest,
    WatchJobEventsResponse,
    WatchJobsRequest,
    WatchJobsResponse,
)
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceServicer
from batchyard.domain.arrays import from_bytes
from batchyard.domain.errors import BatchyardError, InvalidRequestError
from batchyard.domain.jobs import JobChange, JobId, JobKey, array_and_index
from batchyard.domain.names import Caller, ResourceKind
from batchyard.jobstore.events import EventWatch
from batchyard.jobstore.feed import Feed
from batchyard.jobstore.history import History
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.repeats import request_key
from batchyard.jobstore.submitter import Submitter
from batchyard.jobstore.views import change_message, change_of
from batchyard.rpc.identity import caller_of, invocation_of

SUBMITTED_JOBS_MAX: Final = 1000
CHANGES_A_MESSAGE: Final = 500
"""A watch's message takes no further commit with so many."""


class JobOperationsServicer(JobOperationsServiceServicer):
    """What AWS has no operation for."""

    def __init__(self, *, feed: Feed, reading: Reading, submitter: Submitter) -> None:
        self._history = History(feed, reading)
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
        outcomes = await self._submitter.submit_each(caller, request.jobs, keys)
        return SubmitJobsResponse(results=map(_result, outcomes))

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
            await self._history.check(revision)
        else:
            revision, jobs = await self._reading.ask(lambda reader: reader.jobs_at(wanted))
            yield _message(caller, revision, [change_of(job) for job in jobs])
        # What happens to many children at once is said of their array.
        followed = wanted.union(child[0] for key in wanted if (child := array_and_index(key)) is not None)
        while True:
            commits, revision = await self._history.after(revision)
            mine: list[JobChange] = []
            for committed, changes in commits:
                mine += _watched(changes, wanted, caller.namespace)
                if mine and (len(mine) >= CHANGES_A_MESSAGE or committed == commits[-1][0]):
                    yield _message(caller, committed, mine)
                    mine = []
            revision = await self._history.wait(revision, followed)

    async def WatchJobEvents(  # noqa: N802
        self,
        request: WatchJobEventsRequest,
        context: grpc.aio.ServicerContext[WatchJobEventsRequest, WatchJobEventsResponse],
    ) -> AsyncIterator[WatchJobEventsResponse]:
        """Send AWS's events until the client leaves, or has all there was."""
        async with aclosing(EventWatch(caller_of(context), request, self._history, self._reading).responses()) as all_:
            async for response in all_:
                yield response


def _result(outcome: SubmitJobResponse | BatchyardError) -> SubmitJobResult:
    if isinstance(outcome, BatchyardError):
        return SubmitJobResult(error=outcome.message, error_reason=outcome.reason, error_field=outcome.field)
    return SubmitJobResult(submitted=outcome)


def _watched(changes: Sequence[JobChange], wanted: Collection[JobKey], namespace: str) -> list[JobChange]:
    """Return the changes of state that a watch shows: of all jobs of a namespace, or of those wanted alone."""
    if not wanted:
        return [change for change in changes if change.key.namespace == namespace and not change.blocked]
    children = [(key, *child) for key in wanted if (child := array_and_index(key)) is not None]
    mine = []
    for change in changes:
        if change.children is None:
            mine += [change] if change.key in wanted and not change.blocked else []
            continue
        indices = from_bytes(change.children)
        mine += [
            replace(change, key=key, children=None)
            for key, array, index in children
            if array == change.key and indices >> index & 1
        ]
    return mine


def _message(caller: Caller, revision: int, changes: list[JobChange]) -> WatchJobsResponse:
    arn = caller.arn(ResourceKind.JOB, "")
    return WatchJobsResponse(revision=revision, changes=[change_message(change, arn) for change in changes])
