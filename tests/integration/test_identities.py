"""I13: what each role may call on a whole control plane, and what an agent can do to the attempts of another one.

Every service has a port of its own with TLS, as in separate processes; the clients are what an attacker would have:
a channel with a stolen certificate.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.json_format import ParseDict
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import log_ingest_service_pb2 as ingest_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.agent.v1.agent_session_service_pb2_grpc import AgentSessionServiceStub
from batchyard.api.agent.v1.log_ingest_service_pb2_grpc import LogIngestServiceStub
from batchyard.api.jobs.v1 import jobs_service_pb2 as jobs_pb2
from batchyard.api.jobs.v1.jobs_pb2 import JobDetail, JobStatus
from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceStub
from batchyard.api.operations.v1 import agents_service_pb2 as agents_pb2
from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceStub
from batchyard.api.registry.v1 import registry_service_pb2 as registry_pb2
from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from batchyard.domain.names import Caller
from batchyard.gateway.app import open_gateway
from batchyard.gateway.config import GatewayConfig
from batchyard.gateway.upstreams import PUBLIC_SERVICES, Upstreams
from batchyard.jobstore.app import open_job_store
from batchyard.logs.app import open_logs
from batchyard.registry.app import open_registry
from batchyard.rpc.clock import SystemClock
from batchyard.rpc.connection import open_channel
from batchyard.rpc.identity import metadata_for
from batchyard.rpc.peers import Role
from batchyard.rpc.server import InProcessEndpoint, ServerOptions, Service, serve_grpc
from batchyard.rpc.tls import Tls
from batchyard.scheduler.app import open_scheduler
from batchyard.scheduler.config import SchedulerConfig
from support.certificates import Certificates
from support.contexts import held_open
from support.rpc import failure_of
from support.waiting import PATIENCE_S, eventually

ACCOUNT: Final = "210987654321"
DENIED: Final = grpc.StatusCode.PERMISSION_DENIED
AGENTS_OWN: Final = frozenset(
    {
        session_pb2.DESCRIPTOR.services_by_name["AgentSessionService"].full_name,
        ingest_pb2.DESCRIPTOR.services_by_name["LogIngestService"].full_name,
    }
)


@dataclass
class Fleet:
    """A control plane of which every service listens with TLS, and a way past all of that."""

    targets: Mapping[str, str]
    services: Mapping[str, Sequence[ServiceDescriptor]]
    inside: grpc.aio.Channel
    certificates: Certificates
    logs_folder: Path

    def tls(self, role: Role, name: str, account: str | None = None) -> Tls:
        """Return a certificate."""
        return self.certificates.tls(role, name, account)

    def methods(self) -> Iterator[tuple[str, MethodDescriptor]]:
        """Yield every method that a port serves, with the name of the port."""
        common = (
            health_pb2.DESCRIPTOR.services_by_name["Health"],
            reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
        )
        for name, services in self.services.items():
            for service in (*services, *common):
                for method in service.methods:
                    yield name, method


@asynccontextmanager
async def a_fleet(folder: Path) -> AsyncIterator[Fleet]:
    certificates, inside = Certificates(folder), InProcessEndpoint()
    clock, channel = SystemClock(), inside.channel
    openings: dict[str, Any] = {
        "registry": open_registry(database=folder / "registry.db", job_store=channel, clock=clock),
        "jobstore": open_job_store(database=folder / "jobs.db", registry=channel, clock=clock, leader_lease_s=None),
        "logs": open_logs(folder=folder / "logs", clock=clock, job_store=channel),
        "scheduler": open_scheduler(job_store=channel, registry=channel, clock=clock, config=SchedulerConfig()),
    }
    options = ServerOptions(drain_s=0.1)
    async with AsyncExitStack() as running:
        await running.enter_async_context(inside.serve(drain_s=0.1))
        targets, served = {}, {}
        for name, opening in openings.items():
            services: Sequence[Service] = await running.enter_async_context(opening)
            inside.add(services)
            tls = certificates.tls(Role.SERVICE, name)
            port = await running.enter_async_context(
                serve_grpc(services, address="127.0.0.1:0", options=options, tls=tls)
            )
            targets[name], served[name] = f"127.0.0.1:{port}", [service.descriptor for service in services]
        # The gateway calls the others by their ports, with its certificate.
        tls = certificates.tls(Role.SERVICE, "gateway")
        to = {name: await running.enter_async_context(open_channel(target, tls)) for name, target in targets.items()}
        gateway = await running.enter_async_context(
            open_gateway(
                config=GatewayConfig(port=0, grpc_port=0, tls=tls),
                upstreams=Upstreams(to["registry"], to["jobstore"], to["scheduler"], to["logs"]),
            )
        )
        targets["gateway"], served["gateway"] = gateway.grpc.removeprefix("grpc://"), list(PUBLIC_SERVICES)
        yield Fleet(targets, served, channel, certificates, folder / "logs")


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with held_open(a_fleet(tmp_path)) as running:
        yield running


async def code_of(channel: grpc.aio.Channel, method: MethodDescriptor) -> grpc.StatusCode:
    """Call a method with an empty request, whatever its shape; return how that ends, OK once there is an answer."""
    call: Any = channel.stream_stream(f"/{method.containing_service.full_name}/{method.name}")(timeout=PATIENCE_S)
    try:
        await call.write(b"")
        await call.done_writing()
        answer = await call.read()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the latter when it is over before all is said
        return await call.code()  # type: ignore[no-any-return]
    if answer is not grpc.aio.EOF:
        call.cancel()
        return grpc.StatusCode.OK
    return await call.code()  # type: ignore[no-any-return]


async def refused_and_allowed(fleet: Fleet, role: Role) -> tuple[set[str], set[str]]:
    """Call everything there is in a role; return the full names of methods that refuse it, and of those that do not.

    Of those that are allowed, streams are not called: they may have nothing to say.
    """
    refused: set[str] = set()
    allowed: set[str] = set()
    async with AsyncExitStack() as stack:
        tls = fleet.tls(role, "someone")
        channels = {
            name: await stack.enter_async_context(open_channel(target, tls)) for name, target in fleet.targets.items()
        }
        for name, method in fleet.methods():
            if method.server_streaming and is_for(role, name, method):
                continue
            called = f"{name}: {method.full_name}"
            (refused if await code_of(channels[name], method) is DENIED else allowed).add(called)
    return refused, allowed


def is_for(role: Role, server: str, method: MethodDescriptor) -> bool:
    """Say what is meant: who may call what."""
    service = method.containing_service.full_name
    if service in AGENTS_OWN:
        return role is Role.AGENT
    if service.startswith("grpc."):
        return role is not Role.AGENT
    return role is Role.SERVICE or (role is Role.CLIENT and server == "gateway")


@pytest.mark.parametrize("role", Role)
async def test_each_role_may_call_what_is_for_it_and_nothing_else(fleet: Fleet, role: Role) -> None:
    refused, allowed = await refused_and_allowed(fleet, role)
    expected = {f"{name}: {method.full_name}" for name, method in fleet.methods() if not is_for(role, name, method)}
    assert refused == expected
    assert len(allowed) + len(refused) > 40
    assert role is Role.AGENT or allowed


class AgentClient:
    """What an agent, or who has stolen its certificate, can send."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self.name = name
        self._stub: Any = AgentSessionServiceStub(channel)
        self.call: Any = None
        self.seen = session_pb2.ConnectResponse()

    async def connect(self, agent_id: str | None = None, **registration: Any) -> None:
        """Begin a session."""
        if self.call is not None:
            self.call.cancel()
        self.call, self.seen = self._stub.Connect(), session_pb2.ConnectResponse()
        capacity = session_pb2.Capacity(vcpus_milli=1000, memory_mib=1024)
        registered = session_pb2.Registration(
            agent_id=agent_id or self.name, incarnation=1, capacity=capacity, **registration
        )
        await self.call.write(session_pb2.ConnectRequest(registration=registered, heartbeat=1))

    async def until(self, member: str) -> Any:
        """Read until something has come under this name; return it."""
        with anyio.fail_after(PATIENCE_S):
            while not getattr(self.seen, member) or (member == "welcome" and not self.seen.HasField("welcome")):
                response = await self.call.read()
                if response is grpc.aio.EOF:
                    raise grpc.aio.AioRpcError(
                        await self.call.code(), grpc.aio.Metadata(), grpc.aio.Metadata(), await self.call.details()
                    )
                self.seen.MergeFrom(response)
        found = getattr(self.seen, member)
        self.seen = session_pb2.ConnectResponse()
        return found

    async def report(self, offer: run_pb2.RunOffer, state: run_pb2.RunState.ValueType, **members: Any) -> None:
        """Report on a run."""
        spec = run_pb2.JobSpec.FromString(offer.job_spec)
        report = run_pb2.RunReport(
            fence=offer.fence, namespace=spec.namespace, job_id=spec.job_id, state=state, **members
        )
        await self.call.write(session_pb2.ConnectRequest(reports=[report]))


