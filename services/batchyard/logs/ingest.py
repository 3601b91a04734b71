"""Takes what agents ship of their jobs' logs."""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc.aio
from anyio import to_thread
from prometheus_client import Counter

from batchyard.api.agent.v1 import log_ingest_service_pb2 as pb
from batchyard.api.agent.v1.log_ingest_service_pb2_grpc import LogIngestServiceServicer
from batchyard.domain.clock import Clock
from batchyard.domain.errors import InvalidRequestError, UnavailableError
from batchyard.logs.arrivals import Arrivals, LogName
from batchyard.logs.questions import LogQuestions
from batchyard.rpc.peers import Peer, peer_of
from batchyard.storage.log_cuts import Cut
from batchyard.storage.log_files import LogFolder, LogGapError, LogNameError

_log = logging.getLogger(__name__)
_BYTES: Final = Counter("batchyard_logs_received_bytes", "Of what agents shipped of their jobs' logs.")


class LogIngestServicer(LogIngestServiceServicer):
    """Appends segments to the logs in a folder; what it acknowledges is on disk."""

    def __init__(self, folder: LogFolder, arrivals: Arrivals, clock: Clock, questions: LogQuestions) -> None:
        self._folder = folder
        self._arrivals = arrivals
        self._clock = clock
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
                    refused = await self._refused(peer, own, {_name_of(segment) for segment in segments})
                    segments = [segment for segment in segments if _name_of(segment) in own]
                try:
                    positions = await to_thread.run_sync(self._store, segments)
                except LogNameError as error:
                    raise InvalidRequestError(str(error), field="segments") from error
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

    def _store(self, segments: Sequence[pb.LogSegment]) -> list[pb.LogPosition]:
        held: dict[LogName, int] = {}
        for segment in segments:
            name = _name_of(segment)
            held[name] = self._append(name, segment)
        for name in held:
            self._folder.sync(*name)
        return [
            pb.LogPosition(
                namespace=name[0], log_stream_name=name[1], offset=offset, final=self._folder.is_finished(*name)
            )
            for name, offset in held.items()
        ]

    def _append(self, name: LogName, segment: pb.LogSegment) -> int:
        """Append a segment; return how much is then held, also of a log of which something before it is missing."""
        # An agent's clock may be ahead of ours, but nothing was printed after now.
        now_ms = self._clock.now_ms()
        marks = [
            (offset, min(time_ms, now_ms))
            for offset, time_ms in zip(segment.mark_offsets, segment.mark_times_ms, strict=False)
        ]
        if segment.log_group_name:
            self._folder.set_group(*name, segment.log_group_name)
        try:
            cut = Cut(segment.cut_start, segment.cut_end) if segment.cut_end else None
            held = self._folder.append(
                *name, segment.offset, segment.data, min(segment.read_at_ms, now_ms), marks=marks, cut=cut
            )
            _BYTES.inc(len(segment.data))
        except LogGapError as gap:
            return gap.held
        if segment.final:
            self._folder.finish(*name)
        return held


def _name_of(segment: pb.LogSegment) -> LogName:
    return segment.namespace, segment.log_stream_name


def _message_of(name: LogName) -> pb.LogName:
    return pb.LogName(namespace=name[0], log_stream_name=name[1])
