"""Where a log's events begin and end, found in either direction without reading the log from its start.

An event is a line. One of more than `LINE_BYTES_MAX` is split where the offset in the log is a multiple of that, so
that a boundary can be told from the bytes around it. What is not known to be a whole event yet, the last line of a log
that still grows, is no event.
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
    while position < log.end:
        needed = min(position + LINE_BYTES_MAX + 1, log.end)
        for size in (window_bytes, LINE_BYTES_MAX + 1):
            is_enough = window.find(b"\n", position - window_start) >= 0 or window_start + len(window) >= needed
            if not is_enough:
                window_start, window = position, log.read(position, position + size)
        line = _line_at(log, position, window, position - window_start)
        if line is None:
            return
        yield line
        position = line.next


def lines_before(log: LogBytes, end: int) -> Iterator[Line]:
    """Yield the events before a boundary, last to first."""
    window_start, window = end, b""
    position = end
    while position > 0:
        needed = max(position - LINE_BYTES_MAX - 2, 0)
        if needed < window_start:
            window_start = max(position - _WINDOW_BYTES, 0)
            window = log.read(window_start, position)
        line = _line_before(position, window, window_start)
        yield line
        position = line.start


def boundary_before(log: LogBytes, offset: int) -> int:
    """Return the last boundary at or before an offset."""
    offset = min(offset, log.end)
    window_start = max(offset - LINE_BYTES_MAX - 1, 0)
    newline = log.read(window_start, offset).rfind(b"\n")
    if newline >= 0:
        boundary = window_start + newline + 1
    elif window_start == 0:
        boundary = 0
    else:
        boundary = (offset - 1) // LINE_BYTES_MAX * LINE_BYTES_MAX
    for line in lines_from(log, boundary):
        if line.next > offset:
            break
        boundary = line.next
    return boundary


def _line_at(log: LogBytes, position: int, window: bytes, index: int) -> Line | None:
    """Return the event that starts at `position`, where the window has its `index`; None if it is not whole yet."""
    newline = window.find(b"\n", index, index + LINE_BYTES_MAX + 1)
    if newline >= 0:
        return Line(position, position + newline - index + 1, window[index:newline])
    available = len(window) - index
    if available > LINE_BYTES_MAX:
        size = LINE_BYTES_MAX - position % LINE_BYTES_MAX
        return Line(position, position + size, window[index : index + size])
    if log.is_finished:
        return Line(position, position + available, window[index:])
    return None


def _line_before(position: int, window: bytes, window_start: int) -> Line:
    """Return the event that ends at the boundary `position`, from a window of the bytes before it."""
    index = position - window_start
    end = index - 1 if window[index - 1] == ord("\n") else index
    newline = window.rfind(b"\n", max(end - LINE_BYTES_MAX - 1, 0), end)
    if newline >= 0:
        start = newline + 1
    elif window_start + end <= LINE_BYTES_MAX:
        start = 0
    else:
        start = (window_start + end - 1) // LINE_BYTES_MAX * LINE_BYTES_MAX - window_start
    return Line(window_start + start, position, window[start:end])
