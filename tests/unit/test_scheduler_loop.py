"""The loop's own rules: it leads only while its stream with the job store is up and complete, and under its lease."""

import math

import anyio
import pytest

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.scheduler.loop import OFFERS_A_TURN, Scheduler
from batchyard.scheduler.outbox import StoreOutbox
from batchyard.scheduler.session import Session
from support.scheduler_world import VirtualClock, a_fence, a_held_run, a_queued_job, a_registration, join, lead


async def answers(session: Session) -> bool:
    with anyio.move_on_after(0):
        return bool((await session.outbox.take()).heartbeat)
    return False


async def test_heartbeats_are_not_answered_and_leases_not_renewed_while_the_store_is_away(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead(scheduler)
    session = await join(scheduler, clock)
    scheduler.store_closed(outbox)
    scheduler.agent_said(session, session_pb2.ConnectRequest(heartbeat=7))
    assert not await answers(session)
    lead(scheduler, agents=[wire.LiveAgent(agent_id="agent", incarnation=1)])
    assert await answers(session)


async def test_nothing_is_planned_while_a_snapshot_comes_in(scheduler: Scheduler, clock: VirtualClock) -> None:
    lead(scheduler)
    await join(scheduler, clock)
    scheduler.store_opened(StoreOutbox())
    scheduler.leadership_renewed(math.inf)
    scheduler.store_said(wire.DispatchResponse(runnable=[a_queued_job()]))
    assert scheduler.turn() is None
    assert scheduler.planner.use_of("agent").runs == 0
    scheduler.store_said(
        wire.DispatchResponse(agents=[wire.LiveAgent(agent_id="agent", incarnation=1)], snapshot_complete=True)
    )
    scheduler.turn()
    assert scheduler.planner.use_of("agent").runs == 1


async def test_what_a_snapshot_demands_is_sent_together_with_the_offer_that_it_is_about(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    lead(scheduler)
    session = await join(scheduler, clock)
    scheduler.store_opened(StoreOutbox())
    scheduler.leadership_renewed(math.inf)
    demand = wire.RunDemand(agent_id="agent", incarnation=1, fence=a_fence())
    scheduler.store_said(wire.DispatchResponse(held=[a_held_run()], demands=[demand]))
    assert session.outbox.take_now() is None
    scheduler.store_said(
        wire.DispatchResponse(agents=[wire.LiveAgent(agent_id="agent", incarnation=1)], snapshot_complete=True)
    )
    message = await session.outbox.take()
    assert [offer.fence for offer in message.offers] == list(message.revocations) == [a_fence()]


async def test_the_end_of_an_older_stream_does_not_end_the_lead_of_a_newer_one(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    older = lead(scheduler)
    newer = lead(scheduler)
    scheduler.store_closed(older)
    await join(scheduler, clock)
    scheduler.store_said(wire.DispatchResponse(runnable=[a_queued_job()]))
    scheduler.turn()
    with anyio.fail_after(60):
        while not (await newer.take()).proposals:
            pass


async def test_a_long_backlog_is_planned_in_turns(scheduler: Scheduler, clock: VirtualClock) -> None:
    lead(scheduler, runnable=[a_queued_job(f"job-{number}", sequence=number) for number in range(OFFERS_A_TURN + 1)])
    await join(scheduler, clock, vcpus=10_000)
    assert scheduler.turn() == clock.monotonic_s()
    assert scheduler.planner.use_of("agent").runs == OFFERS_A_TURN
    scheduler.turn()
    assert scheduler.planner.use_of("agent").runs == OFFERS_A_TURN + 1


async def test_an_idle_scheduler_sleeps_until_the_next_lease_needs_care(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    lead(scheduler)
    scheduler.turn()
    clock.monotonic += 1  # then it looks again at the reasons that the new environment may have changed
    assert scheduler.turn() is None
    await join(scheduler, clock)
    scheduler.turn()
    clock.monotonic += 1
    assert scheduler.turn() == pytest.approx(clock.monotonic_s() + 14)


async def test_a_leader_whose_lease_is_over_neither_plans_nor_grants_leases(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    lead(scheduler, until=clock.monotonic_s() + 10)
    session = await join(scheduler, clock)
    clock.monotonic += 10
    scheduler.store_said(wire.DispatchResponse(runnable=[a_queued_job()]))
    scheduler.agent_said(session, session_pb2.ConnectRequest(heartbeat=7))
    assert scheduler.turn() is None
    assert scheduler.planner.use_of("agent").runs == 0
    assert not await answers(session)
    scheduler.leadership_renewed(clock.monotonic_s() + 10)
    scheduler.agent_said(session, session_pb2.ConnectRequest(heartbeat=8))
    scheduler.turn()
    assert scheduler.planner.use_of("agent").runs == 1
    assert await answers(session)


async def test_a_snapshot_alone_does_not_make_a_leader(scheduler: Scheduler, clock: VirtualClock) -> None:
    scheduler.store_opened(StoreOutbox())
    scheduler.store_said(wire.DispatchResponse(snapshot_complete=True))
    assert scheduler.turn() is None
    scheduler.leadership_renewed(clock.monotonic_s() + 10)
    await join(scheduler, clock)
    assert scheduler.turn() is not None


async def test_what_a_snapshot_tells_of_an_agent_outlives_a_session_that_ends_before_the_lead(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    fence = run_pb2.Fence(epoch=1, number=1)
    held = wire.HeldRun(
        fence=fence,
        job=wire.JobRef(namespace="123456789012", job_id="job"),
        agent_id="agent",
        incarnation=1,
        state=run_pb2.RUN_STATE_OFFERED,
        compute_environment="default",
        vcpus_milli=1000,
        memory_mib=64,
        offer=run_pb2.RunOffer(fence=fence),
    )
    scheduler.store_opened(StoreOutbox())
    scheduler.store_said(
        wire.DispatchResponse(
            agents=[wire.LiveAgent(agent_id="agent", incarnation=1)], held=[held], snapshot_complete=True
        )
    )
    early = Session(a_registration(vcpus=2, memory_mib=1_000_000), clock.monotonic_s())
    scheduler.session_opened(early)
    scheduler.session_closed(early)
    scheduler.leadership_renewed(math.inf)
    session = Session(a_registration(vcpus=2, memory_mib=1_000_000), clock.monotonic_s())
    scheduler.session_opened(session)
    scheduler.store_said(
        wire.DispatchResponse(registered=[wire.AgentRegistered(agent_id="agent", incarnation=1, accepted=True)])
    )
    assert [offer.fence for offer in (await session.outbox.take()).offers] == [fence]
