"""Each agent has the lease of the compute environments that it serves by name."""

import pytest

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.clock import CLOCK_MARGIN
from batchyard.domain.errors import UnavailableError
from batchyard.scheduler.config import SchedulerConfig
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.model import ComputeEnvironment, ResourceKey
from batchyard.scheduler.outbox import StoreOutbox
from batchyard.scheduler.session import Session
from support.scheduler_world import VirtualClock, a_registration, lead

DEFAULT_S = 600.0
KILL_BUDGET_S = 15


@pytest.fixture
def scheduler(clock: VirtualClock) -> Scheduler:
    scheduler = Scheduler(SchedulerConfig(lease_s=DEFAULT_S, kill_budget_s=KILL_BUDGET_S), clock)
    for name, lease_s in (("short", 30.0), ("shorter", 45.0), ("long", 3600.0), ("usual", None)):
        put(scheduler, name, lease_s)
    return scheduler


def put(scheduler: Scheduler, name: str, lease_s: float | None, namespace: str = "123456789012") -> None:
    """Have an environment ask for a lease."""
    spec = ComputeEnvironment(ResourceKey(namespace, name), True, True, None, lease_s=lease_s)
    scheduler.planner.put_environment(spec)
    scheduler.resources_changed(complete=True)


def register(scheduler: Scheduler, clock: VirtualClock, outbox: StoreOutbox, *environments: str) -> Session:
    """Have an agent register that serves these environments, and the store write its lease down."""
    session = Session(a_registration(compute_environments=environments), clock.monotonic_s())
    scheduler.session_opened(session)
    accept(scheduler, outbox)
    return session


def accept(scheduler: Scheduler, outbox: StoreOutbox) -> None:
    request = outbox.take_now()
    assert request is not None
    (asked,) = request.registrations
    answer = wire.AgentRegistered(agent_id="agent", incarnation=1, accepted=True, lease_ms=asked.lease_ms)
    scheduler.store_said(wire.DispatchResponse(registered=[answer]))


def lost_after(scheduler: Scheduler, clock: VirtualClock, outbox: StoreOutbox) -> float:
    """Return after how many seconds of silence the store is told that the agent is lost."""
    began = clock.monotonic
    deadline: float | None = began
    while deadline is not None:
        clock.monotonic = max(clock.monotonic, deadline)
        deadline = scheduler.turn()
        while (message := outbox.take_now()) is not None:
            if message.lost_agents:
                return clock.monotonic - began
    raise AssertionError("it is never lost")


def length_of(lease_s: float) -> float:
    return (lease_s + KILL_BUDGET_S) * CLOCK_MARGIN


@pytest.mark.parametrize(
    ("environments", "lease_s"),
    [
        ((), DEFAULT_S),
        (("usual",), DEFAULT_S),
        (("nowhere",), 30),
        (("usual", "nowhere"), 30),
        (("short",), 30),
        (("shorter", "short", "usual"), 30),
        (("long",), 3600),
        (("long", "usual"), DEFAULT_S),
    ],
)
async def test_an_agent_has_the_shortest_lease_of_its_environments_and_is_lost_by_it(
    scheduler: Scheduler, clock: VirtualClock, environments: tuple[str, ...], lease_s: float
) -> None:
    outbox = lead(scheduler)
    session = register(scheduler, clock, outbox, *environments)
    assert (await session.outbox.take()).welcome.lease_ms == lease_s * 1000
    scheduler.agent_said(session, session_pb2.ConnectRequest(heartbeat=1))
    assert lost_after(scheduler, clock, outbox) == pytest.approx(length_of(lease_s))


