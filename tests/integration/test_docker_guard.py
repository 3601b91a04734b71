"""Containers whose agent or engine dies or stops: they end with the lease, and what became of them is known."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from batchyard.agent.app import AgentConfig, run_agent
from batchyard.agent.launcher import guard, wire
from batchyard.agent.launcher.leasefile import LeaseFile
from batchyard.agent.launcher.ledger import Fence, RunEnd, RunState
from batchyard.agent.runtimes.docker import open_docker_runtime
from batchyard.agent.runtimes.guarded import GuardedFolder
from batchyard.agent.runtimes.settings import DockerSettings
from batchyard.storage.log_files import LogFolder
from support.agent import FakeScheduler, an_offer, is_running, pids_with, serving
from support.docker import (
    HOW_TO_GET_ONE,
    OwnEngine,
    an_engine,
    can_have_own_engine,
    containers_of,
    create_container,
    docker_host,
    engine_that_starts_nothing,
    name_of,
    pid_of,
    run_inside,
    state_of,
)
from support.waiting import eventually

__all__ = ["docker_host"]

pytestmark = pytest.mark.docker

FIRST: Fence = (1, 1)
SHORT_LEASE_MS = 2500
"""Long enough for a container to start before two thirds of it are over."""

AGENT = """
import sys, anyio
from pathlib import Path
from batchyard.agent.app import AgentConfig, run_agent
folder, scheduler, engine, installation = sys.argv[1:]
config = AgentConfig(
    folder=Path(folder),
    scheduler=scheduler,
    runtime="docker",
    docker_host=engine,
    docker_network="none",
    installation=installation,
    capacity="vcpus=4,memory=4GiB",
)
anyio.run(lambda: run_agent(config, ready=lambda: None))
"""


@contextmanager
def agent_process(folder: Path, port: int, engine: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an agent as a process of its own, which is killed at the end."""
    command = [sys.executable, "-c", AGENT, str(folder), f"127.0.0.1:{port}", engine, folder.name]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


async def started(scheduler: FakeScheduler, engine: str) -> str:
    """Wait until the one run has started; return its container."""
    await eventually(lambda: scheduler.last(FIRST, RunState.STARTED), "the run is STARTED")
    (container,) = containers_of(engine, scheduler.registrations[0].agent_id)
    return container


def lease_of(folder: Path) -> float:
    lease = LeaseFile(str(folder / "docker" / guard.LEASE), wire.boot_id())
    try:
        return lease.read() or 0.0
    finally:
        lease.close()


def end_of(report: Any) -> tuple[RunEnd, int | None]:
    return RunEnd(report.end), report.exit_code if report.HasField("exit_code") else None


async def test_a_container_of_no_run_is_removed_while_the_agent_works(tmp_path: Path, docker_host: str) -> None:
    """An engine that goes away may not remove what has ended, or make a container that nobody hears of."""
    scheduler = FakeScheduler()
    scheduler.offer(an_offer("sleep", "600"))
    async with serving(scheduler) as port:
        with agent_process(tmp_path, port, docker_host):
            container = await started(scheduler, docker_host)
            labels = {"installation": tmp_path.name, "agent": scheduler.registrations[0].agent_id, "fence": "1-9"}
            words = [word for name, value in labels.items() for word in ("--label", f"batchyard.{name}={value}")]
            orphan = create_container(docker_host, *words, "bb:1", "true")
            await eventually(lambda: state_of(docker_host, orphan) == "", "the container of no run is gone")
            assert state_of(docker_host, container) == "running"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_a_container_ends_with_the_lease_and_not_before_while_its_agent_is(
    tmp_path: Path, docker_host: str, number: signal.Signals
) -> None:
    scheduler = FakeScheduler(lease_ms=SHORT_LEASE_MS)
    scheduler.offer(an_offer("sleep", "600"))
    async with serving(scheduler) as port:
        with agent_process(tmp_path, port, docker_host) as agent:
            container = await started(scheduler, docker_host)
            agent.send_signal(number)
            if number is signal.SIGKILL:
                await to_thread.run_sync(agent.wait)
            deadline = lease_of(tmp_path)
            await eventually(lambda: state_of(docker_host, container) != "running", "the container has ended")
            assert wire.now() >= deadline
            agent.send_signal(signal.SIGCONT)
            if number is signal.SIGSTOP:
                assert end_of(await scheduler.done(FIRST)) == (RunEnd.LOST, None)
    await eventually(lambda: not pids_with(str(tmp_path)), "the guard has ended")


async def test_a_container_that_ended_before_the_lease_is_told_as_it_ended(tmp_path: Path, docker_host: str) -> None:
    scheduler = FakeScheduler()
    scheduler.offer(an_offer("sh", "-c", "while ! test -e go; do sleep 0.1; done; exit 7"))
    async with serving(scheduler) as port:
        with agent_process(tmp_path, port, docker_host) as agent:
            container = await started(scheduler, docker_host)
            assert name_of(docker_host, container) == f"by-{tmp_path.name}-{an_offer().spec.job_id}-1-1"
            agent.kill()
            await to_thread.run_sync(agent.wait)
        run_inside(docker_host, container, "touch", "go")
        await eventually(lambda: state_of(docker_host, container) == "exited", "it has ended by itself")
        lease = LeaseFile(str(tmp_path / "docker" / guard.LEASE), wire.boot_id())
        lease.write(wire.now())
        lease.close()
        with agent_process(tmp_path, port, docker_host):
            assert end_of(await scheduler.done(FIRST)) == (RunEnd.EXITED, 7)


