"""The planner's decisions as stories, and what they cost."""

import tracemalloc

import pytest

from batchyard.domain.compat import Compat
from batchyard.domain.jobs import Fence
from batchyard.scheduler.model import ComputeEnvironment, HeldRun, Plan, ResourceKey
from batchyard.scheduler.planner import Planner
from batchyard.scheduler.reasons import is_ordinary
from support.scheduler import NAMESPACE, a_job, a_queue, an_agent, an_array, an_environment, job_key, need


def a_planner(*, compat: Compat = Compat.SEED, environments: tuple[str, ...] = ("default",)) -> Planner:
    """Return a planner with a queue named default over environments."""
    planner = Planner(compat=compat, starvation_bound_s=300, reason_delay_s=1)
    for name in environments:
        planner.put_environment(an_environment(name))
    planner.put_queue(a_queue(environments=environments))
    return planner


def placed(plan: Plan) -> list[str]:
    return [offer.job.job_id for offer in plan.offers]


def places(plan: Plan) -> dict[str, str]:
    return {offer.job.job_id: offer.agent_id for offer in plan.offers}


def accept(planner: Planner, plan: Plan) -> dict[str, Fence]:
    """Commit a plan's offers; return their fences by job."""
    fences: dict[str, Fence] = {}
    for offer in plan.offers:
        fence = fences[offer.job.job_id] = Fence(1, int(offer.job.job_id.rpartition("-")[2] or 0))
        planner.offer_accepted(offer.job, fence)
    return fences


class TestOrder:
    def test_jobs_of_a_queue_go_in_the_order_of_submission_whatever_their_shapes(self) -> None:
        planner = a_planner()
        planner.queue_job(a_job("c", sequence=3, vcpus=1))
        planner.queue_job(a_job("a", sequence=1, vcpus=2))
        planner.queue_job(a_job("b", sequence=2, vcpus=1))
        planner.agent_joined(an_agent(vcpus=8))
        assert placed(planner.plan(0)) == ["a", "b", "c"]

    def test_a_retried_job_has_its_old_place(self) -> None:
        planner = a_planner()
        for number in (1, 2, 3):
            planner.queue_job(a_job(f"job-{number}", sequence=number))
        planner.agent_joined(an_agent(vcpus=1))
        fences = accept(planner, planner.plan(0))
        planner.run_ended(fences["job-1"])
        planner.queue_job(a_job("job-1", sequence=1, version=2))
        assert placed(planner.plan(1)) == ["job-1"]

    @pytest.mark.parametrize(("compat", "expected"), [(Compat.SEED, ["one", "ten"]), (Compat.AWS, ["ten", "one"])])
    def test_the_compatibility_profile_decides_whether_low_or_high_priority_numbers_go_first(
        self, compat: Compat, expected: list[str]
    ) -> None:
        planner = a_planner(compat=compat)
        planner.put_queue(a_queue("one", priority=1))
        planner.put_queue(a_queue("ten", priority=10))
        planner.queue_job(a_job("one", sequence=1, queue="one"))
        planner.queue_job(a_job("ten", sequence=2, queue="ten"))
        planner.agent_joined(an_agent())
        assert placed(planner.plan(0)) == expected

    def test_queues_of_equal_priority_take_turns(self) -> None:
        planner = a_planner()
        planner.put_queue(a_queue("red"))
        planner.put_queue(a_queue("blue"))
        for number in range(6):
            planner.queue_job(a_job(f"red-{number}", sequence=number, queue="red"))
        for number in range(3):
            planner.queue_job(a_job(f"blue-{number}", sequence=10 + number, queue="blue"))
        planner.agent_joined(an_agent(vcpus=6))
        assert placed(planner.plan(0)) == ["red-0", "blue-0", "red-1", "blue-1", "red-2", "blue-2"]

    def test_a_queue_that_was_served_last_time_waits_for_its_equal(self) -> None:
        planner = a_planner()
        planner.put_queue(a_queue("red"))
        planner.put_queue(a_queue("blue"))
        planner.agent_joined(an_agent(vcpus=1))
        planner.queue_job(a_job("red-1", sequence=1, queue="red"))
        fences = accept(planner, planner.plan(0))
        planner.queue_job(a_job("red-2", sequence=2, queue="red"))
        planner.queue_job(a_job("blue-3", sequence=3, queue="blue"))
        planner.run_ended(fences["red-1"])
        assert placed(planner.plan(1)) == ["blue-3"]

    def test_a_smaller_job_passes_a_head_that_does_not_fit(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=2))
        planner.queue_job(a_job("wide", sequence=1, vcpus=4))
        planner.queue_job(a_job("narrow", sequence=2, vcpus=1))
        assert placed(planner.plan(0)) == ["narrow"]

    def test_jobs_of_a_queue_that_is_not_known_wait_for_it(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent())
        planner.queue_job(a_job("early", sequence=1, queue="late"))
        assert placed(planner.plan(0)) == []
        planner.put_queue(a_queue("late"))
        assert placed(planner.plan(1)) == ["early"]

    def test_the_queues_of_namespaces_are_apart(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent())
        planner.queue_job(a_job("other", sequence=1, namespace="999999999999"))
        assert placed(planner.plan(0)) == []
        planner.put_environment(an_environment(namespace="999999999999", max_vcpus=0))
        planner.put_queue(a_queue(namespace="999999999999"))
        assert placed(planner.plan(1)) == []
        planner.put_environment(an_environment(namespace="999999999999"))
        assert placed(planner.plan(2)) == ["other"]


