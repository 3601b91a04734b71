"""The invariants, held against what really happens: every start and end of a process, every commit, every answer."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import astuple

from batchyard.agent.launcher.ledger import Fence, Need
from batchyard.domain.arrays import Children
from batchyard.domain.jobs import AgentId, Attempt, Job, JobId, JobKey
from batchyard.domain.lifecycle import TERMINAL, UNSTARTED_LOSSES_MAX, JobState, RunState
from batchyard.jobstore.effects import Committed, OfferOutcome
from batchyard.storage.jobs import EnvironmentKey
from batchyard.storage.sqlite.job_reader import SqliteJobReader
from batchyard.storage.sqlite.jobs import SqliteJobWriter
from simulation import intruder
from simulation.arrays import Arrays
from simulation.kernel import Kernel
from support.jobs import NAMESPACE


class ViolationError(AssertionError):
    """An invariant does not hold; the text begins with its name."""


class Checker:
    """Knows the truth, which no actor does."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.connection: sqlite3.Connection
        self.on_start: Callable[[], None] = lambda: None
        """Called after each start of a process: a good moment for faults."""
        self.on_rollback: Callable[[], None] = lambda: None
        self.on_offer: Callable[[AgentId], None] = lambda _: None
        self.capacities: dict[str, Need] = {}
        self.ceilings: dict[str, int] = {}
        """Thousandths of a vCPU, by compute environment."""
        self.dependencies: dict[JobId, Collection[JobId]] = {}
        self.arrays = Arrays()
        self.acknowledged: set[JobId] = set()
        self.times_set_back = 0
        self._forgotten: dict[JobId, Job] = {}
        """Jobs as they were just before the store was set back."""
        self._set_back_to = 0
        """Offers of an earlier epoch of the store may be forgotten."""
        self.stopped: set[JobId] = set()
        """Jobs that may not start any more: a cancel or terminate was acknowledged before they had started."""
        self.live: dict[Fence, tuple[str, Job]] = {}
        """Host and job of each process that runs."""
        self.starts: Counter[JobId] = Counter()
        self.kill_slack_s = 0.0
        """How late a run may be killed whose time is over."""
        self._fences: set[Fence] = set()
        self._begun: set[JobId] = set()
        """Jobs that have started once, or that the store says are about to."""
        self._tasks: dict[Fence, str] = {}
        self._exit_codes: dict[str, int | None] = {}
        """Of processes that have ended, by task id."""
        self._named: dict[str, JobId] = {}
        self._ends_by: dict[Fence, float] = {}
        self._attempts: set[tuple[JobId, int]] = set()
        self._states: dict[JobKey, JobState] = {}
        self._ends: dict[JobKey, tuple[object, ...]] = {}

    def require(self, holds: bool, invariant: str, text: str) -> None:
        """Raise ViolationError unless it holds."""
        if not holds:
            raise ViolationError(f"{invariant}: {text}")

    # Processes

    def started(
        self, host: str, fence: Fence, job_id: str, attempt: int, *, ends_within_s: float | None = None
    ) -> None:
        """Take in that a process has started, which must end within a time if it is given."""
        self._kernel.note(f"{host}: {job_id} starts, attempt {attempt}, fence {fence}")
        name = JobId(job_id)
        running = {other.key.job_id for _, other in self.live.values()}
        self.require(fence not in self._fences, "I3", f"{fence} of {name} starts twice")
        self.require(name not in running, "I4", f"{name} starts while it runs")
        if self._is_forgotten(fence, name):
            self._kernel.note(f"the store has forgotten {fence}")
            self._fences.add(fence)
            self._tasks[fence] = f"forgotten {fence}"
            self.live[fence] = (host, self._forgotten[name])
            return
        job = self._job(name)
        self.require((name, attempt) not in self._attempts, "I3", f"attempt {attempt} of {name} starts twice")
        self.require(
            job.run is not None and job.run.fence == fence, "I4", f"{name} starts under {fence}, the store: {job.run}"
        )
        self.require(name not in self.stopped, "I9", f"{name} starts after its cancel was acknowledged")
        assert job.run is not None
        self._tasks[fence] = job.run.task_id
        if ends_within_s is not None:
            self._ends_by[fence] = self._kernel.now + (ends_within_s + self.kill_slack_s) * 1.01
        self._fences.add(fence)
        self._attempts.add((name, attempt))
        self.starts[name] += 1
        self._begun.add(name)
        self.require(self.starts[name] <= job.attempts_allowed, "I5", f"{name} starts {self.starts[name]} times")
        for dependency in (*self.dependencies.get(self.arrays.array_of(name), ()), *self.arrays.dependencies(name)):
            state = self._job(dependency).state
            self.require(state is JobState.SUCCEEDED, "I6", f"{name} starts while {dependency} is {state.name}")
        self.live[fence] = (host, job)
        self._check_room(host, job)
        self.on_start()

    def never_started(self, fence: Fence) -> None:
        """Take in that a host says of a run that it has not started and never will."""
        self.require(fence not in self._fences, "I5", f"{fence} is told as never started, and has run")

    def ended(self, fence: Fence, exit_code: int | None) -> None:
        """Take in that a process, with all that came of it, has ended."""
        host, job = self.live.pop(fence)
        self._ends_by.pop(fence, None)
        self._exit_codes[self._tasks[fence]] = exit_code
        self._kernel.note(f"{host}: {job.key.job_id} ends, fence {fence}")

    def _check_room(self, host: str, started: Job) -> None:
        jobs = [job for place, job in self.live.values() if place == host]
        vcpus, memory, _ = self.capacities[host]
        self.require(sum(job.vcpus_milli for job in jobs) <= vcpus, "I7", f"{host} runs more vCPUs than it has")
        self.require(sum(job.memory_mib for job in jobs) <= memory, "I7", f"{host} runs more memory than it has")
        assert started.run is not None
        environment = started.run.compute_environment
        used = sum(
            job.vcpus_milli
            for _, job in self.live.values()
            if job.run is not None and job.run.compute_environment == environment
            if not self._is_forgotten(job.run.fence, job.key.job_id)
        )
        self.require(used <= self.ceilings[environment], "I7", f"{environment} is over its maxvCpus")

    # The store

    def committed(self, committed: Committed) -> None:
        """Take in a commit."""
        for change in committed.changes:
            for single in change.each():
                self._moved(single.key, single.state)
        for report in committed.effects.reports:
            self.require(
                report.stale or report.agent_id != intruder.AGENT_ID, "I13", f"what the intruder says counts: {report}"
            )
        for ended in committed.effects.ended:
            self.require(ended.fence not in self.live, "I4", f"{ended.fence} is over for the store, and runs")
        for offer in committed.effects.offers:
            if offer.refusal is None:
                drains = {drain.agent_id for drain in committed.effects.drains}
                self._check_place(offer, drained_later=offer.agent_id in drains)
                self.on_offer(offer.agent_id)
        if committed.changes:
            self._kernel.note(
                "commit " + ", ".join(f"{change.key.job_id} {change.state.name}" for change in committed.changes)
            )

    def _check_place(self, offer: OfferOutcome, *, drained_later: bool) -> None:
        assert offer.job is not None
        assert offer.job.run is not None
        writer = SqliteJobWriter(self.connection)
        name = offer.job.run.compute_environment
        key = EnvironmentKey(NAMESPACE, name)
        environment, agent = writer.environment(key), writer.agent(offer.agent_id)
        ceiling = environment.max_vcpus_milli if environment is not None else 0
        reserved = writer.reserved_vcpus().get(key, 0)
        self.require(ceiling is None or reserved <= ceiling, "I7", f"{reserved} of {ceiling} are reserved in {name}")
        is_open = agent is not None and (drained_later or not agent.draining)
        self.require(is_open, "I7", f"{offer.agent_id} gets an offer and is drained")

    def store_changed(self) -> None:
        """Look at everything: a commit that failed may have been applied."""
        for job in self._all_jobs():
            if self._states.get(job.key) is not job.state:
                self._moved(job.key, job.state, unseen=True)
            self.require(job.attempts_made <= job.attempts_allowed, "I5", f"{job.key.job_id} has too many attempts")
            self.require(job.unstarted_losses <= UNSTARTED_LOSSES_MAX, "I5", f"{job.key.job_id} is placed for ever")
        for fence, moment in self._ends_by.items():
            self.require(self._kernel.now <= moment, "I9", f"{fence} runs on after its timeout")
        for fence, (_, started) in self.live.items():
            if self._is_forgotten(fence, started.key.job_id):
                continue
            run = self._job(started.key.job_id).run
            self.require(run is not None and run.fence == fence, "I4", f"{fence} runs, and is not the current run")

    def _moved(self, key: JobKey, state: JobState, *, unseen: bool = False) -> None:
        before = self._states.get(key, JobState.SUBMITTED)
        self._states[key] = state
        exit_code = self._job(key.job_id).exit_code
        self.require(exit_code != intruder.FORGED_EXIT_CODE, "I13", f"{key.job_id} ends as the intruder says")
        self.require(before not in TERMINAL, "I1", f"{key.job_id} leaves {before.name}")
        forward = state > before or (state is JobState.RUNNABLE and before in (JobState.STARTING, JobState.RUNNING))
        # A run that is given up before anybody knows of its claim is retried: RUNNABLE again.
        same = state is before is JobState.RUNNABLE
        self.require(forward or same or unseen, "I2", f"{key.job_id} goes from {before.name} to {state.name}")
        if state in TERMINAL:
            job = self._job(key.job_id)
            self._ends[key] = astuple(job)
            self.require(
                all(
                    other.key != key or self._is_forgotten(fence, key.job_id) for fence, (_, other) in self.live.items()
                ),
                "I10",
                f"{key.job_id} is over, and runs",
            )

    # Clients

    def submit_acknowledged(self, job_id: JobId, name: str) -> None:
        """Take in that a client was told the id of its job; all of one name are one request, sent again and again."""
        self.acknowledged.add(job_id)
        self.require(self._named.setdefault(name, job_id) == job_id, "I11", f"{name} has two ids")

    def stop_acknowledged(self, job_id: JobId, *, terminated: bool) -> None:
        """Take in that a client was told that its cancel or terminate was done."""
        for name in (job_id, *self.arrays.children(job_id)):
            if terminated or name not in self._begun:
                self.stopped.add(name)

    def about_to_be_rolled_back(self) -> None:
        """Take in that the store is about to become what it was once."""
        self._forgotten.update((job.key.job_id, job) for job in self._all_jobs())

    def _is_forgotten(self, fence: Fence, job_id: JobId) -> bool:
        """Tell whether a run, which is alive or may come to be so, is not in the store, as that was set back."""
        if fence[0] >= self._set_back_to:
            return False
        _, found = SqliteJobReader(self.connection).jobs_at([JobKey(NAMESPACE, job_id)])
        return not found or found[0].run is None or found[0].run.fence != fence

    def rolled_back(self) -> None:
        """Take in that the store is what it was once: what has happened since then it may ask for again.

        Fences are never used again, and no two runs of a job overlap all the same, those that the store has forgotten
        among them.
        """
        self.times_set_back += 1
        (self._set_back_to,) = self.connection.execute("SELECT epoch FROM store").fetchone()
        jobs = {job.key: job for job in self._all_jobs()}
        self.acknowledged &= {key.job_id for key in jobs}
        self.stopped &= {key.job_id for key, job in jobs.items() if job.state in TERMINAL}
        self._named.clear()
        self._attempts.clear()
        self._states = {key: job.state for key, job in jobs.items()}
        self._ends = {key: astuple(job) for key, job in jobs.items() if job.state in TERMINAL}
        self.starts = Counter({key.job_id: job.attempts_made for key, job in jobs.items()})
        self._begun = {
            key.job_id for key, job in jobs.items() if job.attempts_made or job.state is not JobState.RUNNABLE
        }
        self.on_rollback()

    # The end

    def all_is_over(self) -> bool:
        """Tell whether every job has ended, and nothing runs."""
        return not self.live and all(job.state in TERMINAL for job in self._all_jobs())

    def check_end(self) -> None:
        """Check what must hold when the faults are over and everything had its time."""
        jobs = {job.key.job_id: job for job in self._all_jobs()}
        names = Counter(job.job_name for job in jobs.values() if job.parent is None)
        self.require(not any(count > 1 for count in names.values()), "I11", f"taken in twice: {names.most_common(1)}")
        for job_id in sorted(self.acknowledged):
            self.require(job_id in jobs, "I1", f"{job_id} was acknowledged and is not there")
        for job in jobs.values():
            self.require(job.state in TERMINAL, "I10", f"{job.key.job_id} is still {job.state.name}, run {job.run}")
            self.require(job.run is None, "I10", f"{job.key.job_id} is over and has a run")
            self.require(self._ends[job.key] == astuple(job), "I8", f"{job.key.job_id} has changed after its end")
            attempts = self._attempts_of(job)
            self.require(len(attempts) <= job.attempts_allowed, "I5", f"{job.key.job_id} has too many attempts")
            for attempt in attempts:
                code = self._exit_codes.get(attempt.task_id)
                said = attempt.exit_code
                self.require(
                    said is None or said == code, "I8", f"{attempt} of {job.key.job_id}: it exited with {code}"
                )
            if job.state is JobState.SUCCEEDED and job.children is None:
                code = self._exit_codes.get(job.task_id or "")
                self.require(code == 0, "I8", f"{job.key.job_id} succeeded, and exited with {code}")
            if job.children is not None:
                self._check_children(job, job.children)
        self.require(not self.live, "I10", f"these run without an owner: {sorted(self.live)}")

    def _check_children(self, array: Job, children: Children) -> None:
        states = Counter(self._job(name).state for name in self.arrays.children(array.key.job_id))
        counts = {state: count for state, count in children.summary().items() if count}
        self.require(states == counts, "I1", f"children of {array.key.job_id} are {states}, its summary {counts}")
        self.require(states.keys() <= TERMINAL, "I10", f"{array.key.job_id} is over, its children {states}")
        expected = JobState.SUCCEEDED if states.keys() == {JobState.SUCCEEDED} else JobState.FAILED
        self.require(array.state is expected, "I1", f"{array.key.job_id} is {array.state.name}, its children {states}")

    def _attempts_of(self, job: Job) -> Collection[Attempt]:
        (record,) = SqliteJobReader(self.connection).describe([job.key])
        return record.attempts

    def _job(self, job_id: JobId) -> Job:
        _, (job,) = SqliteJobReader(self.connection).jobs_at([JobKey(NAMESPACE, job_id)])
        return job

    def _all_jobs(self) -> list[Job]:
        keys = [JobKey(*row) for row in self.connection.execute("SELECT namespace, job_id FROM jobs ORDER BY sequence")]
        return SqliteJobWriter(self.connection).jobs(keys)

    def held_runs(self) -> int:
        """Return how many jobs have a claimed or started run."""
        return sum(job.run is not None and job.run.state >= RunState.CLAIMED for job in self._all_jobs())
