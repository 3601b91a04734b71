"""What runtimes promise that run containers, whichever engine they speak to, beyond what all runtimes promise."""

import abc
import os
import signal
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import pytest

from batchyard.agent.host import AgentStartError
from batchyard.agent.launcher.ledger import RunEnd, RunState
from batchyard.agent.policy import Policy
from batchyard.agent.runtimes import Runtime
from batchyard.agent.runtimes.docker import open_docker_runtime
from batchyard.agent.runtimes.secrets import Secrets
from batchyard.agent.runtimes.settings import DockerSettings, PullSettings
from batchyard.agent.state import Orders
from batchyard.api.common.v1.container_pb2 import (
    Device,
    Host,
    LinuxParameters,
    MountPoint,
    NetworkConfiguration,
    Tmpfs,
    Ulimit,
    Volume,
)
from batchyard.storage.log_files import LogFolder
from conformance.runtime_contract import FIRST, SECOND, RuntimeContract
from support.agent import an_offer
from support.docker import (
    all_volumes_of,
    containers_of,
    create_volume,
    engine_that_starts_nothing,
    label_of,
    networks_of,
    remove_image,
    run_container,
    run_inside,
    volumes_of,
)
from support.images import ImageRegistry
from support.waiting import eventually

CAPACITY = (4000, 4096, 0)
GRACE_S = 0.2
THIRD = (1, 3)

HAS_CGROUP_V1 = Path("/sys/fs/cgroup/memory").is_dir()


class OpenContainers(Protocol):
    """Opens the runtime, with some of its settings changed."""

    def __call__(self, **changes: Any) -> AbstractAsyncContextManager[Runtime]: ...


def fresh_volume(name: str) -> Volume:
    return Volume(name=name, host=Host())


def host_volume(name: str, path: Path) -> Volume:
    return Volume(name=name, host=Host(source_path=str(path)))


