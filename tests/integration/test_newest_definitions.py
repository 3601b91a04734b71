"""A submission that names no revision uses the newest one, though the registry is seldom asked for it."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import grpc
import grpc.aio
import pytest

from batchyard.api.agent.v1.run_pb2 import JobSpec
from batchyard.api.registry.v1 import registry_service_pb2 as api
from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.api.scheduler.v1.resources_service_pb2 import (
    GetNewestJobDefinitionRequest,
    GetNewestJobDefinitionResponse,
    WithdrawJobDefinitionRequest,
    WithdrawJobDefinitionResponse,
)
from batchyard.api.scheduler.v1.resources_service_pb2_grpc import (
    ResourceSettlementServiceServicer,
    ResourceSettlementServiceStub,
    ResourceWatchServiceServicer,
    add_ResourceSettlementServiceServicer_to_server,
    add_ResourceWatchServiceServicer_to_server,
)
from batchyard.domain.names import Caller
from batchyard.jobstore.definitions import Definitions
from batchyard.registry import newest
from batchyard.registry.newest import NewestDefinitions
from batchyard.rpc.channel import InProcessChannel, InProcessServer
from batchyard.rpc.clock import SystemClock
from batchyard.storage.registry import Listing, Page, ResourceKey, StoredResource
from support.contexts import held_open
from support.control_plane import ControlPlane, control_plane
from support.registry import RegistryUnderTest, a_definition, a_registry, serving

CALLER = Caller()


class ManualClock:
    """A clock that stands until it is moved on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def now_ms(self) -> int:
        return int(self.now * 1000)

    def monotonic_s(self) -> float:
        return self.now


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with held_open(control_plane(tmp_path, durable=False)) as plane:
        await plane.make_queue()
        yield plane


async def revision_used(plane: ControlPlane, name: str) -> int:
    job = await plane.job(await plane.submit(jobDefinition=name))
    return int(job.job_definition.rpartition(":")[2])


async def test_whatever_was_answered_is_obeyed_by_the_next_submission(plane: ControlPlane) -> None:
    rng = random.Random(1)
    active: dict[str, list[int]] = {"one": [], "two": []}
    numbers: Counter[str] = Counter()
    for _ in range(60):
        name = rng.choice(sorted(active))
        if active[name] and rng.random() < 0.3:
            revision = active[name].pop(rng.randrange(len(active[name])))
            await plane.registry.DeregisterJobDefinition(
                api.DeregisterJobDefinitionRequest(job_definition=f"{name}:{revision}")
            )
        elif rng.random() < 0.4:
            await plane.register(name)
            numbers[name] += 1
            active[name].append(numbers[name])
        for each, revisions in active.items():
            if revisions:
                assert await revision_used(plane, each) == max(revisions)
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    await plane.submit(jobDefinition=each)


async def test_tags_that_were_set_are_those_of_the_next_job(plane: ControlPlane) -> None:
    arn = await plane.register()
    await plane.submit(propagateTags=True)
    await plane.registry.TagResource(api.TagResourceRequest(resource_arn=arn, tags={"team": "blue"}))
    async with plane.scheduler() as scheduler:
        await scheduler.register()
        await plane.submit("tagged", propagateTags=True)
        (queued,) = (await scheduler.until(lambda seen: seen.runnable)).runnable
        spec = JobSpec.FromString((await scheduler.offer(queued)).job_spec)
        assert (spec.job_name, dict(spec.container_tags)) == ("tagged", {"team": "blue"})


class CountingChannel(InProcessChannel):
    """Counts calls by method."""

    calls: ClassVar[Counter[str]] = Counter()

    def _begin(self, method: str, *arguments: Any) -> Any:
        self.calls[method.rpartition("/")[2]] += 1
        return super()._begin(method, *arguments)


async def test_the_registry_is_asked_once_for_as_long_as_it_has_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.control_plane.InProcessChannel", CountingChannel)
    monkeypatch.setattr(CountingChannel, "calls", Counter())
    clock = ManualClock()
    async with held_open(control_plane(tmp_path, durable=False, clock=clock)) as plane:
        await plane.make_queue()
        await plane.register()
        for asked in (1, 2, 3):
            for _ in range(5):
                await plane.submit()
            assert CountingChannel.calls["GetNewestJobDefinition"] == asked
            clock.now += newest.PROMISE_S


async def ask(registry: RegistryUnderTest, name: str = "definition") -> GetNewestJobDefinitionResponse:
    return await registry.watch.GetNewestJobDefinition(
        GetNewestJobDefinitionRequest(namespace=CALLER.namespace, job_definition_name=name)
    )


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[RegistryUnderTest]:
    """A registry whose job store can take promises back."""
    async with held_open(a_registry(tmp_path)) as registry:
        yield registry


