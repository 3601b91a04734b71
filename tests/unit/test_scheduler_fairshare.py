"""Fair share: in what order shares and their jobs are served, what they use, and what is kept back for others."""

from collections import Counter
from math import exp

import pytest

from batchyard.domain.jobs import Fence
from batchyard.scheduler.fairshare import FairShare, Use
from batchyard.scheduler.model import HeldRun, Plan, ResourceKey, ShareUse
from batchyard.scheduler.planner import Planner
from batchyard.scheduler.usage import SAVE_EVERY_S
from support.scheduler import (
    NAMESPACE,
    a_job,
    a_policy,
    a_queue,
    an_agent,
    an_array,
    an_environment,
    job_key,
    need,
)

QUEUE = ResourceKey(NAMESPACE, "default")


class World:
    """A planner with one fair share queue, the jobs of which take as long as the test says."""

    def __init__(self, *, vcpus: int = 4, max_vcpus: int | None = None, **policy: object) -> None:
        self.planner = Planner(starvation_bound_s=1e9)
        self.planner.put_environment(an_environment(max_vcpus=max_vcpus))
        self.planner.put_policy(a_policy(**policy))  # type: ignore[arg-type]
        self.planner.put_queue(a_queue(policy="policy"))
        self.planner.agent_joined(an_agent(vcpus=vcpus, memory_mib=1_000_000))
        self.now = 0.0
        self.sequence = 0
        self.fences = 0
        self.running: dict[str, Fence] = {}
        self.uses: dict[str, float] = {}

    def submit(self, share: str, count: int = 1, *, priority: int = 0, vcpus: float = 1) -> None:
        for _ in range(count):
            self.sequence += 1
            self.planner.queue_job(
                a_job(f"{share}-{self.sequence}", sequence=self.sequence, share=share, priority=priority, vcpus=vcpus)
            )

    def plan(self, passed_s: float = 0.0) -> list[str]:
        """Plan, have every proposal accepted, and return whose they were."""
        self.now += passed_s
        plan: Plan = self.planner.plan(self.now)
        self.planner.sanity_check()
        for offer in plan.offers:
            self.fences += 1
            fence = self.running[offer.job.job_id] = Fence(1, self.fences)
            self.planner.offer_accepted(offer.job, fence)
        self.uses.update((use.share, use.used) for use in plan.share_uses)
        return [offer.job.job_id for offer in plan.offers]

    def end(self, job_id: str) -> None:
        self.planner.run_ended(self.running.pop(job_id))

    def end_oldest(self, count: int = 1) -> None:
        for job_id in list(self.running)[:count]:
            self.end(job_id)

    def held(self) -> Counter[str]:
        return shares(self.running)


def shares(job_ids: "dict[str, Fence] | list[str]") -> Counter[str]:
    return Counter(job_id.rpartition("-")[0] for job_id in job_ids)


