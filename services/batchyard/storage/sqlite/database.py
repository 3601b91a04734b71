"""A SQLite file, opened the way that all of our stores want it, and worked on from a thread of its own.

The stores are synchronous classes over a `sqlite3.Connection`, so that the simulator can run them without threads. In
production `Database.run` hands such a call to aiosqlite's thread: one hop for a batch, not for each statement.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import aiosqlite
import anyio

T = TypeVar("T")

RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 1.0
"""Pauses between tries to write to a database that failed."""


def connect(path: Path | str, *, durable: bool = True, read_only: bool = False) -> sqlite3.Connection:
    """Open a database file with our settings: WAL, autocommit (transactions are explicit), foreign keys off.

    `durable` makes every commit survive a power cut (`synchronous=FULL`); without it, one may be lost.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA cache_size=-65536")
        if read_only:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


class Database:
    """A connection that lives in aiosqlite's thread."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the connection, in its thread, after all that was asked before."""
        # aiosqlite has no public call for a function of one's own; its own methods are one-line uses of these two.
        execute = cast("Callable[..., Any]", self._connection._execute)  # noqa: SLF001
        return cast("T", await execute(work, self._connection._conn))  # noqa: SLF001


@asynccontextmanager
async def open_database(path: Path, *, durable: bool = True, read_only: bool = False) -> AsyncIterator[Database]:
    """Open a file for the length of the context."""
    connection = aiosqlite.Connection(lambda: connect(path, durable=durable, read_only=read_only), iter_chunk_size=64)
    # Whoever cancels us still waits for the thread, which may be opening the file, or in the middle of a statement.
    try:
        await _to_its_end(connection)
    except asyncio.CancelledError:
        await _to_its_end(connection.close())
        raise
    try:
        yield Database(connection)
    finally:
        await _to_its_end(connection.close())


async def _to_its_end(work: Awaitable[object]) -> None:
    """Wait for work, however often and in whatever way this is cancelled meanwhile; then be cancelled."""
    with anyio.CancelScope(shield=True):
        task = asyncio.ensure_future(_awaited(work))
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:  # by asyncio: a scope does not keep that off
                cancelled = error
        task.result()
        if cancelled is not None:
            raise cancelled


async def _awaited(work: Awaitable[object]) -> None:
    await work


async def until_writable(path: Path, *, durable: bool, failed: Callable[[sqlite3.Error], None]) -> None:
    """Wait until a database that failed can be opened and written; tell `failed` of each try that did not succeed."""
    pause_s = RETRY_FIRST_S
    while True:
        try:
            async with open_database(path, durable=durable) as database:
                await database.run(_write_nothing_new)
        except sqlite3.Error as error:
            failed(error)
        else:
            return
        await anyio.sleep(pause_s)
        pause_s = min(pause_s * 2, RETRY_MAX_S)


def _write_nothing_new(connection: sqlite3.Connection) -> None:
    """Commit a page as it is."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        connection.execute(f"PRAGMA user_version={version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
