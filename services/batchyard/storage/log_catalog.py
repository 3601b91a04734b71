"""Which logs a folder holds: what its entries say, without a look into the logs themselves."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batchyard.domain.names import LOG_GROUP

OWNER_WRITE: Final = 0o200
_CLOCK_SLACK_MS: Final = 2000
"""The clock that stamps files is coarse, and may have been set back a little since."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A log, as its folder shows it."""

    stream: str
    group: str
    size: int
    """Bytes."""
    written_ms: int
    """When it was last written to; milliseconds since the epoch."""
    is_finished: bool

    def may_hold(self, from_ms: int) -> bool:
        """Tell whether there may be events from a time on (milliseconds since the epoch)."""
        return self.written_ms + _CLOCK_SLACK_MS >= from_ms


def log_entries(root: Path, prefix: str) -> Iterator[LogEntry]:
    """Yield the logs of a namespace's folder whose names begin with a prefix, in no order.

    What comes or goes meanwhile may be yielded or not.
    """
    folders = [""]
    while folders:
        parent = folders.pop()
        logs: list[os.DirEntry[str]] = []
        grouped: set[str] = set()
        with suppress(FileNotFoundError), os.scandir(root / parent) as entries:
            for entry in entries:
                name = f"{parent}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if f"{name}/".startswith(prefix) or prefix.startswith(f"{name}/"):
                        folders.append(f"{name}/")
                elif not name.startswith(prefix):
                    continue
                elif name.endswith(".log"):
                    logs.append(entry)
                elif name.endswith(".group"):
                    grouped.add(entry.name.removesuffix(".group"))
        for entry in logs:
            # One that goes just now is left out.
            with suppress(FileNotFoundError):
                bare = entry.name.removesuffix(".log")
                group = read_group(Path(entry.path).with_suffix(".group")) if bare in grouped else LOG_GROUP
                yield entry_of(f"{parent}{bare}", group, entry.stat(follow_symlinks=False))


def entry_of(stream: str, group: str, status: os.stat_result) -> LogEntry:
    """Return what the state of a log's file says."""
    is_finished = not stat.S_IMODE(status.st_mode) & OWNER_WRITE
    return LogEntry(stream, group, status.st_size, status.st_mtime_ns // 1_000_000, is_finished)


def read_group(path: Path) -> str:
    """Return the group that a file names; the default without one."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return LOG_GROUP
