"""A job as the store holds it: what changes about it, apart from what was submitted."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple, NewType

from batchyard.domain.arrays import SIZE_MAX, VERSION_WITHOUT_ROW, Children, each, from_bytes
from batchyard.domain.lifecycle import REASON_DEPENDENCY_FAILED, JobState, RunEnd, RunState
from batchyard.domain.retries import ExitRule
from batchyard.domain.values import value_class

JobId = NewType("JobId", str)
AgentId = NewType("AgentId", str)

_DIGITS_MAX: Final = len(str(SIZE_MAX - 1))


class JobKey(NamedTuple):
    """A job's name in the store."""

    namespace: str
    job_id: JobId


class Fence(NamedTuple):
    """Names one offer for ever; later ones are greater."""

    epoch: int
    """Grows at each start of the store."""
    number: int
    """Grows at each offer within an epoch."""

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"


@value_class(frozen=True, slots=True)
class Run:
    """The offer of a job to an agent that is not over."""

    fence: Fence
    agent_id: AgentId
    incarnation: int
    compute_environment: str
    """Name of the environment that it counts against."""
    state: RunState
    task_id: str
    log_stream_name: str
    evicted: bool = False
    """It is to be ended because its host is drained."""
    cluster: int | None = None
    """The ECS cluster of its environment, by the number under which storage knows it; None: not known."""

    def in_state(self, state: RunState) -> "Run":
        """Return the same run in another state."""
        return Run(
            *(self.fence, self.agent_id, self.incarnation, self.compute_environment, state),
            *(self.task_id, self.log_stream_name, self.evicted, self.cluster),
        )


@dataclass(slots=True)
class Job:
    """What changes about a job. Belongs to the transaction that loaded it."""

    key: JobKey
    sequence: int
    """Place in the order of submission, over all queues. An array is followed by its children."""
    job_name: str
    job_queue: str
    """Name."""
    job_definition: str
    """ARN with revision."""
    vcpus_milli: int
    memory_mib: int
    gpus: int
    attempts_allowed: int
    created_at: int
    """Milliseconds since the epoch, as all times here."""
    state: JobState = JobState.SUBMITTED
    version: int = 0
    """Grows with every move of the job or its run."""
    status_reason: str | None = None
    dependencies_left: int = 0
    attempts_made: int = 0
    """Attempts that have ended."""
    unstarted_losses: int = 0
    """How often it was lost with its host before its command started: that is no attempt."""
    run: Run | None = None
    stop_reason: str | None = None
    """Of the CancelJob or TerminateJob that was accepted for it."""
    cancelled: bool = False
    terminated: bool = False
    started_at: int | None = None
    """Of the latest attempt."""
    stopped_at: int | None = None
    """Of the job; absent if it never ran."""
    ended_at: int | None = None
    """When it came into a terminal state; from then on it is kept for a set time."""
    exit_code: int | None = None
    """Of the latest attempt, as are the members that follow."""
    reason: str | None = None
    agent_id: AgentId | None = None
    task_id: str | None = None
    log_stream_name: str | None = None
    exit_rules: tuple[ExitRule, ...] = ()
    """Which failed attempts are tried again; fixed at submission."""
    faults: str | None = None
    """The attempts that are made to end without running, as `batchyard:fault` has them. Never changes."""
    runnable_at: int | None = None
    """When it last became RUNNABLE."""
    share_identifier: str | None = None
    """In a queue with fair share; fixed at submission."""
    parent: int | None = None
    """Of a child of an array: the sequence of that."""
    children: Children | None = None
    """Of an array."""
    scheduling_priority: int = 0
    """Within its share higher ones go first; fixed at submission, as is the next one."""
    timeout_s: int | None = None
    """After which an attempt is ended."""
    cluster: int | None = None
    """Of the latest attempt, as the one of a run."""

    def copy(self) -> "Job":
        """Return a job that changes apart from this one."""
        copy = Job(*_values_of(self))
        if self.children is not None:
            copy.children = self.children.copy()
        return copy

    @property
    def index(self) -> int:
        """Place of a child in its array, from 0."""
        assert self.parent is not None
        return self.sequence - self.parent - 1

    @property
    def spec_sequence(self) -> int:
        """Sequence of the job whose specification is this one's: children share that of their array."""
        return self.sequence if self.parent is None else self.parent


_values_of = attrgetter(*(field.name for field in fields(Job)))


@value_class(frozen=True, slots=True)
class Attempt:
    """An attempt that has ended."""

    number: int
    """From 1."""
    agent_id: AgentId
    task_id: str
    log_stream_name: str | None
    """Absent if it never started."""
    status_reason: str
    started_at: int | None
    stopped_at: int
    exit_code: int | None
    reason: str | None
    cluster: int | None = None
    """As the one of its run."""


