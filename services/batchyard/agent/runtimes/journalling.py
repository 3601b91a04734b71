"""The journal of a runtime that lives on an event loop: it is written on a thread, by one call at a time."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from batchyard.agent.host import AgentStartError
from batchyard.agent.launcher import wire
from batchyard.agent.launcher.journal import History, Journal, JournalError
from batchyard.agent.launcher.ledger import Fence, Ledger, Run

_log = logging.getLogger(__name__)


class JournalWriter:
    """Notes what becomes of runs, in the order of the calls. A disk that fails is logged, and is no exception."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._writing = anyio.Lock()

    @property
    def history(self) -> History:
        """What the journal held when it was opened."""
        return self._journal.history

    async def claim(self, runs: Collection[Run]) -> bool:
        """Put claims on disk; return whether that succeeded, and the runs may start."""
        return await self._note(partial(self._journal.claim, runs))

    async def begin(self, run: Run) -> bool:
        """Note that a claimed run is about to be started; return whether that succeeded, and it may be."""
        return await self._note(partial(self._journal.begin, run))

    async def start(self, run: Run) -> None:
        """Note that a run has started."""
        await self._note(partial(self._journal.start, [(run, 0)]))

    async def finish(self, run: Run) -> None:
        """Note that a run has ended."""
        await self._note(partial(self._journal.finish, [run]))

    async def forget(self, fences: Sequence[Fence], ledger: Ledger) -> None:
        """Note runs that the ledger has forgotten; once most of the file is about such, rewrite it from the ledger."""
        await self._note(partial(self._journal.forget, fences))
        if self._journal.is_worth_compacting():
            await self._note_prepared(lambda: partial(self._journal.rewrite, self._journal.snapshot(ledger, {})))

    async def _note(self, write: Callable[[], None]) -> bool:
        return await self._note_prepared(lambda: write)

    async def _note_prepared(self, prepare: Callable[[], Callable[[], None]]) -> bool:
        """Write what is prepared once nobody else writes: on the loop, where the ledger changes."""
        try:
            async with self._writing:
                await to_thread.run_sync(prepare())
        except OSError as error:
            _log.warning("the journal can't be written: %s", error)
            return False
        return True


@contextmanager
def open_journal(folder: Path) -> Iterator[JournalWriter]:
    """Hold the folder's journal open; raise AgentStartError if it is damaged."""
    try:
        journal = Journal(str(folder / "journal"), wire.boot_id())
    except JournalError as error:
        raise AgentStartError(str(error)) from error
    try:
        yield JournalWriter(journal)
    finally:
        journal.close()