class TestPlace:
    def test_the_tightest_fit_is_taken_and_ties_go_by_agent_id(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent("wide", vcpus=8))
        planner.agent_joined(an_agent("b-tight", vcpus=2))
        planner.agent_joined(an_agent("a-tight", vcpus=2))
        planner.queue_job(a_job("job", sequence=1, vcpus=2))
        assert places(planner.plan(0)) == {"job": "a-tight"}

    def test_a_job_without_gpus_leaves_hosts_that_have_some_alone_while_others_fit(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent("a-gpus", vcpus=1, gpus=1))
        planner.agent_joined(an_agent("b-plain", vcpus=64))
        planner.queue_job(a_job("plain", sequence=1))
        planner.queue_job(a_job("gpu", sequence=2, gpus=1))
        assert places(planner.plan(0)) == {"plain": "b-plain", "gpu": "a-gpus"}

    def test_memory_and_gpus_are_never_oversubscribed(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent("host", vcpus=64, memory_mib=1024, gpus=1))
        planner.queue_job(a_job("gpu-1", sequence=1, gpus=1))
        planner.queue_job(a_job("gpu-2", sequence=2, gpus=1))
        planner.queue_job(a_job("big", sequence=3, memory_mib=900))
        assert placed(planner.plan(0)) == ["gpu-1"]

    def test_environments_are_tried_in_order_up_to_their_ceilings(self) -> None:
        planner = a_planner()
        planner.put_environment(an_environment("first", max_vcpus=1))
        planner.put_environment(an_environment("second", max_vcpus=1))
        planner.put_queue(a_queue(environments=("first", "second")))
        planner.agent_joined(an_agent(vcpus=8))
        for number in (1, 2, 3):
            planner.queue_job(a_job(f"job-{number}", sequence=number))
        plan = planner.plan(0)
        assert [offer.environment for offer in plan.offers] == ["first", "second"]
        fences = accept(planner, plan)
        planner.run_ended(fences["job-2"])
        assert [offer.environment for offer in planner.plan(1).offers] == ["second"]

    def test_a_lowered_ceiling_lets_runs_go_on_and_new_ones_wait(self) -> None:
        planner = a_planner()
        planner.put_environment(an_environment(max_vcpus=2))
        planner.agent_joined(an_agent(vcpus=8))
        for number in (1, 2, 3):
            planner.queue_job(a_job(f"job-{number}", sequence=number))
        fences = accept(planner, planner.plan(0))
        planner.put_environment(an_environment(max_vcpus=1))
        planner.run_ended(fences["job-1"])
        assert placed(planner.plan(1)) == []
        planner.run_ended(fences["job-2"])
        assert placed(planner.plan(2)) == ["job-3"]

    def test_an_agent_serves_the_environments_that_it_names_in_all_namespaces(self) -> None:
        planner = a_planner()
        planner.put_environment(an_environment("special", namespace="999999999999"))
        planner.put_queue(a_queue("special", environments=("special",), namespace="999999999999"))
        planner.agent_joined(an_agent("named", environments=("special",)))
        planner.queue_job(a_job("plain", sequence=1))
        planner.queue_job(a_job("special", sequence=2, queue="special", namespace="999999999999"))
        assert places(planner.plan(0)) == {"special": "named"}

    def test_an_agent_of_several_environments_has_its_capacity_once(self) -> None:
        planner = a_planner()
        planner.put_environment(an_environment("other"))
        planner.put_queue(a_queue("other", environments=("other",)))
        planner.agent_joined(an_agent(vcpus=1, environments=("default", "other")))
        planner.queue_job(a_job("one", sequence=1))
        planner.queue_job(a_job("two", sequence=2, queue="other"))
        assert placed(planner.plan(0)) == ["one"]

    def test_runs_of_a_snapshot_count_before_their_agent_has_joined(self) -> None:
        planner = a_planner()
        planner.run_held(HeldRun(Fence(1, 1), job_key("held"), "agent", "default", need(3)))
        planner.agent_joined(an_agent(vcpus=4))
        planner.queue_job(a_job("one", sequence=1))
        planner.queue_job(a_job("two", sequence=2))
        assert placed(planner.plan(0)) == ["one"]

    def test_an_agent_that_comes_back_smaller_takes_nothing_until_its_runs_fit(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=4))
        for number in (1, 2, 3):
            planner.queue_job(a_job(f"job-{number}", sequence=number, vcpus=2))
        fences = accept(planner, planner.plan(0))
        planner.agent_joined(an_agent(vcpus=2, incarnation=2))
        planner.run_ended(fences["job-1"])
        assert placed(planner.plan(1)) == []
        planner.run_ended(fences["job-2"])
        (offer,) = planner.plan(2).offers
        assert (offer.job.job_id, offer.incarnation) == ("job-3", 2)


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


