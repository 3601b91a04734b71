"""Reads of the store, off the event loop."""

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from batchyard.domain.errors import UnavailableError
from batchyard.storage.job_reader import JobReader
from batchyard.storage.sqlite.database import Database
from batchyard.storage.sqlite.job_reader import SqliteJobReader

T = TypeVar("T")


class Reading:
    """Reads the store on a connection that never waits for the writer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(self, question: Callable[[JobReader], T]) -> T:
        """Ask the reader something, in its thread; raise UnavailableError if the database fails."""

        def answer(connection: sqlite3.Connection) -> T:
            return question(SqliteJobReader(connection))

        try:
            return await self._database.run(answer)
        except sqlite3.Error as error:
            raise UnavailableError(f"the job store cannot read: {error}") from error
