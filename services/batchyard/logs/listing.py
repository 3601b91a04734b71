"""Listings of log groups and log streams, page by page."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from typing import Final

from batchyard.domain.names import LOG_GROUP
from batchyard.storage.log_catalog import LogEntry
from batchyard.storage.log_files import LogFolder

LISTED_MAX: Final = 50
"""The most entries of a page."""


@dataclass(slots=True)
class Group:
    """A log group, as its streams make it."""

    name: str
    created_ms: int | None = None
    """When the oldest of its streams was last written to; milliseconds since the epoch; None without streams."""
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stream:
    """A log stream. Times are milliseconds since the epoch."""

    name: str
    created_ms: int
    first_ms: int | None
    """None without events."""
    last_ms: int | None


def groups_of(folder: LogFolder, namespace: str) -> list[Group]:
    """Return all groups of a namespace by name; the usual one exists before its first stream."""
    found = {LOG_GROUP: Group(LOG_GROUP)}
    for entry in folder.entries(namespace):
        group = found.setdefault(entry.group, Group(entry.group))
        group.stored_bytes += entry.size
        if group.created_ms is None or entry.written_ms < group.created_ms:
            group.created_ms = entry.written_ms
    return [found[name] for name in sorted(found)]


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """Which streams come first."""

    by_time: bool = False
    """By the time of the last event, not by name."""
    descending: bool = False

    def key(self, entry: LogEntry) -> tuple[int, str]:
        """Return an entry's position in the order."""
        return (entry.written_ms if self.by_time else 0, entry.stream)

    def page(
        self, entries: Iterable[LogEntry], after: tuple[int, str] | None, limit: int
    ) -> tuple[list[LogEntry], bool]:
        """Return the entries that come after a position, and whether there are more of them."""
        rest = (entry for entry in entries if after is None or self._is_after(self.key(entry), after))
        take = nlargest if self.descending else nsmallest
        found = take(limit + 1, rest, key=self.key)
        return found[:limit], len(found) > limit

    def _is_after(self, key: tuple[int, str], position: tuple[int, str]) -> bool:
        return key < position if self.descending else key > position


def with_times(folder: LogFolder, namespace: str, entries: Iterable[LogEntry]) -> Iterator[Stream]:
    """Yield the streams of entries; one that has gone meanwhile is left out."""
    for entry in entries:
        with suppress(FileNotFoundError), folder.open(namespace, entry.stream) as log:
            first_ms, last_ms = (log.first_ms, log.time_of(log.end)) if log.end else (None, None)
            created_ms = entry.written_ms if first_ms is None else first_ms
            yield Stream(entry.stream, created_ms, first_ms, last_ms)
