"""Commands that stay and show what changes: when they look, and when they do not."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from batchyard.api.operations.v1.agents_service_pb2 import WatchAgentsRequest, WatchAgentsResponse
from batchyard.api.operations.v1.job_operations_service_pb2 import WatchJobsRequest, WatchJobsResponse
from batchyard.api.operations.v1.overview_service_pb2 import MinuteCounts
from batchyard.cli.jobs import MEANWHILE_S, WATCH_PAUSE_S, whenever_changed
from batchyard.cli.session import Session
from batchyard.cli.top import ended_before
from support.loop_time import LoopTime

HOUR_S = 3600


class Server:
    """Tells of jobs and agents when the test says that they have changed."""

    def __init__(self) -> None:
        self.jobs: asyncio.Queue[WatchJobsResponse] = asyncio.Queue()
        self.agents: asyncio.Queue[WatchAgentsResponse] = asyncio.Queue()
        self.looks = 0
        self.session = cast(
            "Session",
            SimpleNamespace(
                operations=SimpleNamespace(WatchJobs=self._watch_jobs),
                agents=SimpleNamespace(WatchAgents=self._watch_agents),
                metadata=(),
            ),
        )

    async def _watch_jobs(self, request: WatchJobsRequest, metadata: Any) -> AsyncIterator[WatchJobsResponse]:
        yield WatchJobsResponse(revision=1)
        while True:
            yield await self.jobs.get()

    async def _watch_agents(self, request: WatchAgentsRequest, metadata: Any) -> AsyncIterator[WatchAgentsResponse]:
        yield WatchAgentsResponse(caught_up=True)
        while True:
            yield await self.agents.get()

    async def look(self, session: Session) -> None:
        """Ask for all that is shown."""
        self.looks += 1


async def test_what_stays_looks_when_a_job_or_an_agent_has_changed_and_else_shows_what_it_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, shown_again = Server(), 0

    def show_again() -> None:
        nonlocal shown_again
        shown_again += 1

    async def follow() -> None:
        await whenever_changed(server.session, server.look, agents=True, meanwhile=show_again)

    time = LoopTime(monkeypatch)
    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await time.passes(0)
        await time.passes(WATCH_PAUSE_S)
        begun = server.looks
        assert begun in (1, 2)  # one watch may begin after the first look
        for _ in range(int(HOUR_S / MEANWHILE_S)):
            await time.passes(MEANWHILE_S)
        assert server.looks == begun
        assert shown_again >= HOUR_S / MEANWHILE_S - 2
        server.agents.put_nowait(WatchAgentsResponse(gone_agent_ids=["agent"], caught_up=True))
        await time.passes(0)
        assert server.looks == begun + 1
        await time.passes(WATCH_PAUSE_S)
        server.jobs.put_nowait(WatchJobsResponse(revision=2))
        await time.passes(0)
        assert server.looks == begun + 2
        group.cancel_scope.cancel()


@pytest.mark.parametrize(("later_s", "ended"), [(0, 5), (29, 5), (30, 7), (90, 0), (7200, 0)])
def test_what_ended_in_the_minute_before_is_known_without_looking_again(later_s: float, ended: int) -> None:
    minutes = [MinuteCounts(begin=begin, succeeded=count, failed=1) for begin, count in ((0, 3), (60, 4), (120, 6))]
    looked_at = 150.0
    assert ended_before(minutes, looked_at, looked_at + later_s) == ended
    assert ended_before(minutes[-1:], looked_at, looked_at) == 0
    assert ended_before([], looked_at, looked_at + later_s) == 0
