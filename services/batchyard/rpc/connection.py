"""Channels to the services of other processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc.aio

from batchyard.rpc.channel import MESSAGE_BYTES_MAX
from batchyard.rpc.tls import Tls

KEEPALIVE_INTERVAL_S: Final = 10
"""How often an idle connection is probed; servers allow twice as much."""
KEEPALIVE_TIMEOUT_S: Final = 10
"""How long the answer to a probe may take before the connection counts as lost."""

_LOCAL_SOCKET: Final = "unix:"
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own backoff grows to two minutes: a service that is back must not wait that long to be noticed.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Services reach each other directly, whatever proxy the environment has for the web.
    ("grpc.enable_http_proxy", 0),
)


@asynccontextmanager
async def open_channel(target: str, tls: Tls | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel to `host:port` for the length of the context; it connects, and connects again, by itself.

    With TLS both sides show their certificates, unless the target is a socket of this machine (`unix:/path`).
    """
    async with (
        grpc.aio.insecure_channel(target, options=_OPTIONS)
        if tls is None or target.startswith(_LOCAL_SOCKET)
        else grpc.aio.secure_channel(target, tls.channel_credentials(), options=_OPTIONS)
    ) as channel:
        yield channel