class TestOrderOfShares:
    def test_a_lower_weight_factor_gets_more(self) -> None:
        world = World(vcpus=9, weights={"light": 0.5, "heavy": 1.0})
        world.submit("heavy", 20)
        world.submit("light", 20)
        world.plan()
        assert world.held() == {"light": 6, "heavy": 3}

    def test_shares_that_no_entry_names_have_a_weight_of_one(self) -> None:
        world = World(vcpus=9, weights={"named": 0.5})
        world.submit("nobody", 20)
        world.submit("named", 20)
        world.plan()
        assert world.held() == {"named": 6, "nobody": 3}

    def test_a_wildcard_stands_for_each_share_that_begins_like_it_not_for_all_together(self) -> None:
        world = World(vcpus=5, weights={"team*": 0.5, "other": 1.0})
        for share in ("team-a", "team-b", "other"):
            world.submit(share, 20)
        world.plan()
        assert world.held() == {"team-a": 2, "team-b": 2, "other": 1}

    def test_without_entries_shares_are_equal(self) -> None:
        world = World(vcpus=4)
        world.submit("a", 20)
        world.submit("b", 20)
        world.plan()
        assert world.held() == {"a": 2, "b": 2}

    def test_vcpus_count_and_not_jobs(self) -> None:
        world = World(vcpus=8)
        world.submit("wide", 20, vcpus=4)
        world.submit("narrow", 20)
        world.plan()
        assert world.held() == {"wide": 1, "narrow": 4}

    def test_a_newcomer_is_served_before_a_heavy_user_gets_its_next(self) -> None:
        world = World(vcpus=1)
        world.submit("heavy", 5)
        world.plan()
        world.end_oldest()
        world.plan(600)
        world.submit("newcomer")
        world.end_oldest()
        assert shares(world.plan(600)) == {"newcomer": 1}

    @pytest.mark.parametrize("weights", [(1.0, 1.0), (0.25, 1.0), (2.0, 0.5)])
    def test_shares_that_always_have_jobs_use_room_in_inverse_ratio_of_their_weights(
        self, weights: tuple[float, float]
    ) -> None:
        world = World(vcpus=20, weights={"a": weights[0], "b": weights[1]})
        world.submit("a", 2000)
        world.submit("b", 2000)
        used: Counter[str] = Counter()
        world.plan()
        for _ in range(300):
            used.update(world.held())
            world.end_oldest(3)
            world.plan(10)
        expected = weights[1] / (weights[0] + weights[1])
        assert used["a"] / used.total() == pytest.approx(expected, abs=0.03)

    def test_past_use_fades(self) -> None:
        world = World(vcpus=2, decay_s=600)
        world.submit("old", 1, vcpus=2)
        world.plan()
        world.plan(600)
        world.end_oldest()
        world.plan()
        world.submit("old", 10)
        world.submit("new", 10)
        world.plan(20_000)  # long forgotten
        assert world.held() == {"new": 1, "old": 1}

    def test_use_is_remembered_for_the_window_of_the_policy(self) -> None:
        world = World(vcpus=2, decay_s=604_800)
        world.submit("old", 1, vcpus=2)
        world.plan()
        world.plan(100_000)
        world.end_oldest()
        world.plan()
        world.submit("old", 10)
        world.submit("new", 10)
        world.plan(20_000)
        assert next(iter(world.held())) == "new"


class TestOrderWithinAShare:
    def test_a_higher_scheduling_priority_goes_first_then_submission(self) -> None:
        world = World(vcpus=4)
        world.submit("a", 2, priority=1)
        world.submit("a", 2, priority=9999)
        assert world.plan() == ["a-3", "a-4", "a-1", "a-2"]

    def test_priorities_do_not_compare_across_shares(self) -> None:
        world = World(vcpus=2)
        world.submit("a", 2, priority=9999)
        world.submit("b", 2, priority=0)
        world.plan()
        assert world.held() == {"a": 1, "b": 1}

    def test_jobs_of_one_priority_and_of_several_shapes_go_by_submission(self) -> None:
        world = World(vcpus=8)
        world.submit("a", 1, vcpus=1)
        world.submit("a", 1, vcpus=2)
        world.submit("a", 1, vcpus=1)
        assert world.plan() == ["a-1", "a-2", "a-3"]

    def test_children_have_the_share_and_the_priority_of_their_array(self) -> None:
        world = World(vcpus=4)
        world.submit("a", 1, priority=5)
        world.planner.queue_children(an_array("array", range(3), sequence=10, share="a", priority=7))
        assert world.plan() == ["array:0", "array:1", "array:2", "a-1"]


