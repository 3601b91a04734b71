"""The runtime contract, on plain processes and on containers."""

import os
import signal
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from batchyard.agent.launcher.ledger import RunEnd, RunState
from batchyard.agent.runtimes import Runtime
from batchyard.agent.runtimes.docker import DockerSettings, open_docker_runtime
from batchyard.agent.runtimes.launched import ProcessSettings, open_process_runtime
from batchyard.agent.state import Orders
from batchyard.storage.log_files import LogFolder
from support.agent import NEEDS_NAMESPACES, agent_id_of, an_offer, eventually, pids_with
from support.docker import containers_of, docker_host, run_container

pytest.register_assert_rewrite("conformance.runtime_contract")
from conformance.runtime_contract import FIRST, SECOND, Open, RuntimeContract  # noqa: E402

__all__ = ["docker_host"]

CAPACITY = (4000, 4096, 0)
GRACE_S = 0.2


class ProcessRuntimeContract(RuntimeContract):
    namespace: bool

    @pytest.fixture
    def opened(self, tmp_path: Path, logs: LogFolder) -> Open:
        settings = ProcessSettings(namespace=self.namespace, idle_s=0.2, timeout_grace_s=GRACE_S)

        def opened() -> AbstractAsyncContextManager[Runtime]:
            return open_process_runtime(
                tmp_path / "launcher", agent_id=agent_id_of(tmp_path), capacity=CAPACITY, logs=logs, settings=settings
            )

        return opened

    async def test_a_read_only_root_is_refused_by_name(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("true", readonly_root_filesystem=True)
            assert "readonlyRootFilesystem" in (await followed.done(FIRST)).reason

    async def test_a_job_whose_log_cannot_be_made_fails_alone(self, opened: Open, logs: LogFolder) -> None:
        offer = an_offer("true")
        in_the_way = logs.path(offer.spec.namespace, offer.log_stream_name).parent
        in_the_way.parent.mkdir(parents=True)
        in_the_way.touch()
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await runtime.carry_out(
                Orders(offers=[offer, replace(an_offer("true", fence=SECOND), log_stream_name="other")])
            )
            assert (await followed.done(FIRST)).end is RunEnd.START_FAILED
            assert (await followed.done(SECOND)).exit_code == 0

    async def test_after_the_launchers_death_its_processes_are_dead_and_its_claims_are_lost(
        self, opened: Open, tmp_path: Path
    ) -> None:
        mark = f"1{os.getpid():07d}.5"
        async with opened() as runtime:
            instance = runtime.instance
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", f"setsid sleep {mark} & wait")
            await followed.until(FIRST, RunState.STARTED)
            await eventually(lambda: pids_with(mark))
            for pid in pids_with(str(tmp_path / "launcher")):
                os.kill(pid, signal.SIGKILL)
        async with opened() as runtime:
            assert not pids_with(mark)
            assert runtime.instance != instance
            assert runtime.claimed_before == [FIRST]
            followed = await self.with_lease(runtime)
            assert (await followed.done(FIRST)).end is RunEnd.LOST

    async def test_a_launcher_that_is_released_ends(self, opened: Open, tmp_path: Path) -> None:
        async with opened() as runtime:
            await runtime.release()
            await eventually(lambda: not pids_with(str(tmp_path / "launcher")))


class TestPlainProcesses(ProcessRuntimeContract):
    namespace = False


@NEEDS_NAMESPACES
class TestProcessesInANamespace(ProcessRuntimeContract):
    namespace = True


@pytest.mark.docker
class TestDocker(RuntimeContract):
    @pytest.fixture
    def agent_id(self, tmp_path: Path) -> str:
        return tmp_path.name

    @pytest.fixture
    def opened(self, tmp_path: Path, logs: LogFolder, docker_host: str, agent_id: str) -> Open:
        settings = DockerSettings(docker_host, "none", agent_id, GRACE_S)

        def opened() -> AbstractAsyncContextManager[Runtime]:
            return open_docker_runtime(
                tmp_path / "docker", agent_id=agent_id, capacity=CAPACITY, logs=logs, settings=settings
            )

        return opened

    async def test_a_container_over_its_memory_is_killed_and_the_reason_says_so(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("tail", "/dev/zero", memory_mib=16)
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.EXITED, 128 + signal.SIGKILL)
        assert record.reason == "OutOfMemoryError: Container killed due to memory usage"

    async def test_what_the_agents_policy_does_not_allow_fails_at_once(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("true", privileged=True)
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
        assert record.reason == (
            "CannotCreateContainerError: privileged is not allowed on this agent (--allow-privileged)"
        )

    async def test_an_image_that_cannot_be_pulled_is_the_reason(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("true", image="127.0.0.1:9/no/such:image")
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
        assert record.reason.startswith("CannotPullContainerError: ")

    async def test_an_image_without_a_command_of_the_job_runs_its_own(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer()
            assert (await followed.done(FIRST)).exit_code == 0

    async def test_output_is_copied_as_soon_as_its_log_can_be_made(self, opened: Open, logs: LogFolder) -> None:
        offer = an_offer("echo", "hello")
        path = logs.path(offer.spec.namespace, offer.log_stream_name)
        path.parent.parent.mkdir(parents=True)
        path.parent.touch()
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await runtime.carry_out(Orders(offers=[offer]))
            await followed.until(FIRST, RunState.STARTED)
            path.parent.unlink()
            assert (await followed.done(FIRST)).exit_code == 0
        assert path.read_bytes() == b"hello\n"

    async def test_an_ended_container_is_removed(self, opened: Open, docker_host: str, agent_id: str) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("true")
            await followed.done(FIRST)
            await eventually(lambda: not containers_of(docker_host, agent_id))

    async def test_containers_of_nobody_are_removed_at_the_start(
        self, opened: Open, docker_host: str, agent_id: str
    ) -> None:
        labels = {"installation": agent_id, "agent": agent_id, "fence": "9-9"}
        arguments = [argument for name, value in labels.items() for argument in ("-l", f"batchyard.{name}={value}")]
        run_container(docker_host, *arguments, "bb:1", "sleep", "600")
        other = run_container(docker_host, "-l", f"batchyard.agent={agent_id}", "bb:1", "sleep", "600")
        async with opened():
            assert containers_of(docker_host, agent_id) == [other[:12]]

    async def test_a_claim_without_a_started_container_is_lost_and_never_starts(
        self, opened: Open, tmp_path: Path, docker_host: str, agent_id: str
    ) -> None:
        journal = tmp_path / "docker" / "journal"
        async with opened() as runtime:
            await self.with_lease(runtime)
        with journal.open("a") as file:
            file.write('["C",[[[1,1],[1000,64,0],{"namespace":"123456789012","job_id":"j","log_stream_name":"s"}]]]\n')
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            record = await followed.done(FIRST)
            await followed.offer("true")
            await followed.offer("true", fence=SECOND)
            await followed.done(SECOND)
        assert (record.end, record.started) == (RunEnd.LOST, None)
        assert followed.runs[FIRST].end is RunEnd.LOST
