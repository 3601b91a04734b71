"""Feeding ahead: what is offered beyond a host's room, and what it costs nobody."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.domain.jobs import Fence
from batchyard.scheduler.feeding import AHEAD_MAX, Durations
from batchyard.scheduler.model import NOTHING, HeldRun, LineKey, Plan, ResourceKey, Resources
from batchyard.scheduler.planner import Planner
from support.scheduler import a_job, a_queue, an_agent, an_environment, job_key, need

SWIFT_MS, SLOW_MS = 2, 2000
LINE = LineKey(ResourceKey("123456789012", "default"), "", need(1), None)


class World:
    """A planner, and an agent that claims offers in their order as it has room for them."""

    def __init__(self, *, jobs: int, vcpus: int = 2, max_vcpus: int | None = None) -> None:
        self.planner = Planner(starvation_bound_s=300)
        self.planner.put_environment(an_environment(max_vcpus=max_vcpus))
        self.planner.put_queue(a_queue())
        self.agent = an_agent(vcpus=vcpus)
        self.planner.agent_joined(self.agent)
        for number in range(1, jobs + 1):
            self.planner.queue_job(a_job(f"job-{number}", sequence=number))
        self.now = 0.0
        self.offered: deque[Fence] = deque()
        self.claimed: dict[Fence, Resources] = {}
        self.needs: dict[Fence, Resources] = {}
        self.jobs: dict[Fence, str] = {}

    def plan(self) -> Plan:
        """Plan, have every proposal accepted, and let the agent claim what it has room for."""
        plan = self.planner.plan(self.now)
        for offer in plan.offers:
            fence = Fence(1, len(self.needs) + 1)
            self.planner.offer_accepted(offer.job, fence)
            self.needs[fence] = need(2) if offer.job.job_id.startswith("wide") else need(1)
            self.jobs[fence] = offer.job.job_id
            self.offered.append(fence)
        self.claim()
        self.planner.sanity_check()
        return plan

    def claim(self) -> None:
        while self.offered and self.needs[self.offered[0]].fits_in(self.agent.capacity.minus(self.used)):
            fence = self.offered.popleft()
            self.claimed[fence] = self.needs[fence]

    def end(self, fence: Fence, ran_for_ms: int | None) -> None:
        del self.claimed[fence]
        self.planner.run_ended(fence, ran_for_ms)
        self.claim()

    def end_first(self, ran_for_ms: int | None = SWIFT_MS) -> None:
        self.end(next(iter(self.claimed)), ran_for_ms)

    @property
    def used(self) -> Resources:
        total = NOTHING
        for taken in self.claimed.values():
            total = total.plus(taken)
        return total


def test_nothing_is_fed_ahead_while_nobody_knows_how_long_such_jobs_take() -> None:
    assert len(World(jobs=10).plan().offers) == 2


def test_jobs_of_a_swift_shape_are_offered_beyond_the_room() -> None:
    world = World(jobs=1000)
    world.plan()
    world.end_first()
    assert len(world.plan().offers) == AHEAD_MAX + 1
    assert world.planner.use_of("agent").used == world.used == need(2, 256)


def test_what_is_ahead_is_bounded_and_filled_up_again_when_half_of_it_is_done() -> None:
    world = World(jobs=5000)
    world.plan()
    world.end_first(1)
    world.plan()
    ahead = len(world.offered)
    assert ahead == AHEAD_MAX
    assert not world.plan().offers
    while len(world.offered) > ahead // 2:
        world.end_first(1)
        assert not world.plan().offers
    world.end_first(1)
    world.plan()
    assert len(world.offered) == ahead


@pytest.mark.parametrize("ran_for_ms", [SLOW_MS, None])
def test_jobs_that_take_their_time_or_never_started_are_not_fed_ahead(ran_for_ms: int | None) -> None:
    world = World(jobs=10)
    world.plan()
    world.end_first(ran_for_ms)
    assert len(world.plan().offers) == 1


def test_a_ceiling_counts_what_is_ahead() -> None:
    world = World(jobs=1000, max_vcpus=5)
    world.plan()
    world.end_first()
    world.plan()
    assert len(world.claimed) + len(world.offered) == 5


def test_a_host_is_not_filled_up_in_front_of_a_job_that_waits_for_room_on_it() -> None:
    world = World(jobs=1000)
    world.plan()
    world.planner.put_queue(a_queue("better", priority=0))
    world.planner.queue_job(a_job("wide", sequence=5000, queue="better", vcpus=2))
    world.plan()
    world.end_first()
    plan = world.plan()
    assert [offer.job.job_id for offer in plan.offers] == ["job-3"]
    assert not world.offered


def test_a_better_job_comes_next_when_what_is_ahead_is_done() -> None:
    world = World(jobs=1000)
    world.plan()
    world.end_first()
    world.plan()
    world.planner.put_queue(a_queue("better", priority=0))
    world.planner.queue_job(a_job("wide", sequence=5000, queue="better"))
    placed: list[str] = []
    rounds = len(world.offered) + 2
    for _ in range(rounds):
        world.end_first()
        placed += [offer.job.job_id for offer in world.plan().offers]
        if "wide" in placed:
            break
    assert placed[0] == "wide"


def test_an_offer_ahead_that_is_given_back_frees_its_place_below_the_ceiling() -> None:
    world = World(jobs=1000, max_vcpus=4)
    world.plan()
    world.end_first()
    world.plan()
    assert len(world.offered) == 2
    given_back = world.offered.pop()
    world.planner.run_ended(given_back, None)
    world.planner.sanity_check()
    world.end_first()
    assert world.plan().offers


def test_offers_of_an_earlier_scheduler_that_find_no_room_count_as_ahead() -> None:
    world = World(jobs=0)
    for number in range(1, 6):
        run = HeldRun(Fence(1, number), job_key(f"held-{number}"), "agent", "default", need(1), claimed=False)
        world.planner.run_held(run)
    world.planner.sanity_check()
    assert world.planner.use_of("agent").used == need(2, 256)
    assert world.planner.use_of("agent").runs == 5


@given(st.lists(st.sampled_from([1, 5, 50, 90, 500, None]), min_size=1, max_size=120), st.integers(1, 4))
def test_the_picture_of_a_hosts_use_is_what_its_agent_has_claimed(durations: list[int | None], vcpus: int) -> None:
    world = World(jobs=300, vcpus=vcpus)
    world.plan()
    for ran_for_ms in durations:
        if not world.claimed:
            break
        world.end_first(ran_for_ms)
        world.plan()
        assert world.planner.use_of("agent").used == world.used
        assert world.used.fits_in(world.agent.capacity)
    started = [world.jobs[fence] for fence in world.needs]
    assert started == [f"job-{number}" for number in range(1, len(started) + 1)]


def test_the_mean_follows_what_jobs_do_now() -> None:
    durations = Durations()
    durations.learn(LINE, 5)
    assert durations.is_swift(LINE)
    for _ in range(10):
        durations.learn(LINE, 1000)
    assert not durations.is_swift(LINE)
    for _ in range(20):
        durations.learn(LINE, 5)
    assert durations.is_swift(LINE)


def test_a_host_may_have_ahead_what_all_its_slots_get_done_in_a_moment() -> None:
    durations = Durations()
    durations.learn(LINE, 50)
    assert durations.ahead_of(LINE, need(1)) == 5
    assert durations.ahead_of(LINE, need(8, 4096)) == 40
    assert durations.ahead_of(LINE, need(8, 128)) == 5
