"""Why jobs wait, as the planner tells it."""

import pytest

from batchyard.domain.jobs import Fence
from batchyard.scheduler.model import ComputeEnvironment, HeldRun, ResourceKey
from batchyard.scheduler.planner import Planner
from batchyard.scheduler.reasons import is_ordinary
from support.planner import a_planner, accept, placed
from support.scheduler import NAMESPACE, a_job, an_agent, an_environment, job_key, need


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
