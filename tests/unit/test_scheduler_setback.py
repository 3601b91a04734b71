"""After the job store was set back, nothing is offered until what it may have forgotten is over."""

import pytest

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.clock import CLOCK_MARGIN
from batchyard.domain.errors import StaleIncarnationError, UnavailableError
from batchyard.scheduler import setback
from batchyard.scheduler.config import SchedulerConfig
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.outbox import StoreOutbox
from batchyard.scheduler.session import Session
from support.scheduler import a_queue, an_environment
from support.scheduler_world import VirtualClock, a_fence, a_queued_job, a_registration, a_report, join, lead

WAIT_S = (60 + 15) * CLOCK_MARGIN
ACCEPTED = wire.AgentRegistered(agent_id="agent", incarnation=1, accepted=True)


@pytest.fixture
def scheduler(clock: VirtualClock) -> Scheduler:
    scheduler = Scheduler(SchedulerConfig(lease_s=60), clock)
    scheduler.planner.put_environment(an_environment())
    scheduler.planner.put_queue(a_queue())
    scheduler.resources_changed(complete=True)
    return scheduler


def lead_after_set_back(scheduler: Scheduler, number: int = 7) -> StoreOutbox:
    """Have it lead on a store that was set back, in which a job waits."""
    welcome = wire.SchedulerWelcome(leader_epoch=1, store_epoch=number, set_back=number)
    return lead(scheduler, welcome=welcome, runnable=[a_queued_job()])


def said(outbox: StoreOutbox) -> wire.DispatchRequest:
    """Return everything that is to be sent to the store."""
    everything = wire.DispatchRequest()
    while (message := outbox.take_now()) is not None:
        everything.MergeFrom(message)
    return everything


