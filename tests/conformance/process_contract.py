"""What the runtime of plain processes promises, beyond what all runtimes promise."""

import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from batchyard.agent.launcher.cgroups import open_cgroups
from batchyard.agent.launcher.ledger import RunEnd, RunState
from batchyard.agent.runtimes import Runtime
from batchyard.agent.runtimes.launched import ProcessSettings, open_process_runtime
from batchyard.agent.runtimes.secrets import Secrets
from batchyard.agent.state import Orders
from batchyard.api.common.v1.container_pb2 import Device, LinuxParameters, MountPoint, Tmpfs, Ulimit, Volume
from batchyard.storage.log_files import LogFolder
from conformance.runtime_contract import FIRST, SECOND, Open, RuntimeContract
from support.agent import NEEDS_ROOT, agent_id_of, an_offer, pids_with
from support.waiting import eventually

OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
CAPACITY = (4000, 4096, 0)
GRACE_S = 0.2
CGROUPS = Path("/sys/fs/cgroup")


def has_cgroups() -> bool:
    pool = open_cgroups(f"batchyard-probe-{os.getpid()}")
    if pool is not None:
        pool.close()
    return pool is not None


NEEDS_CGROUPS = pytest.mark.skipif(not has_cgroups(), reason="kernel: cgroups with memory limits cannot be made")

UNSUPPORTED: dict[str, dict[str, Any]] = {
    "volumes": {"volumes": [Volume(name="v")]},
    "mountPoints": {"mount_points": [MountPoint(container_path="/data", source_volume="v")]},
    "readonlyRootFilesystem": {"readonly_root_filesystem": True},
    "privileged": {"privileged": True},
    "linuxParameters.devices": {"linux_parameters": LinuxParameters(devices=[Device(host_path="/dev/fuse")])},
    "linuxParameters.tmpfs": {"linux_parameters": LinuxParameters(tmpfs=[Tmpfs(container_path="/t", size=1)])},
    "linuxParameters.sharedMemorySize": {"linux_parameters": LinuxParameters(shared_memory_size=64)},
    "linuxParameters.maxSwap": {"linux_parameters": LinuxParameters(max_swap=64, swappiness=60)},
}


def a_mark() -> str:
    """Return a number of seconds that no other process sleeps."""
    return f"1{os.getpid():07d}.{os.urandom(4).hex().translate(str.maketrans('abcdef', '123456'))}"


