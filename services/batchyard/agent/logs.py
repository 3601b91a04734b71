"""The logs of this host's runs: when their bytes came, when they are complete, and their way to the logs service."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import anyio
from anyio import to_thread

from batchyard.agent.launcher.ledger import Fence, RunState
from batchyard.agent.state import RunRecord
from batchyard.api.agent.v1 import run_pb2
from batchyard.domain.clock import Clock
from batchyard.domain.names import LOG_GROUP
from batchyard.storage.log_files import LogFolder

MARK_INTERVAL_S: Final = 0.25

_log = logging.getLogger(__name__)

LogName = tuple[str, str]
"""Namespace and log stream name."""


def log_group_of(spec: run_pb2.JobSpec) -> str:
    """Return the log group in which a job's output shows."""
    configuration = spec.container.log_configuration
    named = configuration.options.get("awslogs-group", "") if configuration.log_driver == "awslogs" else ""
    return named or LOG_GROUP


class LogTracker:
    """Marks what running jobs have printed, so that readers see it, and completes the logs of those that ended."""

    def __init__(self, folder: LogFolder, clock: Clock, *, interval_s: float = MARK_INTERVAL_S) -> None:
        self._folder = folder
        self._clock = clock
        self._interval_s = interval_s
        self._growing: dict[Fence, LogName] = {}
        self._sizes: dict[LogName, int] = {}
        self._has_growing = anyio.Event()
        self._fails = False

    async def observe(self, records: Sequence[RunRecord]) -> None:
        """Take news of runs. When this returns, the logs of those that are over are complete."""
        ended: list[LogName] = []
        for record in records:
            if not record.log_stream_name:
                continue
            name = (record.namespace, record.log_stream_name)
            if record.state is RunState.STARTED:
                self._growing[record.fence] = name
            elif record.is_final:
                self._growing.pop(record.fence, None)
                ended.append(name)
        if self._growing:
            self._has_growing.set()
        if ended:
            await to_thread.run_sync(self._finish, ended)

    async def run(self) -> None:
        """Look after growing logs until cancelled."""
        while True:
            await self._has_growing.wait()
            await anyio.sleep(self._interval_s)
            if self._growing:
                await to_thread.run_sync(self._mark, list(self._growing.values()))
            else:
                self._has_growing = anyio.Event()

    def _mark(self, names: Iterable[LogName]) -> None:
        """Mark what has grown. Where the disk takes no marks, readers see the rest later; jobs do not suffer."""
        now_ms = self._clock.now_ms()
        try:
            for name in names:
                with suppress(FileNotFoundError):
                    size = self._folder.path(*name).stat().st_size
                    if size > self._sizes.get(name, 0):
                        self._folder.mark(*name, size, now_ms)
                        self._sizes[name] = size
        except OSError as error:
            if not self._fails:
                _log.warning("what jobs print does not show before the disk can be written again: %s", error)
            self._fails = True
        else:
            self._fails = False

    def _finish(self, names: Iterable[LogName]) -> None:
        for name in names:
            self._sizes.pop(name, None)
            # A run that never started has no log.
            with suppress(FileNotFoundError):
                self._folder.finish(*name)