class ContainerContract(RuntimeContract):
    stamps_are_exact = True
    """Whether the engine says to the millisecond when something was printed."""

    @pytest.fixture
    @abc.abstractmethod
    def engine(self) -> str:
        """Return the address of the engine."""

    @pytest.fixture
    def agent_id(self, tmp_path: Path) -> str:
        return tmp_path.name

    @pytest.fixture
    def opened(self, tmp_path: Path, logs: LogFolder, secrets: Secrets, engine: str, agent_id: str) -> OpenContainers:
        settings = DockerSettings(engine, "none", agent_id, GRACE_S, secrets=secrets)

        def opened(**changes: Any) -> AbstractAsyncContextManager[Runtime]:
            return open_docker_runtime(
                tmp_path / "docker",
                agent_id=agent_id,
                capacity=CAPACITY,
                logs=logs,
                settings=replace(settings, **changes),
            )

        return opened

    # Members of containerProperties

    async def test_an_image_without_a_command_of_the_job_runs_its_own(self, opened: OpenContainers) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer()
            assert (await followed.done(FIRST)).exit_code == 0

    async def test_a_volume_of_a_jobs_own_is_shared_by_its_mount_points_and_gone_afterwards(
        self, opened: OpenContainers, logs: LogFolder, engine: str, agent_id: str
    ) -> None:
        volumes, networks = all_volumes_of(engine), networks_of(engine)
        script = (
            "echo kept > /a/file; cat /b/file; echo x > /b/file; while ! test -e /c/go; do sleep 0.05; done; exit 4"
        )
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer(
                *("sh", "-c", script),
                volumes=[fresh_volume("data"), fresh_volume("other"), fresh_volume("unused")],
                mount_points=[
                    MountPoint(container_path="/a", source_volume="data"),
                    MountPoint(container_path="/b", source_volume="data", read_only=True),
                    MountPoint(container_path="/c", source_volume="other"),
                ],
            )
            await followed.until(FIRST, RunState.STARTED)
            assert len(volumes_of(engine, agent_id)) == 2
            (container,) = containers_of(engine, agent_id)
            run_inside(engine, container, "touch", "/c/go")
            assert (await followed.done(FIRST)).exit_code == 4
            await eventually(lambda: not containers_of(engine, agent_id), "the container is gone")
            await eventually(lambda: not volumes_of(engine, agent_id), "its volumes are gone")
        assert sorted(self.output(logs).splitlines()) == ["kept", "sh: can't create /b/file: Read-only file system"]
        assert (all_volumes_of(engine), networks_of(engine)) == (volumes, networks)

    async def test_a_path_of_the_host_is_mounted_and_made_if_it_is_missing(
        self, opened: OpenContainers, logs: LogFolder, tmp_path: Path
    ) -> None:
        shared, given, missing = tmp_path / "shared", tmp_path / "given", tmp_path / "shared" / "missing"
        for folder in (shared, given):
            folder.mkdir()
        (given / "file").write_text("given\n")
        (tmp_path / "link").symlink_to(shared)
        async with opened(policy=Policy(host_paths=(str(shared), str(given)))) as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer(
                *("sh", "-c", "cat /in/file; echo x > /in/other; echo made > /out/file"),
                volumes=[host_volume("in", given), host_volume("out", tmp_path / "link" / "missing")],
                mount_points=[
                    MountPoint(container_path="/in", source_volume="in", read_only=True),
                    MountPoint(container_path="/out", source_volume="out"),
                ],
            )
            assert (await followed.done(FIRST)).exit_code == 0
        assert (missing / "file").read_text() == "made\n"
        assert "given" in self.output(logs).splitlines()
        assert os.listdir(given) == ["file"]

    async def test_what_the_agents_policy_does_not_allow_fails_at_once(
        self, opened: OpenContainers, engine: str
    ) -> None:
        socket = engine.removeprefix("unix://")
        members: list[tuple[dict[str, Any], str]] = [
            ({"privileged": True}, "--allow-privileged"),
            ({"volumes": [host_volume("v", Path("/etc"))]}, "--allow-host-path"),
            ({"volumes": [host_volume("v", Path(socket).parent)]}, "--allow-host-path"),
            ({"linux_parameters": LinuxParameters(devices=[Device(host_path="/dev/zero")])}, "--allow-device"),
        ]
        async with opened(policy=Policy(host_paths=("/tmp",))) as runtime:
            followed = await self.with_lease(runtime)
            for number, (asked, told) in enumerate(members, start=1):
                await followed.offer("true", fence=(1, number), **asked)
                record = await followed.done((1, number))
                assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
                assert record.reason.startswith("CannotCreateContainerError: ")
                assert told in record.reason

    async def test_a_read_only_root_is_one(self, opened: OpenContainers, logs: LogFolder) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("touch", "/file", readonly_root_filesystem=True)
            assert (await followed.done(FIRST)).exit_code == 1
        assert "Read-only file system" in self.output(logs)

    async def test_linux_parameters_are_as_asked(self, opened: OpenContainers, logs: LogFolder) -> None:
        script = """
            tr '\\0' '\\n' < /proc/1/cmdline | head -1 | grep -c -- -init
            df -k /dev/shm | tail -1 | awk '{print $2}'
            df -k /scratch | tail -1 | awk '{print $2}'
            grep -c ' /scratch tmpfs .*noexec' /proc/mounts
            head -c 3 /dev/nothing | wc -c
        """
        parameters = LinuxParameters(
            init_process_enabled=True,
            shared_memory_size=2,
            tmpfs=[Tmpfs(container_path="/scratch", size=3, mount_options=["noexec"])],
            devices=[Device(host_path="/dev/zero", container_path="/dev/nothing", permissions=["READ"])],
        )
        async with opened(policy=Policy(devices=("/dev/zero",))) as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", script, linux_parameters=parameters)
            assert (await followed.done(FIRST)).exit_code == 0
        assert self.output(logs).split() == ["1", "2048", "3072", "1", "3"]

    async def test_cpu_and_memory_are_as_asked(self, opened: OpenContainers, logs: LogFolder) -> None:
        if not HAS_CGROUP_V1:
            pytest.skip("kernel: reads what cgroup v1 says inside of a container")
        script = """cd /sys/fs/cgroup
            cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.swappiness
            cat cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us"""
        members: dict[str, Any] = {"memory_mib": 64, "vcpus_milli": 1500}
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", script, **members)
            await followed.done(FIRST)
        async with opened(is_cpu_limited=True) as runtime:
            followed = await self.with_lease(runtime)
            parameters = LinuxParameters(max_swap=16, swappiness=10)
            await followed.offer("sh", "-c", script, fence=SECOND, linux_parameters=parameters, **members)
            await followed.done(SECOND)
        mib = 1024 * 1024
        plain = [int(number) for number in self.output(logs, FIRST).split()]
        assert (plain[:2], plain[3], plain[4]) == ([64 * mib, 64 * mib], 1536, -1)
        limited = [int(number) for number in self.output(logs, SECOND).split()]
        assert limited == [64 * mib, 80 * mib, 10, 1536, 150_000, 100_000]

    async def test_one_ulimit_leaves_the_others_and_a_network_configuration_is_taken(
        self, opened: OpenContainers, logs: LogFolder
    ) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer(
                *("sh", "-c", "ulimit -c; ulimit -n"),
                ulimits=[Ulimit(name="core", soft_limit=0, hard_limit=0)],
                network_configuration=NetworkConfiguration(assign_public_ip="ENABLED"),
            )
            assert (await followed.done(FIRST)).exit_code == 0
        core, files = self.output(logs).split()
        assert core == "0"
        assert int(files) > 1000

    async def test_a_volume_that_no_runtime_can_mount_fails_the_job_by_its_name(self, opened: OpenContainers) -> None:
        volume = Volume(name="remote")
        volume.efs_volume_configuration.file_system_id = "fs-1"
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            mounts = [MountPoint(container_path="/a", source_volume="remote")]
            await followed.offer("true", volumes=[volume], mount_points=mounts)
            record = await followed.done(FIRST)
        assert record.end is RunEnd.START_FAILED
        assert "volumes[remote].efsVolumeConfiguration" in record.reason

    async def test_a_container_carries_the_labels_by_which_it_is_found(
        self, opened: OpenContainers, engine: str, agent_id: str
    ) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sleep", "600")
            await followed.until(FIRST, RunState.STARTED)
            (container,) = containers_of(engine, agent_id)
            for name, value in {
                "installation": agent_id,
                "agent": agent_id,
                "job": an_offer().spec.job_id,
                "fence": "1-1",
            }.items():
                assert label_of(engine, container, f"batchyard.{name}") == value
            await runtime.carry_out(Orders(kills=[(FIRST, 0)]))
            await followed.done(FIRST)

    # Images

    async def test_many_jobs_of_one_missing_image_have_it_fetched_once_and_others_start_meanwhile(
        self, opened: OpenContainers, image_registry: ImageRegistry, agent_id: str, logs: LogFolder
    ) -> None:
        name = f"many/{agent_id.replace('_', '-').lower()}"
        image = image_registry.add(name, says="hello", held=True)
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            fences = [(1, number) for number in range(1, 7)]
            # More of them than may start at once.
            for fence in fences:
                await followed.offer(fence=fence, image=image, vcpus_milli=500)
            await eventually(lambda: image_registry.asked[name], "the image is asked for")
            await followed.offer("true", fence=(1, 9), vcpus_milli=500)
            assert (await followed.done((1, 9))).exit_code == 0
            assert {followed.runs[fence].state for fence in fences} == {RunState.CLAIMED}
            image_registry.release(name)
            for fence in fences:
                assert (await followed.done(fence)).exit_code == 0
                assert self.output(logs, fence) == "hello\n"
        assert image_registry.asked[name] == 1

    async def test_a_job_that_waits_for_its_image_can_be_ended_and_harms_no_other_that_waits_too(
        self, opened: OpenContainers, image_registry: ImageRegistry, agent_id: str, logs: LogFolder
    ) -> None:
        name = f"ended/{agent_id.replace('_', '-').lower()}"
        image = image_registry.add(name, says="hello", held=True)
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer(image=image)
            await followed.offer(image=image, fence=SECOND)
            await eventually(lambda: image_registry.asked[name], "the image is asked for")
            await runtime.carry_out(Orders(kills=[(FIRST, 600)]))
            record = await followed.done(FIRST)
            assert (record.end, record.exit_code, record.started) == (RunEnd.STOPPED, None, None)
            image_registry.release(name)
            assert (await followed.done(SECOND)).exit_code == 0
        assert self.output(logs, SECOND) == "hello\n"

    async def test_an_image_that_takes_too_long_or_is_broken_or_missing_is_the_reason(
        self, opened: OpenContainers, image_registry: ImageRegistry, agent_id: str
    ) -> None:
        suffix = agent_id.replace("_", "-").lower()
        slow = image_registry.add(f"slow/{suffix}", held=True)
        broken = image_registry.add(f"broken/{suffix}", broken=True)
        missing = f"{image_registry.host}/missing/{suffix}"
        async with opened(pulls=PullSettings(timeout_s=1.0)) as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer(image=slow)
            record = await followed.done(FIRST)
            assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
            told = "CannotPullContainerError: the image was not there after 1 s (--image-pull-timeout)"
            assert record.reason.startswith(told)
        image_registry.release(f"slow/{suffix}")
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            for fence, image in ((SECOND, broken), (THIRD, missing)):
                await followed.offer(image=image, fence=fence)
                record = await followed.done(fence)
                assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
                assert record.reason.startswith("CannotPullContainerError: ")
            assert "unknown" in record.reason

    async def test_the_policy_says_when_an_image_is_fetched(
        self, opened: OpenContainers, image_registry: ImageRegistry, agent_id: str, engine: str, logs: LogFolder
    ) -> None:
        name = f"policy/{agent_id.replace('_', '-').lower()}"
        image = image_registry.add(name, says="old")
        async with opened(pulls=PullSettings("never")) as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer(image=image)
            record = await followed.done(FIRST)
            assert record.reason.startswith("CannotPullContainerError: the image is not on this host")
            assert "--image-pull-policy never" in record.reason
        assert image_registry.asked[name] == 0
        for number, (policy, says) in enumerate(
            [("missing", "old"), ("missing", "old"), ("always", "new"), ("never", "new")], start=2
        ):
            async with opened(pulls=PullSettings(policy)) as runtime:  # type: ignore[arg-type]
                followed = await self.with_lease(runtime)
                await followed.offer(image=image, fence=(1, number))
                assert (await followed.done((1, number))).exit_code == 0
            assert self.output(logs, (1, number)) == f"{says}\n"
            image_registry.add(name, says="new")
        assert image_registry.asked[name] == 2
        remove_image(engine, image)

    # Ends

    async def test_a_container_over_its_memory_is_killed_and_the_reason_says_so(self, opened: OpenContainers) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("tail", "/dev/zero", memory_mib=16)
            # Old enough to be watched by any engine.
            await followed.offer("sh", "-c", "sleep 2; exec tail /dev/zero", fence=SECOND, memory_mib=16)
            records = [await followed.done(fence) for fence in (FIRST, SECOND)]
        for record in records:
            assert (record.end, record.exit_code) == (RunEnd.EXITED, 128 + signal.SIGKILL)
            assert record.reason.startswith("OutOfMemoryError: Container killed due to memory usage")
        assert self.tells_of_memory is ("inferred" not in records[1].reason)

    tells_of_memory = True
    """Whether the engine tells that memory was what a container was killed for."""

    async def test_nothing_is_left_of_a_container_whichever_way_it_ended(
        self, opened: OpenContainers, engine: str, agent_id: str
    ) -> None:
        volumes, networks = all_volumes_of(engine), networks_of(engine)
        mounted: dict[str, Any] = {
            "volumes": [fresh_volume("v")],
            "mount_points": [MountPoint(container_path="/v", source_volume="v")],
        }
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            commands = [("true",), ("no-such-command",), ("sh", "-c", "sleep 600 & wait"), ("sleep", "600")]
            timeouts = [None, None, None, 1]
            for number, (command, timeout_s) in enumerate(zip(commands, timeouts, strict=True), start=1):
                await followed.offer(*command, fence=(1, number), timeout_s=timeout_s, **mounted)
            await followed.until(THIRD, RunState.STARTED)
            await runtime.carry_out(Orders(kills=[(THIRD, 0)]))
            ends = [(await followed.done((1, number))).end for number in range(1, 5)]
            assert ends == [RunEnd.EXITED, RunEnd.START_FAILED, RunEnd.STOPPED, RunEnd.TIMED_OUT]
            await eventually(lambda: not containers_of(engine, agent_id), "the containers are gone")
            await eventually(lambda: all_volumes_of(engine) == volumes, "the volumes are gone")
        assert networks_of(engine) == networks

    async def test_containers_and_volumes_of_nobody_are_removed_at_the_start(
        self, opened: OpenContainers, engine: str, agent_id: str
    ) -> None:
        labels = {"installation": agent_id, "agent": agent_id, "fence": "9-9"}
        arguments = [word for name, value in labels.items() for word in ("--label", f"batchyard.{name}={value}")]
        run_container(engine, *arguments, "bb:1", "sleep", "600")
        other = run_container(engine, "--label", f"batchyard.agent={agent_id}", "bb:1", "sleep", "600")
        create_volume(engine, *arguments, f"nobodys-{agent_id}")
        async with opened():
            assert containers_of(engine, agent_id) == [other[:12]]
            assert volumes_of(engine, agent_id) == []

    @pytest.mark.parametrize("was_begun", [False, True])
    async def test_a_claim_without_a_started_container_is_over_and_an_attempt_only_if_it_may_have_started(
        self, opened: OpenContainers, tmp_path: Path, was_begun: bool
    ) -> None:
        journal = tmp_path / "docker" / "journal"
        async with opened() as runtime:
            await self.with_lease(runtime)
        with journal.open("a") as file:
            file.write('["C",[[[1,1],[1000,64,0],{"namespace":"123456789012","job_id":"j","log_stream_name":"s"}]]]\n')
            if was_begun:
                file.write('["B",[[1,1]]]\n')
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            record = await followed.done(FIRST)
            await followed.offer("true")
            await followed.offer("true", fence=SECOND)
            await followed.done(SECOND)
        assert (record.end, record.started) == (RunEnd.LOST if was_begun else RunEnd.NEVER_STARTED, None)
        assert followed.runs[FIRST].end is record.end

    async def test_an_agent_whose_jobs_may_run_in_one_engine_does_not_start_with_another(
        self, opened: OpenContainers, engine: str, agent_id: str
    ) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sleep", "600")
            await followed.until(FIRST, RunState.STARTED)
        async with engine_that_starts_nothing(engine) as other:
            with pytest.raises(AgentStartError, match=f"may still run in the container engine at {engine}, not at"):
                async with opened(docker_host=other.url):
                    pass
            async with opened() as runtime:
                followed = await self.with_lease(runtime)
                await followed.until(FIRST, RunState.STARTED)
                await runtime.carry_out(Orders(kills=[(FIRST, 0)]))
                assert (await followed.done(FIRST)).end is RunEnd.STOPPED
                # Its end is written down before that.
                await eventually(lambda: not containers_of(engine, agent_id), "the container is gone")
            async with opened(docker_host=other.url):
                pass

    async def test_a_job_that_runs_has_a_log_that_can_be_read(self, opened: OpenContainers, logs: LogFolder) -> None:
        offer = an_offer("sleep", "60")
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await runtime.carry_out(Orders(offers=[offer]))
            await followed.until(FIRST, RunState.STARTED)
            assert logs.path(offer.spec.namespace, offer.log_stream_name).exists()
            await runtime.carry_out(Orders(kills=[(FIRST, 0)]))
            await followed.done(FIRST)

    async def test_output_is_copied_as_soon_as_its_log_can_be_made(
        self, opened: OpenContainers, logs: LogFolder
    ) -> None:
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

    async def test_lines_carry_the_time_at_which_the_engine_got_them_also_after_the_agent_was_away(
        self, opened: OpenContainers, logs: LogFolder
    ) -> None:
        script = (
            "trap 'echo gone; exit 3' TERM; echo one; sleep 0.3; echo two; sleep 0.3;"
            " head -c 40000 /dev/zero | tr '\\0' x; echo; while :; do sleep 0.05; done"
        )
        offer = an_offer("sh", "-c", script)
        name = (offer.spec.namespace, offer.log_stream_name)
        printed = b"one\ntwo\n" + b"x" * 40_000 + b"\n"
        path = logs.path(*name)
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await runtime.carry_out(Orders(offers=[offer]))
            await followed.until(FIRST, RunState.STARTED)
            await eventually(lambda: path.exists() and path.read_bytes() == printed, "all is copied")
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await runtime.carry_out(Orders(kills=[(FIRST, 30.0)]))
            assert (await followed.done(FIRST)).exit_code == 3
        assert path.read_bytes() == printed + b"gone\n"
        with logs.open(*name) as log:
            times = [log.time_of(offset) for offset in (4, 8, len(printed), log.end)]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert min(gaps[:2]) >= (250 if self.stamps_are_exact else 0)
        assert max(gaps) < 60_000

    async def test_a_loud_container_is_copied_whole_and_in_order(self, opened: OpenContainers, logs: LogFolder) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", "seq 1 50000")
            assert (await followed.done(FIRST)).exit_code == 0
        assert self.output(logs).split() == [str(number) for number in range(1, 50_001)]