class ProcessContract(RuntimeContract):
    """What holds with and without namespaces and cgroups."""

    namespace = False
    cgroups = True

    @pytest.fixture
    def opened(self, tmp_path: Path, logs: LogFolder, secrets: Secrets) -> Open:
        settings = ProcessSettings(
            namespace=self.namespace, cgroups=self.cgroups, idle_s=0.2, timeout_grace_s=GRACE_S, secrets=secrets
        )

        def opened() -> AbstractAsyncContextManager[Runtime]:
            return open_process_runtime(
                tmp_path / "launcher", agent_id=agent_id_of(tmp_path), capacity=CAPACITY, logs=logs, settings=settings
            )

        return opened

    # Members of containerProperties

    async def test_what_a_process_cannot_honour_is_refused_by_name(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            for number, (name, members) in enumerate(UNSUPPORTED.items(), start=1):
                await followed.offer("true", fence=(1, number), **members)
                record = await followed.done((1, number))
                assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
                assert record.reason == f"CannotStartContainerError: the process runtime cannot honour {name}"

    async def test_the_image_is_ignored(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("true", image="no/such:image")
            assert (await followed.done(FIRST)).exit_code == 0

    async def test_without_a_command_nothing_starts(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer()
            record = await followed.done(FIRST)
        assert (record.end, record.reason) == (
            RunEnd.START_FAILED,
            "CannotStartContainerError: no command specified",
        )

    @pytest.mark.parametrize(
        ("user", "seen"),
        [
            ("nobody", "65534 65534 nobody"),
            ("65534", "65534 65534 nobody"),
            ("nobody:root", "65534 0 nobody"),
            ("54321:54322", "54321 54322 "),
            ("54321", "54321 0 "),
        ],
    )
    @NEEDS_ROOT
    async def test_a_job_runs_as_its_user_in_a_folder_of_its_own(
        self, opened: Open, logs: LogFolder, user: str, seen: str
    ) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", 'echo "$(id -u) $(id -g) $USER"; touch mine', user=user)
            assert (await followed.done(FIRST)).exit_code == 0
        assert self.output(logs) == f"{seen}\n"

    async def test_ulimits_are_those_asked_for_and_one_that_cannot_be_had_is_the_reason(
        self, opened: Open, logs: LogFolder
    ) -> None:
        asked = {
            "nofile": ("Max open files", 90, 100),
            "core": ("Max core file size", 0, 0),
            "fsize": ("Max file size", 4096, 8192),
            "nproc": ("Max processes", 900, 1000),
            "stack": ("Max stack size", 1 << 20, 2 << 20),
            "cpu": ("Max cpu time", 60, 120),
        }
        ulimits = [Ulimit(name=name, soft_limit=soft, hard_limit=hard) for name, (_, soft, hard) in asked.items()]
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("cat", "/proc/self/limits", ulimits=ulimits)
            assert (await followed.done(FIRST)).exit_code == 0
            too_high = [Ulimit(name="nofile", soft_limit=100, hard_limit=2**31 - 1)]
            await followed.offer("true", fence=SECOND, ulimits=too_high)
            record = await followed.done(SECOND)
        seen = {line[:25].strip(): line[25:].split()[:2] for line in self.output(logs).splitlines()}
        assert {name: seen[name] for name, _, _ in asked.values()} == {
            name: [str(soft), str(hard)] for name, soft, hard in asked.values()
        }
        assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
        assert record.reason.endswith("error setting rlimit nofile to 2147483647: operation not permitted")

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

    # Ends

    async def test_a_job_over_its_memory_is_killed_and_the_reason_says_so(self, opened: Open) -> None:
        program = "import time; held = b'x' * (96 << 20); time.sleep(600)"
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer(sys.executable, "-S", "-c", program, memory_mib=64)
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code, record.reason) == (RunEnd.EXITED, 128 + signal.SIGKILL, OUT_OF_MEMORY)

    async def test_a_kill_ends_the_whole_tree_whatever_hides_in_it(self, opened: Open) -> None:
        mark = a_mark()
        script = f"(setsid sh -c 'sleep {mark} & setsid sleep {mark} & wait' &); setsid sleep {mark} & sleep {mark}"
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", script)
            await eventually(lambda: len(sleeping(mark)) == 4, "all of them sleep")
            await runtime.carry_out(Orders(kills=[(FIRST, 0.1)]))
            record = await followed.done(FIRST)
            assert record.end is RunEnd.STOPPED
            assert not pids_with(mark)

    async def test_what_a_job_leaves_behind_dies_with_it(self, opened: Open) -> None:
        mark = a_mark()
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sleep", "600", fence=SECOND)
            await followed.offer("sh", "-c", f"(setsid sh -c 'sleep {mark} & exit' &); sleep 0.05; exit 4")
            record = await followed.done(FIRST)
            assert (record.end, record.exit_code) == (RunEnd.EXITED, 4)
            assert not pids_with(mark)
            assert followed.runs[SECOND].state is RunState.STARTED
            await runtime.carry_out(Orders(kills=[(SECOND, 0)]))
            await followed.done(SECOND)


class CgroupContract(ProcessContract):
    """What holds where cgroups can be made."""

    async def test_a_job_that_lives_on_after_a_child_over_memory_has_no_such_reason(self, opened: Open) -> None:
        program = "held = b'x' * (96 << 20)"
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", f'{sys.executable} -S -c "{program}"; exit 0', memory_mib=64)
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code, record.reason) == (RunEnd.EXITED, 0, "")

    async def test_memory_and_cpu_are_limited_by_cgroups(self, opened: Open, logs: LogFolder) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            script = "mkfifo gate; pwd; read line < gate; cat /proc/self/cgroup"
            await followed.offer("sh", "-c", script, memory_mib=48, vcpus_milli=2500)
            await followed.until(FIRST, RunState.STARTED)
            path = logs.path(an_offer().spec.namespace, an_offer().log_stream_name)
            await eventually(lambda: path.exists() and path.read_text().endswith("\n"), "it tells where it is")
            await anyio.Path(path.read_text().strip(), "gate").write_text("go\n")
            await followed.done(FIRST)
            # The launcher keeps the cgroup for the next job.
            found = limits_of(path.read_text().splitlines()[1:])
        assert found in (
            {"memory.limit_in_bytes": 48 << 20, "memory.memsw.limit_in_bytes": 48 << 20, "cpu.shares": 2560},
            {"memory.max": 48 << 20, "memory.swap.max": 0, "cpu.weight": 250},
            # Where the kernel counts no swap.
            {"memory.limit_in_bytes": 48 << 20, "cpu.shares": 2560},
            {"memory.max": 48 << 20, "cpu.weight": 250},
        )


def sleeping(mark: str) -> list[int]:
    """Return the `sleep`s themselves, without the shells that are about to start one."""
    return [pid for pid in pids_with(mark) if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0")]


def limits_of(lines: list[str]) -> dict[str, int]:
    """Return the limits of the cgroups that a process is in, by the lines of its /proc/self/cgroup."""
    found = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount = CGROUPS / controllers if controllers else CGROUPS
        for name in (
            *("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.shares"),
            *("memory.max", "memory.swap.max", "cpu.weight"),
        ):
            file = mount / path.strip("/") / name
            if file.exists():
                found[name] = int(file.read_text())
    return found
