"""Room that is held for jobs that have waited too long, and what may use it meanwhile."""

import pytest

from batchyard.domain.jobs import Fence
from batchyard.scheduler.model import HeldRun
from batchyard.scheduler.planner import Planner
from support.planner import a_planner, accept, placed, places
from support.scheduler import a_job, a_queue, an_agent, an_environment, job_key, need


class TestHolding:
    """One agent with 4 vCPUs; jobs of 1 vCPU run on it, a wide one of 4 waits."""

    @pytest.fixture
    def planner(self) -> Planner:
        planner = a_planner()
        planner.put_queue(a_queue("high", priority=0))
        planner.put_queue(a_queue("equal", priority=1))
        planner.put_queue(a_queue("low", priority=2))
        planner.agent_joined(an_agent(vcpus=4))
        planner.queue_job(a_job("small-1", sequence=1))
        self.fences = accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-9", sequence=9, vcpus=4))
        assert placed(planner.plan(1)) == []
        return planner

    def test_smaller_jobs_pass_until_the_bound(self, planner: Planner) -> None:
        planner.queue_job(a_job("small-10", sequence=10))
        assert placed(planner.plan(300)) == ["small-10"]

    @pytest.mark.parametrize("queue", ["default", "equal", "low"])
    def test_after_the_bound_room_is_held_against_later_jobs_of_its_own_and_of_no_higher_queues(
        self, planner: Planner, queue: str
    ) -> None:
        planner.queue_job(a_job("small-10", sequence=10, queue=queue))
        assert placed(planner.plan(301)) == []
        planner.run_ended(self.fences["small-1"])
        assert placed(planner.plan(302)) == ["wide-9"]

    def test_higher_queues_and_earlier_jobs_are_not_held_up(self, planner: Planner) -> None:
        planner.queue_job(a_job("earlier-2", sequence=2))
        planner.queue_job(a_job("high-11", sequence=11, queue="high"))
        assert placed(planner.plan(301)) == ["high-11", "earlier-2"]

    def test_agents_that_are_too_small_for_the_job_are_not_held(self, planner: Planner) -> None:
        planner.agent_joined(an_agent("little", vcpus=2))
        planner.queue_job(a_job("small-10", sequence=10))
        assert places(planner.plan(301)) == {"small-10": "little"}

    def test_a_bound_that_passes_is_a_deadline(self, planner: Planner) -> None:
        assert planner.plan(2).next_deadline == 301

    def test_room_is_released_when_the_job_is_withdrawn(self, planner: Planner) -> None:
        planner.queue_job(a_job("small-10", sequence=10))
        planner.plan(301)
        planner.withdraw_job(job_key("wide-9"))
        assert placed(planner.plan(302)) == ["small-10"]

    def test_a_wide_job_is_placed_however_many_small_ones_come(self, planner: Planner) -> None:
        running = dict(self.fences)
        for second in range(2, 400):
            planner.queue_job(a_job(f"small-{second + 10}", sequence=second + 10))
            plan = planner.plan(second)
            planner.sanity_check()
            if "wide-9" in placed(plan):
                return
            running.update(accept(planner, plan))
            if len(running) > 3 or (second > 301 and running):
                planner.run_ended(running.pop(next(iter(running))))
        pytest.fail("the wide job starves")

    def test_room_below_a_ceiling_is_held_too(self) -> None:
        planner = a_planner()
        planner.put_environment(an_environment(max_vcpus=4))
        planner.agent_joined(an_agent("large", vcpus=8))
        planner.agent_joined(an_agent("little", vcpus=2))
        planner.queue_job(a_job("small-1", sequence=1))
        fences = accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-2", sequence=2, vcpus=4))
        planner.plan(1)
        planner.queue_job(a_job("small-3", sequence=3))
        assert placed(planner.plan(301)) == []
        planner.run_ended(fences["small-1"])
        assert placed(planner.plan(302)) == ["wide-2"]

    def test_a_job_that_only_a_ceiling_keeps_out_holds_no_hosts(self) -> None:
        planner = a_planner()
        planner.put_environment(an_environment(max_vcpus=4))
        planner.put_environment(an_environment("other"))
        planner.put_queue(a_queue("other", priority=2, environments=("other",)))
        planner.agent_joined(an_agent(vcpus=64))
        planner.queue_job(a_job("small-1", sequence=1))
        accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-2", sequence=2, vcpus=4))
        planner.plan(1)
        planner.queue_job(a_job("other-3", sequence=3, queue="other"))
        assert placed(planner.plan(301)) == ["other-3"]

    def test_a_job_that_fits_nowhere_holds_nothing(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=4))
        planner.queue_job(a_job("huge", sequence=1, vcpus=64))
        planner.plan(0)
        planner.queue_job(a_job("small", sequence=2))
        assert placed(planner.plan(1000)) == ["small"]

    def test_two_holders_of_equal_queues_do_not_wait_for_each_other(self) -> None:
        planner = a_planner()
        planner.put_queue(a_queue("equal"))
        planner.agent_joined(an_agent(vcpus=4))
        planner.queue_job(a_job("small-1", sequence=1))
        fences = accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-2", sequence=2, vcpus=4))
        planner.queue_job(a_job("wide-3", sequence=3, vcpus=4, queue="equal"))
        planner.plan(1)
        planner.plan(301)
        planner.run_ended(fences["small-1"])
        fences = accept(planner, planner.plan(302))
        assert list(fences) == ["wide-2"]
        planner.run_ended(fences["wide-2"])
        assert placed(planner.plan(303)) == ["wide-3"]

    def test_hosts_of_an_environment_that_becomes_usable_are_held_at_once(self) -> None:
        planner = a_planner()
        planner.put_environment(an_environment("second", enabled=False))
        planner.put_environment(an_environment("third"))
        planner.put_queue(a_queue(environments=("default", "second")))
        planner.put_queue(a_queue("equal", environments=("third",)))
        planner.agent_joined(an_agent("a", vcpus=4, environments=("default",)))
        planner.agent_joined(an_agent("b", vcpus=4, environments=("second", "third")))
        planner.queue_job(a_job("equal-0", sequence=0, queue="equal"))
        planner.plan(0)
        planner.queue_job(a_job("small-1", sequence=1))
        planner.plan(0)
        planner.agent_gone("a")
        planner.queue_job(a_job("wide-2", sequence=2, vcpus=4))
        planner.plan(1)
        planner.plan(301)
        planner.put_environment(an_environment("second"))
        planner.queue_job(a_job("equal-3", sequence=3, queue="equal"))
        assert placed(planner.plan(302)) == []

    def test_an_earlier_job_that_joins_a_holder_moves_it_ahead(self) -> None:
        planner = a_planner()
        planner.put_queue(a_queue("equal"))
        planner.agent_joined(an_agent(vcpus=4))
        planner.queue_job(a_job("small-0", sequence=0))
        fences = accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-5", sequence=5, vcpus=4))
        planner.queue_job(a_job("equal-3", sequence=3, vcpus=4, queue="equal"))
        planner.plan(1)
        planner.plan(301)
        planner.queue_job(a_job("wide-2", sequence=2, vcpus=4))
        planner.run_ended(fences["small-0"])
        assert placed(planner.plan(302)) == ["wide-2"]

    def test_a_job_tried_again_that_stood_before_the_holder_is_not_held_up_by_it(self, planner: Planner) -> None:
        planner.queue_job(a_job("small-10", sequence=10))
        assert placed(planner.plan(301)) == []
        planner.queue_job(a_job("small-2", sequence=2, version=2))
        assert placed(planner.plan(302)) == ["small-2"]


