"""A watch of the agents: all at first, then what has changed, together, and nothing while nothing does."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio
import grpc
import grpc.aio
import pytest

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.operations.v1.agents_service_pb2 import AgentSummary, WatchAgentsRequest, WatchAgentsResponse
from batchyard.api.operations.v1.agents_service_pb2_grpc import (
    AgentsServiceStub,
    add_AgentsServiceServicer_to_server,
)
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.clock import CLOCK_MARGIN
from batchyard.rpc.identity import NAMESPACE_KEY
from batchyard.rpc.server import Service
from batchyard.scheduler import service
from batchyard.scheduler.agent_changes import PASSED_ON_EVERY_S
from batchyard.scheduler.config import SchedulerConfig
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.service import AgentsServicer
from support.contexts import held_open
from support.loop_time import LoopTime
from support.scheduler import NAMESPACE
from support.scheduler_world import (
    Transport,
    VirtualClock,
    a_fence,
    a_held_run,
    in_process,
    join,
    lead,
    over_a_socket,
)
from support.waiting import eventually

if TYPE_CHECKING:
    from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceAsyncStub

LIVE = [wire.LiveAgent(agent_id="agent", incarnation=1)]
STARTED = run_pb2.RUN_STATE_STARTED
LEASE = SchedulerConfig()


class Reader:
    """Who watches, with the picture that follows from what was sent."""

    def __init__(self, responses: AsyncIterator[WatchAgentsResponse]) -> None:
        self._responses = responses
        self.agents: dict[str, AgentSummary] = {}

    async def next(self) -> list[str]:
        """Take one response in; return the ids in it."""
        with anyio.fail_after(30):
            response = await anext(self._responses)
        assert response.caught_up
        self.agents.update((agent.agent_id, agent) for agent in response.agents)
        for agent_id in response.gone_agent_ids:
            del self.agents[agent_id]
        return [*(agent.agent_id for agent in response.agents), *response.gone_agent_ids]

    @property
    def agent(self) -> AgentSummary:
        """The agent `agent`."""
        return self.agents["agent"]


class Caller:
    """Who calls, as a server knows it."""

    def __init__(self, account: str = NAMESPACE) -> None:
        self._account = account

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return ((NAMESPACE_KEY, self._account),)


@asynccontextmanager
async def watching(
    scheduler: Scheduler, clock: VirtualClock, account: str = NAMESPACE, **members: bool
) -> AsyncIterator[Reader]:
    servicer = AgentsServicer(scheduler, clock)
    responses = servicer.WatchAgents(WatchAgentsRequest(**members), cast("Any", Caller(account)))
    try:
        yield Reader(responses)
    finally:
        await cast("Any", responses).aclose()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Changes are passed on without delay, but in tests of the delay."""
    if "loop_time" not in request.fixturenames:
        monkeypatch.setattr("batchyard.scheduler.agent_changes.PASSED_ON_EVERY_S", 0.0)


@pytest.fixture
async def loop_time(monkeypatch: pytest.MonkeyPatch) -> LoopTime:
    return LoopTime(monkeypatch)


def say(scheduler: Scheduler, **members: Any) -> None:
    scheduler.store_said(wire.DispatchResponse(**members))


def an_end(number: int = 1) -> list[wire.EndedRun]:
    return [wire.EndedRun(agent_id="agent", fence=a_fence(number), ran_for_ms=1)]


