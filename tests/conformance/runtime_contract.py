"""What every runtime promises."""

import abc
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from batchyard.agent.launcher import wire
from batchyard.agent.launcher.ledger import Fence, RunEnd, RunState
from batchyard.agent.runtimes import Runtime
from batchyard.agent.runtimes.secrets import Secrets, parse_secrets
from batchyard.agent.state import Orders, RunRecord
from batchyard.api.common.v1.container_pb2 import MountPoint, Secret, Ulimit
from batchyard.storage.log_files import LogFolder
from support.agent import NAMESPACE, an_offer
from support.waiting import PATIENCE_S, eventually

FIRST: Fence = (1, 1)
SECOND: Fence = (1, 2)

SHORT_LEASE_S = 2.0
"""Long enough for a container to start."""

Open = Callable[[], AbstractAsyncContextManager[Runtime]]


class Followed:
    """A runtime and what it has told."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.runs: dict[Fence, RunRecord] = {}
        self.history: list[RunRecord] = []

    async def until(self, fence: Fence, *states: RunState) -> RunRecord:
        with anyio.fail_after(PATIENCE_S):
            while fence not in self.runs or self.runs[fence].state not in states:
                for record in await self.runtime.changes():
                    self.runs[record.fence] = record
                    self.history.append(record)
        return self.runs[fence]

    async def done(self, fence: Fence) -> RunRecord:
        return await self.until(fence, RunState.DONE)

    async def offer(self, *command: str, fence: Fence = FIRST, **members: Any) -> None:
        await self.runtime.carry_out(Orders(offers=[an_offer(*command, fence=fence, **members)]))


class RuntimeContract(abc.ABC):
    @pytest.fixture
    def logs(self, tmp_path: Path) -> LogFolder:
        return LogFolder(tmp_path / "logs")

    @pytest.fixture
    def secrets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Secrets:
        """Return the secrets that the runtime is to be opened with."""
        file = tmp_path / "secret"
        file.write_text("from a file\n")
        monkeypatch.setenv("TESTED_SECRET", "from a variable")
        return parse_secrets([f"arn:aws:secret:file=file:{file}", "variable=env:TESTED_SECRET", "gone=file:/no/such"])

    @pytest.fixture
    @abc.abstractmethod
    def opened(self, tmp_path: Path, logs: LogFolder) -> Open:
        """Return what opens the runtime, with room for four vCPUs, in the same folder each time."""

    async def with_lease(self, runtime: Runtime, length_s: float = 3600.0) -> Followed:
        await runtime.renew_lease(wire.now() + length_s, 0)
        return Followed(runtime)

    def output(self, logs: LogFolder, fence: Fence = FIRST) -> str:
        return logs.path(NAMESPACE, an_offer(fence=fence).log_stream_name).read_text()

    async def test_a_job_goes_through_its_states_to_its_exit_code(self, opened: Open, logs: LogFolder) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", "echo out; echo err >&2; exit 3")
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code, record.reason) == (RunEnd.EXITED, 3, "")
        assert (record.namespace, record.job_id) == (NAMESPACE, an_offer().spec.job_id)
        assert record.started is not None
        assert record.ended is not None
        assert record.started <= record.ended
        assert sorted(self.output(logs).split()) == ["err", "out"]
        states = [record.state for record in followed.history]
        assert states == sorted(states)

    async def test_a_job_finds_itself_described_in_its_environment(self, opened: Open, logs: LogFolder) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            variables = {"OWN": "value", "AWS_BATCH_JOB_ID": "not this"}
            await followed.offer("env", fence=(3, 17), attempt=2, environment=variables)
            await followed.done((3, 17))
        found = dict(line.split("=", 1) for line in self.output(logs, (3, 17)).splitlines())
        expected = {
            "OWN": "value",
            "AWS_BATCH_JOB_ID": an_offer().spec.job_id,
            "AWS_BATCH_JOB_ATTEMPT": "2",
            "AWS_BATCH_JQ_NAME": "queue",
            "AWS_BATCH_CE_NAME": "environment",
            "BATCHYARD_FENCE": "3-17",
        }
        assert found.items() >= expected.items()

    async def test_a_job_has_the_secrets_that_its_agent_gives_and_the_name_of_its_role(
        self, opened: Open, logs: LogFolder
    ) -> None:
        wanted = [Secret(name="KEY", value_from="arn:aws:secret:file"), Secret(name="TOKEN", value_from="variable")]
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            command = ("sh", "-c", 'echo "$KEY, $TOKEN, $AWS_ROLE_ARN"')
            await followed.offer(*command, secrets=wanted, job_role_arn="arn:aws:iam::123456789012:role/r")
            assert (await followed.done(FIRST)).exit_code == 0
        assert self.output(logs) == "from a file, from a variable, arn:aws:iam::123456789012:role/r\n"

    @pytest.mark.parametrize(("name", "told"), [("other", "--secret"), ("gone", "file:/no/such can't be read")])
    async def test_a_secret_that_the_agent_does_not_have_fails_the_job_at_once(
        self, opened: Open, name: str, told: str
    ) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("true", secrets=[Secret(name="KEY", value_from=name)])
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
        assert "ResourceInitializationError: " in record.reason
        assert told in record.reason

    async def test_a_command_that_a_shell_does_not_find_exits_127(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", "no-such-command")
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code, record.reason) == (RunEnd.EXITED, 127, "")

    async def test_a_user_that_is_not_there_fails_to_start(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("true", user="no-such-user")
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
        assert record.reason.startswith("CannotStartContainerError: ")
        assert "unable to find user no-such-user" in record.reason

    async def test_a_missing_command_fails_to_start(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("no-such-command")
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
        assert record.reason.startswith("CannotStartContainerError: ")
        assert "no-such-command" in record.reason

    async def test_what_is_not_honoured_is_refused_by_name(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("true", mount_points=[MountPoint(container_path="/data", source_volume="data")])
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
        assert "mountPoints" in record.reason

    async def test_a_job_whose_log_would_lie_elsewhere_is_refused(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            offer = replace(an_offer("true"), log_stream_name="../elsewhere")
            await runtime.carry_out(Orders(offers=[offer]))
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.START_FAILED, None)
        assert "../elsewhere" in record.reason

    async def test_user_and_ulimits_are_set(self, opened: Open, logs: LogFolder) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            limits = [Ulimit(name="nofile", soft_limit=100, hard_limit=200)]
            await followed.offer("sh", "-c", "id -u; ulimit -Sn; ulimit -Hn", user="nobody", ulimits=limits)
            record = await followed.done(FIRST)
        assert record.exit_code == 0
        assert self.output(logs).split() == ["65534", "100", "200"]

    async def test_a_killed_job_is_stopped(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", "sleep 600 & wait")
            await followed.until(FIRST, RunState.STARTED)
            await runtime.carry_out(Orders(kills=[(FIRST, 0.1)]))
            record = await followed.done(FIRST)
        assert record.end is RunEnd.STOPPED
        assert record.exit_code in (128 + signal.SIGTERM, 128 + signal.SIGKILL)

    async def test_a_job_that_ends_by_itself_at_sigterm_keeps_its_exit_code(
        self, opened: Open, logs: LogFolder
    ) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
            await followed.until(FIRST, RunState.STARTED)
            path = logs.path(NAMESPACE, an_offer().log_stream_name)
            await eventually(lambda: path.exists() and path.read_bytes(), "it has set its trap")
            await runtime.carry_out(Orders(kills=[(FIRST, PATIENCE_S)]))
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.STOPPED, 9)

    async def test_a_job_out_of_time_is_killed(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", timeout_s=1)
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.TIMED_OUT, 128 + signal.SIGKILL)
        assert record.started is not None
        assert record.ended is not None
        assert record.ended - record.started >= 1

    async def test_offers_wait_for_room_and_can_be_taken_back(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sleep", "600", vcpus_milli=4000)
            await followed.offer("true", fence=SECOND)
            await followed.until(FIRST, RunState.STARTED)
            await runtime.carry_out(Orders(revocations=[SECOND]))
            await followed.until(SECOND, RunState.REVOKED)
            await runtime.carry_out(Orders(kills=[(FIRST, 0)]))
            await followed.done(FIRST)

    async def test_a_waiting_offer_starts_when_there_is_room(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("true", vcpus_milli=4000)
            await followed.offer("true", fence=SECOND, vcpus_milli=4000)
            assert (await followed.done(FIRST)).exit_code == 0
            assert (await followed.done(SECOND)).exit_code == 0

    async def test_a_revoked_fence_that_is_offered_late_does_not_start(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await runtime.carry_out(Orders(revocations=[FIRST]))
            await followed.until(FIRST, RunState.REVOKED)
            await followed.offer("true")
            await followed.offer("true", fence=SECOND)
            await followed.done(SECOND)
        assert followed.runs[FIRST].state is RunState.REVOKED

    async def test_a_forgotten_fence_that_is_offered_again_does_not_start(self, opened: Open, logs: LogFolder) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("echo", "ran")
            await followed.done(FIRST)
            await runtime.carry_out(Orders(forgotten=[FIRST]))
            await followed.offer("echo", "ran")
            await followed.until(FIRST, RunState.REVOKED)
        assert self.output(logs) == "ran\n"

    async def test_nothing_starts_without_a_lease(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = Followed(runtime)
            await followed.offer("true")
            await runtime.carry_out(Orders(revocations=[FIRST]))
            await followed.until(FIRST, RunState.REVOKED)

    async def test_jobs_end_with_the_lease(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime, SHORT_LEASE_S)
            await followed.offer("sleep", "600")
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.LOST, None)

    async def test_jobs_whose_lease_ended_while_no_agent_was_there_are_lost(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime, SHORT_LEASE_S)
            deadline = wire.now() + SHORT_LEASE_S
            await followed.offer("sleep", "600")
            # On a machine that is so busy that it does not start in time, it is lost already.
            await followed.until(FIRST, RunState.STARTED, RunState.DONE)
        await eventually(lambda: wire.now() > deadline)
        async with opened() as runtime:
            record = await Followed(runtime).done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.LOST, None)

    async def test_a_job_goes_on_while_its_agent_is_away(self, opened: Open, logs: LogFolder) -> None:
        async with opened() as runtime:
            instance = runtime.instance
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", "echo early; sleep 1; echo late; exit 5")
            await followed.until(FIRST, RunState.STARTED)
        async with opened() as runtime:
            assert runtime.instance == instance
            assert runtime.claimed_before == []
            followed = await self.with_lease(runtime)
            record = await followed.done(FIRST)
        assert (record.end, record.exit_code) == (RunEnd.EXITED, 5)
        assert self.output(logs) == "early\nlate\n"

    async def test_an_end_that_was_not_acknowledged_is_told_to_the_next_agent(self, opened: Open) -> None:
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("sh", "-c", "exit 6")
            await followed.done(FIRST)
        async with opened() as runtime:
            record = await Followed(runtime).done(FIRST)
            await runtime.carry_out(Orders(forgotten=[FIRST]))
        assert (record.end, record.exit_code) == (RunEnd.EXITED, 6)
        async with opened() as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("true", fence=SECOND)
            await followed.done(SECOND)
        assert FIRST not in followed.runs
