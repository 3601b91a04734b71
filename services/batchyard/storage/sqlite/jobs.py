"""The job store's tables in SQLite."""

import functools
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import astuple
from importlib.resources import files
from itertools import islice
from typing import Any, Final, ParamSpec, TypeVar

import msgspec

from batchyard.domain.arrays import each
from batchyard.domain.errors import HistoryGoneError
from batchyard.domain.jobs import (
    AgentId,
    Attempt,
    Fence,
    Job,
    JobChange,
    JobKey,
    Run,
    array_and_index,
    child_without_row,
)
from batchyard.domain.lifecycle import TERMINAL, JobState, RunState
from batchyard.domain.names import job_of_log
from batchyard.domain.retries import ExitRule
from batchyard.storage.jobs import (
    AgentRecord,
    Changes,
    Counters,
    Dependency,
    EnvironmentCopy,
    EnvironmentKey,
    FinishedJob,
    JobRecord,
    Leader,
    LogKey,
    QueueCopy,
    QueueKey,
    RequestKey,
    Snapshot,
    StorageError,
    WriterSupersededError,
)
from batchyard.storage.listings import JobFilter, JobPage, LineKey, Position
from batchyard.storage.sqlite import answers, removals
from batchyard.storage.sqlite.arrays import front_of, load_children, put_children, put_pairings
from batchyard.storage.sqlite.listings import listed, newest_named
from batchyard.storage.sqlite.migrations import migrate

EVENTS_KEPT: Final = 100_000
"""Commits whose events a watch may ask for."""

_KEYS_A_QUERY: Final = 200
_SNAPSHOT_PAGE: Final = 500
_SNAPSHOT_PAGE_BYTES: Final = 1024 * 1024


def _names(*lines: str) -> list[str]:
    return " ".join(lines).split()


_FIXED = _names(
    "sequence namespace job_id job_name job_queue job_definition vcpus_milli memory_mib gpus",
    "attempts_allowed created_at exit_rules faults share_identifier parent array_size",
)
_CHANGING = _names(
    "state version status_reason dependencies_left attempts_made stop_reason cancelled terminated started_at",
    "stopped_at ended_at exit_code reason agent_id task_id log_stream_name runnable_at unstarted_losses run_epoch",
    "run_number run_agent_id run_incarnation run_compute_environment run_state run_task_id run_log_stream_name",
    "run_evicted",
)
_COLUMNS = _FIXED + _CHANGING
_ARRAY_SIZE = _COLUMNS.index("array_size")
_SELECT = "SELECT " + ", ".join(f"jobs.{name}" for name in _COLUMNS)
_INSERT = f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_UPDATE = f"UPDATE jobs SET {', '.join(f'{name}=?' for name in _CHANGING)} WHERE sequence=?"  # noqa: S608
# The texts above are made of the constants of this module only.
_SELECT_QUEUES = "SELECT namespace, name, arn, open, gone, revision, fair_share, environments, fargate FROM queues"
_SELECT_ENVIRONMENTS = "SELECT namespace, name, usable, max_vcpus_milli, revision FROM environments"
_AGENT = "agent_id, incarnation, live, gone_at, draining, drain_limit_ms"
_SELECT_AGENTS = f"SELECT {_AGENT} FROM agents"  # noqa: S608
_INSERT_AGENT = f"INSERT OR REPLACE INTO agents ({_AGENT}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608

