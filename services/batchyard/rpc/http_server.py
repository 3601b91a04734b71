"""uvicorn inside a task group of ours: no signal handlers, no set-up of logging, no exit of the process."""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

import anyio
import uvicorn
from anyio.abc import TaskStatus

from batchyard.rpc.hosts import authority
from batchyard.rpc.http_protocol import LimitedProtocol

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
    server = _Server(app, drain_s, tls)
    async with anyio.create_task_group() as tasks:
        await tasks.start(_run, server, listener)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True


class _Server(uvicorn.Server):
    """A uvicorn that leaves signals to the process and says when it serves."""

    def __init__(self, app: AsgiApp, drain_s: int, tls: ssl.SSLContext | None) -> None:
        config = uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=drain_s,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        super().__init__(config)
        self.when_serving: Callable[[], None] = lambda: None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers as they are."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve, and say so."""
        await super().startup(sockets)
        self.when_serving()


async def _run(server: _Server, listener: socket.socket, *, task_status: TaskStatus[None]) -> None:
    server.when_serving = task_status.started
    # It ends when it is told to, within its drain time, and not by a cancellation that would leave sockets behind.
    with listener, anyio.CancelScope(shield=True):
        await server.serve([listener])


async def _listen(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # `localhost` has addresses of both families; all clients try the older one.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    try:
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=reuse_port)
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen on {authority(host, port)}: {problem}") from error
