"""What a container prints, copied to its log as the engine has it: each piece with the time at which it came.

The engine stamps what it gets, so times are right also for what came while the agent was away; Podman's stamps are
whole seconds, into which the time of arrival is put. A copy that broke off goes on behind what the log holds: at the
second of its last bytes, less as many bytes as the log holds of that second.
"""

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from time import monotonic
from typing import Final

import aiodocker
import aiohttp
import anyio
from aiodocker.containers import DockerContainer
from anyio import to_thread

from batchyard.agent.logs import LogName
from batchyard.agent.runtimes import engine
from batchyard.rpc.clock import SystemClock
from batchyard.storage.log_files import LogFolder

GATHER_S: Final = 0.01
_HEADER_BYTES: Final = 8
_OUT_OF_ORDER_MS: Final = 50
"""By how much what came to stderr can be older than what came to stdout before it."""
_REPLAY_S_MAX: Final = 10.0
_FRESH_MS: Final = 2000
"""What arrives so soon after its second came just now, and was not waiting for an agent."""
_STAMP: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ")


@dataclass(frozen=True, slots=True)
class Piece:
    """What the engine got in one go: a line, or a part of a long one."""

    time_ms: int
    """Milliseconds since the epoch."""
    data: bytes
    stamp_ns: int = 0
    """The engine's own time, nanoseconds since the epoch; 0 where it says whole seconds only."""


@dataclass(slots=True)
class FrameReader:
    """Takes the engine's stream apart: frames of a header and a piece behind its time.

    Docker, when it begins a new file while it is behind with the last one, sends some of that again. What is suddenly
    older than what came before on stdout, or on stderr, is left out until something newer comes; for a while only, as
    clocks can be set back. The parts of a long line have one stamp.
    """

    now_ms: Callable[[], int]
    """Milliseconds since the epoch."""
    _rest: bytearray = field(default_factory=bytearray)
    _time_ms: int = 0
    _newest_ns: dict[int, int] = field(default_factory=dict)
    """By stream: stdout and stderr."""
    _replay_ends: dict[int, float] = field(default_factory=dict)
    """By stream: until when what is old is left out."""
    _in_line: set[int] = field(default_factory=set)
    """Streams whose last piece was a part of a line that goes on."""

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Yield the pieces that are complete. Their times never go back, whatever the engine's clock did."""
        self._rest += data
        position = 0
        while len(self._rest) - position >= _HEADER_BYTES:
            begin = position + _HEADER_BYTES
            end = begin + int.from_bytes(self._rest[begin - 4 : begin], "big")
            if end > len(self._rest):
                break
            stream, position = self._rest[position], end
            piece = self._piece(stream, bytes(self._rest[begin:end]))
            if piece is not None:
                yield piece
        del self._rest[:position]

    def _piece(self, stream: int, frame: bytes) -> Piece | None:
        match = _STAMP.match(frame)
        if match is None:
            return Piece(self._time_ms, frame)
        second, fraction, zone = match.groups(b"")
        time_ms = _second_ms(second + zone)
        stamp_ns = 0
        if fraction:
            stamp_ns = time_ms * 1_000_000 + int(fraction[:9].ljust(9, b"0"))
            if self._is_replayed(stream, stamp_ns, ends_line=frame.endswith(b"\n")):
                return None
            time_ms = stamp_ns // 1_000_000
        elif (late_ms := self.now_ms() - time_ms) < _FRESH_MS:
            time_ms += min(max(late_ms, 0), 999)
        self._time_ms = max(self._time_ms, time_ms)
        return Piece(self._time_ms, frame[match.end() :], stamp_ns)

    def _is_replayed(self, stream: int, stamp_ns: int, *, ends_line: bool) -> bool:
        newest_ns, ends = self._newest_ns.get(stream, 0), self._replay_ends.get(stream)
        goes_on = stamp_ns == newest_ns and ends is None and stream in self._in_line
        if stamp_ns <= newest_ns and not goes_on:
            if ends is None:
                ends = self._replay_ends[stream] = monotonic() + _REPLAY_S_MAX
            if monotonic() < ends:
                return True
        self._newest_ns[stream] = stamp_ns
        self._replay_ends.pop(stream, None)
        if ends_line:
            self._in_line.discard(stream)
        else:
            self._in_line.add(stream)
        return False


@lru_cache(16)
def _second_ms(stamp: bytes) -> int:
    return int(datetime.fromisoformat(stamp.decode("ascii")).timestamp()) * 1000