@value_class(frozen=True, slots=True)
class RunReport:
    """What an agent says of a run; see RunReport in run.proto."""

    fence: Fence
    key: JobKey
    state: RunState
    started_ago_ms: int | None = None
    ended_ago_ms: int | None = None
    end: RunEnd = RunEnd.EXITED
    exit_code: int | None = None
    reason: str | None = None


@value_class(frozen=True, slots=True)
class JobChange:
    """A job has come into a state: what watches show, and what the event log keeps."""

    key: JobKey
    job_name: str
    job_queue: str
    """Name."""
    state: JobState
    status_reason: str | None
    at: int
    attempts: int
    exit_code: int | None
    reason: str | None
    log_stream_name: str | None
    started_at: int | None = None
    """Of the latest attempt, as are the two that follow the next one."""
    stopped_at: int | None = None
    agent_id: AgentId | None = None
    task_id: str | None = None
    cancelled: bool = False
    terminated: bool = False
    children: bytes | None = None
    """Not the job itself but these children of it, which have no rows; see `arrays.to_bytes`."""
    summary: tuple[int, ...] | None = None
    """Of an array: how many of its children were in each state after the commit, in the order of the states."""
    blocked: bool = False
    """It has not come into a state: as the first of its queue it blocks it, for the reason."""
    waited_ms: int | None = None
    """For how long the job was RUNNABLE, when an agent took it; not in the event log."""

    @property
    def count(self) -> int:
        """Of how many jobs it tells."""
        return 1 if self.children is None else from_bytes(self.children).bit_count()

    def each(self) -> "Iterator[JobChange]":
        """Yield what it says of each single job."""
        if self.children is None:
            yield self
            return
        for index in each(from_bytes(self.children)):
            yield replace(self, key=child_key(self.key, index), children=None)


def child_key(array: JobKey, index: int) -> JobKey:
    """Return the key of a child of an array."""
    return JobKey(array.namespace, JobId(f"{array.job_id}:{index}"))


@lru_cache(maxsize=8192)
def array_and_index(key: JobKey) -> tuple[JobKey, int] | None:
    """Return the array that a child's key belongs to, and the child's index; None for other keys."""
    array_id, _, index = key.job_id.rpartition(":")
    is_index = index.isascii() and index.isdigit() and len(index) <= _DIGITS_MAX and (index[0] != "0" or index == "0")
    return (JobKey(key.namespace, JobId(array_id)), int(index)) if array_id and is_index else None


def child_without_row(array: Job, index: int) -> Job | None:
    """Return a child as its array tells of it, or None if the child has a row or there is none of this index."""
    children = array.children
    state = children.state_without_row(index) if children is not None else None
    if children is None or state is None:
        return None
    was_stopped = bool(children.stopped >> index & 1)
    child = Job(*_values_of(array))
    child.key = child_key(array.key, index)
    child.sequence = array.sequence + 1 + index
    child.parent = array.sequence
    child.children = None
    child.created_at = children.created_at
    child.state = state
    child.version = VERSION_WITHOUT_ROW
    child.dependencies_left = 0
    child.runnable_at = children.runnable_at if state is JobState.RUNNABLE else None
    child.cancelled = was_stopped and array.cancelled
    child.terminated = was_stopped and not array.cancelled
    child.status_reason = child.stop_reason = child.stopped_at = child.ended_at = None
    if state is JobState.FAILED:
        child.status_reason = array.stop_reason if was_stopped else REASON_DEPENDENCY_FAILED
    return child


def job_ids(last: JobId | None, now_ms: Callable[[], int], random_bits: Callable[[int], int]) -> Callable[[], JobId]:
    """Return a maker of job ids: UUIDs of version 7, each greater than `last` and than all before it.

    Greater even when the clock was set back: then the number in the last id is counted on.
    """
    value = _payload(uuid.UUID(last)) if last else 0

    def make() -> JobId:
        nonlocal value
        value = max(value + 1, (now_ms() << 74) | random_bits(73))
        high, middle, low = value >> 74, (value >> 62) & 0xFFF, value & ((1 << 62) - 1)
        return JobId(str(uuid.UUID(int=(high << 80) | (0x7 << 76) | (middle << 64) | (0b10 << 62) | low)))

    return make


def _payload(job_id: uuid.UUID) -> int:
    """Return the 122 bits of a version 7 UUID that are not version or variant."""
    number = job_id.int
    return ((number >> 80) << 74) | (((number >> 64) & 0xFFF) << 62) | (number & ((1 << 62) - 1))
