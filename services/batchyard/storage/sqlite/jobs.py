"""What the one writer of the job store does with its tables in SQLite."""

import functools
import sqlite3
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import astuple
from importlib.resources import files
from typing import Final, ParamSpec, TypeVar

from batchyard.domain.jobs import AgentId, Job, JobKey
from batchyard.domain.lifecycle import TERMINAL, JobState
from batchyard.storage.jobs import (
    AgentRecord,
    Changes,
    Counters,
    Dependency,
    EnvironmentCopy,
    EnvironmentKey,
    FinishedJob,
    Leader,
    QueueCopy,
    QueueKey,
    RequestKey,
    ShareUse,
    StorageError,
    WriterSupersededError,
)
from batchyard.storage.lines import LineName, LinePart
from batchyard.storage.sqlite import answers, clusters, lines, removals, setback
from batchyard.storage.sqlite.arrays import put_children, put_pairings
from batchyard.storage.sqlite.migrations import migrate
from batchyard.storage.sqlite.rows import (
    INSERT,
    INSERT_AGENT,
    SELECT,
    SELECT_AGENTS,
    SELECT_ENVIRONMENTS,
    SELECT_QUEUES,
    UPDATE,
    agent_of,
    attempt_values,
    changing_values,
    decode_tags,
    each_in,
    encode_events,
    encode_tags,
    environment_of,
    fixed_values,
    job_of,
    jobs_by_key,
    jobs_of,
    queue_of,
)

EVENTS_KEPT: Final = 100_000
"""Commits whose events a watch may ask for."""

_SELECT_DEPENDENTS = f"{SELECT}, depends_on FROM dependencies JOIN jobs ON jobs.sequence = dependent"
_SELECT_PAIRED = f"{SELECT} FROM jobs WHERE sequence IN (SELECT dependent FROM pairings WHERE depends_on IN (%s))"  # noqa: S608
_IN_ORDER = "ORDER BY depends_on, dependent"
_UNFINISHED = ", ".join(str(int(state)) for state in JobState if state not in TERMINAL)


def migrate_jobs(connection: sqlite3.Connection) -> None:
    """Bring a database to this program's schema, or make it."""
    migrate(connection, files("batchyard.storage.sqlite") / "migrations" / "jobs")


P = ParamSpec("P")
R = TypeVar("R")


