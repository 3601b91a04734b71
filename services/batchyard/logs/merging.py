"""Pages of events of many streams, merged by time: CloudWatch's FilterLogEvents.

The order is by time, then by stream, then by place in the stream, and a token is a place in that order, so a page can
be found again without anything being remembered. A page looks at a bounded number of bytes: it may end early, with few
events or none, and say where to go on. Where a group has more streams than are merged at once, they are taken in
blocks by name, one after the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heapify, heappop, heapreplace, nsmallest
from typing import Final, NamedTuple

from batchyard.logs.lines import Line, LogBytes, boundary_before, lines_from
from batchyard.logs.pages import EVENT_OVERHEAD_BYTES, EVENTS_MAX, PAGE_BYTES_MAX
from batchyard.logs.patterns import EVERYTHING, FilterPattern
from batchyard.storage.log_catalog import LogEntry
from batchyard.storage.log_files import LogFolder, LogMovedError

STREAMS_MERGED_MAX: Final = 2000
SEARCHED_BYTES_MAX: Final = 16 * 1024 * 1024
"""How much a page looks at."""
WINDOW_BYTES: Final = 16 * 1024
"""How much of a stream is in memory while it is merged, unless a line is longer."""


class Place(NamedTuple):
    """An event's place in the order; without a time, the beginning of a block."""

    block_after: str = ""
    """The last stream of the block before, which is done; empty in the first block."""
    block_last: str = ""
    """The last stream of the block; empty in the last block, to which streams that come later belong too."""
    time_ms: int = -1
    """Milliseconds since the epoch."""
    stream: str = ""
    offset: int = 0
    """Where the event ends in its stream."""


@dataclass(frozen=True, slots=True)
class MergedEvent:
    """A line that a job printed, and where."""

    time_ms: int
    """Milliseconds since the epoch."""
    stream: str
    offset: int
    """Where the line ends in its stream."""
    message: str

    @property
    def event_id(self) -> str:
        """Name of the event: 56 digits, as CloudWatch has them, the earlier the lower."""
        stream = int.from_bytes(blake2b(self.stream.encode(), digest_size=8).digest())
        return f"{self.time_ms:014d}{stream:020d}{self.offset:022d}"


@dataclass(frozen=True, slots=True)
class Search:
    """Which events are asked for. Times are milliseconds since the epoch, from `start_ms` on and before `end_ms`."""

    streams: Sequence[LogEntry]
    """In any order."""
    pattern: FilterPattern = EVERYTHING
    start_ms: int = 0
    end_ms: int | None = None
    limit: int = EVENTS_MAX


@dataclass(frozen=True, slots=True)
class MergedPage:
    """Events by time, and where to go on; None at the end."""

    events: list[MergedEvent]
    resume: Place | None


def merge_page(folder: LogFolder, namespace: str, search: Search, after: Place) -> MergedPage:
    """Return the events that come after a place."""
    block, after = _block_of(search, after)
    found: list[MergedEvent] = []
    searched = size = 0
    for event, length in _merged(folder, namespace, block, search, after):
        if search.pattern.matches(event.message):
            size += length
            if found and size > PAGE_BYTES_MAX:
                return MergedPage(found, after)
            found.append(event)
        searched += length
        after = after._replace(time_ms=event.time_ms, stream=event.stream, offset=event.offset)
        if len(found) == search.limit or searched > SEARCHED_BYTES_MAX:
            return MergedPage(found, after)
    return MergedPage(found, Place(block_after=after.block_last) if after.block_last else None)


def _block_of(search: Search, place: Place) -> tuple[list[str], Place]:
    """Return the streams that are merged at a place, and the place with the end of its block."""
    rest = [entry for entry in search.streams if entry.stream > place.block_after]
    if place.time_ms < 0:
        first = nsmallest(STREAMS_MERGED_MAX + 1, (entry.stream for entry in rest))
        place = place._replace(block_last=first[-2] if len(first) > STREAMS_MERGED_MAX else "")
    streams = [
        entry.stream
        for entry in rest
        if (not place.block_last or entry.stream <= place.block_last) and entry.may_hold(place.time_ms)
    ]
    return streams, place


def _merged(
    folder: LogFolder, namespace: str, streams: Sequence[str], search: Search, after: Place
) -> Iterator[tuple[MergedEvent, int]]:
    """Yield the events of streams by time, each with its size as CloudWatch counts it."""
    # A stream is opened to see when it begins, and read only once the merge has come to that time.
    heap: list[tuple[int, str, int]] = []
    for stream in streams:
        with suppress(FileNotFoundError), folder.open(namespace, stream) as log:
            if log.end:
                heap.append((max(log.first_ms, search.start_ms, after.time_ms), stream, -1))
    heapify(heap)
    reading: dict[str, Iterator[tuple[MergedEvent, int]]] = {}
    waiting: dict[str, tuple[MergedEvent, int]] = {}
    while heap and (search.end_ms is None or heap[0][0] < search.end_ms):
        _, stream, _ = heap[0]
        if stream in waiting:
            yield waiting.pop(stream)
        else:
            reading[stream] = _events(folder, namespace, stream, search, after)
        following = next(reading[stream], None)
        if following is None:
            heappop(heap)
            del reading[stream]
        else:
            waiting[stream] = following
            heapreplace(heap, (following[0].time_ms, stream, following[0].offset))


def _events(
    folder: LogFolder, namespace: str, stream: str, search: Search, after: Place
) -> Iterator[tuple[MergedEvent, int]]:
    """Yield the events of a stream that come after a place; the file is open only while it is read from."""
    position: int | None = after.offset if stream == after.stream else None
    while True:
        try:
            with folder.open(namespace, stream) as log:
                if position is None:
                    from_ms = max(search.start_ms, after.time_ms + (stream < after.stream))
                    position = boundary_before(log, log.offset_before(from_ms))
                lines = _some_lines(log, position)
                times = [log.time_of(line.next) for line in lines]
        except FileNotFoundError:
            return
        except LogMovedError:
            continue
        for line, time_ms in zip(lines, times, strict=True):
            if search.end_ms is not None and time_ms >= search.end_ms:
                return
            message = line.text.decode("utf-8", errors="replace")
            yield MergedEvent(time_ms, stream, line.next, message), len(line.text) + EVENT_OVERHEAD_BYTES
            position = line.next
        if not lines:
            return


def _some_lines(log: LogBytes, position: int) -> list[Line]:
    lines: list[Line] = []
    for line in lines_from(log, position, WINDOW_BYTES):
        lines.append(line)
        if line.next - position >= WINDOW_BYTES:
            break
    return lines
