"""An engine that fails at any one of the requests that a job needs: the job ends right, once, and leaves nothing."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

import pytest

from batchyard.agent.launcher import wire
from batchyard.agent.launcher.ledger import Fence, RunEnd, RunState
from batchyard.agent.runtimes import attendance, docker, engine
from batchyard.agent.runtimes.docker import DockerRuntime, open_docker_runtime
from batchyard.agent.runtimes.settings import DockerSettings
from batchyard.agent.state import Orders, RunRecord
from batchyard.api.common.v1.container_pb2 import MountPoint, Volume
from batchyard.storage.log_files import LogFolder
from support.agent import NAMESPACE, an_offer
from support.fake_engine import FakeEngine, Fault, a_fake_engine
from support.waiting import eventually

FIRST: Fence = (1, 1)
OFFER = an_offer(
    *("sh", "-c", "echo hello; exit 3"),
    volumes=[Volume(name="v")],
    mount_points=[MountPoint(container_path="/v", source_volume="v")],
)

REQUESTS = {
    "create a volume": ("POST", "/volumes/create"),
    "create": ("POST", "/containers/create"),
    "start": ("POST", "/start"),
    "look": ("GET", "/containers/[^/]+/json"),
    "read the output": ("GET", "/logs"),
    "remove": ("DELETE", "/containers/"),
    "find a volume": ("GET", "/volumes/"),
    "remove a volume": ("DELETE", "/volumes/"),
}
FAULTS: tuple[Fault, ...] = ("refused", "unanswered", "error")
EXITED = (RunEnd.EXITED, 3, "")
ENDS: dict[tuple[str, Fault], tuple[RunEnd, int | None, str]] = {
    ("create a volume", "error"): (RunEnd.START_FAILED, None, "CannotCreateContainerError: "),
    ("create", "error"): (RunEnd.START_FAILED, None, "CannotCreateContainerError: "),
    ("start", "error"): (RunEnd.START_FAILED, None, "CannotStartContainerError: "),
    # Nobody knows whether it has started and will never show: it is not started again.
    ("start", "refused"): (RunEnd.LOST, None, "The container engine went away"),
}
"""How the job ends where it does not end as if nothing had been."""


@pytest.fixture
async def fake() -> AsyncIterator[FakeEngine]:
    async with a_fake_engine() as own:
        yield own


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RETRY_S", 0.02)
    monkeypatch.setattr(docker, "SWEEP_INTERVAL_S", 0.1)


@asynccontextmanager
async def a_runtime(folder: Path, fake: FakeEngine) -> AsyncIterator[DockerRuntime]:
    settings = DockerSettings(fake.url, installation=folder.name)
    async with open_docker_runtime(
        folder / "docker",
        agent_id=folder.name,
        capacity=(4000, 4096, 2),
        logs=LogFolder(folder / "logs"),
        settings=settings,
    ) as runtime:
        await runtime.renew_lease(wire.now() + 3600, 0)
        yield runtime


async def run_until(runtime: DockerRuntime, fence: Fence, is_so: Callable[[RunRecord], bool]) -> RunRecord:
    while True:
        for record in await runtime.changes():
            if record.fence == fence and is_so(record):
                return record


def is_done(record: RunRecord) -> bool:
    return record.state is RunState.DONE


@pytest.mark.parametrize(("request_name", "fault"), list(product(REQUESTS, FAULTS)))
async def test_one_request_fails(tmp_path: Path, fake: FakeEngine, request_name: str, fault: Fault) -> None:
    async with a_runtime(tmp_path, fake) as runtime:
        fake.fail(*REQUESTS[request_name], fault)
        await runtime.carry_out(Orders(offers=[OFFER]))
        record = await run_until(runtime, FIRST, is_done)
        end, exit_code, reason = ENDS.get((request_name, fault), EXITED)
        assert (record.end, record.exit_code) == (end, exit_code)
        assert record.reason.startswith(reason)
        await eventually(lambda: not fake.containers and not fake.volumes, "nothing is left")
        # A second look is asked for only where there is something to see.
        assert fake.has_failed
    has_run = end is RunEnd.EXITED
    assert fake.starts["1-1"] == int(has_run)
    if has_run:
        path = LogFolder(tmp_path / "logs").path(NAMESPACE, OFFER.log_stream_name)
        assert path.read_text() == "hello\n"


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_engine_that_fails_while_it_is_asked_what_there_is_is_asked_again(
    tmp_path: Path, fake: FakeEngine, fault: Fault
) -> None:
    async with a_runtime(tmp_path, fake) as runtime:
        await runtime.carry_out(Orders(offers=[an_offer("sleep", "600")]))
        await run_until(runtime, FIRST, lambda record: record.state is RunState.STARTED)
        fake.fail("GET", "/containers/json", fault, times=2)
        fake.fail("GET", "/volumes", fault, times=2)
        await eventually(lambda: fake.has_failed, "it has failed")
        await runtime.carry_out(Orders(kills=[(FIRST, 0)]))
        assert (await run_until(runtime, FIRST, is_done)).end is RunEnd.STOPPED


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_job_is_asked_to_end_again_when_the_engine_has_not_passed_it_on(
    tmp_path: Path, fake: FakeEngine, fault: Fault
) -> None:
    async with a_runtime(tmp_path, fake) as runtime:
        script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
        await runtime.carry_out(Orders(offers=[an_offer("sh", "-c", script)]))
        await run_until(runtime, FIRST, lambda record: record.state is RunState.STARTED)
        path = LogFolder(tmp_path / "logs").path(NAMESPACE, an_offer().log_stream_name)
        await eventually(lambda: path.exists() and path.read_bytes(), "it has set its trap")
        fake.fail("POST", "/kill", fault, times=2)
        await runtime.carry_out(Orders(kills=[(FIRST, 3600)]))
        record = await run_until(runtime, FIRST, is_done)
    assert (record.end, record.exit_code) == (RunEnd.STOPPED, 9)


async def test_a_job_ends_though_the_engine_forgets_to_end_its_output(
    tmp_path: Path, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "QUIET_S", 0.1)
    fake.forgets_to_end = True
    async with a_runtime(tmp_path, fake) as runtime:
        await runtime.carry_out(Orders(offers=[OFFER]))
        record = await run_until(runtime, FIRST, is_done)
    assert (record.end, record.exit_code) == (RunEnd.EXITED, 3)
    path = LogFolder(tmp_path / "logs").path(NAMESPACE, OFFER.log_stream_name)
    assert path.read_text() == "hello\n"


async def test_gpus_are_given_to_one_run_at_a_time_and_known_again_by_the_next_agent(
    tmp_path: Path, fake: FakeEngine
) -> None:
    def given(fence: str) -> list[str]:
        for container in fake.containers.values():
            if container.config["Labels"]["batchyard.fence"] == fence:
                (request,) = container.config["HostConfig"]["DeviceRequests"]
                return list(request["DeviceIDs"])
        return []

    async with a_runtime(tmp_path, fake) as runtime:
        for number in (1, 2):
            await runtime.carry_out(Orders(offers=[an_offer("sleep", "600", fence=(1, number), gpus=1)]))
            await run_until(runtime, (1, number), lambda record: record.state is RunState.STARTED)
        assert sorted([*given("1-1"), *given("1-2")]) == ["0", "1"]
        freed = given("1-1")
    async with a_runtime(tmp_path, fake) as runtime:
        await runtime.carry_out(Orders(kills=[(FIRST, 0)]))
        await run_until(runtime, FIRST, is_done)
        await runtime.carry_out(Orders(offers=[an_offer("sleep", "600", fence=(1, 3), gpus=1)]))
        await run_until(runtime, (1, 3), lambda record: record.state is RunState.STARTED)
        assert given("1-3") == freed
        await runtime.carry_out(Orders(kills=[((1, 2), 0), ((1, 3), 0)]))
        await run_until(runtime, (1, 3), is_done)


async def test_more_containers_than_a_pool_has_connections_leave_one_for_a_kill(
    tmp_path: Path, fake: FakeEngine
) -> None:
    count = 105
    async with a_runtime(tmp_path, fake) as runtime:
        offers = [
            an_offer("sleep", "600", fence=(1, number), vcpus_milli=10, memory_mib=1) for number in range(1, count)
        ]
        await runtime.carry_out(Orders(offers=offers))
        await eventually(lambda: fake.starts.total() == count - 1, "all run")
        await eventually(lambda: fake.readers == count - 1, "the output of all of them is copied")
        await runtime.carry_out(Orders(kills=[(FIRST, 0)]))
        await run_until(runtime, FIRST, is_done)
        await runtime.carry_out(Orders(kills=[(offer.fence, 0) for offer in offers]))
        await eventually(lambda: not fake.containers, "all have ended")
