"""Watches: everything once, in order, across changes, pauses and restarts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import StatusCode

from batchyard.api.registry.v1 import registry_service_pb2 as api
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.api.registry.v1.scheduling_policy_pb2 import FairsharePolicy
from batchyard.api.scheduler.v1.resources_service_pb2 import (
    ResourceChange,
    ResourceKind,
    WatchResourcesRequest,
    WatchResourcesResponse,
)
from batchyard.domain.names import Caller
from batchyard.rpc.identity import metadata_for
from support.contexts import held_open
from support.registry import (
    RegistryUnderTest,
    a_definition,
    a_queue,
    a_registry,
    an_environment,
    changes_until_caught_up,
    refused,
)

DISABLED = ResourceState.RESOURCE_STATE_DISABLED
DELETED = ResourceStatus.RESOURCE_STATUS_DELETED

Registry = RegistryUnderTest


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with held_open(a_registry(tmp_path)) as registry:
        yield registry


def name_of(change: ResourceChange) -> str:
    match change.WhichOneof("resource"):
        case "compute_environment":
            return change.compute_environment.compute_environment_name
        case "job_queue":
            return change.job_queue.job_queue_name
        case _:
            return f"{change.job_definition.job_definition_name}:{change.job_definition.revision}"


async def make(registry: Registry, name: str) -> None:
    await registry.api.CreateComputeEnvironment(an_environment(name, state=DISABLED))


async def delete(registry: Registry, name: str) -> None:
    await registry.api.DeleteComputeEnvironment(api.DeleteComputeEnvironmentRequest(compute_environment=name))


async def define(registry: Registry, name: str = "d") -> None:
    await registry.api.RegisterJobDefinition(a_definition(name))


async def test_a_watch_begins_with_what_there_is_of_every_kind_and_account(registry: Registry) -> None:
    stranger = list(metadata_for(Caller("999999999999")))
    await make(registry, "e")
    await registry.api.CreateJobQueue(a_queue("q", "e"))
    await registry.api.RegisterJobDefinition(a_definition("d"), metadata=stranger)
    changes, revision = await changes_until_caught_up(registry)
    assert [(change.namespace, name_of(change)) for change in changes] == [
        ("123456789012", "e"),
        ("123456789012", "q"),
        ("999999999999", "d:1"),
    ]
    assert revision == changes[-1].revision


async def test_a_watch_of_nothing_is_caught_up_at_once(registry: Registry) -> None:
    assert await changes_until_caught_up(registry) == ([], 0)


async def test_a_watch_goes_on_with_every_change(registry: Registry) -> None:
    await make(registry, "a")
    watch = registry.watch.WatchResources(WatchResourcesRequest())
    first = await watch.read()
    assert isinstance(first, WatchResourcesResponse)
    assert ([name_of(change) for change in first.changes], first.caught_up) == (["a"], True)
    for name in "bc":
        await make(registry, name)
        message = await watch.read()
        assert isinstance(message, WatchResourcesResponse)
        assert ([name_of(change) for change in message.changes], message.caught_up) == ([name], True)
        assert message.revision == message.changes[-1].revision
    watch.cancel()


async def test_a_deletion_is_a_change(registry: Registry) -> None:
    await make(registry, "a")
    _, revision = await changes_until_caught_up(registry)
    await delete(registry, "a")
    (change,), _ = await changes_until_caught_up(registry, after_revision=revision)
    assert (name_of(change), change.compute_environment.status) == ("a", DELETED)


async def test_a_watch_from_the_beginning_says_nothing_of_what_was_gone_before(registry: Registry) -> None:
    for name in "ab":
        await make(registry, name)
    await delete(registry, "a")
    changes, revision = await changes_until_caught_up(registry)
    assert [name_of(change) for change in changes] == ["b"]
    assert revision == 3


async def test_only_the_kinds_that_are_asked_for_are_sent(registry: Registry) -> None:
    await make(registry, "e")
    await define(registry)
    kinds = [ResourceKind.RESOURCE_KIND_JOB_QUEUE, ResourceKind.RESOURCE_KIND_JOB_DEFINITION]
    changes, _ = await changes_until_caught_up(registry, kinds=kinds)
    assert [name_of(change) for change in changes] == ["d:1"]
    changes, revision = await changes_until_caught_up(registry, kinds=[ResourceKind.RESOURCE_KIND_JOB_QUEUE])
    assert (changes, revision) == ([], 2)


async def test_a_watch_sends_many_resources_in_parts_and_says_when_it_has_sent_all(registry: Registry) -> None:
    await asyncio.gather(*(define(registry, f"d{number}") for number in range(450)))
    sizes, told = [], []
    async for message in registry.watch.WatchResources(WatchResourcesRequest()):
        sizes.append(len(message.changes))
        told.append(message.caught_up)
        if message.caught_up:
            break
    assert sizes == [200, 200, 50]
    assert told == [False, False, True]


async def test_a_watch_that_comes_back_misses_nothing_and_sees_nothing_twice(registry: Registry) -> None:
    """Register all the time; watch in many short watches, each from where the last one stopped."""
    total = 300
    registrations = [asyncio.ensure_future(define(registry)) for _ in range(total)]
    seen: list[ResourceChange] = []
    revision = 0
    while len(seen) < total:
        watch = registry.watch.WatchResources(WatchResourcesRequest(after_revision=revision))
        message = await watch.read()
        watch.cancel()
        assert isinstance(message, WatchResourcesResponse)
        seen.extend(message.changes)
        revision = message.revision
    await asyncio.gather(*registrations)
    assert [name_of(change) for change in seen] == [f"d:{number}" for number in range(1, total + 1)]
    assert [change.revision for change in seen] == sorted({change.revision for change in seen})


async def test_a_copy_that_follows_a_watch_ends_equal(registry: Registry) -> None:
    """Change a few resources over and over from several sides while a copy is kept of them."""

    async def churn(name: str) -> None:
        for _ in range(10):
            await make(registry, name)
            await delete(registry, name)
        await make(registry, name)

    watch = registry.watch.WatchResources(WatchResourcesRequest())
    changing = asyncio.gather(*(churn(name) for name in "abcd"), make(registry, "last-one"))
    copy: dict[str, ResourceChange] = {}
    newest = 0
    while newest < 85:
        message = await watch.read()
        assert isinstance(message, WatchResourcesResponse)
        for change in message.changes:
            assert change.revision > newest
            newest = change.revision
            copy[name_of(change)] = change
    watch.cancel()
    await changing
    answer = await registry.api.DescribeComputeEnvironments(api.DescribeComputeEnvironmentsRequest())
    alive = {name: change.compute_environment for name, change in copy.items()}
    assert list(answer.compute_environments) == [alive[name] for name in ("a", "b", "c", "d", "last-one")]


async def test_a_reader_that_does_not_read_holds_up_nobody_and_finds_the_newest_state(registry: Registry) -> None:
    await make(registry, "e")
    watch = registry.watch.WatchResources(WatchResourcesRequest())
    assert isinstance(await watch.read(), WatchResourcesResponse)
    for number in range(100):
        role = f"role-{number}"
        request = api.UpdateComputeEnvironmentRequest(compute_environment="e", service_role=role)
        await registry.api.UpdateComputeEnvironment(request)
    messages = 0
    while True:
        message = await watch.read()
        assert isinstance(message, WatchResourcesResponse)
        messages += 1
        if message.changes[-1].compute_environment.service_role == "role-99":
            break
    watch.cancel()
    assert message.revision == 101


async def test_a_watch_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with a_registry(tmp_path) as registry:
        await make(registry, "a")
        _, revision = await changes_until_caught_up(registry)
        await make(registry, "b")
    async with a_registry(tmp_path) as registry:
        await make(registry, "c")
        changes, _ = await changes_until_caught_up(registry, after_revision=revision)
    assert [name_of(change) for change in changes] == ["b", "c"]


async def test_a_reader_that_is_ahead_is_told_to_begin_anew(registry: Registry) -> None:
    await make(registry, "a")
    watch = registry.watch.WatchResources(WatchResourcesRequest(after_revision=2))
    await refused(watch.read(), StatusCode.OUT_OF_RANGE, "revision 2 is ahead of this registry, which is at 1")


async def test_a_kind_that_does_not_exist_is_refused(registry: Registry) -> None:
    watch = registry.watch.WatchResources(WatchResourcesRequest(kinds=[9]))  # type: ignore[list-item]
    await refused(watch.read(), StatusCode.INVALID_ARGUMENT, "9 is not a kind of resource")


async def test_scheduling_policies_are_watched_from_their_making_to_their_end(registry: Registry) -> None:
    arn = (await registry.api.CreateSchedulingPolicy(api.CreateSchedulingPolicyRequest(name="policy"))).arn
    kinds = [ResourceKind.RESOURCE_KIND_SCHEDULING_POLICY]
    (created,), revision = await changes_until_caught_up(registry, kinds=kinds)
    assert (created.scheduling_policy.arn, created.deleted) == (arn, False)
    fair = FairsharePolicy(share_decay_seconds=60)
    await registry.api.UpdateSchedulingPolicy(api.UpdateSchedulingPolicyRequest(arn=arn, fairshare_policy=fair))
    (updated,), revision = await changes_until_caught_up(registry, revision, kinds)
    assert updated.scheduling_policy.fairshare_policy == fair
    await registry.api.DeleteSchedulingPolicy(api.DeleteSchedulingPolicyRequest(arn=arn))
    (deleted,), _ = await changes_until_caught_up(registry, revision, kinds)
    assert (deleted.scheduling_policy.name, deleted.deleted) == ("policy", True)


async def test_a_change_of_tags_is_a_change_of_the_resource(registry: Registry) -> None:
    await make(registry, "environment")
    (change,), revision = await changes_until_caught_up(registry)
    arn = change.compute_environment.compute_environment_arn
    await registry.api.TagResource(api.TagResourceRequest(resource_arn=arn, tags={"a": "b"}))
    (change,), _ = await changes_until_caught_up(registry, revision)
    assert change.compute_environment.tags == {"a": "b"}
