"""An agent against a scheduler that the test plays: what it says, and what it does about what it is told."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import grpc.aio
import pytest

from batchyard.agent.app import AgentConfig, run_agent
from batchyard.agent.convert import fence_message
from batchyard.agent.host import AgentStartError
from batchyard.agent.launcher.ledger import Fence, RunEnd, RunState
from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.storage.log_files import LogFolder
from support.agent import NAMESPACE, QUICK, FakeScheduler, an_offer, pids_with, serving
from support.waiting import eventually

FIRST: Fence = (1, 1)
SECOND: Fence = (1, 2)


def a_config(folder: Path, port: int, **changes: Any) -> AgentConfig:
    members: dict[str, Any] = {"capacity": "vcpus=4,memory=4GiB,gpus=1", "runtime": "process", "process": QUICK}
    return AgentConfig(folder=folder, scheduler=f"127.0.0.1:{port}", **members | changes)


@asynccontextmanager
async def an_agent(folder: Path, port: int, **changes: Any) -> AsyncIterator[None]:
    """Run an agent that has been welcomed."""
    welcomed = anyio.Event()

    async def run() -> None:
        await run_agent(a_config(folder, port, **changes), ready=welcomed.set)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await welcomed.wait()
        yield
        tasks.cancel_scope.cancel()


async def started(scheduler: FakeScheduler, fence: Fence = FIRST) -> None:
    await eventually(lambda: scheduler.last(fence, RunState.STARTED), "the run is STARTED")


def end_of(report: Any) -> tuple[RunEnd, int | None]:
    return RunEnd(report.end), report.exit_code if report.HasField("exit_code") else None


async def test_an_offered_job_runs_and_its_end_is_reported_after_its_log_is_complete(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        offer = an_offer("sh", "-c", "echo $AWS_BATCH_JOB_ID $AWS_BATCH_JOB_ATTEMPT; exit 3", attempt=2)
        scheduler.offer(offer)
        report = await scheduler.done(offer.fence)
        assert LogFolder(tmp_path / "logs").is_finished(NAMESPACE, offer.log_stream_name)
    assert end_of(report) == (RunEnd.EXITED, 3)
    assert (report.namespace, report.job_id) == (NAMESPACE, offer.spec.job_id)
    assert report.started_ago_ms >= report.ended_ago_ms >= 0
    log = LogFolder(tmp_path / "logs").path(NAMESPACE, offer.log_stream_name)
    assert log.read_text() == f"{offer.spec.job_id} 2\n"


async def test_an_agent_presents_its_host(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    async with serving(scheduler) as port, an_agent(tmp_path, port, compute_environments=("one", "two")):
        (registration,) = scheduler.registrations
    assert registration.incarnation == 1
    assert registration.agent_id
    assert registration.boot_id
    assert registration.hostname
    assert registration.runtime == "process"
    assert registration.capacity == session_pb2.Capacity(vcpus_milli=4000, memory_mib=4096, gpus=1)
    assert registration.compute_environments == ["one", "two"]
    assert not registration.runs
    assert not registration.claimed_before


async def test_a_scheduler_older_than_one_that_was_followed_is_left_and_its_offers_are_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = FakeScheduler()
    scheduler.epochs = (2, 5)
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        scheduler.epochs = (2, 4)
        scheduler.held[(2, 1)] = an_offer("true", fence=(2, 1))
        scheduler.break_stream()
        await eventually(lambda: len(scheduler.registrations) > 3, "the agent tries again and again")
        assert not scheduler.reports
        scheduler.epochs = (2, 6)
        assert end_of(await scheduler.done((2, 1))) == (RunEnd.EXITED, 0)
    assert f"remove {tmp_path} and start it again" in caplog.text


async def test_a_scheduler_that_leads_anew_on_the_same_stream_is_followed_and_an_older_one_is_left(
    tmp_path: Path,
) -> None:
    scheduler = FakeScheduler()
    scheduler.epochs = (2, 5)
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        scheduler.send(session_pb2.ConnectResponse(welcome=session_pb2.Welcome(store_epoch=3, leader_epoch=6)))
        scheduler.offer(an_offer("true", fence=(2, 1)), an_offer("true", fence=(3, 1)))
        await scheduler.done((3, 1))
        assert scheduler.last((2, 1), RunState.REVOKED)
        scheduler.break_stream()
        await eventually(lambda: len(scheduler.registrations) > 2, "the agent leaves, and tries again")
        scheduler.epochs = (3, 6)
        scheduler.held[(3, 2)] = an_offer("true", fence=(3, 2))
        await scheduler.done((3, 2))


async def test_reports_that_were_not_acknowledged_come_again_on_the_next_stream(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        scheduler.acknowledges = False
        scheduler.offer(an_offer("sh", "-c", "exit 4"))
        await scheduler.done(FIRST)
        scheduler.held.clear()
        scheduler.break_stream()
        await eventually(lambda: len(scheduler.registrations) == 2)
        (run,) = scheduler.registrations[1].runs
        assert end_of(run) == (RunEnd.EXITED, 4)
        assert scheduler.registrations[1].incarnation == scheduler.registrations[0].incarnation
        scheduler.acknowledges = True
        scheduler.send(session_pb2.ConnectResponse(acknowledged=[fence_message(FIRST)]))
        await eventually(lambda: '"A",[[1,1]]' in (tmp_path / "launcher" / "journal").read_text())
        scheduler.break_stream()
        await eventually(lambda: len(scheduler.registrations) == 3)
        assert not scheduler.registrations[2].runs


async def test_an_end_that_nobody_answers_is_reported_again_on_the_same_stream(tmp_path: Path) -> None:
    scheduler = FakeScheduler(heartbeat_ms=20)
    scheduler.acknowledges = False
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        scheduler.offer(an_offer("true"))
        await eventually(lambda: sum(int(report.state) == RunState.DONE for report in scheduler.reports) >= 2)
        assert len(scheduler.registrations) == 1


async def test_a_job_goes_on_while_the_scheduler_is_away_and_is_not_started_again(tmp_path: Path) -> None:
    gate, traces = tmp_path / "gate", tmp_path / "traces"
    os.mkfifo(gate)
    scheduler = FakeScheduler()
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        scheduler.offer(an_offer("sh", "-c", f"echo ran >> {traces}; read line < {gate}"))
        await started(scheduler)
        scheduler.break_stream()
        await eventually(lambda: len(scheduler.registrations) == 2)
        gate.write_text("go\n")
        report = await scheduler.done(FIRST)
    assert end_of(report) == (RunEnd.EXITED, 0)
    assert traces.read_text() == "ran\n"


async def test_an_agent_that_comes_back_finds_its_jobs_under_the_same_incarnation(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    scheduler = FakeScheduler()
    async with serving(scheduler) as port:
        async with an_agent(tmp_path, port):
            scheduler.offer(an_offer("sh", "-c", f"read line < {gate}; exit 5"))
            await started(scheduler)
        gate.write_text("go\n")
        async with an_agent(tmp_path, port):
            report = await scheduler.done(FIRST)
    assert end_of(report) == (RunEnd.EXITED, 5)
    first, second = scheduler.registrations
    assert (first.agent_id, first.incarnation) == (second.agent_id, second.incarnation)


async def test_after_its_launchers_death_an_agent_registers_anew_and_names_what_was_claimed(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        scheduler.offer(an_offer("sleep", "600"))
        await started(scheduler)
        for pid in pids_with(str(tmp_path / "launcher")):
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: len(scheduler.registrations) == 2)
        registration = scheduler.registrations[1]
        assert registration.incarnation == 2
        assert list(registration.claimed_before) == [fence_message(FIRST)]
        scheduler.offer(an_offer("true", fence=SECOND))
        assert end_of(await scheduler.done(SECOND)) == (RunEnd.EXITED, 0)


async def test_a_refused_incarnation_ends_all_jobs_and_registers_a_higher_one(tmp_path: Path) -> None:
    mark = f"2{os.getpid():07d}.5"
    scheduler = FakeScheduler()
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        scheduler.offer(an_offer("sleep", mark))
        await started(scheduler)
        scheduler.held.clear()
        scheduler.refused_incarnations.add(1)
        scheduler.break_stream()
        await eventually(lambda: scheduler.registrations[-1].incarnation == 2)
        assert not pids_with(mark)
        assert json.loads((tmp_path / "agent.json").read_text())["incarnation"] == 2


async def test_a_stale_run_is_killed_and_not_reported(tmp_path: Path) -> None:
    mark = f"3{os.getpid():07d}.5"
    scheduler = FakeScheduler()
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        scheduler.offer(an_offer("sleep", mark))
        await started(scheduler)
        await eventually(lambda: pids_with(mark))
        scheduler.held.clear()
        scheduler.send(session_pb2.ConnectResponse(stale=[fence_message(FIRST)]))
        await eventually(lambda: not pids_with(mark))
        scheduler.offer(an_offer("true", fence=SECOND))
        await scheduler.done(SECOND)
        assert scheduler.last(FIRST, RunState.DONE) is None


async def test_a_kill_ends_a_job_after_its_grace(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        scheduler.offer(an_offer("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"))
        await started(scheduler)
        kill = session_pb2.Kill(fence=fence_message(FIRST), grace_ms=100)
        scheduler.send(session_pb2.ConnectResponse(kills=[kill]))
        assert end_of(await scheduler.done(FIRST)) == (RunEnd.STOPPED, 128 + signal.SIGKILL)


async def test_jobs_end_when_no_heartbeat_is_answered_for_the_length_of_the_lease(tmp_path: Path) -> None:
    mark = f"4{os.getpid():07d}.5"
    scheduler = FakeScheduler(heartbeat_ms=60_000, lease_ms=1500)
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        scheduler.answers_heartbeats = False
        scheduler.offer(an_offer("sleep", mark))
        await started(scheduler)
        assert end_of(await scheduler.done(FIRST)) == (RunEnd.LOST, None)
        assert not pids_with(mark)


async def test_a_silent_scheduler_is_left_for_a_new_stream(tmp_path: Path) -> None:
    class Silent(FakeScheduler):
        def send(self, response: session_pb2.ConnectResponse) -> None: ...

    scheduler = Silent(heartbeat_ms=20)
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        await eventually(lambda: len(scheduler.registrations) >= 2)


async def test_an_agent_waits_for_a_scheduler_that_starts_later(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    async with serving(scheduler) as port:
        pass
    async with anyio.create_task_group() as tasks:
        welcomed = anyio.Event()

        async def run() -> None:
            await run_agent(a_config(tmp_path, port), ready=welcomed.set)

        tasks.start_soon(run)
        await eventually((tmp_path / "launcher" / "journal").exists)
        async with serving(scheduler, port=port):
            await welcomed.wait()
            tasks.cancel_scope.cancel()


async def test_with_stop_jobs_the_end_of_the_agent_is_the_end_of_its_jobs_and_is_reported(tmp_path: Path) -> None:
    mark = f"5{os.getpid():07d}.5"
    scheduler = FakeScheduler()
    async with serving(scheduler) as port:
        async with an_agent(tmp_path, port, stop_jobs=True):
            scheduler.offer(an_offer("sleep", mark))
            await started(scheduler)
        assert not pids_with(mark)
        report = scheduler.last(FIRST, RunState.DONE)
        assert report is not None
        assert end_of(report) == (RunEnd.STOPPED, 128 + signal.SIGTERM)
        await eventually(lambda: not pids_with(str(tmp_path / "launcher")))


async def test_a_second_agent_on_the_same_folder_is_refused_by_name(
    tmp_path: Path,
) -> None:
    scheduler = FakeScheduler()
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        with pytest.raises(AgentStartError) as raised:
            await run_agent(a_config(tmp_path, port, lock_patience_s=0.1), ready=lambda: None)
    assert f"another agent (process {os.getpid()}) already uses {tmp_path}" in str(raised.value)


async def test_a_damaged_journal_is_named_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "journal").write_text("[no journal]\n")
    with pytest.raises(AgentStartError, match="journal is damaged at line 1"):
        await run_agent(a_config(tmp_path, 1), ready=lambda: None)


async def test_every_problem_of_a_configuration_is_told_at_once(tmp_path: Path) -> None:
    config = AgentConfig(folder=tmp_path, scheduler="", capacity="vcpus=many", compute_environments=("a", "a"))
    with pytest.raises(AgentStartError) as raised:
        await run_agent(config, ready=lambda: None)
    for problem in ("scheduler:", "capacity:", "compute_environments:"):
        assert problem in str(raised.value)


async def test_a_rejected_stream_of_another_reason_is_tried_again_under_the_same_incarnation(tmp_path: Path) -> None:
    class Refusing(FakeScheduler):
        refusals = 1

        async def Connect(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
            if self.refusals:
                self.refusals -= 1
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not the leader")
            async for response in super().Connect(request_iterator, context):
                yield response

    scheduler = Refusing()
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        assert [registration.incarnation for registration in scheduler.registrations] == [1]