_SELECT_DEPENDENTS = f"{_SELECT}, depends_on FROM dependencies JOIN jobs ON jobs.sequence = dependent"
_SELECT_PAIRED = f"{_SELECT} FROM jobs WHERE sequence IN (SELECT dependent FROM pairings WHERE depends_on IN (%s))"  # noqa: S608
_IN_ORDER = "ORDER BY depends_on, dependent"
_OF_QUEUE = "FROM jobs WHERE namespace = ? AND job_queue = ? AND parent IS"
_HAS_WAITING_CHILDREN = "EXISTS (SELECT 1 FROM arrays WHERE arrays.sequence = jobs.sequence AND runnable <> x'')"
_FIRST = "ORDER BY sequence LIMIT ?"
_FRONT = (
    f"{_SELECT} {_OF_QUEUE} NULL AND state = {int(JobState.RUNNABLE)} AND run_state IS NULL {_FIRST}",
    f"{_SELECT} {_OF_QUEUE} NOT NULL AND state = {int(JobState.RUNNABLE)} AND run_state IS NULL {_FIRST}",
    f"{_SELECT} {_OF_QUEUE} NULL AND state = {int(JobState.PENDING)} AND {_HAS_WAITING_CHILDREN} {_FIRST}",
)
"""The first jobs of a queue, children with rows, and arrays of children without: each kind has an index of its own."""
_OF_LINE = "= ? AND vcpus_milli = ? AND memory_mib = ? AND gpus = ? AND parent IS"
_OVERDUE = tuple(
    query.replace("= ? AND parent IS", _OF_LINE).replace(_FIRST, f"AND {since} <= ? {_FIRST}")
    for query, since in zip(
        _FRONT,
        (
            "COALESCE(runnable_at, created_at)",
            "COALESCE(runnable_at, created_at)",
            "(SELECT iif(sequential OR paired, changed_at, created_at) FROM arrays a WHERE a.sequence = jobs.sequence)",
        ),
        strict=True,
    )
)
"""The same of those jobs of a line that have been RUNNABLE since a time."""
_USED = (
    f"SELECT total(vcpus_milli) FROM (SELECT vcpus_milli {_OF_QUEUE} NULL AND state IN (4, 5)"  # noqa: S608
    f" UNION ALL SELECT vcpus_milli {_OF_QUEUE} NOT NULL AND state IN (4, 5))"
)
_UNFINISHED = ", ".join(str(int(state)) for state in JobState if state not in TERMINAL)

