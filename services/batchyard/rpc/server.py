"""Servers that are put together alike in every process: interceptors, health, reflection, an orderly stop."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

import anyio
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE_NAME
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from batchyard.rpc.admission import Admission
from batchyard.rpc.channel import MESSAGE_BYTES_MAX, InProcessChannel, InProcessServer
from batchyard.rpc.connections import connections_within
from batchyard.rpc.draining import Draining
from batchyard.rpc.errors import ErrorMapping
from batchyard.rpc.health import Health, HealthServicer
from batchyard.rpc.interception import CallInterceptor, Layers, WrappedMethods
from batchyard.rpc.metrics import Measuring
from batchyard.rpc.peers import Role
from batchyard.rpc.requests import Requests
from batchyard.rpc.tls import Tls
from batchyard.rpc.validation import RequiredMembers

T = TypeVar("T")

DRAIN_S: Final = 3.0
"""Seconds that a stopping server gives the calls in progress, unless told otherwise."""

_STOP_MARGIN_S: Final = 1.0
"""Seconds that handlers have to end once they are cancelled."""


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service, ready to be registered."""

    descriptor: ServiceDescriptor
    register: Callable[[grpc.aio.Server], None]
    """Adds the service's methods to a server: a call of the generated `add_XServicer_to_server`."""
    health: Health = field(default_factory=Health)
    """What the standard health service says of it; as long as nobody sets it, that it serves."""
    callers: frozenset[Role] = frozenset({Role.SERVICE})
    """Whose certificates may call it, where a server asks for certificates."""

    @classmethod
    def of(
        cls,
        add: Callable[[T, grpc.aio.Server], None],
        servicer: T,
        health: Health | None = None,
        callers: frozenset[Role] = frozenset({Role.SERVICE}),
    ) -> "Service":
        """Return a service from its generated `add_XServicer_to_server` and the servicer that answers."""
        named = _Named()
        add(servicer, cast("grpc.aio.Server", named))
        descriptor = descriptor_pool.Default().FindServiceByName(named.service)
        return cls(descriptor, lambda server: add(servicer, server), health or Health(), callers)


class _Named:
    """Stands in for a server, to be told the name of the one service that is added to it."""

    service: str

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.ServiceRpcHandler]) -> None:
        (self.service,) = [str(handler.service_name()) for handler in handlers]

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing: they are the same methods again."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server serves."""

    drain_s: float = DRAIN_S
    """Seconds that calls with a single response have to finish when the server stops; then they are cancelled."""
    message_bytes_max: int = MESSAGE_BYTES_MAX
    """The largest request received, in bytes; a larger one fails with RESOURCE_EXHAUSTED."""
    reuse_port: bool = False
    """Whether another server may listen on the same port, at the same time."""
    connections_max: int = 10_000
    """Connections at a time, unless the process may have fewer than twice as many files open; others are closed."""
    streams_max: int = 8192
    """Calls at a time on one connection; a client waits with others. A gateway has all its calls on one."""
    calls_max: int = 20_000
    """Calls at a time; others fail with RESOURCE_EXHAUSTED."""
    handshake_deadline_s: float = 20.0
    """How long a new connection may take until it can be used."""
    ping_interval_min_s: float = 5.0
    """Clients that send keepalive pings more often than this are disconnected."""


def default_interceptors() -> list[grpc.aio.ServerInterceptor]:
    """Return the interceptors that every server has, new ones."""
    return [_layers()]


def _layers(*admission: CallInterceptor, draining: Draining | None = None) -> Layers:
    """Return what is around the methods of every server, outermost first.

    Measuring sees what the caller gets; the mapping of errors is inside of it, and around `admission` and the check of
    required members, which raise domain errors.
    """
    outermost = () if draining is None else (draining,)
    return Layers(*outermost, Requests(), Measuring(), ErrorMapping(), *admission, RequiredMembers())


@asynccontextmanager
async def serve_grpc(
    services: Sequence[Service], *, address: str, options: ServerOptions = ServerOptions(), tls: Tls | None = None
) -> AsyncIterator[int]:
    """Serve on a TCP address (`host:port`, port 0 for any free one) for the length of the context; yield the port.

    Beside the services there are the standard health service, which knows each of them by name and all of them as "",
    and reflection. On leaving, the health turns to NOT_SERVING, new calls are refused, open streams end with
    UNAVAILABLE, and other calls have `drain_s` to finish. With TLS only those are served who have a certificate, each
    by the services that it is for. Raises OSError when the address cannot be bound.
    """
    draining = Draining()
    callers = {service.descriptor.full_name: service.callers for service in services}
    methods = WrappedMethods(_layers(*(() if tls is None else (Admission(callers),)), draining=draining))
    registry = cast("grpc.aio.Server", methods)
    for service in services:
        service.register(registry)
    names = [service.descriptor.full_name for service in services]
    health = _add_health(registry, services)
    described = reflection.aio.ReflectionServicer((*names, HEALTH_SERVICE_NAME, reflection.SERVICE_NAME))
    add_ServerReflectionServicer_to_server(described, registry)
    server = grpc.aio.server(
        handlers=(methods,), options=_channel_arguments(options), maximum_concurrent_rpcs=options.calls_max
    )
    port = _bind(server, address, tls)
    await server.start()
    try:
        yield port
    finally:
        with anyio.move_on_after(options.drain_s + _STOP_MARGIN_S, shield=True):
            health.stop()
            draining.drain()
            await server.stop(options.drain_s)


class InProcessEndpoint:
    """A place in this process at which services can be called.

    The channel is there before anything is served, so that services that call each other can be opened in any order:
    until then calls fail with UNAVAILABLE or, with `wait_for_ready`, wait.
    """

    def __init__(self) -> None:
        self._draining = Draining()
        self._server = InProcessServer([_layers(draining=self._draining)])
        self._health = _add_health(self._server, ())
        self.channel: grpc.aio.Channel = InProcessChannel(self._server)

    def add(self, services: Sequence[Service]) -> None:
        """Add services to what is served, or will be."""
        for service in services:
            service.register(self._server)
            self._health.add(service.descriptor.full_name, service.health)

    @asynccontextmanager
    async def serve(self, services: Sequence[Service] = (), *, drain_s: float = DRAIN_S) -> AsyncIterator[None]:
        """Serve on the channel, once, for the length of the context; it ends as that of `serve_grpc` does.

        Services that are opened one after the other within the context, and added, find those they talk to from the
        beginning to the end.
        """
        self.add(services)
        await self._server.start()
        try:
            yield
        finally:
            with anyio.move_on_after(drain_s + _STOP_MARGIN_S, shield=True):
                self._health.stop()
                self._draining.drain()
                await self._server.stop(drain_s)


def _channel_arguments(options: ServerOptions) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", options.message_bytes_max),
        ("grpc.max_allowed_incoming_connections", connections_within(options.connections_max)),
        ("grpc.max_concurrent_streams", options.streams_max),
        ("grpc.server_handshake_timeout_ms", int(options.handshake_deadline_s * 1000)),
        # Unless this is meant, the start of a second server on a port is to fail.
        ("grpc.so_reuseport", int(options.reuse_port)),
        ("grpc.http2.min_ping_interval_without_data_ms", int(options.ping_interval_min_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _add_health(server: grpc.aio.Server, services: Sequence[Service]) -> HealthServicer:
    servicer = HealthServicer()
    for service in services:
        servicer.add(service.descriptor.full_name, service.health)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


def _bind(server: grpc.aio.Server, address: str, tls: Tls | None) -> int:
    try:
        if tls is not None:
            return server.add_secure_port(address, tls.server_credentials())
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
