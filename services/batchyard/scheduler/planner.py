"""The scheduler's core: told what happens, it answers which job runs next, and on which agent.

It keeps a picture, and looks again only at what an event has changed. `plan` is the only place that is told the time,
and everything that it decides follows from the events and those times alone.

Order: queues by priority, equal ones in turn; within a queue by submission, or by what its shares have used of late
(see `fairshare`). A job that does not fit is passed by later and smaller ones until it has waited for a bound; then
room is held for it (see `holds`). Jobs that are over in milliseconds are offered beyond the room that there is (see
`feeding`).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from math import inf
from typing import Final

from batchyard.domain.compat import Compat
from batchyard.domain.jobs import Fence, JobId, JobKey
from batchyard.scheduler.alarms import Alarms
from batchyard.scheduler.backfill import ends_by, may_take
from batchyard.scheduler.ceilings import lets_in
from batchyard.scheduler.environments import Environment, Environments
from batchyard.scheduler.feeding import Ahead, Durations
from batchyard.scheduler.holds import Holds, is_behind
from batchyard.scheduler.hosts import Host, Hosts, HostUse
from batchyard.scheduler.lines import NOT_KNOWN, Entry, Line
from batchyard.scheduler.model import (
    Agent,
    ComputeEnvironment,
    HeldRun,
    JobQueue,
    LineKey,
    Offer,
    Plan,
    QueuedChildren,
    QueuedJob,
    ResourceKey,
    Resources,
    SchedulingPolicy,
    ShareUse,
    WaitingLine,
)
from batchyard.scheduler.placements import Placement
from batchyard.scheduler.queues import Queue
from batchyard.scheduler.usage import Usage
from batchyard.scheduler.waiting import Waiting

BACKFILL_HOSTS: Final = 64
"""So many of the hosts that are held for others are looked at for one job."""


class Planner:
    """The picture of queues, jobs, agents and runs, and the decisions that follow from it."""

    def __init__(
        self,
        *,
        compat: Compat = Compat.SEED,
        starvation_bound_s: float = 300.0,
        reason_delay_s: float = 1.0,
        jobs_a_line: int | None = None,
    ) -> None:
        """With `jobs_a_line`, know some more than so many jobs of each line at most, and ask for others in time."""
        self._hosts = Hosts()
        self._environments = Environments()
        self._holds = Holds(self._hosts, self._environments)
        self._waiting = Waiting(self._environments, self._holds, compat, jobs_a_line)
        self._alarms = Alarms(
            self._hosts,
            self._environments,
            self._holds,
            starvation_bound_s=starvation_bound_s,
            reason_delay_s=reason_delay_s,
        )
        self._usage = Usage()
        self._durations = Durations()
        self._ahead: Ahead[Placement] = Ahead()
        self._hungry: dict[str, None] = {}
        """Agents that have got swift jobs done and have little ahead."""
        self._proposed: dict[JobKey, Placement] = {}
        self._runs: dict[Fence, Placement] = {}
        self._ended_early: set[Fence] = set()
        """Runs of which the end was told before their beginning."""
        self._is_stalled = False
        """Whether the latest plan came to where jobs wait that are not known yet."""
        self._now = 0.0
        """Of the latest plan."""
        self._found: list[Placement] = []
        """Runs that a snapshot told of since the latest plan: how long they may take counts from the next."""
        self.use_changed: Callable[[str], None] | None = None
        """Is told the id of an agent when something is placed on it or has ended there; None: nobody wants to know."""
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

    @property
    def environments(self) -> Environments:
        """What is known of compute environments."""
        return self._environments

    def hold_back(self, reason: str) -> None:
        """Place nothing, and tell this of all jobs that wait, until told so with no reason."""
        if reason != self._environments.held_back:
            self._environments.held_back = reason
            for environment in self._environments:
                self._waiting.environment_changed(environment.key)
            self._structure_changed()

    def put_queue(self, spec: JobQueue) -> None:
        """Take in a job queue, or what has changed of it."""
        queue = self._waiting.put_queue(spec)
        self._policy_changed([queue])

    def drop_queue(self, key: ResourceKey) -> None:
        """Forget a job queue; jobs that name it wait."""
        self._waiting.drop_queue(key)
        self._structure_changed()

    def put_policy(self, policy: SchedulingPolicy) -> None:
        """Take in a scheduling policy, or what has changed of it; what shares have used is kept."""
        self._policy_changed(self._waiting.put_policy(policy))

    def drop_policy(self, key: ResourceKey) -> None:
        """Forget a scheduling policy; queues that name it go on with equal shares."""
        self._policy_changed(self._waiting.drop_policy(key))

    def _policy_changed(self, queues: list[Queue]) -> None:
        for queue in queues:
            self._usage.policies_changed(queue.shares.values())
        self._structure_changed()

    # Jobs

    def queue_job(self, job: QueuedJob) -> None:
        """Take in a job that wants to be placed, or its newer version."""
        proposed = self._proposed.get(job.key)
        if proposed is not None:
            proposed.requeued = job
        else:
            self._waiting.add(job)

    def queue_part(self, part: WaitingLine) -> None:
        """Take in jobs of a line that follow one after the other: its first, or what a plan has asked for."""
        if self._proposed:
            # Of these the outcome is told: a refused one is queued again.
            namespace = part.line.queue.namespace
            waiting = tuple(job for job in part.jobs if JobKey(namespace, job[1]) not in self._proposed)
            if len(waiting) < len(part.jobs):
                part = replace(part, jobs=waiting)
        self._waiting.add_part(part)

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
        if self.use_changed is not None:
            for placement in (*self._proposed.values(), *self._runs.values()):
                self.use_changed(placement.agent_id)
        self._holds.relieve_all()
        self._refresh_holds()
        self._waiting.forget_jobs()
        self._usage.forget()
        self._alarms.forget()
        self._proposed.clear()
        self._runs.clear()
        self._ahead.clear()
        self._hungry.clear()
        self._ended_early.clear()
        self._hosts.discharge_all()
        self._environments.discharge_all()

    def share_used(self, use: ShareUse) -> None:
        """Take in what a share has used before any of its runs that are known here."""
        self._usage.remember(self._waiting.share(use.queue, use.share), use.used, use.ago_s)

    def front(self, queue: ResourceKey, now: float, limit: int) -> list[JobId]:
        """Return the first jobs that wait in a queue, in the order in which they will be placed."""
        known = self._waiting.queue(queue)
        self._usage.settle(max(now, self._now))
        return [] if known is None else known.front(max(now, self._now), limit)

    # Agents

    def agent_joined(self, agent: Agent) -> None:
        """Let an agent take jobs, with what it has and serves as of now."""
        self._waiting.host_has_room(self._hosts.join(agent))
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
            self._waiting.host_has_room(host)
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

    def held_for(self, agent_id: str) -> JobKey | None:
        """Return the job for which room is held on an agent, or None."""
        host = self._hosts.get(agent_id)
        return host.holder.head_key() if host is not None and host.holder is not None else None

    def jobs_on(self, agent_id: str) -> Iterator[JobKey]:
        """Yield the jobs that `use_of` counts as an agent's runs."""
        host = self._hosts.get(agent_id)
        yield from (run.job for run in (host.runs if host is not None else ()))
        yield from (placement.job for placement in self._ahead.of(agent_id))

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
            if not_there and placement.share is not None:
                self._environments.pause(placement.environment, placement.share.queue.key, not_there)
            self._discharge(placement)
            if placement.requeued is not None:
                self._waiting.add(placement.requeued)

    def run_held(self, run: HeldRun) -> None:
        """Take in a run that is not of this planner's making."""
        if run.fence not in self._runs:
            environment = ResourceKey(run.job.namespace, run.environment)
            queue = ResourceKey(run.job.namespace, run.job_queue)
            share = self._waiting.share(queue, run.share) if run.job_queue else None
            placement = Placement(run.job, run.agent_id, environment, run.need, share, run.time_limit_s)
            self._runs[run.fence] = placement
            host = self._hosts.get(run.agent_id)
            is_ahead = (
                not run.claimed and host is not None and host.capacity is not None and not run.need.fits_in(host.room)
            )
            self._charge(placement, ahead=is_ahead)
            if run.time_limit_s is not None:
                self._found.append(placement)

    def run_ended(self, fence: Fence, ran_for_ms: int | None = None) -> None:
        """Give back the room of a run, which may not have been told yet; None if it never started."""
        placement = self._runs.pop(fence, None)
        if placement is None:
            self._ended_early.add(fence)
            return
        self._discharge(placement)
        if ran_for_ms is not None and placement.share is not None:
            self._learn(placement.agent_id, placement.line(placement.share), ran_for_ms)

    def _charge(self, placement: Placement, *, ahead: bool) -> None:
        """Take room; what is fed ahead takes it only below the ceiling, until its agent claims it."""
        vcpus_milli = placement.need.vcpus_milli
        self._environments.charge(placement.environment, vcpus_milli)
        if placement.share is not None:
            placement.share.queue.charge(placement.environment.name, vcpus_milli)
            self._usage.charge(placement.share, vcpus_milli, ahead=ahead)
        if ahead:
            self._ahead.add(placement)
        else:
            placement.ends_by = ends_by(self._now, placement.time_limit_s)
            self._hosts.charge(placement)
        if self.use_changed is not None:
            self.use_changed(placement.agent_id)

    def _discharge(self, placement: Placement) -> None:
        vcpus_milli, share = placement.need.vcpus_milli, placement.share
        environment = self._environments.discharge(placement.environment, vcpus_milli)
        was_ahead = self._ahead.remove(placement)
        if share is not None:
            share.queue.charge(placement.environment.name, -vcpus_milli)
            self._usage.charge(share, -vcpus_milli, ahead=was_ahead)
            self._waiting.tidy(share)
        if not was_ahead:
            host = self._hosts.discharge(placement)
            while (claimed := self._ahead.next_fitting(host)) is not None:
                claimed.ends_by = ends_by(self._now, claimed.time_limit_s)
                host = self._hosts.charge(claimed)
                if claimed.share is not None:
                    self._usage.charge(claimed.share, -claimed.need.vcpus_milli, ahead=True)
                    self._usage.charge(claimed.share, claimed.need.vcpus_milli, ahead=False)
            self._waiting.host_has_room(host)
        self._waiting.wake_for_ceiling(environment)
        if self.use_changed is not None:
            self.use_changed(placement.agent_id)

    def _learn(self, agent_id: str, line: LineKey, ran_for_ms: int) -> None:
        """Take in how long a job took; if such jobs are swift and their agent has few ahead, have more looked at."""
        self._durations.learn(line, ran_for_ms)
        host = self._hosts.get(agent_id)
        if host is None or host.capacity is None:
            return
        if 2 * self._ahead.count(agent_id) < self._durations.ahead_of(line, host.capacity):
            self._hungry[agent_id] = None
            self._waiting.wake_line(line)

    # Decisions

    def plan(self, now: float, *, offers_max: int | None = None) -> Plan:
        """Decide what can be decided now; what is offered takes up room at once.

        `now` is in seconds and never goes back. The plan says when to plan again if nothing happens until then: at
        once, if it stopped short at `offers_max` offers.
        """
        self._now = now
        for placement in self._found:
            placement.ends_by = ends_by(now, placement.time_limit_s)
        self._found.clear()
        self._usage.settle(now)
        self._alarms.ring(now)
        for environment in self._environments.resume(now):
            self._waiting.wake_for_ceiling(environment)
        offers: list[Offer] = []
        self._waiting.wake_for_hosts(now)
        self._refresh_holds()
        self._put_holders_on_agenda()
        limit = inf if offers_max is None else offers_max
        agenda = self._waiting.agenda()
        self._is_stalled = False
        while len(offers) < limit:
            # What is not known goes before all that is left. It is asked for, and has another plan made when it comes.
            item = next(agenda, None) if not self._is_stalled else None
            if item is None:
                break
            if isinstance(item, Line):
                self._serve_holder(item, now, offers, limit)
            else:
                self._serve_queue(item, now, offers)
        else:
            return Plan(tuple(offers), (), now, line_requests=tuple(self._waiting.take_requests()))
        uses, forgotten = self._usage.due(now)
        for share in forgotten:
            self._waiting.tidy(share)
        reasons = [*self._waiting.take_withdrawn_reasons(), *self._alarms.report(now, self._waiting.parked())]
        deadlines = (self._alarms.next_deadline(), self._environments.next_deadline(), self._usage.next_deadline())
        next_deadline = min((deadline for deadline in deadlines if deadline is not None), default=None)
        requests = tuple(self._waiting.take_requests())
        return Plan(tuple(offers), tuple(reasons), next_deadline, tuple(uses), requests)

    def _serve_holder(self, holder: Line, now: float, offers: list[Offer], limit: float) -> None:
        """Try what stands ahead of a holder in its share, then its own head."""
        while holder.starving and len(offers) < limit:
            head, ready = holder.head(), self._waiting.next_ahead(holder, now)
            if head is None or ready is None or ready[1][0] > head[0]:
                break
            if ready[1][1] == NOT_KNOWN:
                self._is_stalled = True
                break
            self._try(*ready, now, offers)

    def _serve_queue(self, queue: Queue, now: float, offers: list[Offer]) -> None:
        """Place one job of a queue, the first that fits."""
        while (ready := self._waiting.next_ready(queue, now)) is not None:
            if ready[1][1] == NOT_KNOWN:
                self._is_stalled = True
                break
            if self._try(*ready, now, offers):
                break
        self._waiting.put_back(queue)

    def _try(self, line: Line, head: Entry, now: float, offers: list[Offer]) -> bool:
        """Place the head of a line, or park the line."""
        self.looks += 1
        if self._environments.held_back:
            self._park(line, now, (), [])
            return False
        short_of_hosts: list[str] = []
        short_of_ceiling: list[Environment] = []
        namespace = line.queue.key.namespace
        holders = [None, *(holder for holder in self._holds.holders if not is_behind(line, holder))]
        for name in line.queue.environments:
            environment = self._environments.get(ResourceKey(namespace, name))
            if environment is None or environment.spec is None or not environment.spec.usable:
                continue
            if line.queue.key in environment.paused or not lets_in(environment, line):
                short_of_ceiling.append(environment)
                continue
            host = self._hosts.tightest(name, line.need, holders) or self._host_to_backfill(line, name, now)
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

    def _host_to_backfill(self, line: Line, environment: str, now: float) -> Host | None:
        """Return the tightest fit among the first hosts that are held for others and may be used meanwhile, or None."""
        found: Host | None = None
        for host in islice(self._hosts.held.values(), BACKFILL_HOSTS):
            if (
                line.need.fits_in(host.room)
                and (found is None or host.tightness < found.tightness)
                and host.serves(environment)
                and may_take(host, line, now)
            ):
                found = host
        return found

    def _hungry_host(self, line: Line, environment: str) -> Host | None:
        """Return a host without room that is to be fed ahead from this line, or None."""
        key = line.key
        if not self._durations.is_swift(key):
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
                and self._ahead.count(agent_id) < self._durations.ahead_of(key, host.capacity)
                and not self._waiting.is_contested(host, line)
            ):
                return host
            # The next swift job that it gets done makes it hungry again.
            del self._hungry[agent_id]
        return None

    def _place(self, line: Line, head: Entry, host: Host, environment: Environment, *, ahead: bool) -> Offer:
        job = JobKey(line.queue.key.namespace, head[1])
        placement = Placement(job, host.agent_id, environment.key, line.need, line.share, line.time_limit_s)
        self._proposed[job] = placement
        self._charge(placement, ahead=ahead)
        self._usage.settle(self._now)
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
            released = self._holds.refresh(self._now)
            for host in released.hosts:
                self._waiting.host_has_room(host)
            for environment in released.environments:
                self._waiting.wake_for_ceiling(environment)
            self._waiting.wake_for_hosts(self._now)
            self._put_holders_on_agenda()

    def _put_holders_on_agenda(self) -> None:
        for holder in self._holds.holders:
            self._waiting.put_holder_on_agenda(holder)
