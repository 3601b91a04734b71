"""Takes the connections of an HTTP server: so many at a time, with room for those that ask something."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Final

import anyio

from batchyard.rpc.http_protocol import LimitedProtocol, answer_bytes

CONNECTIONS_MAX: Final = 2048
"""How many connections a server has at a time, unless its process may have fewer than twice as many files open."""
HANDSHAKE_DEADLINE_S: Final = 10.0
SWEEP_INTERVAL_S: Final = 1.0
_RETRY_S: Final = 0.1
_ACCEPTS_A_TURN: Final = 64

_FULL: Final = answer_bytes(
    503, "ServiceUnavailableException", "The server has as many connections as it takes. Try again in a moment."
)

_log = logging.getLogger(__name__)


class Entrance:
    """Accepts connections until it is closed.

    When there are too many, that one goes whose client has owed something for the longest: the next request or the rest
    of one. So who opens connections and sends nothing, or next to nothing, keeps nobody out. Where all are being
    answered, a new one is told to try again.
    """

    def __init__(self, listener: socket.socket, *, tls: ssl.SSLContext | None, count_max: int) -> None:
        self._listener = listener
        self._tls = tls
        self._count_max = count_max
        self._shaking_hands: Final = set[asyncio.Task[None]]()
        self._was_full = False
        self._closed = anyio.Event()

    def close(self) -> None:
        """Take no more connections; those that there are go on."""
        self._closed.set()
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    async def wait_closed(self) -> None:
        """Return: `run` is what has to be waited for."""

    async def run(self, make_protocol: Callable[[], LimitedProtocol], connections: Collection[LimitedProtocol]) -> None:
        """Accept until closed. `connections` are those made with `make_protocol` that are open."""
        self._listener.setblocking(False)
        loop = asyncio.get_running_loop()

        def welcome(connection: socket.socket) -> None:
            # Not in a task group of anyio's, which takes as long for it as the connection itself does.
            task = loop.create_task(self._welcome(connection, make_protocol))
            self._shaking_hands.add(task)
            task.add_done_callback(partial(self._welcomed, connection))

        self._listen(lambda: self._accept(welcome, connections))
        try:
            await self._closed.wait()
        finally:
            self.close()
            for task in self._shaking_hands:
                task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.gather(*self._shaking_hands, return_exceptions=True)

    def _listen(self, accept: Callable[[], bool]) -> None:
        """Accept whenever somebody comes; pause for a moment after a failure."""
        loop = asyncio.get_running_loop()

        def on_readable() -> None:
            if not accept():
                loop.remove_reader(self._listener)
                loop.call_later(_RETRY_S, self._listen, accept)

        if not self._closed.is_set():
            loop.add_reader(self._listener, on_readable)

    def _accept(self, welcome: Callable[[socket.socket], None], connections: Collection[LimitedProtocol]) -> bool:
        """Accept those who have come; return False if that fails, for want of files."""
        for _ in range(_ACCEPTS_A_TURN):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                _log.warning("cannot accept a connection: %s", error)
                return False
            connection.setblocking(False)
            if self._has_room(connections):
                welcome(connection)
            else:
                self._turn_away(connection)
        return True

    def _has_room(self, connections: Collection[LimitedProtocol]) -> bool:
        """Tell whether there is room for one more connection, and make some if need be."""
        is_full = len(connections) + len(self._shaking_hands) >= self._count_max
        if is_full and not self._was_full:
            _log.warning("%d connections are open, and no more are taken", self._count_max)
        self._was_full = is_full
        if not is_full:
            return True
        waiting = [each for each in connections if each.waiting_since is not None and not each.transport.is_closing()]
        if not waiting:
            return False
        min(waiting, key=lambda each: each.waiting_since or 0.0).transport.abort()
        return True

    async def _welcome(self, connection: socket.socket, make_protocol: Callable[[], LimitedProtocol]) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(
            make_protocol,
            connection,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else HANDSHAKE_DEADLINE_S,
        )

    def _welcomed(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        """Close a connection whose client could not shake hands, or had no time for it."""
        self._shaking_hands.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            connection.close()
        if error is not None and not isinstance(error, OSError):
            _log.error("a connection could not be taken", exc_info=error)

    def _turn_away(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self._tls is None:
                connection.send(_FULL)
                connection.shutdown(socket.SHUT_WR)


async def sweep(connections: Collection[LimitedProtocol]) -> None:
    """End connections whose clients are too slow, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await anyio.sleep(SWEEP_INTERVAL_S)
        now = loop.time()
        for connection in list(connections):
            connection.check(now)
