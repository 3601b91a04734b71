"""What arrays know of their children, in SQLite."""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

from batchyard.domain.arrays import Children, each, from_bytes, to_bytes
from batchyard.domain.jobs import Job, child_without_row

_MEMBERS: Final = (
    *("size", "sequential", "paired", "created_at", "changed_at", "pending", "runnable", "dependency_failed"),
    *("stopped", "succeeded", "failed", "rows_runnable", "rows_starting", "rows_running"),
)
_INSERT = f"INSERT OR REPLACE INTO arrays VALUES ({', '.join('?' * (len(_MEMBERS) + 1))})"  # noqa: S608
_KEYS_A_QUERY: Final = 200


def put_children(db: sqlite3.Connection, arrays: Iterable[Job]) -> None:
    """Write what arrays know of their children."""
    db.executemany(_INSERT, [(array.sequence, *_row(array.children)) for array in arrays if array.children is not None])


def put_pairings(db: sqlite3.Connection, pairings: Iterable[tuple[int, int]]) -> None:
    """Write which array, the second of each pair, waits child by child for the first."""
    db.executemany("INSERT INTO pairings VALUES (?, ?)", pairings)


def load_children(db: sqlite3.Connection, arrays: Sequence[Job]) -> None:
    """Give arrays that were just read what they know of their children; an array may be there more than once."""
    sequences = list({array.sequence for array in arrays})
    found: dict[int, Children] = {}
    for start in range(0, len(sequences), _KEYS_A_QUERY):
        part = sequences[start : start + _KEYS_A_QUERY]
        marks = ", ".join("?" * len(part))
        query = f"SELECT sequence, {', '.join(_MEMBERS)} FROM arrays WHERE sequence IN ({marks})"  # noqa: S608
        found.update((row[0], _children(row[1:])) for row in db.execute(query, part))
    for array in arrays:
        array.children = found[array.sequence]


def front_of(jobs: Iterable[Job], limit: int) -> list[Job]:
    """Return the first jobs in the order of submission, with their RUNNABLE children in place of arrays."""
    first: list[Job] = []
    for job in jobs:
        if job.children is None:
            first.append(job)
        else:
            indices = islice(each(job.children.runnable), limit)
            first += filter(None, (child_without_row(job, index) for index in indices))
    return sorted(first, key=lambda job: job.sequence)[:limit]


def _row(children: Children) -> tuple[Any, ...]:
    return (
        children.size,
        children.sequential,
        children.paired,
        children.created_at,
        children.changed_at,
        to_bytes(children.pending),
        to_bytes(children.runnable),
        to_bytes(children.dependency_failed),
        to_bytes(children.stopped),
        to_bytes(children.succeeded),
        to_bytes(children.failed),
        children.rows_runnable,
        children.rows_starting,
        children.rows_running,
    )


def _children(row: Sequence[Any]) -> Children:
    (
        size, sequential, paired, created_at, changed_at, pending, runnable, dependency_failed, stopped, succeeded,
        failed, rows_runnable, rows_starting, rows_running,
    ) = row  # fmt: skip
    return Children(
        size, bool(sequential), bool(paired), created_at, changed_at, from_bytes(pending), from_bytes(runnable),
        from_bytes(dependency_failed), from_bytes(stopped), from_bytes(succeeded), from_bytes(failed), rows_runnable,
        rows_starting, rows_running,
    )  # fmt: skip