_encode_events = msgspec.msgpack.Encoder().encode
_encode = msgspec.json.Encoder().encode
_decode_exit_rules = msgspec.json.Decoder(tuple[ExitRule, ...]).decode
_encode_tags = msgspec.msgpack.Encoder().encode
_decode_tags = msgspec.msgpack.Decoder(dict[str, str]).decode
_decode_events = msgspec.msgpack.Decoder(list[JobChange]).decode


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
            " RETURNING epoch, revision, leader_epoch, leader_id, gone_sequence, gone_job_id",
        ).fetchall()[0]
        sequence, job_id = removals.newest_job(self._db)
        return Counters(row[0], row[1], Leader(row[2], row[3]), max(sequence, row[4]), max(job_id, row[5]) or None)

    @_translated
    def jobs(self, keys: Collection[JobKey]) -> list[Job]:
        """Return those of the jobs that exist."""
        return _jobs_by_key(self._db, keys)

    @_translated
    def specs(self, sequences: Collection[int]) -> dict[int, bytes]:
        """Return serialized JobSpecs."""
        return dict(_in(self._db, "SELECT sequence, spec FROM specs WHERE sequence IN (%s)", sequences))

    @_translated
    def dependents(self, sequences: Collection[int]) -> list[tuple[int, Job]]:
        """Return the jobs that wait for these ones."""
        rows = list(_in(self._db, f"{_SELECT_DEPENDENTS} WHERE depends_on IN (%s) {_IN_ORDER}", sequences))
        return [(row[-1], job) for row, job in zip(rows, _jobs(self._db, rows), strict=True)]

    @_translated
    def dependents_between(self, first: int, last: int) -> list[tuple[int, Job]]:
        """Return the jobs that wait for any with a sequence number in a range, both ends included."""
        rows = self._db.execute(
            f"{_SELECT_DEPENDENTS} WHERE depends_on BETWEEN ? AND ? {_IN_ORDER}", (first, last)
        ).fetchall()
        return [(row[-1], job) for row, job in zip(rows, _jobs(self._db, rows), strict=True)]

    @_translated
    def paired_dependents(self, sequences: Collection[int]) -> list[Job]:
        """Return the arrays that wait child by child for these ones."""
        return _jobs(self._db, _in(self._db, f"{_SELECT_PAIRED} ORDER BY sequence", sequences))

    @_translated
    def paired_dependencies(self, sequence: int) -> list[Job]:
        """Return the arrays that this one waits for child by child."""
        return _jobs(
            self._db,
            self._db.execute(
                f"{_SELECT} FROM jobs JOIN pairings ON depends_on = sequence WHERE dependent = ? ORDER BY sequence",
                (sequence,),
            ),
        )

    @_translated
    def unfinished_children(self, sequence: int) -> list[Job]:
        """Return those children of an array that have rows and have not ended."""
        return _jobs(
            self._db,
            self._db.execute(
                f"{_SELECT} FROM jobs WHERE parent = ? AND state IN ({_UNFINISHED}) ORDER BY sequence", (sequence,)
            ),
        )

    @_translated
    def jobs_of_agent(self, agent_id: AgentId) -> list[Job]:
        """Return the jobs with a run on this agent."""
        rows = self._db.execute(f"{_SELECT} FROM jobs WHERE run_agent_id = ? ORDER BY sequence", (agent_id,))
        return [_job(row) for row in rows]

    @_translated
    def changed_tags(self, sequence: int) -> dict[str, str] | None:
        """Return the tags of a job that were changed."""
        row = self._db.execute("SELECT tags FROM job_tags WHERE sequence = ?", (sequence,)).fetchone()
        return _decode_tags(row[0]) if row else None

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
        row = self._db.execute(f"{_SELECT_QUEUES} WHERE namespace = ? AND name = ?", key).fetchone()
        return _queue(row) if row else None

    @_translated
    def environment(self, key: EnvironmentKey) -> EnvironmentCopy | None:
        """Return the store's copy of a compute environment."""
        row = self._db.execute(f"{_SELECT_ENVIRONMENTS} WHERE namespace = ? AND name = ?", key).fetchone()
        return _environment(row) if row else None

    @_translated
    def reserved_vcpus(self) -> dict[EnvironmentKey, int]:
        """Return what all runs that are not over reserve."""
        rows = self._db.execute(
            "SELECT namespace, run_compute_environment, SUM(vcpus_milli) FROM jobs WHERE run_agent_id IS NOT NULL"
            " GROUP BY namespace, run_compute_environment"
        )
        return {EnvironmentKey(namespace, name): reserved for namespace, name, reserved in rows}

    @_translated
    def agent(self, agent_id: AgentId) -> AgentRecord | None:
        """Return what is known of an agent."""
        row = self._db.execute(f"{_SELECT_AGENTS} WHERE agent_id = ?", (agent_id,)).fetchone()
        return _agent(row) if row else None

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
                record = (revision, _encode_events(changes.events), changes.events[0].at)
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
        if changes.new_jobs:
            db.executemany(_INSERT, [(*_fixed(new.job), *_changing(new.job)) for new in changes.new_jobs])
            specs = [(new.job.sequence, new.spec) for new in changes.new_jobs if new.spec is not None]
            db.executemany("INSERT INTO specs VALUES (?, ?)", specs)
            edges = [(on, new.job.sequence) for new in changes.new_jobs for on in new.depends_on]
            db.executemany("INSERT INTO dependencies VALUES (?, ?)", edges)
            put_pairings(db, [(on, new.job.sequence) for new in changes.new_jobs for on in new.paired_with])
        if changes.arrays:
            put_children(db, changes.arrays)
        if changes.jobs:
            db.executemany(_UPDATE, [(*_changing(job), job.sequence) for job in changes.jobs])
        if changes.attempts:
            db.executemany(
                "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(sequence, *_attempt_row(attempt)) for sequence, attempt in changes.attempts],
            )
        for queue in changes.queues:
            db.execute(
                "INSERT OR REPLACE INTO queues"
                " (namespace, name, arn, open, gone, revision, fair_share, environments, fargate)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(*queue.key, queue.arn, queue.open, queue.gone, queue.revision, queue.fair_share),
                    "".join(f"/{name}" for name in queue.environments),
                    queue.fargate,
                ),
            )
        for environment in changes.environments:
            db.execute(
                "INSERT OR REPLACE INTO environments VALUES (?, ?, ?, ?, ?)",
                (*environment.key, environment.usable, environment.max_vcpus_milli, environment.revision),
            )
        for agent in changes.agents:
            db.execute(_INSERT_AGENT, astuple(agent))
        answers.keep(db, changes.answers)
        for sequence, tags in changes.tags.items():
            db.execute("INSERT OR REPLACE INTO job_tags VALUES (?, ?)", (sequence, _encode_tags(tags)))
        if changes.leader is not None:
            leader = changes.leader
            db.execute("UPDATE store SET leader_epoch = ?, leader_id = ?", (leader.epoch, leader.scheduler_id))
        if changes.removal:
            removals.remove(db, changes.removal)


