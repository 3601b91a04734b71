"""Cutting a log that has grown too long: the bytes in its middle go, and their disk space with them.

Whoever writes the log does not notice: it goes on behind, at the same offsets. What is gone reads as zeros, and a small
file beside the log says where that is. It is written before anything goes, so a reader who looks at it after reading
knows whether what it has read is true.
"""

import ctypes
import errno
import os
import shutil
import struct
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Self

_CUT: Final = struct.Struct("<qq")
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
_LINE_SEARCH_BYTES: Final = 64 * 1024
"""How far a cut is moved to meet the end of a line."""
_COPY_BYTES: Final = 1024 * 1024
_NO_HOLES: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})


class NoHolesError(OSError):
    """A file system that cannot give up a part of a file."""


class Cut(NamedTuple):
    """Which bytes of a log are gone: from `start` up to `end`."""

    start: int
    end: int

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what a file says is gone; None without the file, or if nothing is."""
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        return cls(*_CUT.unpack(raw)) if len(raw) == _CUT.size else None

    def write(self, path: Path, *, durable: bool = False) -> None:
        """Say what is gone; `durable` brings that to the disk."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            # In one write, so that nobody reads half of it.
            os.pwrite(fd, _CUT.pack(*self), 0)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)


def punch(path: Path, start: int, end: int) -> None:
    """Give up the disk space of some bytes of a file, which then read as zeros.

    Raises NoHolesError where the file system cannot do that, and any other OSError.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        mode = _KEEP_SIZE | _PUNCH_HOLE
        if end > start and _libc().fallocate64(fd, mode, ctypes.c_int64(start), ctypes.c_int64(end - start)):
            number = ctypes.get_errno()
            kind = NoHolesError if number in _NO_HOLES else OSError
            raise kind(number, os.strerror(number), str(path))
    finally:
        os.close(fd)


def copy_without(path: Path, cut: Cut, fresh: Path) -> None:
    """Free the disk space of some bytes of a file by putting a copy in its place, made beside it under another name."""
    with path.open("rb") as old, fresh.open("wb") as new:
        os.chmod(fresh, os.fstat(old.fileno()).st_mode)
        size = os.fstat(old.fileno()).st_size
        for start, end in ((0, cut.start), (cut.end, size)):
            old.seek(start)
            new.seek(start)
            _copy(old, new, end - start)
        new.truncate(size)
        new.flush()
        os.fsync(new.fileno())
    shutil.copystat(path, fresh)
    fresh.replace(path)


def _copy(old: BinaryIO, new: BinaryIO, count: int) -> None:
    while count > 0 and (data := old.read(min(count, _COPY_BYTES))):
        new.write(data)
        count -= len(data)


def middle_of(path: Path, size: int, bytes_max: int, before: Cut | None) -> Cut | None:
    """Return what has to go of a log of that size so that it fits, beside what is gone; None if it fits.

    It begins and ends with lines, save where these are very long. Of `bytes_max` the first half stays, or less if some
    of that is gone already, and the last quarter at least.
    """
    if size - (0 if before is None else before.end - before.start) <= bytes_max:
        return None
    start, end = bytes_max // 2, size - bytes_max // 4
    with path.open("rb") as file:
        if before is None or before.start > start:
            start -= len(_after_newline(_read(file, max(start - _LINE_SEARCH_BYTES, 0), start)))
        else:
            start = before.start
        if before is None or before.end < end:
            end += len(_until_newline(_read(file, end, min(end + _LINE_SEARCH_BYTES, size))))
        else:
            end = before.end
    return Cut(start, end)


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    return os.pread(file.fileno(), end - start, start)


def _after_newline(data: bytes) -> bytes:
    """Return what follows the last newline; nothing without one."""
    return data[data.rfind(b"\n") + 1 :] if b"\n" in data else b""


def _until_newline(data: bytes) -> bytes:
    """Return what comes up to the first newline, it included; nothing without one."""
    return data[: data.find(b"\n") + 1]


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
