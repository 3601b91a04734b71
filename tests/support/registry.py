"""Requests to the registry that say only what matters to a test, a registry to send them to, and a job store for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentType, ComputeResource
from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties
from batchyard.api.registry.v1.job_queue_pb2 import ComputeEnvironmentOrder
from batchyard.api.registry.v1.registry_service_pb2 import (
    CreateComputeEnvironmentRequest,
    CreateJobQueueRequest,
    RegisterJobDefinitionRequest,
)
from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from batchyard.api.scheduler.v1.job_tags_service_pb2 import (
    ChangeJobTagsRequest,
    ChangeJobTagsResponse,
    ListJobTagsRequest,
    ListJobTagsResponse,
)
from batchyard.api.scheduler.v1.job_tags_service_pb2_grpc import (
    JobTagsServiceServicer,
    add_JobTagsServiceServicer_to_server,
)
from batchyard.api.scheduler.v1.resources_service_pb2 import (
    ResourceChange,
    ResourceKind,
    SettleResourcesRequest,
    SettleResourcesResponse,
    WatchResourcesRequest,
    WithdrawJobDefinitionRequest,
    WithdrawJobDefinitionResponse,
)
from batchyard.api.scheduler.v1.resources_service_pb2_grpc import (
    ResourceSettlementServiceServicer,
    ResourceWatchServiceStub,
    add_ResourceSettlementServiceServicer_to_server,
)
from batchyard.domain.compat import Compat
from batchyard.registry.app import open_registry
from batchyard.rpc.channel import InProcessChannel, InProcessServer
from batchyard.rpc.clock import SystemClock
from batchyard.rpc.server import default_interceptors
from support.contexts import stopped

if TYPE_CHECKING:
    from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub
    from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceWatchServiceAsyncStub

MANAGED = ComputeEnvironmentType.COMPUTE_ENVIRONMENT_TYPE_MANAGED
UNMANAGED = ComputeEnvironmentType.COMPUTE_ENVIRONMENT_TYPE_UNMANAGED


def ec2_resources(**members: Any) -> ComputeResource:
    """What a MANAGED environment needs on EC2; a member that is None is left out."""
    complete: dict[str, Any] = {
        "type": "EC2",
        "minv_cpus": 0,
        "maxv_cpus": 16,
        "instance_types": ["optimal"],
        "subnets": ["subnet-1"],
        "security_group_ids": ["sg-1"],
        "instance_role": "ecsInstanceRole",
    }
    return ComputeResource(**(complete | members))


def fargate_resources(**members: Any) -> ComputeResource:
    """What a MANAGED environment needs on Fargate; a member that is None is left out."""
    complete: dict[str, Any] = {
        "type": "FARGATE",
        "maxv_cpus": 16,
        "subnets": ["subnet-1"],
        "security_group_ids": ["sg-1"],
    }
    return ComputeResource(**(complete | members))


def an_environment(name: str = "environment", **members: Any) -> CreateComputeEnvironmentRequest:
    """An UNMANAGED environment, or a MANAGED one if there are resources."""
    kind = MANAGED if "compute_resources" in members else UNMANAGED
    complete: dict[str, Any] = {"compute_environment_name": name, "type": kind}
    return CreateComputeEnvironmentRequest(**(complete | members))


def an_order(*environments: str) -> list[ComputeEnvironmentOrder]:
    """Environments in the order of their trial."""
    return [
        ComputeEnvironmentOrder(order=place, compute_environment=name)
        for place, name in enumerate(environments, start=1)
    ]


def a_queue(name: str = "queue", *environments: str, **members: Any) -> CreateJobQueueRequest:
    """A queue over environments, by default over `environment`."""
    complete: dict[str, Any] = {
        "job_queue_name": name,
        "priority": 1,
        "compute_environment_order": an_order(*(environments or ("environment",))),
    }
    return CreateJobQueueRequest(**(complete | members))


def a_container(**members: Any) -> ContainerProperties:
    """A container that may run; a member that is None is left out."""
    complete: dict[str, Any] = {"image": "busybox", "vcpus": 1, "memory": 128}
    return ContainerProperties(**(complete | members))


def a_definition(name: str = "definition", **members: Any) -> RegisterJobDefinitionRequest:
    """A definition that may run."""
    complete: dict[str, Any] = {"job_definition_name": name, "type": "container", "container_properties": a_container()}
    return RegisterJobDefinitionRequest(**(complete | members))


@dataclass(eq=False)
class FakeJobStore(ResourceSettlementServiceServicer, JobTagsServiceServicer):
    """A job store without jobs that takes in what it is told, unless a test says otherwise."""

    settled: list[ResourceChange] = field(default_factory=list)
    """What it was asked to take in, also when it did not."""
    withdrawn: list[str] = field(default_factory=list)
    """Names of job definitions of which it was told that they have changed, also when it did not answer."""
    end_jobs_reasons: list[str] = field(default_factory=list)
    """Why it was to end jobs, of the requests that said so."""
    failure: tuple[grpc.StatusCode, str] | None = None
    """How it answers instead."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    @contextmanager
    def failing(self, code: grpc.StatusCode, text: str = "") -> Iterator[None]:
        """Answer with an error for the length of the context."""
        self.failure = (code, text)
        yield
        self.failure = None

    @asynccontextmanager
    async def holding(self, call: Awaitable[Any]) -> AsyncIterator["asyncio.Future[Any]"]:
        """Make a call that settles something; keep it unanswered for the length of the context, then await it."""
        self.asked.clear()
        self.may_answer.clear()
        task = asyncio.ensure_future(call)
        await self.asked.wait()
        try:
            yield task
        finally:
            self.may_answer.set()
            await asyncio.wait([task])

    async def SettleResources(  # noqa: N802
        self, request: SettleResourcesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> SettleResourcesResponse:
        self.settled.extend(request.changes)
        if request.end_jobs_reason:
            self.end_jobs_reasons.append(request.end_jobs_reason)
        self.asked.set()
        await self.may_answer.wait()
        if self.failure is not None:
            await context.abort(*self.failure)
        return SettleResourcesResponse()

    async def WithdrawJobDefinition(  # noqa: N802
        self, request: WithdrawJobDefinitionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> WithdrawJobDefinitionResponse:
        self.withdrawn.append(request.job_definition_name)
        self.asked.set()
        await self.may_answer.wait()
        if self.failure is not None:
            await context.abort(*self.failure)
        return WithdrawJobDefinitionResponse()

    async def ListJobTags(  # noqa: N802
        self, request: ListJobTagsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ListJobTagsResponse:
        await context.abort(*(self.failure or (grpc.StatusCode.NOT_FOUND, "no such job")))
        raise AssertionError("abort raises")

    async def ChangeJobTags(  # noqa: N802
        self, request: ChangeJobTagsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ChangeJobTagsResponse:
        await context.abort(*(self.failure or (grpc.StatusCode.NOT_FOUND, "no such job")))
        raise AssertionError("abort raises")


@dataclass(frozen=True)
class RegistryUnderTest:
    """A registry and its clients."""

    api: "RegistryServiceAsyncStub"
    watch: "ResourceWatchServiceAsyncStub"
    job_store: FakeJobStore


@asynccontextmanager
async def serving(server: InProcessServer) -> AsyncIterator[InProcessChannel]:
    """Serve for the length of the context; yield a channel."""
    await server.start()
    channel = InProcessChannel(server)
    try:
        yield channel
    finally:
        await channel.close()
        await stopped(server)


@asynccontextmanager
async def a_registry(folder: Path, compat: Compat = Compat.SEED) -> AsyncIterator[RegistryUnderTest]:
    """Open a registry on a folder, with a new fake job store."""
    job_store = FakeJobStore()
    settling = InProcessServer()
    add_ResourceSettlementServiceServicer_to_server(job_store, settling)
    add_JobTagsServiceServicer_to_server(job_store, settling)
    server = InProcessServer(default_interceptors())
    async with (
        serving(settling) as to_job_store,
        open_registry(
            database=folder / "registry.db", job_store=to_job_store, clock=SystemClock(), durable=False, compat=compat
        ) as services,
    ):
        for service in services:
            service.register(server)
        async with serving(server) as channel:
            yield RegistryUnderTest(RegistryServiceStub(channel), ResourceWatchServiceStub(channel), job_store)


async def changes_until_caught_up(
    registry: RegistryUnderTest, after_revision: int = 0, kinds: Sequence[ResourceKind.ValueType] = ()
) -> tuple[list[ResourceChange], int]:
    """Return what a watch sends at first, and the revision up to which that is everything."""
    changes: list[ResourceChange] = []
    watch = registry.watch.WatchResources(WatchResourcesRequest(after_revision=after_revision, kinds=kinds))
    async for message in watch:
        changes.extend(message.changes)
        if message.caught_up:
            watch.cancel()
            return changes, message.revision
    raise AssertionError("the watch ended")


async def refused(call: Awaitable[Any], code: grpc.StatusCode, text: str) -> None:
    """Check that a call fails with this code and exactly this text."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert (caught.value.code(), caught.value.details()) == (code, text)
