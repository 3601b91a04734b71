"""Changes of jobs, and jobs that block their queues, as the events that AWS sends of them.

An event is made when it is read, from the change that was recorded and from what does not change about a job any more.
What waits for a slow reader is on the disk: a watch holds no more than the commits of one read and one message.
"""

import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from batchyard.api.operations.v1.job_operations_service_pb2 import (
    JobStateChangeEvent,
    WatchJobEventsRequest,
    WatchJobEventsResponse,
)
from batchyard.domain.errors import HistoryGoneError, InvalidRequestError
from batchyard.domain.jobs import JobChange
from batchyard.domain.lifecycle import JobState
from batchyard.domain.names import Caller, ResourceKind, name_in_reference
from batchyard.jobstore.history import History
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.views import job_detail, state_of
from batchyard.storage.job_reader import JobRecord

COMMITS_A_READ: Final = 20
EVENTS_A_READ: Final = 50
MESSAGE_BYTES: Final = 1024 * 1024
"""A message is sent once it has as many; one event may be larger."""
SILENT_REVISIONS_MAX: Final = 1000
"""After so many commits of which it wants nothing a reader is told where it stands, so that it can go on from there."""

STATE_CHANGE: Final = "Batch Job State Change"
QUEUE_BLOCKED: Final = "Batch Job Queue Blocked"

_EVENT_IDS: Final = uuid.UUID("5a9bb8f6-6d0f-4a52-9d4b-0d5d9a6e1c57")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an event stands in the order of all."""

    revision: int
    index: int
    is_last: bool
    """Whether no further event of its commit is wanted."""
    change: JobChange


class _Selection:
    """Which events are wanted."""

    def __init__(self, caller: Caller, request: WatchJobEventsRequest) -> None:
        self._namespace = caller.namespace
        self._jobs = _names(caller, request.jobs, ResourceKind.JOB, "jobs")
        self._arrays = None if self._jobs is None else {name.partition(":")[0] for name in self._jobs}
        self._queues = _names(caller, request.job_queues, ResourceKind.JOB_QUEUE, "jobQueues")
        self._states = {state_of(status) for status in request.statuses}
        if None in self._states:
            raise InvalidRequestError("a status must not be unspecified", field="statuses")

    def takes(self, change: JobChange) -> bool:
        """Tell whether the event of a change of one job is wanted. The children of an array go with it."""
        job_id = change.key.job_id
        return self.may_take(change) and (
            self._jobs is None or job_id in self._jobs or job_id.partition(":")[0] in self._jobs
        )

    def may_take(self, change: JobChange) -> bool:
        """Tell whether an event of a change, which may be of many children, can be wanted."""
        return (
            change.key.namespace == self._namespace
            and (self._arrays is None or change.key.job_id.partition(":")[0] in self._arrays)
            and (self._queues is None or change.job_queue in self._queues)
            and (not self._states or (change.state in self._states and not change.blocked))
        )


class EventWatch:
    """One reader's way through the events."""

    def __init__(self, caller: Caller, request: WatchJobEventsRequest, history: History, reading: Reading) -> None:
        """Check what is asked for; raise InvalidRequestError for names and states that no job can have."""
        self._selection = _Selection(caller, request)
        self._request = request
        self._history = history
        self._reading = reading
        self._after_index = request.after_index if request.HasField("after_index") else None
        if self._after_index is not None and not request.HasField("after_revision"):
            raise InvalidRequestError("after_index needs after_revision", field="afterIndex")

    async def responses(self) -> AsyncGenerator[WatchJobEventsResponse]:
        """Yield what there is to send."""
        goal = self._history.revision
        told = revision = await self._begin()
        if not self._request.HasField("after_revision"):
            yield WatchJobEventsResponse(revision=revision)
        while True:
            commits, newest = await self._history.after(revision, COMMITS_A_READ)
            places = self._places(commits)
            while part := list(islice(places, EVENTS_A_READ)):
                for response in await self._read(part):
                    yield response
                    told = response.revision
            revision = newest
            has_all = self._request.until_caught_up and revision >= goal
            if revision - told >= SILENT_REVISIONS_MAX or (has_all and revision > told):
                yield WatchJobEventsResponse(revision=revision)
                told = revision
            if has_all:
                return
            await self._history.wait(revision)

    async def _begin(self) -> int:
        """Return the revision after which to read."""
        if self._request.HasField("after_revision"):
            revision = self._request.after_revision
            await self._history.check(revision)
            return revision if self._after_index is None else revision - 1
        if self._request.from_oldest:
            return await self._reading.ask(lambda reader: reader.oldest_revision())
        return self._history.revision

    def _places(self, commits: Sequence[tuple[int, list[JobChange]]]) -> Iterator[_Place]:
        for revision, changes in commits:
            begin = 0
            if self._after_index is not None and revision == self._request.after_revision:
                begin = self._after_index + 1
            held: _Place | None = None
            for index, change in self._wanted(changes, begin):
                if held is not None:
                    yield held
                held = _Place(revision, index, is_last=False, change=change)
            if held is not None:
                yield replace(held, is_last=True)

    def _wanted(self, changes: Sequence[JobChange], begin: int) -> Iterator[tuple[int, JobChange]]:
        """Yield what is wanted of a commit, from an index on, with the index among all of its events."""
        index = 0
        for change in changes:
            if not self._selection.may_take(change):
                index += change.count
                continue
            for single in change.each():
                if index >= begin and self._selection.takes(single):
                    yield index, single
                index += 1

    async def _read(self, places: Sequence[_Place]) -> list[WatchJobEventsResponse]:
        """Return the events of these places, in messages of bounded size."""
        keys = list(dict.fromkeys(place.change.key for place in places))
        records = {record.job.key: record for record in await self._reading.ask(lambda reader: reader.describe(keys))}
        responses: list[WatchJobEventsResponse] = []
        size = MESSAGE_BYTES
        for place in places:
            record = records.get(place.change.key)
            if record is None:
                # Jobs go after their events: this reader is further behind than anything is kept.
                raise HistoryGoneError(f"events of revision {place.revision} are no longer kept")
            event = event_of(place.revision, place.index, place.change, record)
            if size >= MESSAGE_BYTES:
                responses.append(WatchJobEventsResponse())
                size = 0
            size += event.ByteSize()
            response = responses[-1]
            response.events.append(event)
            response.revision = place.revision
            if place.is_last:
                response.ClearField("index")
            else:
                response.index = place.index
        return responses