class TestProposals:
    def test_a_job_is_not_proposed_twice(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=8))
        planner.queue_job(a_job("job", sequence=1))
        assert placed(planner.plan(0)) == ["job"]
        planner.queue_job(a_job("job", sequence=1, version=2))
        assert placed(planner.plan(1)) == []
        planner.offer_refused(job_key("job"))
        (offer,) = planner.plan(2).offers
        assert offer.version == 2

    def test_a_refused_environment_is_left_alone_for_a_while_and_tried_again(self) -> None:
        planner = a_planner(environments=("first", "second"))
        planner.put_queue(a_queue("other", environments=("first",)))
        planner.agent_joined(an_agent(environments=("first",)))
        planner.queue_job(a_job("job-1", sequence=1))
        planner.queue_job(a_job("job-2", sequence=2))
        assert placed(planner.plan(0, offers_max=1)) == ["job-1"]
        planner.queue_job(a_job("job-1", sequence=1))
        planner.offer_refused(job_key("job-1"), not_there="full")
        plan = planner.plan(0)
        assert placed(plan) == []
        assert plan.next_deadline is not None
        planner.queue_job(a_job("job-3", sequence=3, queue="other"))
        assert placed(planner.plan(1)) == ["job-3"]  # it is about one queue
        assert placed(planner.plan(1.9)) == []
        plan = planner.plan(2)
        assert placed(plan) == ["job-1", "job-2"]
        planner.sanity_check()

    def test_a_refused_environment_is_passed_for_the_next_in_order(self) -> None:
        planner = a_planner(environments=("first", "second"))
        planner.agent_joined(an_agent())
        planner.queue_job(a_job("job", sequence=1))
        planner.plan(0)
        planner.queue_job(a_job("job", sequence=1))
        planner.offer_refused(job_key("job"), not_there="full")
        (offer,) = planner.plan(0).offers
        assert offer.environment == "second"

    def test_news_of_a_refused_environment_has_it_tried_at_once(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent())
        planner.queue_job(a_job("job", sequence=1))
        planner.plan(0)
        planner.queue_job(a_job("job", sequence=1))
        planner.offer_refused(job_key("job"), not_there="full")
        assert placed(planner.plan(0)) == []
        planner.put_environment(an_environment(max_vcpus=4))
        assert placed(planner.plan(0)) == ["job"]

    def test_a_drained_agent_takes_nothing_until_it_is_resumed_whatever_else_happens_to_it(self) -> None:
        planner = a_planner()
        planner.agent_drained("agent")  # before it is known
        planner.agent_joined(an_agent())
        planner.queue_job(a_job("job", sequence=1))
        assert placed(planner.plan(0)) == []
        planner.agent_suspended("agent")
        planner.agent_resumed("agent")
        planner.agent_joined(an_agent(incarnation=2))
        assert placed(planner.plan(0)) == []
        planner.sanity_check()
        planner.agent_undrained("agent")
        planner.agent_resumed("agent")
        assert placed(planner.plan(0)) == ["job"]
        planner.sanity_check()

    def test_a_job_that_is_withdrawn_while_it_is_proposed_does_not_come_again(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=8))
        planner.queue_job(a_job("job", sequence=1))
        planner.plan(0)
        planner.queue_job(a_job("job", sequence=1, version=2))
        planner.withdraw_job(job_key("job"))
        planner.offer_refused(job_key("job"))
        assert placed(planner.plan(1)) == []

    def test_a_plan_stops_short_at_the_number_of_offers_asked_for_and_goes_on_at_once(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=8))
        for number in range(5):
            planner.queue_job(a_job(f"job-{number}", sequence=number))
        plan = planner.plan(7, offers_max=3)
        assert (placed(plan), plan.next_deadline) == (["job-0", "job-1", "job-2"], 7)
        assert placed(planner.plan(7, offers_max=3)) == ["job-3", "job-4"]

    def test_after_a_new_snapshot_only_what_it_says_is_there(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=2))
        for number in range(4):
            planner.queue_job(a_job(f"job-{number}", sequence=number))
        accept(planner, planner.plan(0))
        planner.forget_jobs()
        planner.sanity_check()
        assert planner.use_of("agent").runs == 0
        planner.queue_job(a_job("job-3", sequence=3))
        assert placed(planner.plan(1)) == ["job-3"]