@dataclass
class TwoAgents:
    """Agent `worker-b`, which was offered a job, and agent `worker-a`, which is up to no good."""

    fleet: Fleet
    a: AgentClient
    b: AgentClient
    offer: run_pb2.RunOffer
    job_id: str

    @property
    def jobs(self) -> Any:
        """The public API."""
        return JobsServiceStub(self.fleet.inside)

    async def job(self) -> JobDetail:
        """Return the job that is worker-b's."""
        (job,) = (await self.jobs.DescribeJobs(jobs_pb2.DescribeJobsRequest(jobs=[self.job_id]))).jobs
        assert isinstance(job, JobDetail)
        return job

    async def cancel(self) -> None:
        """Cancel the job, and wait for the answer."""
        await self.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=self.job_id, reason="not needed"))

    async def until_status(self, status: str) -> JobDetail:
        """Wait for a status of the job."""

        async def job_then() -> JobDetail | None:
            job = await self.job()
            return job if JobStatus.Name(job.status) == f"JOB_STATUS_{status}" else None

        return await eventually(job_then, f"the job is {status}")


@asynccontextmanager
async def two_agents(fleet: Fleet) -> AsyncIterator[TwoAgents]:
    await submit(fleet)
    async with AsyncExitStack() as stack:
        agents = {}
        for name in ("worker-a", "worker-b"):
            channel = await stack.enter_async_context(
                open_channel(fleet.targets["scheduler"], fleet.tls(Role.AGENT, name))
            )
            agents[name] = AgentClient(channel, name)
        a, b = agents["worker-a"], agents["worker-b"]
        await b.connect()
        (offer,) = await b.until("offers")
        await a.connect()
        await a.until("welcome")
        job_id = run_pb2.JobSpec.FromString(offer.job_spec).job_id
        yield TwoAgents(fleet, a, b, offer, job_id)
        for agent in (a, b):
            agent.call.cancel()


