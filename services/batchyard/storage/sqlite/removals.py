"""What goes from the job store's tables because its time is over: finding it, and deleting it."""

import sqlite3
from collections.abc import Collection, Iterable
from typing import Final

from batchyard.domain.jobs import AgentId
from batchyard.domain.lifecycle import TERMINAL
from batchyard.storage.jobs import Dependency, FinishedJob, Removal

_TERMINAL: Final = ", ".join(str(int(state)) for state in sorted(TERMINAL))


def finished_jobs(db: sqlite3.Connection, before_ms: int, after: FinishedJob | None, limit: int) -> list[FinishedJob]:
    """Return the next jobs that ended before this time, oldest first."""
    begin = (after.ended_at, after.sequence) if after is not None else (-1, -1)
    rows = db.execute(
        "SELECT ended_at, sequence, COALESCE(array_size, 0) FROM jobs"
        " WHERE ended_at IS NOT NULL AND parent IS NULL AND (ended_at, sequence) > (?, ?)"
        " AND ended_at < ? ORDER BY ended_at, sequence LIMIT ?",
        (*begin, before_ms, limit),
    )
    return [FinishedJob(*row) for row in rows]


def dependencies(db: sqlite3.Connection, jobs: Collection[FinishedJob], limit: int) -> list[Dependency]:
    """Return who depends or depended on these jobs or their children, one of the jobs after the other."""
    found: list[Dependency] = []
    for job in jobs:
        for table in ("dependencies", "pairings") if job.array_size else ("dependencies",):
            rows = db.execute(
                f"SELECT depends_on, dependent, COALESCE(state NOT IN ({_TERMINAL}), 0)"  # noqa: S608 - constants
                f" FROM {table} LEFT JOIN jobs ON jobs.sequence = dependent"
                " WHERE depends_on BETWEEN ? AND ? ORDER BY depends_on LIMIT ?",
                (job.sequence, job.sequence + job.array_size, limit - len(found)),
            )
            found += [Dependency(job.sequence, row[0], row[1], bool(row[2])) for row in rows]
        if len(found) == limit:
            break
    return found


def children(db: sqlite3.Connection, array: int, limit: int) -> list[int]:
    """Return children of an array that have rows, by sequence numbers."""
    return [row[0] for row in db.execute("SELECT sequence FROM jobs WHERE parent = ? LIMIT ?", (array, limit))]


def gone_agents(db: sqlite3.Connection, before_ms: int, limit: int) -> list[AgentId]:
    """Return agents that were given up before this time, are not drained, and that no run names."""
    rows = db.execute(
        "SELECT agent_id FROM agents WHERE NOT live AND NOT draining AND gone_at < ?"
        " AND NOT EXISTS (SELECT 1 FROM jobs WHERE run_agent_id = agents.agent_id) LIMIT ?",
        (before_ms, limit),
    )
    return [AgentId(row[0]) for row in rows]


def events_before(db: sqlite3.Connection, before_ms: int, limit: int) -> int:
    """Return the revision up to which events were recorded before this time, over at most `limit` commits; or 0."""
    return _last_before(db.execute("SELECT revision, at FROM events ORDER BY revision LIMIT ?", (limit,)), before_ms)


def answers_before(db: sqlite3.Connection, before_ms: int, limit: int) -> int:
    """Return the number up to which answers are from before this time, over at most `limit` of them; or 0."""
    return _last_before(db.execute("SELECT number, at FROM answers ORDER BY number LIMIT ?", (limit,)), before_ms)


def _last_before(rows: Iterable[tuple[int, int]], before_ms: int) -> int:
    """Return the number of the last of the rows, each with its time, before the first that is not from before it."""
    last = 0
    for number, at in rows:
        if at >= before_ms:
            break
        last = number
    return last


def newest_job(db: sqlite3.Connection) -> tuple[int, str]:
    """Return the highest sequence number in use, and the id of the newest job that is there; 0 and nothing for none."""
    # Of an array all children have their numbers already, whether there are rows of them or not.
    row = db.execute(
        "SELECT sequence + COALESCE(array_size, 0), job_id FROM jobs WHERE sequence ="
        " (SELECT COALESCE(parent, sequence) FROM jobs ORDER BY sequence DESC LIMIT 1)"
    ).fetchone()
    return (row[0], row[1]) if row else (0, "")


def remove(db: sqlite3.Connection, removal: Removal) -> None:
    """Delete it, within the transaction that is open."""
    if removal.jobs:
        # Their numbers must not come again, whatever is left.
        db.execute(
            "UPDATE store SET gone_sequence = max(gone_sequence, ?), gone_job_id = max(gone_job_id, ?)", newest_job(db)
        )
        rows = [(sequence,) for sequence in removal.jobs]
        for table in ("jobs", "specs", "attempts", "job_tags", "arrays"):
            db.executemany(f"DELETE FROM {table} WHERE sequence = ?", rows)  # noqa: S608 - a constant
    for table in ("dependencies", "pairings"):
        db.executemany(
            f"DELETE FROM {table} WHERE depends_on = ? AND dependent = ?",  # noqa: S608 - a constant
            removal.dependencies,
        )
    db.executemany("DELETE FROM agents WHERE agent_id = ?", [(agent_id,) for agent_id in removal.agents])
    if removal.answers_to:
        db.execute("DELETE FROM answers WHERE number <= ?", (removal.answers_to,))
    if removal.events_to:
        db.execute("DELETE FROM events WHERE revision <= ?", (removal.events_to,))
        db.execute("UPDATE store SET gone_events = max(gone_events, ?)", (removal.events_to,))