class TestWaitReasons:
    def reason(self, planner: Planner) -> str:
        planner.plan(0)
        (reason,) = planner.plan(1).wait_reasons
        assert planner.plan(1).wait_reasons == ()
        return reason.reason

    def test_a_job_that_is_placed_soon_has_none(self) -> None:
        planner = a_planner()
        planner.queue_job(a_job("job", sequence=1))
        assert planner.plan(0).wait_reasons == ()
        planner.agent_joined(an_agent())
        plan = planner.plan(1)
        assert (placed(plan), plan.wait_reasons) == (["job"], ())

    def test_all_jobs_of_a_line_have_one_that_is_told_once(self) -> None:
        planner = a_planner()
        for number in range(3):
            planner.queue_job(a_job(f"job-{number}", sequence=number))
        assert planner.plan(0).next_deadline == 1
        (reason,) = planner.plan(1).wait_reasons
        assert (reason.queue, reason.need) == (ResourceKey(NAMESPACE, "default"), need(1))
        planner.withdraw_job(job_key("job-0"))
        planner.queue_job(a_job("job-3", sequence=3))
        assert [told for now in (1, 2, 3) for told in planner.plan(now).wait_reasons] == []

    def test_it_is_taken_back_when_nobody_waits_any_more(self) -> None:
        planner = a_planner()
        planner.queue_job(a_job("job", sequence=1))
        self.reason(planner)
        planner.withdraw_job(job_key("job"))
        (taken_back,) = planner.plan(2).wait_reasons
        assert (taken_back.need, taken_back.reason) == (need(1), "")

    def test_what_was_thought_impossible_is_taken_back_with_the_first_job_that_is_placed(self) -> None:
        planner = a_planner()
        for number in range(2):
            planner.queue_job(a_job(f"job-{number}", sequence=number))
        assert not is_ordinary(self.reason(planner))
        planner.agent_joined(an_agent(vcpus=1))
        plan = planner.plan(2)
        assert placed(plan) == ["job-0"]
        assert [reason.reason for reason in plan.wait_reasons] == [""]
        (reason,) = planner.plan(3).wait_reasons
        assert reason.reason == "Waiting for room: needs 1 vCPU and 128 MiB."

    def test_ordinary_waiting_stays_told_while_others_of_the_line_are_placed(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=1))
        for number in range(3):
            planner.queue_job(a_job(f"job-{number}", sequence=number))
        (fence,) = accept(planner, planner.plan(0)).values()
        (reason,) = planner.plan(1).wait_reasons
        assert is_ordinary(reason.reason)
        planner.run_ended(fence)
        plan = planner.plan(2)
        assert (placed(plan), plan.wait_reasons) == (["job-1"], ())
        assert planner.plan(3).wait_reasons == ()

    def test_ordinary_waiting_says_what_is_needed(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=2))
        planner.queue_job(a_job("first", sequence=0, vcpus=2))
        planner.queue_job(a_job("job", sequence=1, vcpus=0.5, memory_mib=2048, gpus=0))
        assert self.reason(planner) == "Waiting for room: needs 0.5 vCPU and 2048 MiB."

    def test_without_agents_it_says_so(self) -> None:
        planner = a_planner()
        planner.queue_job(a_job("job", sequence=1))
        assert self.reason(planner) == (
            "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill the capacity requested for instance type "
            "[1 vCPU and 128 MiB]. No agent is connected that serves compute environment default."
        )

    def test_a_job_larger_than_any_agent_is_misconfigured(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent("one", vcpus=4, memory_mib=1024))
        planner.agent_joined(an_agent("two", vcpus=2, memory_mib=4096))
        planner.queue_job(a_job("job", sequence=1, vcpus=4, memory_mib=4096, gpus=1))
        assert self.reason(planner) == (
            "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement (vCPU/memory/GPU) is higher "
            "than that can be met by the CE(s) attached to the job queue. It asks for 4 vCPU, 4096 MiB and 1 GPU; "
            "the largest that agents offer is 4 vCPU and 4096 MiB."
        )

    def test_a_job_larger_than_any_ceiling_is_misconfigured(self) -> None:
        planner = a_planner()
        planner.put_environment(an_environment(max_vcpus=2))
        planner.agent_joined(an_agent(vcpus=64))
        planner.queue_job(a_job("job", sequence=1, vcpus=4))
        assert self.reason(planner) == (
            "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - CE(s) associated with the job queue cannot meet the "
            "CPU requirement of the job. It asks for 4 vCPU; the highest maxvCpus is 2."
        )

    def test_a_job_that_waits_at_a_ceiling_is_told_which(self) -> None:
        planner = a_planner()
        planner.put_environment(an_environment(max_vcpus=1))
        planner.agent_joined(an_agent(vcpus=64))
        planner.queue_job(a_job("first", sequence=0))
        planner.queue_job(a_job("job", sequence=1))
        assert self.reason(planner) == (
            "Waiting for room: needs 1 vCPU and 128 MiB, and compute environment default is at its maxvCpus."
        )

    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            (
                an_environment(valid=False),
                "ACTION_REQUIRED - CE(s) associated with the job queue are invalid. Invalid: default.",
            ),
            (
                an_environment(enabled=False),
                "ACTION_REQUIRED - CE(s) associated with the job queue are disabled. Disabled: default.",
            ),
        ],
        ids=["invalid", "disabled"],
    )
    def test_unusable_environments_need_action(self, environment: ComputeEnvironment, expected: str) -> None:
        planner = a_planner()
        assert environment is not None
        planner.put_environment(environment)
        planner.agent_joined(an_agent())
        planner.queue_job(a_job("job", sequence=1))
        assert self.reason(planner) == expected

    def test_an_environment_that_is_not_there_needs_action(self) -> None:
        planner = a_planner()
        planner.drop_environment(ResourceKey(NAMESPACE, "default"))
        planner.queue_job(a_job("job", sequence=1))
        assert self.reason(planner).endswith("are invalid. Missing: default.")

    def test_a_queue_that_is_not_known_is_named(self) -> None:
        planner = a_planner()
        planner.queue_job(a_job("job", sequence=1, queue="nowhere"))
        assert self.reason(planner) == "Waiting: job queue nowhere is not known to the scheduler."

    def test_agents_that_are_drained_are_said_to_be(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent())
        planner.agent_drained("agent")
        planner.queue_job(a_job("job", sequence=1))
        assert self.reason(planner) == (
            "Waiting for an agent: those that serve compute environment default are drained."
        )

    def test_a_drained_agent_does_not_count_among_those_that_are_large_enough(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent("large", vcpus=8))
        planner.agent_joined(an_agent("small", vcpus=2))
        planner.agent_drained("large")
        planner.queue_job(a_job("job", sequence=1, vcpus=4))
        assert self.reason(planner) == (
            "Waiting for an agent: needs 4 vCPU and 128 MiB, and those that are large enough are drained."
        )
        planner.agent_gone("large")
        (reason,) = [reason for now in (2, 3, 4) for reason in planner.plan(now).wait_reasons]
        assert reason.reason.endswith("the largest that agents offer is 2 vCPU and 4096 MiB.")

    def test_what_the_store_refuses_is_told_in_its_words(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent())
        planner.queue_job(a_job("job", sequence=1))
        assert placed(planner.plan(0)) == ["job"]
        planner.queue_job(a_job("job", sequence=1))
        planner.offer_refused(job_key("job"), not_there="compute environment default is not ENABLED and VALID")
        assert placed(planner.plan(0)) == []
        assert self.reason(planner) == "Waiting: compute environment default is not ENABLED and VALID."

    def test_a_reason_is_told_again_when_agents_have_changed_it(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent("small", vcpus=1))
        planner.queue_job(a_job("job", sequence=1, vcpus=4))
        assert "MISCONFIGURATION" in self.reason(planner)
        planner.agent_joined(an_agent("large", vcpus=4))
        planner.run_held(HeldRun(Fence(1, 1), job_key("held"), "large", "default", need(1)))
        plan = planner.plan(2)
        assert (plan.wait_reasons, plan.next_deadline) == ((), 3)
        (reason,) = planner.plan(3).wait_reasons
        assert reason.reason == "Waiting for room: needs 4 vCPU and 128 MiB."

    def test_a_job_for_which_room_is_held_is_told_so(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=4))
        planner.queue_job(a_job("small", sequence=0))
        planner.queue_job(a_job("job", sequence=1, vcpus=4))
        self.reason(planner)
        (reason,) = planner.plan(300).wait_reasons
        assert reason.reason == "Waiting for room: needs 4 vCPU and 128 MiB, and room is being held."


