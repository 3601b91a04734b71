"""The reading end of the dispatch stream."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from batchyard.api.agent.v1 import run_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.errors import SupersededError
from batchyard.jobstore.dispatch import DispatchServicer
from batchyard.jobstore.feed import Feed, Subscription
from batchyard.jobstore.fronts import Fronts
from batchyard.jobstore.leadership import Leadership
from batchyard.jobstore.reasons import WaitReasons
from batchyard.jobstore.writer import Writer
from support.scheduler_world import VirtualClock


class Told:
    """A writer that only counts what it is told."""

    def __init__(self) -> None:
        self.count = 0

    def tell(self, act: Callable[[Any], object], *keys: object) -> None:
        self.count += 1


async def losses(count: int) -> AsyncIterator[wire.DispatchRequest]:
    for _ in range(count):
        yield wire.DispatchRequest(lost_agents=[wire.LiveAgent(agent_id="agent", incarnation=1)])


async def reports(*states: int) -> AsyncIterator[wire.DispatchRequest]:
    for state in states:
        report = run_pb2.RunReport.FromString(bytes([4 << 3, state]))
        yield wire.DispatchRequest(reports=[wire.AgentReports(agent_id="agent", incarnation=1, reports=[report])])


@asynccontextmanager
async def a_servicer(writer: Told) -> AsyncIterator[DispatchServicer]:
    async with anyio.create_task_group() as tasks:
        yield DispatchServicer(
            writer=cast("Writer", writer),
            feed=Feed(),
            database=Path("unused"),
            epoch=lambda: 1,
            leadership=Leadership(None, holder="", now=0),
            reasons=WaitReasons(),
            fronts=Fronts(),
            clock=VirtualClock(),
            tasks=tasks,
        )


@pytest.mark.parametrize(("superseded", "told"), [(False, 3), (True, 0)])
async def test_what_a_scheduler_says_counts_only_while_it_leads(superseded: bool, told: int) -> None:
    writer, subscription = Told(), Subscription()
    async with a_servicer(writer) as servicer:
        if superseded:
            subscription.close(SupersededError("another one leads"))
        await servicer._read(losses(3), "scheduler", 1, subscription, anyio.CancelScope())
    assert writer.count == told


async def test_a_state_that_a_newer_agent_reports_is_passed_over_with_nothing_else() -> None:
    writer, subscription = Told(), Subscription()
    async with a_servicer(writer) as servicer:
        requests = reports(run_pb2.RUN_STATE_CLAIMED, 77, 0, run_pb2.RUN_STATE_DONE)
        await servicer._read(requests, "scheduler", 1, subscription, anyio.CancelScope())
    assert writer.count == 2
