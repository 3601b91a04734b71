"""OverviewService: pictures of many jobs at once, for people."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc.aio

from batchyard.api.agent.v1.run_pb2 import JobSpec
from batchyard.api.operations.v1 import overview_service_pb2 as pb
from batchyard.api.operations.v1.overview_service_pb2_grpc import OverviewServiceServicer
from batchyard.domain.clock import Clock
from batchyard.domain.errors import InvalidRequestError, NotFoundError
from batchyard.domain.jobs import JobChange, JobId, JobKey, array_and_index
from batchyard.domain.lifecycle import TERMINAL, JobState
from batchyard.jobstore.feed import Feed
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.views import job_summary
from batchyard.rpc.identity import caller_of
from batchyard.storage.job_reader import JobReader
from batchyard.storage.jobs import Held

MINUTES: Final = 60
MINUTE_MS: Final = 60_000
DEPENDENTS_MAX: Final = 100
JOBS_A_READ: Final = 2000
"""Of a usage report; other readers have their turn in between."""
HOUR_MS: Final = 3_600_000
TAG_CHARACTERS_MAX: Final = 128
GROUPS_MAX: Final = 10_000
"""Of a usage report."""
ACCOUNTS_MAX: Final = 1000
"""Whose counts are remembered."""
SHARE_OF_TIME: Final = 0.05
"""Of a processor, for counting the jobs of one account: many are not counted anew for every call."""


class EndedJobs:
    """How many jobs of each account ended in each of the last minutes."""

    def __init__(self) -> None:
        self._minutes: dict[str, deque[list[int]]] = {}
        self._newest = 0

    def take(self, changes: Sequence[JobChange]) -> None:
        """Take in a commit."""
        for change in changes:
            if change.state in TERMINAL and change.summary is None and not change.blocked:
                begin = change.at - change.at % MINUTE_MS
                if begin > self._newest:
                    self._newest = begin
                    self._forget(begin - MINUTES * MINUTE_MS)
                minutes = self._minutes.setdefault(change.key.namespace, deque(maxlen=MINUTES))
                if not minutes or minutes[-1][0] < begin:
                    minutes.append([begin, 0, 0])
                minutes[-1][1 if change.state is JobState.SUCCEEDED else 2] += change.count

    def _forget(self, begin: int) -> None:
        """Forget accounts of which nothing has ended since then: there may be one for each of many test runs."""
        self._minutes = {name: minutes for name, minutes in self._minutes.items() if minutes[-1][0] > begin}

    def of(self, namespace: str, now_ms: int) -> list[pb.MinuteCounts]:
        """Return the last minutes, the present one last."""
        known = {begin: (succeeded, failed) for begin, succeeded, failed in self._minutes.get(namespace, ())}
        newest = now_ms - now_ms % MINUTE_MS
        begins = range(newest - (MINUTES - 1) * MINUTE_MS, newest + 1, MINUTE_MS)
        return [
            pb.MinuteCounts(begin=begin, succeeded=succeeded, failed=failed)
            for begin in begins
            for succeeded, failed in (known.get(begin, (0, 0)),)
        ]


@dataclass(frozen=True, slots=True)
class _Counted:
    revision: int
    counted_at: int
    good_until_s: float
    queues: list[pb.QueueCounts]


class OverviewServicer(OverviewServiceServicer):
    """Reads; what it counts it remembers for as long as counting takes times twenty."""

    def __init__(self, *, reading: Reading, feed: Feed, ended: EndedJobs, clock: Clock) -> None:
        self._reading = reading
        self._feed = feed
        self._ended = ended
        self._clock = clock
        self._counted: dict[str, _Counted] = {}
        self._counting = asyncio.Lock()

    async def CountJobs(  # noqa: N802  # the name of the RPC, as below
        self, request: pb.CountJobsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CountJobsResponse:
        """Count the jobs of the caller."""
        namespace = caller_of(context).namespace
        counted = self._remembered(namespace)
        if counted is None:
            # Of many who ask at the same time one has them counted; the others take what it found.
            async with self._counting:
                counted = self._remembered(namespace) or await self._count(namespace)
        return pb.CountJobsResponse(
            queues=counted.queues,
            counted_at=counted.counted_at,
            minutes=self._ended.of(namespace, self._clock.now_ms()),
        )

    def _remembered(self, namespace: str) -> _Counted | None:
        counted = self._counted.get(namespace)
        if counted is None or counted.revision == self._feed.revision:
            return counted
        return counted if self._clock.monotonic_s() < counted.good_until_s else None

    async def _count(self, namespace: str) -> _Counted:
        revision, begin_s = self._feed.revision, self._clock.monotonic_s()
        found = await self._reading.ask(lambda reader: reader.counts(namespace))
        end_s = self._clock.monotonic_s()
        queues = [
            pb.QueueCounts(job_queue_name=queue, by_status={state.name: count for state, count in states.items()})
            for queue, states in sorted(found.items())
        ]
        counted = _Counted(revision, self._clock.now_ms(), end_s + (end_s - begin_s) / SHARE_OF_TIME, queues)
        self._counted.pop(namespace, None)
        self._counted[namespace] = counted
        if len(self._counted) > ACCOUNTS_MAX:
            del self._counted[next(iter(self._counted))]
        return counted

    async def DescribeArrayChildren(  # noqa: N802
        self, request: pb.DescribeArrayChildrenRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DescribeArrayChildrenResponse:
        """Tell the status of every child."""
        key = JobKey(caller_of(context).namespace, JobId(request.job_id))
        states = None if array_and_index(key) else await self._reading.ask(lambda reader: reader.child_states(key))
        if states is None:
            raise NotFoundError(f"Array job {request.job_id} does not exist", field="jobId")
        return pb.DescribeArrayChildrenResponse(statuses=states)

    async def ListDependents(  # noqa: N802
        self, request: pb.ListDependentsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListDependentsResponse:
        """List who waits for a job."""
        limit = request.max_results if request.HasField("max_results") else DEPENDENTS_MAX
        if not 1 <= limit <= DEPENDENTS_MAX:
            raise InvalidRequestError(f"maxResults must be 1 to {DEPENDENTS_MAX}, not {limit}", field="maxResults")
        key = JobKey(caller_of(context).namespace, JobId(request.job_id))
        jobs = await self._reading.ask(lambda reader: reader.waiting_for(key, limit))
        if jobs is None:
            raise NotFoundError(f"Job {request.job_id} does not exist", field="jobId")
        return pb.ListDependentsResponse(jobs=[job_summary(job) for job in jobs])

    async def GetUsage(  # noqa: N802
        self, request: pb.GetUsageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetUsageResponse:
        """Add up what jobs have held."""
        by_tag = request.grouping == pb.USAGE_GROUPING_TAG
        if by_tag != request.HasField("tag") or len(request.tag) > TAG_CHARACTERS_MAX:
            raise InvalidRequestError(
                f"a tag of at most {TAG_CHARACTERS_MAX} characters goes with USAGE_GROUPING_TAG, and with that alone",
                field="tag",
            )
        if request.HasField("end") and request.end < request.begin:
            raise InvalidRequestError(f"end must not be before begin, as {request.end} is", field="end")
        now = self._clock.now_ms()
        end = min(request.end, now) if request.HasField("end") else now
        namespace = caller_of(context).namespace
        totals: dict[str, pb.Usage] = {}
        after: int | None = 0 if request.begin < end else None
        while after is not None:
            page, after = await self._reading.ask(partial(_held, namespace, after, request.begin, end))
            groups = await self._groups(page, request)
            for job, group in zip(page, groups, strict=True):
                usage = totals.setdefault(group, pb.Usage(group=group, attempts=0))
                if len(totals) > GROUPS_MAX:
                    raise InvalidRequestError(
                        f"tag has more than {GROUPS_MAX} values: group by one that jobs have in common", field="tag"
                    )
                usage.attempts += 1
                hours = job.lasted_ms / HOUR_MS
                usage.vcpu_hours += job.vcpus_milli / 1000 * hours
                usage.memory_gib_hours += job.memory_mib / 1024 * hours
                usage.gpu_hours += job.gpus * hours
        return pb.GetUsageResponse(usage=[totals[group] for group in sorted(totals)], begin=request.begin, end=end)

    async def _groups(self, page: Sequence[Held], request: pb.GetUsageRequest) -> list[str]:
        """Return to which group each of these belongs."""
        match request.grouping:
            case pb.USAGE_GROUPING_SHARE:
                return [job.share_identifier or "" for job in page]
            case pb.USAGE_GROUPING_TAG:
                specs, changed = await self._reading.ask(lambda reader: reader.specs_and_tags(page))
                values = {
                    sequence: (changed[sequence] if sequence in changed else JobSpec.FromString(spec).tags).get(
                        request.tag, ""
                    )
                    for sequence, spec in specs.items()
                }
                return [values.get(job.spec_sequence, "") for job in page]
            case _:
                return [job.job_queue for job in page]


def _held(namespace: str, after: int, begin_ms: int, end_ms: int, reader: JobReader) -> tuple[list[Held], int | None]:
    return reader.held(namespace, after, JOBS_A_READ, begin_ms, end_ms)
