"""What the commands of a group are made of: its picture of jobs, and the moves of a job with all that they entail.

Every move goes through the one table of `domain.lifecycle`; what must be done with it in the same transaction is done
here. Commands, which decide whether a job is to move, are in `group`.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

from batchyard.domain.arrays import Indices, only
from batchyard.domain.faults import FAULT_TAG, Fault
from batchyard.domain.jobs import AgentId, Attempt, Fence, Job, JobChange, JobKey, Run, RunReport, array_and_index
from batchyard.domain.lifecycle import (
    CONTAINER_REASON_LENGTH_MAX,
    REASON_DEPENDENCY_FAILED,
    TERMINAL,
    UNSTARTED_LOSSES_MAX,
    Effect,
    JobEvent,
    JobState,
    RunEnd,
    RunState,
    judge,
    move,
)
from batchyard.jobstore.arrays import Arrays
from batchyard.jobstore.effects import (
    Effects,
    EndedRun,
    OfferOutcome,
    demand_on,
)
from batchyard.jobstore.memory import Memory
from batchyard.jobstore.offers import (
    Cause,
    Refusal,
)
from batchyard.storage.jobs import (
    AgentRecord,
    Changes,
    Counters,
    EnvironmentCopy,
    EnvironmentKey,
    JobWriter,
    NewJob,
    QueueCopy,
    QueueKey,
    RequestKey,
)
from batchyard.storage.lines import LineName


class Numbers:
    """Where the numbers of a writer stand between its groups."""

    def __init__(self, counters: Counters, reserved_vcpus: dict[EnvironmentKey, int]) -> None:
        self.epoch: Final = counters.epoch
        self.revision = counters.revision
        self.leader_epoch = counters.leader.epoch
        self.set_back = counters.set_back
        self.set_back_lease_ms: Final = counters.set_back_lease_ms
        self.sequence = counters.sequence
        """Of the newest job."""
        self.reserved_vcpus = reserved_vcpus
        """What the runs that are not over reserve, in thousandths of a vCPU."""
        self._offers = 0

    def next_fence(self) -> Fence:
        """Return a fence greater than all before it."""
        self._offers += 1
        return Fence(self.epoch, self._offers)


class Moves:
    """A group's picture, and the moves in it."""

    def __init__(
        self, storage: JobWriter, numbers: Numbers, memory: Memory, now_ms: int, keys: Collection[JobKey]
    ) -> None:
        """Begin with the jobs that the commands name, loaded together."""
        self._storage = storage
        self._numbers = numbers
        self._memory = memory
        self._now = now_ms
        wanted = dict.fromkeys(keys)
        wanted.update((child[0], None) for key in keys if (child := array_and_index(key)) is not None)
        self._jobs: dict[JobKey, Job | None] = dict(wanted)
        for job in memory.jobs(storage, wanted):
            self._jobs[job.key] = job
        self._touched: dict[JobKey, Job] = {}
        self._new: dict[JobKey, NewJob] = {}
        self._waiting_for: dict[int, list[Job]] = {}
        self._finished: list[Job] = []
        self._offered: list[tuple[Job, Run]] = []
        self._queues: dict[QueueKey, QueueCopy | None] = {}
        self._environments: dict[EnvironmentKey, EnvironmentCopy | None] = {}
        self._reserved: dict[EnvironmentKey, int] = {}
        """What this group adds to the reservations."""
        self._agents: dict[AgentId, AgentRecord | None] = {}
        self._answers: dict[RequestKey, bytes] = {}
        self._changes = Changes()
        self._effects = Effects()
        self._decided: set[JobKey] = set()
        self._wanted_lines: list[tuple[LineName, int, int]] = []
        self._arrays = Arrays(
            *(storage, self._effects, self._changes.events, now_ms),
            find=self._job,
            adopt=self._adopt,
            touch=self._touch,
            move_job=self._move,
        )

    # Moves

    def _cancel_now(self, job: Job, reason: str) -> None:
        job.cancelled = not job.terminated
        job.stop_reason = reason
        self._move(job, JobEvent.CANCELLED, status_reason=reason)

    def _claimed(self, job: Job) -> None:
        run = job.run
        assert run is not None
        if job.cancelled and not job.terminated:
            # The cancel lost the race: it succeeds without effect.
            job.cancelled, job.stop_reason = False, None
        self._decided.add(job.key)
        job.run = run.in_state(RunState.CLAIMED)
        job.agent_id, job.task_id, job.cluster, job.log_stream_name = run.agent_id, run.task_id, run.cluster, None
        job.exit_code = job.reason = None
        self._move(job, JobEvent.CLAIMED)

    def _started(self, job: Job, ago_ms: int) -> None:
        run = job.run
        assert run is not None
        job.run = run.in_state(RunState.STARTED)
        job.started_at = max(job.created_at, self._now - max(ago_ms, 0))
        job.log_stream_name = run.log_stream_name or None
        self._move(job, JobEvent.STARTED)

    def _return(self, job: Job) -> None:
        self._release(job, None)
        if self._is_asked_for(job):
            self._move(job, JobEvent.CANCELLED, status_reason=job.stop_reason)
        else:
            self._move(job, JobEvent.RETURNED)

    def _lose(self, job: Job, end: RunEnd = RunEnd.LOST) -> None:
        assert job.run is not None
        self._ended(job, RunReport(job.run.fence, job.key, RunState.DONE, end=end))

    def _never_started(self, job: Job) -> None:
        """Place a job again that was lost, for certain, before its command started; give it up if that is a habit."""
        job.unstarted_losses += 1
        if job.unstarted_losses < UNSTARTED_LOSSES_MAX or self._is_asked_for(job):
            self._return(job)
        else:
            self._lose(job, RunEnd.NEVER_STARTED)

    def _ended(self, job: Job, report: RunReport) -> None:
        run = job.run
        assert run is not None
        started_at = job.started_at if run.state is RunState.STARTED else None
        stopped_at = max(started_at or job.created_at, self._now - max(report.ended_ago_ms or 0, 0))
        attempts_left = job.attempts_allowed - job.attempts_made - 1
        stop_reason = job.stop_reason if self._is_asked_for(job) else None
        job.exit_code = report.exit_code
        job.reason = report.reason[:CONTAINER_REASON_LENGTH_MAX] if report.reason else None
        verdict = judge(
            report.end,
            job.exit_code,
            job.reason,
            run.agent_id,
            stop_reason=stop_reason,
            attempts_left=attempts_left,
            exit_rules=job.exit_rules,
            evicted=run.evicted,
        )
        job.attempts_made += 1
        job.agent_id, job.task_id, job.cluster = run.agent_id, run.task_id, run.cluster
        attempt = Attempt(
            number=job.attempts_made,
            agent_id=run.agent_id,
            task_id=run.task_id,
            log_stream_name=(run.log_stream_name or None) if started_at is not None else None,
            status_reason=verdict.status_reason,
            started_at=started_at,
            stopped_at=stopped_at,
            exit_code=job.exit_code,
            reason=job.reason,
            cluster=run.cluster,
        )
        self._release(job, stopped_at - started_at if started_at is not None else None)
        self._move(job, verdict.event, status_reason=verdict.status_reason, attempt=attempt)

    def _fail_by_request(self, job: Job, run: Run, fault: Fault) -> None:
        """Take the job through an attempt of which nothing runs. There is nothing to read of it either."""
        refusal = Refusal(Cause.JOB, f"its tags ask for a {FAULT_TAG}")
        self._effects.offers.append(OfferOutcome(job.key, run.agent_id, run.incarnation, refusal=refusal))
        job.run = replace(run, log_stream_name="")
        self._claimed(job)
        if fault.runs:
            self._started(job, 0)
        report = RunReport(
            run.fence, job.key, RunState.DONE, end=fault.end, exit_code=fault.exit_code, reason=fault.reason
        )
        self._ended(job, report)
        # No scheduler has heard of this run.
        self._effects.ended.pop()

    def _release(self, job: Job, ran_for_ms: int | None) -> None:
        run = job.run
        assert run is not None
        job.run = None
        self._reserve(job, run, -job.vcpus_milli)
        self._decided.add(job.key)
        self._effects.ended.append(EndedRun(run.agent_id, run.fence, ran_for_ms))

    def _move(
        self, job: Job, event: JobEvent, *, status_reason: str | None = None, attempt: Attempt | None = None
    ) -> None:
        """Move the job and do what the table says must be done with it."""
        step = move(job.state, event)
        self._touch(job)
        came_from, job.state = job.state, step.target
        job.status_reason = status_reason
        job.version += 1
        if job.state in TERMINAL:
            job.ended_at = self._now
        if job.state in TERMINAL and job.started_at is not None:
            job.stopped_at = max(job.started_at, attempt.stopped_at if attempt is not None else self._now)
        if Effect.RECORD_ATTEMPT in step.effects:
            assert attempt is not None
            self._changes.attempts.append((job.sequence, attempt))
        if Effect.SETTLE_DEPENDENTS in step.effects:
            self._finished.append(job)
        if Effect.WITHDRAW in step.effects:
            self._effects.withdraw(job.key)
        if Effect.ENQUEUE in step.effects:
            if came_from is not JobState.RUNNABLE:
                job.runnable_at = self._now
            self._effects.enqueue(job)
        if job.state is not came_from:
            self._changes.events.append(_change(job, self._now))
        if job.parent is not None:
            self._arrays.child_moved(job, came_from)
        if job.children is not None:
            self._arrays.array_moved(job, event)

    def _record_blocked(self, job: Job, reason: str) -> None:
        self._changes.events.append(replace(_change(job, self._now), status_reason=reason, blocked=True))

    def _summarize_arrays(self) -> None:
        """Have what is told of arrays tell of their children as they are after this commit."""
        events = self._changes.events
        for place, change in enumerate(events):
            array = self._jobs.get(change.key) if change.children is None else None
            if array is not None and array.children is not None:
                events[place] = replace(change, summary=tuple(array.children.summary().values()))

    def _settle_dependents(self) -> None:
        """Release or fail what waited for the jobs that finished, and what waited for those, until nothing is left."""
        while self._finished or self._arrays.have_news:
            finished = {job.sequence: job for job in self._finished}
            self._finished = []
            for sequence, dependent in self._dependents(finished.keys()):
                self._settle(dependent, failed=finished[sequence].state is JobState.FAILED)
            for array, indices in self._arrays.take_failed():
                for dependent in self._dependents_of_children(array, indices):
                    self._settle(dependent, failed=True)
            self._arrays.advance()

    def _settle(self, dependent: Job, *, failed: bool) -> None:
        """Take in that one of the jobs that it waits for has ended."""
        if dependent.state not in (JobState.SUBMITTED, JobState.PENDING):
            return
        if failed:
            self._move(dependent, JobEvent.DEPENDENCY_FAILED, status_reason=REASON_DEPENDENCY_FAILED)
            return
        dependent.dependencies_left -= 1
        self._touch(dependent)
        if dependent.dependencies_left == 0:
            self._dependencies_met(dependent)

    def _dependencies_met(self, job: Job) -> None:
        self._move(job, JobEvent.DEPENDENCIES_MET if job.children is None else JobEvent.CHILDREN_RELEASED)

    def _dependents(self, sequences: Collection[int]) -> Iterable[tuple[int, Job]]:
        for sequence, stored in self._storage.dependents(sequences):
            job = self._adopt(stored)
            yield sequence, job
        for sequence in sequences:
            for job in self._waiting_for.get(sequence, ()):
                yield sequence, job

    def _dependents_of_children(self, array: Job, indices: Indices) -> Iterable[Job]:
        first, last = array.sequence + 1, array.sequence + indices.bit_length()
        found = [(sequence, self._adopt(job)) for sequence, job in self._storage.dependents_between(first, last)]
        found += [
            (sequence, job) for sequence, jobs in self._waiting_for.items() if first <= sequence <= last for job in jobs
        ]
        return [job for sequence, job in found if indices >> (sequence - first) & 1]

    def _decide_arrays(self) -> None:
        """Add the arrays that were to be stopped, and of which no agent is asked for a child any more, to `decided`."""
        children = (self._jobs.get(key) for key in list(self._decided))
        arrays = {
            array.key: array
            for child in children
            if child is not None and child.parent is not None
            if (array := self._arrays.array_of(child)).stop_reason is not None
        }
        for array in arrays.values():
            if not any(
                child.run is not None and child.run.state is RunState.OFFERED and self._is_asked_for(child)
                for child in self._unfinished_children(array)
            ):
                self._decided.add(array.key)

    def _unfinished_children(self, array: Job) -> list[Job]:
        return self._arrays.unfinished_rows(array, [new.job for new in self._new.values()])

    def _demand(self, job: Job) -> None:
        self._touch(job)
        demand = demand_on(job)
        assert demand is not None
        self._effects.demands.append(demand)

    def _set_run(self, job: Job, run: Run) -> None:
        job.run = run
        job.version += 1
        self._touch(job)

    def _reserve(self, job: Job, run: Run, vcpus_milli: int) -> None:
        key = EnvironmentKey(job.key.namespace, run.compute_environment)
        self._reserved[key] = self._reserved.get(key, 0) + vcpus_milli

    # What is loaded

    def _job(self, key: JobKey) -> Job | None:
        known = self._jobs.get(key) or self._arrays.child(key)
        if known is None and key not in self._jobs:
            known = self._jobs[key] = next(self._memory.jobs(self._storage, [key]), None)
        return known

    def _has_row(self, job: Job) -> bool:
        """Return whether a job is more than what its array tells of it."""
        return self._jobs.get(job.key) is job

    def _touch(self, job: Job) -> None:
        """Have a job written; a child gets its row by it."""
        if not self._has_row(job):
            self._jobs[job.key] = job
            self._new[job.key] = NewJob(job, None)
            self._arrays.gets_row(job)
        self._touched[job.key] = job

    def _enqueue(self, job: Job) -> None:
        if self._has_row(job):
            self._effects.enqueue(job)
        else:
            self._effects.enqueue_children(self._arrays.array_of(job), only(job.index))

    def _adopt(self, stored: Job) -> Job:
        """Return this group's own picture of a job that was just read."""
        known = self._jobs.get(stored.key)
        if known is None:
            self._jobs[stored.key] = known = stored
        return known

    def _jobs_of_agent(self, agent_id: AgentId) -> list[Job]:
        jobs = {job.key: self._adopt(job) for job in self._storage.jobs_of_agent(agent_id)}
        jobs.update((job.key, job) for job, _ in self._offered)
        return [job for job in jobs.values() if job.run is not None and job.run.agent_id == agent_id]

    def _job_of_run(self, agent_id: AgentId, fence: Fence) -> Job | None:
        jobs = self._jobs_of_agent(agent_id)
        return next((job for job in jobs if job.run is not None and job.run.fence == fence), None)

    def _queue(self, key: QueueKey) -> QueueCopy | None:
        if key not in self._queues:
            self._queues[key] = self._memory.queue(self._storage, key)
        return self._queues[key]

    def _environment(self, key: EnvironmentKey) -> EnvironmentCopy | None:
        if key not in self._environments:
            self._environments[key] = self._memory.environment(self._storage, key)
        return self._environments[key]

    def _agent(self, agent_id: AgentId) -> AgentRecord | None:
        if agent_id not in self._agents:
            self._agents[agent_id] = self._memory.agent(self._storage, agent_id)
        return self._agents[agent_id]

    def _put_agent(self, agent: AgentRecord) -> None:
        self._agents[agent.agent_id] = agent
        self._changes.agents.append(agent)

    @staticmethod
    def _is_asked_for(job: Job) -> bool:
        """Return whether an accepted CancelJob or TerminateJob has not been carried out yet."""
        return job.cancelled or job.terminated


def _change(job: Job, now_ms: int) -> JobChange:
    return JobChange(
        key=job.key,
        job_name=job.job_name,
        job_queue=job.job_queue,
        state=job.state,
        status_reason=job.status_reason,
        at=now_ms,
        attempts=job.attempts_made,
        exit_code=job.exit_code,
        reason=job.reason,
        log_stream_name=job.log_stream_name,
        started_at=job.started_at,
        stopped_at=job.stopped_at,
        agent_id=job.agent_id,
        task_id=job.task_id,
        cancelled=job.cancelled,
        terminated=job.terminated,
        waited_ms=now_ms - job.runnable_at if job.state is JobState.STARTING and job.runnable_at else None,
    )
