"""Many jobs at once: how many of them stand where, and who belongs to whom."""

import sqlite3
from collections import Counter

from batchyard.domain.arrays import each, from_bytes
from batchyard.domain.jobs import Job
from batchyard.domain.lifecycle import JobState
from batchyard.storage.jobs import QueueKey

_UNFINISHED = "1, 2, 3, 4, 5"
# Left to itself, SQLite takes an index that has neither state nor sequence, and looks every job up: ten times slower.
_OF_QUEUES = (
    "FROM queues q CROSS JOIN jobs j INDEXED BY jobs_by_queue ON j.namespace = q.namespace AND j.job_queue = q.name"
)
_SINGLE = (
    f"SELECT q.namespace, q.name, j.state, count(*) {_OF_QUEUES} AND j.state IN ({_UNFINISHED})"
    " WHERE j.parent IS NULL GROUP BY 1, 2, 3"
)
_KEPT = (
    f"SELECT q.name, j.state, count(*) {_OF_QUEUES} AND j.sequence >= q.first_job"
    " WHERE q.namespace = ? AND NOT q.gone AND j.parent IS NULL GROUP BY 1, 2"
)
_CHILDREN_WITH_ROWS = (
    "SELECT namespace, job_queue, state, count(*) FROM jobs WHERE parent IS NOT NULL AND state IN (3, 4, 5)"
    " GROUP BY 1, 2, 3"
)
_ARRAYS = (
    "SELECT j.namespace, j.job_queue, j.state, a.pending, a.runnable FROM arrays a CROSS JOIN jobs j USING (sequence)"  # noqa: S608
    f" WHERE j.state IN ({_UNFINISHED})"
)


def tallies(db: sqlite3.Connection) -> dict[tuple[QueueKey, JobState], int]:
    """Return how many jobs of each queue are in each state; in place of arrays, their children. In a transaction.

    Costs some hundred nanoseconds a job.
    """
    counts: Counter[tuple[QueueKey, JobState]] = Counter()
    for query in (_SINGLE, _CHILDREN_WITH_ROWS):
        for namespace, queue, state, number in db.execute(query):
            counts[QueueKey(namespace, queue), JobState(state)] += number
    for namespace, queue, state, pending, runnable in db.execute(_ARRAYS):
        key = QueueKey(namespace, queue)
        counts[key, JobState(state)] -= 1
        counts[key, JobState.PENDING] += from_bytes(pending).bit_count()
        counts[key, JobState.RUNNABLE] += from_bytes(runnable).bit_count()
    return {place: number for place, number in counts.items() if number}


def counts(db: sqlite3.Connection, namespace: str) -> dict[str, dict[JobState, int]]:
    """Return how many jobs of each queue of a namespace are kept in each state; arrays are one job. By index."""
    found: dict[str, dict[JobState, int]] = {}
    for queue, state, number in db.execute(_KEPT, (namespace,)):
        found.setdefault(queue, {})[JobState(state)] = number
    return found


def child_states(db: sqlite3.Connection, array: Job) -> bytes:
    """Return the state of each child of an array, a byte a child."""
    children = array.children
    assert children is not None
    states = bytearray(children.size)
    for state in (JobState.PENDING, JobState.RUNNABLE, JobState.FAILED):
        for index in each(children.without_row(state)):
            states[index] = state
    first = array.sequence + 1
    for sequence, state in db.execute("SELECT sequence, state FROM jobs WHERE parent = ?", (array.sequence,)):
        states[sequence - first] = state
    return bytes(states)


def dependents(db: sqlite3.Connection, job: Job, limit: int) -> list[int]:
    """Return the sequences of the first jobs that were submitted to wait for a job."""
    rows = db.execute(
        "SELECT dependent FROM dependencies WHERE depends_on = ? UNION SELECT dependent FROM pairings"
        " WHERE depends_on = ? ORDER BY 1 LIMIT ?",
        (job.sequence, job.sequence, limit),
    )
    return [sequence for (sequence,) in rows]
