"""The registry's records: reads that never wait for the writer, and writes that are committed in groups.

The writer commits at once when idle; what is asked while it commits goes into the next transaction together. Each
write is answered after its commit, and alone learns of its own error. When a commit fails, all of its group are told
UNAVAILABLE, and the database is opened anew as soon as it takes writes.
"""

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import anyio
from anyio.abc import TaskStatus

from batchyard.domain.clock import Clock
from batchyard.domain.errors import UnavailableError
from batchyard.rpc.health import Health
from batchyard.storage.registry import Outcome, RegistryReader, RegistryWriter
from batchyard.storage.sqlite.database import Database, open_database, until_writable
from batchyard.storage.sqlite.registry import SqliteRegistryReader, SqliteRegistryStore, migrate_registry

T = TypeVar("T")

GROUP_MAX: Final = 256
"""Writes in one transaction."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Write:
    work: Callable[[RegistryWriter], Any]
    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: Outcome = field(default_factory=Outcome)


class Records:
    """What the registry holds. `open_records` makes it."""

    def __init__(self, path: Path, reads: Database, clock: Clock, *, durable: bool) -> None:
        self._path = path
        self._reads = reads
        self._clock = clock
        self._durable = durable
        self._waiting: list[_Write] = []
        self._asked = anyio.Event()
        self._revision = 0
        self._committed = anyio.Event()
        self._trouble = ""
        self.health: Final = Health()
        """Whether writes can be committed."""

    async def read(self, work: Callable[[RegistryReader], T]) -> T:
        """Return what `work` reads from the last committed state. It runs in another thread.

        Raises UnavailableError if the database fails.
        """
        try:
            return await self._reads.run(lambda connection: work(SqliteRegistryReader(connection)))
        except sqlite3.Error as error:
            raise UnavailableError(f"The registry cannot read its database: {error}") from error

    async def write(self, work: Callable[[RegistryWriter], T]) -> T:
        """Return what `work` returns once its changes are committed; raise what it raises, without any change.

        It runs in another thread, in one transaction. Raises UnavailableError if the database fails. A caller that is
        cancelled does not learn whether the write was made.
        """
        if self._trouble:
            raise UnavailableError(self._trouble)
        write = _Write(work)
        self._waiting.append(write)
        self._asked.set()
        await write.done.wait()
        if write.outcome.error is not None:
            raise write.outcome.error
        return cast("T", write.outcome.value)

    async def committed_beyond(self, revision: int) -> None:
        """Wait until there is a commit after this revision."""
        while self._revision <= revision:
            await self._committed.wait()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Commit what is asked, until cancelled; through every failure of the database."""
        while True:
            try:
                async with open_database(self._path, durable=self._durable) as database:
                    self._announce(await database.run(lambda connection: SqliteRegistryReader(connection).revision()))
                    self._trouble, self.health.is_serving = "", True
                    task_status.started()
                    task_status = anyio.TASK_STATUS_IGNORED
                    await self._serve(database)
            except sqlite3.Error as error:
                self.health.is_serving = False
                _log.warning("the registry's database failed and is opened anew: %s", error)
            await until_writable(self._path, durable=self._durable, failed=self._refuse)

    async def _serve(self, database: Database) -> None:
        while True:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                await self._commit(database, group)
            self._asked = anyio.Event()
            await self._asked.wait()

    async def _commit(self, database: Database, group: list[_Write]) -> None:
        def apply(connection: sqlite3.Connection) -> tuple[list[Outcome], int]:
            store = SqliteRegistryStore(connection)
            return list(store.apply([write.work for write in group], self._clock.now_ms())), store.revision()

        try:
            outcomes, revision = await database.run(apply)
        except sqlite3.Error as error:
            _answer(group, [Outcome(error=UnavailableError(_cannot_write(error)))] * len(group))
            raise
        self._announce(revision)
        _answer(group, outcomes)

    def _refuse(self, error: sqlite3.Error) -> None:
        """Refuse what waits, and what comes, while the database cannot be written."""
        self._trouble = _cannot_write(error)
        refused, self._waiting = self._waiting, []
        _answer(refused, [Outcome(error=UnavailableError(self._trouble))] * len(refused))

    def _announce(self, revision: int) -> None:
        if revision > self._revision:
            self._revision = revision
            self._committed.set()
            self._committed = anyio.Event()


@asynccontextmanager
async def open_records(path: Path, clock: Clock, *, durable: bool) -> AsyncIterator[Records]:
    """Open the registry's database, migrated, and its writer, for the length of the context."""
    async with open_database(path, durable=durable) as database:
        await database.run(migrate_registry)
    async with open_database(path, read_only=True) as reads, anyio.create_task_group() as tasks:
        records = Records(path, reads, clock, durable=durable)
        await tasks.start(records.run, name="registry writer")
        yield records
        tasks.cancel_scope.cancel()


def _answer(group: Sequence[_Write], outcomes: Sequence[Outcome]) -> None:
    for write, outcome in zip(group, outcomes, strict=True):
        write.outcome = outcome
        write.done.set()


def _cannot_write(error: sqlite3.Error) -> str:
    return f"The registry cannot write to its database: {error}"
