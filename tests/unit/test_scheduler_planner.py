"""The planner's decisions as stories: in what order, where, and what proposals come to."""

import tracemalloc

import pytest

from batchyard.domain.compat import Compat
from batchyard.domain.jobs import Fence
from batchyard.scheduler.model import HeldRun
from support.planner import a_planner, accept, placed, places
from support.scheduler import a_job, a_queue, an_agent, an_array, an_environment, job_key, need


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
