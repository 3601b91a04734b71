"""Ships logs to the logs service, off the path of jobs, and deletes each file once the service holds all of it."""

import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import anyio
import grpc.aio
from anyio import to_thread

from batchyard.agent.logs import LogName, UnshippedLogs
from batchyard.api.agent.v1 import log_ingest_service_pb2 as ingest_pb2
from batchyard.domain.clock import Clock
from batchyard.domain.errors import UnavailableError
from batchyard.domain.names import LOG_GROUP
from batchyard.rpc.reconnect import reconnecting
from batchyard.storage.log_cuts import Cut
from batchyard.storage.log_expiry import Orphans, expire_logs
from batchyard.storage.log_files import LogFolder, LogMovedError, LogState

if TYPE_CHECKING:
    from batchyard.api.agent.v1.log_ingest_service_pb2_grpc import LogIngestServiceAsyncStub

SHIP_INTERVAL_S: Final = 0.1
"""How long after all was shipped there is another look at what has come."""
SEGMENT_BYTES_MAX: Final = 256 * 1024
SEGMENT_OVERHEAD_BYTES: Final = 256
REQUEST_BYTES_MAX: Final = 1024 * 1024
ANSWER_PATIENCE_S: Final = 30.0

_log = logging.getLogger(__name__)


async def ship_logs(
    stub: "LogIngestServiceAsyncStub",
    folder: LogFolder,
    unshipped: UnshippedLogs,
    *,
    interval_s: float = SHIP_INTERVAL_S,
) -> NoReturn:
    """Ship what is in the folder and what comes, until cancelled; connect again when the stream breaks."""

    async def attempt() -> None:
        call = stub.ShipLogs()
        try:
            await _ship(call, LogReel(folder, unshipped), unshipped, interval_s)
        finally:
            call.cancel()

    await reconnecting(attempt, name="the logs service")


_Call = grpc.aio.StreamStreamCall[ingest_pb2.ShipLogsRequest, ingest_pb2.ShipLogsResponse]


async def _ship(call: _Call, reel: "LogReel", unshipped: UnshippedLogs, interval_s: float) -> None:
    while True:
        segments = await to_thread.run_sync(reel.next_segments)
        if not segments:
            await anyio.sleep(interval_s)
            continue
        await call.write(ingest_pb2.ShipLogsRequest(segments=segments))
        with anyio.fail_after(ANSWER_PATIENCE_S):
            response = await call.read()
        if not isinstance(response, ingest_pb2.ShipLogsResponse):
            raise UnavailableError("the logs service has ended the stream")
        before = len(unshipped)
        await to_thread.run_sync(reel.acknowledge, response)
        if len(unshipped) < before:
            unshipped.changed()


async def expire_shipped(stub: "LogIngestServiceAsyncStub", folder: LogFolder, clock: Clock) -> NoReturn:
    """Delete logs that can never be shipped whole, as nobody knows their runs, once no job names them any more."""

    async def forgotten(names: Sequence[LogName]) -> Orphans:
        logs = [ingest_pb2.LogName(namespace=namespace, log_stream_name=stream) for namespace, stream in names]
        request = ingest_pb2.FindForgottenLogsRequest(logs=logs)
        answer = await stub.FindForgottenLogs(request, timeout=ANSWER_PATIENCE_S)
        return Orphans(
            [(log.namespace, log.log_stream_name) for log in answer.forgotten],
            answer.retention_ms,
            answer.retained_since_ms,
        )

    await expire_logs(folder, clock, forgotten, of="the logs service, which says what logs may go")


