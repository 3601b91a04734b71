"""What `batchyard drain --wait` waits for, with a server that says how far it is."""

from collections.abc import AsyncIterator, Iterator
from itertools import repeat
from typing import Any

import anyio
import pytest

from batchyard.api.operations.v1 import agents_service_pb2 as pb
from batchyard.api.operations.v1.agents_service_pb2_grpc import (
    AgentsServiceServicer,
    add_AgentsServiceServicer_to_server,
)
from batchyard.cli import drain
from batchyard.domain.errors import UnavailableError
from batchyard.rpc.server import Service, serve_grpc


class FakeAgents(AgentsServiceServicer):
    """One agent that goes through some states, one each time it is asked for."""

    def __init__(self, states: Iterator[tuple[int, int]]) -> None:
        self._states = states
        self.resumed: list[str] = []
        self.watches = 0

    def _next(self) -> pb.AgentSummary:
        runs, unshipped = next(self._states)
        return pb.AgentSummary(agent_id="agent", status="DRAINING", runs=runs, unshipped_logs=unshipped)

    async def ListAgents(self, request: Any, context: Any) -> pb.ListAgentsResponse:  # noqa: N802
        return pb.ListAgentsResponse(agents=[self._next()])

    async def WatchAgents(self, request: Any, context: Any) -> AsyncIterator[pb.WatchAgentsResponse]:  # noqa: N802
        """Tell of three states, break off, and go on when asked again, until nothing is there any more."""
        self.watches += 1
        other = pb.AgentSummary(agent_id="other")
        for _ in range(3):
            yield pb.WatchAgentsResponse(agents=[other], caught_up=True)
            agent = self._next()
            yield pb.WatchAgentsResponse(agents=[agent, other], caught_up=True)
            if not agent.runs and not agent.unshipped_logs:
                await anyio.sleep_forever()
        raise UnavailableError("the server is stopping")

    async def DrainAgent(self, request: Any, context: Any) -> pb.DrainAgentResponse:  # noqa: N802
        return pb.DrainAgentResponse(agent=self._next())

    async def ResumeAgent(self, request: Any, context: Any) -> pb.ResumeAgentResponse:  # noqa: N802
        self.resumed.append(request.agent_id)
        return pb.ResumeAgentResponse(agent=self._next())


async def test_a_drain_waits_for_jobs_and_then_for_their_logs(capsys: pytest.CaptureFixture[str]) -> None:
    states = iter([(1, 0), (1, 0), (1, 0), (0, 2), (0, 2), (0, 1), (0, 0), (9, 9)])
    agents = FakeAgents(states)
    async with serve_grpc([Service.of(add_AgentsServiceServicer_to_server, agents)], address="127.0.0.1:0") as port:
        await drain.drain_agent(f"127.0.0.1:{port}", "agent", None, limit_s=None, resume=False, wait=True)
    assert list(states) == [(9, 9)]
    assert agents.watches == 2
    said = [line.partition("DRAINING, ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said[1:] == [
        "nothing runs on it, and 2 logs are still on their way",
        "nothing runs on it, and 1 logs are still on their way",
        "nothing runs on it",
    ]


async def test_an_agent_is_resumed_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    agents = FakeAgents(repeat((0, 0)))
    async with serve_grpc([Service.of(add_AgentsServiceServicer_to_server, agents)], address="127.0.0.1:0") as port:
        await drain.drain_agent(f"127.0.0.1:{port}", "agent", None, limit_s=None, resume=True, wait=False)
    assert agents.resumed == ["agent"]
    assert capsys.readouterr().err == "agent agent takes jobs again\n"
