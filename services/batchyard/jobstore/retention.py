"""What is over is kept for a set time, by the wall clock of the store, and then goes.

Little by little, behind the commands of clients.
"""

import logging
from typing import Final, NoReturn

import anyio

from batchyard.domain.clock import Clock
from batchyard.domain.errors import UnavailableError
from batchyard.jobstore.core import CommandError
from batchyard.jobstore.expiry import Sweep
from batchyard.jobstore.writer import Writer

RETENTION_S: Final = 7 * 24 * 3600.0
"""How long a finished job is kept if nobody says otherwise."""

AGENT_RETENTION_S_MIN: Final = 24 * 3600.0
"""An agent that was given up is remembered for as long at least: a late word of it is known to be late."""

SWEEPS_A_RETENTION: Final = 20
SWEEP_INTERVAL_S_MAX: Final = 600.0
FIRST_SWEEP_AFTER_S: Final = 60.0
SHARE_OF_TIME: Final = 0.25
"""Of the writer's time, at most."""

_log = logging.getLogger(__name__)


class Retention:
    """Removes jobs, events and agents whose time is over."""

    def __init__(self, writer: Writer, clock: Clock, retention_s: float = RETENTION_S) -> None:
        self._writer = writer
        self._clock = clock
        self._retention_s = retention_s

    def begin_ms(self) -> int:
        """Return the time before which what ended may go, in milliseconds since the epoch."""
        return self._clock.now_ms() - round(self._retention_s * 1000)

    async def run(self) -> NoReturn:
        """Sweep again and again until cancelled."""
        interval_s = min(self._retention_s / SWEEPS_A_RETENTION, SWEEP_INTERVAL_S_MAX)
        # The clock of a machine that has just started may not be set yet.
        await anyio.sleep(min(interval_s, FIRST_SWEEP_AFTER_S))
        while True:
            try:
                await self._sweep()
            except (UnavailableError, CommandError) as error:
                _log.warning("what is over stays for now: %s", error)
            await anyio.sleep(interval_s)

    async def _sweep(self) -> None:
        agent_retention_ms = round(max(self._retention_s, AGENT_RETENTION_S_MIN) * 1000)
        sweep = Sweep(jobs_before_ms=self.begin_ms(), agents_before_ms=self._clock.now_ms() - agent_retention_ms)
        removed = 0
        while not sweep.is_done:
            begin_s = self._clock.monotonic_s()
            removal = await self._writer.do(lambda group: group.remove(sweep.next_step), alone=True)
            removed += len(removal.jobs)
            # Others have the writer for most of the time, however much there is to remove.
            await anyio.sleep((self._clock.monotonic_s() - begin_s) * (1 / SHARE_OF_TIME - 1))
        if removed:
            _log.info("removed %d jobs that ended more than %g s ago", removed, self._retention_s)
