"""The words in which the scheduler's core is told things and answers: plain values."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from batchyard.domain.arrays import Indices
from batchyard.domain.jobs import Fence, JobKey, child_key


class Resources(NamedTuple):
    """An amount of what a host has: thousandths of a vCPU, MiB of memory, GPU devices."""

    vcpus_milli: int
    memory_mib: int
    gpus: int

    def fits_in(self, room: "Resources") -> bool:
        """Tell whether a host with this room could take this amount."""
        return self.vcpus_milli <= room.vcpus_milli and self.memory_mib <= room.memory_mib and self.gpus <= room.gpus

    def plus(self, other: "Resources") -> "Resources":
        """Return the sum, member by member."""
        return Resources(
            self.vcpus_milli + other.vcpus_milli, self.memory_mib + other.memory_mib, self.gpus + other.gpus
        )

    def minus(self, other: "Resources") -> "Resources":
        """Return the difference, member by member; it may be negative."""
        return Resources(
            self.vcpus_milli - other.vcpus_milli, self.memory_mib - other.memory_mib, self.gpus - other.gpus
        )


NOTHING = Resources(0, 0, 0)


def sum_of(amounts: Iterable[Resources]) -> Resources:
    """Return the sum of amounts, member by member."""
    return reduce(Resources.plus, amounts, NOTHING)


class ResourceKey(NamedTuple):
    """Names a job queue or a compute environment."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job that wants to be placed."""

    key: JobKey
    job_queue: str
    sequence: int
    """Place in the order of submission; a retried job keeps the one that it had."""
    need: Resources
    version: int
    """Names the state of the job that a proposal has seen."""


@dataclass(frozen=True, slots=True)
class QueuedChildren:
    """Children of an array that want to be placed."""

    array: JobKey
    job_queue: str
    sequence: int
    """The array's place in the order of submission; those of its children follow it."""
    need: Resources
    """Of each child, as is the member that follows."""
    version: int
    indices: Indices

    def child(self, index: int) -> QueuedJob:
        """Return one of them."""
        return QueuedJob(
            child_key(self.array, index), self.job_queue, self.sequence + 1 + index, self.need, self.version
        )


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run that takes up room: offered, claimed or started."""

    fence: Fence
    job: JobKey
    agent_id: str
    environment: str
    need: Resources
    claimed: bool = True
    """Whether its agent is known to have taken it up."""


@dataclass(frozen=True, slots=True)
class JobQueue:
    """A job queue, as far as order and place depend on it."""

    key: ResourceKey
    priority: int
    environments: tuple[str, ...]
    """Names of its compute environments, the one to be tried first in front."""


@dataclass(frozen=True, slots=True)
class ComputeEnvironment:
    """A compute environment: a ceiling, and a selector over agents."""

    key: ResourceKey
    enabled: bool
    valid: bool
    max_vcpus_milli: int | None
    """Ceiling over all runs in it; None for UNMANAGED ones, which have none."""

    @property
    def usable(self) -> bool:
        """Whether new jobs may be placed in it."""
        return self.enabled and self.valid

    def may_ever_hold(self, need: Resources) -> bool:
        """Tell whether its ceiling leaves room for one such job when nothing else runs in it."""
        return self.max_vcpus_milli is None or need.vcpus_milli <= self.max_vcpus_milli


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent that has joined."""

    agent_id: str
    incarnation: int
    capacity: Resources
    environments: tuple[str, ...] = ()
    """Names of the compute environments that it serves, in all namespaces; empty: all."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A decision: this job, on this agent, in this compute environment."""

    job: JobKey
    version: int
    agent_id: str
    incarnation: int
    environment: str


@dataclass(frozen=True, slots=True)
class WaitReason:
    """Why the jobs of a line wait, in words for their status reason."""

    queue: ResourceKey
    need: Resources
    reason: str
    """Empty: they do not any more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one look at the picture has decided."""

    offers: tuple[Offer, ...]
    wait_reasons: tuple[WaitReason, ...]
    next_deadline: float | None
    """When to plan again even if nothing happens until then; None: no need to."""
