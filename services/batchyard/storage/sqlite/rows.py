"""Jobs and what belongs to them as rows, and back: the one place that knows the order of columns."""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from batchyard.domain.jobs import Attempt, Fence, Job, JobChange, JobKey, Run, array_and_index, child_without_row
from batchyard.domain.lifecycle import JobState, RunState
from batchyard.domain.lines import rounded_time_limit
from batchyard.domain.retries import ExitRule
from batchyard.storage.jobs import AgentRecord, EnvironmentCopy, EnvironmentKey, QueueCopy, QueueKey
from batchyard.storage.sqlite.arrays import load_children

_KEYS_A_QUERY: Final = 200


def _names(*lines: str) -> list[str]:
    return " ".join(lines).split()


_FIXED = _names(
    "sequence namespace job_id job_name job_queue job_definition vcpus_milli memory_mib gpus",
    "attempts_allowed created_at exit_rules faults share_identifier parent array_size scheduling_priority timeout_s",
)
_CHANGING = _names(
    "state version status_reason dependencies_left attempts_made stop_reason cancelled terminated started_at",
    "stopped_at ended_at exit_code reason agent_id task_id log_stream_name runnable_at unstarted_losses run_epoch",
    "run_number run_agent_id run_incarnation run_compute_environment run_state run_task_id run_log_stream_name",
    "run_evicted run_cluster cluster",
)
_COLUMNS = _FIXED + _CHANGING
_ARRAY_SIZE = _COLUMNS.index("array_size")
SELECT = "SELECT " + ", ".join(f"jobs.{name}" for name in _COLUMNS)
_INSERTED = (*_FIXED, "line_time_limit_s", *_CHANGING)
INSERT = f"INSERT INTO jobs ({', '.join(_INSERTED)}) VALUES ({', '.join('?' * len(_INSERTED))})"  # noqa: S608
UPDATE = f"UPDATE jobs SET {', '.join(f'{name}=?' for name in _CHANGING)} WHERE sequence=?"  # noqa: S608
# The texts above are made of the constants of this module only.
SELECT_QUEUES = (
    "SELECT namespace, name, arn, open, gone, revision, fair_share, environments, fargate, created, first_job"
    " FROM queues"
)
SELECT_ENVIRONMENTS = (
    "SELECT namespace, name, usable, max_vcpus_milli, revision, created, cluster_arn FROM environments"
)
_AGENT = "agent_id, incarnation, live, gone_at, draining, drain_limit_ms, lease_ms"
SELECT_AGENTS = f"SELECT {_AGENT} FROM agents"  # noqa: S608
INSERT_AGENT = f"INSERT OR REPLACE INTO agents ({_AGENT}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608


_JOB_STATES = {int(state): state for state in JobState}
_RUN_STATES = {int(state): state for state in RunState}

encode_events = msgspec.msgpack.Encoder().encode
_encode = msgspec.json.Encoder().encode
_decode_exit_rules = msgspec.json.Decoder(tuple[ExitRule, ...]).decode
encode_tags = msgspec.msgpack.Encoder().encode
decode_tags = msgspec.msgpack.Decoder(dict[str, str]).decode
decode_events = msgspec.msgpack.Decoder(list[JobChange]).decode


def each_in(db: sqlite3.Connection, query: str, values: Iterable[Any]) -> Iterator[Any]:
    """Run a query with `IN (%s)` over any number of values, a bounded number at a time."""
    rest = list(values)
    for start in range(0, len(rest), _KEYS_A_QUERY):
        part = rest[start : start + _KEYS_A_QUERY]
        yield from db.execute(query % ", ".join("?" * len(part)), part)


def jobs_by_key(db: sqlite3.Connection, keys: Iterable[JobKey]) -> list[Job]:
    """Return those of the jobs that exist; of children only those with rows."""
    by_namespace: dict[str, dict[str, None]] = {}
    for namespace, job_id in keys:
        by_namespace.setdefault(namespace, {})[job_id] = None
    jobs = []
    for namespace, ids in by_namespace.items():
        rest = list(ids)
        for start in range(0, len(rest), _KEYS_A_QUERY):
            part = rest[start : start + _KEYS_A_QUERY]
            marks = ", ".join("?" * len(part))
            rows = db.execute(f"{SELECT} FROM jobs WHERE namespace = ? AND job_id IN ({marks})", (namespace, *part))
            jobs += jobs_of(db, rows)
    return jobs


