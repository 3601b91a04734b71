"""What decisions cost: they follow what has changed, not what waits."""

import tracemalloc

from support.planner import a_planner, accept, placed
from support.scheduler import a_job, an_agent, job_key


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
