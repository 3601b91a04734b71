"""What must hold of the databases of an installation that was stopped after everything had ended."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from batchyard.domain.jobs import JobChange
from batchyard.domain.lifecycle import TERMINAL, JobState
from support.aws import STATUSES

_ENDS = ", ".join(str(int(state)) for state in sorted(TERMINAL))


def violations(folder: Path, ended: Mapping[str, str]) -> list[str]:
    """Return everything in which the store breaks the promises; `ended` is the state of every acknowledged job."""
    with closing(sqlite3.connect(folder / "registry.db")) as registry:
        found = list(_damage(registry, "registry.db"))
    with closing(sqlite3.connect(folder / "jobs.db")) as jobs:
        return [
            *found,
            *_damage(jobs, "jobs.db"),
            *_losses(jobs, ended),
            *_unfinished(jobs),
            *_attempts(jobs),
            *_order(jobs),
            *_events(jobs),
        ]


def count(folder: Path) -> tuple[int, int]:
    """Return how many jobs there are, and how many attempts were made beyond the first of each."""
    with closing(sqlite3.connect(folder / "jobs.db")) as jobs:
        (row,) = jobs.execute("SELECT count(*), coalesce(sum(max(attempts_made - 1, 0)), 0) FROM jobs")
    return row[0], row[1]


def _damage(database: sqlite3.Connection, name: str) -> Iterable[str]:
    for (said,) in database.execute("PRAGMA integrity_check"):
        if said != "ok":
            yield f"store: {name} is damaged: {said}"


def _losses(jobs: sqlite3.Connection, ended: Mapping[str, str]) -> Iterable[str]:
    states = {job_id: JobState(state).name for job_id, state in jobs.execute("SELECT job_id, state FROM jobs")}
    for job_id, status in ended.items():
        if job_id not in states:
            yield f"I1: {job_id} was acknowledged and is not in the store"
        elif status in STATUSES and states[job_id] != status:
            yield f"I1: {job_id} is {states[job_id]} in the store, and was seen as {status}"


def _unfinished(jobs: sqlite3.Connection) -> Iterable[str]:
    question = f"SELECT job_id, state, run_number FROM jobs WHERE state NOT IN ({_ENDS}) OR run_number IS NOT NULL"
    for job_id, state, run in jobs.execute(question):
        yield f"I10: {job_id} is {JobState(state).name}, its open run is {run}"


def _attempts(jobs: sqlite3.Connection) -> Iterable[str]:
    question = (
        "SELECT job_id, attempts_allowed, attempts_made, (SELECT count(*) FROM attempts"
        " WHERE attempts.sequence = jobs.sequence) AS recorded FROM jobs"
        " WHERE attempts_made > attempts_allowed OR recorded != attempts_made"
    )
    for job_id, allowed, made, recorded in jobs.execute(question):
        yield f"I5: {job_id} may have {allowed} attempts, had {made}, and {recorded} are recorded"


def _order(jobs: sqlite3.Connection) -> Iterable[str]:
    ids = [job_id for (job_id,) in jobs.execute("SELECT job_id FROM jobs ORDER BY sequence")]
    # Ids are drawn before the commit, and commands of one moment may pass each other; never twice the same.
    if len(set(ids)) != len(ids):
        yield "I1: a job id was given twice"
    question = "SELECT job_id FROM jobs WHERE started_at < created_at OR stopped_at < coalesce(started_at, created_at)"
    for (job_id,) in jobs.execute(question):
        yield f"times: {job_id} does not begin before it starts, and start before it stops"


def _events(jobs: sqlite3.Connection) -> Iterable[str]:
    """Each end is told once, and nothing after it."""
    decode = msgspec.msgpack.Decoder(list[JobChange]).decode
    over: dict[str, str] = {}
    for (record,) in jobs.execute("SELECT record FROM events ORDER BY revision"):
        for change in decode(record):
            job_id = change.key.job_id
            if job_id in over:
                yield f"I12: {job_id} was told to be {change.state.name} after it had been {over[job_id]}"
            if change.state in TERMINAL:
                over[job_id] = change.state.name
