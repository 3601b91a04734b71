"""What the job store knows of logs: which may go, and whose they are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc.aio

from batchyard.api.scheduler.v1 import log_retention_service_pb2 as pb
from batchyard.api.scheduler.v1.log_retention_service_pb2_grpc import LogRetentionServiceStub
from batchyard.storage.log_expiry import LogName, Orphans

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.log_retention_service_pb2_grpc import LogRetentionServiceAsyncStub

ANSWER_PATIENCE_S = 30.0


LOGS_A_REQUEST = 1000
"""As many names go into one question."""


class LogQuestions:
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

    async def owners(self, names: Sequence[LogName]) -> dict[LogName, str]:
        """Return the agents to which the attempts were given whose logs these are. Raises AioRpcError."""
        found: dict[LogName, str] = {}
        for start in range(0, len(names), LOGS_A_REQUEST):
            asked = names[start : start + LOGS_A_REQUEST]
            logs = [pb.LogRef(namespace=namespace, log_stream_name=stream) for namespace, stream in asked]
            answer = await self._stub.FindLogOwners(pb.FindLogOwnersRequest(logs=logs), timeout=ANSWER_PATIENCE_S)
            found |= {(owner.log.namespace, owner.log.log_stream_name): owner.agent_id for owner in answer.owners}
        return found
