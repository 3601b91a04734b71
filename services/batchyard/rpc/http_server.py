"""uvicorn inside a task group of ours: no signal handlers, no set-up of logging, no exit of the process."""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias, cast

import anyio
import uvicorn
from anyio.abc import TaskStatus

from batchyard.rpc import http_entrance
from batchyard.rpc.connections import connections_within
from batchyard.rpc.hosts import authority
from batchyard.rpc.http_entrance import Entrance, sweep
from batchyard.rpc.http_protocol import KEPT_OPEN_S, LimitedProtocol

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

BACKLOG: Final = 2048


@asynccontextmanager
async def serve_http(
    app: AsgiApp,
    *,
    host: str,
    port: int,
    drain_s: int,
    reuse_port: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve an application on a TCP address for the length of the context, by HTTPS if told how; yield the port.

    On leaving, no new connection is taken, and requests in flight have `drain_s` seconds to finish; then they are
    cancelled. Raises OSError when the address cannot be bound.
    """
    listener = await _listen(host, port, reuse_port=reuse_port)
    server = _Server(app, drain_s)
    entrance = Entrance(listener, tls=tls, count_max=connections_within(http_entrance.CONNECTIONS_MAX))
    server.servers = [entrance]  # type: ignore[list-item]  # of whom it wants what an entrance has
    async with anyio.create_task_group() as tasks:
        await tasks.start(_run, server, entrance)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True


class _Server(uvicorn.Server):
    """A uvicorn that leaves signals to the process and connections to an entrance, and says when it serves."""

    def __init__(self, app: AsgiApp, drain_s: int) -> None:
        config = uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=drain_s,
            timeout_keep_alive=KEPT_OPEN_S,
        )
        super().__init__(config)
        self.when_serving: Callable[[], None] = lambda: None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers as they are."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that connections may come."""
        self.started = True
        self.when_serving()

    def protocol(self) -> LimitedProtocol:
        """Return what serves a new connection."""
        return LimitedProtocol(self.config, self.server_state, self.lifespan.state)

    @property
    def connections(self) -> Collection[LimitedProtocol]:
        """What serves the connections that there are."""
        return cast("set[LimitedProtocol]", self.server_state.connections)


async def _run(server: _Server, entrance: Entrance, *, task_status: TaskStatus[None]) -> None:
    # It ends when it is told to, within its drain time, and not by a cancellation that would leave sockets behind.
    with anyio.CancelScope(shield=True):
        async with anyio.create_task_group() as tasks:

            def when_serving() -> None:
                tasks.start_soon(entrance.run, server.protocol, server.connections)
                tasks.start_soon(sweep, server.connections)
                task_status.started()

            server.when_serving = when_serving
            await server.serve()
            tasks.cancel_scope.cancel()


async def _listen(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # `localhost` has addresses of both families; all clients try the older one.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    try:
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=reuse_port)
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen on {authority(host, port)}: {problem}") from error
