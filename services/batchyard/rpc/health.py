"""The standard health service, told by the services themselves whether they can serve."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Whether something can serve now. Whoever knows sets it; servers show it."""

    def __init__(self) -> None:
        self._is_serving = True
        self._shown_by: list[HealthServicer] = []

    @property
    def is_serving(self) -> bool:
        """Whether it can serve; true until said otherwise."""
        return self._is_serving

    @is_serving.setter
    def is_serving(self, value: bool) -> None:
        if value != self._is_serving:
            self._is_serving = value
            for servicer in self._shown_by:
                servicer.notify()

    def shown_by(self, servicer: "HealthServicer") -> None:
        """Have changes shown to those who watch this servicer."""
        self._shown_by.append(servicer)


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it comes untyped
    """Knows each service by name, and as "" whether all of them can serve."""

    def __init__(self) -> None:
        self._services: dict[str, Health] = {}
        self._is_stopping = False
        self._changed = asyncio.Event()

    def add(self, name: str, health: Health) -> None:
        """Show the health of one more service."""
        self._services[name] = health
        health.shown_by(self)
        self.notify()

    def stop(self) -> None:
        """Show for good that nothing is served any more."""
        self._is_stopping = True
        self.notify()

    def notify(self) -> None:
        """Have watchers look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802  # the name of the RPC, as below
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Tell how a service is now; NOT_FOUND if there is none of this name."""
        status = self._status_of(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Tell how a service is now, and again whenever that changes."""
        told = None
        while True:
            changed = self._changed
            status = self._status_of(request.service)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            await changed.wait()

    def _status_of(self, name: str) -> int:
        if name and name not in self._services:
            return int(_UNKNOWN)
        asked = [self._services[name]] if name else self._services.values()
        is_serving = not self._is_stopping and all(health.is_serving for health in asked)
        return int(_SERVING if is_serving else _NOT_SERVING)
