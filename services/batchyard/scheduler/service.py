"""The scheduler's services: sessions of agents, the list of them, and a watch of it."""

import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

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
from batchyard.rpc.identity import caller_of
from batchyard.rpc.peers import peer_of
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.session import Session

JOB_IDS_MAX: Final = 100
"""Jobs that are named of an agent."""

AGENTS_A_MESSAGE: Final = 500
"""Agents in one message of a watch."""

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
        view = View.of(request, context)
        return agents_pb2.ListAgentsResponse(agents=[self._summary(agent_id, view) for agent_id in self._agent_ids()])

    async def WatchAgents(  # noqa: N802
        self, request: agents_pb2.WatchAgentsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[agents_pb2.WatchAgentsResponse]:
        """Send all agents, then those of which something has changed, until the client leaves.

        A reader that is slow finds each agent as it is when the reader comes back: nothing is queued for it.
        """
        view = View.of(request, context)
        told: dict[str, News] = {}
        caught_up = False
        with self._scheduler.agent_changes.watch() as watch:
            agent_ids = self._agent_ids()
            while True:
                for start in range(0, len(agent_ids) or 1, AGENTS_A_MESSAGE):
                    response = self._response(agent_ids[start : start + AGENTS_A_MESSAGE], told, view)
                    response.caught_up = caught_up or start + AGENTS_A_MESSAGE >= len(agent_ids)
                    if response.agents or response.gone_agent_ids or response.caught_up > caught_up:
                        caught_up = response.caught_up
                        yield response
                agent_ids = sorted(await watch.changed())

    def _response(
        self, agent_ids: Iterable[str], told: "dict[str, News]", view: "View"
    ) -> agents_pb2.WatchAgentsResponse:
        """Return what is to be told of these agents to who was told this of them last, and note it."""
        response = agents_pb2.WatchAgentsResponse()
        for agent_id in agent_ids:
            if agent_id not in self._scheduler.drains and self._scheduler.roster.get(agent_id) is None:
                if told.pop(agent_id, None) is not None:
                    response.gone_agent_ids.append(agent_id)
                continue
            summary = self._summary(agent_id, view)
            news = self._news_of(summary)
            if told.get(agent_id) != news:
                told[agent_id] = news
                response.agents.append(summary)
        return response

    def _news_of(self, summary: agents_pb2.AgentSummary) -> "News":
        compared = agents_pb2.AgentSummary()
        compared.CopyFrom(summary)
        compared.ClearField("lease_left_ms")
        ends_at = self._scheduler.lease_ends_at(summary.agent_id)
        is_renewed = summary.connected and not summary.late and ends_at is not None
        return News(compared.SerializeToString(), None if is_renewed else ends_at, is_renewed)

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
        return agents_pb2.DrainAgentResponse(agent=self._summary(request.agent_id))

    async def ResumeAgent(  # noqa: N802
        self, request: agents_pb2.ResumeAgentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> agents_pb2.ResumeAgentResponse:
        """Offer a drained agent jobs again."""
        await self._scheduler.drain(request.agent_id, draining=False)
        return agents_pb2.ResumeAgentResponse(agent=self._summary(request.agent_id))

    def _agent_ids(self) -> list[str]:
        known = {record.agent_id for record in self._scheduler.roster}
        return sorted(known.union(self._scheduler.drains))

    def _summary(self, agent_id: str, view: "View | None" = None) -> agents_pb2.AgentSummary:
        """Return an agent as it is now, seen as of default by who may see all."""
        view = view or View()
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
        if is_drained or view.include_jobs:
            jobs = scheduler.planner.jobs_on(agent_id)
            named = (job.job_id for job in jobs if view.namespace is None or job.namespace == view.namespace)
            summary.job_ids.extend(islice(named, JOB_IDS_MAX))
        ends_at = scheduler.lease_ends_at(agent_id)
        if ends_at is not None:
            summary.lease_left_ms = int((ends_at - self._clock.monotonic_s()) * 1000)
            summary.late = scheduler.is_late(agent_id)
        if record is not None and record.registration is not None:
            summary.unshipped_logs = record.unshipped_logs
            summary.hostname = record.registration.hostname
            summary.runtime = record.registration.runtime
            summary.vcpus_milli = record.registration.capacity.vcpus_milli
            summary.memory_mib = record.registration.capacity.memory_mib
            summary.gpus = record.registration.capacity.gpus
            summary.compute_environments.extend(record.registration.compute_environments)
        return summary


@dataclass(frozen=True, slots=True)
class View:
    """What a reader wants to see of each agent."""

    include_jobs: bool = False
    namespace: str | None = None
    """Of the jobs that are named; None: of all."""

    @classmethod
    def of(
        cls,
        request: agents_pb2.ListAgentsRequest | agents_pb2.WatchAgentsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> "View":
        """Return what a request asks for."""
        return cls(request.include_jobs, caller_of(context).namespace if request.only_own_jobs else None)


class News(NamedTuple):
    """What of an agent is told anew when it is another."""

    summary: bytes
    """But for what is left of its lease."""
    lease_ends_at: float | None
    """Of a lease that is not renewed."""
    is_renewed: bool
