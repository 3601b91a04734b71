"""One transaction of the job store: what its commands decide.

Commands of many calls are applied one after the other to the jobs that they name, and written together. A command
checks everything before it changes anything, so one that raises leaves no trace and the others go on. Nothing here
knows a clock, a task or a database: time, ids and storage are handed in.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

from batchyard.api.agent.v1.run_pb2 import JobSpec
from batchyard.domain.errors import InvalidRequestError, NotFoundError, SupersededError, WrongStateError
from batchyard.domain.faults import parse_faults
from batchyard.domain.jobs import AgentId, Fence, Job, JobKey, Run, RunReport
from batchyard.domain.lifecycle import (
    REASON_DEPENDENCY_FAILED,
    TERMINAL,
    JobEvent,
    JobState,
    RunEnd,
    RunState,
)
from batchyard.domain.names import log_stream_name, task_id
from batchyard.domain.resources import merged_tags
from batchyard.domain.values import value_class
from batchyard.jobstore.effects import (
    Committed,
    DrainOutcome,
    OfferOutcome,
    RegistrationOutcome,
    ReportOutcome,
    RunDemand,
)
from batchyard.jobstore.logs import log_stream_prefix
from batchyard.jobstore.moves import Moves
from batchyard.jobstore.offers import (
    Cause,
    Proposal,
    Refusal,
    refused_for_agent,
    refused_for_environment,
    refused_for_job,
)
from batchyard.storage.jobs import (
    AgentRecord,
    Answer,
    EnvironmentCopy,
    EnvironmentKey,
    JobWriter,
    Leader,
    NewJob,
    QueueCopy,
    QueueKey,
    Removal,
    RequestKey,
    ShareUse,
)
from batchyard.storage.lines import LineName


@value_class(frozen=True, slots=True)
class Submission:
    """A job to be taken in."""

    job: Job
    spec: bytes
    depends_on: tuple[JobKey, ...]
    array_size: int | None = None
    sequential: bool = False
    """Each child of the array waits for the one before it."""
    paired_with: tuple[JobKey, ...] = ()
    """Arrays of the same size that it waits for child by child."""


class Group(Moves):
    """Commands that are committed together."""

    # Jobs

    def submit(self, new: Submission) -> None:
        """Take a job in.

        Raises NotFoundError or WrongStateError for its queue, InvalidRequestError for a dependency that does not exist
        or that is no array of the right size.
        """
        name = new.job.job_queue
        queue = self._queue(QueueKey(new.job.key.namespace, name))
        if queue is None or queue.gone:
            raise NotFoundError(f"JobQueue {name} not found.", field="jobQueue")
        if not queue.open:
            raise WrongStateError(f"JobQueue {name} is not in ENABLED state", field="jobQueue")
        dependencies = []
        for key in dict.fromkeys(new.depends_on):
            dependency = self._job(key)
            if dependency is None:
                raise InvalidRequestError(f"Job {key.job_id} does not exist", field="dependsOn")
            dependencies.append(dependency)
        size = new.array_size or 0
        paired_with = [self._arrays.pairing(key, size) for key in dict.fromkeys(new.paired_with)]

        # A copy, so that the submission can be taken in again by another group if this one comes to nothing.
        job = new.job.copy()
        job.sequence, job.created_at = self._numbers.sequence + 1, self._now
        self._numbers.sequence += 1 + size
        if size:
            self._arrays.begin(job, size, sequential=new.sequential, paired_with=paired_with)
        waiting_for = [dependency for dependency in dependencies if dependency.state not in TERMINAL]
        self._jobs[job.key] = job
        self._new[job.key] = NewJob(
            *(job, new.spec, tuple(dependency.sequence for dependency in waiting_for)),
            paired_with=tuple(other.sequence for other in paired_with),
        )
        job.dependencies_left = len(waiting_for)
        for dependency in waiting_for:
            self._waiting_for.setdefault(dependency.sequence, []).append(job)
        if any(dependency.state is JobState.FAILED for dependency in dependencies):
            self._move(job, JobEvent.DEPENDENCY_FAILED, status_reason=REASON_DEPENDENCY_FAILED)
        elif waiting_for:
            self._move(job, JobEvent.DEPENDENCIES_WAITING)
        else:
            self._dependencies_met(job)

    def answer_to(self, key: RequestKey) -> bytes | None:
        """Return the answer to a request that was carried out already, or None."""
        if key not in self._answers:
            return self._storage.answer(key)
        return self._answers[key]

    def keep_answer(self, key: RequestKey, answer: bytes) -> None:
        """Remember the answer to a request that has been carried out in this group."""
        self._answers[key] = answer
        self._changes.answers.append(Answer(key, answer, self._now))

    def cancel(self, key: JobKey, reason: str) -> bool:
        """Cancel a job that no agent has taken up; return whether its agent must be asked first.

        Then the job is `decided` in a later commit. Anything else is no error: an unknown job, one that is over, one
        that an agent runs. Of an array, those children are cancelled that no agent has taken up.
        """
        job = self._job(key)
        if job is None or job.state in TERMINAL:
            return False
        if job.children is None:
            return self._cancel(job, reason)
        rows = self._unfinished_children(job)
        if not job.children.waiting and all(child.run and child.run.state is not RunState.OFFERED for child in rows):
            return False
        job.stop_reason = job.stop_reason or reason
        self._touch(job)
        self._arrays.stop(job)
        asked = [self._cancel(child, job.stop_reason) for child in rows]
        return any(asked)

    def _cancel(self, job: Job, reason: str) -> bool:
        if self._is_asked_for(job):
            return job.run is not None and job.run.state is RunState.OFFERED
        if job.run is None:
            self._cancel_now(job, reason)
            return False
        if job.run.state is not RunState.OFFERED:
            return False
        job.cancelled, job.stop_reason = True, reason
        self._demand(job)
        return True

    def terminate(self, key: JobKey, reason: str) -> bool:
        """End a job in whatever state; return whether its agent must first say if it has begun it.

        The first reason stays. A job that runs is FAILED only when its process is dead, and an array when that is so of
        all its children.
        """
        job = self._job(key)
        if job is None or job.state in TERMINAL:
            return False
        if job.children is None:
            return self._terminate(job, reason)
        rows = self._unfinished_children(job)
        # A cancel that came before left alone what ran: that has the reason of this call.
        was_stopped = job.cancelled or job.terminated
        job.terminated, job.stop_reason = True, (job.stop_reason if was_stopped else None) or reason
        self._touch(job)
        self._arrays.stop(job)
        asked = [self._terminate(child, reason) for child in rows]
        return any(asked)

    def _terminate(self, job: Job, reason: str) -> bool:
        if job.run is None:
            job.terminated = True
            self._cancel_now(job, reason)
            return False
        if not job.terminated:
            job.terminated = True
            job.stop_reason = job.stop_reason or reason
            self._demand(job)
        return job.run.state is RunState.OFFERED

    def change_tags(self, key: JobKey, changes: Mapping[str, str], removed: Collection[str]) -> None:
        """Set some tags of a job and take others away; raise NotFoundError, InvalidRequestError if it gets too many."""
        job = self._job(key)
        if job is None:
            raise NotFoundError(f"Job {key.job_id} does not exist")
        tags = self._changes.tags.get(job.sequence)
        if tags is None:
            tags = self._storage.changed_tags(job.sequence)
        if tags is None:
            new = self._new.get(key)
            spec = new.spec if new is not None else self._storage.specs([job.sequence])[job.sequence]
            tags = dict(JobSpec.FromString(spec or b"").tags)
        self._changes.tags[job.sequence] = merged_tags(tags, changes, removed)

    def expire(self, key: JobKey, reason: str) -> None:
        """Cancel a job that has waited for too long, unless it is being placed by now."""
        job = self._job(key)
        if job is not None and job.state is JobState.RUNNABLE and job.run is None:
            self._cancel_now(job, reason)

    def note_blocked(self, key: JobKey, reason: str) -> None:
        """Record that a job blocks its queue, unless it is being placed by now."""
        job = self._job(key)
        if job is not None and job.state is JobState.RUNNABLE and job.run is None:
            self._record_blocked(job, reason)

    # What a scheduler asks

    def under(self, leader_epoch: int, act: "Callable[[Group], object]") -> object:
        """Do what a scheduler asks that leads under this epoch; raise SupersededError if another one leads by now."""
        if leader_epoch != self._numbers.leader_epoch:
            raise SupersededError(f"leader epoch {leader_epoch} is over; {self._numbers.leader_epoch} leads")
        return act(self)

    def lead(self, scheduler_id: str) -> int:
        """Make a scheduler the leader; return its leader epoch."""
        self._numbers.leader_epoch += 1
        self._changes.leader = Leader(self._numbers.leader_epoch, scheduler_id)
        return self._numbers.leader_epoch

    @property
    def set_back(self) -> int:
        """Not 0: the store was set back to an earlier state, and may have forgotten runs that are alive."""
        return self._numbers.set_back

    @property
    def set_back_lease_ms(self) -> int:
        """The longest lease of then that is known from elsewhere; 0: it is not, or that time is over."""
        return self._numbers.set_back_lease_ms if self._numbers.set_back else 0

    def end_set_back(self, number: int) -> None:
        """Take in that whatever was forgotten at this time is over."""
        if number == self._numbers.set_back:
            self._numbers.set_back = 0
            self._changes.set_back_over = True

    def keep_share_uses(self, uses: Sequence[ShareUse]) -> None:
        """Keep what shares have used, for the next scheduler."""
        self._changes.share_uses += uses

    def tell_line(self, line: LineName, after: int, limit: int) -> None:
        """Tell the scheduler the jobs of a line after a place, `limit` of them at most, as this group leaves them."""
        self._wanted_lines.append((line, after, limit))

    def register(
        self,
        agent_id: AgentId,
        incarnation: int,
        known: Collection[Fence],
        claimed_before: Collection[Fence],
        lease_ms: int = 0,
    ) -> None:
        """Take an agent in, unless its incarnation is over; `lease_ms` is the lease that it is to get.

        `known` are the runs that it will report, `claimed_before` those of earlier incarnations of which it knows only
        that they do not run. What a later incarnation does not speak of is lost: with a run that was claimed an attempt
        is over, an offer has never started. The same incarnation is asked for a run: this may be a word from the past,
        of a stream that was slow, and the run may have been taken up since; an offer it has not seen is sent again.
        """
        before = self._agent(agent_id)
        if before is not None and (
            incarnation < before.incarnation or (incarnation == before.incarnation and not before.live)
        ):
            self._effects.registered.append(RegistrationOutcome(agent_id, incarnation, accepted=False))
            return
        if before is None or before.incarnation != incarnation:
            known_agent = before or AgentRecord(agent_id, incarnation, live=True)
            self._put_agent(replace(known_agent, incarnation=incarnation, live=True, gone_at=None, lease_ms=lease_ms))
        elif before.lease_ms < lease_ms:
            self._put_agent(replace(before, lease_ms=lease_ms))
        for job in self._jobs_of_agent(agent_id):
            run = job.run
            assert run is not None
            if run.fence in claimed_before:
                self._lose(job)
            elif run.incarnation != incarnation:
                if run.fence in known:
                    self._set_run(job, replace(run, incarnation=incarnation))
                elif run.state is RunState.OFFERED:
                    self._never_started(job)
                else:
                    self._lose(job)
            elif run.fence not in known and run.state is not RunState.OFFERED:
                kill = job.terminated or run.evicted
                self._effects.demands.append(RunDemand(agent_id, incarnation, run.fence, kill=kill))
        self._effects.registered.append(RegistrationOutcome(agent_id, incarnation, accepted=True, lease_ms=lease_ms))

    def lose_agent(self, agent_id: AgentId, incarnation: int) -> None:
        """Give an agent up, whose lease is over: its runs are lost."""
        agent = self._agent(agent_id)
        if agent is None or agent.incarnation != incarnation or not agent.live:
            return
        self._put_agent(replace(agent, live=False, gone_at=self._now))
        for job in self._jobs_of_agent(agent_id):
            self._lose(job)

    def drain(self, agent_id: AgentId, *, draining: bool, limit_ms: int | None, request: int) -> None:
        """Begin or end to offer an agent nothing, whether it is live or not."""
        agent = self._agent(agent_id)
        if agent is not None:
            drained = replace(agent, draining=draining, drain_limit_ms=limit_ms if draining else None)
            if drained != agent:
                self._put_agent(drained)
        self._effects.drains.append(DrainOutcome(agent_id, draining, limit_ms, request, unknown=agent is None))

    def evict(self, agent_id: AgentId) -> None:
        """Have all runs of a drained agent ended."""
        agent = self._agent(agent_id)
        if agent is None or not agent.draining:
            return
        for job in self._jobs_of_agent(agent_id):
            if job.run is not None and not job.run.evicted:
                self._set_run(job, replace(job.run, evicted=True))
                self._demand(job)

    def offer(self, proposal: Proposal) -> None:
        """Commit an offer, if the proposal is still true."""
        job = self._job(proposal.key)
        refusal = self._why_not(job, proposal)
        if refusal is not None or job is None:
            outcome = OfferOutcome(proposal.key, proposal.agent_id, proposal.incarnation, refusal=refusal)
            self._effects.offers.append(outcome)
            if job is not None and job.state is JobState.RUNNABLE and job.run is None:
                self._enqueue(job)
            return
        fence = self._numbers.next_fence()
        task = task_id(job.sequence, blake2b(f"{job.key.job_id} {fence}".encode(), digest_size=16).digest())
        run = Run(
            fence=fence,
            agent_id=proposal.agent_id,
            incarnation=proposal.incarnation,
            compute_environment=proposal.compute_environment,
            state=RunState.OFFERED,
            task_id=task,
            log_stream_name=log_stream_name(_definition_name(job.job_definition), task),
            cluster=self._cluster_of(proposal.environment),
        )
        self._effects.runnable.pop(job.key, None)
        self._reserve(job, run, job.vcpus_milli)
        if job.faults and (fault := parse_faults(job.faults).get(job.attempts_made + 1)) is not None:
            self._fail_by_request(job, run, fault)
            return
        self._set_run(job, run)
        self._offered.append((job, run))

    def report(self, agent_id: AgentId, incarnation: int, report: RunReport) -> None:
        """Take in what an agent says of a run, if the run is the job's current one.

        Of a run that it was asked for and has never seen it knows the fence alone, and gives that back.
        """
        job = self._job(report.key) if report.key.job_id else self._job_of_run(agent_id, report.fence)
        run = job.run if job is not None else None
        current = (
            run is not None
            and run.fence == report.fence
            and run.agent_id == agent_id
            and run.incarnation == incarnation
        )
        self._effects.reports.append(
            ReportOutcome(agent_id, incarnation, report.fence, report.state, stale=not current)
        )
        if not current or job is None or run is None or report.state <= run.state:
            return
        never_started = report.state is RunState.DONE and report.end is RunEnd.NEVER_STARTED
        if report.state is RunState.REVOKED or never_started:
            if run.state is RunState.STARTED:
                self._lose(job)
            elif run.state is RunState.CLAIMED or never_started:
                self._never_started(job)
            else:
                self._return(job)
            return
        if run.state is RunState.OFFERED:
            self._claimed(job)
        # What has exited has started, however little its agent says of it.
        started = report.started_ago_ms is not None or report.state is RunState.STARTED
        exited = report.state is RunState.DONE and report.end in (RunEnd.EXITED, RunEnd.TIMED_OUT)
        if (started or exited) and job.state is not JobState.RUNNING:
            self._started(job, report.started_ago_ms or report.ended_ago_ms or 0)
        if report.state is RunState.DONE:
            self._ended(job, report)

    # What the registry asks

    def settle(self, queues: Sequence[QueueCopy], environments: Sequence[EnvironmentCopy] = ()) -> None:
        """Take changes of queues and environments into the store's copy. Must be the only command of its group.

        Raises WrongStateError if a queue that is being deleted has unfinished jobs.
        """
        newer = [
            queue for queue in queues if (known := self._queue(queue.key)) is None or known.revision < queue.revision
        ]
        for queue in newer:
            if queue.gone and self._storage.has_unfinished_jobs(queue.key):
                raise WrongStateError("Cannot delete, job queue has jobs that have not completed", field="jobQueue")
        for queue in newer:
            known = self._queue(queue.key)
            if known is not None:
                is_another = known.created != queue.created
                first_job = self._numbers.sequence + 1 if is_another else known.first_job
                queue = replace(queue, first_job=first_job)
            self._queues[queue.key] = queue
            self._changes.queues.append(queue)
        for environment in environments:
            before = self._environment(environment.key)
            is_fuller = before is not None and before.revision == environment.revision and before != environment
            if before is None or before.revision < environment.revision or is_fuller:
                self._environments[environment.key] = environment
                self._changes.environments.append(environment)

    def remove(self, choose: Callable[[JobWriter], Removal]) -> Removal:
        """Remove what is over, as chosen from what is stored. Must be the only command of its group."""
        self._changes.removal = choose(self._storage)
        return self._changes.removal

    # The end of a group

    def commit(self) -> Committed:
        """Write everything that the commands changed; only then is anything of it true. Then the group is over."""
        self._settle_dependents()
        self._decide_arrays()
        changes = self._changes
        changes.new_jobs = list(self._new.values())
        changes.jobs = [job for key, job in self._touched.items() if key not in self._new]
        changes.arrays = list(self._arrays.changed.values())
        self._summarize_arrays()
        specs = self._memory.specs(self._storage, [job for job, _ in self._offered])
        self._name_logs(specs)
        if changes:
            self._numbers.revision = self._storage.apply(self._numbers.epoch, changes)
            self._memory.committed(changes)
        for key, added in self._reserved.items():
            if reserved := self._numbers.reserved_vcpus.pop(key, 0) + added:
                self._numbers.reserved_vcpus[key] = reserved
        if self._offered:
            self._answer_offers(specs)
        self._effects.lines += [self._storage.part_of_line(*wanted) for wanted in self._wanted_lines]
        # The two know each other: what a group has held would wait for the garbage collector.
        del self._arrays
        return Committed(self._numbers.revision, bool(changes), self._effects, changes.events, self._decided)

    def _name_logs(self, specs: Mapping[int, bytes]) -> None:
        """Give the logs of runs that are offered the names that their jobs want."""
        for job, run in self._offered:
            prefix = log_stream_prefix(specs.get(job.spec_sequence, b""))
            if prefix and job.run is not None and job.run.fence == run.fence:
                job.run = replace(job.run, log_stream_name=log_stream_name(prefix, run.task_id))

    def _answer_offers(self, specs: Mapping[int, bytes]) -> None:
        """Tell of each offer. One that was given up in this very group is refused: nobody has heard of its fence."""
        given_up = set()
        for job, run in self._offered:
            if job.run is not None and job.run.fence == run.fence:
                spec = specs[job.spec_sequence]
                outcome = OfferOutcome(job.key, run.agent_id, job.run.incarnation, job.copy(), spec)
            else:
                given_up.add(run.fence)
                refusal = Refusal(Cause.AGENT, "the agent was lost, or has begun anew")
                outcome = OfferOutcome(job.key, run.agent_id, run.incarnation, refusal=refusal)
            self._effects.offers.append(outcome)
        self._effects.ended = [ended for ended in self._effects.ended if ended.fence not in given_up]

    def _cluster_of(self, key: EnvironmentKey) -> int | None:
        environment = self._environment(key)
        return environment.created if environment is not None and environment.cluster_arn else None

    def _why_not(self, job: Job | None, proposal: Proposal) -> Refusal | None:
        """Return why a proposal is not true any more, or None."""
        refusal = refused_for_job(job, proposal) or refused_for_agent(self._agent(proposal.agent_id), proposal)
        if refusal is not None or job is None:
            return refusal
        key = proposal.environment
        queue = self._queue(QueueKey(job.key.namespace, job.job_queue))
        reserved = self._numbers.reserved_vcpus.get(key, 0) + self._reserved.get(key, 0)
        return refused_for_environment(job, queue, self._environment(key), reserved, proposal)


def _definition_name(arn: str) -> str:
    return arn.rpartition("/")[2].rpartition(":")[0]
