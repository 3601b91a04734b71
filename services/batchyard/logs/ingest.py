"""Takes what agents ship of their jobs' logs."""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio

from batchyard.api.agent.v1 import log_ingest_service_pb2 as pb
from batchyard.api.agent.v1.log_ingest_service_pb2_grpc import LogIngestServiceServicer
from batchyard.domain.errors import UnavailableError
from batchyard.logs.arrivals import Arrivals, LogName
from batchyard.logs.intake import LogIntake, name_of
from batchyard.logs.questions import LogQuestions
from batchyard.rpc.peers import Peer, peer_of

_log = logging.getLogger(__name__)


class LogIngestServicer(LogIngestServiceServicer):
    """Appends segments to the logs in a folder; what it acknowledges is on disk."""

    def __init__(self, intake: LogIntake, arrivals: Arrivals, questions: LogQuestions) -> None:
        self._intake = intake
        self._arrivals = arrivals
        self._questions = questions

    async def ShipLogs(  # noqa: N802 - the name of the RPC
        self, request_iterator: AsyncIterator[pb.ShipLogsRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ShipLogsResponse]:
        """Answer each message, once its segments are on disk, with how much is held of each log that it names.

        Of an agent with a certificate nothing is taken but logs of its own attempts.
        """
        peer, own = peer_of(context), set[LogName]()
        with self._arrivals.shipping():
            async for request in request_iterator:
                segments: Sequence[pb.LogSegment] = request.segments
                refused: list[LogName] = []
                if peer is not None:
                    refused = await self._refused(peer, own, {name_of(segment) for segment in segments})
                    segments = [segment for segment in segments if name_of(segment) in own]
                try:
                    positions = await self._intake.take(segments)
                except OSError as error:
                    raise UnavailableError(f"the logs cannot be written: {error.strerror}") from error
                for position in positions:
                    self._arrivals.announce((position.namespace, position.log_stream_name))
                yield pb.ShipLogsResponse(positions=positions, refused=[_message_of(name) for name in refused])

    async def FindForgottenLogs(  # noqa: N802 - the name of the RPC
        self, request: pb.FindForgottenLogsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindForgottenLogsResponse:
        """Pass an agent's question on to the job store."""
        try:
            orphans = await self._questions.orphans([(log.namespace, log.log_stream_name) for log in request.logs])
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(f"the job store does not say which logs may go: {error.details()}") from error
        return pb.FindForgottenLogsResponse(
            forgotten=[_message_of(name) for name in orphans.names],
            retention_ms=orphans.retention_ms,
            retained_since_ms=orphans.retained_since_ms,
        )

    async def _refused(self, peer: Peer, own: set[LogName], names: set[LogName]) -> list[LogName]:
        """Return those of the logs that are of no attempt of this agent, and add the others to its own."""
        asked = sorted(names - own)
        try:
            owners = await self._questions.owners(asked)
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(f"the job store does not say whose logs these are: {error.details()}") from error
        own.update(name for name, agent_id in owners.items() if peer.is_agent(agent_id))
        refused = [name for name in asked if name not in own]
        if refused:
            _log.warning("%d logs of %s are refused, as they are not of its attempts", len(refused), peer)
        return refused


def _message_of(name: LogName) -> pb.LogName:
    return pb.LogName(namespace=name[0], log_stream_name=name[1])