class TestFront:
    def test_it_is_the_order_in_which_jobs_are_then_placed(self) -> None:
        world = World(vcpus=3, weights={"a": 0.5})
        world.submit("a", 3, priority=1)
        world.submit("b", 3)
        world.submit("a", 3, priority=2)
        world.planner.queue_children(an_array("c", range(40), sequence=100, share="c"))
        world.plan()
        front = world.planner.front(QUEUE, world.now, 100)
        placed: list[str] = []
        while len(placed) < 46:
            world.planner.agent_joined(an_agent(f"agent-{len(placed)}", vcpus=1))
            placed += world.plan()
        assert front == placed
        assert world.planner.front(QUEUE, world.now, 100) == []

    def test_it_is_no_longer_than_asked_for(self) -> None:
        world = World(vcpus=1)
        world.planner.queue_children(an_array("array", range(5000), sequence=10, share="a"))
        world.submit("b", 500)
        assert len(world.planner.front(QUEUE, 0, 100)) == 100

    def test_a_queue_that_is_not_known_has_none(self) -> None:
        assert Planner().front(QUEUE, 0, 100) == []

    def test_withdrawn_jobs_are_not_in_it(self) -> None:
        world = World(vcpus=1)
        world.planner.agent_drained("agent")
        world.submit("a", 4)
        for number in (1, 3):
            world.planner.withdraw_job(job_key(f"a-{number}"))
        assert world.planner.front(QUEUE, 0, 100) == ["a-2", "a-4"]


class TestReservation:
    def test_a_part_is_kept_back_for_shares_that_are_not_active(self) -> None:
        world = World(vcpus=64, max_vcpus=8, reservation=50)
        world.submit("a", 20)
        world.plan()
        assert world.held() == {"a": 4}
        world.submit("b", 20)
        world.plan()
        assert world.held() == {"a": 4, "b": 2}
        world.submit("c", 20)
        world.plan()
        assert world.held() == {"a": 4, "b": 2, "c": 1}

    def test_one_job_always_runs(self) -> None:
        world = World(vcpus=64, max_vcpus=8, reservation=99)
        world.submit("a", 2, vcpus=8)
        assert world.plan() == ["a-1"]
        world.end("a-1")
        assert world.plan() == ["a-2"]

    def test_what_waits_for_it_is_told_so(self) -> None:
        world = World(vcpus=64, max_vcpus=8, reservation=50)
        world.submit("a", 20)
        world.plan()
        (reason,) = world.planner.plan(2).wait_reasons
        assert (reason.share, reason.reason) == (
            "a",
            (
                "Waiting for room: needs 1 vCPU and 128 MiB, and the rest of compute environment default is kept for "
                "other shares."
            ),
        )

    def test_unmanaged_environments_without_a_size_keep_nothing_back(self) -> None:
        world = World(vcpus=8, reservation=50)
        world.submit("a", 20)
        world.plan()
        assert world.held() == {"a": 8}

    def test_unmanaged_environments_keep_a_part_of_what_they_are_said_to_have(self) -> None:
        world = World(vcpus=8, reservation=50)
        world.planner.put_environment(an_environment(unmanaged_vcpus=6))
        world.submit("a", 20)
        world.plan()
        assert world.held() == {"a": 3}


class TestChanges:
    def test_a_policy_that_changes_holds_from_the_next_decision(self) -> None:
        world = World(vcpus=6, weights={"a": 0.5})
        world.planner.put_policy(a_policy(weights={"b": 0.5}))
        world.submit("a", 10)
        world.submit("b", 10)
        world.plan()
        assert world.held() == {"a": 2, "b": 4}

    def test_what_was_used_before_a_change_counts_after_it(self) -> None:
        world = World(vcpus=1)
        world.submit("a", 2)
        world.plan()
        world.plan(100)
        world.planner.put_policy(a_policy(decay_s=1000, weights={"a": 0.9}))
        world.submit("b")
        world.end_oldest()
        assert shares(world.plan()) == {"b": 1}

    def test_another_policy_of_the_queue_holds_from_the_next_decision(self) -> None:
        world = World(vcpus=6, weights={"a": 0.5})
        world.planner.put_policy(a_policy("other", weights={"b": 0.5}))
        world.planner.put_queue(a_queue(policy="other"))
        world.submit("a", 10)
        world.submit("b", 10)
        world.plan()
        assert world.held() == {"a": 2, "b": 4}

    def test_a_lowered_reservation_lets_waiting_jobs_in(self) -> None:
        world = World(vcpus=64, max_vcpus=8, reservation=50)
        world.submit("a", 20)
        world.plan()
        world.planner.put_policy(a_policy(reservation=0))
        world.plan()
        assert world.held() == {"a": 8}


