"""Filtered listings of a queue's jobs, newest first, without the children of arrays.

Few matches are found by an index on what is filtered, and sorted. Of many, those of a page are looked for among the
newest jobs, as far as `SCANNED_MAX`: then the page is short, and the next one begins where this one stopped.

Each query names its index: left to itself, SQLite takes the one on creation, and looks through all jobs of the queue.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from heapq import merge
from itertools import islice
from operator import or_
from typing import Any, Final

from batchyard.domain.jobs import JobId, JobKey
from batchyard.storage.jobs import QueueKey
from batchyard.storage.listings import JobFilter, Pattern, Position
from batchyard.storage.sqlite.rows import first_job_of

MATCHES_MAX: Final = 5_000
"""Matches that are sorted for each page."""
SCANNED_MAX: Final = 20_000

_QUEUE: Final = "namespace = ? AND job_queue = ? AND parent IS NULL"
_NEWEST: Final = Position(1 << 62, 1 << 62)
# What the indexes are on, letter by letter.
_NAME: Final = "lower(job_name)"
_DEFINITION: Final = "substr(job_definition, instr(job_definition, '/') + 1)"
_SHARE: Final = "share_identifier"
_LAST_CHARACTER: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class _Condition:
    sql: str
    values: tuple[Any, ...] = ()
    index: str = ""
    """That finds what it is true for, in a queue."""

    def __and__(self, other: "_Condition") -> "_Condition":
        return _Condition(f"({self.sql}) AND ({other.sql})", (*self.values, *other.values), self.index)

    def __or__(self, other: "_Condition") -> "_Condition":
        return _Condition(f"({self.sql}) OR ({other.sql})", (*self.values, *other.values))


def listed(
    db: sqlite3.Connection, queue: QueueKey, wanted: JobFilter, after: Position | None, limit: int
) -> tuple[list[int], Position | None]:
    """Return the sequence numbers of the next jobs of a listing, and after which position there may be more."""
    choices, span = _choices(wanted), _span(wanted, after)
    others = _others(wanted) & _Condition("sequence >= ?", (first_job_of(db, *queue),))
    if choices and _are_few(db, queue, choices):
        return _sorted(db, queue, [choice & others & span for choice in choices], limit)
    match = _any_of(choices) & others
    if wanted.state is not None:
        state = _Condition("state = ?", (int(wanted.state),), "jobs_by_queue")
        if _are_few(db, queue, [state]):
            return _sorted(db, queue, [state & match & span], limit)
    return _scanned(db, queue, match, span, limit)


def newest_named(db: sqlite3.Connection, namespace: str, job_name: str, job_queue: str) -> JobKey | None:
    """Return the newest job of this name: in the queue if there is one, else in any."""
    found = _newest_in(db, namespace, job_queue, job_name, first_job_of(db, namespace, job_queue))
    if found is None:
        newest = (_newest_in(db, namespace, queue, job_name) for queue in _queues(db, namespace))
        found = max(filter(None, newest), default=None)
    return None if found is None else JobKey(namespace, JobId(found[1]))


def _newest_in(
    db: sqlite3.Connection, namespace: str, job_queue: str, job_name: str, first_job: int = 0
) -> tuple[int, str] | None:
    # Without the plus SQLite would put the value in place of the column in the other condition too, which then has no
    # index any more.
    query = (
        f"SELECT sequence, job_id FROM jobs INDEXED BY jobs_by_folded_name WHERE {_QUEUE} AND {_NAME} = ?"  # noqa: S608
        " AND +job_name = ? AND sequence >= ? ORDER BY sequence DESC LIMIT 1"
    )
    values = (namespace, job_queue, job_name.lower(), job_name, first_job)
    found: tuple[int, str] | None = db.execute(query, values).fetchone()
    return found


def _queues(db: sqlite3.Connection, namespace: str) -> Iterator[str]:
    """Yield the names of the queues that jobs are in, each by one step in an index."""
    query = "SELECT min(job_queue) FROM jobs WHERE namespace = ? AND job_queue > ? AND parent IS NULL"
    queue = ""
    while (queue := db.execute(query, (namespace, queue)).fetchone()[0]) is not None:
        yield queue


def _choices(wanted: JobFilter) -> list[_Condition]:
    """Return conditions of which one must hold, each with an index of its own; none if there is no such filter."""
    return (
        [_matches("jobs_by_folded_name", _NAME, Pattern(name.text.lower(), name.is_prefix)) for name in wanted.names]
        or [_matches("jobs_by_definition", _DEFINITION, definition) for definition in wanted.definitions]
        or [_matches("jobs_by_share", _SHARE, Pattern(share)) for share in wanted.shares]
    )


def _matches(index: str, expression: str, pattern: Pattern) -> _Condition:
    if not pattern.is_prefix:
        return _Condition(f"{expression} = ?", (pattern.text,), index)
    return _Condition(f"{expression} >= ? AND {expression} < ?", (pattern.text, pattern.text + _LAST_CHARACTER), index)


def _any_of(choices: Sequence[_Condition]) -> _Condition:
    return reduce(or_, choices) if choices else _Condition("1")


def _span(wanted: JobFilter, after: Position | None) -> _Condition:
    """Return between which times a job must have been created."""
    condition = _Condition("(created_at, sequence) < (?, ?)", tuple(after or _NEWEST), "jobs_by_creation")
    if wanted.created_before is not None:
        condition &= _Condition("created_at < ?", (wanted.created_before,))
    if wanted.created_after is not None:
        condition &= _Condition("created_at > ?", (wanted.created_after,))
    return condition


def _others(wanted: JobFilter) -> _Condition:
    """Return what must hold besides."""
    return _Condition("1") if wanted.state is None else _Condition("state = ?", (int(wanted.state),))


def _are_few(db: sqlite3.Connection, queue: QueueKey, choices: Sequence[_Condition]) -> bool:
    left = MATCHES_MAX
    for choice in choices:
        matching = f"SELECT 1 FROM jobs INDEXED BY {choice.index} WHERE {_QUEUE} AND {choice.sql} LIMIT ?"  # noqa: S608
        query = f"SELECT count(*) FROM ({matching})"  # noqa: S608
        left -= db.execute(query, (*queue, *choice.values, left + 1)).fetchone()[0]
        if left < 0:
            return False
    return True


def _sorted(
    db: sqlite3.Connection, queue: QueueKey, choices: Sequence[_Condition], limit: int
) -> tuple[list[int], Position | None]:
    """Return the newest of those that any condition holds for, all of which are looked at."""
    pages = [_page(db, queue, choice, limit + 1) for choice in choices]
    found = list(islice(_unique(merge(*pages, reverse=True)), limit + 1))
    more = len(found) > limit
    return [position.sequence for position in found[:limit]], found[limit - 1] if more else None


def _page(db: sqlite3.Connection, queue: QueueKey, condition: _Condition, limit: int) -> list[Position]:
    query = (
        f"SELECT created_at, sequence FROM jobs INDEXED BY {condition.index} WHERE {_QUEUE} AND {condition.sql}"  # noqa: S608
        " ORDER BY created_at DESC, sequence DESC LIMIT ?"
    )
    return [Position(*row) for row in db.execute(query, (*queue, *condition.values, limit))]


def _unique(positions: Iterator[Position]) -> Iterator[Position]:
    last = None
    for position in positions:
        if position != last:
            yield position
        last = position


def _scanned(
    db: sqlite3.Connection, queue: QueueKey, match: _Condition, span: _Condition, limit: int
) -> tuple[list[int], Position | None]:
    """Return the first of a span that a condition holds for, as far as it may be looked."""
    query = (
        f"SELECT created_at, sequence, {match.sql} FROM jobs INDEXED BY {span.index} WHERE {_QUEUE} AND {span.sql}"  # noqa: S608
        " ORDER BY created_at DESC, sequence DESC LIMIT ?"
    )
    found: list[int] = []
    last, scanned = None, 0
    for created_at, sequence, is_match in db.execute(query, (*match.values, *queue, *span.values, SCANNED_MAX)):
        if is_match:
            if len(found) == limit:
                return found, last
            found.append(sequence)
        last, scanned = Position(created_at, sequence), scanned + 1
    return found, last if scanned == SCANNED_MAX else None
