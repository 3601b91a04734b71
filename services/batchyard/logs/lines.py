"""Where a log's events begin and end, found in either direction without reading the log from its start.

An event is a line. One of more than `LINE_BYTES_MAX` is split where the offset in the log is a multiple of that, so
that a boundary can be told from the bytes around it. What is not known to be a whole event yet, the last line of a log
that still grows, is no event. Where a log was cut, one event says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

LINE_BYTES_MAX: Final = 256 * 1024
"""The largest event that CloudWatch Logs takes, in bytes."""
_WINDOW_BYTES: Final = 4 * LINE_BYTES_MAX


class LogBytes(Protocol):
    """The bytes of a log, as far as they show."""

    @property
    def end(self) -> int:
        """The offset up to which bytes show."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether nothing will be added."""
        ...

    @property
    def cut(self) -> tuple[int, int] | None:
        """Which bytes are gone, from a boundary up to what counts as one; None: none."""
        ...

    def read(self, offset: int, end: int) -> bytes:
        """Return the bytes from `offset` up to `end`, or up to the end of what shows."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """One event's place in its log."""

    start: int
    next: int
    """Where the next one starts: after this one's newline, if it has one."""
    text: bytes
    """Without the newline."""


def lines_from(log: LogBytes, start: int, window_bytes: int = _WINDOW_BYTES) -> Iterator[Line]:
    """Yield the events from a boundary on, first to last; they are read by so many bytes at a time, or more."""
    window_start, window = start, b""
    position = start
    cut_start, cut_end = log.cut or (0, 0)
    while position < log.end:
        if cut_start <= position < cut_end:
            if cut_end > log.end:
                return
            yield _note(cut_start, cut_end)
            window_start, window, position = cut_end, b"", cut_end
            continue
        stop = cut_start if position < cut_start else log.end
        needed = min(position + LINE_BYTES_MAX + 1, stop)
        for size in (window_bytes, LINE_BYTES_MAX + 1):
            is_enough = window.find(b"\n", position - window_start) >= 0 or window_start + len(window) >= needed
            if not is_enough:
                window_start, window = position, log.read(position, min(position + size, stop))
        line = _line_at(position, window, position - window_start, is_all=log.is_finished or position < cut_start)
        if line is None:
            return
        yield line
        position = line.next


def lines_before(log: LogBytes, end: int) -> Iterator[Line]:
    """Yield the events before a boundary, last to first."""
    window_start, window = end, b""
    position = end
    cut_start, cut_end = log.cut or (0, 0)
    while position > 0:
        if cut_start < position <= cut_end:
            yield _note(cut_start, cut_end)
            window_start, window, position = cut_start, b"", cut_start
            continue
        floor = cut_end if position > cut_end else 0
        needed = max(position - LINE_BYTES_MAX - 2, floor)
        if needed < window_start:
            window_start = max(position - _WINDOW_BYTES, floor)
            window = log.read(window_start, position)
        line = _line_before(position, window, window_start, floor)
        yield line
        position = line.start


def boundary_before(log: LogBytes, offset: int) -> int:
    """Return the last boundary at or before an offset."""
    offset = min(offset, log.end)
    cut_start, cut_end = log.cut or (0, 0)
    if cut_start <= offset < cut_end:
        return cut_start
    floor = cut_end if offset >= cut_end else 0
    window_start = max(offset - LINE_BYTES_MAX - 1, floor)
    newline = log.read(window_start, offset).rfind(b"\n")
    if newline >= 0:
        boundary = window_start + newline + 1
    elif window_start == floor:
        boundary = floor
    else:
        boundary = (offset - 1) // LINE_BYTES_MAX * LINE_BYTES_MAX
    for line in lines_from(log, boundary):
        if line.next > offset:
            break
        boundary = line.next
    return boundary


def _line_at(position: int, window: bytes, index: int, *, is_all: bool) -> Line | None:
    """Return the event that starts at `position`, where the window has its `index`; None if it is not whole yet.

    `is_all` says that nothing will come behind what there is.
    """
    newline = window.find(b"\n", index, index + LINE_BYTES_MAX + 1)
    if newline >= 0:
        return Line(position, position + newline - index + 1, window[index:newline])
    available = len(window) - index
    if available > LINE_BYTES_MAX:
        size = LINE_BYTES_MAX - position % LINE_BYTES_MAX
        return Line(position, position + size, window[index : index + size])
    if is_all:
        return Line(position, position + available, window[index:])
    return None


def _note(start: int, end: int) -> Line:
    return Line(start, end, b"[batchyard] %d bytes of this log were cut out here: it grew too long" % (end - start))


def _line_before(position: int, window: bytes, window_start: int, floor: int) -> Line:
    """Return the event that ends at the boundary `position`, from a window of the bytes before it, after `floor`."""
    index = position - window_start
    end = index - 1 if window[index - 1] == ord("\n") else index
    newline = window.rfind(b"\n", max(end - LINE_BYTES_MAX - 1, 0), end)
    if newline >= 0:
        start = newline + 1
    elif window_start + end - floor <= LINE_BYTES_MAX:
        start = floor - window_start
    else:
        start = max((window_start + end - 1) // LINE_BYTES_MAX * LINE_BYTES_MAX, floor) - window_start
    return Line(window_start + start, position, window[start:end])
