"""What the job store asks of an engine.

One writer: it reads through `JobWriter`, decides, and hands back one `Changes` at a time, which is applied whole or
not at all. Any number of readers beside it (see `job_reader`), each on a connection of its own, never wait for it. Both
are synchronous; a thin async shell runs them off the event loop, and the simulator runs them as they are.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, NamedTuple, NewType, Protocol

from batchyard.domain.jobs import AgentId, Attempt, Job, JobChange, JobId, JobKey
from batchyard.domain.values import value_class
from batchyard.storage.lines import LineName, LinePart


class StorageError(Exception):
    """The engine failed: what was asked of it may or may not have been done."""


class WriterSupersededError(StorageError):
    """Another process has become the writer of this store: nothing more may be written from here."""


class QueueKey(NamedTuple):
    """A job queue's name in the store."""

    namespace: str
    name: str


class Held(NamedTuple):
    """What one attempt held within a time."""

    sequence: int
    spec_sequence: int
    """Of the job that was submitted: of a child, its array."""
    job_queue: str
    share_identifier: str | None
    vcpus_milli: int
    memory_mib: int
    gpus: int
    lasted_ms: int


class LogKey(NamedTuple):
    """A log's name."""

    namespace: str
    log_stream_name: str


class EnvironmentKey(NamedTuple):
    """A compute environment's name in the store."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class QueueCopy:
    """As much of a job queue as SubmitJob and offers need: the store's own copy of what the registry holds."""

    key: QueueKey
    arn: str
    open: bool
    """Submissions are let in."""
    gone: bool
    """It is being deleted, or has been."""
    revision: int
    """The registry's: a change with a lower one is old news."""
    fair_share: bool = False
    """It has a scheduling policy: jobs need a share, and a priority within it."""
    environments: tuple[str, ...] = ()
    """Names of its compute environments."""
    fargate: bool = False
    """Its compute environments are for jobs with the capability FARGATE only."""
    created: int = 0
    """Tells it from others that had its name before."""
    first_job: int = 0
    """Sequence number from which on jobs of this name are its own: those before were of a queue that is no more."""


@dataclass(frozen=True, slots=True)
class EnvironmentCopy:
    """As much of a compute environment as offers need: the store's own copy of what the registry holds."""

    key: EnvironmentKey
    usable: bool
    """It is ENABLED and VALID."""
    max_vcpus_milli: int | None
    """Ceiling of what all runs in it reserve together; None for UNMANAGED ones, which have none."""
    revision: int
    """The registry's: a change with a lower one is old news."""
    created: int = 0
    """The registry's revision at which it came to be: it tells environments apart that had one name in turn."""
    cluster_arn: str = ""
    """The ARN of the ECS cluster that it is said to have; kept under `created` as long as the store; "": not known."""


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """What is known of an agent."""

    agent_id: AgentId
    incarnation: int
    live: bool
    """False once its lease was given up."""
    gone_at: int | None = None
    """When that was, in milliseconds since the epoch."""
    draining: bool = False
    """It gets no offers."""
    drain_limit_ms: int | None = None
    """After which the runs of a draining agent are ended; None: as long as they take."""
    lease_ms: int = 0
    """The longest lease that it may have got in this incarnation; 0: it is not known that it had one."""


@dataclass(frozen=True, slots=True)
class ShareUse:
    """What a share of a queue has used of late, as the scheduler counts it."""

    queue: QueueKey
    share: str
    used_vcpu_s: float
    """0: nothing that is to be kept."""
    at: int
    """When that was so, in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Leader:
    """The scheduler that leads."""

    epoch: int
    """Grows with every scheduler that begins to lead."""
    scheduler_id: str


RequestKey = NewType("RequestKey", bytes)
"""Equal for the repetitions of one request, and for nothing else."""

ANSWERS_KEPT_MS: Final = 24 * 3600 * 1000


@value_class(frozen=True, slots=True)
class Answer:
    """What a request was answered, kept for its repetitions."""

    key: RequestKey
    answer: bytes
    """A serialized response."""
    at: int
    """Milliseconds since the epoch."""


@value_class(frozen=True, slots=True)
class NewJob:
    """A job to be written for the first time."""

    job: Job
    spec: bytes | None
    """A serialized JobSpec; None for a child, which has that of its array."""
    depends_on: tuple[int, ...] = ()
    """Sequence numbers of the jobs that it waits for."""
    paired_with: tuple[int, ...] = ()
    """Sequence numbers of the arrays that it waits for child by child."""


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A job that is over."""

    ended_at: int
    sequence: int
    array_size: int = 0
    """Of an array, whose children go with it."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A job that waited for another one, or still does."""

    finished: int
    """The job that is over, or the array of the child that is."""
    depends_on: int
    dependent: int
    """Both by their sequence numbers."""
    waiting: bool
    """Whether the dependent has not ended yet."""


@dataclass(slots=True)
class Removal:
    """What goes because its time is over."""

    jobs: list[int] = field(default_factory=list)
    """With their specs and attempts; by sequence number."""
    dependencies: list[tuple[int, int]] = field(default_factory=list)
    """What is depended on, and what depends on it."""
    agents: list[AgentId] = field(default_factory=list)
    events_to: int = 0
    """The events of all commits up to this revision."""
    answers_to: int = 0
    """The answers to requests up to this number."""

    def __bool__(self) -> bool:
        return bool(self.jobs or self.dependencies or self.agents or self.events_to or self.answers_to)


