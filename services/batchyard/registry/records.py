"""The registry's records: reads that never wait for the writer, and writes that are committed in groups.

The writer commits at once when idle; what is asked while it commits goes into the next transaction together. Each
write is answered after its commit, and alone learns of its own error.
"""

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import anyio

from batchyard.domain.clock import Clock
from batchyard.domain.errors import UnavailableError
from batchyard.storage.registry import Outcome, RegistryReader, RegistryWriter
from batchyard.storage.sqlite.database import Database, open_database
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

    def __init__(self, writes: Database, reads: Database, clock: Clock, revision: int) -> None:
        self._writes = writes
        self._reads = reads
        self._clock = clock
        self._waiting: list[_Write] = []
        self._asked = anyio.Event()
        self._revision = revision
        self._committed = anyio.Event()

    async def read(self, work: Callable[[RegistryReader], T]) -> T:
        """Return what `work` reads from the last committed state. It runs in another thread."""
        return await self._reads.run(lambda connection: work(SqliteRegistryReader(connection)))

    async def write(self, work: Callable[[RegistryWriter], T]) -> T:
        """Return what `work` returns once its changes are committed; raise what it raises, without any change.

        It runs in another thread, in one transaction. Raises UnavailableError if the database fails. A caller that is
        cancelled does not learn whether the write was made.
        """
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

    async def run(self) -> None:
        """Commit what is asked, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = anyio.Event()
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                await self._commit(group)

    async def _commit(self, group: list[_Write]) -> None:
        def apply(connection: sqlite3.Connection) -> tuple[list[Outcome], int]:
            store = SqliteRegistryStore(connection)
            return list(store.apply([write.work for write in group], self._clock.now_ms())), store.revision()

        try:
            outcomes, revision = await self._writes.run(apply)
        except sqlite3.Error as error:
            _log.exception("a transaction of %d writes failed", len(group))
            failure = UnavailableError(f"The registry cannot write to its database: {error}")
            outcomes, revision = [Outcome(error=failure) for _ in group], self._revision
        self._announce(revision)
        for write, outcome in zip(group, outcomes, strict=True):
            write.outcome = outcome
            write.done.set()

    def _announce(self, revision: int) -> None:
        if revision > self._revision:
            self._revision = revision
            self._committed.set()
            self._committed = anyio.Event()


@asynccontextmanager
async def open_records(path: Path, clock: Clock, *, durable: bool) -> AsyncIterator[Records]:
    """Open the registry's database, migrated, and its writer, for the length of the context."""
    async with open_database(path, durable=durable) as writes:
        await writes.run(migrate_registry)
        revision = await writes.run(lambda connection: SqliteRegistryReader(connection).revision())
        async with open_database(path, read_only=True) as reads, anyio.create_task_group() as tasks:
            records = Records(writes, reads, clock, revision)
            tasks.start_soon(records.run, name="registry writer")
            yield records
            tasks.cancel_scope.cancel()
