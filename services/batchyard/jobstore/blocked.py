"""Queues whose first job waits for something that only people can change: AWS's "Batch Job Queue Blocked" events.

A queue is blocked while the first of its RUNNABLE jobs waits for a reason with one of AWS's codes. It is recorded once
per job and code, and once more by a job store that has begun anew: EventBridge may send an event twice, too.
"""

import logging
from typing import Final

import anyio

from batchyard.domain.errors import UnavailableError
from batchyard.domain.jobs import JobKey
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.reasons import WaitReasons, code_of, is_blocking
from batchyard.jobstore.writer import Writer
from batchyard.storage.jobs import QueueKey

CHECK_EVERY_S: Final = 2.0

_log = logging.getLogger(__name__)


class BlockedQueues:
    """Records that queues have come to be blocked."""

    def __init__(self, *, writer: Writer, reading: Reading, reasons: WaitReasons) -> None:
        self._writer = writer
        self._reading = reading
        self._reasons = reasons
        self._told: dict[QueueKey, tuple[JobKey, str]] = {}

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await anyio.sleep(CHECK_EVERY_S)
            try:
                await self.check()
            except UnavailableError as error:
                _log.warning("it is not recorded yet which queues are blocked: %s", error.message)

    async def check(self) -> None:
        """Record what has come to be blocked since the last time."""
        queues = {
            QueueKey(line.namespace, line.job_queue)
            for line, wait in self._reasons.lines.items()
            if is_blocking(wait.code)
        }
        self._told = {queue: told for queue, told in self._told.items() if queue in queues}
        for queue in queues:
            await self._look_at(queue)

    async def _look_at(self, queue: QueueKey) -> None:
        front, _ = await self._reading.ask(lambda reader: reader.front(queue, 1))
        if not front:
            return
        job = front[0]
        self._reasons.explain(job)
        reason = job.status_reason or ""
        blocked = (job.key, code_of(reason))
        if not is_blocking(blocked[1]):
            self._told.pop(queue, None)
        elif self._told.get(queue) != blocked:
            await self._writer.do(lambda group: group.note_blocked(job.key, reason), job.key)
            self._told[queue] = blocked
