"""The folders that runs work in: empty at a run's start, gone or empty after it.

A folder that a run left as it found it serves the next one: to make and remove one takes a third as long as to start
a process.
"""

import os
import stat
import time
from contextlib import suppress

_MODE = 0o700
_SETTLED_NS = 3_000_000_000
"""After so long any change of a folder gives it another time, however coarse the file system's times are."""


class WorkFolders:
    """Working folders under one parent, which is emptied first."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._made = 0
        self._free: list[str] = []
        self._empty_since: dict[str, int] = {}
        """Times of the last change, of folders that were found empty long enough after it."""
        self.removers: set[int] = set()
        """Process ids of `rm`s that are at work."""
        os.makedirs(parent, _MODE, exist_ok=True)
        self._generation = self._remove_old()

    def take(self, user: tuple[int, int, bool] | None) -> str:
        """Return an empty folder, owned by the user if one is given."""
        if user is None and self._free:
            return self._free.pop()
        folder = f"{self._parent}/{self._generation}-{self._made}"
        self._made += 1
        os.mkdir(folder, _MODE)
        if user is not None:
            os.chown(folder, user[0], user[1])
        return folder

    def give_back(self, folder: str) -> None:
        """Take back a folder in which no process works any more."""
        try:
            if self._is_untouched(folder):
                self._free.append(folder)
                return
            self._empty_since.pop(folder, None)
            os.rmdir(folder)
        except FileNotFoundError:
            pass
        except OSError:
            # Not empty: removing takes as long as a job likes to make it, so not in this process.
            self._remove([folder])

    def reaped(self, pid: int) -> None:
        """Note that a child has ended, whoever it was."""
        self.removers.discard(pid)

    def _is_untouched(self, folder: str) -> bool:
        seen = os.lstat(folder)
        if seen.st_ctime_ns == self._empty_since.get(folder):
            return True
        is_ours = stat.S_ISDIR(seen.st_mode) and stat.S_IMODE(seen.st_mode) == _MODE and seen.st_uid == os.geteuid()
        if not is_ours or os.listdir(folder):
            return False
        if time.time_ns() - seen.st_ctime_ns > _SETTLED_NS:
            self._empty_since[folder] = seen.st_ctime_ns
        return True

    def _remove_old(self) -> int:
        names = os.listdir(self._parent)
        if names:
            self._remove([f"{self._parent}/{name}" for name in names])
        return 1 + max((int(name.split("-")[0]) for name in names), default=0)

    def _remove(self, folders: list[str]) -> None:
        # A host that has no room for one more process may have some later: the next launcher removes what is left.
        with suppress(OSError):
            self.removers.add(os.posix_spawnp("rm", ["rm", "-rf", "--", *folders], os.environ))
