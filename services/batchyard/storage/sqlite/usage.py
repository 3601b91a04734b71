"""What attempts have held, a page of jobs at a time."""

import sqlite3
from collections.abc import Iterable
from typing import Final

from batchyard.domain.lifecycle import RunState
from batchyard.storage.jobs import Held
from batchyard.storage.sqlite.rows import decode_tags, each_in

_COLUMNS: Final = (
    "j.sequence, coalesce(j.parent, j.sequence), j.job_queue, j.share_identifier, j.vcpus_milli, j.memory_mib, j.gpus"
)
# The plus signs keep SQLite from reading all jobs of the account for every page.
_ENDED: Final = (
    f"SELECT {_COLUMNS}, a.started_at, a.stopped_at FROM jobs j JOIN attempts a USING (sequence)"  # noqa: S608
    " WHERE j.sequence > ? AND j.sequence <= ? AND +j.namespace = ? AND a.started_at < ? AND a.stopped_at > ?"
)
_RUNNING: Final = (
    f"SELECT {_COLUMNS}, j.started_at, ? FROM jobs j WHERE j.sequence > ? AND j.sequence <= ? AND +j.namespace = ?"  # noqa: S608
    f" AND j.run_state = {int(RunState.STARTED)} AND j.started_at < ?"
)


def held(
    db: sqlite3.Connection, namespace: str, after: int, limit: int, begin_ms: int, end_ms: int
) -> tuple[list[Held], int | None]:
    """Return what the attempts of the next jobs have held between two times, and where to go on; None at the end."""
    rows = db.execute(
        "SELECT sequence FROM jobs WHERE sequence > ? ORDER BY sequence LIMIT 1 OFFSET ?", (after, limit - 1)
    )
    cut = rows.fetchone()
    last = cut[0] if cut is not None else 1 << 62
    found = [
        *db.execute(_ENDED, (after, last, namespace, end_ms, begin_ms)),
        *db.execute(_RUNNING, (end_ms, after, last, namespace, end_ms)),
    ]
    page = [
        Held(sequence, spec, queue, share, vcpus, memory, gpus, min(stopped, end_ms) - max(started, begin_ms))
        for sequence, spec, queue, share, vcpus, memory, gpus, started, stopped in found
    ]
    return page, None if cut is None else last


def specs_and_tags(db: sqlite3.Connection, jobs: Iterable[Held]) -> tuple[dict[int, bytes], dict[int, dict[str, str]]]:
    """Return the specifications of jobs, and the tags of those whose tags were changed, by sequence."""
    jobs = list(jobs)
    specs = each_in(db, "SELECT sequence, spec FROM specs WHERE sequence IN (%s)", {job.spec_sequence for job in jobs})
    tags = each_in(
        db, "SELECT sequence, tags FROM job_tags WHERE sequence IN (%s)", {job.spec_sequence for job in jobs}
    )
    return dict(specs), {sequence: decode_tags(encoded) for sequence, encoded in tags}