async def test_the_registry_knows_the_newest_active_revision(registry: RegistryUnderTest) -> None:
    assert not (await ask(registry)).HasField("job_definition")
    for _ in range(3):
        await registry.api.RegisterJobDefinition(a_definition())
    answer = await ask(registry)
    assert (answer.job_definition.revision, answer.promised_ms) == (3, 1000)
    await registry.api.DeregisterJobDefinition(api.DeregisterJobDefinitionRequest(job_definition="definition:3"))
    assert (await ask(registry)).job_definition.revision == 2


async def test_a_change_is_answered_after_the_job_store_was_told(
    registry: RegistryUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest, "PROMISE_S", 60.0)
    await ask(registry)
    async with registry.job_store.holding(registry.api.RegisterJobDefinition(a_definition())) as call:
        assert (await ask(registry)).job_definition.revision == 1
        assert not call.done()
    assert (await call).revision == 1
    assert registry.job_store.withdrawn == ["definition"]


async def test_a_job_store_that_cannot_be_reached_is_waited_for_no_longer_than_it_may_believe(
    registry: RegistryUnderTest,
) -> None:
    clock = SystemClock()
    asked_at = clock.monotonic_s()
    await ask(registry)
    with registry.job_store.failing(grpc.StatusCode.UNAVAILABLE):
        await registry.api.RegisterJobDefinition(a_definition())
    assert clock.monotonic_s() - asked_at >= newest.PROMISE_S


async def test_where_nothing_was_promised_nobody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "PROMISE_S", 0.0)
    async with held_open(a_registry(tmp_path)) as registry:
        await ask(registry)
        await registry.api.RegisterJobDefinition(a_definition())
        assert registry.job_store.withdrawn == []


class Wire(ResourceWatchServiceServicer, ResourceSettlementServiceServicer):
    """A registry of one definition, and a way between it and the job store that is slow and often broken."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.revision = 1
        self.definitions: Definitions
        self.newest: NewestDefinitions

    async def read(self, work: Callable[[Any], Any]) -> Any:
        await self._wait()
        seen = work(self)
        await self._wait()
        return seen

    def page(self, listing: Listing, *_: object) -> Page:
        body = JobDefinition(revision=self.revision).SerializeToString()
        key = ResourceKey(listing.kind, listing.namespace, listing.name or "", self.revision)
        return Page([StoredResource(key, "ACTIVE", body, self.revision)], more=False)

    async def register(self) -> int:
        """Make a new revision; return it when that is answered."""
        await self._wait()
        self.revision += 1
        made = self.revision
        await self._wait()
        await self.newest.withdraw(CALLER.namespace, "definition")
        return made

    async def _wait(self) -> None:
        for _ in range(self._rng.choice((0, 1, 3, 30))):
            await asyncio.sleep(0)
        if self._rng.random() < 0.05:
            await asyncio.sleep(0.015)

    async def _break(self, context: Any) -> None:
        if self._rng.random() < 0.2:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "broken")

    async def GetNewestJobDefinition(  # noqa: N802
        self, request: GetNewestJobDefinitionRequest, context: Any
    ) -> GetNewestJobDefinitionResponse:
        await self._wait()
        found, promised_s = await self.newest.find(request.namespace, request.job_definition_name)
        await self._wait()
        return GetNewestJobDefinitionResponse(job_definition=found, promised_ms=int(promised_s * 1000))

    async def WithdrawJobDefinition(  # noqa: N802
        self, request: WithdrawJobDefinitionRequest, context: Any
    ) -> WithdrawJobDefinitionResponse:
        await self._break(context)
        await self._wait()
        self.definitions.withdraw(request.namespace, request.job_definition_name)
        await self._wait()
        await self._break(context)
        return WithdrawJobDefinitionResponse()


@pytest.mark.parametrize("seed", range(6))
async def test_no_submission_goes_by_what_was_before_an_answered_change_whatever_the_network_does(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest, "PROMISE_S", 0.02)
    rng = random.Random(seed)
    wire: Wire = cast("Any", Wire)(rng)
    server = InProcessServer()
    add_ResourceWatchServiceServicer_to_server(wire, server)
    add_ResourceSettlementServiceServicer_to_server(wire, server)
    async with serving(server) as channel:
        wire.newest = NewestDefinitions(cast("Any", wire), ResourceSettlementServiceStub(channel), SystemClock())
        wire.definitions = Definitions(channel, SystemClock())
        answered, used, is_over = 1, Counter[int](), False

        async def change() -> None:
            nonlocal answered, is_over
            for _ in range(25):
                answered = max(answered, await wire.register())
                await asyncio.sleep(rng.choice((0, 0.005)))
            is_over = True

        async def submit() -> None:
            while not is_over:
                before = answered
                revision = (await wire.definitions.find(CALLER, "definition")).revision
                assert revision >= before
                used[revision] += 1
                await asyncio.sleep(0)

        await asyncio.gather(change(), *(submit() for _ in range(3)))
        assert len(used) > 1
