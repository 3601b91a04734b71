"""Pages of events, as CloudWatch's GetLogEvents defines them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Final, Protocol

from batchyard.domain.errors import InvalidRequestError
from batchyard.logs.lines import Line, LogBytes, boundary_before, lines_before, lines_from

EVENTS_MAX: Final = 10_000
"""The most events of a page."""
PAGE_BYTES_MAX: Final = 1024 * 1024
"""The most bytes of a page, as CloudWatch counts them; a page holds one event at least."""
EVENT_OVERHEAD_BYTES: Final = 26

_TOKEN: Final = re.compile(r"([fb])/([0-9]{20})")


class TimedLog(LogBytes, Protocol):
    """A log that knows when its bytes came."""

    def time_of(self, end: int) -> int:
        """Return when the bytes up to `end` were there, in milliseconds since the epoch."""
        ...

    def offset_before(self, time_ms: int) -> int:
        """Return up to which offset bytes came before this time."""
        ...


class Direction(Enum):
    """Which way a page lies from its token."""

    FORWARD = "f"
    BACKWARD = "b"


@dataclass(frozen=True, slots=True)
class Token:
    """A boundary between two events, and where to read on from it."""

    direction: Direction
    offset: int

    def __str__(self) -> str:
        return f"{self.direction.value}/{self.offset:020d}"


def parse_token(text: str) -> Token:
    """Read a token that an earlier page gave. Raises InvalidRequestError for anything else."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise _invalid_token()
    return Token(Direction(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which events are asked for. Times are milliseconds since the epoch, from `start_ms` on and before `end_ms`."""

    token: Token | None = None
    from_head: bool = False
    start_ms: int | None = None
    end_ms: int | None = None
    limit: int = EVENTS_MAX


@dataclass(frozen=True, slots=True)
class Event:
    """A line that a job printed."""

    time_ms: int
    """Milliseconds since the epoch."""
    message: str


@dataclass(frozen=True, slots=True)
class Page:
    """Events in the order in which they were printed, and the boundaries before and after them."""

    events: list[Event]
    start: int
    end: int

    @property
    def forward_token(self) -> Token:
        """The token of the page after this one; the token of this one, if it lies forward and is empty."""
        return Token(Direction.FORWARD, self.end)

    @property
    def backward_token(self) -> Token:
        """The token of the page before this one; the token of this one, if it lies backward and is empty."""
        return Token(Direction.BACKWARD, self.start)


def read_page(log: TimedLog, request: PageRequest) -> Page:
    """Read the page that is asked for. Raises InvalidRequestError for a token that lies beyond the log."""
    token = request.token
    if token is not None and token.offset > log.end:
        raise _invalid_token()
    first = 0 if request.start_ms is None else boundary_before(log, log.offset_before(request.start_ms))
    last = boundary_before(log, log.end if request.end_ms is None else log.offset_before(request.end_ms))
    if token is None:
        token = Token(Direction.FORWARD, first) if request.from_head else Token(Direction.BACKWARD, last)
    if token.direction is Direction.FORWARD:
        lines = takewhile(lambda line: line.next <= last, lines_from(log, max(token.offset, first)))
        taken = list(_bounded(lines, request.limit))
    else:
        lines = takewhile(lambda line: line.start >= first, lines_before(log, min(token.offset, last)))
        taken = list(_bounded(lines, request.limit))[::-1]
    if not taken:
        return Page([], token.offset, token.offset)
    return Page([_event(log, line) for line in taken], taken[0].start, taken[-1].next)


def _bounded(lines: Iterable[Line], limit: int) -> Iterator[Line]:
    size = 0
    for count, line in enumerate(lines, start=1):
        size += len(line.text) + EVENT_OVERHEAD_BYTES
        if count > 1 and size > PAGE_BYTES_MAX:
            return
        yield line
        if count == limit:
            return


def _event(log: TimedLog, line: Line) -> Event:
    return Event(log.time_of(line.next), line.text.decode("utf-8", errors="replace"))


def _invalid_token() -> InvalidRequestError:
    return InvalidRequestError("The specified nextToken is invalid.", field="nextToken")
