"""A registry and a job store in one process, and a scheduler that does as the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
from google.protobuf.json_format import ParseDict

from batchyard.api.agent.v1.run_pb2 import JobSpec, RunOffer, RunReport, RunState
from batchyard.api.jobs.v1 import jobs_service_pb2 as jobs
from batchyard.api.jobs.v1.jobs_pb2 import JobDetail
from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceStub
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceStub
from batchyard.api.registry.v1 import registry_service_pb2 as registry
from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.api.scheduler.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from batchyard.domain.clock import Clock
from batchyard.jobstore.app import open_job_store
from batchyard.jobstore.retention import RETENTION_S
from batchyard.registry.app import open_registry
from batchyard.rpc.channel import InProcessChannel, InProcessServer
from batchyard.rpc.clock import SystemClock
from batchyard.rpc.server import default_interceptors
from support.waiting import PATIENCE_S, eventually

if TYPE_CHECKING:
    from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceAsyncStub
    from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceAsyncStub
    from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub
    from batchyard.api.scheduler.v1.dispatch_service_pb2_grpc import DispatchServiceAsyncStub


@dataclass
class ControlPlane:
    """Stubs of what runs, and the requests that most tests need."""

    jobs: "JobsServiceAsyncStub"
    operations: "JobOperationsServiceAsyncStub"
    registry: "RegistryServiceAsyncStub"
    channel: grpc.aio.Channel
    dispatch: "DispatchServiceAsyncStub"

    async def make_queue(self, name: str = "queue") -> None:
        """Make a queue over an environment of the same name."""
        await self.registry.CreateComputeEnvironment(
            ParseDict(
                {"computeEnvironmentName": name, "type": "COMPUTE_ENVIRONMENT_TYPE_UNMANAGED"},
                registry.CreateComputeEnvironmentRequest(),
            )
        )
        order = [{"order": 1, "computeEnvironment": name}]
        await self.registry.CreateJobQueue(
            ParseDict(
                {"jobQueueName": name, "priority": 1, "computeEnvironmentOrder": order},
                registry.CreateJobQueueRequest(),
            )
        )

    async def register(self, name: str = "definition", **container: Any) -> str:
        """Register a definition; return its ARN."""
        properties = {"image": "busybox", "vcpus": 1, "memory": 16, "command": ["true"], **container}
        answer = await self.registry.RegisterJobDefinition(
            ParseDict(
                {"jobDefinitionName": name, "type": "container", "containerProperties": properties},
                registry.RegisterJobDefinitionRequest(),
            )
        )
        return answer.job_definition_arn

    async def submit(self, name: str = "job", **members: Any) -> str:
        """Submit a job; return its id."""
        return (await self.jobs.SubmitJob(a_submission(name, **members))).job_id

    async def submit_when_it_serves(self, name: str = "job") -> str:
        """Submit a job as soon as the job store can write; return its id."""

        async def accepted() -> str | None:
            try:
                return await self.submit(name)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return None

        return await eventually(accepted, "a job is accepted")

    async def job(self, job_id: str) -> JobDetail:
        """Describe one job."""
        answer = await self.jobs.DescribeJobs(jobs.DescribeJobsRequest(jobs=[job_id]))
        (detail,) = answer.jobs
        return detail

    async def until_gone(self, job_id: str) -> None:
        """Wait until a job is not kept any more."""

        async def is_gone() -> bool:
            return not (await self.jobs.DescribeJobs(jobs.DescribeJobsRequest(jobs=[job_id]))).jobs

        await eventually(is_gone, f"job {job_id} is gone")

    @asynccontextmanager
    async def scheduler(self, name: str = "test") -> "AsyncIterator[Scheduler]":
        """Be the scheduler."""
        call = self.dispatch.Dispatch()
        await call.write(wire.DispatchRequest(hello=wire.SchedulerHello(scheduler_id=name)))
        scheduler = Scheduler(call)
        scheduler.welcome = (await scheduler.until(lambda seen: seen.snapshot_complete)).welcome
        yield scheduler
        call.cancel()


def a_submission(name: str = "job", **members: Any) -> jobs.SubmitJobRequest:
    described = {"jobName": name, "jobQueue": "queue", "jobDefinition": "definition", **members}
    return ParseDict(described, jobs.SubmitJobRequest())


def with_lines(message: wire.DispatchResponse) -> wire.DispatchResponse:
    """Have what a message tells of lines count as if each of their jobs had been queued; they must be short."""
    for part in message.lines:
        line = part.line
        assert not part.more
        for job_id, place, version in zip(part.job_ids, part.places, part.versions, strict=True):
            message.runnable.add(
                job=wire.JobRef(namespace=line.namespace, job_id=job_id),
                job_queue=line.job_queue,
                sequence=place,
                vcpus_milli=line.vcpus_milli,
                memory_mib=line.memory_mib,
                gpus=line.gpus,
                version=version,
            )
    del message.lines[:]
    return message


@dataclass
class Scheduler:
    """The scheduler's end of the dispatch stream, with everything that has come, merged."""

    call: Any
    seen: wire.DispatchResponse = field(default_factory=wire.DispatchResponse)
    welcome: wire.SchedulerWelcome = field(default_factory=wire.SchedulerWelcome)

    async def until(self, condition: Callable[[wire.DispatchResponse], object]) -> wire.DispatchResponse:
        """Read until what has come satisfies the condition; return it and begin anew."""
        while not condition(self.seen):
            self.seen.MergeFrom(with_lines(await asyncio.wait_for(self.call.read(), PATIENCE_S)))
        seen, self.seen = self.seen, wire.DispatchResponse()
        return seen

    async def send(self, **lists: Any) -> None:
        await self.call.write(wire.DispatchRequest(**lists))

    async def register(self, agent_id: str = "agent", incarnation: int = 1) -> None:
        await self.send(registrations=[wire.AgentRegistration(agent_id=agent_id, incarnation=incarnation)])
        await self.until(lambda seen: seen.registered)

    async def propose(self, queued: wire.QueuedJob, agent_id: str = "agent") -> wire.OfferOutcome:
        """Propose to run a job; return what the store says."""
        proposal = wire.OfferProposal(
            job=queued.job, version=queued.version, agent_id=agent_id, incarnation=1, compute_environment="queue"
        )
        await self.send(proposals=[proposal])
        (outcome,) = (await self.until(lambda seen: seen.offers)).offers
        return outcome

    async def offer(self, queued: wire.QueuedJob, agent_id: str = "agent") -> RunOffer:
        """Propose to run a job; return the offer."""
        outcome = await self.propose(queued, agent_id)
        assert not outcome.refused, outcome.refused
        return outcome.offer

    async def report(self, offer: RunOffer, state: "RunState.ValueType", **members: Any) -> wire.DispatchResponse:
        """Report as the agent would; return what came until the report was answered."""
        spec = JobSpec.FromString(offer.job_spec)
        report = RunReport(fence=offer.fence, namespace=spec.namespace, job_id=spec.job_id, state=state, **members)
        await self.send(reports=[wire.AgentReports(agent_id="agent", incarnation=1, reports=[report])])
        return await self.until(lambda seen: seen.reports)


@asynccontextmanager
async def control_plane(
    folder: Path,
    *,
    leader_lease_s: float | None = None,
    retention_s: float = RETENTION_S,
    clock: Clock | None = None,
    durable: bool = True,
) -> AsyncIterator[ControlPlane]:
    """Run a registry and a job store on the databases of a folder."""
    server = InProcessServer(default_interceptors())
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(InProcessChannel(server))
        clock = clock or SystemClock()
        services = [
            *await stack.enter_async_context(
                open_registry(database=folder / "registry.db", job_store=channel, clock=clock)
            ),
            *await stack.enter_async_context(
                open_job_store(
                    database=folder / "jobs.db",
                    registry=channel,
                    clock=clock,
                    leader_lease_s=leader_lease_s,
                    retention_s=retention_s,
                    durable=durable,
                )
            ),
        ]
        for service in services:
            service.register(server)
        await server.start()
        stack.push_async_callback(server.stop, None)
        yield ControlPlane(
            JobsServiceStub(channel),
            JobOperationsServiceStub(channel),
            RegistryServiceStub(channel),
            channel,
            DispatchServiceStub(channel),
        )
