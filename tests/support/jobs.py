"""Jobs and a job store for tests: the production core on SQLite in memory, without threads or clocks."""

import itertools
import sqlite3
from collections.abc import Callable
from dataclasses import replace

from batchyard.domain.jobs import AgentId, Fence, Job, JobId, JobKey, Run, RunReport, child_key
from batchyard.domain.lifecycle import JobState, RunEnd, RunState
from batchyard.jobstore.core import Command, GroupResult, JobStoreCore, run_group
from batchyard.jobstore.effects import Committed, QueuedJob
from batchyard.jobstore.group import Group, Submission
from batchyard.jobstore.offers import Proposal
from batchyard.storage.jobs import EnvironmentCopy, EnvironmentKey, QueueCopy, QueueKey
from batchyard.storage.sqlite.database import connect
from batchyard.storage.sqlite.job_reader import SqliteJobReader
from batchyard.storage.sqlite.jobs import SqliteJobWriter, migrate_jobs

NAMESPACE = "123456789012"
AGENT = AgentId("agent-1")
QUEUE = QueueCopy(
    key=QueueKey(NAMESPACE, "queue"),
    arn=f"arn:aws:batch:us-east-1:{NAMESPACE}:job-queue/queue",
    open=True,
    gone=False,
    revision=1,
    environments=("environment",),
)
ENVIRONMENT = EnvironmentCopy(EnvironmentKey(NAMESPACE, "environment"), usable=True, max_vcpus_milli=None, revision=1)


def a_key(name: str = "job", *, namespace: str = NAMESPACE) -> JobKey:
    return JobKey(namespace, JobId(name))


def a_job(name: str = "job", *, queue: str = "queue", attempts: int = 1, namespace: str = NAMESPACE) -> Job:
    return Job(
        key=a_key(name, namespace=namespace),
        sequence=0,
        job_name=f"name-of-{name}",
        job_queue=queue,
        job_definition=f"arn:aws:batch:us-east-1:{namespace}:job-definition/definition:1",
        vcpus_milli=1000,
        memory_mib=128,
        gpus=0,
        attempts_allowed=attempts,
        created_at=0,
    )


def a_run(number: int = 1, *, state: RunState = RunState.OFFERED, agent_id: AgentId = AGENT) -> Run:
    return Run(
        fence=Fence(1, number),
        agent_id=agent_id,
        incarnation=1,
        compute_environment="environment",
        state=state,
        task_id=f"task-{number}",
        log_stream_name=f"definition/default/task-{number}",
    )


class Store:
    """A job store that does one group at a time, with a clock that is set by hand."""

    def __init__(self, connection: sqlite3.Connection | None = None) -> None:
        self.connection = connection or connect(":memory:")
        migrate_jobs(self.connection)
        self.writer = SqliteJobWriter(self.connection)
        self.reader = SqliteJobReader(self.connection)
        self.now = 1000
        self.restart()
        self.do(lambda group: group.settle([QUEUE], [ENVIRONMENT]))

    def restart(self) -> None:
        self.core = JobStoreCore(self.writer)

    def group(self, *acts: Callable[[Group], object]) -> GroupResult:
        return run_group(self.core, [Command(act) for act in acts], self.now)

    def do(self, act: Callable[[Group], object]) -> Committed:
        result = self.group(act)
        (answer,) = result.answers
        if isinstance(answer, Exception):
            raise answer
        return result.committed

    def submit(
        self, name: str = "job", *, after: tuple[str, ...] = (), queue: str = "queue", attempts: int = 1
    ) -> JobKey:
        job = a_job(name, queue=queue, attempts=attempts)
        submission = Submission(job, f"spec of {name}".encode(), tuple(a_key(other) for other in after))
        self.do(lambda group: group.submit(submission))
        return job.key

    def submit_array(
        self,
        name: str = "array",
        size: int = 3,
        *,
        after: tuple[str, ...] = (),
        paired_with: tuple[str, ...] = (),
        sequential: bool = False,
        attempts: int = 1,
    ) -> JobKey:
        job = a_job(name, attempts=attempts)
        submission = Submission(
            job,
            f"spec of {name}".encode(),
            tuple(a_key(other) for other in after),
            array_size=size,
            sequential=sequential,
            paired_with=tuple(a_key(other) for other in paired_with),
        )
        self.do(lambda group: group.submit(submission))
        return job.key

    def register(
        self,
        agent_id: AgentId = AGENT,
        incarnation: int = 1,
        *,
        known: tuple[Fence, ...] = (),
        claimed_before: tuple[Fence, ...] = (),
        lease_ms: int = 0,
    ) -> Committed:
        return self.do(lambda group: group.register(agent_id, incarnation, known, claimed_before, lease_ms))

    def offer(self, key: JobKey, agent_id: AgentId = AGENT, incarnation: int = 1) -> Run:
        """Offer a RUNNABLE job to a registered agent and return the run."""
        proposal = Proposal(key, self.seen(key).version, agent_id, incarnation, "environment")
        self.do(lambda group: group.offer(proposal))
        run = self.job(key).run
        assert run is not None, "the offer was refused"
        return run

    def report(self, key: JobKey, run: Run, state: RunState, *, incarnation: int = 1, **more: object) -> Committed:
        report = replace(RunReport(run.fence, key, state), **more)  # type: ignore[arg-type]  # members of RunReport
        return self.do(lambda group: group.report(run.agent_id, incarnation, report))

    def run_to_end(self, key: JobKey, *, exit_code: int | None = 0, end: RunEnd = RunEnd.EXITED) -> Committed:
        """Offer the job and have its agent say that it has ended."""
        run = self.offer(key)
        started = None if end is RunEnd.START_FAILED else 5
        return self.report(
            key, run, RunState.DONE, started_ago_ms=started, ended_ago_ms=2, exit_code=exit_code, end=end
        )

    def job(self, key: JobKey) -> Job:
        (job,) = self.writer.jobs([key])
        return job

    def seen(self, key: JobKey) -> Job:
        """Return a job as clients see it: a child needs no row."""
        _, (job,) = self.reader.jobs_at([key])
        return job

    def states(self, array: JobKey) -> list[JobState]:
        """Return the states of an array's children, and check that its summary agrees with them."""
        children = self.job(array).children
        assert children is not None
        states = [self.seen(child_key(array, index)).state for index in range(children.size)]
        assert children.summary() == {state: states.count(state) for state in JobState}
        return states

    def queued(self, committed: Committed) -> list[QueuedJob]:
        return list(committed.effects.runnable.values())


def names() -> Callable[[], str]:
    """Return a maker of job names that are all different."""
    counter = itertools.count(1)
    return lambda: f"job-{next(counter)}"
