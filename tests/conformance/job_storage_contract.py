"""What every engine of the job store must do."""

import abc
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from batchyard.domain.arrays import Children
from batchyard.domain.errors import HistoryGoneError
from batchyard.domain.jobs import AgentId, Attempt, Job, JobChange, JobId
from batchyard.domain.lifecycle import JobState, RunState
from batchyard.domain.lines import order_of, rounded_time_limit
from batchyard.domain.names import log_stream_name, task_id
from batchyard.domain.retries import ExitRule, RetryAction
from batchyard.storage.job_reader import JobReader
from batchyard.storage.jobs import (
    AgentRecord,
    Answer,
    Changes,
    Dependency,
    EnvironmentCopy,
    EnvironmentKey,
    FinishedJob,
    JobWriter,
    Leader,
    LogKey,
    NewJob,
    QueueCopy,
    QueueKey,
    Removal,
    RequestKey,
    StorageError,
)
from batchyard.storage.lines import LineName
from batchyard.storage.listings import JobFilter, Pattern
from support.jobs import AGENT, NAMESPACE, a_job, a_key, a_run

QUEUE = QueueKey(NAMESPACE, "queue")


def stored(name: str, sequence: int, *, state: JobState = JobState.RUNNABLE, queue: str = "queue") -> Job:
    return replace(a_job(name, queue=queue), sequence=sequence, state=state)


def new(*jobs: Job, depends_on: tuple[int, ...] = ()) -> Changes:
    return Changes(new_jobs=[NewJob(job, f"spec {job.sequence}".encode(), depends_on) for job in jobs])


def a_change(name: str, state: JobState = JobState.RUNNABLE) -> JobChange:
    return JobChange(a_key(name), name, "queue", state, None, 1000, 0, None, None, None)


