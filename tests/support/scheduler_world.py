"""A scheduler between a job store, a registry and agents that do as the test says."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.json_format import ParseDict

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.agent.v1.agent_session_service_pb2_grpc import AgentSessionServiceStub
from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceStub
from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail
from batchyard.api.registry.v1.job_queue_pb2 import JobQueueDetail
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.api.scheduler.v1.dispatch_service_pb2_grpc import (
    DispatchServiceServicer,
    add_DispatchServiceServicer_to_server,
)
from batchyard.api.scheduler.v1.resources_service_pb2 import (
    ResourceChange,
    WatchResourcesRequest,
    WatchResourcesResponse,
)
from batchyard.api.scheduler.v1.resources_service_pb2_grpc import (
    ResourceWatchServiceServicer,
    add_ResourceWatchServiceServicer_to_server,
)
from batchyard.domain.errors import UnavailableError
from batchyard.rpc.channel import InProcessChannel, InProcessServer
from batchyard.rpc.connection import open_channel
from batchyard.rpc.server import ServerOptions, Service, default_interceptors, serve_grpc
from batchyard.scheduler.app import SchedulerConfig, open_scheduler
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.outbox import StoreOutbox
from batchyard.scheduler.session import Session
from support.contexts import stopped
from support.scheduler import NAMESPACE
from support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from batchyard.api.agent.v1.agent_session_service_pb2_grpc import AgentSessionServiceAsyncStub
    from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceAsyncStub


@dataclass
class VirtualClock:
    """A clock that goes only when told to."""

    monotonic: float = 1000.0

    def now_ms(self) -> int:
        return int(self.monotonic * 1000)

    def monotonic_s(self) -> float:
        return self.monotonic


def a_fence(number: int = 1, epoch: int = 1) -> run_pb2.Fence:
    return run_pb2.Fence(epoch=epoch, number=number)


def a_ref(job_id: str) -> wire.JobRef:
    return wire.JobRef(namespace=NAMESPACE, job_id=job_id)


def a_queued_job(job_id: str = "job", *, sequence: int = 1, version: int = 1, vcpus: int = 1) -> wire.QueuedJob:
    return wire.QueuedJob(
        job=a_ref(job_id),
        job_queue="default",
        sequence=sequence,
        vcpus_milli=vcpus * 1000,
        memory_mib=128,
        version=version,
    )


def an_offer(number: int = 1) -> run_pb2.RunOffer:
    return run_pb2.RunOffer(fence=a_fence(number), attempt=1, job_spec=b"spec", compute_environment="default")


def a_held_run(
    job_id: str = "job", *, number: int = 1, state: run_pb2.RunState.ValueType = run_pb2.RUN_STATE_OFFERED
) -> wire.HeldRun:
    return wire.HeldRun(
        fence=a_fence(number),
        job=a_ref(job_id),
        agent_id="agent",
        incarnation=1,
        state=state,
        compute_environment="default",
        vcpus_milli=1000,
        memory_mib=128,
        offer=an_offer(number) if state == run_pb2.RUN_STATE_OFFERED else None,
    )


def a_report(
    state: run_pb2.RunState.ValueType, *, number: int = 1, job_id: str = "job", **members: Any
) -> run_pb2.RunReport:
    return run_pb2.RunReport(fence=a_fence(number), namespace=NAMESPACE, job_id=job_id, state=state, **members)


def a_registration(
    agent_id: str = "agent", *, incarnation: int = 1, vcpus: int = 2, memory_mib: int = 4096, **members: Any
) -> session_pb2.Registration:
    return session_pb2.Registration(
        agent_id=agent_id,
        incarnation=incarnation,
        hostname="host",
        runtime="process",
        capacity=session_pb2.Capacity(vcpus_milli=vcpus * 1000, memory_mib=memory_mib),
        **members,
    )


def lead(scheduler: Scheduler, *, until: float = math.inf, **snapshot: object) -> StoreOutbox:
    """Have a scheduler lead by a snapshot."""
    outbox = StoreOutbox()
    scheduler.store_opened(outbox)
    scheduler.leadership_renewed(until)
    scheduler.store_said(wire.DispatchResponse(snapshot_complete=True, **snapshot))  # type: ignore[arg-type]
    return outbox


async def join(scheduler: Scheduler, clock: VirtualClock, *, vcpus: int = 2) -> Session:
    """Have the agent `agent` join a scheduler, and take its welcome."""
    session = Session(a_registration(vcpus=vcpus, memory_mib=1_000_000), clock.monotonic_s())
    scheduler.session_opened(session)
    scheduler.store_said(
        wire.DispatchResponse(registered=[wire.AgentRegistered(agent_id="agent", incarnation=1, accepted=True)])
    )
    assert (await session.outbox.take()).HasField("welcome")
    return session


@dataclass
class StoreStream:
    """The job store's end of one dispatch stream."""

    incoming: asyncio.Queue[wire.DispatchRequest] = field(default_factory=asyncio.Queue)
    outgoing: asyncio.Queue[wire.DispatchResponse | None] = field(default_factory=asyncio.Queue)
    seen: wire.DispatchRequest = field(default_factory=wire.DispatchRequest)

    def send(self, **lists: Any) -> None:
        self.outgoing.put_nowait(wire.DispatchResponse(**lists))

    def snapshot(self, **lists: Any) -> None:
        self.send(welcome=wire.SchedulerWelcome(leader_epoch=1, store_epoch=1))
        self.send(**lists)
        self.send(snapshot_complete=True)

    def break_off(self) -> None:
        self.outgoing.put_nowait(None)

    async def take_in(self, requests: AsyncIterator[wire.DispatchRequest]) -> None:
        """Keep what the scheduler says for the test; end the stream when it resigns."""
        async for request in requests:
            self.incoming.put_nowait(request)
            if request.resign:
                self.break_off()

    async def until(self, condition: Callable[[wire.DispatchRequest], object]) -> wire.DispatchRequest:
        """Read until what has come satisfies the condition; return it and begin anew."""
        while not condition(self.seen):
            self.seen.MergeFrom(await asyncio.wait_for(self.incoming.get(), PATIENCE_S))
        seen, self.seen = self.seen, wire.DispatchRequest()
        return seen

    async def accept_registration(self) -> wire.AgentRegistration:
        """Let the next agent in."""
        (registration,) = (await self.until(lambda seen: seen.registrations)).registrations
        self.send(
            registered=[
                wire.AgentRegistered(
                    agent_id=registration.agent_id, incarnation=registration.incarnation, accepted=True
                )
            ]
        )
        return registration

    async def accept_proposal(self, number: int = 1) -> wire.OfferProposal:
        """Make an offer of the next proposal."""
        (proposal,) = (await self.until(lambda seen: seen.proposals)).proposals
        self.send(
            offers=[
                wire.OfferOutcome(
                    job=proposal.job,
                    agent_id=proposal.agent_id,
                    incarnation=proposal.incarnation,
                    offer=an_offer(number),
                )
            ]
        )
        return proposal


