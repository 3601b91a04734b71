"""What a service that has no HTTP side of its own shows to those who watch over it: /healthz, /readyz, /metrics."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from batchyard.rpc.http_server import AsgiApp, Receive, Scope, Send, serve_http
from batchyard.rpc.server import Service

DRAIN_S: Final = 1


@asynccontextmanager
async def serve_monitoring(services: Sequence[Service], *, host: str, port: int) -> AsyncIterator[int]:
    """Serve the three pages for the length of the context; yield the port.

    `/readyz` answers 200 while all services can serve, else 503. Raises OSError when the address cannot be bound.
    """
    async with serve_http(monitoring_app(services), host=host, port=port, drain_s=DRAIN_S) as bound:
        yield bound


def monitoring_app(services: Sequence[Service]) -> AsgiApp:
    """Return the application of these services."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        status, content_type, body = _answer(scope["path"], services)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return app


def _answer(path: str, services: Sequence[Service]) -> tuple[int, str, bytes]:
    match path:
        case "/healthz":
            return 200, "application/json", b'{"status": "alive"}'
        case "/readyz":
            states = {service.descriptor.full_name: service.health.is_serving for service in services}
            is_ready = all(states.values())
            named = {name: "SERVING" if serving else "NOT_SERVING" for name, serving in sorted(states.items())}
            body = {"status": "ready" if is_ready else "not ready", "services": named}
            return 200 if is_ready else 503, "application/json", json.dumps(body).encode()
        case "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest()
        case _:
            return 404, "text/plain; charset=utf-8", b"There are /healthz, /readyz and /metrics.\n"
