"""The eleven operations, through a channel, on a file."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from batchyard.api.registry.v1 import registry_service_pb2 as api
from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail, ComputeResourceUpdate
from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.api.registry.v1.job_queue_pb2 import JobQueueDetail
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.domain.compat import Compat
from batchyard.domain.names import Caller
from batchyard.rpc.identity import metadata_for
from support.contexts import held_open
from support.registry import (
    RegistryUnderTest,
    a_container,
    a_definition,
    a_queue,
    a_registry,
    an_environment,
    an_order,
    ec2_resources,
    fargate_resources,
    refused,
)

ENABLED = ResourceState.RESOURCE_STATE_ENABLED
DISABLED = ResourceState.RESOURCE_STATE_DISABLED
INVALID = StatusCode.INVALID_ARGUMENT
WRONG_STATE = StatusCode.FAILED_PRECONDITION

Registry = RegistryUnderTest


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with held_open(a_registry(tmp_path)) as registry:
        yield registry


async def environments(registry: Registry, *references: str) -> Sequence[ComputeEnvironmentDetail]:
    request = api.DescribeComputeEnvironmentsRequest(compute_environments=references)
    return (await registry.api.DescribeComputeEnvironments(request)).compute_environments


async def queues(registry: Registry, *references: str) -> Sequence[JobQueueDetail]:
    request = api.DescribeJobQueuesRequest(job_queues=references)
    return (await registry.api.DescribeJobQueues(request)).job_queues


async def definitions(registry: Registry, **filters: Any) -> list[str]:
    answer = await registry.api.DescribeJobDefinitions(api.DescribeJobDefinitionsRequest(**filters))
    return [f"{found.job_definition_name}:{found.revision} {found.status}" for found in answer.job_definitions]


async def make_environment_and_queue(registry: Registry) -> None:
    await registry.api.CreateComputeEnvironment(an_environment())
    await registry.api.CreateJobQueue(a_queue())


async def disable_queue(registry: Registry, name: str = "queue") -> None:
    await registry.api.UpdateJobQueue(api.UpdateJobQueueRequest(job_queue=name, state=DISABLED))


async def delete_queue(registry: Registry, reference: str = "queue") -> None:
    await registry.api.DeleteJobQueue(api.DeleteJobQueueRequest(job_queue=reference))


async def disable_environment(registry: Registry, name: str = "environment") -> None:
    request = api.UpdateComputeEnvironmentRequest(compute_environment=name, state=DISABLED)
    await registry.api.UpdateComputeEnvironment(request)


async def delete_environment(registry: Registry, reference: str = "environment") -> None:
    request = api.DeleteComputeEnvironmentRequest(compute_environment=reference)
    await registry.api.DeleteComputeEnvironment(request)


class TestComputeEnvironments:
    async def test_one_that_is_created_is_valid_at_once(self, registry: Registry) -> None:
        request = an_environment("managed", compute_resources=ec2_resources(), tags={"team": "blue"})
        created = await registry.api.CreateComputeEnvironment(request)
        arn = "arn:aws:batch:us-east-1:123456789012:compute-environment/managed"
        assert (created.compute_environment_name, created.compute_environment_arn) == ("managed", arn)
        (found,) = await environments(registry, "managed")
        assert found.compute_environment_arn == arn
        assert (found.state, found.status) == (ENABLED, ResourceStatus.RESOURCE_STATUS_VALID)
        assert found.compute_resources == ec2_resources(desiredv_cpus=0)
        assert found.tags == {"team": "blue"}
        assert found.ecs_cluster_arn.startswith("arn:aws:ecs:us-east-1:123456789012:cluster/managed_Batch_")

    async def test_an_update_by_arn_changes_what_is_sent(self, registry: Registry) -> None:
        created = await registry.api.CreateComputeEnvironment(an_environment(compute_resources=ec2_resources()))
        updated = await registry.api.UpdateComputeEnvironment(
            api.UpdateComputeEnvironmentRequest(
                compute_environment=created.compute_environment_arn,
                compute_resources=ComputeResourceUpdate(maxv_cpus=64),
            )
        )
        assert updated.compute_environment_arn == created.compute_environment_arn
        (found,) = await environments(registry)
        assert found.compute_resources.maxv_cpus == 64
        assert found.state == ENABLED

    async def test_each_cluster_has_a_name_of_its_own(self, registry: Registry) -> None:
        clusters = set()
        for _ in range(2):
            await registry.api.CreateComputeEnvironment(an_environment(state=DISABLED))
            clusters |= {found.ecs_cluster_arn for found in await environments(registry)}
            await delete_environment(registry)
        assert len(clusters) == 2

    async def test_a_taken_name_is_refused(self, registry: Registry) -> None:
        await registry.api.CreateComputeEnvironment(an_environment())
        call = registry.api.CreateComputeEnvironment(an_environment(state=DISABLED))
        await refused(call, StatusCode.ALREADY_EXISTS, "Object already exists")
        assert [found.state for found in await environments(registry)] == [ENABLED]

    async def test_of_racing_calls_for_one_name_one_succeeds(self, registry: Registry) -> None:
        async def create() -> StatusCode:
            call = registry.api.CreateComputeEnvironment(an_environment())
            return await call.code()

        codes = await asyncio.gather(*(create() for _ in range(10)))
        assert sorted(code.name for code in codes) == ["ALREADY_EXISTS"] * 9 + ["OK"]

    @pytest.mark.parametrize(
        "reference", ["nothing", "arn:aws:batch:us-east-1:123456789012:compute-environment/nothing"]
    )
    async def test_an_update_of_a_missing_one_is_refused(self, registry: Registry, reference: str) -> None:
        call = registry.api.UpdateComputeEnvironment(
            api.UpdateComputeEnvironmentRequest(compute_environment=reference, state=DISABLED)
        )
        text = "arn:aws:batch:us-east-1:123456789012:compute-environment/nothing does not exist"
        await refused(call, StatusCode.NOT_FOUND, text)

    async def test_a_failed_update_changes_nothing(self, registry: Registry) -> None:
        await registry.api.CreateComputeEnvironment(an_environment(compute_resources=ec2_resources()))
        (before,) = await environments(registry)
        call = registry.api.UpdateComputeEnvironment(
            api.UpdateComputeEnvironmentRequest(
                compute_environment="environment",
                state=DISABLED,
                compute_resources=ComputeResourceUpdate(desiredv_cpus=99),
            )
        )
        await refused(call, INVALID, "desiredvCpus should be between minvCpus and maxvCpus.")
        assert list(await environments(registry)) == [before]

    async def test_it_is_deleted_only_when_disabled_and_in_no_queue(self, registry: Registry) -> None:
        await make_environment_and_queue(registry)
        request = api.DeleteComputeEnvironmentRequest(compute_environment="environment")
        call = registry.api.DeleteComputeEnvironment
        await refused(call(request), WRONG_STATE, "Cannot delete, compute environment must be DISABLED")
        await disable_environment(registry)
        await refused(call(request), WRONG_STATE, "Cannot delete, found existing JobQueue relationship (queue)")
        await disable_queue(registry)
        await delete_queue(registry)
        await call(request)
        assert list(await environments(registry)) == []

    async def test_it_is_free_at_once_when_a_queue_lets_go_of_it(self, registry: Registry) -> None:
        await make_environment_and_queue(registry)
        await registry.api.CreateComputeEnvironment(an_environment("other"))
        await disable_environment(registry)
        order = an_order("other")
        await registry.api.UpdateJobQueue(api.UpdateJobQueueRequest(job_queue="queue", compute_environment_order=order))
        await delete_environment(registry)
        assert [found.compute_environment_name for found in await environments(registry)] == ["other"]

    @pytest.mark.parametrize("reference", ["nothing", "arn:aws:batch:us-east-1:123456789012:job-queue/environment"])
    async def test_deleting_a_missing_one_succeeds(self, registry: Registry, reference: str) -> None:
        await registry.api.CreateComputeEnvironment(an_environment(state=DISABLED))
        await delete_environment(registry, reference)
        assert len(await environments(registry)) == 1

    async def test_a_deleted_name_is_free_again(self, registry: Registry) -> None:
        await registry.api.CreateComputeEnvironment(an_environment(state=DISABLED, tags={"old": ""}))
        await delete_environment(registry)
        await registry.api.CreateComputeEnvironment(an_environment())
        assert [(found.state, dict(found.tags)) for found in await environments(registry)] == [(ENABLED, {})]

    async def test_todays_profile_refuses_a_disabled_start(self, tmp_path: Path) -> None:
        async with a_registry(tmp_path, Compat.AWS) as registry:
            call = registry.api.CreateComputeEnvironment(an_environment(state=DISABLED))
            await refused(call, INVALID, "Compute Environment must be created in ENABLED state.")


class TestJobQueues:
    async def test_one_that_is_created_is_valid_at_once(self, registry: Registry) -> None:
        await registry.api.CreateComputeEnvironment(an_environment())
        created = await registry.api.CreateJobQueue(a_queue("high", priority=0, tags={"a": "b"}))
        arn = "arn:aws:batch:us-east-1:123456789012:job-queue/high"
        assert (created.job_queue_name, created.job_queue_arn) == ("high", arn)
        (found,) = await queues(registry, arn)
        assert (found.state, found.status) == (ENABLED, ResourceStatus.RESOURCE_STATUS_VALID)
        assert found.HasField("priority")
        environment_arn = "arn:aws:batch:us-east-1:123456789012:compute-environment/environment"
        assert list(found.compute_environment_order) == an_order(environment_arn)

    async def test_environments_that_cannot_be_used_are_refused(self, registry: Registry) -> None:
        await registry.api.CreateComputeEnvironment(an_environment())
        await registry.api.CreateComputeEnvironment(an_environment("gone", state=DISABLED))
        await delete_environment(registry, "gone")
        await registry.api.CreateComputeEnvironment(an_environment("fargate", compute_resources=fargate_resources()))
        unusable = "Compute Environments must be created and valid before attaching them to a job queue"
        await refused(registry.api.CreateJobQueue(a_queue("queue", "gone")), INVALID, unusable)
        await refused(registry.api.CreateJobQueue(a_queue("queue", "nothing")), INVALID, unusable)
        mixed = "Fargate and EC2 compute environments can not be mixed."
        await refused(registry.api.CreateJobQueue(a_queue("queue", "environment", "fargate")), INVALID, mixed)
        assert list(await queues(registry)) == []

    async def test_a_disabled_environment_may_be_used(self, registry: Registry) -> None:
        await registry.api.CreateComputeEnvironment(an_environment(state=DISABLED))
        await registry.api.CreateJobQueue(a_queue())
        assert len(await queues(registry)) == 1

    async def test_a_taken_name_is_refused(self, registry: Registry) -> None:
        await make_environment_and_queue(registry)
        await refused(registry.api.CreateJobQueue(a_queue()), StatusCode.ALREADY_EXISTS, "Object already exists")

    async def test_an_update_changes_what_is_sent(self, registry: Registry) -> None:
        await make_environment_and_queue(registry)
        arn = "arn:aws:batch:us-east-1:123456789012:job-queue/queue"
        updated = await registry.api.UpdateJobQueue(api.UpdateJobQueueRequest(job_queue="queue", priority=0))
        assert (updated.job_queue_name, updated.job_queue_arn) == ("queue", arn)
        await disable_queue(registry, arn)
        (found,) = await queues(registry)
        assert (found.priority, found.state, len(found.compute_environment_order)) == (0, DISABLED, 1)
        assert found.status == ResourceStatus.RESOURCE_STATUS_VALID

    async def test_an_update_of_a_missing_one_is_refused(self, registry: Registry) -> None:
        call = registry.api.UpdateJobQueue(api.UpdateJobQueueRequest(job_queue="nothing", priority=1))
        text = "arn:aws:batch:us-east-1:123456789012:job-queue/nothing does not exist"
        await refused(call, StatusCode.NOT_FOUND, text)

    async def test_it_is_deleted_only_when_disabled(self, registry: Registry) -> None:
        await make_environment_and_queue(registry)
        call = registry.api.DeleteJobQueue(api.DeleteJobQueueRequest(job_queue="queue"))
        await refused(call, WRONG_STATE, "Cannot delete, job queue must be DISABLED")
        await disable_queue(registry)
        await delete_queue(registry)
        assert list(await queues(registry)) == []

    @pytest.mark.parametrize("reference", ["nothing", "arn:aws:batch:us-east-1:999999999999:job-queue/queue"])
    async def test_deleting_a_missing_one_succeeds(self, registry: Registry, reference: str) -> None:
        await make_environment_and_queue(registry)
        await disable_queue(registry)
        await delete_queue(registry, reference)
        assert len(await queues(registry)) == 1


class TestJobDefinitions:
    async def test_every_registration_makes_a_revision(self, registry: Registry) -> None:
        answers = [await registry.api.RegisterJobDefinition(a_definition("same")) for _ in range(2)]
        assert [(answer.job_definition_name, answer.revision) for answer in answers] == [("same", 1), ("same", 2)]
        assert answers[1].job_definition_arn == "arn:aws:batch:us-east-1:123456789012:job-definition/same:2"
        assert await definitions(registry) == ["same:2 ACTIVE", "same:1 ACTIVE"]

    async def test_racing_registrations_get_different_revisions(self, registry: Registry) -> None:
        answers = await asyncio.gather(*(registry.api.RegisterJobDefinition(a_definition()) for _ in range(20)))
        assert sorted(answer.revision for answer in answers) == list(range(1, 21))

    async def test_a_refused_registration_uses_up_no_revision(self, registry: Registry) -> None:
        bad = a_definition(container_properties=a_container(memory=3))
        await refused(registry.api.RegisterJobDefinition(bad), INVALID, "Memory must be at least 4 Mib, got 3 Mib.")
        assert (await registry.api.RegisterJobDefinition(a_definition())).revision == 1

    async def test_what_is_described_is_what_was_registered(self, registry: Registry) -> None:
        container = a_container(command=["echo", ""], vcpus=None, memory=None)
        container.resource_requirements.add(type="VCPU", value="0.50")
        container.resource_requirements.add(type="MEMORY", value="64")
        await registry.api.RegisterJobDefinition(a_definition(container_properties=container, parameters={"a": ""}))
        answer = await registry.api.DescribeJobDefinitions(api.DescribeJobDefinitionsRequest())
        assert list(answer.job_definitions) == [
            JobDefinition(
                job_definition_name="definition",
                job_definition_arn="arn:aws:batch:us-east-1:123456789012:job-definition/definition:1",
                revision=1,
                status="ACTIVE",
                type="container",
                parameters={"a": ""},
                container_properties=container,
                propagate_tags=False,
                container_orchestration_type="ECS",
            )
        ]

    async def test_filters_narrow_and_may_be_combined(self, registry: Registry) -> None:
        for name in ("a", "b", "a"):
            await registry.api.RegisterJobDefinition(a_definition(name))
        await registry.api.DeregisterJobDefinition(api.DeregisterJobDefinitionRequest(job_definition="a:1"))
        arn = "arn:aws:batch:us-east-1:123456789012:job-definition/"
        assert await definitions(registry) == ["a:2 ACTIVE", "a:1 INACTIVE", "b:1 ACTIVE"]
        assert await definitions(registry, status="ACTIVE") == ["a:2 ACTIVE", "b:1 ACTIVE"]
        assert await definitions(registry, job_definition_name="a") == ["a:2 ACTIVE", "a:1 INACTIVE"]
        assert await definitions(registry, job_definition_name="a", status="INACTIVE") == ["a:1 INACTIVE"]
        assert await definitions(registry, job_definitions=["a"]) == ["a:2 ACTIVE", "a:1 INACTIVE"]
        assert await definitions(registry, job_definitions=["a:1", arn + "b:1"]) == ["a:1 INACTIVE", "b:1 ACTIVE"]
        assert await definitions(registry, job_definitions=[arn + "b", "c", "b:9"]) == ["b:1 ACTIVE"]
        assert await definitions(registry, job_definitions=["a"], status="ACTIVE") == ["a:2 ACTIVE"]
        assert await definitions(registry, job_definitions=["c"]) == []

    @pytest.mark.parametrize(
        ("filters", "text"),
        [
            ({"status": "active"}, "Status must be ACTIVE or INACTIVE."),
            ({"job_definition_name": "a:1"}, "Job Definition name should match a valid pattern."),
            ({"job_definitions": ["a:b"]}, "Provided name a:b is not supported pattern[a-zA-Z_0-9-]{1,128}"),
            ({"job_definitions": ["a"] * 101}, "Maximum number of jobDefinitions supported is 100."),
        ],
    )
    async def test_malformed_filters_are_refused(self, registry: Registry, filters: dict[str, Any], text: str) -> None:
        call = registry.api.DescribeJobDefinitions(api.DescribeJobDefinitionsRequest(**filters))
        await refused(call, INVALID, text)

    async def test_deregistration_is_repeatable_and_revisions_never_come_back(self, registry: Registry) -> None:
        arn = (await registry.api.RegisterJobDefinition(a_definition("a"))).job_definition_arn
        for reference in ("a:1", arn):
            request = api.DeregisterJobDefinitionRequest(job_definition=reference)
            await registry.api.DeregisterJobDefinition(request)
        assert (await registry.api.RegisterJobDefinition(a_definition("a"))).revision == 2
        assert await definitions(registry) == ["a:2 ACTIVE", "a:1 INACTIVE"]

    @pytest.mark.parametrize(
        ("reference", "code", "text"),
        [
            ("a", INVALID, "JobDefinition a must be given with its revision."),
            ("a:7", StatusCode.NOT_FOUND, "JobDefinition a:7 not found."),
            (
                "arn:aws:batch:us-east-1:999999999999:job-definition/a:1",
                StatusCode.NOT_FOUND,
                "JobDefinition arn:aws:batch:us-east-1:999999999999:job-definition/a:1 not found.",
            ),
        ],
    )
    async def test_deregistering_what_is_no_revision_is_refused(
        self, registry: Registry, reference: str, code: StatusCode, text: str
    ) -> None:
        await registry.api.RegisterJobDefinition(a_definition("a"))
        call = registry.api.DeregisterJobDefinition(api.DeregisterJobDefinitionRequest(job_definition=reference))
        await refused(call, code, text)


class TestPages:
    @pytest.fixture
    async def five(self, registry: Registry) -> Registry:
        for name in "edcba":
            await registry.api.CreateComputeEnvironment(an_environment(name))
            await registry.api.CreateJobQueue(a_queue(name, name))
            await registry.api.RegisterJobDefinition(a_definition(name))
        return registry

    async def test_every_listing_goes_page_by_page_by_name(self, five: Registry) -> None:
        listings: list[tuple[Callable[..., Any], Any, str, str]] = [
            (
                five.api.DescribeComputeEnvironments,
                api.DescribeComputeEnvironmentsRequest(max_results=2),
                "compute_environments",
                "compute_environment_name",
            ),
            (five.api.DescribeJobQueues, api.DescribeJobQueuesRequest(max_results=2), "job_queues", "job_queue_name"),
            (
                five.api.DescribeJobDefinitions,
                api.DescribeJobDefinitionsRequest(max_results=2),
                "job_definitions",
                "job_definition_name",
            ),
        ]
        for describe, request, members, name in listings:
            pages = []
            while True:
                answer = await describe(request)
                pages.append([getattr(member, name) for member in getattr(answer, members)])
                if not answer.HasField("next_token"):
                    break
                request.next_token = answer.next_token
            assert pages == [["a", "b"], ["c", "d"], ["e"]]

    async def test_a_token_outlives_a_restart(self, tmp_path: Path) -> None:
        async with a_registry(tmp_path) as registry:
            for name in "abc":
                await registry.api.RegisterJobDefinition(a_definition(name))
            first = await registry.api.DescribeJobDefinitions(api.DescribeJobDefinitionsRequest(max_results=2))
        async with a_registry(tmp_path) as registry:
            assert await definitions(registry, next_token=first.next_token) == ["c:1 ACTIVE"]

    async def test_a_token_of_another_filter_or_account_is_refused(self, five: Registry) -> None:
        answer = await five.api.DescribeJobQueues(api.DescribeJobQueuesRequest(job_queues=["a", "b"], max_results=1))
        token, text = answer.next_token, "nextToken is not valid for this request."
        request = api.DescribeJobQueuesRequest(job_queues=["b", "a"], next_token=token)
        assert [queue.job_queue_name for queue in (await five.api.DescribeJobQueues(request)).job_queues] == ["b"]
        stranger = list(metadata_for(Caller("999999999999")))
        await refused(five.api.DescribeJobQueues(request, metadata=stranger), INVALID, text)
        await refused(five.api.DescribeJobQueues(api.DescribeJobQueuesRequest(next_token=token)), INVALID, text)
        environments_request = api.DescribeComputeEnvironmentsRequest(next_token=token)
        await refused(five.api.DescribeComputeEnvironments(environments_request), INVALID, text)

    @pytest.mark.parametrize("size", [0, 101, -1])
    async def test_sizes_outside_1_to_100_are_refused(self, registry: Registry, size: int) -> None:
        text = "maxResults must be between 1 and 100."
        await refused(
            registry.api.DescribeJobDefinitions(api.DescribeJobDefinitionsRequest(max_results=size)), INVALID, text
        )
        await refused(registry.api.DescribeJobQueues(api.DescribeJobQueuesRequest(max_results=size)), INVALID, text)

    async def test_names_that_are_unknown_or_given_twice_do_no_harm(self, five: Registry) -> None:
        arn = "arn:aws:batch:us-east-1:123456789012:job-queue/a"
        found = await queues(five, "b", arn, "a", "nothing", "arn:aws:batch:us-east-1:123456789012:job-definition/c")
        assert [queue.job_queue_name for queue in found] == ["a", "b"]


async def test_accounts_do_not_see_each_other(registry: Registry) -> None:
    stranger = list(metadata_for(Caller("999999999999")))
    await make_environment_and_queue(registry)
    await registry.api.RegisterJobDefinition(a_definition())
    await registry.api.CreateComputeEnvironment(an_environment(), metadata=stranger)
    assert (await registry.api.RegisterJobDefinition(a_definition(), metadata=stranger)).revision == 1
    answer = await registry.api.DescribeJobQueues(api.DescribeJobQueuesRequest(), metadata=stranger)
    assert list(answer.job_queues) == []


async def test_an_arn_keeps_the_region_of_its_creation_and_is_found_from_every_other(registry: Registry) -> None:
    far = list(metadata_for(Caller(region="ap-southeast-2")))
    created = await registry.api.CreateComputeEnvironment(an_environment(), metadata=far)
    arn = "arn:aws:batch:ap-southeast-2:123456789012:compute-environment/environment"
    assert created.compute_environment_arn == arn
    assert [found.compute_environment_arn for found in await environments(registry, arn)] == [arn]
    await registry.api.CreateJobQueue(a_queue("queue", arn.replace("ap-southeast-2", "us-east-1")))
    (queue,) = await queues(registry)
    assert [entry.compute_environment for entry in queue.compute_environment_order] == [arn]
    updated = await registry.api.UpdateComputeEnvironment(
        api.UpdateComputeEnvironmentRequest(compute_environment="environment")
    )
    assert updated.compute_environment_arn == arn


async def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    async with a_registry(tmp_path) as registry:
        await make_environment_and_queue(registry)
        await registry.api.RegisterJobDefinition(a_definition())
        before = [list(await environments(registry)), list(await queues(registry)), await definitions(registry)]
    async with a_registry(tmp_path) as registry:
        after = [list(await environments(registry)), list(await queues(registry)), await definitions(registry)]
        assert after == before
        assert (await registry.api.RegisterJobDefinition(a_definition())).revision == 2
