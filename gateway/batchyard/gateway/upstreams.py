"""The services that clients may call, and the processes that serve them."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import anyio
import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from batchyard.api.jobs.v1 import jobs_service_pb2
from batchyard.api.operations.v1 import (
    agents_service_pb2,
    job_operations_service_pb2,
    logs_service_pb2,
    overview_service_pb2,
)
from batchyard.api.registry.v1 import registry_service_pb2

_OWNERS: Final[Mapping[ServiceDescriptor, str]] = {
    registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"]: "registry",
    jobs_service_pb2.DESCRIPTOR.services_by_name["JobsService"]: "jobs",
    job_operations_service_pb2.DESCRIPTOR.services_by_name["JobOperationsService"]: "jobs",
    overview_service_pb2.DESCRIPTOR.services_by_name["OverviewService"]: "jobs",
    agents_service_pb2.DESCRIPTOR.services_by_name["AgentsService"]: "scheduler",
    logs_service_pb2.DESCRIPTOR.services_by_name["LogsService"]: "logs",
}

RESTART_PATIENCE_S: Final = 5.0
"""How long a call waits for a service that cannot be reached: most often it is just being started again."""

FLEET_SERVICES: Final = frozenset({agents_service_pb2.DESCRIPTOR.services_by_name["AgentsService"].full_name})
"""Public services that are about all accounts at once."""

PUBLIC_SERVICES: Final = tuple(_OWNERS)
"""What clients may call: through gRPC, and where a method's options say so through HTTP."""


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Channels to the services behind the gateway."""

    registry: grpc.aio.Channel
    jobs: grpc.aio.Channel
    scheduler: grpc.aio.Channel
    logs: grpc.aio.Channel

    def owner_of(self, service: ServiceDescriptor) -> grpc.aio.Channel:
        """Return the channel to the process that serves a public service."""
        return self.by_name()[_OWNERS[service]]

    def probes(self) -> dict[str, tuple[grpc.aio.Channel, str]]:
        """Return, by an upstream's name, its channel and one service whose health speaks for it."""
        # The first public service of each: the process as a whole may serve others too, and in `up` it does.
        services = {owner: service.full_name for service, owner in reversed(list(_OWNERS.items()))}
        return {name: (channel, services[name]) for name, channel in self.by_name().items()}

    def by_name(self) -> dict[str, grpc.aio.Channel]:
        """Return every channel with its name."""
        return {"registry": self.registry, "jobs": self.jobs, "scheduler": self.scheduler, "logs": self.logs}


class UnaryCall(Protocol):
    """Calls a method with one response; messages are the bytes that they are serialized to."""

    def __call__(
        self, request: bytes, /, *, timeout: float | None, metadata: tuple[tuple[str, str], ...]
    ) -> Awaitable[bytes]:
        """Call it; fails with AioRpcError."""


async def reached(channel: grpc.aio.Channel) -> None:
    """Wait until a service can be reached, or no longer than a restart should take; then calls may fail."""
    if channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
        with anyio.move_on_after(RESTART_PATIENCE_S):
            await channel.channel_ready()


def unary_call(channel: grpc.aio.Channel, method: MethodDescriptor) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
    """Return what calls a method with one response."""
    return channel.unary_unary(
        path_of(method),
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )


def path_of(method: MethodDescriptor) -> str:
    """Return the path by which gRPC knows a method."""
    return f"/{method.containing_service.full_name}/{method.name}"
