"""Serialized messages on their way from one side of a call to the other."""

import asyncio
from collections import deque
from typing import Final

WINDOW_BYTES: Final = 64 * 1024
"""How much a pipe holds before it makes its writer wait; the size of HTTP/2's first window."""
_MESSAGE_OVERHEAD_BYTES: Final = 64


class MessagePipe:
    """A queue of messages that holds its writer back when its reader is slow."""

    __slots__ = ("_closed", "_held", "_messages", "_readable", "_writable")

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._held = 0
        self._closed = False
        self._readable: asyncio.Event | None = None
        self._writable: asyncio.Event | None = None

    def put(self, message: bytes) -> None:
        """Add a message without waiting for room; a closed pipe drops it."""
        if self._closed:
            return
        self._messages.append(message)
        self._held += len(message) + _MESSAGE_OVERHEAD_BYTES
        _wake(self._readable)

    async def write(self, message: bytes) -> None:
        """Add a message as soon as there is room; a closed pipe drops it."""
        while self._held >= WINDOW_BYTES and not self._closed:
            if self._writable is None:
                self._writable = asyncio.Event()
            self._writable.clear()
            await self._writable.wait()
        self.put(message)

    async def read(self) -> bytes | None:
        """Take the next message as soon as there is one; None at the end."""
        while not self._messages:
            if self._closed:
                return None
            if self._readable is None:
                self._readable = asyncio.Event()
            self._readable.clear()
            await self._readable.wait()
        return self.take()

    def take(self) -> bytes | None:
        """Take the next message if there is one."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._held -= len(message) + _MESSAGE_OVERHEAD_BYTES
        _wake(self._writable)
        return message

    def close(self) -> None:
        """Let no more messages in. Those that are on their way can still be read."""
        self._closed = True
        _wake(self._readable)
        _wake(self._writable)

    def discard(self) -> None:
        """Close the pipe and drop what is on its way."""
        self._messages.clear()
        self._held = 0
        self.close()


def _wake(event: asyncio.Event | None) -> None:
    if event is not None:
        event.set()
