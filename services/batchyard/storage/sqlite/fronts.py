"""Who waits at the front of a queue: jobs, children with rows, and arrays of children without."""

import sqlite3

from batchyard.domain.jobs import Job, JobKey
from batchyard.domain.lifecycle import JobState
from batchyard.storage.jobs import QueueKey
from batchyard.storage.listings import LineKey
from batchyard.storage.sqlite.arrays import front_of
from batchyard.storage.sqlite.rows import SELECT, jobs_of

_OF_QUEUE = "FROM jobs WHERE namespace = ? AND job_queue = ? AND parent IS"
_CHILDREN = f"{_OF_QUEUE} NOT NULL AND state IN (3, 4, 5)"
"""Those that are active, in the words of the index that holds them alone."""
_FIRST = "ORDER BY sequence LIMIT ?"
_ARRAYS = (
    f"{SELECT} FROM arrays CROSS JOIN jobs USING (sequence) WHERE runnable <> x''"
    f" AND namespace = ? AND job_queue = ? AND state = {int(JobState.PENDING)}"
)
"""Those of a queue that have waiting children without rows, found among all such arrays, not among what is PENDING."""
_FRONT = (
    f"{SELECT} {_OF_QUEUE} NULL AND state = {int(JobState.RUNNABLE)} AND run_state IS NULL {_FIRST}",
    f"{SELECT} {_CHILDREN} AND state = {int(JobState.RUNNABLE)} AND run_state IS NULL {_FIRST}",
    f"{_ARRAYS} {_FIRST}",
)
"""The first jobs of a queue, children with rows, and arrays of children without: each kind has an index of its own."""
_OF_LINE = "AND vcpus_milli = ? AND memory_mib = ? AND gpus = ? AND share_identifier IS ?"
_IN_LINE = (
    f"{SELECT} FROM jobs INDEXED BY jobs_waiting WHERE state = 3 AND run_state IS NULL"
    f" AND namespace = ? AND job_queue = ? {_OF_LINE}"
)
_OVERDUE = (
    f"{_IN_LINE} AND COALESCE(runnable_at, created_at) <= ? LIMIT ?",
    f"{_ARRAYS} {_OF_LINE} AND iif(sequential OR paired, changed_at, arrays.created_at) <= ? {_FIRST}",
)
"""Jobs of a line, with those children of arrays that have rows, that have been RUNNABLE since a time; and arrays."""
_USED = (
    f"SELECT total(vcpus_milli) FROM (SELECT vcpus_milli {_OF_QUEUE} NULL AND state IN (4, 5)"  # noqa: S608
    f" UNION ALL SELECT vcpus_milli {_CHILDREN} AND state IN (4, 5))"
)


def front(db: sqlite3.Connection, queue: QueueKey, limit: int) -> tuple[list[Job], int]:
    """Return the first RUNNABLE jobs of a queue, and what its others hold; to be called in a transaction."""
    found = [job for query in _FRONT for job in jobs_of(db, db.execute(query, (*queue, limit)))]
    used = db.execute(_USED, (*queue, *queue)).fetchone()
    return front_of(found, limit), int(used[0])


def overdue(db: sqlite3.Connection, line: LineKey, runnable_by_ms: int, limit: int) -> list[JobKey]:
    """Return jobs of a line that have been RUNNABLE since a time; to be called in a transaction."""
    found = [job for query in _OVERDUE for job in jobs_of(db, db.execute(query, (*line, runnable_by_ms, limit)))]
    return [job.key for job in front_of(found, limit)]


def share_use(db: sqlite3.Connection, queue: QueueKey) -> dict[str, int]:
    """Return how many thousandths of a vCPU the jobs of a queue hold that are STARTING or RUNNING, by share."""
    rows = db.execute(
        f"SELECT share_identifier, sum(vcpus_milli) FROM (SELECT share_identifier, vcpus_milli {_OF_QUEUE} NULL"  # noqa: S608
        f" AND state IN (4, 5) UNION ALL SELECT share_identifier, vcpus_milli {_CHILDREN} AND state IN (4, 5))"
        " WHERE share_identifier IS NOT NULL GROUP BY share_identifier",
        (*queue, *queue),
    )
    return dict(rows)