async def test_the_first_message_has_all_agents_or_says_that_there_are_none(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    lead(scheduler)
    async with watching(scheduler, clock) as reader:
        assert await reader.next() == []
    await join(scheduler, clock)
    async with watching(scheduler, clock) as reader:
        assert await reader.next() == ["agent"]
    assert reader.agent.connected
    assert not reader.agent.late


async def test_each_change_of_an_agent_is_told(scheduler: Scheduler, clock: VirtualClock) -> None:
    lead(scheduler)
    async with watching(scheduler, clock) as reader:
        await reader.next()
        session = await join(scheduler, clock)
        assert await reader.next() == ["agent"]
        assert (reader.agent.connected, reader.agent.vcpus_milli) == (True, 2000)

        say(scheduler, held=[a_held_run(state=STARTED)])
        assert await reader.next() == ["agent"]
        assert (reader.agent.runs, reader.agent.vcpus_milli_used) == (1, 1000)
        say(scheduler, ended=an_end())
        assert await reader.next() == ["agent"]
        assert reader.agent.runs == 0

        say(scheduler, drains=[wire.AgentDrain(agent_id="agent", draining=True)])
        assert await reader.next() == ["agent"]
        assert reader.agent.status == "DRAINING"
        say(scheduler, drains=[wire.AgentDrain(agent_id="agent", draining=False)])
        assert await reader.next() == ["agent"]
        assert reader.agent.status == "ACTIVE"

        scheduler.agent_said(session, session_pb2.ConnectRequest(unshipped_logs=3))
        assert await reader.next() == ["agent"]
        assert reader.agent.unshipped_logs == 3

        scheduler.session_closed(session)
        assert await reader.next() == ["agent"]
        assert not reader.agent.connected
        clock.monotonic += (LEASE.lease_s + LEASE.kill_budget_s) * CLOCK_MARGIN
        scheduler.turn()
        assert await reader.next() == ["agent"]
        assert reader.agents == {}


async def test_an_agent_that_is_silent_is_told_once_and_once_more_when_it_is_heard(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    lead(scheduler)
    session = await join(scheduler, clock)
    async with watching(scheduler, clock) as reader:
        await reader.next()
        clock.monotonic += LEASE.suspicion_s
        scheduler.turn()
        await reader.next()
        assert reader.agent.late
        left_s = (LEASE.lease_s + LEASE.kill_budget_s) * CLOCK_MARGIN - LEASE.suspicion_s
        assert reader.agent.lease_left_ms == int(left_s * 1000)
        scheduler.turn()
        scheduler.agent_said(session, session_pb2.ConnectRequest(heartbeat=2))
        await reader.next()
        assert (reader.agent.late, reader.agent.connected) == (False, True)


async def test_a_lease_that_is_not_renewed_is_told_anew_when_it_becomes_longer(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead(scheduler, agents=LIVE)
    async with watching(scheduler, clock) as reader:
        await reader.next()
        left_ms = reader.agent.lease_left_ms
        clock.monotonic += 1
        scheduler.store_closed(outbox)
        lead(scheduler, agents=LIVE)
        await reader.next()
        assert (reader.agent.connected, reader.agent.lease_left_ms) == (False, left_ms)


async def test_nothing_is_sent_while_nothing_changes(scheduler: Scheduler, clock: VirtualClock) -> None:
    lead(scheduler)
    session = await join(scheduler, clock)
    async with watching(scheduler, clock) as reader:
        await reader.next()
        news = asyncio.ensure_future(reader.next())
        for heartbeat in range(2, 100):
            clock.monotonic += LEASE.heartbeat_interval_s
            scheduler.agent_said(session, session_pb2.ConnectRequest(heartbeat=heartbeat))
            scheduler.turn()
            # As much has come as has gone before it was looked at.
            say(scheduler, held=[a_held_run(number=heartbeat, state=STARTED)])
            say(scheduler, ended=an_end(heartbeat))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not news.done()
        say(scheduler, drains=[wire.AgentDrain(agent_id="agent", draining=True)])
        assert await news == ["agent"]
        assert (reader.agent.status, reader.agent.runs) == ("DRAINING", 0)


async def test_changes_within_a_second_are_told_together(
    scheduler: Scheduler, clock: VirtualClock, loop_time: LoopTime
) -> None:
    lead(scheduler)
    await join(scheduler, clock)
    async with watching(scheduler, clock) as reader:
        await reader.next()
        say(scheduler, held=[a_held_run(number=0, state=STARTED)])
        await reader.next()
        assert reader.agent.runs == 1  # after a quiet time at once
        news = asyncio.ensure_future(reader.next())
        for number in range(1, 50):
            say(scheduler, held=[a_held_run(f"job-{number}", number=number, state=STARTED)])
            await loop_time.passes(0)
        assert not news.done()
        await loop_time.passes(PASSED_ON_EVERY_S)
        assert news.done()
        assert reader.agent.runs == 50


async def test_a_slow_reader_finds_the_newest_state_alone(scheduler: Scheduler, clock: VirtualClock) -> None:
    lead(scheduler)
    session = await join(scheduler, clock)
    async with watching(scheduler, clock) as reader:
        await reader.next()
        for unshipped in range(1, 20):
            scheduler.agent_said(session, session_pb2.ConnectRequest(unshipped_logs=unshipped))
            await asyncio.sleep(0)
        await reader.next()
        assert reader.agent.unshipped_logs == 19


async def test_many_agents_come_in_parts_and_the_last_says_that_it_is(
    scheduler: Scheduler, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "AGENTS_A_MESSAGE", 2)
    lead(scheduler, agents=[wire.LiveAgent(agent_id=name, incarnation=1) for name in "abcd"])
    servicer = AgentsServicer(scheduler, clock)
    parts = cast("Any", servicer.WatchAgents(WatchAgentsRequest(), cast("Any", Caller())))
    seen = [await anext(parts) for _ in range(2)]
    await parts.aclose()
    assert [[agent.agent_id for agent in part.agents] for part in seen] == [["a", "b"], ["c", "d"]]
    assert [part.caught_up for part in seen] == [False, True]


@pytest.mark.parametrize(("account", "named"), [(NAMESPACE, ["job"]), ("999999999999", [])])
async def test_jobs_of_other_accounts_are_counted_and_not_named_to_who_asks_for_its_own(
    scheduler: Scheduler, clock: VirtualClock, account: str, named: list[str]
) -> None:
    lead(scheduler)
    await join(scheduler, clock)
    async with watching(scheduler, clock, account, include_jobs=True, only_own_jobs=True) as reader:
        await reader.next()
        say(scheduler, held=[a_held_run(state=STARTED)])
        await reader.next()
    assert (reader.agent.runs, list(reader.agent.job_ids)) == (1, named)


async def test_one_job_after_another_is_a_change_for_who_asks_for_names(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    lead(scheduler)
    await join(scheduler, clock)
    say(scheduler, held=[a_held_run("first", number=1, state=STARTED)])
    async with watching(scheduler, clock, include_jobs=True) as reader:
        await reader.next()
        say(scheduler, ended=an_end(1), held=[a_held_run("second", number=2, state=STARTED)])
        await reader.next()
    assert list(reader.agent.job_ids) == ["second"]


async def test_a_snapshot_of_the_store_is_told_of_what_runs_no_more(scheduler: Scheduler, clock: VirtualClock) -> None:
    outbox = lead(scheduler)
    await join(scheduler, clock)
    say(scheduler, held=[a_held_run(state=STARTED)])
    async with watching(scheduler, clock) as reader:
        await reader.next()
        assert reader.agent.runs == 1
        scheduler.store_closed(outbox)
        lead(scheduler, agents=LIVE)
        await reader.next()
        assert reader.agent.runs == 0


async def test_nothing_is_noted_while_nobody_watches(scheduler: Scheduler, clock: VirtualClock) -> None:
    lead(scheduler)
    assert scheduler.planner.use_changed is None
    async with watching(scheduler, clock) as first, watching(scheduler, clock) as second:
        await first.next()
        await second.next()
        await cast("Any", first._responses).aclose()
        assert scheduler.planner.use_changed is not None
        await join(scheduler, clock)
        await second.next()
    assert scheduler.planner.use_changed is None


@pytest.mark.parametrize("transport", [in_process, over_a_socket])
async def test_a_watch_ends_with_its_reader_or_its_deadline(
    scheduler: Scheduler, clock: VirtualClock, transport: Transport
) -> None:
    lead(scheduler)
    served = [Service.of(add_AgentsServiceServicer_to_server, AgentsServicer(scheduler, clock))]
    async with held_open(transport(served)) as channel:
        agents: AgentsServiceAsyncStub = AgentsServiceStub(channel)
        watch = agents.WatchAgents(WatchAgentsRequest())
        with anyio.fail_after(30):
            assert isinstance(await watch.read(), WatchAgentsResponse)
        assert scheduler.planner.use_changed is not None
        watch.cancel()
        await eventually(lambda: scheduler.planner.use_changed is None, "the watch ends")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in agents.WatchAgents(WatchAgentsRequest(), timeout=0.1):
                pass
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: scheduler.planner.use_changed is None, "the watch ends")