class TestCost:
    def looks_at_an_end(self, waiting: int) -> int:
        """Return how many jobs are looked at when one run ends and one of `waiting` equal jobs is placed."""
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=1))
        planner.queue_job(a_job("running-0", sequence=0))
        fences = accept(planner, planner.plan(0))
        for number in range(1, waiting + 1):
            planner.queue_job(a_job(f"job-{number}", sequence=number))
        planner.plan(1)
        before = planner.looks
        planner.run_ended(fences["running-0"])
        assert placed(planner.plan(2)) == ["job-1"]
        return planner.looks - before

    def test_a_hundred_thousand_waiting_jobs_of_one_shape_cost_no_more_than_ten(self) -> None:
        assert self.looks_at_an_end(100_000) == self.looks_at_an_end(10) <= 2

    def test_an_event_that_frees_nothing_costs_nothing(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=1))
        for number in range(100):
            planner.queue_job(a_job(f"job-{number}", sequence=number, vcpus=1 + number % 10))
        planner.plan(0)
        before = planner.looks
        planner.queue_job(a_job("one-more", sequence=1000, vcpus=3))
        planner.withdraw_job(job_key("job-99"))
        planner.plan(0.5)
        assert planner.looks == before

    def test_the_end_of_a_run_has_only_those_shapes_looked_at_that_could_fit(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=2))
        planner.queue_job(a_job("running-0", sequence=0, vcpus=2))
        fences = accept(planner, planner.plan(0))
        for number in range(1, 65):
            planner.queue_job(a_job(f"job-{number}", sequence=number, vcpus=number, memory_mib=5000))
            planner.queue_job(a_job(f"wide-{number}", sequence=100 + number, vcpus=2 + number))
        planner.queue_job(a_job("fits", sequence=1000, vcpus=2))
        planner.plan(1)
        before = planner.looks
        planner.run_ended(fences["running-0"])
        assert placed(planner.plan(2)) == ["fits"]
        assert planner.looks - before == 1

    def test_jobs_for_which_no_room_may_be_had_are_not_looked_at_while_it_is_held(self) -> None:
        planner = a_planner()
        planner.agent_joined(an_agent(vcpus=4))
        for number in range(4):
            planner.queue_job(a_job(f"running-{number}", sequence=number))
        fences = accept(planner, planner.plan(0))
        planner.queue_job(a_job("wide", sequence=10, vcpus=4))
        for number in range(100):
            planner.queue_job(a_job(f"job-{number}", sequence=11 + number, memory_mib=1 + number))
        planner.plan(1)
        planner.plan(301)
        before = planner.looks
        planner.run_ended(fences["running-1"])
        assert placed(planner.plan(302)) == []
        assert planner.looks == before

    def test_a_waiting_job_costs_a_few_hundred_bytes(self) -> None:
        planner = a_planner()
        count = 20_000
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(count):
                job_id = f"00000000-0000-7000-8000-{number:012d}"
                planner.queue_job(a_job(job_id, sequence=number, version=number))
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (after - before) / count < 450