class TestHowFarAHoldReaches:
    """Four agents with 4 vCPUs, each with one small job that never ends; wide jobs of 4 wait."""

    @pytest.fixture
    def planner(self) -> Planner:
        planner = a_planner()
        for number in range(4):
            planner.agent_joined(an_agent(f"agent-{number}", vcpus=4))
        for number in range(1, 5):
            planner.queue_job(a_job(f"small-{number}", sequence=number, vcpus=3))
        self.fences = accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-9", sequence=9, vcpus=4))
        planner.plan(1)
        return planner

    def held(self, planner: Planner) -> int:
        return sum(planner.held_for(f"agent-{number}") is not None for number in range(4))

    def test_one_host_is_held_first_and_one_more_after_each_bound(self, planner: Planner) -> None:
        seen = []
        for now in (300, 301, 600, 601, 900, 901, 1201):
            planner.plan(now)
            seen.append(self.held(planner))
        assert seen == [0, 1, 1, 2, 2, 3, 4]

    def test_the_others_serve_whoever_comes(self, planner: Planner) -> None:
        planner.plan(301)
        for number in range(10, 14):
            planner.queue_job(a_job(f"later-{number}", sequence=number, vcpus=1))
        plan = planner.plan(302)
        assert len(plan.offers) == 3
        assert planner.held_for("agent-0") == job_key("wide-9")
        assert "agent-0" not in places(plan).values()

    def test_a_host_that_becomes_free_is_taken_also_if_another_one_is_held(self, planner: Planner) -> None:
        planner.plan(301)
        planner.run_ended(self.fences["small-3"])
        assert list(places(planner.plan(302))) == ["wide-9"]
        assert self.held(planner) == 0

    def test_the_host_that_has_the_most_room_is_held(self) -> None:
        planner = a_planner()
        for number, vcpus in ((0, 3), (1, 2), (2, 3)):
            planner.agent_joined(an_agent(f"agent-{number}", vcpus=4))
            planner.queue_job(a_job(f"small-{number}", sequence=number, vcpus=vcpus))
            accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-9", sequence=9, vcpus=4))
        planner.plan(1)
        planner.plan(301)
        assert planner.held_for("agent-1") == job_key("wide-9")

    def test_the_host_that_is_known_to_open_first_is_held(self) -> None:
        planner = a_planner()
        for number, limit in ((0, None), (1, 5000), (2, 1000)):
            planner.agent_joined(an_agent(f"agent-{number}", vcpus=4))
            planner.queue_job(a_job(f"small-{number}", sequence=number, vcpus=3, time_limit_s=limit))
            accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-9", sequence=9, vcpus=4))
        planner.plan(1)
        planner.plan(301)
        assert planner.held_for("agent-2") == job_key("wide-9")