async def test_nothing_is_proposed_until_the_leases_from_before_are_over(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead_after_set_back(scheduler)
    await join(scheduler, clock)
    scheduler.turn()
    clock.monotonic += 2
    scheduler.turn()
    early = said(outbox)
    assert not early.proposals
    assert [reason.reason for reason in early.wait_reasons] == [setback.REASON]
    clock.monotonic += WAIT_S - 3
    scheduler.agent_said(scheduler.roster.record("agent").session or pytest.fail("it has left"), a_heartbeat())
    scheduler.turn()
    assert not said(outbox).proposals
    clock.monotonic += 1
    scheduler.turn()
    late = said(outbox)
    assert len(late.proposals) == 1
    assert late.set_back_over == 7


def a_heartbeat() -> session_pb2.ConnectRequest:
    return session_pb2.ConnectRequest(heartbeat=2)


def test_it_wakes_for_the_end_of_the_wait(scheduler: Scheduler, clock: VirtualClock) -> None:
    lead_after_set_back(scheduler)
    began = clock.monotonic
    while (deadline := scheduler.turn()) is not None and deadline <= began + WAIT_S:
        clock.monotonic = max(clock.monotonic + 0.001, deadline)
    assert clock.monotonic >= began + WAIT_S
    assert not scheduler._set_back.lasts(clock.monotonic)


async def test_the_wait_goes_on_over_a_lost_stream_and_begins_anew_with_another_restore(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    scheduler.store_closed(lead_after_set_back(scheduler))
    clock.monotonic += 50
    lead_after_set_back(scheduler)
    clock.monotonic += WAIT_S - 50
    assert not scheduler._set_back.lasts(clock.monotonic)
    outbox = lead_after_set_back(scheduler, number=8)
    await join(scheduler, clock)
    scheduler.turn()
    assert not said(outbox).proposals


async def test_a_lease_that_the_store_has_forgotten_is_waited_for_if_it_is_told(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    welcome = wire.SchedulerWelcome(leader_epoch=1, store_epoch=7, set_back=7, set_back_lease_ms=900_000)
    known = wire.LiveAgent(agent_id="silent", incarnation=1, lease_ms=30_000)
    lead(scheduler, welcome=welcome, runnable=[a_queued_job()], agents=[known])
    clock.monotonic += (900 + 15) * CLOCK_MARGIN - 1
    assert scheduler._set_back.lasts(clock.monotonic)
    deadline = scheduler._leases.deadline_of("silent")
    assert deadline is not None
    assert deadline > clock.monotonic
    clock.monotonic += 2
    assert not scheduler._set_back.lasts(clock.monotonic)


def test_the_store_is_told_again_of_the_end_on_each_stream(scheduler: Scheduler, clock: VirtualClock) -> None:
    lead_after_set_back(scheduler)
    clock.monotonic += WAIT_S
    for _ in range(2):
        outbox = lead_after_set_back(scheduler)
        scheduler.turn()
        assert said(outbox).set_back_over == 7
        scheduler.turn()
        assert not said(outbox).set_back_over


async def test_agents_of_before_must_present_themselves_anew(scheduler: Scheduler, clock: VirtualClock) -> None:
    lead(scheduler)
    session = await join(scheduler, clock)
    lead_after_set_back(scheduler)
    with pytest.raises(UnavailableError):
        await session.outbox.take()
    scheduler.agent_said(session, a_heartbeat())
    assert scheduler.roster.record("agent").session is None


def register(scheduler: Scheduler, clock: VirtualClock, *states: run_pb2.RunState.ValueType) -> Session:
    """Have an agent register that reports runs in these states, each of which the store is asked about."""
    runs = [a_report(state, number=number) for number, state in enumerate(states, 1)]
    session = Session(a_registration(runs=runs), clock.monotonic_s())
    scheduler.session_opened(session)
    scheduler.store_said(wire.DispatchResponse(registered=[ACCEPTED]))
    return session


def answer(number: int, state: run_pb2.RunState.ValueType, *, stale: bool) -> wire.DispatchResponse:
    outcome = wire.ReportOutcome(agent_id="agent", incarnation=1, fence=a_fence(number), state=state, stale=stale)
    return wire.DispatchResponse(reports=[outcome])


async def test_an_agent_is_welcomed_when_the_store_knows_all_that_it_runs(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead_after_set_back(scheduler)
    session = register(scheduler, clock, run_pb2.RUN_STATE_STARTED, run_pb2.RUN_STATE_DONE)
    assert session.outbox.take_now() is None
    reports = [report for sender in said(outbox).reports for report in sender.reports]
    assert len(reports) == 2
    scheduler.store_said(answer(1, run_pb2.RUN_STATE_STARTED, stale=False))
    assert session.outbox.take_now() is None
    scheduler.store_said(answer(2, run_pb2.RUN_STATE_DONE, stale=True))
    assert (await session.outbox.take()).HasField("welcome")


@pytest.mark.parametrize("state", [run_pb2.RUN_STATE_OFFERED, run_pb2.RUN_STATE_CLAIMED, run_pb2.RUN_STATE_STARTED])
async def test_an_agent_with_a_run_that_the_store_has_forgotten_gets_no_lease_and_begins_anew(
    scheduler: Scheduler, clock: VirtualClock, state: run_pb2.RunState.ValueType
) -> None:
    lead_after_set_back(scheduler)
    session = register(scheduler, clock, state)
    scheduler.store_said(answer(1, state, stale=True))
    with pytest.raises(StaleIncarnationError):
        await session.outbox.take()


async def test_a_forgotten_run_is_ended_as_ever_when_the_wait_is_over(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    lead_after_set_back(scheduler)
    clock.monotonic += WAIT_S
    session = register(scheduler, clock, run_pb2.RUN_STATE_STARTED)
    scheduler.store_said(answer(1, run_pb2.RUN_STATE_STARTED, stale=True))
    message = await session.outbox.take()
    assert message.HasField("welcome")
    assert list(message.stale) == [a_fence(1)]
