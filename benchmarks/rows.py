"""Rows that are on disk when they are answered, by the tools of our stores and nothing else."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from batchyard.storage.sqlite.database import Database, open_database

ROW: Final = b"j" * 600
"""As long as what the job store writes for a job that says little of itself."""


class Rows:
    """A table with one index besides. What comes while a commit runs shares the next one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: list[tuple[bytes, asyncio.Future[int]]] = []
        self._wake = asyncio.Event()
        self._count = 0

    async def add(self, body: bytes) -> int:
        """Return the number of a new row after its commit."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pending.append((body, answer))
        self._wake.set()
        return await answer

    async def write(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            group, self._pending = self._pending, []
            first, self._count = self._count, self._count + len(group)
            rows = [(number, b"%d" % number, body) for number, (body, _) in enumerate(group, start=first)]

            def commit(connection: sqlite3.Connection, rows: list[tuple[int, bytes, bytes]] = rows) -> None:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO bare VALUES (?, ?, ?)", rows)
                connection.execute("COMMIT")

            await self._database.run(commit)
            for (number, _, _), (_, answer) in zip(rows, group, strict=True):
                answer.set_result(number)


@asynccontextmanager
async def open_rows(folder: Path) -> AsyncIterator[Rows]:
    """Open a table in a new file for the length of the context."""
    async with open_database(folder / "bare.db") as database, asyncio.TaskGroup() as tasks:
        await database.run(_create)
        rows = Rows(database)
        writing = tasks.create_task(rows.write())
        yield rows
        writing.cancel()


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE bare (number INTEGER PRIMARY KEY, name BLOB UNIQUE, body BLOB)")