async def test_an_environment_of_that_name_counts_in_whatever_account_it_is(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    put(scheduler, "usual", 40, namespace="210987654321")
    session = register(scheduler, clock, lead(scheduler), "usual")
    assert (await session.outbox.take()).welcome.lease_ms == 40_000


async def test_heartbeats_come_often_enough_for_a_short_lease(clock: VirtualClock) -> None:
    scheduler = Scheduler(SchedulerConfig(heartbeat_interval_s=20, suspicion_s=40), clock)
    put(scheduler, "short", 30)
    session = register(scheduler, clock, lead(scheduler), "short")
    assert (await session.outbox.take()).welcome.heartbeat_interval_ms == 7500


def test_a_short_lease_is_suspect_at_half_of_it(clock: VirtualClock) -> None:
    scheduler = Scheduler(SchedulerConfig(suspicion_s=40), clock)
    put(scheduler, "short", 30)
    register(scheduler, clock, lead(scheduler), "short")
    clock.monotonic += 15
    scheduler.turn()
    assert scheduler._leases.is_suspect("agent")


async def test_an_agent_whose_lease_becomes_another_presents_itself_anew(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead(scheduler)
    session = register(scheduler, clock, outbox, "usual")
    await session.outbox.take()
    scheduler.turn()
    put(scheduler, "usual", 60)
    scheduler.turn()
    with pytest.raises(UnavailableError, match="its lease is another one now"):
        await session.outbox.take()
    scheduler.agent_said(session, session_pb2.ConnectRequest(heartbeat=9))
    session = register(scheduler, clock, outbox, "usual")
    assert (await session.outbox.take()).welcome.lease_ms == 60_000
    # What was granted before counts to its end.
    assert lost_after(scheduler, clock, outbox) == pytest.approx(length_of(DEFAULT_S))


async def test_a_longer_lease_is_granted_once_the_store_has_written_it_down(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead(scheduler)
    session = Session(a_registration(compute_environments=["long"]), clock.monotonic_s())
    scheduler.session_opened(session)
    assert session.outbox.take_now() is None
    accept(scheduler, outbox)
    assert (await session.outbox.take()).welcome.lease_ms == 3_600_000


@pytest.mark.parametrize(("lease_ms", "lease_s"), [(0, DEFAULT_S), (30_000, 30), (3_600_000, 3600)])
def test_a_new_leader_waits_for_the_longest_lease_that_an_agent_may_have(
    scheduler: Scheduler, clock: VirtualClock, lease_ms: int, lease_s: float
) -> None:
    outbox = lead(scheduler, agents=[wire.LiveAgent(agent_id="agent", incarnation=1, lease_ms=lease_ms)])
    assert lost_after(scheduler, clock, outbox) == pytest.approx(length_of(lease_s))


async def test_a_leader_that_comes_back_counts_a_shorter_lease_from_the_next_heartbeat_on(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    outbox = lead(scheduler)
    session = register(scheduler, clock, outbox, "short")
    scheduler.store_closed(outbox)
    live = wire.LiveAgent(agent_id="agent", incarnation=1, lease_ms=600_000)
    outbox = lead(scheduler, agents=[live])
    assert (await session.outbox.take()).welcome.lease_ms == 30_000
    clock.monotonic += 590
    scheduler.agent_said(session, session_pb2.ConnectRequest(heartbeat=2))
    assert lost_after(scheduler, clock, outbox) == pytest.approx(length_of(30))


def test_a_store_that_was_set_back_is_waited_for_as_long_as_any_lease(
    scheduler: Scheduler, clock: VirtualClock
) -> None:
    welcome = wire.SchedulerWelcome(leader_epoch=1, store_epoch=5, set_back=5)
    began = clock.monotonic
    lead(scheduler, welcome=welcome)
    scheduler.turn()
    assert scheduler._set_back.lasts(began + length_of(3600) - 1)
    assert not scheduler._set_back.lasts(began + length_of(3600))


def test_agents_of_a_store_that_was_set_back_have_the_longest_lease_of_all(clock: VirtualClock) -> None:
    scheduler = Scheduler(SchedulerConfig(lease_s=DEFAULT_S, kill_budget_s=KILL_BUDGET_S), clock)
    agents = [
        wire.LiveAgent(agent_id="agent", incarnation=1, lease_ms=30_000),
        wire.LiveAgent(agent_id="other", incarnation=1, lease_ms=1_200_000),
    ]
    outbox = lead(scheduler, agents=agents, welcome=wire.SchedulerWelcome(leader_epoch=1, store_epoch=5, set_back=5))
    assert lost_after(scheduler, clock, outbox) == pytest.approx(length_of(1200))
