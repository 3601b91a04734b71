"""The scheduler's core: told what happens, it answers which job runs next, and on which agent.

It keeps a picture, and looks again only at what an event has changed. `plan` is the only place that is told the time,
and everything that it decides follows from the events and those times alone.

Order: queues by priority, equal ones in turn; within a queue by submission. A job that does not fit is passed by later
and smaller ones until it has waited for a bound; then room is held for it (see `holds`). Jobs that are over in
milliseconds are offered beyond the room that there is (see `feeding`).
"""

from collections.abc import Iterator
from math import inf

from batchyard.domain.compat import Compat
from batchyard.domain.jobs import Fence, JobKey
from batchyard.scheduler.alarms import Alarms
from batchyard.scheduler.environments import Environment, Environments
from batchyard.scheduler.feeding import Ahead, Durations, Shape
from batchyard.scheduler.holds import Holds
from batchyard.scheduler.hosts import Host, Hosts, HostUse
from batchyard.scheduler.lines import Entry, Line, Queue
from batchyard.scheduler.model import (
    Agent,
    ComputeEnvironment,
    HeldRun,
    JobQueue,
    Offer,
    Plan,
    QueuedChildren,
    QueuedJob,
    ResourceKey,
    Resources,
)
from batchyard.scheduler.waiting import Waiting


class _Placement:
    """A job that takes up room, or is fed ahead: proposed, or held under a fence."""

    __slots__ = ("agent_id", "environment", "job", "need", "queue", "requeued")

    def __init__(
        self, job: JobKey, agent_id: str, environment: ResourceKey, need: Resources, queue: ResourceKey | None
    ) -> None:
        self.job = job
        self.agent_id = agent_id
        self.environment = environment
        self.need = need
        self.queue = queue
        """None for a run that is not of this planner's making."""
        self.requeued: QueuedJob | None = None
        """The job as it became while the proposal was under way."""


