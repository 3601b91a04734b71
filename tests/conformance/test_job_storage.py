import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.storage.job_reader import JobReader
from batchyard.storage.jobs import JobWriter
from batchyard.storage.sqlite.database import connect
from batchyard.storage.sqlite.job_reader import SqliteJobReader
from batchyard.storage.sqlite.jobs import EVENTS_KEPT, SqliteJobWriter, migrate_jobs
from conformance.job_storage_contract import JobStorageContract


class TestSqliteJobStorage(JobStorageContract):
    @pytest.fixture
    def connection(self, tmp_path: Path) -> Iterator[sqlite3.Connection]:
        connection = connect(tmp_path / "jobs.db")
        migrate_jobs(connection)
        yield connection
        connection.close()

    @pytest.fixture
    def writer(self, connection: sqlite3.Connection) -> JobWriter:
        return SqliteJobWriter(connection)

    @pytest.fixture
    def reader(self, writer: JobWriter, tmp_path: Path) -> Iterator[JobReader]:
        connection = connect(tmp_path / "jobs.db", read_only=True)
        yield SqliteJobReader(connection)
        connection.close()

    def forget_events(self, writer: JobWriter) -> None:
        assert isinstance(writer, SqliteJobWriter)
        writer._db.execute("UPDATE store SET revision = ?", (EVENTS_KEPT + 1,))