class JobStorageContract(abc.ABC):
    @pytest.fixture
    @abc.abstractmethod
    def writer(self) -> JobWriter: ...

    @pytest.fixture
    @abc.abstractmethod
    def reader(self, writer: JobWriter) -> Iterator[JobReader]: ...

    @pytest.fixture
    def epoch(self, writer: JobWriter) -> int:
        return writer.begin_epoch().epoch

    def test_each_writer_has_a_higher_epoch_and_the_one_before_can_write_no_more(self, writer: JobWriter) -> None:
        first, second = writer.begin_epoch().epoch, writer.begin_epoch().epoch
        assert second > first
        with pytest.raises(StorageError, match="superseded"):
            writer.apply(first, new(stored("job", 1)))
        assert writer.jobs([a_key("job")]) == []
        writer.apply(second, new(stored("job", 1)))

    def test_a_new_writer_goes_on_where_the_last_one_stood(self, writer: JobWriter, epoch: int) -> None:
        revision = writer.apply(epoch, new(stored("a", 1), stored("b", 2)))
        writer.apply(epoch, Changes(leader=Leader(7, "scheduler")))
        counters = writer.begin_epoch()
        assert (counters.sequence, counters.job_id) == (2, JobId("b"))
        assert counters.leader == Leader(7, "scheduler")
        assert counters.revision == revision + 1

    def test_every_commit_has_the_next_revision(self, writer: JobWriter, reader: JobReader, epoch: int) -> None:
        revisions = [writer.apply(epoch, new(stored(str(number), number))) for number in range(1, 4)]
        assert revisions == list(range(revisions[0], revisions[0] + 3))
        assert reader.revision() == revisions[-1]

    def test_a_job_comes_back_as_it_was_written(self, writer: JobWriter, epoch: int) -> None:
        full = replace(
            stored("full", 1, state=JobState.RUNNING),
            version=9,
            status_reason="because",
            dependencies_left=2,
            attempts_made=1,
            unstarted_losses=3,
            run=replace(a_run(3, state=RunState.STARTED), evicted=True),
            stop_reason="enough",
            cancelled=True,
            terminated=True,
            started_at=5,
            stopped_at=6,
            exit_code=0,
            reason="reason",
            agent_id=AGENT,
            task_id="task",
            log_stream_name="stream",
            exit_rules=(ExitRule(RetryAction.EXIT, on_reason="a*"), ExitRule(RetryAction.RETRY, on_exit_code="1")),
            runnable_at=4,
            share_identifier="share",
        )
        writer.apply(epoch, new(full, stored("bare", 2)))
        assert writer.jobs([full.key]) == [full]
        assert writer.jobs([a_key("bare"), a_key("unknown")]) == [stored("bare", 2)]
        changed = replace(full, state=JobState.SUCCEEDED, run=None, exit_code=1, cancelled=False)
        writer.apply(epoch, Changes(jobs=[changed]))
        assert writer.jobs([full.key]) == [changed]
        assert writer.specs([1, 2]) == {1: b"spec 1", 2: b"spec 2"}

    def test_more_jobs_than_one_query_can_name_are_found(self, writer: JobWriter, epoch: int) -> None:
        jobs = [stored(f"job-{number}", number) for number in range(1, 1202)]
        writer.apply(epoch, new(*jobs))
        assert {job.key for job in writer.jobs([job.key for job in jobs])} == {job.key for job in jobs}
        assert len(writer.specs([job.sequence for job in jobs])) == len(jobs)

    def test_jobs_of_other_namespaces_are_not_seen(self, writer: JobWriter, reader: JobReader, epoch: int) -> None:
        other = replace(a_job("job", namespace="210987654321"), sequence=1, state=JobState.RUNNABLE)
        writer.apply(epoch, new(other))
        assert writer.jobs([a_key("job")]) == []
        assert reader.page(QUEUE, JobState.RUNNABLE, None, 10) == []
        assert reader.newest_named(NAMESPACE, other.job_name, "queue") is None
        assert not writer.has_unfinished_jobs(QUEUE)

    def test_dependents_are_found_by_what_they_wait_for(self, writer: JobWriter, epoch: int) -> None:
        writer.apply(epoch, new(stored("a", 1), stored("b", 2)))
        writer.apply(epoch, new(stored("c", 3), stored("d", 4), depends_on=(1, 2)))
        found = [(on, job.key.job_id) for on, job in writer.dependents([1, 2, 3])]
        assert found == [(1, "c"), (1, "d"), (2, "c"), (2, "d")]

    def test_the_jobs_of_an_agent_are_those_with_a_run_on_it(self, writer: JobWriter, epoch: int) -> None:
        running = replace(stored("running", 1), run=a_run())
        writer.apply(epoch, new(running, stored("waiting", 2)))
        assert writer.jobs_of_agent(AGENT) == [running]
        writer.apply(epoch, Changes(jobs=[replace(running, run=None)]))
        assert writer.jobs_of_agent(AGENT) == []

    def test_a_queue_has_unfinished_jobs_until_the_last_has_ended(self, writer: JobWriter, epoch: int) -> None:
        job = stored("job", 1, state=JobState.PENDING)
        writer.apply(epoch, new(job, stored("over", 2, state=JobState.FAILED)))
        assert writer.has_unfinished_jobs(QUEUE)
        writer.apply(epoch, Changes(jobs=[replace(job, state=JobState.SUCCEEDED)]))
        assert not writer.has_unfinished_jobs(QUEUE)

    def test_jobs_are_counted_by_queue_and_state_with_children_in_place_of_arrays(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        queues = [QueueCopy(QueueKey(NAMESPACE, name), "arn", open=True, gone=False, revision=1) for name in "ab"]
        children = Children(
            5, sequential=False, paired=False, created_at=1, changed_at=1, pending=0b11, runnable=0b1100
        )
        children.rows_running = 1
        array = replace(stored("array", 10, state=JobState.PENDING, queue="b"), children=children)
        child = replace(stored("array:4", 15, state=JobState.RUNNING, queue="b"), parent=10)
        jobs = [
            *(stored(f"waits {number}", number, queue="a") for number in (1, 2)),
            stored("runs", 3, state=JobState.RUNNING, queue="a"),
            stored("over", 4, state=JobState.SUCCEEDED, queue="a"),
        ]
        writer.apply(epoch, replace(new(*jobs, array, child), queues=queues, arrays=[array]))
        a, b = (queue.key for queue in queues)
        assert reader.tallies() == {
            (a, JobState.RUNNABLE): 2,
            (a, JobState.RUNNING): 1,
            (b, JobState.PENDING): 2,
            (b, JobState.RUNNABLE): 2,
            (b, JobState.RUNNING): 1,
        }

    def test_queues_and_agents_are_kept_and_replaced(self, writer: JobWriter, reader: JobReader, epoch: int) -> None:
        queue = QueueCopy(QUEUE, "arn", open=True, gone=False, revision=3, environments=("first", "second"))
        queue = replace(queue, created=2, first_job=7)
        agent = AgentRecord(AGENT, 1, live=True, draining=True, drain_limit_ms=5000, lease_ms=60_000)
        writer.apply(epoch, Changes(queues=[queue], agents=[agent]))
        assert (writer.queue(QUEUE), writer.agent(AGENT)) == (queue, agent)
        queue, agent = replace(queue, open=False, gone=True, revision=4), replace(agent, incarnation=2, live=False)
        writer.apply(epoch, Changes(queues=[queue], agents=[agent]))
        assert (writer.queue(QUEUE), writer.agent(AGENT)) == (queue, agent)
        assert reader.queues() == [queue]
        assert writer.queue(QueueKey(NAMESPACE, "other")) is None

    def test_environments_are_kept_and_replaced(self, writer: JobWriter, reader: JobReader, epoch: int) -> None:
        key = EnvironmentKey(NAMESPACE, "environment")
        environment = EnvironmentCopy(key, usable=True, max_vcpus_milli=4000, revision=3)
        writer.apply(epoch, Changes(environments=[environment]))
        assert writer.environment(key) == environment
        environment = replace(environment, usable=False, max_vcpus_milli=None, revision=4)
        writer.apply(epoch, Changes(environments=[environment]))
        assert (writer.environment(key), reader.environments()) == (environment, [environment])
        assert writer.environment(EnvironmentKey("210987654321", "environment")) is None

    def test_the_cluster_of_an_environment_outlives_it(self, writer: JobWriter, reader: JobReader, epoch: int) -> None:
        key = EnvironmentKey(NAMESPACE, "environment")
        first = EnvironmentCopy(key, usable=True, max_vcpus_milli=None, revision=3, created=2, cluster_arn="first")
        second = replace(first, revision=5, created=5, cluster_arn="second")
        for environment in (first, second):
            writer.apply(epoch, Changes(environments=[environment]))
            assert (writer.environment(key), reader.environments()) == (environment, [environment])
        run = replace(a_run(1), cluster=5)
        job = replace(stored("a", 1), run=run, cluster=5)
        attempt = Attempt(1, AGENT, "task-1", None, "reason", None, 2, None, None, cluster=2)
        writer.apply(epoch, new(job, stored("b", 2)))
        writer.apply(epoch, Changes(attempts=[(1, attempt), (2, replace(attempt, cluster=None))]))
        found, other = reader.describe([a_key("a"), a_key("b")])
        assert (found.job.run, found.job.cluster, list(found.attempts)) == (run, 5, [attempt])
        assert {number: found.clusters[number] for number in (2, 5)} == {2: "first", 5: "second"}
        assert (other.job.cluster, other.attempts[0].cluster) == (None, None)

    def test_what_runs_reserve_is_added_up_by_environment(self, writer: JobWriter, epoch: int) -> None:
        other = replace(a_run(3), compute_environment="other")
        apart = replace(a_job("apart", namespace="210987654321"), sequence=5, state=JobState.RUNNABLE, run=a_run(4))
        writer.apply(
            epoch,
            new(
                replace(stored("offered", 1), run=a_run(1)),
                replace(stored("started", 2, state=JobState.RUNNING), run=a_run(2, state=RunState.STARTED)),
                replace(stored("other", 3), run=other),
                stored("waiting", 4),
                apart,
            ),
        )
        assert writer.reserved_vcpus() == {
            EnvironmentKey(NAMESPACE, "environment"): 2000,
            EnvironmentKey(NAMESPACE, "other"): 1000,
            EnvironmentKey("210987654321", "environment"): 1000,
        }

    def test_a_description_has_the_attempts_in_order(self, writer: JobWriter, reader: JobReader, epoch: int) -> None:
        writer.apply(epoch, new(stored("a", 1), stored("b", 2)))
        attempts = [
            Attempt(number, AGENT, f"task-{number}", "stream", "reason", 1, 2, 0, "detail") for number in (1, 2)
        ]
        nothing = Attempt(3, AGENT, "task-3", None, "reason", None, 2, None, None)
        writer.apply(epoch, Changes(attempts=[(1, attempt) for attempt in (*attempts, nothing)]))
        keys = [a_key("b"), a_key("unknown"), a_key("a"), a_key("b")]
        records = reader.describe(keys)
        assert [record.job.key.job_id for record in records] == ["b", "a"]
        assert [list(record.attempts) for record in records] == [[], [*attempts, nothing]]
        assert records[1].spec == b"spec 1"

    def test_pages_go_from_the_newest_to_the_oldest(self, writer: JobWriter, reader: JobReader, epoch: int) -> None:
        jobs = [stored(f"job-{number}", number) for number in range(1, 6)]
        writer.apply(epoch, new(*jobs, stored("over", 6, state=JobState.FAILED), stored("other", 7, queue="other")))
        first = reader.page(QUEUE, JobState.RUNNABLE, None, 3)
        assert [job.sequence for job in first] == [5, 4, 3]
        assert [job.sequence for job in reader.page(QUEUE, JobState.RUNNABLE, 3, 3)] == [2, 1]

    def test_jobs_of_a_queue_that_is_no_more_are_not_those_of_another_one_with_its_name(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        jobs = [
            replace(stored(str(number), number, state=JobState.FAILED), job_name="twin", created_at=number)
            for number in range(1, 5)
        ]
        queue = QueueCopy(QUEUE, "arn", open=True, gone=False, revision=3, created=3, first_job=3)
        writer.apply(epoch, Changes(queues=[queue]))
        writer.apply(epoch, new(*jobs))
        assert [job.sequence for job in reader.page(QUEUE, JobState.FAILED, None, 9)] == [4, 3]
        for wanted in (JobFilter(names=(Pattern("twin"),)), JobFilter(created_after=0)):
            assert [job.sequence for job in reader.filtered(QUEUE, wanted, None, 9).jobs] == [4, 3]
        assert [record.job.sequence for record in reader.describe([a_key("1"), a_key("3")])] == [1, 3]
        writer.apply(epoch, Changes(queues=[replace(queue, first_job=5)]))
        assert reader.page(QUEUE, JobState.FAILED, None, 9) == []
        # By its name alone a job is found in whatever queue it was, but there only after those of other queues.
        assert reader.newest_named(NAMESPACE, "twin", "queue") == a_key("4")

    def test_a_name_finds_the_newest_job_of_the_queue_first(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        jobs = [replace(stored(str(n), n, queue=queue), job_name="twin") for n, queue in ((1, "queue"), (2, "other"))]
        writer.apply(epoch, new(*jobs))
        assert reader.newest_named(NAMESPACE, "twin", "queue") == a_key("1")
        assert reader.newest_named(NAMESPACE, "twin", "elsewhere") == a_key("2")
        assert reader.newest_named(NAMESPACE, "nobody", "queue") is None

    def test_events_are_read_from_any_revision_in_order(self, writer: JobWriter, reader: JobReader, epoch: int) -> None:
        commits = []
        for number in range(1, 5):
            changes = new(stored(str(number), number))
            changes.events = [a_change(str(number))] if number != 2 else []
            commits.append((writer.apply(epoch, changes), changes.events))
        with_events = [commit for commit in commits if commit[1]]
        assert reader.changes_after(commits[0][0] - 1, 10) == with_events
        assert reader.changes_after(commits[0][0], 10) == with_events[1:]
        assert reader.changes_after(commits[0][0], 1) == with_events[1:2]

    def test_events_from_before_what_is_kept_are_refused(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        self.forget_events(writer)
        with pytest.raises(HistoryGoneError, match="no longer kept"):
            reader.changes_after(0, 10)

    @abc.abstractmethod
    def forget_events(self, writer: JobWriter) -> None:
        """Bring the store to where the events after revision 0 are no longer kept."""

    # What is over

    def test_finished_jobs_are_found_in_the_order_of_their_end(self, writer: JobWriter, epoch: int) -> None:
        ends = {1: 300, 2: 100, 3: None, 4: 200, 5: 200, 6: 400}
        jobs = [
            replace(stored(str(number), number, state=JobState.FAILED if end else JobState.RUNNING), ended_at=end)
            for number, end in ends.items()
        ]
        writer.apply(epoch, new(*jobs))
        found = writer.finished_jobs(400, None, 10)
        assert [(job.ended_at, job.sequence) for job in found] == [(100, 2), (200, 4), (200, 5), (300, 1)]
        assert writer.finished_jobs(400, None, 2) == found[:2]
        assert writer.finished_jobs(400, found[1], 2) == found[2:]
        assert writer.finished_jobs(100, None, 10) == []

    def test_a_job_that_goes_takes_its_spec_and_attempts_along(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        writer.apply(epoch, new(stored("a", 1, state=JobState.FAILED), stored("b", 2, state=JobState.FAILED)))
        attempts = [(n, Attempt(1, AGENT, "task", None, "reason", None, 2, None, None)) for n in (1, 2)]
        writer.apply(epoch, Changes(attempts=attempts))
        writer.apply(epoch, Changes(removal=Removal(jobs=[1])))
        assert [record.job.key for record in reader.describe([a_key("a"), a_key("b")])] == [a_key("b")]
        assert list(writer.specs([1, 2])) == [2]
        # Nothing of the first job shows in one that would have its number.
        writer.apply(epoch, new(stored("c", 1)))
        assert [list(record.attempts) for record in reader.describe([a_key("c")])] == [[]]

    def test_the_numbers_of_jobs_that_have_gone_do_not_come_again(self, writer: JobWriter, epoch: int) -> None:
        writer.apply(epoch, new(*(stored(name, n, state=JobState.FAILED) for n, name in ((1, "a"), (2, "b")))))
        writer.apply(epoch, Changes(removal=Removal(jobs=[2])))
        writer.apply(epoch, Changes(removal=Removal(jobs=[1])))
        counters = writer.begin_epoch()
        assert (counters.sequence, counters.job_id) == (2, JobId("b"))

    def test_who_depends_on_a_job_is_told_with_whether_it_still_waits(self, writer: JobWriter, epoch: int) -> None:
        writer.apply(epoch, new(stored("a", 1, state=JobState.FAILED), stored("b", 2, state=JobState.FAILED)))
        over, waits = stored("over", 3, state=JobState.FAILED), stored("waits", 4, state=JobState.PENDING)
        writer.apply(epoch, new(over, waits, stored("gone", 5, state=JobState.FAILED), depends_on=(1, 2)))
        writer.apply(epoch, Changes(removal=Removal(jobs=[5])))
        asked = [FinishedJob(0, number) for number in (2, 1, 3)]
        found = writer.dependencies(asked, 100)
        assert found == [Dependency(on, on, n, waiting=n == 4) for on in (2, 1) for n in (3, 4, 5)]
        assert writer.dependencies(asked, 4) == found[:4]
        writer.apply(epoch, Changes(removal=Removal(dependencies=[(2, 3), (1, 4)])))
        assert [(edge.depends_on, edge.dependent) for edge in writer.dependencies(asked[1::-1], 100)] == [
            *((1, 3), (1, 5)),
            *((2, 4), (2, 5)),
        ]

    def test_agents_that_are_gone_for_long_are_found_unless_a_run_names_them(
        self, writer: JobWriter, epoch: int
    ) -> None:
        agents = [
            AgentRecord(AgentId("live"), 1, live=True),
            AgentRecord(AgentId("early"), 1, live=False, gone_at=100),
            AgentRecord(AgentId("late"), 1, live=False, gone_at=200),
            AgentRecord(AgentId("named"), 1, live=False, gone_at=100),
        ]
        holding = replace(stored("job", 1), run=a_run(agent_id=AgentId("named")))
        writer.apply(epoch, Changes(agents=agents, new_jobs=[NewJob(holding, b"")]))
        assert writer.gone_agents(200, 10) == ["early"]
        assert sorted(writer.gone_agents(201, 10)) == ["early", "late"]
        writer.apply(epoch, Changes(removal=Removal(agents=[AgentId("early")])))
        assert writer.agent(AgentId("early")) is None
        assert writer.agent(AgentId("late")) == agents[2]

    def test_events_go_up_to_a_revision_and_a_watch_from_before_it_is_told(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        revisions = []
        for number, at in enumerate((100, 200, 150, 300), start=1):
            changes = new(stored(str(number), number))
            changes.events = [replace(a_change(str(number)), at=at)]
            revisions.append(writer.apply(epoch, changes))
        assert writer.events_before(100, 10) == 0
        # The clock was set back in between: the order of the commits counts.
        assert writer.events_before(160, 10) == revisions[0]
        assert writer.events_before(250, 10) == revisions[2]
        assert writer.events_before(250, 2) == revisions[1]
        writer.apply(epoch, Changes(removal=Removal(events_to=revisions[2])))
        with pytest.raises(HistoryGoneError, match="no longer kept"):
            reader.changes_after(revisions[1], 10)
        assert [revision for revision, _ in reader.changes_after(revisions[2], 10)] == [revisions[3]]

    def test_logs_are_known_as_long_as_an_attempt_or_a_run_of_a_job_has_them(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        of_attempt, of_run, of_nobody = (
            LogKey(NAMESPACE, log_stream_name("definition", task_id(sequence, bytes([number]) * 16)))
            for number, sequence in ((1, 7), (2, 7), (3, 8))
        )
        run = replace(a_run(), log_stream_name=of_run.log_stream_name)
        writer.apply(epoch, new(replace(stored("job", 7), run=run)))
        attempt = Attempt(1, AgentId("earlier"), "task", of_attempt.log_stream_name, "reason", 1, 2, 0, None)
        writer.apply(epoch, Changes(attempts=[(7, attempt)]))
        # Of a time when the id of a task did not say its job.
        old = LogKey(NAMESPACE, f"definition/default/{'e' * 32}")
        old_attempt = replace(attempt, number=2, log_stream_name=old.log_stream_name)
        writer.apply(epoch, Changes(attempts=[(7, old_attempt)]))
        elsewhere, unnamed = LogKey("210987654321", of_run.log_stream_name), LogKey(NAMESPACE, "no/task")
        asked = [of_attempt, of_run, of_nobody, old, elsewhere, unnamed]
        assert reader.log_owners(asked) == {of_attempt: "earlier", of_run: run.agent_id, old: "earlier"}
        writer.apply(epoch, Changes(removal=Removal(jobs=[7])))
        assert reader.log_owners(asked) == {}

    def test_a_snapshot_has_all_active_jobs_at_one_revision(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        offered = replace(stored("offered", 1), run=a_run(1))
        claimed = replace(stored("claimed", 2, state=JobState.STARTING), run=a_run(2, state=RunState.CLAIMED))
        waiting = stored("waiting", 3)
        rest = [stored("pending", 4, state=JobState.PENDING), stored("over", 5, state=JobState.SUCCEEDED)]
        changes = new(offered, claimed, waiting, *rest)
        drained = AgentRecord(AgentId("drained"), 1, live=False, draining=True)
        changes.agents = [AgentRecord(AGENT, 1, live=True), AgentRecord(AgentId("dead"), 1, live=False), drained]
        revision = writer.apply(epoch, changes)
        snapshot = reader.snapshot(10)
        writer.apply(epoch, Changes(jobs=[replace(waiting, state=JobState.FAILED)]))
        pages = list(snapshot.pages)
        assert snapshot.revision == revision
        assert [agent.agent_id for agent in snapshot.agents] == [AGENT, "drained"]
        assert [run for page in pages for run in page.runs] == [(offered, b"spec 1"), (claimed, None)]
        assert [job_id for page in pages for part in page.lines for job_id in part.job_ids] == ["waiting"]
        assert reader.revision() == revision + 1

    def test_lines_are_read_in_their_order_from_any_place_and_no_more_of_them_than_is_wanted(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        random = Random(7)
        jobs = []
        for sequence in range(1, 121):
            share = random.choice([None, None, "a", "b"])
            job = replace(
                stored(f"job-{sequence}", sequence, queue=random.choice(["queue", "queue", "other"])),
                vcpus_milli=random.choice([250, 1000]),
                memory_mib=random.choice([128, 128, 256]),
                gpus=random.choice([0, 0, 1]),
                share_identifier=share,
                scheduling_priority=random.choice([0, 0, 3]),
                timeout_s=random.choice([None, 60, 61, 70, 100_000_000]),
                version=sequence,
            )
            if random.random() < 0.3:
                job = random.choice(
                    [replace(job, state=JobState.SUCCEEDED), replace(job, run=a_run(sequence)), replace(job, parent=1)]
                )
            jobs.append(job)
        writer.apply(epoch, new(*jobs))
        expected: dict[LineName, list[tuple[int, str, int]]] = {}
        for job in jobs:
            if job.state is JobState.RUNNABLE and job.run is None:
                need = (job.vcpus_milli, job.memory_mib, job.gpus)
                name = LineName(
                    *(job.key.namespace, job.job_queue, job.share_identifier, *need), rounded_time_limit(job.timeout_s)
                )
                place = order_of(job.share_identifier or "", job.scheduling_priority, job.sequence)
                expected.setdefault(name, []).append((place, job.key.job_id, job.version))
        assert max(map(len, expected.values())) > 3
        for limit in (1, 2, 3, 1000):
            parts = [part for page in reader.snapshot(limit).pages for part in page.lines]
            assert len(parts) == len(expected) == len({part.line for part in parts})
            for part in parts:
                line = sorted(expected[part.line])
                for after in (-1, *(place for place, _, _ in line)):
                    rest = [job for job in line if job[0] > after]
                    told = part if after == -1 else writer.part_of_line(part.line, after, limit)
                    assert list(zip(told.places, told.job_ids, told.versions, strict=True)) == rest[:limit]
                    assert (told.after, told.more) == (after, len(rest) > limit)

    def test_a_page_of_a_snapshot_fits_into_a_message_however_large_its_jobs_are(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        offered = [replace(stored(f"job-{number}", number), run=a_run(number)) for number in range(1, 41)]
        writer.apply(epoch, Changes(new_jobs=[NewJob(job, bytes(128 * 1024), ()) for job in offered]))
        pages = list(reader.snapshot(10).pages)
        assert [job for page in pages for job, _ in page.runs] == offered
        assert all(sum(len(spec or b"") for _, spec in page.runs) < 2 * 1024 * 1024 for page in pages)

    def test_an_answer_comes_back_to_writer_and_reader(self, writer: JobWriter, reader: JobReader, epoch: int) -> None:
        writer.apply(epoch, Changes(answers=[Answer(RequestKey(b"a"), b"one", 5), Answer(RequestKey(b"b"), b"", 5)]))
        for asked in (writer, reader):
            assert asked.answer(RequestKey(b"a")) == b"one"
            assert asked.answer(RequestKey(b"b")) == b""
            assert asked.answer(RequestKey(b"c")) is None

    def test_a_filtered_listing_shows_each_match_once_newest_first(
        self, writer: JobWriter, reader: JobReader, epoch: int
    ) -> None:
        def made(
            name: str, sequence: int, at: int, definition: str = "d:1", share: str | None = None, queue: str = "queue"
        ) -> Job:
            arn = f"arn:aws:batch:us-east-1:{NAMESPACE}:job-definition/{definition}"
            job = stored(str(sequence), sequence, queue=queue)
            return replace(job, job_name=name, created_at=at, job_definition=arn, share_identifier=share)

        writer.apply(
            epoch,
            new(
                made("Alpha", 1, 10),
                made("alphabet", 2, 20, "d:2", "s"),
                replace(made("beta", 3, 30, "da:1", "s"), state=JobState.FAILED),
                made("ALPHA", 4, 30, "D:1", "t"),
                made("alpha_", 5, 25),  # the clock was set back
                made("alpha", 6, 40, queue="other"),
            ),
        )

        def found(wanted: JobFilter) -> list[int]:
            sequences, after = [], None
            while True:
                page = reader.filtered(QUEUE, wanted, after, 2)
                sequences += [job.sequence for job in page.jobs]
                after = page.end
                if after is None:
                    return sequences

        prefix = Pattern("alPHA", is_prefix=True)
        assert found(JobFilter(names=(Pattern("alpha"),))) == [4, 1]
        assert found(JobFilter(names=(prefix,))) == [4, 5, 2, 1]
        assert found(JobFilter(names=(prefix, Pattern("alphabet"), Pattern("beta")))) == [4, 3, 5, 2, 1]
        assert found(JobFilter(names=(Pattern("", is_prefix=True),))) == [4, 3, 5, 2, 1]
        assert found(JobFilter(names=(Pattern("alp"),))) == []
        assert found(JobFilter(definitions=(Pattern("d:", is_prefix=True),))) == [5, 2, 1]
        assert found(JobFilter(definitions=(Pattern("d", is_prefix=True),))) == [3, 5, 2, 1]
        assert found(JobFilter(definitions=(Pattern("d:1"), Pattern("D:1")))) == [4, 5, 1]
        assert found(JobFilter(created_before=30)) == [5, 2, 1]
        assert found(JobFilter(created_after=20)) == [4, 3, 5]
        assert found(JobFilter(created_after=10, created_before=30)) == [5, 2]
        assert found(JobFilter(shares=("s",))) == [3, 2]
        assert found(JobFilter(shares=("s", "t"), state=JobState.RUNNABLE)) == [4, 2]