class Planner:
    """The picture of queues, jobs, agents and runs, and the decisions that follow from it."""

    def __init__(
        self, *, compat: Compat = Compat.SEED, starvation_bound_s: float = 300.0, reason_delay_s: float = 1.0
    ) -> None:
        self._hosts = Hosts()
        self._environments = Environments()
        self._holds = Holds(self._hosts, self._environments)
        self._waiting = Waiting(self._environments, self._holds, compat)
        self._alarms = Alarms(
            self._hosts,
            self._environments,
            self._holds,
            starvation_bound_s=starvation_bound_s,
            reason_delay_s=reason_delay_s,
        )
        self._durations = Durations()
        self._ahead: Ahead[_Placement] = Ahead()
        self._hungry: dict[str, None] = {}
        """Agents that have got swift jobs done and have little ahead."""
        self._proposed: dict[JobKey, _Placement] = {}
        self._runs: dict[Fence, _Placement] = {}
        self._ended_early: set[Fence] = set()
        """Runs of which the end was told before their beginning."""
        self._open: list[Line | None] = [None]
        """While planning: for whom hosts may be held and still be offered to the line that is looked at."""
        self._closed: set[Line] = set()
        """While planning: holders that have had their chance; what they hold is closed to all that comes after."""
        self.looks = 0
        """How often a job was held against the hosts: what planning has cost so far."""

    # Resources

    def put_environment(self, spec: ComputeEnvironment) -> None:
        """Take in a compute environment, or what has changed of it."""
        self._environments.put(spec)
        self._waiting.environment_changed(spec.key)
        self._structure_changed()

    def drop_environment(self, key: ResourceKey) -> None:
        """Forget a compute environment; what runs in it goes on."""
        self._environments.drop(key)
        self._waiting.environment_changed(key)
        self._structure_changed()

    def put_queue(self, spec: JobQueue) -> None:
        """Take in a job queue, or what has changed of it."""
        self._waiting.put_queue(spec)
        self._structure_changed()

    def drop_queue(self, key: ResourceKey) -> None:
        """Forget a job queue; jobs that name it wait."""
        self._waiting.drop_queue(key)
        self._structure_changed()

    # Jobs

    def queue_job(self, job: QueuedJob) -> None:
        """Take in a job that wants to be placed, or its newer version."""
        proposed = self._proposed.get(job.key)
        if proposed is not None:
            proposed.requeued = job
        else:
            self._waiting.add(job)

    def queue_children(self, children: QueuedChildren) -> None:
        """Take in children of an array that want to be placed, in addition to those of it that wait already.

        None of them is proposed: the store tells of a child that it may be placed once, and again after a refusal.
        """
        self._waiting.add_children(children)

    def withdraw_job(self, key: JobKey) -> None:
        """Forget a job that is not to be placed any more; one whose proposal is under way is left to its outcome.

        An array stands for all its children that have never been offered.
        """
        proposed = self._proposed.get(key)
        if proposed is not None:
            proposed.requeued = None
        else:
            self._waiting.withdraw(key)

    def forget_jobs(self) -> None:
        """Forget all jobs and runs, but not where they could run: a new snapshot of them follows."""
        self._holds.relieve_all()
        self._refresh_holds()
        self._waiting.forget_jobs()
        self._alarms.forget()
        self._proposed.clear()
        self._runs.clear()
        self._ahead.clear()
        self._hungry.clear()
        self._ended_early.clear()
        self._hosts.discharge_all()
        self._environments.discharge_all()

    # Agents

    def agent_joined(self, agent: Agent) -> None:
        """Let an agent take jobs, with what it has and serves as of now."""
        self._waiting.wake_for_host(self._hosts.join(agent))
        self._structure_changed()

    def agent_suspended(self, agent_id: str) -> None:
        """Place nothing more on an agent, which may come back."""
        host = self._hosts.get(agent_id)
        if host is not None and host.open:
            self._hosts.close(host)
            self._structure_changed()

    def agent_resumed(self, agent_id: str) -> None:
        """Place jobs on a suspended agent again."""
        host = self._hosts.get(agent_id)
        if host is not None and not host.open and host.capacity is not None:
            self._hosts.reopen(host)
            self._waiting.wake_for_host(host)
            self._structure_changed()

    def agent_drained(self, agent_id: str) -> None:
        """Place nothing more on an agent, known or not, nor count on it, until `agent_undrained`."""
        self._hosts.drain(agent_id)
        self._structure_changed()

    def agent_undrained(self, agent_id: str) -> None:
        """Count on an agent again, and place jobs on it when it joins or is resumed."""
        self._hosts.undrain(agent_id)
        self._structure_changed()

    def agent_gone(self, agent_id: str) -> None:
        """Forget an agent; its runs are forgotten as each of them ends."""
        self._hosts.leave(agent_id)
        self._structure_changed()

    def jobs_on(self, agent_id: str) -> Iterator[JobKey]:
        """Yield the jobs that are offered to an agent or run on it; costs as much as there are runs anywhere."""
        return (placement.job for placement in self._runs.values() if placement.agent_id == agent_id)

    def use_of(self, agent_id: str) -> HostUse:
        """Return how much of an agent's host is taken by proposals and runs; what it has ahead counts as runs."""
        use = self._hosts.use_of(agent_id)
        return HostUse(use.used, use.runs + self._ahead.count(agent_id))

    # Runs

    def offer_accepted(self, job: JobKey, fence: Fence) -> bool:
        """Note that a proposal has become an offer; return False if it has ended already."""
        placement = self._proposed.pop(job, None)
        if placement is None:
            return False
        if fence in self._ended_early:
            self._ended_early.discard(fence)
            self._discharge(placement)
            return False
        self._runs[fence] = placement
        return True

    def holds_run(self, fence: Fence) -> bool:
        """Tell whether a run takes up room."""
        return fence in self._runs

    def offer_refused(self, job: JobKey, *, not_there: str = "") -> None:
        """Give back the room of a proposal; the job waits again only if it was queued again.

        `not_there` says why nothing of its queue may be placed in its environment, if that is so: then nothing is for a
        while, since the store and this planner have different news of them.
        """
        placement = self._proposed.pop(job, None)
        if placement is not None:
            if not_there and placement.queue is not None:
                self._environments.pause(placement.environment, placement.queue, not_there)
            self._discharge(placement)
            if placement.requeued is not None:
                self._waiting.add(placement.requeued)

    def run_held(self, run: HeldRun) -> None:
        """Take in a run that is not of this planner's making."""
        if run.fence not in self._runs:
            environment = ResourceKey(run.job.namespace, run.environment)
            self._runs[run.fence] = placement = _Placement(run.job, run.agent_id, environment, run.need, None)
            host = self._hosts.get(run.agent_id)
            is_ahead = (
                not run.claimed and host is not None and host.capacity is not None and not run.need.fits_in(host.room)
            )
            self._charge(placement, ahead=is_ahead)

    def run_ended(self, fence: Fence, ran_for_ms: int | None = None) -> None:
        """Give back the room of a run, which may not have been told yet; None if it never started."""
        placement = self._runs.pop(fence, None)
        if placement is None:
            self._ended_early.add(fence)
            return
        self._discharge(placement)
        if ran_for_ms is not None and placement.queue is not None:
            self._learn(placement.agent_id, (placement.queue, placement.need), ran_for_ms)

    def _charge(self, placement: _Placement, *, ahead: bool) -> None:
        """Take room; what is fed ahead takes it only below the ceiling, until its agent claims it."""
        self._environments.charge(placement.environment, placement.need.vcpus_milli)
        if ahead:
            self._ahead.add(placement)
        else:
            self._hosts.charge(placement.agent_id, placement.need)

    def _discharge(self, placement: _Placement) -> None:
        environment = self._environments.discharge(placement.environment, placement.need.vcpus_milli)
        if not self._ahead.remove(placement):
            host = self._hosts.discharge(placement.agent_id, placement.need)
            while (claimed := self._ahead.next_fitting(host)) is not None:
                host = self._hosts.charge(claimed.agent_id, claimed.need)
            self._waiting.wake_for_host(host)
        self._waiting.wake_for_ceiling(environment)

    def _learn(self, agent_id: str, shape: Shape, ran_for_ms: int) -> None:
        """Take in how long a job took; if such jobs are swift and their agent has few ahead, have more looked at."""
        self._durations.learn(shape, ran_for_ms)
        host = self._hosts.get(agent_id)
        if host is None or host.capacity is None:
            return
        if 2 * self._ahead.count(agent_id) < self._durations.ahead_of(shape, host.capacity):
            self._hungry[agent_id] = None
            self._waiting.wake_shape(shape)

    # Decisions

    def plan(self, now: float, *, offers_max: int | None = None) -> Plan:
        """Decide what can be decided now; what is offered takes up room at once.

        `now` is in seconds and never goes back. The plan says when to plan again if nothing happens until then: at
        once, if it stopped short at `offers_max` offers.
        """
        self._alarms.ring(now)
        for environment in self._environments.resume(now):
            self._waiting.wake_for_ceiling(environment)
        offers: list[Offer] = []
        self._closed.clear()
        self._refresh_holds()
        self._open_holds()
        limit = inf if offers_max is None else offers_max
        for item in self._waiting.agenda():
            if isinstance(item, Line):
                self._serve_holder(item, now, offers, limit)
            else:
                self._serve_queue(item, now, offers)
            if len(offers) >= limit:
                return Plan(tuple(offers), (), now)
        reasons = [*self._waiting.take_withdrawn_reasons(), *self._alarms.report(now, self._waiting.parked())]
        deadlines = (self._alarms.next_deadline(), self._environments.next_deadline())
        next_deadline = min((deadline for deadline in deadlines if deadline is not None), default=None)
        return Plan(tuple(offers), tuple(reasons), next_deadline)

    def _serve_holder(self, holder: Line, now: float, offers: list[Offer], limit: float) -> None:
        """Try what stands ahead of a holder in its queue, then its own head; then close what it holds."""
        while holder in self._open and len(offers) < limit:
            head, ready = holder.head(), holder.queue.next_ready()
            if head is None or ready is None or ready[1][0] > head[0]:
                self._closed.add(holder)
                self._open.remove(holder)
            else:
                self._try(*ready, now, offers)

    def _serve_queue(self, queue: Queue, now: float, offers: list[Offer]) -> None:
        """Place one job of a queue, the first that fits."""
        while (ready := queue.next_ready()) is not None:
            if self._try(*ready, now, offers):
                break
        self._waiting.put_back(queue)

    def _try(self, line: Line, head: Entry, now: float, offers: list[Offer]) -> bool:
        """Place the head of a line, or park the line."""
        self.looks += 1
        short_of_hosts: list[str] = []
        short_of_ceiling: list[Environment] = []
        namespace = line.queue.key.namespace
        for name in line.queue.environments:
            environment = self._environments.get(ResourceKey(namespace, name))
            if environment is None or environment.spec is None or not environment.spec.usable:
                continue
            if line.queue.key in environment.paused or not self._is_below_ceiling(environment, line.need):
                short_of_ceiling.append(environment)
                continue
            host = self._hosts.tightest(name, line.need, self._open)
            if host is None:
                short_of_hosts.append(name)
                continue
            offers.append(self._place(line, head, host, environment, ahead=False))
            return True
        for name in short_of_hosts:
            environment = self._environments.get(ResourceKey(namespace, name))
            host = self._hungry_host(line, name)
            if environment is not None and host is not None:
                offers.append(self._place(line, head, host, environment, ahead=True))
                return True
        self._park(line, now, tuple(short_of_hosts), short_of_ceiling)
        return False

    def _is_below_ceiling(self, environment: Environment, need: Resources) -> bool:
        room = environment.room_milli
        if room is None:
            return True
        holder = environment.holder
        held = holder.need.vcpus_milli if holder is not None and holder in self._closed else 0
        return need.vcpus_milli <= room - held

    def _hungry_host(self, line: Line, environment: str) -> Host | None:
        """Return a host without room that is to be fed ahead from this line, or None."""
        shape = (line.queue.key, line.need)
        if not self._durations.is_swift(shape):
            return None
        while (agent_id := next(iter(self._hungry), None)) is not None:
            host = self._hosts.get(agent_id)
            if (
                host is not None
                and host.capacity is not None
                and host.open
                and host.holder is None
                and host.serves(environment)
                and line.need.fits_in(host.capacity)
                and self._ahead.count(agent_id) < self._durations.ahead_of(shape, host.capacity)
                and not self._waiting.is_contested(host, line)
            ):
                return host
            # The next swift job that it gets done makes it hungry again.
            del self._hungry[agent_id]
        return None

    def _place(self, line: Line, head: Entry, host: Host, environment: Environment, *, ahead: bool) -> Offer:
        job = JobKey(line.queue.key.namespace, head[1])
        placement = _Placement(job, host.agent_id, environment.key, line.need, line.queue.key)
        self._proposed[job] = placement
        self._charge(placement, ahead=ahead)
        self._waiting.take(line)
        self._refresh_holds()
        return Offer(job, head[2], host.agent_id, host.incarnation, environment.key.name)

    def _park(
        self, line: Line, now: float, short_of_hosts: tuple[str, ...], short_of_ceiling: list[Environment]
    ) -> None:
        is_news = line.starving and short_of_hosts != line.short_of_hosts
        self._waiting.park(line, short_of_hosts, short_of_ceiling)
        if line.blocked_since is None:
            line.blocked_since = now
        self._alarms.arm(line)
        if is_news:
            self._holds.invalidate()
            self._refresh_holds()

    def sanity_check(self) -> None:
        """Assert that the picture agrees with itself; costs as much as it holds."""
        placements = [*self._proposed.values(), *self._runs.values()]
        taken_of_hosts: dict[str, list[Resources]] = {}
        taken_of_environments: dict[ResourceKey, list[Resources]] = {}
        for placement in placements:
            assert not self._waiting.holds(placement.job), f"{placement.job} is placed and waits"
            if not self._ahead.contains(placement):
                taken_of_hosts.setdefault(placement.agent_id, []).append(placement.need)
            taken_of_environments.setdefault(placement.environment, []).append(placement.need)
        self._hosts.sanity_check(taken_of_hosts)
        self._environments.sanity_check(taken_of_environments)
        self._waiting.sanity_check()

    # Holds

    def _structure_changed(self) -> None:
        self._holds.invalidate()
        self._alarms.structure_changed()

    def _refresh_holds(self) -> None:
        """Bring the holds up to date, and have those lines looked at for which room has become free by it."""
        # A starving line that is woken by this claims all that it could use, so that the holds change again.
        while self._holds.is_stale:
            released = self._holds.refresh()
            for host in released.hosts:
                self._waiting.wake_for_host(host)
            for environment in released.environments:
                self._waiting.wake_for_ceiling(environment)
            self._open_holds()

    def _open_holds(self) -> None:
        """Begin to plan with the holders that have not had their chance."""
        self._open = [None]
        for holder in self._holds.holders:
            if holder not in self._closed:
                self._open.append(holder)
                self._waiting.put_holder_on_agenda(holder)
