"""`jobStateTimeLimitActions` of job queues: what has waited for too long, for a reason that its queue names, ends.

A job's time counts from when it became RUNNABLE, or from when the reason was first told of jobs that need the same,
whichever is later. The latter is forgotten when the job store starts anew: then waiting jobs have their time once more.
"""

import logging
from collections.abc import Sequence
from typing import Final

import anyio

from batchyard.domain.clock import Clock
from batchyard.domain.errors import UnavailableError
from batchyard.domain.jobs import JobKey
from batchyard.domain.lifecycle import reason_time_limit
from batchyard.jobstore.group import Group
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.reasons import LimitsOf, TimeLimit, WaitReasons, overdue
from batchyard.jobstore.writer import Writer
from batchyard.storage.listings import LineKey

CHECK_EVERY_S: Final = 5.0
JOBS_A_STEP: Final = 100

_log = logging.getLogger(__name__)


class TimeLimits:
    """Ends jobs that have waited for too long."""

    def __init__(
        self, *, writer: Writer, reading: Reading, reasons: WaitReasons, limits_of: LimitsOf, clock: Clock
    ) -> None:
        self._writer = writer
        self._reading = reading
        self._reasons = reasons
        self._limits_of = limits_of
        self._clock = clock

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await anyio.sleep(CHECK_EVERY_S)
            try:
                await self.check()
            except UnavailableError as error:
                _log.warning("jobs that have waited for too long are not ended yet: %s", error.message)

    async def check(self) -> None:
        """End all jobs whose time is over."""
        for line, limit in list(overdue(self._reasons.lines, self._limits_of, self._clock.monotonic_s())):
            while await self._end_some(line, limit) == JOBS_A_STEP:
                pass

    async def _end_some(self, line: LineKey, limit: TimeLimit) -> int:
        runnable_by = self._clock.now_ms() - limit.seconds * 1000
        keys = await self._reading.ask(lambda reader: reader.waiting(line, runnable_by, JOBS_A_STEP))
        if keys:
            _log.info("%d jobs of queue %s have waited for %s too long", len(keys), line.job_queue, limit.reason)
            await self._writer.do(lambda group: _expire(group, keys, reason_time_limit(limit.reason)), *keys)
        return len(keys)


def _expire(group: Group, keys: Sequence[JobKey], reason: str) -> None:
    for key in keys:
        group.expire(key, reason)
