"""Writes of SQLite that fail in this very process, from a chosen one on.

A tracer that stops a process at each of its system calls costs a hundred times what the calls do. SQLite lets tests put
functions of their own in their place.
"""

import ctypes
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

_NAMES: Final = (b"pwrite", b"pwrite64")
"""What SQLite calls it: which one it uses is a matter of how it was built, and so it is of which is there."""

_POINTER: Final = ctypes.c_void_p
_PWRITE: Final = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, _POINTER, ctypes.c_size_t, ctypes.c_int64, use_errno=True
)
_GET: Final = ctypes.CFUNCTYPE(_POINTER, _POINTER, ctypes.c_char_p)
_SET: Final = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_char_p, _POINTER)


class _Vfs(ctypes.Structure):
    """The beginning of `struct sqlite3_vfs`, in its third version."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("iVersion", "szOsFile", "mxPathname")),
        *((name, _POINTER) for name in ("pNext", "zName", "pAppData", "xOpen", "xDelete", "xAccess", "xFullPathname")),
        *((name, _POINTER) for name in ("xDlOpen", "xDlError", "xDlSym", "xDlClose", "xRandomness", "xSleep")),
        *((name, _POINTER) for name in ("xCurrentTime", "xGetLastError", "xCurrentTimeInt64")),
        ("xSetSystemCall", _SET),
        ("xGetSystemCall", _GET),
    )


def _find_vfs() -> Any:
    """Return SQLite's way to the system, or None if the one that Python uses cannot be reached."""
    try:
        library = ctypes.CDLL("libsqlite3.so.0")
        library.sqlite3_libversion.restype = ctypes.c_char_p
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        vfs = library.sqlite3_vfs_find(None)
    except (OSError, AttributeError):
        return None
    is_ours = library.sqlite3_libversion().decode() == sqlite3.sqlite_version
    return vfs if is_ours and vfs and vfs.contents.iVersion >= 3 else None


NEEDS_SQLITE_LIBRARY: Final = pytest.mark.skipif(_find_vfs() is None, reason="needs a Python that uses libsqlite3.so.0")


@contextmanager
def failing_writes(first: int, error: int, *, times_max: int) -> Iterator[Callable[[], bool]]:
    """Let writes of SQLite fail with an errno, from the `first` one on (counted from 1), in all threads.

    Yields what makes the disk well again, and returns whether any write has failed. After `times_max` failures the disk
    becomes well by itself.
    """
    vfs = _find_vfs()
    get, set_ = vfs.contents.xGetSystemCall, vfs.contents.xSetSystemCall
    places = {name: _PWRITE(original) for name in _NAMES if (original := get(vfs, name))}
    assert places, "this SQLite writes in another way"
    made, is_well = 0, False

    def call_of(original: Any) -> Any:
        def write(descriptor: int, data: int, size: int, offset: int) -> int:
            nonlocal made
            made += not is_well
            if is_well or not first <= made < first + times_max:
                return int(original(descriptor, data, size, offset))
            ctypes.set_errno(error)
            return -1

        return _PWRITE(write)

    def heal() -> bool:
        nonlocal is_well
        is_well = True
        return made >= first

    calls = {name: call_of(original) for name, original in places.items()}
    for name, call in calls.items():
        set_(vfs, name, ctypes.cast(call, _POINTER))
    try:
        yield heal
    finally:
        for name, original in places.items():
            set_(vfs, name, ctypes.cast(original, _POINTER))
