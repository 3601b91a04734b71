"""Takes what agents ship of their jobs' logs."""

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
from batchyard.logs.expiry import JobStoreQuestions
from batchyard.storage.log_cuts import Cut
from batchyard.storage.log_files import LogFolder, LogGapError, LogNameError

_BYTES: Final = Counter("batchyard_logs_received_bytes", "Of what agents shipped of their jobs' logs.")


class LogIngestServicer(LogIngestServiceServicer):
    """Appends segments to the logs in a folder; what it acknowledges is on disk."""

    def __init__(self, folder: LogFolder, arrivals: Arrivals, clock: Clock, questions: JobStoreQuestions) -> None:
        self._folder = folder
        self._arrivals = arrivals
        self._clock = clock
        self._questions = questions

    async def ShipLogs(  # noqa: N802 - the name of the RPC
        self, request_iterator: AsyncIterator[pb.ShipLogsRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ShipLogsResponse]:
        """Answer each message, once its segments are on disk, with how much is held of each log that it names."""
        with self._arrivals.shipping():
            async for request in request_iterator:
                try:
                    positions = await to_thread.run_sync(self._store, request.segments)
                except LogNameError as error:
                    raise InvalidRequestError(str(error), field="segments") from error
                except OSError as error:
                    raise UnavailableError(f"the logs cannot be written: {error.strerror}") from error
                for position in positions:
                    self._arrivals.announce((position.namespace, position.log_stream_name))
                yield pb.ShipLogsResponse(positions=positions)

    async def FindForgottenLogs(  # noqa: N802 - the name of the RPC
        self, request: pb.FindForgottenLogsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FindForgottenLogsResponse:
        """Pass an agent's question on to the job store."""
        try:
            orphans = await self._questions.orphans([(log.namespace, log.log_stream_name) for log in request.logs])
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(f"the job store does not say which logs may go: {error.details()}") from error
        return pb.FindForgottenLogsResponse(
            forgotten=[pb.LogName(namespace=namespace, log_stream_name=stream) for namespace, stream in orphans.names],
            retention_ms=orphans.retention_ms,
            retained_since_ms=orphans.retained_since_ms,
        )

    def _store(self, segments: Sequence[pb.LogSegment]) -> list[pb.LogPosition]:
        held: dict[LogName, int] = {}
        for segment in segments:
            name = (segment.namespace, segment.log_stream_name)
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