class FakeJobStore(DispatchServiceServicer):
    """Hands every dispatch stream to the test."""

    def __init__(self) -> None:
        self._streams: asyncio.Queue[StoreStream] = asyncio.Queue()

    async def Dispatch(  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[wire.DispatchResponse]:
        first = await anext(request_iterator)
        assert first.HasField("hello")
        stream = StoreStream()
        self._streams.put_nowait(stream)
        taking_in = asyncio.create_task(stream.take_in(request_iterator))
        try:
            while (message := await stream.outgoing.get()) is not None:
                yield message
        finally:
            taking_in.cancel()
        raise UnavailableError("the job store is restarting")

    async def stream(self) -> StoreStream:
        """Wait for the scheduler to connect."""
        return await asyncio.wait_for(self._streams.get(), PATIENCE_S)


class FakeRegistry(ResourceWatchServiceServicer):
    """Tells of a queue and an environment, both named default, and then what the test says."""

    def __init__(self) -> None:
        self.watches: asyncio.Queue[WatchResourcesRequest] = asyncio.Queue()
        self.changes: list[ResourceChange] = [an_environment_change(), a_queue_change()]
        self.error: Exception | None = None
        self._outgoing: asyncio.Queue[WatchResourcesResponse | Exception] = asyncio.Queue()

    async def GetNewestJobDefinition(self, request: Any, context: Any) -> NoReturn:  # noqa: N802
        raise AssertionError("schedulers do not ask for definitions")

    async def WatchResources(  # noqa: N802
        self, request: WatchResourcesRequest, context: Any
    ) -> AsyncIterator[WatchResourcesResponse]:
        self.watches.put_nowait(request)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        changes = [change for change in self.changes if change.revision > request.after_revision]
        revision = max(change.revision for change in self.changes)
        yield WatchResourcesResponse(changes=changes, revision=revision, caught_up=True)
        while not isinstance(message := await self._outgoing.get(), Exception):
            yield message
        raise message

    def change(self, change: ResourceChange) -> None:
        self._outgoing.put_nowait(WatchResourcesResponse(changes=[change], revision=change.revision, caught_up=True))

    def break_off(self) -> None:
        self._outgoing.put_nowait(UnavailableError("the registry is restarting"))

    async def watched(self) -> WatchResourcesRequest:
        """Wait for the next watch."""
        return await asyncio.wait_for(self.watches.get(), PATIENCE_S)


def an_environment_change(name: str = "default", *, revision: int = 1, **members: Any) -> ResourceChange:
    described = {
        "computeEnvironmentName": name,
        "type": "COMPUTE_ENVIRONMENT_TYPE_UNMANAGED",
        "state": "RESOURCE_STATE_ENABLED",
        "status": "RESOURCE_STATUS_VALID",
        **members,
    }
    detail = ParseDict(described, ComputeEnvironmentDetail())
    return ResourceChange(revision=revision, namespace=NAMESPACE, compute_environment=detail)


def a_queue_change(name: str = "default", *, revision: int = 2, **members: Any) -> ResourceChange:
    arn = f"arn:aws:batch:us-east-1:{NAMESPACE}:compute-environment/default"
    described = {
        "jobQueueName": name,
        "state": "RESOURCE_STATE_ENABLED",
        "status": "RESOURCE_STATUS_VALID",
        "priority": 1,
        "computeEnvironmentOrder": [{"order": 1, "computeEnvironment": arn}],
        **members,
    }
    return ResourceChange(revision=revision, namespace=NAMESPACE, job_queue=ParseDict(described, JobQueueDetail()))


@dataclass
class FakeAgent:
    """An agent's end of its session, with everything that has come, merged."""

    call: Any
    seen: session_pb2.ConnectResponse = field(default_factory=session_pb2.ConnectResponse)

    async def send(self, **members: Any) -> None:
        await self.call.write(session_pb2.ConnectRequest(**members))

    async def until(self, condition: Callable[[session_pb2.ConnectResponse], object]) -> session_pb2.ConnectResponse:
        """Read until what has come satisfies the condition; return it and begin anew."""
        while not condition(self.seen):
            message = await asyncio.wait_for(self.call.read(), PATIENCE_S)
            assert isinstance(message, session_pb2.ConnectResponse), "the session has ended"
            self.seen.MergeFrom(message)
        seen, self.seen = self.seen, session_pb2.ConnectResponse()
        return seen

    async def welcomed(self) -> session_pb2.ConnectResponse:
        return await self.until(lambda seen: seen.HasField("welcome"))

    async def ending(self) -> grpc.aio.AioRpcError:
        """Return the error with which the session ends."""
        try:
            while isinstance(await asyncio.wait_for(self.call.read(), PATIENCE_S), session_pb2.ConnectResponse):
                pass
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the session has ended in order")

    def leave(self) -> None:
        self.call.cancel()


@dataclass
class World:
    """A scheduler and all that it talks to."""

    store: FakeJobStore
    registry: FakeRegistry
    clock: VirtualClock
    agents: "AgentsServiceAsyncStub"
    sessions: "AgentSessionServiceAsyncStub"
    calls: list[Any] = field(default_factory=list)

    async def agent(self, registration: session_pb2.Registration | None = None, *, heartbeat: int = 1) -> FakeAgent:
        """Connect an agent."""
        agent = FakeAgent(self.sessions.Connect())
        self.calls.append(agent.call)
        await agent.send(registration=registration or a_registration(), heartbeat=heartbeat)
        return agent

    async def leading(self, **snapshot: Any) -> StoreStream:
        """Let the scheduler lead, with what a snapshot says."""
        stream = await self.store.stream()
        stream.snapshot(**snapshot)
        return stream

    async def joined(self, stream: StoreStream, registration: session_pb2.Registration | None = None) -> FakeAgent:
        """Connect an agent and let it in."""
        agent = await self.agent(registration)
        await stream.accept_registration()
        await agent.welcomed()
        return agent


@asynccontextmanager
async def in_process(services: Sequence[Service]) -> AsyncIterator[grpc.aio.Channel]:
    """Serve on a channel within this process."""
    server = InProcessServer(default_interceptors())
    for service in services:
        service.register(server)
    await server.start()
    try:
        async with InProcessChannel(server) as channel:
            yield channel
    finally:
        await stopped(server)


@asynccontextmanager
async def over_a_socket(services: Sequence[Service]) -> AsyncIterator[grpc.aio.Channel]:
    """Serve on a socket."""
    async with (
        serve_grpc(services, address="127.0.0.1:0", options=ServerOptions(drain_s=0.1)) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


Transport = Callable[[Sequence[Service]], AbstractAsyncContextManager[grpc.aio.Channel]]


def neighbours(store: FakeJobStore, registry: FakeRegistry) -> list[Service]:
    """Return what a scheduler connects to, ready to be served."""
    return [
        Service.of(add_DispatchServiceServicer_to_server, store),
        Service.of(add_ResourceWatchServiceServicer_to_server, registry),
    ]


@asynccontextmanager
async def a_world(transport: Transport, config: SchedulerConfig | None = None) -> AsyncIterator[World]:
    """Run a scheduler between fakes that it talks to over this transport."""
    store, registry, clock = FakeJobStore(), FakeRegistry(), VirtualClock()
    fakes = neighbours(store, registry)
    async with (
        transport(fakes) as upstream,
        open_scheduler(
            job_store=upstream, registry=upstream, clock=clock, config=config or SchedulerConfig()
        ) as services,
        transport(services) as downstream,
    ):
        sessions: AgentSessionServiceAsyncStub = AgentSessionServiceStub(downstream)
        agents: AgentsServiceAsyncStub = AgentsServiceStub(downstream)
        world = World(store, registry, clock, agents, sessions)
        yield world
        for call in world.calls:
            call.cancel()
