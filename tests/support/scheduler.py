"""Builders and an independent model of the scheduler's rules."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from batchyard.domain.arrays import only
from batchyard.domain.jobs import JobId, JobKey
from batchyard.scheduler.model import (
    NOTHING,
    Agent,
    ComputeEnvironment,
    JobQueue,
    Offer,
    QueuedChildren,
    QueuedJob,
    ResourceKey,
    Resources,
    SchedulingPolicy,
)

NAMESPACE = "123456789012"


def need(vcpus: float = 1, memory_mib: int = 128, gpus: int = 0) -> Resources:
    return Resources(int(vcpus * 1000), memory_mib, gpus)


def job_key(job_id: str, namespace: str = NAMESPACE) -> JobKey:
    return JobKey(namespace, JobId(job_id))


def a_job(
    job_id: str,
    *,
    sequence: int,
    queue: str = "default",
    vcpus: float = 1,
    memory_mib: int = 128,
    gpus: int = 0,
    version: int = 1,
    namespace: str = NAMESPACE,
    share: str = "",
    priority: int = 0,
    time_limit_s: int | None = None,
) -> QueuedJob:
    return QueuedJob(
        JobKey(namespace, JobId(job_id)),
        queue,
        sequence,
        need(vcpus, memory_mib, gpus),
        version,
        share,
        priority,
        time_limit_s,
    )


def an_array(
    job_id: str,
    indices: Iterable[int],
    *,
    sequence: int,
    queue: str = "default",
    vcpus: float = 1,
    share: str = "",
    priority: int = 0,
) -> QueuedChildren:
    members = sum(only(index) for index in indices)
    return QueuedChildren(JobKey(NAMESPACE, JobId(job_id)), queue, sequence, need(vcpus), 1, members, share, priority)


def a_queue(
    name: str = "default",
    *,
    priority: int = 1,
    environments: tuple[str, ...] = ("default",),
    namespace: str = NAMESPACE,
    policy: str | None = None,
) -> JobQueue:
    policy_key = ResourceKey(namespace, policy) if policy is not None else None
    return JobQueue(ResourceKey(namespace, name), priority, environments, policy_key)


def a_policy(
    name: str = "policy", *, decay_s: int = 0, reservation: int = 0, weights: dict[str, float] | None = None
) -> SchedulingPolicy:
    return SchedulingPolicy(ResourceKey(NAMESPACE, name), decay_s, reservation, tuple((weights or {}).items()))


def an_environment(
    name: str = "default",
    *,
    max_vcpus: int | None = None,
    enabled: bool = True,
    valid: bool = True,
    namespace: str = NAMESPACE,
    unmanaged_vcpus: int | None = None,
) -> ComputeEnvironment:
    ceiling = None if max_vcpus is None else max_vcpus * 1000
    size = None if unmanaged_vcpus is None else unmanaged_vcpus * 1000
    return ComputeEnvironment(ResourceKey(namespace, name), enabled, valid, ceiling, size)


def an_agent(
    agent_id: str = "agent",
    *,
    vcpus: float = 4,
    memory_mib: int = 4096,
    gpus: int = 0,
    environments: tuple[str, ...] = (),
    incarnation: int = 1,
) -> Agent:
    return Agent(agent_id, incarnation, need(vcpus, memory_mib, gpus), environments)


@dataclass
class Taken:
    """A job that the model believes to take up room."""

    agent_id: str
    environment: ResourceKey
    need: Resources


@dataclass
class Model:
    """The rules again, as simply as they can be written: everything is computed from scratch each time."""

    starvation_bound_s: float
    agents: dict[str, Agent] = field(default_factory=dict)
    suspended: set[str] = field(default_factory=set)
    drained: set[str] = field(default_factory=set)
    environments: dict[str, ComputeEnvironment] = field(default_factory=dict)
    queues: dict[str, JobQueue] = field(default_factory=dict)
    waiting: dict[str, QueuedJob] = field(default_factory=dict)
    taken: dict[str, Taken] = field(default_factory=dict)
    held: dict[str, JobKey] = field(default_factory=dict)
    """For which job the room of an agent is held: taken over, for which of several it is is not a rule of the model."""
    blocked_since: dict[tuple[str, Resources], float] = field(default_factory=dict)
    """Per line: since when its head is known not to fit."""

    def room_of(self, agent: Agent) -> Resources:
        room = agent.capacity
        for taken in self.taken.values():
            if taken.agent_id == agent.agent_id:
                room = room.minus(taken.need)
        return room

    def room_below_ceiling(self, name: str) -> int | None:
        environment = self.environments[name]
        if environment.max_vcpus_milli is None:
            return None
        used = sum(taken.need.vcpus_milli for taken in self.taken.values() if taken.environment == environment.key)
        return environment.max_vcpus_milli - used

    def open_agents(self, environment: str) -> list[Agent]:
        return [
            agent
            for agent in self.agents.values()
            if agent.agent_id not in self.suspended | self.drained
            and (not agent.environments or environment in agent.environments)
        ]

    def placements(self, job: QueuedJob, now: float) -> list[tuple[str, list[Agent]]]:
        """Return the environments in which a job may be placed now, in order, each with the agents that may take it."""
        queue = self.queues.get(job.job_queue)
        found = []
        for name in queue.environments if queue else ():
            environment = self.environments.get(name)
            if environment is None or not environment.usable:
                continue
            below = self.room_below_ceiling(name)
            if below is not None and below < job.need.vcpus_milli:
                continue
            agents = [
                agent
                for agent in self.open_agents(name)
                if job.need.fits_in(self.room_of(agent)) and not self.is_kept_out(job, agent)
            ]
            if agents:
                found.append((name, agents))
        return found

    def is_starving(self, job: QueuedJob, now: float) -> bool:
        since = self.blocked_since.get((job.job_queue, job.need))
        return since is not None and since + self.starvation_bound_s <= now and self.heads().get(_line(job)) == job

    def heads(self) -> dict[tuple[str, Resources], QueuedJob]:
        """Return the first waiting job of each line."""
        heads: dict[tuple[str, Resources], QueuedJob] = {}
        for job in sorted(self.waiting.values(), key=lambda job: job.sequence):
            heads.setdefault(_line(job), job)
        return heads

    def leave_line(self, job_id: str) -> QueuedJob | None:
        """Take a job out of its line, if it waits; the wait of the one behind a head begins anew."""
        job = self.waiting.get(job_id)
        if job is not None:
            if self.heads()[_line(job)] == job:
                self.blocked_since.pop(_line(job), None)
            del self.waiting[job_id]
        return job

    def could_be_held_for(self, job: QueuedJob, agent: Agent, now: float) -> bool:
        """Return whether an agent's room may be held for a job. Without ceilings only."""
        return (
            self.is_starving(job, now)
            and job.job_queue in self.queues
            and job.need.fits_in(agent.capacity)
            and any(
                name in self.environments and self.environments[name].usable and agent in self.open_agents(name)
                for name in self.queues[job.job_queue].environments
            )
        )

    def check_holds(self, now: float) -> None:
        """Assert that agents are held for those that have waited too long, for nobody else, and that none is forgotten.

        The jobs that have waited too long come in their order, and the first of each queue has an agent, unless those
        before it have all that it could use.
        """
        firsts: dict[str, QueuedJob] = {}
        for job in sorted(self.waiting.values(), key=lambda job: job.sequence):
            if job.job_queue in self.queues and self.is_starving(job, now):
                firsts.setdefault(job.job_queue, job)
        order = sorted(firsts.values(), key=lambda job: (self.queues[job.job_queue].priority, job.sequence))
        place = {job.key: position for position, job in enumerate(order)}
        for agent_id, holder in self.held.items():
            assert holder in place
            assert self.could_be_held_for(self.waiting[holder.job_id], self.agents[agent_id], now)
        for job in order:
            usable = [agent for agent in self.agents.values() if self.could_be_held_for(job, agent, now)]
            if usable and job.key not in self.held.values():
                holders = [self.held.get(agent.agent_id) for agent in usable]
                assert all(holder is not None and place[holder] < place[job.key] for holder in holders), job

    def is_kept_out(self, job: QueuedJob, agent: Agent) -> bool:
        holder_key = self.held.get(agent.agent_id)
        if holder_key is None or holder_key == job.key:
            return False
        holder = self.waiting[holder_key.job_id]
        rank, holder_rank = self.queues[job.job_queue].priority, self.queues[holder.job_queue].priority
        if rank != holder_rank:
            return rank > holder_rank
        return holder.job_queue != job.job_queue or holder.sequence < job.sequence

    def goes_before(self, one: QueuedJob, other: QueuedJob) -> bool:
        """Tell whether the first of two jobs must be placed first if both can be."""
        if one.job_queue == other.job_queue:
            return one.sequence < other.sequence
        return self.queues[one.job_queue].priority < self.queues[other.job_queue].priority

    def check_offer(self, offer: Offer, now: float) -> None:
        """Assert that an offer is what the rules demand, then take the room."""
        job = self.waiting[offer.job.job_id]
        assert offer.version == job.version
        placements = self.placements(job, now)
        assert placements, f"{job} has no room anywhere"
        name, agents = placements[0]
        assert offer.environment == name, f"{job} belongs into {name}"
        tightest = min(agents, key=lambda agent: _tightness(self.room_of(agent), agent.agent_id))
        assert offer.agent_id == tightest.agent_id
        assert offer.incarnation == tightest.incarnation
        for other in self.waiting.values():
            if other.job_queue in self.queues and self.goes_before(other, job):
                assert not self.placements(other, now), f"{other} goes before {job}"
        self.leave_line(offer.job.job_id)
        self.taken[offer.job.job_id] = Taken(offer.agent_id, ResourceKey(NAMESPACE, name), job.need)

    def check_nothing_left(self, now: float) -> None:
        """Assert that no waiting job has room, and note for how long the heads of lines have waited."""
        for job in self.waiting.values():
            assert not self.placements(job, now), f"{job} was left waiting"
        for line in self.heads():
            self.blocked_since.setdefault(line, now)

    def used(self, agent_id: str) -> Resources:
        used = NOTHING
        for taken in self.taken.values():
            if taken.agent_id == agent_id:
                used = used.plus(taken.need)
        return used


def _line(job: QueuedJob) -> tuple[str, Resources]:
    return (job.job_queue, job.need)


def _tightness(room: Resources, agent_id: str) -> tuple[int, int, int, str]:
    return (room.gpus, room.vcpus_milli, room.memory_mib, agent_id)