def _translated(method: Callable[P, R]) -> Callable[P, R]:
    """Let a method raise StorageError in place of SQLite's errors."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except sqlite3.Error as error:
            raise StorageError(f"{type(error).__name__}: {error}") from error

    return call


class SqliteJobWriter:
    """The writer's connection; see JobWriter."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @_translated
    def begin_epoch(self) -> Counters:
        """Become the writer."""
        row = self._db.execute(
            "UPDATE store SET epoch = epoch + 1"
            " RETURNING epoch, revision, leader_epoch, leader_id, gone_sequence, gone_job_id, set_back,"
            " set_back_lease_ms",
        ).fetchall()[0]
        sequence, job_id = removals.newest_job(self._db)
        newest = max(sequence, row[4]), max(job_id, row[5]) or None
        return Counters(row[0], row[1], Leader(row[2], row[3]), *newest, set_back=row[6], set_back_lease_ms=row[7])

    @_translated
    def jobs(self, keys: Collection[JobKey]) -> list[Job]:
        """Return those of the jobs that exist."""
        return jobs_by_key(self._db, keys)

    @_translated
    def specs(self, sequences: Collection[int]) -> dict[int, bytes]:
        """Return serialized JobSpecs."""
        return dict(each_in(self._db, "SELECT sequence, spec FROM specs WHERE sequence IN (%s)", sequences))

    @_translated
    def part_of_line(self, line: LineName, after: int, limit: int) -> LinePart:
        """Return the next jobs of a line."""
        return lines.part_of_line(self._db, line, after, limit)

    @_translated
    def dependents(self, sequences: Collection[int]) -> list[tuple[int, Job]]:
        """Return the jobs that wait for these ones."""
        rows = list(each_in(self._db, f"{_SELECT_DEPENDENTS} WHERE depends_on IN (%s) {_IN_ORDER}", sequences))
        return [(row[-1], job) for row, job in zip(rows, jobs_of(self._db, rows), strict=True)]

    @_translated
    def dependents_between(self, first: int, last: int) -> list[tuple[int, Job]]:
        """Return the jobs that wait for any with a sequence number in a range, both ends included."""
        rows = self._db.execute(
            f"{_SELECT_DEPENDENTS} WHERE depends_on BETWEEN ? AND ? {_IN_ORDER}", (first, last)
        ).fetchall()
        return [(row[-1], job) for row, job in zip(rows, jobs_of(self._db, rows), strict=True)]

    @_translated
    def paired_dependents(self, sequences: Collection[int]) -> list[Job]:
        """Return the arrays that wait child by child for these ones."""
        return jobs_of(self._db, each_in(self._db, f"{_SELECT_PAIRED} ORDER BY sequence", sequences))

    @_translated
    def paired_dependencies(self, sequence: int) -> list[Job]:
        """Return the arrays that this one waits for child by child."""
        return jobs_of(
            self._db,
            self._db.execute(
                f"{SELECT} FROM jobs JOIN pairings ON depends_on = sequence WHERE dependent = ? ORDER BY sequence",
                (sequence,),
            ),
        )

    @_translated
    def unfinished_children(self, sequence: int) -> list[Job]:
        """Return those children of an array that have rows and have not ended."""
        return jobs_of(
            self._db,
            self._db.execute(
                f"{SELECT} FROM jobs WHERE parent = ? AND state IN ({_UNFINISHED}) ORDER BY sequence", (sequence,)
            ),
        )

    @_translated
    def jobs_of_agent(self, agent_id: AgentId) -> list[Job]:
        """Return the jobs with a run on this agent."""
        rows = self._db.execute(f"{SELECT} FROM jobs WHERE run_agent_id = ? ORDER BY sequence", (agent_id,))
        return [job_of(row) for row in rows]

    @_translated
    def changed_tags(self, sequence: int) -> dict[str, str] | None:
        """Return the tags of a job that were changed."""
        row = self._db.execute("SELECT tags FROM job_tags WHERE sequence = ?", (sequence,)).fetchone()
        return decode_tags(row[0]) if row else None

    @_translated
    def has_unfinished_jobs(self, queue: QueueKey) -> bool:
        """Return whether any job of the queue is not in a terminal state."""
        # An array is unfinished as long as any of its children is.
        found = self._db.execute(
            "SELECT 1 FROM jobs WHERE namespace = ? AND job_queue = ? AND parent IS NULL"  # noqa: S608
            f" AND state IN ({_UNFINISHED}) LIMIT 1",
            queue,
        ).fetchone()
        return found is not None

    @_translated
    def queue(self, key: QueueKey) -> QueueCopy | None:
        """Return the store's copy of a queue."""
        row = self._db.execute(f"{SELECT_QUEUES} WHERE namespace = ? AND name = ?", key).fetchone()
        return queue_of(row) if row else None

    @_translated
    def environment(self, key: EnvironmentKey) -> EnvironmentCopy | None:
        """Return the store's copy of a compute environment."""
        row = self._db.execute(f"{SELECT_ENVIRONMENTS} WHERE namespace = ? AND name = ?", key).fetchone()
        return environment_of(row) if row else None

    @_translated
    def reserved_vcpus(self) -> dict[EnvironmentKey, int]:
        """Return what all runs that are not over reserve."""
        rows = self._db.execute(
            "SELECT namespace, run_compute_environment, SUM(vcpus_milli) FROM jobs INDEXED BY jobs_by_agent"
            " WHERE run_agent_id IS NOT NULL"
            " GROUP BY namespace, run_compute_environment"
        )
        return {EnvironmentKey(namespace, name): reserved for namespace, name, reserved in rows}

    @_translated
    def agent(self, agent_id: AgentId) -> AgentRecord | None:
        """Return what is known of an agent."""
        row = self._db.execute(f"{SELECT_AGENTS} WHERE agent_id = ?", (agent_id,)).fetchone()
        return agent_of(row) if row else None

    @_translated
    def answer(self, key: RequestKey) -> bytes | None:
        """Return what a request was answered."""
        return answers.find(self._db, key)

    @_translated
    def finished_jobs(self, before_ms: int, after: FinishedJob | None, limit: int) -> list[FinishedJob]:
        """Return the next jobs that ended before this time."""
        return removals.finished_jobs(self._db, before_ms, after, limit)

    @_translated
    def dependencies(self, jobs: Collection[FinishedJob], limit: int) -> list[Dependency]:
        """Return who depends or depended on these jobs or their children."""
        return removals.dependencies(self._db, jobs, limit)

    @_translated
    def children_of(self, sequence: int, limit: int) -> list[int]:
        """Return the sequence numbers of children with rows."""
        return removals.children(self._db, sequence, limit)

    @_translated
    def gone_agents(self, before_ms: int, limit: int) -> list[AgentId]:
        """Return agents that were given up before this time."""
        return removals.gone_agents(self._db, before_ms, limit)

    @_translated
    def answers_before(self, before_ms: int, limit: int) -> int:
        """Return the number up to which answers are from before this time."""
        return removals.answers_before(self._db, before_ms, limit)

    @_translated
    def events_before(self, before_ms: int, limit: int) -> int:
        """Return the revision up to which events were recorded before this time."""
        return removals.events_before(self._db, before_ms, limit)

    @_translated
    def apply(self, epoch: int, changes: Changes) -> int:
        """Write the changes in one transaction."""
        # What leases agents may have had must not be forgotten, however little else is synced.
        with setback.synced(self._db) if changes.agents else nullcontext():
            return self._apply(epoch, changes)

    def _apply(self, epoch: int, changes: Changes) -> int:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            claimed = db.execute(
                "UPDATE store SET revision = revision + 1 WHERE epoch = ? RETURNING revision", (epoch,)
            ).fetchall()
            if not claimed:
                raise WriterSupersededError(f"writer {epoch} of {_path(db)} was superseded")
            revision = int(claimed[0][0])
            self._write(changes)
            if changes.events:
                record = (revision, encode_events(changes.events), changes.events[0].at)
                db.execute("INSERT INTO events (revision, record, at) VALUES (?, ?, ?)", record)
                db.execute("DELETE FROM events WHERE revision <= ?", (revision - EVENTS_KEPT,))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return revision

    def _write(self, changes: Changes) -> None:
        db = self._db
        if changes.set_back_over:
            db.execute("UPDATE store SET set_back = 0, set_back_lease_ms = 0")
        if changes.new_jobs:
            db.executemany(INSERT, [(*fixed_values(new.job), *changing_values(new.job)) for new in changes.new_jobs])
            specs = [(new.job.sequence, new.spec) for new in changes.new_jobs if new.spec is not None]
            db.executemany("INSERT INTO specs VALUES (?, ?)", specs)
            if edges := [(on, new.job.sequence) for new in changes.new_jobs for on in new.depends_on]:
                db.executemany("INSERT INTO dependencies VALUES (?, ?)", edges)
            if pairings := [(on, new.job.sequence) for new in changes.new_jobs for on in new.paired_with]:
                put_pairings(db, pairings)
        if changes.arrays:
            put_children(db, changes.arrays)
        if changes.jobs:
            db.executemany(UPDATE, [(*changing_values(job), job.sequence) for job in changes.jobs])
        if changes.attempts:
            db.executemany(
                "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(sequence, *attempt_values(attempt)) for sequence, attempt in changes.attempts],
            )
        for queue in changes.queues:
            db.execute(
                "INSERT OR REPLACE INTO queues"
                " (namespace, name, arn, open, gone, revision, fair_share, environments, fargate, created, first_job)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(*queue.key, queue.arn, queue.open, queue.gone, queue.revision, queue.fair_share),
                    "".join(f"/{name}" for name in queue.environments),
                    *(queue.fargate, queue.created, queue.first_job),
                ),
            )
            if queue.gone:
                db.execute("DELETE FROM share_uses WHERE namespace = ? AND job_queue = ?", queue.key)
        for environment in changes.environments:
            clusters.keep(db, environment)
        for agent in changes.agents:
            db.execute(INSERT_AGENT, astuple(agent))
        answers.keep(db, changes.answers)
        for sequence, tags in changes.tags.items():
            db.execute("INSERT OR REPLACE INTO job_tags VALUES (?, ?)", (sequence, encode_tags(tags)))
        if changes.leader is not None:
            leader = changes.leader
            db.execute("UPDATE store SET leader_epoch = ?, leader_id = ?", (leader.epoch, leader.scheduler_id))
        if changes.share_uses:
            _put_share_uses(db, changes.share_uses)
        if changes.removal:
            removals.remove(db, changes.removal)


def _put_share_uses(db: sqlite3.Connection, uses: Collection[ShareUse]) -> None:
    kept = [(*use.queue, use.share, use.used_vcpu_s, use.at) for use in uses if use.used_vcpu_s > 0]
    db.executemany("INSERT OR REPLACE INTO share_uses VALUES (?, ?, ?, ?, ?)", kept)
    gone = [(*use.queue, use.share) for use in uses if use.used_vcpu_s <= 0]
    db.executemany("DELETE FROM share_uses WHERE namespace = ? AND job_queue = ? AND share_identifier = ?", gone)


def _path(db: sqlite3.Connection) -> str:
    return next(str(path) for _, name, path in db.execute("PRAGMA database_list") if name == "main")
