"""The runtime contract, on plain processes; `test_docker` and `test_podman` have it on containers."""

import os
import signal
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from batchyard.agent.launcher.ledger import RunEnd, RunState
from batchyard.agent.runtimes import Runtime
from batchyard.agent.runtimes.launched import ProcessSettings, open_process_runtime
from batchyard.agent.runtimes.secrets import Secrets
from batchyard.agent.state import Orders
from batchyard.storage.log_files import LogFolder
from support.agent import NEEDS_NAMESPACES, agent_id_of, an_offer, eventually, pids_with

pytest.register_assert_rewrite("conformance.runtime_contract")
from conformance.runtime_contract import FIRST, SECOND, Open, RuntimeContract  # noqa: E402

CAPACITY = (4000, 4096, 0)
GRACE_S = 0.2


class ProcessRuntimeContract(RuntimeContract):
    namespace: bool

    @pytest.fixture
    def opened(self, tmp_path: Path, logs: LogFolder, secrets: Secrets) -> Open:
        settings = ProcessSettings(namespace=self.namespace, idle_s=0.2, timeout_grace_s=GRACE_S, secrets=secrets)

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
