"""Lines of waiting jobs in SQLite, from the one index that has each in its order: no more is read than is wanted."""

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from batchyard.domain.jobs import JobId
from batchyard.domain.lines import FROM_THE_FIRST
from batchyard.storage.lines import LineName, LinePart

_NAME: Final = tuple(
    "namespace job_queue share_identifier vcpus_milli memory_mib gpus line_time_limit_s".split()  # noqa: SIM905
)
_PLACE: Final = (
    "CASE WHEN share_identifier IS NULL THEN sequence ELSE ((9999 - scheduling_priority) << 48) + sequence END"
)
"""In the words of the index: see `domain.lines.order_of`."""
_SELECT: Final = (
    f"SELECT {', '.join(_NAME)}, job_id, {_PLACE}, version"  # noqa: S608
    " FROM jobs INDEXED BY jobs_waiting WHERE state = 3 AND run_state IS NULL"
)
_LOWEST: Final[dict[str, Any]] = {"share_identifier": "", "line_time_limit_s": 0}
"""Of the columns that may be NULL, which comes before: the least other value."""


def _beyond(depth: int, is_null: bool) -> str:
    """Return the query for what comes after a line and has the same name up to a column."""
    same = "".join(f" AND {name} IS ?" for name in _NAME[:depth])
    # SQLite does not look for what is not NULL by an index.
    compared = ">=" if is_null else ">"
    order = ", ".join((*_NAME[depth:], _PLACE))
    return f"{_SELECT}{same} AND {_NAME[depth]} {compared} ? ORDER BY {order}"


_ALL: Final = f"{_SELECT} ORDER BY {', '.join((*_NAME, _PLACE))}"
_BEYOND: Final = {
    (depth, is_null): _beyond(depth, is_null)
    for depth, name in enumerate(_NAME)
    for is_null in ((False, True) if name in _LOWEST else (False,))
}
_PART: Final = f"{_SELECT}{''.join(f' AND {name} IS ?' for name in _NAME)} AND {_PLACE} > ? ORDER BY {_PLACE} LIMIT ?"


def part_of_line(db: sqlite3.Connection, line: LineName, after: int, limit: int) -> LinePart:
    """Return the jobs of a line that come after a place, `limit` of them at most."""
    rows = db.execute(_PART, (*line, after, limit + 1)).fetchall()
    return _part(line, after, rows[:limit], more=len(rows) > limit)


def beginnings(db: sqlite3.Connection, limit: int) -> Iterator[LinePart]:
    """Yield the first jobs of all lines, `limit` of each at most; to be called in a transaction.

    Costs as much as it yields, and some look-ups for each line that is longer.
    """
    rows: Iterator[Any] = db.execute(_ALL)
    line: tuple[Any, ...] | None = None
    found: list[Any] = []
    while True:
        for row in rows:
            if row[: len(_NAME)] != line:
                if line is not None:
                    yield _part(LineName(*line), FROM_THE_FIRST, found, more=False)
                line, found = row[: len(_NAME)], []
            if len(found) == limit:
                break
            found.append(row)
        else:
            break
        assert line is not None
        yield _part(LineName(*line), FROM_THE_FIRST, found, more=True)
        rows, line, found = _after(db, line), None, []
    if line is not None:
        yield _part(LineName(*line), FROM_THE_FIRST, found, more=False)


def _after(db: sqlite3.Connection, line: tuple[Any, ...]) -> Iterator[Any]:
    """Yield the rows of all lines that come after one, in order, without passing over its own."""
    for depth in reversed(range(len(_NAME))):
        value = line[depth]
        beyond = _LOWEST[_NAME[depth]] if value is None else value
        yield from db.execute(_BEYOND[depth, value is None], (*line[:depth], beyond))


def _part(line: LineName, after: int, rows: list[Any], *, more: bool) -> LinePart:
    at = len(_NAME)
    return LinePart(
        line,
        after,
        [JobId(row[at]) for row in rows],
        [row[at + 1] for row in rows],
        [row[at + 2] for row in rows],
        more,
    )
