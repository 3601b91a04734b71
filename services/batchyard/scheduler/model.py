"""The words in which the scheduler's core is told things and answers: plain values."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from batchyard.domain.arrays import Indices
from batchyard.domain.jobs import Fence, JobId, JobKey, child_key
from batchyard.domain.lines import NO_SHARE, order_of, rounded_time_limit


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


class LineKey(NamedTuple):
    """Names the jobs of a queue that are alike in all that deciding depends on."""

    queue: ResourceKey
    share: str
    need: Resources
    time_limit_s: int | None
    """An attempt is ended after so long at the latest; None: it may take as long as it likes."""


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
    share: str = NO_SHARE
    """Share identifier, in a queue with fair share."""
    priority: int = 0
    """Scheduling priority: within a share higher ones go first."""
    time_limit_s: int | None = None
    """Of an attempt."""

    @property
    def order(self) -> int:
        """Place among the jobs of its share: the lowest goes first."""
        return order_of(self.share, self.priority, self.sequence)

    @property
    def line(self) -> LineKey:
        """The line in which it stands."""
        queue = ResourceKey(self.key.namespace, self.job_queue)
        return LineKey(queue, self.share, self.need, rounded_time_limit(self.time_limit_s))


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
    share: str = NO_SHARE
    priority: int = 0
    time_limit_s: int | None = None

    @property
    def order(self) -> int:
        """The array's place among the jobs of its share; those of its children follow it."""
        return order_of(self.share, self.priority, self.sequence)

    @property
    def line(self) -> LineKey:
        """The line in which its children stand."""
        queue = ResourceKey(self.array.namespace, self.job_queue)
        return LineKey(queue, self.share, self.need, rounded_time_limit(self.time_limit_s))

    def child(self, index: int) -> QueuedJob:
        """Return one of them."""
        return QueuedJob(
            child_key(self.array, index),
            self.job_queue,
            self.sequence + 1 + index,
            self.need,
            self.version,
            self.share,
            self.priority,
            self.time_limit_s,
        )


@dataclass(frozen=True, slots=True)
class WaitingLine:
    """Jobs of a line that follow one after the other, as the job store has them."""

    line: LineKey
    after: int
    """The place after which they come; -1: they are the first."""
    jobs: tuple[tuple[int, JobId, int], ...]
    """Place, id and version of each, in order."""
    known_to: int | None
    """The place up to which these are all; None: no others follow."""


class LineRequest(NamedTuple):
    """A wish to know more jobs of a line."""

    line: LineKey
    after: int
    """The place up to which all are known."""
    limit: int


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
    job_queue: str = ""
    """Empty: not known."""
    share: str = NO_SHARE
    time_limit_s: int | None = None


@dataclass(frozen=True, slots=True)
class JobQueue:
    """A job queue, as far as order and place depend on it."""

    key: ResourceKey
    priority: int
    environments: tuple[str, ...]
    """Names of its compute environments, the one to be tried first in front."""
    policy: ResourceKey | None = None
    """Its scheduling policy; None: it is served in the order of submission."""


@dataclass(frozen=True, slots=True)
class SchedulingPolicy:
    """How the shares of a queue divide what it can use."""

    key: ResourceKey
    share_decay_s: int = 0
    compute_reservation: int = 0
    """Percent."""
    weights: tuple[tuple[str, float], ...] = ()
    """Share identifiers, those with a `*` at the end standing for all that begin so, and weight factors: with a lower
    one a share gets more."""


@dataclass(frozen=True, slots=True)
class ShareUse:
    """What a share has used of late."""

    queue: ResourceKey
    share: str
    used: float
    """vCPU seconds, those longer ago counting less."""
    ago_s: float = 0.0
    """When that was so."""


@dataclass(frozen=True, slots=True)
class ComputeEnvironment:
    """A compute environment: a ceiling, and a selector over agents."""

    key: ResourceKey
    enabled: bool
    valid: bool
    max_vcpus_milli: int | None
    """Ceiling over all runs in it; None for UNMANAGED ones, which have none."""
    unmanaged_vcpus_milli: int | None = None
    """What an UNMANAGED one is said to have: of that the share of a fair share queue's reserve is taken."""
    lease_s: float | None = None
    """Lease of the agents that serve it by name; None: that of all others."""

    @property
    def reserve_base_milli(self) -> int | None:
        """Of how much a part may be kept back for shares that are not active; None: nothing is."""
        return self.unmanaged_vcpus_milli if self.max_vcpus_milli is None else self.max_vcpus_milli

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
    share: str = NO_SHARE


@dataclass(frozen=True, slots=True)
class Plan:
    """What one look at the picture has decided."""

    offers: tuple[Offer, ...]
    wait_reasons: tuple[WaitReason, ...]
    next_deadline: float | None
    """When to plan again even if nothing happens until then; None: no need to."""
    share_uses: tuple[ShareUse, ...] = ()
    """What is to be kept of shares that have used something; 0: nothing any more."""
    line_requests: tuple[LineRequest, ...] = ()
    """Lines of which more must be known soon."""