def event_of(revision: int, index: int, change: JobChange, record: JobRecord) -> JobStateChangeEvent:
    """Return the event of a change, with the job as it was then."""
    detail = job_detail(as_of(change, record))
    if change.summary is not None:
        counts = dict(zip((state.name for state in JobState), change.summary, strict=True))
        detail.array_properties.status_summary.update(counts)
        detail.array_properties.status_summary_last_updated_at = change.at
    _, _, _, region, account, _ = detail.job_arn.split(":", 5)
    name = f"{detail.job_arn} {revision} {index} {change.state} {change.at}"
    return JobStateChangeEvent(
        version="0",
        id=str(uuid.uuid5(_EVENT_IDS, name)),
        detail_type=QUEUE_BLOCKED if change.blocked else STATE_CHANGE,
        source="aws.batch",
        account=account,
        time=datetime.fromtimestamp(change.at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        region=region,
        resources=[detail.job_arn, detail.job_queue] if change.blocked else [detail.job_arn],
        detail=detail,
    )


def as_of(change: JobChange, record: JobRecord) -> JobRecord:
    """Return a job as it was when it had just changed."""
    job = replace(
        record.job,
        state=change.state,
        status_reason=change.status_reason,
        attempts_made=change.attempts,
        started_at=change.started_at,
        stopped_at=change.stopped_at,
        exit_code=change.exit_code,
        reason=change.reason,
        agent_id=change.agent_id,
        task_id=change.task_id,
        log_stream_name=change.log_stream_name,
        cancelled=change.cancelled,
        terminated=change.terminated,
    )
    return replace(
        record, job=job, attempts=[attempt for attempt in record.attempts if attempt.number <= change.attempts]
    )


def _names(caller: Caller, references: Sequence[str], kind: ResourceKind, field: str) -> frozenset[str] | None:
    """Return the names of resources; None if none are named. One of another account names nothing."""
    if not references:
        return None
    if not all(references):
        raise InvalidRequestError(f"an empty name in {field}", field=field)
    names = (name_in_reference(reference, kind, caller.namespace) for reference in references)
    return frozenset(name for name in names if name is not None)
