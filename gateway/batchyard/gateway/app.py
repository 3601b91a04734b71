"""A gateway, put together: the HTTP side and the public gRPC port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from batchyard.gateway.config import GatewayConfig
from batchyard.gateway.front import public_services
from batchyard.gateway.http_app import HttpApp
from batchyard.gateway.submissions import open_submissions
from batchyard.gateway.upstreams import Upstreams
from batchyard.rpc import hosts
from batchyard.rpc.http_server import serve_http
from batchyard.rpc.server import ServerOptions, serve_grpc

DRAIN_S: Final = 2
"""How long each side waits at the end for requests in flight."""
GRPC_CONNECTIONS_MAX: Final = 2048
GRPC_STREAMS_MAX: Final = 1000
"""Calls at a time on one connection."""
GRPC_CALLS_MAX: Final = 4096
"""Calls at a time. With those that come by HTTP they must be fewer than a service takes on one connection."""


@dataclass(frozen=True, slots=True)
class GatewayAddresses:
    """Where a gateway listens."""

    http: str
    """Such as `http://127.0.0.1:8080`."""
    grpc: str
    """Such as `grpc://127.0.0.1:8081`."""


@asynccontextmanager
async def open_gateway(*, config: GatewayConfig, upstreams: Upstreams) -> AsyncIterator[GatewayAddresses]:
    """Serve HTTP and the public gRPC services for the length of the context.

    The channels stay the caller's. Raises OSError when an address cannot be bound.
    """
    options = ServerOptions(
        drain_s=DRAIN_S,
        reuse_port=config.reuse_port,
        connections_max=GRPC_CONNECTIONS_MAX,
        streams_max=GRPC_STREAMS_MAX,
        calls_max=GRPC_CALLS_MAX,
    )
    async with open_submissions(upstreams.jobs, deadline_s=config.deadline_s) as submit:
        app = HttpApp(config, upstreams, submit)
        services = public_services(config, upstreams, submit)
        async with (
            serve_grpc(
                services, address=hosts.authority(config.host, config.grpc_port), options=options, tls=config.tls
            ) as grpc_port,
            serve_http(
                app,
                host=config.host,
                port=config.port,
                drain_s=DRAIN_S,
                reuse_port=config.reuse_port,
                tls=None if config.tls is None else config.tls.https_context(),
            ) as http_port,
        ):
            try:
                yield GatewayAddresses(
                    http=f"{'http' if config.tls is None else 'https'}://{hosts.authority(config.host, http_port)}",
                    grpc=f"grpc://{hosts.authority(config.host, grpc_port)}",
                )
            finally:
                app.close()