async def submit(fleet: Fleet) -> None:
    registry: Any = RegistryServiceStub(fleet.inside)
    jobs: Any = JobsServiceStub(fleet.inside)
    environment = {"computeEnvironmentName": "queue", "type": "COMPUTE_ENVIRONMENT_TYPE_UNMANAGED"}
    order = [{"order": 1, "computeEnvironment": "queue"}]
    queue = {"jobQueueName": "queue", "priority": 1, "computeEnvironmentOrder": order}
    container = {"image": "busybox", "vcpus": 1, "memory": 16, "command": ["true"]}
    definition = {"jobDefinitionName": "definition", "type": "container", "containerProperties": container}
    job = {"jobName": "job", "jobQueue": "queue", "jobDefinition": "definition"}
    await registry.CreateComputeEnvironment(ParseDict(environment, registry_pb2.CreateComputeEnvironmentRequest()))
    await registry.CreateJobQueue(ParseDict(queue, registry_pb2.CreateJobQueueRequest()))
    await registry.RegisterJobDefinition(ParseDict(definition, registry_pb2.RegisterJobDefinitionRequest()))
    await jobs.SubmitJob(ParseDict(job, jobs_pb2.SubmitJobRequest()))


async def test_an_agent_registers_as_no_other(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    async with open_channel(fleet.targets["scheduler"], fleet.tls(Role.AGENT, "worker-a")) as channel:
        for agent_id in ("worker-b", "worker-b.0123456789ab", "worker-a-2", "worker", "x.worker-a", "service"):
            agent = AgentClient(channel, "worker-a")
            await agent.connect(agent_id)
            error = await failure_of(agent.until("welcome"))
            assert error.code() is DENIED
            text = f"The certificate is that of agent worker-a, which may not register as agent {agent_id}."
            assert error.details() == text
            assert f"agent worker-a is refused a session as agent {agent_id!r}" in caplog.text
    agents: Any = AgentsServiceStub(fleet.inside)
    assert [agent.agent_id for agent in (await agents.ListAgents(agents_pb2.ListAgentsRequest())).agents] == []


async def test_an_agent_registers_by_its_name_and_by_ids_of_its_own(fleet: Fleet) -> None:
    async with open_channel(fleet.targets["scheduler"], fleet.tls(Role.AGENT, "worker-a")) as channel:
        for agent_id in ("worker-a", "worker-a.0123456789ab"):
            agent = AgentClient(channel, "worker-a")
            await agent.connect(agent_id)
            await agent.until("welcome")
            agent.call.cancel()


async def test_what_an_agent_reports_of_anothers_attempt_has_no_effect(fleet: Fleet) -> None:
    async with two_agents(fleet) as two:
        states = (run_pb2.RUN_STATE_CLAIMED, run_pb2.RUN_STATE_STARTED, run_pb2.RUN_STATE_REVOKED)
        for state in states:
            await two.a.report(two.offer, state)
            assert list(await two.a.until("stale")) == [two.offer.fence]
        await two.a.report(two.offer, run_pb2.RUN_STATE_DONE, end=run_pb2.RUN_END_EXITED, exit_code=0)
        assert list(await two.a.until("stale")) == [two.offer.fence]
        assert JobStatus.Name((await two.job()).status) == "JOB_STATUS_RUNNABLE"
        # It is still worker-b's, and goes as worker-b says.
        await two.b.report(two.offer, run_pb2.RUN_STATE_CLAIMED)
        await two.until_status("STARTING")
        await two.a.report(two.offer, run_pb2.RUN_STATE_DONE, end=run_pb2.RUN_END_EXITED, exit_code=9)
        assert list(await two.a.until("stale")) == [two.offer.fence]
        await two.b.report(two.offer, run_pb2.RUN_STATE_STARTED, started_ago_ms=0)
        await two.until_status("RUNNING")
        await two.b.report(
            two.offer, run_pb2.RUN_STATE_DONE, end=run_pb2.RUN_END_EXITED, exit_code=3, started_ago_ms=5, ended_ago_ms=0
        )
        assert (await two.until_status("FAILED")).container.exit_code == 3


async def test_what_an_agent_registers_with_takes_nothing_from_another(fleet: Fleet) -> None:
    async with two_agents(fleet) as two:
        await two.b.report(two.offer, run_pb2.RUN_STATE_CLAIMED)
        await two.until_status("STARTING")
        spec = run_pb2.JobSpec.FromString(two.offer.job_spec)
        ended = run_pb2.RunReport(
            fence=two.offer.fence,
            namespace=spec.namespace,
            job_id=spec.job_id,
            state=run_pb2.RUN_STATE_DONE,
            end=run_pb2.RUN_END_EXITED,
            exit_code=0,
        )
        await two.a.connect("worker-a.1", claimed_before=[two.offer.fence], runs=[ended])
        await two.a.until("welcome")
        # What it reports next is answered after that registration.
        await two.a.report(two.offer, run_pb2.RUN_STATE_DONE, end=run_pb2.RUN_END_EXITED, exit_code=9)
        assert two.offer.fence in list(await two.a.until("stale"))
        assert JobStatus.Name((await two.job()).status) == "JOB_STATUS_STARTING"


async def test_an_agent_does_not_give_back_what_another_was_offered(fleet: Fleet) -> None:
    async with two_agents(fleet) as two, anyio.create_task_group() as tasks:
        tasks.start_soon(two.cancel)
        assert list(await two.b.until("revocations")) == [two.offer.fence]
        await two.a.report(two.offer, run_pb2.RUN_STATE_REVOKED)
        assert list(await two.a.until("stale")) == [two.offer.fence]
        assert JobStatus.Name((await two.job()).status) == "JOB_STATUS_RUNNABLE"
        await two.b.report(two.offer, run_pb2.RUN_STATE_REVOKED)
        await two.until_status("FAILED")


async def ship(fleet: Fleet, name: str, *segments: ingest_pb2.LogSegment) -> ingest_pb2.ShipLogsResponse:
    async with open_channel(fleet.targets["logs"], fleet.tls(Role.AGENT, name)) as channel:
        ingest: Any = LogIngestServiceStub(channel)
        requests = iter([ingest_pb2.ShipLogsRequest(segments=segments)])
        (answer,) = [answer async for answer in ingest.ShipLogs(requests, timeout=PATIENCE_S)]
        assert isinstance(answer, ingest_pb2.ShipLogsResponse)
        return answer


async def test_logs_are_taken_of_an_agents_own_attempts_alone(fleet: Fleet) -> None:
    async with two_agents(fleet) as two:
        spec = run_pb2.JobSpec.FromString(two.offer.job_spec)
        stream = two.offer.log_stream_name
        segment, foreign, unknown, elsewhere = (
            ingest_pb2.LogSegment(namespace=namespace, log_stream_name=name, data=b"text\n", read_at_ms=1000)
            for namespace, name in (
                (spec.namespace, stream),
                (spec.namespace, stream),
                (spec.namespace, f"definition/default/{'0' * 32}"),
                (ACCOUNT, stream),
            )
        )
        answer = await ship(fleet, "worker-a", foreign, unknown, elsewhere)
        assert not answer.positions
        assert {(log.namespace, log.log_stream_name) for log in answer.refused} == {
            (each.namespace, each.log_stream_name) for each in (foreign, unknown, elsewhere)
        }
        assert [path for path in fleet.logs_folder.rglob("*") if path.is_file()] == []
        answer = await ship(fleet, "worker-b", segment, unknown)
        assert [(position.log_stream_name, position.offset) for position in answer.positions] == [(stream, 5)]
        assert [log.log_stream_name for log in answer.refused] == [unknown.log_stream_name]


async def test_a_client_acts_for_the_account_in_its_certificate_alone(fleet: Fleet) -> None:
    request = jobs_pb2.DescribeJobsRequest(jobs=["00000000-0000-0000-0000-000000000000"])
    async with open_channel(fleet.targets["gateway"], fleet.tls(Role.CLIENT, "ci", ACCOUNT)) as channel:
        jobs: Any = JobsServiceStub(channel)
        for metadata in ((), tuple(metadata_for(Caller(ACCOUNT)))):
            await jobs.DescribeJobs(request, metadata=metadata, timeout=PATIENCE_S)
        error = await failure_of(
            jobs.DescribeJobs(request, metadata=tuple(metadata_for(Caller("123456789012"))), timeout=PATIENCE_S)
        )
        assert (error.code(), error.details()) == (
            DENIED,
            f"The certificate of client ci is for account {ACCOUNT} alone.",
        )
        agents: Any = AgentsServiceStub(channel)
        for call in (
            agents.ListAgents(agents_pb2.ListAgentsRequest(), timeout=PATIENCE_S),
            agents.WatchAgents(agents_pb2.WatchAgentsRequest(), timeout=PATIENCE_S).read(),
        ):
            assert (await failure_of(call)).code() is DENIED
    async with open_channel(fleet.targets["gateway"], fleet.tls(Role.CLIENT, "operator")) as channel:
        jobs, agents = JobsServiceStub(channel), AgentsServiceStub(channel)
        for account in (ACCOUNT, "123456789012"):
            await jobs.DescribeJobs(request, metadata=tuple(metadata_for(Caller(account))), timeout=PATIENCE_S)
        await agents.ListAgents(agents_pb2.ListAgentsRequest(), timeout=PATIENCE_S)
        assert (await agents.WatchAgents(agents_pb2.WatchAgentsRequest(), timeout=PATIENCE_S).read()).caught_up