async def test_a_start_without_an_answer_is_not_made_again(tmp_path: Path, docker_host: str) -> None:
    """An engine that is killed while it starts a container says afterwards that it has not."""
    scheduler = FakeScheduler()
    scheduler.offer(an_offer("true"))
    async with serving(scheduler) as port, engine_that_starts_nothing(docker_host) as engine:
        with agent_process(tmp_path / "agent", port, engine.url):
            report = await scheduler.done(FIRST)
            assert end_of(report) == (RunEnd.LOST, None)
            assert "went away" in report.reason
            agent_id = scheduler.registrations[0].agent_id
            await eventually(lambda: not containers_of(docker_host, agent_id), "the container is removed")
            assert engine.starts == 1


async def test_what_is_created_and_not_started_is_removed_when_the_lease_is_over(
    tmp_path: Path, docker_host: str
) -> None:
    labels = [f"batchyard.agent={tmp_path.name}"]
    container = create_container(docker_host, "-l", labels[0], "bb:1", "sleep", "600")
    folder = GuardedFolder(tmp_path, tmp_path.name)
    folder.lease.write(wire.now() + 3600)
    async with engine_that_starts_nothing(docker_host) as engine:
        folder.set_engine(engine.url, labels)
        await folder.ensure_guard()
        # It has looked more than once, and found an agent that is away and a container that might be started yet.
        await eventually(lambda: engine.listings > 1, "the guard looks again")
        assert guard.is_held(str(tmp_path / guard.ALIVE))
        assert state_of(docker_host, container) == "created"
        folder.lease.write(wire.now())
        await eventually(lambda: not state_of(docker_host, container), "the container is removed")
        await eventually(lambda: not pids_with(str(tmp_path)), "the guard has ended")
    folder.close()


async def test_a_guard_that_dies_is_replaced(tmp_path: Path, docker_host: str) -> None:
    async with open_docker_runtime(
        tmp_path / "docker",
        agent_id=tmp_path.name,
        capacity=(1000, 1000, 0),
        logs=LogFolder(tmp_path / "logs"),
        settings=DockerSettings(docker_host, "none", tmp_path.name),
    ):
        (first,) = await eventually(lambda: pids_with(str(tmp_path)))
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: set(pids_with(str(tmp_path))) - {first}, "another guard lives")
    await eventually(lambda: not pids_with(str(tmp_path)), "it ends with its agent")


@pytest.mark.parametrize("stop_jobs", [False, True])
async def test_an_agent_that_is_told_to_stop_leaves_its_containers_or_ends_them(
    tmp_path: Path, docker_host: str, stop_jobs: bool
) -> None:
    scheduler = FakeScheduler()
    # Without a handler the first process of a container gets no SIGTERM.
    scheduler.offer(an_offer("sh", "-c", "while ! test -e go; do sleep 0.1; done; exit 7"))
    async with serving(scheduler) as port:
        config = AgentConfig(
            folder=tmp_path,
            scheduler=f"127.0.0.1:{port}",
            runtime="docker",
            docker_host=docker_host,
            docker_network="none",
            installation=tmp_path.name,
            capacity="vcpus=4,memory=4GiB",
            stop_jobs=stop_jobs,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(run_agent, config, ready=lambda: None))
            container = await started(scheduler, docker_host)
            tasks.cancel_scope.cancel()
        if stop_jobs:
            await eventually(lambda: state_of(docker_host, container) != "running", "the container has ended")
            await eventually(lambda: not pids_with(str(tmp_path)), "the guard has ended")
        else:
            assert state_of(docker_host, container) == "running"
            run_inside(docker_host, container, "touch", "go")
            with agent_process(tmp_path, port, docker_host):
                assert end_of(await scheduler.done(FIRST)) == (RunEnd.EXITED, 7)


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    """An engine that may be killed."""
    if not can_have_own_engine():
        pytest.skip(HOW_TO_GET_ONE)
    with an_engine() as own:
        yield own


async def test_a_container_ends_with_the_lease_though_agent_and_engine_are_dead(
    tmp_path: Path, engine: OwnEngine
) -> None:
    scheduler = FakeScheduler(lease_ms=SHORT_LEASE_MS)
    scheduler.offer(an_offer("sh", "-c", "trap '' TERM; while :; do sleep 1; done"))
    async with serving(scheduler) as port:
        with agent_process(tmp_path, port, engine.url) as agent:
            first = pid_of(engine.url, await started(scheduler, engine.url))
            agent_id = scheduler.registrations[0].agent_id
            agent.kill()
            await to_thread.run_sync(engine.kill)
            assert is_running(first)
            await eventually(lambda: not is_running(first), "its processes are dead")
        await to_thread.run_sync(engine.start)
        with agent_process(tmp_path, port, engine.url):
            assert end_of(await scheduler.done(FIRST)) == (RunEnd.LOST, None)
            await eventually(lambda: not containers_of(engine.url, agent_id), "the container is removed")


async def test_containers_that_an_engine_ends_when_it_starts_anew_are_told_as_ended(
    tmp_path: Path, engine: OwnEngine
) -> None:
    scheduler = FakeScheduler()
    scheduler.offer(an_offer("sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.1; done"))
    async with serving(scheduler) as port:
        with agent_process(tmp_path, port, engine.url):
            await started(scheduler, engine.url)
            await to_thread.run_sync(engine.kill)
            scheduler.offer(an_offer("sh", "-c", "exit 3", fence=(1, 2)))
            await eventually(lambda: scheduler.last((1, 2), RunState.CLAIMED), "it waits for the engine")
            await to_thread.run_sync(lambda: engine.start(live_restore=False))
            assert end_of(await scheduler.done(FIRST)) == (RunEnd.EXITED, 9)
            # What was claimed while there was no engine starts when there is one.
            assert end_of(await scheduler.done((1, 2))) == (RunEnd.EXITED, 3)