def jobs_and_children_by_key(db: sqlite3.Connection, keys: Iterable[JobKey]) -> list[Job]:
    """Return jobs, and of the children that have no rows what their arrays tell of them."""
    keys = list(keys)
    jobs = jobs_by_key(db, keys)
    found = {job.key for job in jobs}
    missing = [child for key in keys if key not in found and (child := array_and_index(key)) is not None]
    arrays = {array.key: array for array in jobs_by_key(db, [key for key, _ in missing])}
    children = (child_without_row(arrays[key], index) for key, index in dict.fromkeys(missing) if key in arrays)
    return [*jobs, *filter(None, children)]


def fixed_values(job: Job) -> tuple[Any, ...]:
    """Return the values of the columns that never change."""
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
        job.scheduling_priority,
        job.timeout_s,
        rounded_time_limit(job.timeout_s),
    )


def changing_values(job: Job) -> tuple[Any, ...]:
    """Return the values of the columns that change."""
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
        job.cluster,
    )


def _run_row(run: Run | None) -> tuple[Any, ...]:
    if run is None:
        return (None,) * 10
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
        run.cluster,
    )


def jobs_of(db: sqlite3.Connection, rows: Iterable[Any]) -> list[Job]:
    """Return jobs; arrays with what they know of their children."""
    jobs, arrays = [], []
    for row in rows:
        job = job_of(row)
        jobs.append(job)
        if row[_ARRAY_SIZE] is not None:
            arrays.append(job)
    load_children(db, arrays)
    return jobs


def job_of(row: Any) -> Job:
    """Return a job, without what an array knows of its children."""
    (
        sequence, namespace, job_id, job_name, job_queue, job_definition, vcpus_milli, memory_mib, gpus,
        attempts_allowed, created_at, exit_rules, faults, share_identifier, parent, _, scheduling_priority, timeout_s,
        state, version, status_reason, dependencies_left, attempts_made, stop_reason, cancelled, terminated,
        started_at, stopped_at, ended_at, exit_code, reason, agent_id, task_id, log_stream_name, runnable_at,
        unstarted_losses, run_epoch, run_number, run_agent, run_incarnation, run_environment, run_state, run_task,
        run_stream, run_evicted, run_cluster, cluster,
    ) = row[: len(_COLUMNS)]  # fmt: skip
    run = None
    if run_state is not None:
        run = Run(
            Fence(run_epoch, run_number), run_agent, run_incarnation, run_environment, _RUN_STATES[run_state], run_task,
            run_stream, bool(run_evicted), run_cluster,
        )  # fmt: skip
    return Job(
        JobKey(namespace, job_id), sequence, job_name, job_queue, job_definition, vcpus_milli, memory_mib, gpus,
        attempts_allowed, created_at, _JOB_STATES[state], version, status_reason, dependencies_left, attempts_made,
        unstarted_losses, run, stop_reason, bool(cancelled), bool(terminated), started_at, stopped_at, ended_at,
        exit_code, reason, agent_id, task_id, log_stream_name,
        _decode_exit_rules(exit_rules) if exit_rules else (), faults, runnable_at, share_identifier, parent,
        scheduling_priority=scheduling_priority, timeout_s=timeout_s, cluster=cluster,
    )  # fmt: skip


def queue_of(row: Any) -> QueueCopy:
    """Return the copy of a queue."""
    namespace, name, arn, is_open, gone, revision, fair_share, environments, fargate, created, first_job = row
    return QueueCopy(
        QueueKey(namespace, name),
        arn,
        bool(is_open),
        bool(gone),
        revision,
        bool(fair_share),
        tuple(environments.split("/")[1:]),
        bool(fargate),
        created,
        first_job,
    )


def first_job_of(db: sqlite3.Connection, namespace: str, job_queue: str) -> int:
    """Return the sequence number from which on jobs are of the queue that has this name now."""
    row = db.execute("SELECT first_job FROM queues WHERE namespace = ? AND name = ?", (namespace, job_queue)).fetchone()
    return int(row[0]) if row else 0


def environment_of(row: Any) -> EnvironmentCopy:
    """Return the copy of a compute environment."""
    namespace, name, usable, *rest = row
    return EnvironmentCopy(EnvironmentKey(namespace, name), bool(usable), *rest)


def agent_of(row: Any) -> AgentRecord:
    """Return an agent."""
    agent_id, incarnation, live, gone_at, draining, drain_limit_ms, lease_ms = row
    return AgentRecord(agent_id, incarnation, bool(live), gone_at, bool(draining), drain_limit_ms, lease_ms)


def attempt_values(attempt: Attempt) -> tuple[Any, ...]:
    """Return the values of an attempt's columns, after that of its job."""
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
        attempt.cluster,
    )
