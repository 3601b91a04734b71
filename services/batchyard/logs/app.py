"""Puts the logs service together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import grpc.aio
from anyio import to_thread

from batchyard.api.agent.v1.log_ingest_service_pb2_grpc import add_LogIngestServiceServicer_to_server
from batchyard.api.operations.v1.logs_service_pb2_grpc import add_LogsServiceServicer_to_server
from batchyard.domain.clock import Clock
from batchyard.logs.arrivals import Arrivals
from batchyard.logs.ingest import LogIngestServicer
from batchyard.logs.intake import LOG_BYTES_MAX, LogIntake
from batchyard.logs.questions import LogQuestions
from batchyard.logs.service import LogsServicer
from batchyard.rpc.peers import Role
from batchyard.rpc.server import Service
from batchyard.storage.log_expiry import expire_logs
from batchyard.storage.log_files import LogFolder


@asynccontextmanager
async def open_logs(
    *, folder: Path, clock: Clock, job_store: grpc.aio.Channel, log_bytes_max: int = LOG_BYTES_MAX
) -> AsyncIterator[Sequence[Service]]:
    """Open the logs in a folder, which is made if need be, for reading and for shipping to.

    Of a log that is shipped, so many bytes are kept at most; raises ValueError if that is too little.
    Those of jobs that the job store does not keep any more are deleted.
    """
    await to_thread.run_sync(partial(folder.mkdir, parents=True, exist_ok=True))
    logs, arrivals = LogFolder(folder), Arrivals()
    reading = LogsServicer(logs, arrivals)
    questions = LogQuestions(job_store)
    ingest = LogIngestServicer(LogIntake(logs, clock, log_bytes_max), arrivals, questions)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(expire_logs, logs, clock, questions.orphans, of="the job store"))
        yield [
            Service.of(add_LogsServiceServicer_to_server, reading),
            Service.of(add_LogIngestServiceServicer_to_server, ingest, callers=frozenset({Role.AGENT})),
        ]
        tasks.cancel_scope.cancel()