class LogReel:
    """How much of each log in a folder the service holds. It begins anew with each stream: what is held is skipped."""

    def __init__(self, folder: LogFolder, unshipped: UnshippedLogs) -> None:
        self._folder = folder
        self._unshipped = unshipped
        self._held: dict[LogName, int] = {}
        self._whole: dict[LogName, LogState] = {}
        """The states of logs in which the service held all that shows."""
        self._last: LogName = ("", "")
        self._refused: set[LogName] = set()
        self._shortened: set[LogName] = set()

    def next_segments(self) -> list[ingest_pb2.LogSegment]:
        """Return segments that the service lacks, as much as fits in a request.

        It goes on after the log with which it stopped the last time: a long log does not keep back the others.
        """
        segments: list[ingest_pb2.LogSegment] = []
        room = REQUEST_BYTES_MAX
        names = list(self._folder.names())
        begin = bisect_right(names, self._last)
        for name in names[begin:] + names[:begin]:
            self._last = name
            if name in self._refused:
                continue
            for segment in self._segments(name, room):
                segments.append(segment)
                room -= len(segment.data) + 16 * len(segment.mark_offsets) + SEGMENT_OVERHEAD_BYTES
            if room <= 0:
                break
        return segments

    def acknowledge(self, response: ingest_pb2.ShipLogsResponse) -> None:
        """Take in what the service holds on disk; a log that it holds whole is deleted here, one it refuses stays."""
        for log in response.refused:
            _log.warning("the logs service does not take %s, as of a job that is not known", log.log_stream_name)
            self._refused.add((log.namespace, log.log_stream_name))
            self._unshipped.discard((log.namespace, log.log_stream_name))
        for position in response.positions:
            name = (position.namespace, position.log_stream_name)
            self._whole.pop(name, None)
            self._tell_cut(name, position)
            if position.final:
                self._held.pop(name, None)
                self._folder.remove(*name)
                self._unshipped.discard(name)
            else:
                self._held[name] = position.offset

    def _tell_cut(self, name: LogName, position: ingest_pb2.LogPosition) -> None:
        """Say, once for each log, that the service keeps less of it than there is here."""
        if not position.cut_end or name in self._shortened:
            return
        own = self._folder.cut_of(*name)
        if own is None or position.cut_end > own.end or position.cut_start < own.start:
            self._shortened.add(name)
            _log.warning("the logs service keeps only a part of %s, which is longer than its --log-limit", name[1])

    def _segments(self, name: LogName, room: int) -> Iterator[ingest_pb2.LogSegment]:
        # One that is cut just now is next in a moment.
        with suppress(FileNotFoundError, LogMovedError):
            state = self._folder.state(*name)
            if self._whole.get(name) == state:
                return
            is_whole = True
            for segment in self._lacking(name, room):
                is_whole = False
                yield segment
            if is_whole:
                self._whole[name] = state

    def _lacking(self, name: LogName, room: int) -> Iterator[ingest_pb2.LogSegment]:
        # An empty log is shipped too: a job that runs has a log that can be read.
        is_new = name not in self._held
        offset = self._held.get(name, 0)
        group = self._folder.group(*name)
        with self._folder.open(*name) as log:
            cut = log.cut or Cut(0, 0)
            while room > 0 and (offset < log.end or log.is_finished or is_new):
                is_new = False
                if cut.start <= offset < cut.end:
                    if cut.end > log.end:
                        return
                    offset = cut.end
                stop = cut.start if offset < cut.start else log.end
                data = log.read(offset, min(offset + SEGMENT_BYTES_MAX, stop))
                marks = log.marks_between(offset, offset + len(data))
                is_final = log.is_finished and offset + len(data) >= log.end
                yield ingest_pb2.LogSegment(
                    namespace=name[0],
                    log_stream_name=name[1],
                    offset=offset,
                    data=data,
                    read_at_ms=log.time_of(offset + len(data)),
                    final=is_final,
                    log_group_name="" if group == LOG_GROUP else group,
                    cut_start=cut.start,
                    cut_end=cut.end,
                    mark_offsets=marks.offsets,
                    mark_times_ms=marks.times_ms,
                )
                offset += len(data)
                room -= len(data) + 16 * len(marks) + SEGMENT_OVERHEAD_BYTES
                if is_final:
                    return
