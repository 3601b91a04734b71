"""Draining an agent: what the loop makes of what the store keeps, and when a limit is over."""

import anyio
import pytest

from batchyard.api.agent.v1 import run_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.errors import NotFoundError, UnavailableError
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.outbox import StoreOutbox
from support.scheduler_world import VirtualClock, a_fence, a_held_run, a_queued_job, join, lead

LIVE = [wire.LiveAgent(agent_id="agent", incarnation=1)]


def a_drain(*, limit_ms: int | None = None, draining: bool = True, request: int = 0) -> wire.AgentDrain:
    return wire.AgentDrain(agent_id="agent", draining=draining, limit_ms=limit_ms, request=request)


def say(scheduler: Scheduler, drain: wire.AgentDrain) -> None:
    scheduler.store_said(wire.DispatchResponse(drains=[drain]))


def asked_of(outbox: StoreOutbox) -> wire.DispatchRequest:
    """Return all that the scheduler has asked of the store since the last time."""
    asked = wire.DispatchRequest()
    while (message := outbox.take_now()) is not None:
        asked.MergeFrom(message)
    return asked


async def test_a_drain_is_answered_when_the_store_has_committed_it(scheduler: Scheduler) -> None:
    outbox = lead(scheduler)
    async with anyio.create_task_group() as tasks:
        is_done = False

        async def drain() -> None:
            nonlocal is_done
            await scheduler.drain("agent", draining=True, limit_ms=7000)
            is_done = True

        tasks.start_soon(drain)
        with anyio.fail_after(30):
            (asked,) = (await outbox.take()).drains
        assert (asked.agent_id, asked.draining, asked.limit_ms) == ("agent", True, 7000)
        assert not is_done
        say(scheduler, asked)
    assert is_done
    assert "agent" in scheduler.drains


async def test_an_agent_that_the_store_does_not_know_cannot_be_drained(scheduler: Scheduler) -> None:
    outbox = lead(scheduler)

    async def answer() -> None:
        (asked,) = (await outbox.take()).drains
        asked.unknown = True
        say(scheduler, asked)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        with pytest.raises(NotFoundError, match="agent nobody does not exist"):
            await scheduler.drain("nobody", draining=True)
    assert list(scheduler.drains) == []


async def test_what_was_asked_of_a_store_that_went_away_is_not_known(scheduler: Scheduler) -> None:
    outbox = lead(scheduler)

    async def go_away() -> None:
        await outbox.take()
        scheduler.store_closed(outbox)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go_away)
        with pytest.raises(UnavailableError, match="whether this was done is not known"):
            await scheduler.drain("agent", draining=True)
    with pytest.raises(UnavailableError, match="not connected with the job store"):
        await scheduler.drain("agent", draining=True)


async def test_a_drained_agent_is_offered_nothing_and_asked_for_what_it_has_not_begun(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    running = a_held_run("running", number=2, state=run_pb2.RUN_STATE_STARTED)
    lead(scheduler, agents=LIVE, held=[a_held_run("offered"), running])
    session = await join(scheduler, clock, vcpus=8)
    say(scheduler, a_drain())
    message = session.outbox.take_now()
    assert message is not None
    assert list(message.revocations) == [a_fence(1)]
    assert not message.kills
    scheduler.store_said(wire.DispatchResponse(runnable=[a_queued_job("next", sequence=9)]))
    scheduler.turn()
    assert scheduler.planner.use_of("agent").runs == 2
    say(scheduler, a_drain(draining=False))
    scheduler.turn()
    assert scheduler.planner.use_of("agent").runs == 3


async def test_a_new_scheduler_learns_of_drains_from_the_snapshot(scheduler: Scheduler, clock: VirtualClock) -> None:
    lead(scheduler, agents=LIVE, held=[a_held_run()], drains=[a_drain()], runnable=[a_queued_job("next", sequence=9)])
    session = await join(scheduler, clock, vcpus=8)
    scheduler.turn()
    assert scheduler.planner.use_of("agent").runs == 1
    assert scheduler.roster.record("agent").demands == {(1, 1): False}
    assert session.outbox.take_now() is None  # the demand went out with the welcome


async def test_past_the_limit_the_store_is_asked_once_to_end_what_runs(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead(scheduler, agents=LIVE, held=[a_held_run(state=run_pb2.RUN_STATE_STARTED)])
    say(scheduler, a_drain(limit_ms=7000, request=1))
    scheduler.turn()
    asked_of(outbox)
    clock.monotonic += 6.9
    assert scheduler.turn() == pytest.approx(clock.monotonic + 0.1)
    assert not asked_of(outbox).evictions
    clock.monotonic += 0.1
    scheduler.turn()
    assert list(asked_of(outbox).evictions) == ["agent"]
    scheduler.turn()
    assert not asked_of(outbox).evictions


async def test_a_limit_is_counted_on_over_a_break_of_the_stream_and_anew_when_it_is_set_again(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead(scheduler, drains=[a_drain(limit_ms=7000)])
    clock.monotonic += 5
    scheduler.store_closed(outbox)
    outbox = lead(scheduler, drains=[a_drain(limit_ms=7000)])
    clock.monotonic += 2
    scheduler.turn()
    assert list(asked_of(outbox).evictions) == ["agent"]
    say(scheduler, a_drain(limit_ms=7000, request=3))
    clock.monotonic += 6
    scheduler.turn()
    assert not asked_of(outbox).evictions


async def test_an_eviction_that_a_store_may_have_missed_is_asked_for_again(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead(scheduler, drains=[a_drain(limit_ms=0)])
    scheduler.turn()
    assert list(asked_of(outbox).evictions) == ["agent"]
    scheduler.store_closed(outbox)
    outbox = lead(scheduler, drains=[a_drain(limit_ms=0)])
    scheduler.turn()
    assert list(asked_of(outbox).evictions) == ["agent"]


async def test_an_agent_that_was_resumed_while_the_scheduler_was_away_takes_jobs_again(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead(scheduler, drains=[a_drain()])
    await join(scheduler, clock, vcpus=8)
    scheduler.store_closed(outbox)
    lead(scheduler, agents=LIVE, runnable=[a_queued_job()])
    assert list(scheduler.drains) == []
    scheduler.turn()
    assert scheduler.planner.use_of("agent").runs == 1


async def test_agents_are_told_under_which_epochs_they_are_led_also_when_these_change(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead(scheduler, welcome=wire.SchedulerWelcome(store_epoch=3, leader_epoch=8))
    session = await join(scheduler, clock)
    scheduler.store_closed(outbox)
    lead(scheduler, agents=LIVE, welcome=wire.SchedulerWelcome(store_epoch=4, leader_epoch=11))
    message = session.outbox.take_now()
    assert message is not None
    assert (message.welcome.store_epoch, message.welcome.leader_epoch) == (4, 11)
