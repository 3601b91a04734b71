"""The checks of a chaos run notice what they are there for."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from batchyard.domain.jobs import JobChange, JobId, JobKey
from batchyard.domain.lifecycle import JobState
from batchyard.storage.sqlite.jobs import migrate_jobs
from chaos import history, sightings, store
from chaos.client import Sighting
from chaos.history import Ended

GOOD = ["start a 1 1-1 1.00", "end a 1 1-1 2.00", "start b 1 1-2 2.50", "end b 1 1-2 3.00"]
ENDED = {"a": Ended("SUCCEEDED", 1, 2.1), "b": Ended("SUCCEEDED", 1, 3.1)}


def of_history(*lines: str, ended: dict[str, Ended] | None = None) -> list[str]:
    found = history.violations(history.parsed(lines), {"b": "a"}, ENDED if ended is None else ended)
    return [text.partition(":")[0] for text in found]


def test_a_history_without_faults_is_accepted() -> None:
    assert of_history(*GOOD) == []


@pytest.mark.parametrize(
    ("invariant", "lines"),
    [
        ("I3", [*GOOD[:1], *GOOD]),
        ("I3", [GOOD[0], GOOD[1], "start a 1 1-9 2.05", *GOOD[2:]]),
        ("I4", [GOOD[0], "start a 2 1-3 1.50", *GOOD[1:]]),
        ("I6", [GOOD[2], GOOD[0], GOOD[1], GOOD[3]]),
        ("I8", [GOOD[0], *GOOD[2:]]),
        ("I8", [*GOOD, "end b 1 1-2 3.50"]),
        ("I9", [*GOOD, "start b 2 1-4 3.05"]),
    ],
)
def test_a_broken_promise_is_seen_in_the_history(invariant: str, lines: list[str]) -> None:
    assert invariant in of_history(*lines)


def test_a_job_that_failed_before_its_first_attempt_must_not_have_run() -> None:
    assert of_history(*GOOD[:2], ended={"a": Ended("FAILED", 0, 9.0)}) == ["I9"]


def test_logs_are_checked_for_strangers_and_for_damage() -> None:
    assert history.damaged_logs({"a 1": GOOD[:2]}) == []
    assert len(history.damaged_logs({"a 1": GOOD[:2], "b 1": GOOD[:2]})) == 1
    assert len(history.damaged_logs({"a 1": [*GOOD[:2], *GOOD[:2]], "b 1": [GOOD[2], "end b"]})) == 2


def a_sighting(at: float, status: str, attempts: int = 0, reason: str = "") -> Sighting:
    outcome = (status, reason, None, None, attempts)
    return Sighting("a", at - 0.1, at, status, attempts, outcome)


def of_sightings(*seen: Sighting, stop: tuple[str, float] | None = None) -> list[str]:
    found = sightings.violations(seen, {"a": stop} if stop else {})
    return [text.partition(":")[0] for text in found]


def test_what_clients_see_of_a_job_moves_forward() -> None:
    running, again = a_sighting(1, "RUNNING"), a_sighting(2, "RUNNABLE", 1)
    assert of_sightings(running, again, a_sighting(3, "SUCCEEDED", 2)) == []
    assert of_sightings(running, a_sighting(2, "RUNNABLE")) == ["I2"]
    assert of_sightings(again, a_sighting(3, "RUNNABLE")) == ["I2"]
    assert of_sightings(a_sighting(1, "FAILED", 1), a_sighting(2, "FAILED", 1, "changed")) == ["I8"]
    assert of_sightings(a_sighting(1, "FAILED", 1), a_sighting(2, "RUNNING", 1)) == ["I8"]


def test_an_acknowledged_stop_is_kept() -> None:
    pending = a_sighting(2, "PENDING")
    assert of_sightings(pending, stop=("CancelJob", 3.0)) == []
    assert of_sightings(pending, stop=("CancelJob", 1.95)) == []
    assert of_sightings(pending, stop=("CancelJob", 1.0)) == ["I9"]
    more = [a_sighting(2, "RUNNING", 1), a_sighting(9, "FAILED", 3)]
    assert of_sightings(*more, stop=("TerminateJob", 1.0)) == ["I9"]
    assert of_sightings(*more, stop=("TerminateJob", 5.0)) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Databases with one job that has succeeded."""
    with closing(sqlite3.connect(tmp_path / "registry.db")):
        pass
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as database:
        migrate_jobs(database)
    execute(
        tmp_path,
        "INSERT INTO jobs (sequence, namespace, job_id, job_name, job_queue, job_definition, vcpus_milli, memory_mib,"
        " gpus, attempts_allowed, created_at, state, version, dependencies_left, attempts_made, cancelled, terminated,"
        " started_at, stopped_at) VALUES (1, 'n', 'a', 'j', 'q', 'd', 1, 1, 0, 2, 10, 6, 1, 0, 1, 0, 0, 20, 30)",
    )
    execute(
        tmp_path,
        "INSERT INTO attempts (sequence, number, agent_id, task_id, status_reason, stopped_at)"
        " VALUES (1, 1, 'agent', 'task', '', 30)",
    )
    tell(tmp_path, 1, JobState.RUNNING)
    tell(tmp_path, 2, JobState.SUCCEEDED)
    return tmp_path


def execute(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "jobs.db", isolation_level=None)) as database:
        database.execute(statement, values)


def tell(folder: Path, revision: int, state: JobState) -> None:
    change = JobChange(JobKey("n", JobId("a")), "j", "q", state, None, 1, 0, None, None, None)
    execute(folder, "INSERT INTO events (revision, record) VALUES (?, ?)", revision, msgspec.msgpack.encode([change]))


def of_store(folder: Path, ended: dict[str, str] | None = None) -> list[str]:
    return [text.partition(":")[0] for text in store.violations(folder, ended or {"a": "SUCCEEDED"})]


def test_a_store_in_which_all_is_well_is_accepted(folder: Path) -> None:
    assert of_store(folder) == []
    assert store.count(folder) == (1, 0)


@pytest.mark.parametrize(
    ("invariant", "change"),
    [
        ("I10", "UPDATE jobs SET state = 5"),
        ("I10", "UPDATE jobs SET run_number = 7"),
        ("I5", "UPDATE jobs SET attempts_made = 3"),
        ("I5", "DELETE FROM attempts"),
        ("I1", "DELETE FROM jobs"),
        ("I1", "UPDATE jobs SET state = 7"),
        ("times", "UPDATE jobs SET started_at = 40"),
    ],
)
def test_a_broken_promise_is_seen_in_the_store(folder: Path, invariant: str, change: str) -> None:
    execute(folder, change)
    assert invariant in of_store(folder)


def test_an_event_after_the_last_is_seen(folder: Path) -> None:
    tell(folder, 3, JobState.RUNNABLE)
    assert of_store(folder) == ["I12"]
