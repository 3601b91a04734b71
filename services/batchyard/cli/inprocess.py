"""The services of one process, on one in-process server, each with its health."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from batchyard.rpc.channel import InProcessChannel, InProcessServer
from batchyard.rpc.server import Service, default_interceptors

DRAIN_S: Final = 1.0
"""How long calls in progress may take when the server stops. Whoever calls has stopped before."""


class Assembly:
    """Opens services one after the other; all of them call each other through one channel.

    A service may be opened before the ones that it talks to: what it asks of those fails with UNAVAILABLE or waits, as
    it would across processes.
    """

    def __init__(self, server: InProcessServer, channel: grpc.aio.Channel, opened: AsyncExitStack) -> None:
        self.channel = channel
        self._server = server
        self._opened = opened

    async def open(self, opening: AbstractAsyncContextManager[Sequence[Service]]) -> Sequence[Service]:
        """Open services and serve them until the assembly ends: the last one opened is the first one closed."""
        services = await self._opened.enter_async_context(opening)
        for service in services:
            service.register(self._server)
        return services


@asynccontextmanager
async def assembly() -> AsyncIterator[Assembly]:
    """Serve within this process for the length of the context."""
    server = InProcessServer(default_interceptors())
    healthiness = health.aio.HealthServicer()
    await healthiness.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthiness, server)
    await server.start()
    try:
        async with InProcessChannel(server) as channel, AsyncExitStack() as opened:
            yield Assembly(server, channel, opened)
    finally:
        await server.stop(DRAIN_S)