class TestArrays:
    def test_children_stand_in_the_place_of_their_array_by_index(self) -> None:
        planner = a_planner()
        planner.queue_job(a_job("last", sequence=20))
        planner.queue_children(an_array("array", [0, 2, 5], sequence=10))
        planner.queue_job(a_job("first", sequence=1))
        planner.agent_joined(an_agent(vcpus=8))
        assert placed(planner.plan(0)) == ["first", "array:0", "array:2", "array:5", "last"]

    def test_children_that_come_later_go_before_those_of_a_higher_index(self) -> None:
        planner = a_planner()
        planner.queue_children(an_array("array", [3, 7], sequence=10))
        planner.queue_children(an_array("array", [1, 5], sequence=10))
        planner.sanity_check()
        planner.agent_joined(an_agent(vcpus=8))
        assert placed(planner.plan(0)) == ["array:1", "array:3", "array:5", "array:7"]

    def test_a_child_that_is_tried_again_has_its_old_place(self) -> None:
        planner = a_planner()
        planner.queue_children(an_array("array", range(4), sequence=10))
        planner.agent_joined(an_agent(vcpus=1))
        (offer,) = planner.plan(0).offers
        planner.offer_accepted(offer.job, Fence(1, 1))
        planner.run_ended(Fence(1, 1))
        planner.queue_job(a_job("array:0", sequence=11, version=4))
        assert placed(planner.plan(1)) == ["array:0"]

    def test_a_refused_child_goes_before_the_next_one(self) -> None:
        planner = a_planner()
        planner.queue_children(an_array("array", range(4), sequence=10))
        planner.agent_joined(an_agent(vcpus=1))
        (offer,) = planner.plan(0).offers
        planner.offer_refused(offer.job)
        planner.queue_children(an_array("array", [0], sequence=10))
        assert placed(planner.plan(1)) == ["array:0"]

    def test_a_withdrawn_child_is_passed_over_and_a_withdrawn_array_with_all_that_wait(self) -> None:
        planner = a_planner()
        planner.queue_children(an_array("array", range(6), sequence=10))
        planner.withdraw_job(job_key("array:0"))
        planner.withdraw_job(job_key("array:2"))
        planner.agent_joined(an_agent(vcpus=2))
        assert placed(planner.plan(0)) == ["array:1", "array:3"]
        planner.withdraw_job(job_key("array"))
        planner.sanity_check()
        planner.agent_joined(an_agent("second", vcpus=8))
        assert placed(planner.plan(1)) == []

    def test_a_million_waiting_children_cost_almost_nothing(self) -> None:
        planner = a_planner()
        tracemalloc.start()
        for number in range(100):
            planner.queue_children(an_array(f"array-{number}", range(10_000), sequence=number * 10_001))
        cost = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert cost < 2_000_000
        planner.agent_joined(an_agent(vcpus=3))
        assert placed(planner.plan(0)) == ["array-0:0", "array-0:1", "array-0:2"]
        assert planner.looks < 10