class TestBackfill:
    """An agent with 8 vCPUs runs a job of 4 until 1000 s at the latest, and is held for one of 8."""

    @pytest.fixture
    def planner(self) -> Planner:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=8))
        planner.queue_job(a_job("first-1", sequence=1, vcpus=4, time_limit_s=1000))
        self.fences = accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-2", sequence=2, vcpus=8))
        planner.plan(0)
        planner.plan(300)
        return planner

    @pytest.mark.parametrize(("time_limit_s", "passes"), [(100, True), (699, True), (701, False), (None, False)])
    def test_a_job_that_is_over_in_time_may_use_what_is_held(
        self, planner: Planner, time_limit_s: int | None, passes: bool
    ) -> None:
        planner.queue_job(a_job("later-3", sequence=3, time_limit_s=time_limit_s))
        assert placed(planner.plan(301)) == (["later-3"] if passes else [])

    def test_a_job_that_fits_beside_the_one_that_waits_may_take_as_long_as_it_likes(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=8))
        planner.queue_job(a_job("first-1", sequence=1, vcpus=4, time_limit_s=1000))
        accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-2", sequence=2, vcpus=6))
        planner.plan(0)
        planner.plan(300)
        for number in (3, 4, 5):
            planner.queue_job(a_job(f"later-{number}", sequence=number))
        assert placed(planner.plan(301)) == ["later-3", "later-4"]

    def test_where_runs_may_take_for_ever_nothing_may(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=8))
        planner.queue_job(a_job("first-1", sequence=1, vcpus=4))
        accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide-2", sequence=2, vcpus=8))
        planner.plan(0)
        planner.plan(300)
        planner.queue_job(a_job("later-3", sequence=3, time_limit_s=60))
        assert placed(planner.plan(301)) == []

    def test_runs_of_a_snapshot_count_with_their_time_limits(self) -> None:
        planner = a_planner()
        planner.run_held(HeldRun(Fence(1, 1), job_key("held"), "agent", "default", need(4), time_limit_s=1000))
        planner.agent_joined(an_agent(vcpus=8))
        planner.queue_job(a_job("wide-2", sequence=2, vcpus=8))
        planner.plan(0)
        planner.plan(300)
        planner.queue_job(a_job("later-3", sequence=3, time_limit_s=600))
        planner.queue_job(a_job("long-4", sequence=4, time_limit_s=900))
        assert placed(planner.plan(301)) == ["later-3"]

    def test_an_end_on_a_held_host_has_those_looked_at_that_may_use_it(self, planner: Planner) -> None:
        for number in (3, 4, 5):
            planner.queue_job(a_job(f"later-{number}", sequence=number, vcpus=2, time_limit_s=100))
        fences = accept(planner, planner.plan(301))
        assert list(fences) == ["later-3", "later-4"]
        planner.run_ended(fences["later-3"])
        assert placed(planner.plan(400)) == ["later-5"]
