"""Group commit: the async shell around the core.

The writer commits at once when it is idle; what arrives while a transaction runs is done together in the next one. No
timer. Every call is answered after its commit. A commit that failed means unknown: all of its group are told
UNAVAILABLE, and the store is opened and read anew before it serves again, as soon as the disk takes writes.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar, cast

import anyio
from anyio.abc import TaskStatus

from batchyard.domain.clock import Clock
from batchyard.domain.errors import BatchyardError, UnavailableError
from batchyard.domain.jobs import JobKey
from batchyard.jobstore.core import Command, GroupResult, JobStoreCore, each, run_group
from batchyard.jobstore.effects import Committed
from batchyard.jobstore.group import Group
from batchyard.jobstore.metrics import timed_commit
from batchyard.rpc.health import Health
from batchyard.rpc.log_context import current_request
from batchyard.storage.jobs import Counters, StorageError
from batchyard.storage.sqlite import setback
from batchyard.storage.sqlite.database import Database, open_database, until_writable
from batchyard.storage.sqlite.jobs import SqliteJobWriter, migrate_jobs

COMMANDS_A_GROUP: Final = 500

T = TypeVar("T")
_Answer = asyncio.Future[object]

_log = logging.getLogger(__name__)


class Writer:
    """The one writer of the job store."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        durable: bool,
        health: Health,
        opened: Callable[[Counters], None],
        committed: Callable[[Committed, bool], None],
    ) -> None:
        """Write to the database at `path`.

        `opened` is called whenever the store has been read anew, `committed` after each commit and before any of its
        calls is answered, with whether another one follows at once; both on the event loop. `health` says whether it
        can write.
        """
        self._path = path
        self._clock = clock
        self._durable = durable
        self._health = health
        self._opened = opened
        self._committed = committed
        self._pending: list[tuple[Command, _Answer | None]] = []
        self._wake = asyncio.Event()
        self._closed_because = "the job store is not open; try again"

    async def do(self, act: Callable[[Group], T], *keys: JobKey, alone: bool = False) -> T:
        """Have a group do something and return its answer after the commit.

        Raises what `act` raises, and UnavailableError when it is not known whether it was done.
        """
        return cast("T", await self._queued(Command(act, keys, alone, current_request())))

    def begin(self, act: Callable[[Group], T], *keys: JobKey) -> asyncio.Future[T]:
        """Do as `do` without waiting: return what will have the answer, or be failed with what `do` raises."""
        return cast("asyncio.Future[T]", self._queued(Command(act, keys, request=current_request())))

    async def do_each(self, acts: Sequence[Callable[[Group], T]], *keys: JobKey) -> list[T | BatchyardError]:
        """Have one group do many things, each for itself; return after the commit what each returned, or why not.

        Raises UnavailableError when it is not known whether they were done.
        """
        if not acts:
            return []
        command = Command(each(acts), keys, request=current_request(), size=len(acts))
        return cast("list[T | BatchyardError]", await self._queued(command))

    def _queued(self, command: Command) -> _Answer:
        if self._closed_because:
            raise UnavailableError(self._closed_because)
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._queue(command, answer)
        return answer

    def tell(self, act: Callable[[Group], object], *keys: JobKey) -> None:
        """Have a group do something whose outcome is in the commit's effects."""
        if not self._closed_because:
            self._queue(Command(act, keys, request=current_request()), None)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; started when the store is open for the first time.

        Raises the database's error if it cannot be opened then; later it waits until it can.
        """
        has_served = False
        while True:
            try:
                async with open_database(self._path, durable=self._durable) as database:
                    core = await database.run(self._open)
                    if not has_served:
                        task_status.started()
                        has_served = True
                    try:
                        await self._serve(database, core)
                    finally:
                        await self._sync(database)
            except (StorageError, sqlite3.Error) as error:
                if not has_served:
                    raise
                self._note_failure(error)
            await until_writable(self._path, durable=self._durable, failed=self._note_failure)

    async def _serve(self, database: Database, core: JobStoreCore) -> None:
        """Do what is asked, from a state that was just read, until cancelled or the database fails."""
        self._opened(core.counters)
        self._closed_because, self._health.is_serving = "", True
        try:
            while True:
                await self._wake.wait()
                await self._do(database, core, self._next_group())
        except (StorageError, sqlite3.Error) as error:
            self._closed_because = _cannot_write(error)
            raise
        finally:
            self._closed_because = self._closed_because or "the job store has stopped"
            self._health.is_serving = False
            self._fail_pending()

    async def _do(self, database: Database, core: JobStoreCore, group: list[tuple[Command, _Answer | None]]) -> None:
        try:
            result = await self._run_group(database, core, [command for command, _ in group])
        except BaseException as error:
            text = _cannot_write(error) if isinstance(error, Exception) else "the job store has stopped"
            for _, answer in group:
                _fail(answer, UnavailableError(f"{text}; whether this was done is not known"))
            raise
        self._committed(result.committed, bool(self._pending))
        for (command, answer), value in zip(group, result.answers, strict=True):
            _deliver(command, answer, value)

    def _open(self, connection: sqlite3.Connection) -> JobStoreCore:
        migrate_jobs(connection)
        # Fences must not repeat after a power cut either: the epoch is synced, whatever the choice for all else.
        connection.execute("PRAGMA synchronous=FULL")
        if setback.begin(connection, durable=self._durable, boot=setback.boot_id()):
            _log.warning("the machine has stopped while commits were not on disk: the newest may be lost")
        core = JobStoreCore(SqliteJobWriter(connection))
        if not self._durable:
            connection.execute("PRAGMA synchronous=NORMAL")
        return core

    async def _sync(self, database: Database) -> None:
        """Have a power cut take nothing of what was committed, if the disk allows; the more is waited for if not."""
        if not self._durable:
            with anyio.CancelScope(shield=True), suppress(sqlite3.Error):
                await database.run(setback.end)

    def _note_failure(self, error: Exception) -> None:
        self._closed_because = _cannot_write(error)
        _log.warning("%s; it is opened anew as soon as it can", self._closed_because)

    async def _run_group(self, database: Database, core: JobStoreCore, commands: list[Command]) -> GroupResult:
        def act(_: sqlite3.Connection) -> GroupResult:
            with timed_commit(sum(command.size for command in commands)):
                return run_group(core, commands, self._clock.now_ms())

        return await database.run(act)

    def _queue(self, command: Command, answer: _Answer | None) -> None:
        self._pending.append((command, answer))
        self._wake.set()

    def _next_group(self) -> list[tuple[Command, _Answer | None]]:
        count = size = 0
        for command, _ in self._pending:
            size += command.size
            if count and (command.alone or size > COMMANDS_A_GROUP):
                break
            count += 1
            if command.alone:
                break
        group, self._pending = self._pending[:count], self._pending[count:]
        if not self._pending:
            self._wake.clear()
        return group

    def _fail_pending(self) -> None:
        pending, self._pending = self._pending, []
        self._wake.clear()
        for _, answer in pending:
            _fail(answer, UnavailableError(self._closed_because))


def _cannot_write(error: Exception) -> str:
    return f"the job store cannot write: {error.__cause__ or error}"


def _deliver(command: Command, answer: _Answer | None, value: object) -> None:
    if answer is None:
        if isinstance(value, Exception):
            _log.warning("a message of the scheduler was refused: %s", value, extra=command.log_fields())
    elif answer.done():
        return
    elif isinstance(value, Exception):
        answer.set_exception(value)
    else:
        answer.set_result(value)


def _fail(answer: _Answer | None, error: Exception) -> None:
    if answer is not None and not answer.done():
        answer.set_exception(error)
