"""What is read of the job store's tables in SQLite, beside the writer."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from batchyard.domain.arrays import each
from batchyard.domain.errors import HistoryGoneError
from batchyard.domain.jobs import AgentId, Attempt, Job, JobChange, JobKey, child_without_row
from batchyard.domain.lifecycle import JobState, RunState
from batchyard.domain.names import job_of_log
from batchyard.storage.job_reader import JobRecord, Snapshot, SnapshotPage
from batchyard.storage.jobs import EnvironmentCopy, Held, LogKey, QueueCopy, QueueKey, RequestKey, ShareUse
from batchyard.storage.lines import LinePart
from batchyard.storage.listings import JobFilter, JobPage, LineKey, Position
from batchyard.storage.sqlite import answers, clusters, fronts, removals, tallies, usage
from batchyard.storage.sqlite.jobs import EVENTS_KEPT
from batchyard.storage.sqlite.lines import beginnings
from batchyard.storage.sqlite.listings import listed, newest_named
from batchyard.storage.sqlite.rows import (
    SELECT,
    SELECT_AGENTS,
    SELECT_ENVIRONMENTS,
    SELECT_QUEUES,
    agent_of,
    decode_events,
    decode_tags,
    each_in,
    environment_of,
    first_job_of,
    job_of,
    jobs_and_children_by_key,
    jobs_by_key,
    jobs_of,
    queue_of,
)

_SNAPSHOT_PAGE: Final = 500
_SNAPSHOT_PAGE_BYTES: Final = 1024 * 1024


class SqliteJobReader:
    """A reader's connection; see JobReader."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def describe(self, keys: Sequence[JobKey]) -> list[JobRecord]:
        """Return those of the jobs that exist."""
        # One read transaction, so that a job and its attempts are of one moment.
        self._db.execute("BEGIN")
        try:
            found = {job.key: job for job in jobs_and_children_by_key(self._db, keys)}
            sequences = [job.sequence for job in found.values()]
            specs = dict(
                each_in(
                    self._db,
                    "SELECT sequence, spec FROM specs WHERE sequence IN (%s)",
                    {job.spec_sequence for job in found.values()},
                )
            )
            tags = {
                sequence: decode_tags(encoded)
                for sequence, encoded in each_in(
                    self._db, "SELECT sequence, tags FROM job_tags WHERE sequence IN (%s)", sequences
                )
            }
            attempts: dict[int, list[Attempt]] = {}
            for row in each_in(
                self._db,
                "SELECT sequence, number, agent_id, task_id, log_stream_name, status_reason, started_at, stopped_at,"
                " exit_code, reason, cluster FROM attempts WHERE sequence IN (%s) ORDER BY sequence, number",
                sequences,
            ):
                attempts.setdefault(row[0], []).append(Attempt(*row[1:]))
            named = {job.cluster for job in found.values()}
            named.update(attempt.cluster for made in attempts.values() for attempt in made)
            arns = clusters.arns(self._db, filter(None, named))
        finally:
            self._db.execute("COMMIT")
        return [
            JobRecord(job, specs[job.spec_sequence], attempts.get(job.sequence, ()), tags.get(job.sequence), arns)
            for key in dict.fromkeys(keys)
            if (job := found.get(key)) is not None
        ]

    def jobs_at(self, keys: Collection[JobKey]) -> tuple[int, list[Job]]:
        """Return the newest revision, and the jobs as they are at it."""
        self._db.execute("BEGIN")
        try:
            return self.revision(), jobs_and_children_by_key(self._db, keys)
        finally:
            self._db.execute("COMMIT")

    def queues(self) -> list[QueueCopy]:
        """Return the store's copies of all queues."""
        return [queue_of(row) for row in self._db.execute(SELECT_QUEUES)]

    def environments(self) -> list[EnvironmentCopy]:
        """Return the store's copies of all compute environments."""
        return [environment_of(row) for row in self._db.execute(SELECT_ENVIRONMENTS)]

    def page(self, queue: QueueKey, state: JobState, before: int | None, limit: int) -> list[Job]:
        """Return jobs of a queue in one state, newest first."""
        self._db.execute("BEGIN")
        try:
            rows = self._db.execute(
                f"{SELECT} FROM jobs WHERE namespace = ? AND job_queue = ? AND state = ? AND sequence BETWEEN ? AND ?"
                " AND parent IS NULL ORDER BY sequence DESC LIMIT ?",
                (*queue, int(state), first_job_of(self._db, *queue), (before or 1 << 62) - 1, limit),
            )
            return jobs_of(self._db, rows)
        finally:
            self._db.execute("COMMIT")

    def children(self, array: JobKey, state: JobState, after: int, limit: int) -> list[Job]:
        """Return children of an array in one state."""
        self._db.execute("BEGIN")
        try:
            (found,) = jobs_by_key(self._db, [array]) or (None,)
            if found is None or found.children is None:
                return []
            rows = self._db.execute(
                f"{SELECT} FROM jobs WHERE parent = ? AND state = ? AND sequence > ? ORDER BY sequence LIMIT ?",
                (found.sequence, int(state), found.sequence + 1 + after, limit),
            )
            with_rows = [job_of(row) for row in rows]
        finally:
            self._db.execute("COMMIT")
        later = each(found.children.without_row(state) >> (after + 1))
        rest = (child_without_row(found, after + 1 + index) for index in islice(later, limit))
        return sorted((*with_rows, *filter(None, rest)), key=lambda child: child.sequence)[:limit]

    def answer(self, key: RequestKey) -> bytes | None:
        """Return what a request was answered."""
        return answers.find(self._db, key)

    def filtered(self, queue: QueueKey, wanted: JobFilter, after: Position | None, limit: int) -> JobPage:
        """Return the next jobs of a queue that a filter lets through."""
        self._db.execute("BEGIN")
        try:
            sequences, end = listed(self._db, queue, wanted, after, limit)
            rows = each_in(self._db, f"{SELECT} FROM jobs WHERE sequence IN (%s)", sequences)
            jobs = {job.sequence: job for job in jobs_of(self._db, rows)}
        finally:
            self._db.execute("COMMIT")
        return JobPage([jobs[sequence] for sequence in sequences], end)

    def waiting(self, line: LineKey, runnable_by_ms: int, limit: int) -> list[JobKey]:
        """Return jobs of a line that have been RUNNABLE since a time."""
        self._db.execute("BEGIN")
        try:
            return fronts.overdue(self._db, line, runnable_by_ms, limit)
        finally:
            self._db.execute("COMMIT")

    def front(self, queue: QueueKey, limit: int) -> tuple[list[Job], int]:
        """Return the first RUNNABLE jobs of a queue, and what its others hold."""
        self._db.execute("BEGIN")
        try:
            return fronts.front(self._db, queue, limit)
        finally:
            self._db.execute("COMMIT")

    def share_use(self, queue: QueueKey) -> dict[str, int]:
        """Return what the jobs of a queue hold, by share."""
        return fronts.share_use(self._db, queue)

    def tallies(self) -> dict[tuple[QueueKey, JobState], int]:
        """Return how many jobs of each queue are in each state."""
        self._db.execute("BEGIN")
        try:
            return tallies.tallies(self._db)
        finally:
            self._db.execute("COMMIT")

    def counts(self, namespace: str) -> dict[str, dict[JobState, int]]:
        """Return how many jobs of each queue are kept in each state."""
        return tallies.counts(self._db, namespace)

    def child_states(self, array: JobKey) -> bytes | None:
        """Return the state of each child of an array."""
        self._db.execute("BEGIN")
        try:
            (found,) = jobs_by_key(self._db, [array]) or (None,)
            return None if found is None or found.children is None else tallies.child_states(self._db, found)
        finally:
            self._db.execute("COMMIT")

    def waiting_for(self, key: JobKey, limit: int) -> list[Job] | None:
        """Return the first jobs that were submitted to wait for a job."""
        self._db.execute("BEGIN")
        try:
            (found,) = jobs_and_children_by_key(self._db, [key]) or (None,)
            if found is None:
                return None
            sequences = tallies.dependents(self._db, found, limit)
            jobs = jobs_of(self._db, each_in(self._db, f"{SELECT} FROM jobs WHERE sequence IN (%s)", sequences))
        finally:
            self._db.execute("COMMIT")
        return sorted(jobs, key=lambda job: job.sequence)

    def held(self, namespace: str, after: int, limit: int, begin_ms: int, end_ms: int) -> tuple[list[Held], int | None]:
        """Return what the attempts of the next jobs held between two times, and where to go on."""
        self._db.execute("BEGIN")
        try:
            return usage.held(self._db, namespace, after, limit, begin_ms, end_ms)
        finally:
            self._db.execute("COMMIT")

    def specs_and_tags(self, jobs: Iterable[Held]) -> tuple[dict[int, bytes], dict[int, dict[str, str]]]:
        """Return the specifications of jobs, and the tags of those whose tags were changed."""
        return usage.specs_and_tags(self._db, jobs)

    def newest_named(self, namespace: str, job_name: str, job_queue: str) -> JobKey | None:
        """Return the newest job of this name, in the queue first."""
        return newest_named(self._db, namespace, job_name, job_queue)

    def changes_after(self, revision: int, limit: int) -> list[tuple[int, list[JobChange]]]:
        """Return the events of the next commits."""
        rows = self._db.execute(
            "SELECT revision, record FROM events WHERE revision > ? ORDER BY revision LIMIT ?", (revision, limit)
        ).fetchall()
        if self.oldest_revision() > revision:
            newest = self.revision()
            raise HistoryGoneError(f"events after revision {revision} are no longer kept; the newest is {newest}")
        return [(row[0], decode_events(row[1])) for row in rows]

    def oldest_revision(self) -> int:
        """Return the revision after which all events are kept."""
        newest, gone = self._db.execute("SELECT revision, gone_events FROM store").fetchone()
        return int(max(newest - EVENTS_KEPT, gone))

    def log_owners(self, logs: Collection[LogKey]) -> dict[LogKey, AgentId]:
        """Return those of the logs that a job names, each with the agent that its attempt was given to."""
        (gone,) = self._db.execute("SELECT gone_sequence FROM store").fetchone()
        newest = max(gone, removals.newest_job(self._db)[0])
        sequences, others = set(), set()
        for log in logs:
            sequence = job_of_log(log.log_stream_name)
            if sequence is not None and sequence <= newest:
                sequences.add(sequence)
            else:
                # Of the time when task ids did not say their job: rare, and fewer with every one that goes.
                others.add(log.log_stream_name)
        query = (
            "SELECT namespace, run_log_stream_name, run_agent_id, attempts.log_stream_name, attempts.agent_id"
            " FROM jobs LEFT JOIN attempts USING (sequence) WHERE "
        )
        rows = [
            *each_in(self._db, f"{query} sequence IN (%s)", sequences),
            *each_in(self._db, f"{query} run_log_stream_name IN (%s)", others),
            *each_in(self._db, f"{query} attempts.log_stream_name IN (%s)", others),
        ]
        named: dict[LogKey, AgentId] = {}
        for namespace, run_stream, run_agent, stream, agent in rows:
            for name, owner in ((run_stream, run_agent), (stream, agent)):
                if name:
                    named[LogKey(namespace, name)] = owner
        return {log: named[log] for log in logs if log in named}

    def revision(self) -> int:
        """Return the revision of the newest commit."""
        return int(self._db.execute("SELECT revision FROM store").fetchone()[0])

    def snapshot(self, jobs_a_line: int) -> Snapshot:
        """Begin to read what a scheduler needs."""
        db = self._db
        db.execute("BEGIN")
        revision = self.revision()
        rows = db.execute(f"{SELECT_AGENTS} WHERE live OR draining ORDER BY agent_id")
        agents = [agent_of(row) for row in rows]
        uses = [
            ShareUse(QueueKey(namespace, name), share, used, at)
            for namespace, name, share, used, at in db.execute(
                "SELECT namespace, job_queue, share_identifier, used_vcpu_seconds, at FROM share_uses"
                " ORDER BY namespace, job_queue, share_identifier"
            )
        ]
        return Snapshot(revision, agents, uses, self._snapshot_pages(jobs_a_line))

    def _snapshot_pages(self, jobs_a_line: int) -> Iterator[SnapshotPage]:
        try:
            arrays = self._db.execute(
                f"{SELECT} FROM arrays JOIN jobs USING (sequence) WHERE runnable <> x'' ORDER BY sequence"
            )
            while rows := arrays.fetchmany(_SNAPSHOT_PAGE):
                yield SnapshotPage(arrays=jobs_of(self._db, rows))
            for runs in self._runs():
                yield SnapshotPage(runs=runs)
            parts: list[LinePart] = []
            size = 0
            for part in beginnings(self._db, jobs_a_line):
                parts.append(part)
                size += 1 + len(part.job_ids)
                if size >= _SNAPSHOT_PAGE:
                    yield SnapshotPage(lines=parts)
                    parts, size = [], 0
            yield SnapshotPage(lines=parts)
        finally:
            self._db.execute("COMMIT")

    def _runs(self) -> Iterator[list[tuple[Job, bytes | None]]]:
        """Yield the jobs whose runs are not over."""
        cursor = self._db.execute(
            f"{SELECT}, CASE WHEN run_state = {int(RunState.OFFERED)} THEN spec END"
            " FROM jobs INDEXED BY jobs_by_agent"
            " LEFT JOIN specs ON specs.sequence = COALESCE(jobs.parent, jobs.sequence)"
            " WHERE run_agent_id IS NOT NULL ORDER BY jobs.sequence"
        )
        page: list[tuple[Job, bytes | None]] = []
        size = 0
        for row in cursor:
            page.append((job_of(row), row[-1]))
            size += len(row[-1] or b"")
            if len(page) == _SNAPSHOT_PAGE or size >= _SNAPSHOT_PAGE_BYTES:
                yield page
                page, size = [], 0
        if page:
            yield page
