"""The logs of this host's runs: when their bytes came, how long they may grow, and when they are complete."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final

import anyio
from anyio import to_thread

from batchyard.agent.launcher.ledger import Fence, RunState
from batchyard.agent.state import RunRecord
from batchyard.api.agent.v1 import run_pb2
from batchyard.domain.clock import Clock
from batchyard.domain.names import LOG_GROUP
from batchyard.storage.log_cuts import Cut, NoHolesError
from batchyard.storage.log_files import LogFolder, LogNameError

LOOK_INTERVAL_S: Final = 0.025
"""How long after it has grown a log is looked at again, at the earliest."""
FIRST_LOOK_S: Final = 0.05
"""How long after its start a run's log is looked at: short runs are over by then, and cost no look."""
LOOK_INTERVAL_S_MAX: Final = 0.25
"""How long a log that does not grow is not looked at."""
BUSY_SHARE: Final = 0.1
"""How much of a processor looking at logs may take."""
STAMP_SLACK_MS: Final = 1000
LOG_BYTES_MAX: Final = 256 * 1024 * 1024
"""How long a log may be, unless configured otherwise."""
LOG_BYTES_MIN: Final = 1024 * 1024

_log = logging.getLogger(__name__)

LogName = tuple[str, str]
"""Namespace and log stream name."""


def log_group_of(spec: run_pb2.JobSpec) -> str:
    """Return the log group in which a job's output shows."""
    configuration = spec.container.log_configuration
    named = configuration.options.get("awslogs-group", "") if configuration.log_driver == "awslogs" else ""
    return named or LOG_GROUP


def finished_logs(folder: LogFolder) -> list[LogName]:
    """Return the logs in a folder to which nothing will be added."""
    found = []
    for name in folder.names():
        with suppress(FileNotFoundError):
            if folder.is_finished(*name):
                found.append(name)
    return found


class UnshippedLogs:
    """The logs of ended runs that the logs service does not hold whole yet."""

    def __init__(self, names: Iterable[LogName] = ()) -> None:
        self._names = set(names)
        self.changed: Callable[[], None] = lambda: None
        """Called when the service holds some more."""

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: LogName) -> None:
        """Take in the log of a run that has ended."""
        self._names.add(name)

    def discard(self, name: LogName) -> None:
        """Leave out a log that the service holds."""
        self._names.discard(name)


@dataclass(slots=True)
class _Growing:
    """A log that a run may be writing."""

    name: LogName
    due: float
    """When it is to be looked at; monotonic seconds."""
    size: int = 0
    looked_ms: int = 0
    """When it was last looked at; milliseconds since the epoch."""
    interval_s: float = LOOK_INTERVAL_S
    cut: Cut | None = None


class LogTracker:
    """Marks what running jobs have printed, so that readers see it, and completes the logs of those that ended.

    The time of a line: the file system stamps each write, and a log that grew is looked at again soon. So lines that
    come apart have times of their own, and those that come in one go share one. A log that becomes longer than it may
    is cut: of what fits, the first half stays, and the last quarter at least.
    """

    def __init__(
        self,
        folder: LogFolder,
        clock: Clock,
        *,
        bytes_max: int = LOG_BYTES_MAX,
        unshipped: UnshippedLogs | None = None,
    ) -> None:
        """`unshipped` is where the logs of ended runs go; without it they stay here."""
        self._folder = folder
        self._clock = clock
        self._bytes_max = bytes_max
        self.unshipped = unshipped
        self._growing: dict[Fence, _Growing] = {}
        self._has_growing = anyio.Event()
        self._fails = False
        self._can_cut = True

    async def observe(self, records: Sequence[RunRecord]) -> None:
        """Take news of runs. When this returns, the logs of those that are over are complete."""
        ended: list[_Growing] = []
        for record in records:
            if not record.log_stream_name:
                continue
            name = (record.namespace, record.log_stream_name)
            if record.state is RunState.STARTED:
                self._growing.setdefault(record.fence, _Growing(name, monotonic() + FIRST_LOOK_S))
            elif record.is_final:
                ended.append(self._growing.pop(record.fence, _Growing(name, 0.0)))
        if self._growing:
            self._has_growing.set()
        if ended:
            # A call for each turn of the runs: the loop's own is the cheapest.
            await asyncio.get_running_loop().run_in_executor(None, self._finish, ended)

    async def run(self) -> None:
        """Look after growing logs until cancelled."""
        while True:
            await self._has_growing.wait()
            if not self._growing:
                self._has_growing = anyio.Event()
                continue
            begin = monotonic()
            due = [log for log in self._growing.values() if log.due <= begin]
            if due:
                await to_thread.run_sync(self._look_at, due)
            busy_s = monotonic() - begin
            soonest = min((log.due for log in self._growing.values()), default=0.0) - monotonic()
            await anyio.sleep(max(soonest, busy_s / BUSY_SHARE, LOOK_INTERVAL_S))

    def _look_at(self, logs: Iterable[_Growing]) -> None:
        """Mark what has grown. Where the disk takes no marks, readers see the rest later; jobs do not suffer."""
        try:
            for log in logs:
                has_grown = self._mark(log)
                log.interval_s = LOOK_INTERVAL_S if has_grown else min(2 * log.interval_s, LOOK_INTERVAL_S_MAX)
                log.due = monotonic() + log.interval_s
        except OSError as error:
            if not self._fails:
                _log.warning("what jobs print does not show before the disk can be written again: %s", error)
            self._fails = True
            for log in logs:
                log.due = monotonic() + LOOK_INTERVAL_S_MAX
        else:
            self._fails = False

    def _mark(self, log: _Growing) -> bool:
        """Mark a log as it is now, and cut it if it is too long; tell whether it has grown."""
        try:
            status = os.stat(self._folder.location(*log.name))
        except FileNotFoundError:
            return False
        now_ms = self._clock.now_ms()
        has_grown = status.st_size > log.size
        if has_grown:
            # First of all, as it makes room on a disk that may be full.
            self._cut(log, status.st_size)
            written_ms = status.st_mtime_ns // 1_000_000
            is_plausible = log.looked_ms - STAMP_SLACK_MS <= written_ms <= now_ms
            self._folder.mark(*log.name, (status.st_size, written_ms if is_plausible else now_ms))
            log.size = status.st_size
        log.looked_ms = now_ms
        return has_grown

    def _cut(self, log: _Growing, size: int) -> None:
        """Cut the middle out of a log if it is too long."""
        if size <= self._bytes_max or not self._can_cut:
            return
        if log.cut is not None and log.cut.start + size - log.cut.end <= self._bytes_max:
            return
        try:
            log.cut = self._folder.shorten(*log.name, self._bytes_max)
        except NoHolesError as error:
            self._can_cut = False
            _log.warning("logs can grow without bound, as nothing can be cut out of them: %s", error)

    def _finish(self, logs: Iterable[_Growing]) -> None:
        for log in logs:
            # A run that never started has no log, and may have been refused for the name of it.
            with suppress(FileNotFoundError, LogNameError):
                if os.stat(self._folder.location(*log.name)).st_size > self._bytes_max:
                    self._look_at([log])
                self._folder.finish(*log.name)
                if self.unshipped is not None:
                    self.unshipped.add(log.name)
