"""The flag --monitoring-port of services that have no HTTP side of their own."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from batchyard.rpc import hosts

if TYPE_CHECKING:
    from batchyard.rpc.server import Service


@asynccontextmanager
async def monitored(services: "Sequence[Service]", host: str, port: int | None) -> AsyncIterator[str]:
    """Serve /healthz, /readyz and /metrics if a port is given; yield what the ready line says of it."""
    if port is None:
        yield ""
        return
    # Takes a while to load, and the agent of `up` does without.
    from batchyard.rpc.monitoring import serve_monitoring

    async with serve_monitoring(services, host=host, port=port) as bound:
        yield f" http://{hosts.authority(host, bound)}"