class SqliteJobReader:
    """A reader's connection; see JobReader."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def describe(self, keys: Sequence[JobKey]) -> list[JobRecord]:
        """Return those of the jobs that exist."""
        # One read transaction, so that a job and its attempts are of one moment.
        self._db.execute("BEGIN")
        try:
            found = {job.key: job for job in _jobs_and_children_by_key(self._db, keys)}
            sequences = [job.sequence for job in found.values()]
            specs = dict(
                _in(
                    self._db,
                    "SELECT sequence, spec FROM specs WHERE sequence IN (%s)",
                    {job.spec_sequence for job in found.values()},
                )
            )
            tags = {
                sequence: _decode_tags(encoded)
                for sequence, encoded in _in(
                    self._db, "SELECT sequence, tags FROM job_tags WHERE sequence IN (%s)", sequences
                )
            }
            attempts: dict[int, list[Attempt]] = {}
            for row in _in(
                self._db,
                "SELECT sequence, number, agent_id, task_id, log_stream_name, status_reason, started_at, stopped_at,"
                " exit_code, reason FROM attempts WHERE sequence IN (%s) ORDER BY sequence, number",
                sequences,
            ):
                attempts.setdefault(row[0], []).append(Attempt(*row[1:]))
        finally:
            self._db.execute("COMMIT")
        return [
            JobRecord(job, specs[job.spec_sequence], attempts.get(job.sequence, ()), tags.get(job.sequence))
            for key in dict.fromkeys(keys)
            if (job := found.get(key)) is not None
        ]

    def jobs_at(self, keys: Collection[JobKey]) -> tuple[int, list[Job]]:
        """Return the newest revision, and the jobs as they are at it."""
        self._db.execute("BEGIN")
        try:
            return self.revision(), _jobs_and_children_by_key(self._db, keys)
        finally:
            self._db.execute("COMMIT")

    def queues(self) -> list[QueueCopy]:
        """Return the store's copies of all queues."""
        return [_queue(row) for row in self._db.execute(_SELECT_QUEUES)]

    def environments(self) -> list[EnvironmentCopy]:
        """Return the store's copies of all compute environments."""
        return [_environment(row) for row in self._db.execute(_SELECT_ENVIRONMENTS)]

    def page(self, queue: QueueKey, state: JobState, before: int | None, limit: int) -> list[Job]:
        """Return jobs of a queue in one state, newest first."""
        self._db.execute("BEGIN")
        try:
            rows = self._db.execute(
                f"{_SELECT} FROM jobs WHERE namespace = ? AND job_queue = ? AND state = ? AND sequence < ?"
                " AND parent IS NULL ORDER BY sequence DESC LIMIT ?",
                (*queue, int(state), before if before is not None else 1 << 62, limit),
            )
            return _jobs(self._db, rows)
        finally:
            self._db.execute("COMMIT")

    def children(self, array: JobKey, state: JobState, after: int, limit: int) -> list[Job]:
        """Return children of an array in one state."""
        self._db.execute("BEGIN")
        try:
            (found,) = _jobs_by_key(self._db, [array]) or (None,)
            if found is None or found.children is None:
                return []
            rows = self._db.execute(
                f"{_SELECT} FROM jobs WHERE parent = ? AND state = ? AND sequence > ? ORDER BY sequence LIMIT ?",
                (found.sequence, int(state), found.sequence + 1 + after, limit),
            )
            with_rows = [_job(row) for row in rows]
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
            rows = _in(self._db, f"{_SELECT} FROM jobs WHERE sequence IN (%s)", sequences)
            jobs = {job.sequence: job for job in _jobs(self._db, rows)}
        finally:
            self._db.execute("COMMIT")
        return JobPage([jobs[sequence] for sequence in sequences], end)

    def waiting(self, line: LineKey, runnable_by_ms: int, limit: int) -> list[JobKey]:
        """Return jobs of a line that have been RUNNABLE since a time."""
        self._db.execute("BEGIN")
        try:
            found = [
                job
                for query in _OVERDUE
                for job in _jobs(self._db, self._db.execute(query, (*line, runnable_by_ms, limit)))
            ]
        finally:
            self._db.execute("COMMIT")
        return [job.key for job in front_of(found, limit)]

    def front(self, queue: QueueKey, limit: int) -> tuple[list[Job], int]:
        """Return the first RUNNABLE jobs of a queue, and what its others hold."""
        self._db.execute("BEGIN")
        try:
            found = [job for query in _FRONT for job in _jobs(self._db, self._db.execute(query, (*queue, limit)))]
            used = self._db.execute(_USED, (*queue, *queue)).fetchone()
        finally:
            self._db.execute("COMMIT")
        return front_of(found, limit), int(used[0])

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
        return [(row[0], _decode_events(row[1])) for row in rows]

    def oldest_revision(self) -> int:
        """Return the revision after which all events are kept."""
        newest, gone = self._db.execute("SELECT revision, gone_events FROM store").fetchone()
        return int(max(newest - EVENTS_KEPT, gone))

    def known_logs(self, logs: Collection[LogKey]) -> set[LogKey]:
        """Return those of the logs that a job names."""
        sequences = {sequence for log in logs if (sequence := job_of_log(log.log_stream_name)) is not None}
        rows = _in(
            self._db,
            "SELECT namespace, run_log_stream_name, attempts.log_stream_name"
            " FROM jobs LEFT JOIN attempts USING (sequence) WHERE sequence IN (%s)",
            sequences,
        )
        named = {LogKey(namespace, stream) for namespace, *streams in rows for stream in streams if stream}
        return named & set(logs)

    def revision(self) -> int:
        """Return the revision of the newest commit."""
        return int(self._db.execute("SELECT revision FROM store").fetchone()[0])

    def snapshot(self) -> Snapshot:
        """Begin to read what a scheduler needs."""
        db = self._db
        db.execute("BEGIN")
        revision = self.revision()
        rows = db.execute(f"{_SELECT_AGENTS} WHERE live OR draining ORDER BY agent_id")
        agents = [_agent(row) for row in rows]
        return Snapshot(revision, agents, self._snapshot_pages())

    def _snapshot_pages(self) -> Iterator[Sequence[tuple[Job, bytes | None]]]:
        try:
            arrays = self._db.execute(
                f"{_SELECT} FROM arrays JOIN jobs USING (sequence) WHERE runnable <> x'' ORDER BY sequence"
            )
            while rows := arrays.fetchmany(_SNAPSHOT_PAGE):
                yield [(array, None) for array in _jobs(self._db, rows)]
            cursor = self._db.execute(
                f"{_SELECT}, CASE WHEN run_state = {int(RunState.OFFERED)} THEN spec END"
                " FROM jobs LEFT JOIN specs ON specs.sequence = COALESCE(jobs.parent, jobs.sequence)"
                " WHERE state IN (3, 4, 5) ORDER BY jobs.sequence"
            )
            page: list[tuple[Job, bytes | None]] = []
            size = 0
            for row in cursor:
                page.append((_job(row), row[-1]))
                size += len(row[-1] or b"")
                if len(page) == _SNAPSHOT_PAGE or size >= _SNAPSHOT_PAGE_BYTES:
                    yield page
                    page, size = [], 0
            if page:
                yield page
        finally:
            self._db.execute("COMMIT")


