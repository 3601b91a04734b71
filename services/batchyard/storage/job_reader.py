"""What readers ask of an engine, beside its one writer: each sees what is committed, and none waits for another."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from batchyard.domain.jobs import AgentId, Attempt, Job, JobChange, JobKey
from batchyard.domain.lifecycle import JobState
from batchyard.storage.jobs import AgentRecord, EnvironmentCopy, Held, LogKey, QueueCopy, QueueKey, RequestKey, ShareUse
from batchyard.storage.lines import LinePart
from batchyard.storage.listings import JobFilter, JobPage, LineKey, Position


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Everything about one job."""

    job: Job
    spec: bytes
    attempts: Sequence[Attempt]
    tags: dict[str, str] | None = None
    """None: as they were submitted."""
    clusters: Mapping[int, str] = field(default_factory=dict)
    """The ARNs of the ECS clusters that the job and its attempts name."""


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """A part of a snapshot, of bounded size."""

    arrays: Sequence[Job] = ()
    """With RUNNABLE children that have no rows."""
    runs: Sequence[tuple[Job, bytes | None]] = ()
    """Jobs that have a run; the spec only where the job is offered and not claimed."""
    lines: Sequence[LinePart] = ()
    """The beginnings of lines; of one that is long a line alone."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The first jobs of all lines, jobs that have a run, arrays of RUNNABLE children, and agents, at one revision."""

    revision: int
    agents: Sequence[AgentRecord]
    """Those that are live, and those that are drained."""
    share_uses: Sequence[ShareUse]
    pages: Iterator[SnapshotPage]


class JobReader(Protocol):
    """A connection that only reads; each call sees one revision."""

    def describe(self, keys: Sequence[JobKey]) -> list[JobRecord]:
        """Return those of the jobs that exist, in the order of the keys, each once; children need no rows for that."""
        ...

    def jobs_at(self, keys: Collection[JobKey]) -> tuple[int, list[Job]]:
        """Return the newest revision, and those of the jobs that exist as they are at it; children need no rows."""
        ...

    def queues(self) -> list[QueueCopy]:
        """Return the store's copies of all queues."""
        ...

    def environments(self) -> list[EnvironmentCopy]:
        """Return the store's copies of all compute environments."""
        ...

    def page(self, queue: QueueKey, state: JobState, before: int | None, limit: int) -> list[Job]:
        """Return jobs of a queue in one state, newest first, with sequence numbers below `before`; no children."""
        ...

    def children(self, array: JobKey, state: JobState, after: int, limit: int) -> list[Job]:
        """Return children of an array in one state, by index, with indices above `after`; need no rows."""
        ...

    def answer(self, key: RequestKey) -> bytes | None:
        """Return what a request was answered, if it is still kept."""
        ...

    def filtered(self, queue: QueueKey, wanted: JobFilter, after: Position | None, limit: int) -> JobPage:
        """Return the next jobs of a queue that a filter lets through, newest first."""
        ...

    def waiting(self, line: LineKey, runnable_by_ms: int, limit: int) -> list[JobKey]:
        """Return jobs of a line that are not offered and have been RUNNABLE since that time, first ones first."""
        ...

    def front(self, queue: QueueKey, limit: int) -> tuple[list[Job], int]:
        """Return the first RUNNABLE jobs of a queue that are not offered, in the order of submission.

        And how many thousandths of a vCPU its STARTING and RUNNING jobs hold.
        """
        ...

    def share_use(self, queue: QueueKey) -> dict[str, int]:
        """Return how many thousandths of a vCPU the STARTING and RUNNING jobs of a queue hold, by their share."""
        ...

    def tallies(self) -> dict[tuple[QueueKey, JobState], int]:
        """Return how many jobs of each queue are in each state that is not the last; arrays count as their children."""
        ...

    def counts(self, namespace: str) -> dict[str, dict[JobState, int]]:
        """Return how many jobs of each queue, by its name, are kept in each state; an array is one job."""
        ...

    def child_states(self, array: JobKey) -> bytes | None:
        """Return the state of each child of an array, a byte a child; None if there is no such array."""
        ...

    def waiting_for(self, key: JobKey, limit: int) -> list[Job] | None:
        """Return the first jobs that were submitted to wait for a job; None if there is no such job."""
        ...

    def held(self, namespace: str, after: int, limit: int, begin_ms: int, end_ms: int) -> tuple[list[Held], int | None]:
        """Return what the attempts of the next jobs held between two times, and where to go on; None at the end."""
        ...

    def specs_and_tags(self, jobs: Iterable[Held]) -> tuple[dict[int, bytes], dict[int, dict[str, str]]]:
        """Return the specifications of jobs, and the tags of those whose tags were changed, by sequence."""
        ...

    def newest_named(self, namespace: str, job_name: str, job_queue: str) -> JobKey | None:
        """Return the newest job of this name: in the queue if there is one, else in any."""
        ...

    def changes_after(self, revision: int, limit: int) -> list[tuple[int, list[JobChange]]]:
        """Return the events of the next commits that have any, oldest first.

        Raises HistoryGoneError if events after the revision are no longer kept.
        """
        ...

    def oldest_revision(self) -> int:
        """Return the revision after which all events are kept."""
        ...

    def log_owners(self, logs: Collection[LogKey]) -> dict[LogKey, AgentId]:
        """Return those of the logs that a job names, as that of an attempt or of its run; each with the agent of it."""
        ...

    def revision(self) -> int:
        """Return the revision of the newest commit."""
        ...

    def snapshot(self, jobs_a_line: int) -> Snapshot:
        """Begin to read what a scheduler needs: all lines in which jobs wait, of each so many at most.

        The connection does nothing else until the pages are read.
        """
        ...