@dataclass(slots=True)
class Changes:
    """Everything that one group of commands changes."""

    new_jobs: list[NewJob] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    """Jobs that were there before, as they are now."""
    arrays: list[Job] = field(default_factory=list)
    """Those whose children have changed, or that are new."""
    attempts: list[tuple[int, Attempt]] = field(default_factory=list)
    """By the job's sequence number."""
    queues: list[QueueCopy] = field(default_factory=list)
    environments: list[EnvironmentCopy] = field(default_factory=list)
    agents: list[AgentRecord] = field(default_factory=list)
    leader: Leader | None = None
    share_uses: list[ShareUse] = field(default_factory=list)
    tags: dict[int, dict[str, str]] = field(default_factory=dict)
    """All tags of jobs that get others than they were submitted with, by sequence number."""
    events: list[JobChange] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    """Each kept for ANSWERS_KEPT_MS, and gone some time after."""
    removal: Removal = field(default_factory=Removal)
    set_back_over: bool = False
    """Whatever the store has forgotten when it was set back is over."""

    def __bool__(self) -> bool:
        return bool(
            self.new_jobs
            or self.jobs
            or self.arrays
            or self.attempts
            or self.queues
            or self.environments
            or self.agents
            or self.tags
            or self.leader is not None
            or self.share_uses
            or self.events
            or self.answers
            or self.removal
            or self.set_back_over
        )


@dataclass(frozen=True, slots=True)
class Counters:
    """Where the store's numbers stand when a writer begins."""

    epoch: int
    """The writer's own: one more than that of the writer before."""
    revision: int
    leader: Leader
    """The newest; nobody has led yet where its epoch is 0."""
    sequence: int
    """Of the newest job that there ever was, or of the last child of the newest array."""
    job_id: JobId | None
    """No job had a greater one."""
    set_back: int = 0
    """Not 0: the store was set back to an earlier state, and may have forgotten runs that are alive."""
    set_back_lease_ms: int = 0
    """The longest lease that an agent may have had then, as who set it back says; 0: none that the store forgot."""


class JobWriter(Protocol):
    """The one connection that writes. Every method raises StorageError when the engine fails."""

    def begin_epoch(self) -> Counters:
        """Become the writer, for as long as nobody else does; durable when it returns."""
        ...

    def jobs(self, keys: Collection[JobKey]) -> list[Job]:
        """Return those of the jobs that exist."""
        ...

    def specs(self, sequences: Collection[int]) -> dict[int, bytes]:
        """Return the serialized JobSpecs of jobs, by sequence number."""
        ...

    def part_of_line(self, line: LineName, after: int, limit: int) -> LinePart:
        """Return the jobs of a line that come after a place, `limit` of them at most."""
        ...

    def dependents(self, sequences: Collection[int]) -> list[tuple[int, Job]]:
        """Return the jobs that wait for these ones, each with the number of the one that it waits for."""
        ...

    def dependents_between(self, first: int, last: int) -> list[tuple[int, Job]]:
        """Return the same for the jobs with a sequence number in a range, both ends included."""
        ...

    def paired_dependents(self, sequences: Collection[int]) -> list[Job]:
        """Return the arrays that wait child by child for these ones."""
        ...

    def paired_dependencies(self, sequence: int) -> list[Job]:
        """Return the arrays that this one waits for child by child."""
        ...

    def unfinished_children(self, sequence: int) -> list[Job]:
        """Return those children of an array that have rows and have not ended."""
        ...

    def jobs_of_agent(self, agent_id: AgentId) -> list[Job]:
        """Return the jobs with a run on this agent."""
        ...

    def changed_tags(self, sequence: int) -> dict[str, str] | None:
        """Return the tags of a job, or None if they are as they were submitted."""
        ...

    def has_unfinished_jobs(self, queue: QueueKey) -> bool:
        """Return whether any job of the queue is not in a terminal state."""
        ...

    def queue(self, key: QueueKey) -> QueueCopy | None:
        """Return the store's copy of a queue."""
        ...

    def environment(self, key: EnvironmentKey) -> EnvironmentCopy | None:
        """Return the store's copy of a compute environment."""
        ...

    def reserved_vcpus(self) -> dict[EnvironmentKey, int]:
        """Return what all runs that are not over reserve, by compute environment, in thousandths of a vCPU."""
        ...

    def agent(self, agent_id: AgentId) -> AgentRecord | None:
        """Return what is known of an agent."""
        ...

    def answer(self, key: RequestKey) -> bytes | None:
        """Return what a request was answered, if it is still kept."""
        ...

    def finished_jobs(self, before_ms: int, after: FinishedJob | None, limit: int) -> list[FinishedJob]:
        """Return the next jobs that ended before this time, oldest first; no children."""
        ...

    def dependencies(self, jobs: Collection[FinishedJob], limit: int) -> list[Dependency]:
        """Return who depends or depended on these jobs or their children, in the order of the jobs."""
        ...

    def children_of(self, sequence: int, limit: int) -> list[int]:
        """Return the sequence numbers of children of an array that have rows."""
        ...

    def gone_agents(self, before_ms: int, limit: int) -> list[AgentId]:
        """Return agents that were given up before this time, are not drained, and that no run names."""
        ...

    def answers_before(self, before_ms: int, limit: int) -> int:
        """Return the number up to which answers are from before this time, over at most `limit` of them; or 0."""
        ...

    def events_before(self, before_ms: int, limit: int) -> int:
        """Return the revision up to which events were recorded before this time, over at most `limit` commits; or 0."""
        ...

    def apply(self, epoch: int, changes: Changes) -> int:
        """Write the changes in one transaction and return its revision.

        Raises WriterSupersededError, with nothing written, if a writer with a later epoch has begun. After any other
        error it is not known whether the changes were written.
        """
        ...