def _in(db: sqlite3.Connection, query: str, values: Iterable[Any]) -> Iterator[Any]:
    """Run a query with `IN (%s)` over any number of values, a bounded number at a time."""
    rest = list(values)
    for start in range(0, len(rest), _KEYS_A_QUERY):
        part = rest[start : start + _KEYS_A_QUERY]
        yield from db.execute(query % ", ".join("?" * len(part)), part)


def _jobs_by_key(db: sqlite3.Connection, keys: Iterable[JobKey]) -> list[Job]:
    by_namespace: dict[str, dict[str, None]] = {}
    for namespace, job_id in keys:
        by_namespace.setdefault(namespace, {})[job_id] = None
    jobs = []
    for namespace, ids in by_namespace.items():
        rest = list(ids)
        for start in range(0, len(rest), _KEYS_A_QUERY):
            part = rest[start : start + _KEYS_A_QUERY]
            marks = ", ".join("?" * len(part))
            rows = db.execute(f"{_SELECT} FROM jobs WHERE namespace = ? AND job_id IN ({marks})", (namespace, *part))
            jobs += _jobs(db, rows)
    return jobs


def _jobs_and_children_by_key(db: sqlite3.Connection, keys: Iterable[JobKey]) -> list[Job]:
    """Return jobs, and of the children that have no rows what their arrays tell of them."""
    keys = list(keys)
    jobs = _jobs_by_key(db, keys)
    found = {job.key for job in jobs}
    missing = [child for key in keys if key not in found and (child := array_and_index(key)) is not None]
    arrays = {array.key: array for array in _jobs_by_key(db, [key for key, _ in missing])}
    children = (child_without_row(arrays[key], index) for key, index in dict.fromkeys(missing) if key in arrays)
    return [*jobs, *filter(None, children)]


