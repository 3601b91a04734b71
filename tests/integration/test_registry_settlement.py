"""What the registry says only once the job store obeys."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import StatusCode

from batchyard.api.registry.v1 import registry_service_pb2 as api
from batchyard.api.registry.v1.job_queue_pb2 import JobQueueDetail
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.api.scheduler.v1.resources_service_pb2 import WatchResourcesRequest
from batchyard.domain.compat import Compat
from batchyard.registry import settlement
from support.contexts import held_open
from support.registry import (
    RegistryUnderTest,
    a_definition,
    a_queue,
    a_registry,
    an_environment,
    an_order,
    changes_until_caught_up,
    refused,
)

ENABLED = ResourceState.RESOURCE_STATE_ENABLED
DISABLED = ResourceState.RESOURCE_STATE_DISABLED
VALID = ResourceStatus.RESOURCE_STATUS_VALID
CREATING = ResourceStatus.RESOURCE_STATUS_CREATING
UPDATING = ResourceStatus.RESOURCE_STATUS_UPDATING
DELETING = ResourceStatus.RESOURCE_STATUS_DELETING
WRONG_STATE = StatusCode.FAILED_PRECONDITION

UNREACHABLE = "The job store cannot be reached; nothing was changed. Try again."
BEING_MODIFIED = "Cannot update, resource is being modified."
UNFINISHED = "Cannot delete, job queue has jobs that have not completed"

DISABLE = api.UpdateJobQueueRequest(job_queue="queue", state=DISABLED)
ENABLE = api.UpdateJobQueueRequest(job_queue="queue", state=ENABLED)
DELETE = api.DeleteJobQueueRequest(job_queue="queue")
DEREGISTER = api.DeregisterJobDefinitionRequest(job_definition="definition:1")

Registry = RegistryUnderTest


async def with_a_queue(registry: Registry, state: ResourceState.ValueType = ENABLED) -> None:
    await registry.api.CreateComputeEnvironment(an_environment())
    await registry.api.CreateJobQueue(a_queue(state=state))


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    """A registry with an ENABLED queue."""
    async with held_open(a_registry(tmp_path)) as registry:
        await with_a_queue(registry)
        yield registry


async def the_queue(registry: Registry) -> JobQueueDetail | None:
    answer = await registry.api.DescribeJobQueues(api.DescribeJobQueuesRequest(job_queues=["queue"]))
    return next(iter(answer.job_queues), None)


async def looks(registry: Registry) -> tuple[ResourceState.ValueType, ResourceStatus.ValueType] | None:
    queue = await the_queue(registry)
    return None if queue is None else (queue.state, queue.status)


async def definition_status(registry: Registry) -> str:
    answer = await registry.api.DescribeJobDefinitions(api.DescribeJobDefinitionsRequest())
    return answer.job_definitions[0].status


async def test_a_new_state_is_answered_after_the_job_store_took_it_in(registry: Registry) -> None:
    async with registry.job_store.holding(registry.api.UpdateJobQueue(DISABLE)) as call:
        assert not call.done()
        assert await looks(registry) == (DISABLED, UPDATING)
        (told,) = registry.job_store.settled
        assert told.namespace == "123456789012"
        assert (told.job_queue.state, told.job_queue.status) == (DISABLED, VALID)
    await call
    assert await looks(registry) == (DISABLED, VALID)


async def test_enabling_is_settled_too(registry: Registry) -> None:
    await registry.api.UpdateJobQueue(DISABLE)
    await registry.api.UpdateJobQueue(ENABLE)
    assert [told.job_queue.state for told in registry.job_store.settled] == [DISABLED, ENABLED]


async def test_what_does_not_touch_submissions_is_not_settled(registry: Registry) -> None:
    await registry.api.UpdateJobQueue(api.UpdateJobQueueRequest(job_queue="queue", state=ENABLED, priority=9))
    await registry.api.RegisterJobDefinition(a_definition())
    await registry.api.CreateJobQueue(a_queue("other"))
    assert registry.job_store.settled == []


async def test_each_settlement_has_a_higher_revision_than_all_before(registry: Registry) -> None:
    for request in (DISABLE, ENABLE, DISABLE):
        await registry.api.UpdateJobQueue(request)
    revisions = [told.revision for told in registry.job_store.settled]
    assert revisions == sorted(set(revisions))


async def test_a_queue_in_settlement_takes_no_other_change(registry: Registry) -> None:
    async with registry.job_store.holding(registry.api.UpdateJobQueue(DISABLE)) as call:
        updating = "Cannot update, resource is being modified."
        await refused(registry.api.UpdateJobQueue(ENABLE), WRONG_STATE, updating)
        await refused(registry.api.DeleteJobQueue(DELETE), WRONG_STATE, "Cannot delete, resource is being modified.")
        await refused(registry.api.CreateJobQueue(a_queue()), StatusCode.ALREADY_EXISTS, "Object already exists")
    await call
    await registry.api.UpdateJobQueue(ENABLE)
    assert await looks(registry) == (ENABLED, VALID)


async def test_a_delete_is_answered_after_the_job_store_closed_the_queue(registry: Registry) -> None:
    await registry.api.UpdateJobQueue(DISABLE)
    async with registry.job_store.holding(registry.api.DeleteJobQueue(DELETE)) as call:
        assert not call.done()
        assert await looks(registry) == (DISABLED, DELETING)
        told = registry.job_store.settled[-1].job_queue
        assert (told.job_queue_name, told.status) == ("queue", DELETING)
    await call
    assert await the_queue(registry) is None


async def test_a_queue_with_unfinished_jobs_stays_and_can_be_deleted_later(registry: Registry) -> None:
    await registry.api.UpdateJobQueue(DISABLE)
    before = await the_queue(registry)
    with registry.job_store.failing(WRONG_STATE, UNFINISHED):
        await refused(registry.api.DeleteJobQueue(DELETE), WRONG_STATE, UNFINISHED)
    assert await the_queue(registry) == before
    await registry.api.DeleteJobQueue(DELETE)
    assert await the_queue(registry) is None


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.DEADLINE_EXCEEDED])
async def test_an_unreachable_job_store_leaves_things_as_they_were(registry: Registry, code: StatusCode) -> None:
    before = await the_queue(registry)
    with registry.job_store.failing(code):
        await refused(registry.api.UpdateJobQueue(DISABLE), StatusCode.UNAVAILABLE, UNREACHABLE)
        assert await the_queue(registry) == before
    await registry.api.UpdateJobQueue(DISABLE)
    with registry.job_store.failing(code):
        await refused(registry.api.DeleteJobQueue(DELETE), StatusCode.UNAVAILABLE, UNREACHABLE)
    assert await looks(registry) == (DISABLED, VALID)


async def test_a_job_store_that_never_answers_is_given_up(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "SETTLE_TIMEOUT_S", 0.01)
    registry.job_store.may_answer.clear()
    await refused(registry.api.UpdateJobQueue(DISABLE), StatusCode.UNAVAILABLE, UNREACHABLE)
    assert await looks(registry) == (ENABLED, VALID)


async def test_a_name_is_used_again_only_when_the_job_store_knows(registry: Registry) -> None:
    await registry.api.UpdateJobQueue(DISABLE)
    await registry.api.DeleteJobQueue(DELETE)
    async with registry.job_store.holding(registry.api.CreateJobQueue(a_queue(priority=7))) as call:
        assert not call.done()
        assert await looks(registry) == (ENABLED, CREATING)
        told = registry.job_store.settled[-1].job_queue
        assert (told.priority, told.state, told.status) == (7, ENABLED, VALID)
    await call
    assert await looks(registry) == (ENABLED, VALID)


async def test_a_name_stays_free_if_the_job_store_cannot_know(registry: Registry) -> None:
    await registry.api.UpdateJobQueue(DISABLE)
    await registry.api.DeleteJobQueue(DELETE)
    with registry.job_store.failing(StatusCode.UNAVAILABLE):
        await refused(registry.api.CreateJobQueue(a_queue()), StatusCode.UNAVAILABLE, UNREACHABLE)
    assert await the_queue(registry) is None
    await registry.api.CreateJobQueue(a_queue())
    assert await looks(registry) == (ENABLED, VALID)


async def test_a_deregistration_is_answered_after_the_job_store_took_it_in(registry: Registry) -> None:
    await registry.api.RegisterJobDefinition(a_definition())
    async with registry.job_store.holding(registry.api.DeregisterJobDefinition(DEREGISTER)) as call:
        assert not call.done()
        (told,) = registry.job_store.settled
        assert (told.job_definition.revision, told.job_definition.status) == (1, "INACTIVE")
        again = registry.api.DeregisterJobDefinition(DEREGISTER)
        await refused(again, WRONG_STATE, "Cannot update, resource is being modified.")
    await call
    assert await definition_status(registry) == "INACTIVE"
    await registry.api.DeregisterJobDefinition(DEREGISTER)
    assert len(registry.job_store.settled) == 1


async def test_a_definition_stays_active_if_the_job_store_cannot_know(registry: Registry) -> None:
    await registry.api.RegisterJobDefinition(a_definition())
    with registry.job_store.failing(StatusCode.UNAVAILABLE):
        await refused(registry.api.DeregisterJobDefinition(DEREGISTER), StatusCode.UNAVAILABLE, UNREACHABLE)
    assert await definition_status(registry) == "ACTIVE"


async def test_environments_of_both_outcomes_are_held_until_one_is_decided(registry: Registry) -> None:
    await registry.api.CreateComputeEnvironment(an_environment("other", state=DISABLED))
    await registry.api.UpdateComputeEnvironment(
        api.UpdateComputeEnvironmentRequest(compute_environment="environment", state=DISABLED)
    )
    change = api.UpdateJobQueueRequest(job_queue="queue", state=DISABLED, compute_environment_order=an_order("other"))
    related = "Cannot delete, found existing JobQueue relationship (queue)"
    delete = api.DeleteComputeEnvironmentRequest
    async with registry.job_store.holding(registry.api.UpdateJobQueue(change)) as call:
        for name in ("environment", "other"):
            deletion = registry.api.DeleteComputeEnvironment(delete(compute_environment=name))
            await refused(deletion, WRONG_STATE, related)
    await call
    await registry.api.DeleteComputeEnvironment(delete(compute_environment="environment"))
    deletion = registry.api.DeleteComputeEnvironment(delete(compute_environment="other"))
    await refused(deletion, WRONG_STATE, related)


async def test_a_change_is_seen_through_when_its_caller_has_gone(registry: Registry) -> None:
    watch = registry.watch.WatchResources(WatchResourcesRequest())
    async with registry.job_store.holding(registry.api.UpdateJobQueue(DISABLE)) as call:
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
    async for message in watch:
        if any((change.job_queue.state, change.job_queue.status) == (DISABLED, VALID) for change in message.changes):
            break
    watch.cancel()
    assert await looks(registry) == (DISABLED, VALID)


async def test_a_change_that_a_stop_cut_off_is_taken_back_at_the_next_start(tmp_path: Path) -> None:
    async with a_registry(tmp_path) as registry:
        await with_a_queue(registry)
        await registry.api.RegisterJobDefinition(a_definition())
        registry.job_store.may_answer.clear()
        calls = [
            asyncio.ensure_future(registry.api.UpdateJobQueue(DISABLE)),
            asyncio.ensure_future(registry.api.DeregisterJobDefinition(DEREGISTER)),
        ]
        while len(registry.job_store.settled) < 2:
            registry.job_store.asked.clear()
            await registry.job_store.asked.wait()
        assert await looks(registry) == (DISABLED, UPDATING)
    await asyncio.wait(calls)
    told = max(change.revision for change in registry.job_store.settled)
    async with a_registry(tmp_path) as registry:
        assert await looks(registry) == (ENABLED, VALID)
        assert await definition_status(registry) == "ACTIVE"
        changes, _ = await changes_until_caught_up(registry, after_revision=told)
        assert {change.WhichOneof("resource") for change in changes} == {"job_queue", "job_definition"}
        await registry.api.UpdateJobQueue(DISABLE)
        assert await looks(registry) == (DISABLED, VALID)


class TestDeletionWithJobs:
    """The `aws` profile: what DeleteJobQueue began is carried out, whatever happens meanwhile."""

    @pytest.fixture
    async def registry(self, tmp_path: Path) -> AsyncIterator[Registry]:
        async with held_open(a_registry(tmp_path, Compat.AWS)) as registry:
            await with_a_queue(registry, DISABLED)
            yield registry

    async def test_the_jobs_are_asked_to_end_until_all_have(self, registry: Registry) -> None:
        with registry.job_store.failing(WRONG_STATE, UNFINISHED):
            await registry.api.DeleteJobQueue(DELETE)
            queue = await the_queue(registry)
            assert queue is not None
            assert queue.status == DELETING
            await refused(registry.api.UpdateJobQueue(ENABLE), WRONG_STATE, BEING_MODIFIED)
            await registry.api.DeleteJobQueue(DELETE)
        await gone(registry)
        assert set(registry.job_store.end_jobs_reasons) == {"Job queue deleted"}

    async def test_a_job_store_that_cannot_be_reached_is_asked_again(self, registry: Registry) -> None:
        with registry.job_store.failing(StatusCode.UNAVAILABLE):
            await registry.api.DeleteJobQueue(DELETE)
        await gone(registry)

    async def test_a_registry_that_starts_goes_on_with_it(self, tmp_path: Path) -> None:
        async with held_open(a_registry(tmp_path, Compat.AWS)) as registry:
            await with_a_queue(registry, DISABLED)
            with registry.job_store.failing(WRONG_STATE, UNFINISHED):
                await registry.api.DeleteJobQueue(DELETE)
        async with held_open(a_registry(tmp_path, Compat.AWS)) as registry:
            await gone(registry)
            assert registry.job_store.end_jobs_reasons == ["Job queue deleted"]


async def gone(registry: Registry) -> None:
    """Wait until the queue is not there any more."""
    watch = registry.watch.WatchResources(WatchResourcesRequest())
    async for _ in watch:
        if await the_queue(registry) is None:
            watch.cancel()
            return
