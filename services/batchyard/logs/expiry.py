"""Which logs may go: asked of the job store, for this service and for agents that ship to it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc.aio

from batchyard.api.scheduler.v1 import log_retention_service_pb2 as pb
from batchyard.api.scheduler.v1.log_retention_service_pb2_grpc import LogRetentionServiceStub
from batchyard.storage.log_expiry import LogName, Orphans

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.log_retention_service_pb2_grpc import LogRetentionServiceAsyncStub

ANSWER_PATIENCE_S = 30.0


class JobStoreQuestions:
    """Asks the job store."""

    def __init__(self, job_store: grpc.aio.Channel) -> None:
        self._stub: LogRetentionServiceAsyncStub = LogRetentionServiceStub(job_store)

    async def orphans(self, names: Sequence[LogName]) -> Orphans:
        """Return which of the logs no job names. Raises AioRpcError."""
        logs = [pb.LogRef(namespace=namespace, log_stream_name=stream) for namespace, stream in names]
        answer = await self._stub.FindOrphanedLogs(pb.FindOrphanedLogsRequest(logs=logs), timeout=ANSWER_PATIENCE_S)
        return Orphans(
            [(log.namespace, log.log_stream_name) for log in answer.orphaned],
            answer.retention_ms,
            answer.retained_since_ms,
        )