def _fixed(job: Job) -> tuple[Any, ...]:
    return (
        job.sequence,
        *job.key,
        job.job_name,
        job.job_queue,
        job.job_definition,
        job.vcpus_milli,
        job.memory_mib,
        job.gpus,
        job.attempts_allowed,
        job.created_at,
        _encode(job.exit_rules).decode() if job.exit_rules else None,
        job.faults,
        job.share_identifier,
        job.parent,
        job.children.size if job.children is not None else None,
    )


def _changing(job: Job) -> tuple[Any, ...]:
    return (
        int(job.state),
        job.version,
        job.status_reason,
        job.dependencies_left,
        job.attempts_made,
        job.stop_reason,
        job.cancelled,
        job.terminated,
        job.started_at,
        job.stopped_at,
        job.ended_at,
        job.exit_code,
        job.reason,
        job.agent_id,
        job.task_id,
        job.log_stream_name,
        job.runnable_at,
        job.unstarted_losses,
        *_run_row(job.run),
    )


def _run_row(run: Run | None) -> tuple[Any, ...]:
    if run is None:
        return (None,) * 9
    return (
        run.fence.epoch,
        run.fence.number,
        run.agent_id,
        run.incarnation,
        run.compute_environment,
        int(run.state),
        run.task_id,
        run.log_stream_name,
        run.evicted,
    )


def _jobs(db: sqlite3.Connection, rows: Iterable[Any]) -> list[Job]:
    """Return jobs; arrays with what they know of their children."""
    jobs, arrays = [], []
    for row in rows:
        job = _job(row)
        jobs.append(job)
        if row[_ARRAY_SIZE] is not None:
            arrays.append(job)
    load_children(db, arrays)
    return jobs


def _job(row: Any) -> Job:
    (
        sequence, namespace, job_id, job_name, job_queue, job_definition, vcpus_milli, memory_mib, gpus,
        attempts_allowed, created_at, exit_rules, faults, share_identifier, parent, _, state, version, status_reason,
        dependencies_left, attempts_made, stop_reason, cancelled, terminated, started_at, stopped_at, ended_at,
        exit_code, reason, agent_id, task_id, log_stream_name, runnable_at, unstarted_losses, run_epoch, run_number,
        run_agent, run_incarnation, run_environment, run_state, run_task, run_stream, run_evicted,
    ) = row[: len(_COLUMNS)]  # fmt: skip
    run = None
    if run_state is not None:
        run = Run(
            Fence(run_epoch, run_number), run_agent, run_incarnation, run_environment, RunState(run_state), run_task,
            run_stream, bool(run_evicted),
        )  # fmt: skip
    return Job(
        JobKey(namespace, job_id), sequence, job_name, job_queue, job_definition, vcpus_milli, memory_mib, gpus,
        attempts_allowed, created_at, JobState(state), version, status_reason, dependencies_left, attempts_made,
        unstarted_losses, run, stop_reason, bool(cancelled), bool(terminated), started_at, stopped_at, ended_at,
        exit_code, reason, agent_id, task_id, log_stream_name,
        _decode_exit_rules(exit_rules) if exit_rules else (), faults, runnable_at, share_identifier, parent,
    )  # fmt: skip


def _queue(row: Any) -> QueueCopy:
    namespace, name, arn, is_open, gone, revision, fair_share, environments, fargate = row
    names = tuple(environments.split("/")[1:])
    return QueueCopy(
        QueueKey(namespace, name), arn, bool(is_open), bool(gone), revision, bool(fair_share), names, bool(fargate)
    )


def _environment(row: Any) -> EnvironmentCopy:
    namespace, name, usable, max_vcpus_milli, revision = row
    return EnvironmentCopy(EnvironmentKey(namespace, name), bool(usable), max_vcpus_milli, revision)


def _agent(row: Any) -> AgentRecord:
    agent_id, incarnation, live, gone_at, draining, drain_limit_ms = row
    return AgentRecord(agent_id, incarnation, bool(live), gone_at, bool(draining), drain_limit_ms)


def _attempt_row(attempt: Attempt) -> tuple[Any, ...]:
    return (
        attempt.number,
        attempt.agent_id,
        attempt.task_id,
        attempt.log_stream_name,
        attempt.status_reason,
        attempt.started_at,
        attempt.stopped_at,
        attempt.exit_code,
        attempt.reason,
    )


def _path(db: sqlite3.Connection) -> str:
    return next(str(path) for _, name, path in db.execute("PRAGMA database_list") if name == "main")
