"""What is over is kept for a set time, by the wall clock of the store, and then goes.

Little by little, behind the commands of clients.
"""

import logging
from collections.abc import Collection, Sequence
from typing import Any, Final, NoReturn

import anyio
import grpc.aio

from batchyard.api.scheduler.v1 import log_retention_service_pb2 as pb
from batchyard.api.scheduler.v1.log_retention_service_pb2_grpc import LogRetentionServiceServicer
from batchyard.domain.clock import Clock
from batchyard.domain.errors import InvalidRequestError, UnavailableError
from batchyard.domain.jobs import AgentId
from batchyard.jobstore.core import CommandError
from batchyard.jobstore.expiry import Sweep
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.writer import Writer
from batchyard.storage.jobs import ANSWERS_KEPT_MS, LogKey

RETENTION_S: Final = 7 * 24 * 3600.0
"""How long a finished job is kept if nobody says otherwise."""

AGENT_RETENTION_S_MIN: Final = 24 * 3600.0
"""An agent that was given up is remembered for as long at least: a late word of it is known to be late."""

SWEEPS_A_RETENTION: Final = 20
SWEEP_INTERVAL_S_MAX: Final = 600.0
FIRST_SWEEP_AFTER_S: Final = 60.0
SHARE_OF_TIME: Final = 0.25
"""Of the writer's time, at most."""

LOGS_A_REQUEST: Final = 1000

_log = logging.getLogger(__name__)


class LogRetentionServicer(LogRetentionServiceServicer):
    """Tells which logs nobody needs any more, and whose the others are."""

    def __init__(self, retention: "Retention", reading: Reading) -> None:
        self._retention = retention
        self._reading = reading

    async def FindOrphanedLogs(  # noqa: N802  # the name of the RPC
        self, request: pb.FindOrphanedLogsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindOrphanedLogsResponse:
        """Answer with those of the logs that no job names."""
        # Before they are looked up: a job that goes meanwhile keeps its logs for another round.
        retained_since_ms = self._retention.begin_ms()
        logs = _logs_in(request)
        known = await self._owners(logs)
        return pb.FindOrphanedLogsResponse(
            orphaned=[
                pb.LogRef(namespace=log.namespace, log_stream_name=log.log_stream_name)
                for log in logs
                if log not in known
            ],
            retention_ms=self._retention.retention_ms,
            retained_since_ms=retained_since_ms,
        )

    async def FindLogOwners(  # noqa: N802
        self, request: pb.FindLogOwnersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindLogOwnersResponse:
        """Answer with the agents of those attempts whose logs are named."""
        owners = await self._owners(_logs_in(request))
        return pb.FindLogOwnersResponse(
            owners=[
                pb.LogOwner(
                    log=pb.LogRef(namespace=log.namespace, log_stream_name=log.log_stream_name), agent_id=agent_id
                )
                for log, agent_id in owners.items()
            ]
        )

    async def _owners(self, logs: Collection[LogKey]) -> dict[LogKey, AgentId]:
        return await self._reading.ask(lambda reader: reader.log_owners(logs)) if logs else {}


def _logs_in(request: pb.FindOrphanedLogsRequest | pb.FindLogOwnersRequest) -> Sequence[LogKey]:
    if len(request.logs) > LOGS_A_REQUEST:
        raise InvalidRequestError(f"Maximum number of logs supported is {LOGS_A_REQUEST}.", field="logs")
    return [LogKey(log.namespace, log.log_stream_name) for log in request.logs]


class Retention:
    """Removes jobs, events and agents whose time is over."""

    def __init__(self, writer: Writer, clock: Clock, retention_s: float = RETENTION_S) -> None:
        self._writer = writer
        self._clock = clock
        self._retention_s = retention_s

    @property
    def retention_ms(self) -> int:
        """How long what is over is kept, in milliseconds."""
        return round(self._retention_s * 1000)

    def begin_ms(self) -> int:
        """Return the time before which what ended may go, in milliseconds since the epoch."""
        return self._clock.now_ms() - self.retention_ms

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
        now_ms = self._clock.now_ms()
        sweep = Sweep(
            jobs_before_ms=now_ms - self.retention_ms,
            agents_before_ms=now_ms - agent_retention_ms,
            answers_before_ms=now_ms - ANSWERS_KEPT_MS,
        )
        removed = 0
        while not sweep.is_done:
            begin_s = self._clock.monotonic_s()
            removal = await self._writer.do(lambda group: group.remove(sweep.next_step), alone=True)
            removed += len(removal.jobs)
            # Others have the writer for most of the time, however much there is to remove.
            await anyio.sleep((self._clock.monotonic_s() - begin_s) * (1 / SHARE_OF_TIME - 1))
        if removed:
            _log.info("removed %d jobs that ended more than %g s ago", removed, self._retention_s)
