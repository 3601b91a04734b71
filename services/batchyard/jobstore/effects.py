"""What a commit means to the outside: told only after it, in the order of the commits."""

from dataclasses import dataclass, field, replace

from batchyard.domain.arrays import Indices
from batchyard.domain.jobs import AgentId, Fence, Job, JobChange, JobKey
from batchyard.domain.lifecycle import RunState
from batchyard.domain.values import value_class
from batchyard.jobstore.offers import Refusal
from batchyard.storage.jobs import QueueKey
from batchyard.storage.lines import LinePart


@value_class(frozen=True, slots=True)
class QueuedJob:
    """A job that is to be placed: as much of it as that needs."""

    key: JobKey
    job_queue: str
    sequence: int
    vcpus_milli: int
    memory_mib: int
    gpus: int
    version: int
    share: str
    """Empty in a queue without fair share."""
    priority: int
    timeout_s: int | None


@dataclass(frozen=True, slots=True)
class QueuedChildren:
    """Children of an array that are to be placed, all of which need the same."""

    key: JobKey
    """Of the array, as are the members that follow."""
    job_queue: str
    sequence: int
    vcpus_milli: int
    memory_mib: int
    gpus: int
    share: str
    priority: int
    timeout_s: int | None
    indices: Indices


@dataclass(frozen=True, slots=True)
class RegistrationOutcome:
    """Whether an agent may run jobs."""

    agent_id: AgentId
    incarnation: int
    accepted: bool
    lease_ms: int = 0
    """That it named."""


@value_class(frozen=True, slots=True)
class OfferOutcome:
    """The answer to a proposal: the job with its run if it was accepted, else why not."""

    key: JobKey
    agent_id: AgentId
    incarnation: int
    job: Job | None = None
    spec: bytes = b""
    refusal: Refusal | None = None


@value_class(frozen=True, slots=True)
class ReportOutcome:
    """The answer to a report."""

    agent_id: AgentId
    incarnation: int
    fence: Fence
    state: RunState
    stale: bool


@dataclass(frozen=True, slots=True)
class RunDemand:
    """What an agent must do about a run: give the offer back if it can, or end it in whatever state."""

    agent_id: AgentId
    incarnation: int
    fence: Fence
    kill: bool


@dataclass(frozen=True, slots=True)
class DrainOutcome:
    """Whether an agent is drained; the answer to a request."""

    agent_id: AgentId
    draining: bool
    limit_ms: int | None
    request: int
    unknown: bool
    """No such agent has ever registered."""


@value_class(frozen=True, slots=True)
class EndedRun:
    """A run that holds no capacity any more."""

    agent_id: AgentId
    fence: Fence
    ran_for_ms: int | None


@dataclass(frozen=True, slots=True)
class FrontRequest:
    """A question to the scheduler: which jobs of a queue it will place first."""

    request: int
    queue: QueueKey
    limit: int


@dataclass(slots=True)
class Effects:
    """What one commit, or several merged, mean to a scheduler."""

    runnable: dict[JobKey, QueuedJob] = field(default_factory=dict)
    lines: list[LinePart] = field(default_factory=list)
    """As they are after the commit that they came with: whatever else is told of their jobs is true after them."""
    children: dict[JobKey, QueuedChildren] = field(default_factory=dict)
    """By array; in addition to those that came before."""
    withdrawn: dict[JobKey, None] = field(default_factory=dict)
    """An array stands for all its children without rows."""
    registered: list[RegistrationOutcome] = field(default_factory=list)
    offers: list[OfferOutcome] = field(default_factory=list)
    reports: list[ReportOutcome] = field(default_factory=list)
    demands: list[RunDemand] = field(default_factory=list)
    ended: list[EndedRun] = field(default_factory=list)
    drains: list[DrainOutcome] = field(default_factory=list)
    fronts: list[FrontRequest] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(
            self.runnable
            or self.lines
            or self.children
            or self.withdrawn
            or self.registered
            or self.offers
            or self.reports
            or self.demands
            or self.ended
            or self.drains
            or self.fronts
        )

    def enqueue(self, job: Job) -> None:
        """Have the job placed."""
        self.withdrawn.pop(job.key, None)
        self.runnable[job.key] = queued(job)

    def enqueue_children(self, array: Job, indices: Indices) -> None:
        """Have children without rows placed."""
        self._add_children(queued_children(array, indices))

    def withdraw(self, key: JobKey) -> None:
        """Have the job forgotten, if the scheduler knows it; an array stands for all its children without rows."""
        self.runnable.pop(key, None)
        self.children.pop(key, None)
        self.withdrawn[key] = None

    def merge(self, later: "Effects") -> None:
        """Add what a later commit means."""
        for key, job in later.runnable.items():
            self.withdrawn.pop(key, None)
            self.runnable[key] = job
        self.lines += later.lines
        for children in later.children.values():
            self._add_children(children)
        for key in later.withdrawn:
            self.withdraw(key)
        self.registered += later.registered
        self.offers += later.offers
        self.reports += later.reports
        self.demands += later.demands
        self.ended += later.ended
        self.drains += later.drains
        self.fronts += later.fronts

    def _add_children(self, children: QueuedChildren) -> None:
        known = self.children.get(children.key)
        self.children[children.key] = (
            children if known is None else replace(children, indices=known.indices | children.indices)
        )


@dataclass(slots=True)
class Committed:
    """A commit: its revision and what it means."""

    revision: int
    written: bool
    """False: nothing was to be written, and the revision is that of the commit before."""
    effects: Effects
    changes: list[JobChange]
    decided: set[JobKey]
    """Jobs of which it is now known whether a cancel came in time."""


def queued(job: Job) -> QueuedJob:
    """Return what placing the job needs."""
    return QueuedJob(
        *(job.key, job.job_queue, job.sequence, job.vcpus_milli, job.memory_mib, job.gpus, job.version),
        *(job.share_identifier or "", job.scheduling_priority, job.timeout_s),
    )


def queued_children(array: Job, indices: Indices) -> QueuedChildren:
    """Return what placing children needs."""
    return QueuedChildren(
        *(array.key, array.job_queue, array.sequence, array.vcpus_milli, array.memory_mib, array.gpus),
        *(array.share_identifier or "", array.scheduling_priority, array.timeout_s, indices),
    )


def demand_on(job: Job) -> RunDemand | None:
    """Return what the agent of the job's run must do about it, if anything."""
    run = job.run
    if run is None or not (job.cancelled or job.terminated or run.evicted):
        return None
    return RunDemand(run.agent_id, run.incarnation, run.fence, kill=job.terminated or run.evicted)
