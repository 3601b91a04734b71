"""When the bytes of a log came: pairs of an end offset and a time, in a file beside the log that stays small."""

import os
import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from batchyard.storage.log_cuts import Cut

_MARK: Final = struct.Struct("<qq")
MARKS_BYTES_MAX: Final = 4 * 1024 * 1024
"""How long a file of marks may become. Then those of bytes that are gone go, and of many others every second one."""


@dataclass(frozen=True, slots=True)
class Marks:
    """When the bytes of a log came; offsets and times both only grow."""

    offsets: "array[int]"
    times_ms: "array[int]"

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the contents of a marks file; half a mark at its end, the trace of a crash, is left out."""
        numbers = array("q")
        numbers.frombytes(raw[: len(raw) - len(raw) % _MARK.size])
        if sys.byteorder == "big":
            numbers.byteswap()
        return cls(numbers[::2], numbers[1::2])

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def end(self) -> int:
        """The offset up to which bytes are marked."""
        return self.offsets[-1] if self.offsets else 0

    def offset_before(self, time_ms: int) -> int:
        """Return up to which offset bytes came before this time."""
        first = bisect_left(self.times_ms, time_ms)
        return self.offsets[first - 1] if first else 0

    def between(self, start: int, end: int) -> Self:
        """Return the marks behind `start` and before `end`."""
        first, last = bisect_right(self.offsets, start), bisect_left(self.offsets, end)
        return type(self)(self.offsets[first:last], self.times_ms[first:last])

    def time_of(self, end: int) -> int | None:
        """Return when the bytes up to `end` were there, or None if that is not marked."""
        first = bisect_left(self.offsets, end)
        return self.times_ms[first] if first < len(self.offsets) else None

    def thinned(self, cut: Cut | None, count_max: int) -> bytes:
        """Return the contents of a file with so many marks at most, the last one among them, and none of the cut."""
        pairs = [
            pair
            for pair in zip(self.offsets, self.times_ms, strict=True)
            if cut is None or not cut.start < pair[0] < cut.end
        ]
        while len(pairs) > count_max:
            pairs = pairs[(len(pairs) + 1) % 2 :: 2]
        return b"".join(_MARK.pack(*pair) for pair in pairs)


def read_marks(path: Path) -> Marks:
    """Return what a file marks; nothing without the file."""
    try:
        return Marks.parse(path.read_bytes())
    except FileNotFoundError:
        return Marks.parse(b"")


def add_marks(path: Path, marks: Iterable[tuple[int, int]]) -> int:
    """Add those marks that lie behind what is marked already; return how many bytes the file has then.

    A clock that was set back does not make later bytes older than earlier ones.
    """
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        whole = size - size % _MARK.size
        if whole != size:
            file.truncate(whole)
        last_offset, last_time_ms = 0, 0
        if whole:
            file.seek(whole - _MARK.size)
            last_offset, last_time_ms = _MARK.unpack(file.read(_MARK.size))
        fresh = bytearray()
        for offset, time_ms in marks:
            if offset > last_offset:
                last_offset, last_time_ms = offset, max(time_ms, last_time_ms)
                fresh += _MARK.pack(last_offset, last_time_ms)
        if fresh:
            file.write(fresh)
        return whole + len(fresh)


def thin_marks(path: Path, cut: Cut | None) -> None:
    """Make a file of marks at most half as long as it may become."""
    replace(path, read_marks(path).thinned(cut, MARKS_BYTES_MAX // _MARK.size // 2))


def replace(path: Path, content: bytes) -> None:
    """Write a file that is there whole, or as it was before, whatever happens."""
    fresh = path.with_suffix(".new")
    with open(fresh, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
