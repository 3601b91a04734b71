import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from batchyard.domain.lines import rounded_time_limit
from batchyard.storage.sqlite.database import connect
from batchyard.storage.sqlite.job_reader import SqliteJobReader
from batchyard.storage.sqlite.jobs import migrate_jobs
from batchyard.storage.sqlite.migrations import MigrationError, migrate


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "some.db")) as connection:
        yield connection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_make.sql").write_text("CREATE TABLE a (x INTEGER);\nINSERT INTO a VALUES (1); -- no line end")
    (folder / "0002_grow.sql").write_text("ALTER TABLE a ADD COLUMN y TEXT;")
    return folder


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_applies_every_file_once_in_order(connection: sqlite3.Connection, folder: Path) -> None:
    migrate(connection, folder)
    migrate(connection, folder)
    assert connection.execute("SELECT x, y FROM a").fetchall() == [(1, None)]
    assert version(connection) == 2


def test_applies_only_what_is_new(connection: sqlite3.Connection, folder: Path) -> None:
    migrate(connection, folder)
    (folder / "0003_more.sql").write_text("INSERT INTO a VALUES (2, 'two');")
    migrate(connection, folder)
    assert connection.execute("SELECT x, y FROM a ORDER BY x").fetchall() == [(1, None), (2, "two")]


def test_failing_file_leaves_the_version_before_it(connection: sqlite3.Connection, folder: Path) -> None:
    (folder / "0003_broken.sql").write_text("INSERT INTO a VALUES (2, 'two');\nINSERT INTO missing VALUES (1);")
    with pytest.raises(sqlite3.OperationalError, match="missing"):
        migrate(connection, folder)
    assert version(connection) == 2
    assert connection.execute("SELECT count(*) FROM a").fetchone() == (1,)
    assert not connection.in_transaction


def test_database_of_a_newer_version_is_refused_by_name(connection: sqlite3.Connection, folder: Path) -> None:
    migrate(connection, folder)
    connection.execute("PRAGMA user_version=3")
    with pytest.raises(MigrationError, match=r"some\.db was written by a newer version"):
        migrate(connection, folder)


@pytest.mark.parametrize("extra", ["0002_twin.sql", "0004_gap.sql"])
def test_numbers_with_a_gap_or_a_twin_are_refused(connection: sqlite3.Connection, folder: Path, extra: str) -> None:
    (folder / extra).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match=extra):
        migrate(connection, folder)
    assert version(connection) == 0


def test_other_files_in_the_folder_are_ignored(connection: sqlite3.Connection, folder: Path) -> None:
    (folder / "README.md").write_text("how to add a migration")
    migrate(connection, folder)
    assert version(connection) == 2


def test_a_database_is_copied_before_it_is_changed(
    connection: sqlite3.Connection, folder: Path, tmp_path: Path
) -> None:
    migrate(connection, folder)
    assert not list(tmp_path.glob("some.db.schema-*"))
    (folder / "0003_more.sql").write_text("DROP TABLE a;")
    migrate(connection, folder)
    with closing(connect(tmp_path / "some.db.schema-2")) as copy:
        assert copy.execute("SELECT x, y FROM a").fetchall() == [(1, None)]
        assert version(copy) == 2


def test_jobs_of_before_lines_stand_in_them_by_their_time_limits(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    for script in (files("batchyard.storage.sqlite") / "migrations" / "jobs").iterdir():
        if script.name < "0015":
            (before / script.name).write_text(script.read_text())
    migrate(connection, before)
    limits = [None, 60, 61, 75, 76, 3600, 30_000_000, 31_321_462, 31_321_463]
    for sequence, limit in enumerate(limits, start=1):
        names = "namespace, job_id, job_name, job_queue, job_definition, vcpus_milli, memory_mib, gpus"
        connection.execute(
            f"INSERT INTO jobs (sequence, timeout_s, {names}, attempts_allowed, created_at, state, version,"
            " dependencies_left, attempts_made, cancelled, terminated)"
            " VALUES (?, ?, 'n', ?, 'name', 'queue', 'definition', 1000, 128, 0, 1, 5, 3, 1, 0, 0, 0, 0)",
            (sequence, limit, f"job-{sequence}"),
        )
    migrate_jobs(connection)
    (page,) = SqliteJobReader(connection).snapshot(10).pages
    found = {job_id: part.line.time_limit_s for part in page.lines for job_id in part.job_ids}
    assert found == {f"job-{sequence}": rounded_time_limit(limit) for sequence, limit in enumerate(limits, start=1)}
    assert len(set(found.values())) == 6