class TestUseThatOutlivesAScheduler:
    def test_it_is_told_from_time_to_time_while_jobs_run(self) -> None:
        world = World(vcpus=2)
        world.submit("a", 1, vcpus=2)
        world.plan()
        assert [world.planner.plan(now).next_deadline for now in (0, 1)] == [1, SAVE_EVERY_S]
        world.plan(SAVE_EVERY_S)
        assert world.uses == {"a": pytest.approx(2 * SAVE_EVERY_S, rel=0.02)}

    def test_a_share_that_holds_nothing_is_told_of_once_more_and_costs_no_timer(self) -> None:
        world = World(vcpus=2)
        world.submit("a")
        world.plan()
        world.end_oldest()
        world.plan(5)
        world.plan(SAVE_EVERY_S)
        assert world.uses["a"] == pytest.approx(5, rel=0.05)
        assert world.planner.plan(world.now).next_deadline is None

    def test_a_scheduler_that_takes_over_goes_on_from_it(self) -> None:
        world = World(vcpus=1)
        world.planner.forget_jobs()
        world.planner.share_used(ShareUse(QUEUE, "a", 100.0, ago_s=600.0))
        world.submit("a", 3)
        world.submit("b", 3)
        assert shares(world.plan()) == {"b": 1}
        world.plan(SAVE_EVERY_S)
        world.end_oldest()
        assert world.planner.front(QUEUE, world.now, 3) == ["b-5", "a-1", "b-6"]

    def test_runs_of_a_snapshot_count_for_their_share(self) -> None:
        world = World(vcpus=2)
        world.planner.run_held(
            HeldRun(Fence(9, 9), job_key("held"), "agent", "default", need(1), job_queue="default", share="a")
        )
        world.submit("a")
        world.submit("b")
        assert shares(world.plan()) == {"b": 1}

    def test_what_is_forgotten_is_said_to_be(self) -> None:
        world = World(vcpus=2)
        world.planner.share_used(ShareUse(QUEUE, "gone", 1.0, ago_s=600_000.0))
        world.submit("a")
        world.plan()
        world.plan(SAVE_EVERY_S)
        assert world.uses["gone"] == 0
        world.end_oldest()
        world.plan(100_000)


class TestMathematics:
    def test_use_is_an_integral_that_fades(self) -> None:
        use = Use(600.0)
        use.settle(0.0, 600.0)
        use.running = 2000
        use.settle(0.0, 600.0)
        use.running = 0
        use.settle(600.0, 600.0)
        assert use.at(600.0) == pytest.approx(2000 * 600 * (1 - exp(-1)))
        assert use.at(1200.0) == pytest.approx(2000 * 600 * (1 - exp(-1)) * exp(-1))

    def test_settling_more_often_changes_nothing(self) -> None:
        seldom, often = Use(600.0), Use(600.0)
        for use in (seldom, often):
            use.running = 1000
            use.settle(0.0, 600.0)
        for second in range(1, 301):
            often.settle(float(second), 600.0)
        assert often.at(300.0) == pytest.approx(seldom.at(300.0))

    def test_the_window_is_never_below_ten_minutes(self) -> None:
        assert FairShare(a_policy(decay_s=0)).window_s == 600
        assert FairShare(a_policy(decay_s=601)).window_s == 601

    @pytest.mark.parametrize(("active", "usable"), [(0, 500), (1, 500), (2, 750), (3, 875)])
    def test_the_reserve_shrinks_with_each_active_share(self, active: int, usable: int) -> None:
        assert FairShare(a_policy(reservation=50)).usable_milli(1000, active) == usable
