"""The scheduler's services: sessions of agents, and the list of them."""

import logging
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import Any, Final

import anyio
import grpc
import grpc.aio
from anyio.abc import TaskGroup

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1.agent_session_service_pb2_grpc import AgentSessionServiceServicer
from batchyard.api.operations.v1 import agents_service_pb2 as agents_pb2
from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceServicer
from batchyard.domain.clock import Clock
from batchyard.domain.errors import InvalidRequestError, UnavailableError
from batchyard.domain.jobs import JobKey
from batchyard.rpc.identity import caller_of
from batchyard.rpc.peers import peer_of
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.session import Session

JOB_IDS_MAX: Final = 100
"""Jobs that are named of an agent."""

_log = logging.getLogger(__name__)


class AgentSessionServicer(AgentSessionServiceServicer):
    """Serves one stream for each agent."""

    def __init__(self, scheduler: Scheduler, clock: Clock, tasks: TaskGroup) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._tasks = tasks

    async def Connect(  # noqa: N802
        self,
        request_iterator: AsyncIterator[session_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[session_pb2.ConnectResponse]:
        """Serve an agent until it leaves, is superseded by a session of its own, or has no right to run any more."""
        first = await anext(request_iterator, None)
        if first is None or not first.registration.agent_id:
            raise InvalidRequestError("the first message must be the registration of an agent", field="registration")
        session = Session(first.registration, self._clock.monotonic_s(), peer_of(context))
        self._scheduler.session_opened(session)
        scope = anyio.CancelScope()
        try:
            self._scheduler.agent_said(session, first)
            # A task of its own: a generator must not hold a task group open while it yields.
            self._tasks.start_soon(self._read, request_iterator, session, scope)
            while True:
                yield await session.outbox.take()
        finally:
            scope.cancel()
            self._scheduler.session_closed(session)

    async def _read(
        self,
        requests: AsyncIterator[session_pb2.ConnectRequest],
        session: Session,
        scope: anyio.CancelScope,
    ) -> None:
        with scope:
            try:
                async for request in requests:
                    self._scheduler.agent_said(session, request)
            except (grpc.RpcError, grpc.aio.BaseError) as error:  # the latter when this side has ended the stream
                _log.debug("the stream of agent %s broke: %s", session.agent.agent_id, error)
            session.outbox.close(UnavailableError("the agent has ended its stream"))


class AgentsServicer(AgentsServiceServicer):
    """Says which agents there are, and drains them."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        self._scheduler = scheduler
        self._clock = clock

    async def ListAgents(  # noqa: N802
        self, request: agents_pb2.ListAgentsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> agents_pb2.ListAgentsResponse:
        """List all agents, connected or not, by id."""
        known = {record.agent_id for record in self._scheduler.roster}
        drained = self._scheduler.drains
        agent_ids = sorted(known.union(drained))
        jobs = self._scheduler.planner.jobs_by_agent() if request.include_jobs or drained else {}
        namespace = caller_of(context).namespace if request.only_own_jobs else None
        return agents_pb2.ListAgentsResponse(
            agents=[
                self._summary(
                    agent_id,
                    jobs.get(agent_id, ()) if request.include_jobs or agent_id in drained else (),
                    namespace,
                )
                for agent_id in agent_ids
            ]
        )

    async def DrainAgent(  # noqa: N802
        self, request: agents_pb2.DrainAgentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> agents_pb2.DrainAgentResponse:
        """Offer an agent nothing more."""
        if request.limit_seconds < 0:
            raise InvalidRequestError(
                f"limitSeconds must be at least 0, not {request.limit_seconds}.", field="limitSeconds"
            )
        limit_ms = request.limit_seconds * 1000 if request.HasField("limit_seconds") else None
        await self._scheduler.drain(request.agent_id, draining=True, limit_ms=limit_ms)
        return agents_pb2.DrainAgentResponse(agent=self._summary(request.agent_id, self._jobs_on(request.agent_id)))

    async def ResumeAgent(  # noqa: N802
        self, request: agents_pb2.ResumeAgentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> agents_pb2.ResumeAgentResponse:
        """Offer a drained agent jobs again."""
        await self._scheduler.drain(request.agent_id, draining=False)
        return agents_pb2.ResumeAgentResponse(agent=self._summary(request.agent_id))

    def _jobs_on(self, agent_id: str) -> Iterable[JobKey]:
        return self._scheduler.planner.jobs_by_agent().get(agent_id, ())

    def _summary(
        self, agent_id: str, jobs: Iterable[JobKey] = (), namespace: str | None = None
    ) -> agents_pb2.AgentSummary:
        """Return an agent as it is now; of these jobs the first are named, those of a namespace if one is given."""
        scheduler = self._scheduler
        record, use, is_drained = (
            scheduler.roster.get(agent_id),
            scheduler.planner.use_of(agent_id),
            agent_id in scheduler.drains,
        )
        summary = agents_pb2.AgentSummary(
            agent_id=agent_id,
            connected=record is not None and record.is_connected,
            vcpus_milli_used=use.used.vcpus_milli,
            memory_mib_used=use.used.memory_mib,
            gpus_used=use.used.gpus,
            runs=use.runs,
            status="DRAINING" if is_drained else "ACTIVE",
        )
        named = (job.job_id for job in jobs if namespace is None or job.namespace == namespace)
        summary.job_ids.extend(islice(named, JOB_IDS_MAX))
        lease_left = scheduler.lease_left(agent_id, self._clock.monotonic_s())
        if lease_left is not None:
            summary.lease_left_ms = int(lease_left * 1000)
        if record is not None and record.registration is not None:
            summary.unshipped_logs = record.unshipped_logs
            summary.hostname = record.registration.hostname
            summary.runtime = record.registration.runtime
            summary.vcpus_milli = record.registration.capacity.vcpus_milli
            summary.memory_mib = record.registration.capacity.memory_mib
            summary.gpus = record.registration.capacity.gpus
            summary.compute_environments.extend(record.registration.compute_environments)
        return summary
