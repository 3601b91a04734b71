"""Waking those who follow a log when something comes for it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final
from weakref import WeakValueDictionary

RECONNECT_S: Final = 15.0
"""How long agents may need to connect, after this process has started or a connection broke."""

LogName = tuple[str, str]
"""Namespace and log stream name."""


class Arrivals:
    """Events that happen when a log grows by what this process writes."""

    def __init__(self) -> None:
        self._awaited: Final[WeakValueDictionary[LogName, asyncio.Event]] = WeakValueDictionary()
        self._shippers = 0
        self._alone_since = monotonic()

    @property
    def expected(self) -> bool:
        """Whether a log that is not here may be on its way: an agent is connected, or may be about to connect again."""
        return self._shippers > 0 or monotonic() - self._alone_since < RECONNECT_S

    @contextmanager
    def shipping(self) -> Iterator[None]:
        """Count an agent as connected for the length of the context."""
        self._shippers += 1
        try:
            yield
        finally:
            self._shippers -= 1
            self._alone_since = monotonic()

    def next(self, name: LogName) -> asyncio.Event:
        """Return what will be set when something comes for a log from now on."""
        event = self._awaited.get(name)
        if event is None or event.is_set():
            event = self._awaited[name] = asyncio.Event()
        return event

    def announce(self, name: LogName) -> None:
        """Say that something has come for a log."""
        event = self._awaited.get(name)
        if event is not None:
            event.set()