class ContainerLog:
    """The log of one container, to which pieces are added."""

    def __init__(self, folder: LogFolder, name: LogName) -> None:
        self._folder = folder
        self._name = name
        self._size = 0
        self._held_s = -1
        self._skip = 0
        self._last_ns = 0
        """The engine's time of the last piece, if this object has added it."""
        self._last_count = 0
        """How many pieces of that time came last."""
        self._sought_ns = 0
        """The engine's time of the last piece, as long as a copy that goes on has not come to what is behind it."""
        self._sought_count = 0
        self._unsure: list[Piece] = []
        """What may come before the piece that is sought, or after it if the engine has that no more."""

    @property
    def size(self) -> int:
        """How many bytes it holds, those that were cut out included."""
        return self._size

    def open(self) -> int:
        """Make the log if there is none; return from which second on pieces are missing."""
        path = self._folder.create(*self._name)
        marks = self._folder.marks(*self._name)
        self._size = path.stat().st_size
        self._sought_ns, self._sought_count = self._last_ns, self._last_count
        self._unsure = []
        held_ms = marks.time_of(self._size) if self._size else None
        if held_ms is None:
            # Nothing, or written without times: then all of it counts as of the first one.
            self._held_s, self._skip = -1, self._size
            return 0
        held_s = held_ms // 1000
        if self._sought_ns:
            self._held_s, self._skip = -1, 0
        else:
            self._held_s, self._skip = held_s, self._size - marks.offset_before(held_s * 1000)
        return max(held_s - 1, 0)

    def add(self, pieces: Iterable[Piece]) -> None:
        """Append pieces, those left out that it holds. Raises OSError."""
        self._append([wanted for piece in pieces for wanted in (self._sought(piece) if self._sought_ns else [piece])])

    def end(self) -> None:
        """Append what was left open, once all was added that the engine has. Raises OSError."""
        self._append(self._behind_what_is_gone())

    def _append(self, pieces: Iterable[Piece]) -> None:
        marks: dict[int, int] = {}
        fresh = bytearray()
        last_ns, count, self._last_ns = self._last_ns, self._last_count, 0
        for piece in pieces:
            data = self._missing(piece)
            if data:
                fresh += data
                marks[piece.time_ms] = self._size + len(fresh)
                last_ns, count = piece.stamp_ns, count + 1 if piece.stamp_ns == last_ns else 1
        if fresh:
            # The times first: what has none yet would get that of now.
            self._folder.mark(*self._name, *((offset, time_ms) for time_ms, offset in marks.items()))
            with self._folder.path(*self._name).open("ab") as file:
                file.write(fresh)
            self._size += len(fresh)
        self._last_ns, self._last_count = last_ns, count

    def _sought(self, piece: Piece) -> list[Piece]:
        """Return what is surely behind the last piece that is held, which the engine may have dropped."""
        if piece.stamp_ns == self._sought_ns:
            self._unsure = []
            self._sought_count -= 1
            if not self._sought_count:
                self._sought_ns = 0
            return []
        away_ms = (piece.stamp_ns - self._sought_ns) / 1_000_000
        if away_ms > _OUT_OF_ORDER_MS:
            return [*self._behind_what_is_gone(), piece]
        if away_ms >= -_OUT_OF_ORDER_MS:
            self._unsure.append(piece)
        return []

    def _behind_what_is_gone(self) -> list[Piece]:
        unsure, self._unsure, self._sought_ns = self._unsure, [], 0
        return unsure

    def _missing(self, piece: Piece) -> bytes:
        second = piece.time_ms // 1000
        if self._held_s < 0 or second == self._held_s:
            skipped = min(self._skip, len(piece.data))
            self._skip -= skipped
            return piece.data[skipped:]
        return piece.data if second > self._held_s else b""


async def copy_output(docker: aiodocker.Docker, container: DockerContainer, log: ContainerLog, *, follow: bool) -> bool:
    """Copy what a container has printed, and if asked to what it will, until it has ended.

    Return False if engine or disk failed.
    """
    try:
        since_s = await to_thread.run_sync(log.open)
        reader = FrameReader(SystemClock().now_ms)
        # Closed here, and its connection with it, also when this is cancelled while it writes.
        async with aclosing(_stream(docker, container, since_s, follow=follow)) as chunks:
            async for chunk in chunks:
                await to_thread.run_sync(log.add, list(reader.feed(chunk)))
                # Engines send line by line: meanwhile some more come together.
                await anyio.sleep(GATHER_S)
        if not follow:  # what is followed ends early when Docker begins a new file
            await to_thread.run_sync(log.end)
    except engine.ENGINE_ERRORS:
        return False
    return True


async def _stream(
    docker: aiodocker.Docker, container: DockerContainer, since_s: int, *, follow: bool
) -> AsyncGenerator[bytes, None]:
    params = {"stdout": "1", "stderr": "1", "follow": str(int(follow)), "timestamps": "1", "since": str(since_s)}
    # The library's own reader decodes text; what jobs print is bytes.
    query = docker._query(  # noqa: SLF001
        f"containers/{container.id}/logs", params=params, timeout=aiohttp.ClientTimeout(total=None)
    )
    # Its context leaves the connection open when it is left before the end.
    async with query as response, response:
        while chunk := await response.content.readany():
            yield chunk
