"""Cutting a log that has grown too long: the bytes in its middle go, and their disk space with them.

Whoever writes the log does not notice: it goes on behind, at the same offsets. What is gone reads as zeros, and a small
file beside the log says where that is. It is written before anything goes, so a reader who looks at it after reading
knows whether what it has read is true.
"""

import ctypes
import errno
import os
import struct
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

_CUT: Final = struct.Struct("<qq")
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
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

    def write(self, path: Path) -> None:
        """Say what is gone."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            # In one write, so that nobody reads half of it.
            os.pwrite(fd, _CUT.pack(*self), 0)
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


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
