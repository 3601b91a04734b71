"""Deletes logs of which nobody will ask any more: those that the job store says belong to no job that it keeps."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Final, NoReturn

import anyio
from anyio import to_thread

from batchyard.domain.clock import Clock
from batchyard.rpc.reconnect import reconnecting
from batchyard.storage.log_files import LogFolder

SWEEPS_A_RETENTION: Final = 20
SWEEP_INTERVAL_S_MAX: Final = 3600.0
ENTRIES_A_STEP: Final = 1000
"""Files and folders that are looked at, and logs that are asked about, at a time."""

LogName = tuple[str, str]
"""Namespace and log stream name."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Orphans:
    """The answer of the job store."""

    names: Sequence[LogName]
    """Those of the logs asked about that no job names."""
    retention_ms: int
    """How long finished jobs are kept."""
    retained_since_ms: int
    """What ended before this time may have gone; milliseconds since the epoch."""


async def expire_logs(
    folder: LogFolder, clock: Clock, ask: Callable[[Sequence[LogName]], Awaitable[Orphans]], *, of: str
) -> NoReturn:
    """Go through the folder again and again until cancelled, and when the asked one does not answer, later.

    What is found is what is on the disk: nothing is remembered that a crash could lose. `of` names the one that is
    asked, in messages.
    """

    async def sweep_on() -> None:
        while True:
            interval_s = await sweep(folder, clock, ask)
            await anyio.sleep(interval_s)

    await reconnecting(sweep_on, name=of)


async def sweep(folder: LogFolder, clock: Clock, ask: Callable[[Sequence[LogName]], Awaitable[Orphans]]) -> float:
    """Go through the folder once; return after how many seconds to do so again."""
    times = await ask(())
    removed = 0
    with closing(folder.idle_names(times.retained_since_ms, clock.now_ms())) as entries:
        while (names := await to_thread.run_sync(_next_names, entries)) is not None:
            if names:
                orphans = (await ask(names)).names
                await to_thread.run_sync(_remove, folder, orphans)
                removed += len(orphans)
    if removed:
        _log.info("deleted %d logs of jobs that are not kept any more", removed)
    return min(times.retention_ms / 1000 / SWEEPS_A_RETENTION, SWEEP_INTERVAL_S_MAX)


def _next_names(entries: Iterator[LogName | None]) -> list[LogName] | None:
    """Look at some entries; return the names among them, or None at the end."""
    taken = list(islice(entries, ENTRIES_A_STEP))
    return [name for name in taken if name is not None] if taken else None


def _remove(folder: LogFolder, names: Iterable[LogName]) -> None:
    for name in names:
        folder.remove(*name)
