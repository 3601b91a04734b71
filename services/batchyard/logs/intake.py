"""Puts what agents ship into the logs of a folder, no more of each than is kept, and knows what is on the disk."""

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final
from weakref import WeakValueDictionary

import anyio
from anyio import to_thread
from prometheus_client import Counter

from batchyard.api.agent.v1 import log_ingest_service_pb2 as pb
from batchyard.domain.clock import Clock
from batchyard.domain.errors import InvalidRequestError
from batchyard.logs.arrivals import LogName
from batchyard.storage.log_cuts import Cut
from batchyard.storage.log_files import LogFolder, LogGapError, LogNameError

LOG_BYTES_MAX: Final = 512 * 1024 * 1024
"""How much is kept of a log, unless configured otherwise: more than agents keep, so that theirs is what counts."""
LOG_BYTES_MIN: Final = 1024 * 1024
_GROUP_LENGTH_MAX: Final = 512
_BYTES: Final = Counter("batchyard_logs_received_bytes", "Of what agents shipped of their jobs' logs.")
_CUT: Final = Counter("batchyard_logs_cut_bytes", "Of what agents shipped and is not kept, as a log became too long.")


class LogIntake:
    """Takes segments of logs: each log for one caller at a time, while others wait.

    Of a log that becomes longer than `bytes_max` the middle goes, as on the hosts themselves.
    """

    def __init__(self, folder: LogFolder, clock: Clock, bytes_max: int) -> None:
        if bytes_max < LOG_BYTES_MIN:
            raise ValueError(f"log_bytes_max: must be {LOG_BYTES_MIN} bytes (1 MiB) at least")
        self._folder = folder
        self._clock = clock
        self._bytes_max = bytes_max
        self._turns: Final[WeakValueDictionary[LogName, anyio.Lock]] = WeakValueDictionary()
        self._unsure: Final[dict[LogName, int]] = {}
        """Up to where logs are on the disk of which more was written and could not be brought there."""

    async def take(self, segments: Sequence[pb.LogSegment]) -> list[pb.LogPosition]:
        """Append segments; return how much is then held of each of their logs, and on the disk.

        Raises InvalidRequestError for a segment that cannot be. Raises OSError when the disk does not take them: then
        nothing counts as held but what was held before.
        """
        for segment in segments:
            _check(segment)
        async with AsyncExitStack() as turns:
            # In one order, so that nobody waits for one who waits for him.
            for name in sorted({name_of(segment) for segment in segments}):
                await turns.enter_async_context(self._turns.setdefault(name, anyio.Lock()))
            try:
                return await to_thread.run_sync(self._store, segments)
            except LogNameError as error:
                raise InvalidRequestError(str(error), field="segments") from error

    def _store(self, segments: Sequence[pb.LogSegment]) -> list[pb.LogPosition]:
        names = dict.fromkeys(name_of(segment) for segment in segments)
        self._take_back(names)
        before = {name: self._folder.size(*name) for name in names}
        held: dict[LogName, int] = {}
        try:
            for segment in segments:
                held[name_of(segment)] = self._append(name_of(segment), segment)
            for name in names:
                self._folder.sync(*name)
        except OSError:
            # What a failed sync has left out, a later one that succeeds leaves out too: it must be written anew.
            self._unsure.update(before)
            with suppress(OSError):
                self._take_back(names)
            raise
        return [self._position(name, offset) for name, offset in held.items()]

    def _take_back(self, names: Iterable[LogName]) -> None:
        """Bring logs to where they surely are on the disk."""
        for name in names:
            if name in self._unsure:
                self._folder.take_back(*name, self._unsure[name])
                del self._unsure[name]

    def _append(self, name: LogName, segment: pb.LogSegment) -> int:
        """Append a segment; return how much is then held, also of a log of which something before it is missing."""
        # An agent's clock may be ahead of ours, but nothing was printed after now.
        now_ms = self._clock.now_ms()
        marks = [
            (offset, min(time_ms, now_ms))
            for offset, time_ms in zip(segment.mark_offsets, segment.mark_times_ms, strict=False)
        ]
        if segment.log_group_name:
            self._folder.set_group(*name, segment.log_group_name[:_GROUP_LENGTH_MAX])
        try:
            cut = Cut(segment.cut_start, segment.cut_end) if segment.cut_end else None
            held = self._folder.append(
                *name, segment.offset, segment.data, min(segment.read_at_ms, now_ms), marks=marks, cut=cut
            )
        except LogGapError as gap:
            return gap.held
        _BYTES.inc(len(segment.data))
        if held > self._bytes_max:
            self._shorten(name)
        if segment.final:
            self._folder.finish(*name)
        return held

    def _shorten(self, name: LogName) -> None:
        before = self._folder.cut_of(*name)
        after = self._folder.shorten(*name, self._bytes_max, is_ours=True)
        _CUT.inc(_length(after) - _length(before))

    def _position(self, name: LogName, offset: int) -> pb.LogPosition:
        cut = self._folder.cut_of(*name)
        return pb.LogPosition(
            namespace=name[0],
            log_stream_name=name[1],
            offset=offset,
            final=self._folder.is_finished(*name),
            cut_start=0 if cut is None else cut.start,
            cut_end=0 if cut is None else cut.end,
        )


def name_of(segment: pb.LogSegment) -> LogName:
    """Return the name of the log that a segment is of."""
    return segment.namespace, segment.log_stream_name


def _length(cut: Cut | None) -> int:
    return 0 if cut is None else cut.end - cut.start


def _check(segment: pb.LogSegment) -> None:
    """Raise InvalidRequestError for offsets that no log has."""
    if segment.offset < 0:
        raise InvalidRequestError(f"offset is {segment.offset}, and must not be negative", field="segments.offset")
    if segment.cut_end and not 0 <= segment.cut_start < segment.cut_end:
        raise InvalidRequestError(
            f"what is cut ends at {segment.cut_end}, and must begin before that, from 0 on: not at {segment.cut_start}",
            field="segments.cutStart",
        )
