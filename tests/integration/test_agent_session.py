"""An agent against a scheduler that the test plays: what it says, and what it does about what it is told."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.agent import (
    NAMESPACE,
    QUICK,
    FakeScheduler,
    an_offer,
    eventually,
    is_running,
    pids_with,
    serving,
)

from batchyard.agent.app import AgentConfig, run_agent
from batchyard.agent.convert import fence_message
from batchyard.agent.launcher.ledger import RunEnd, RunState
from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.storage.log_files import LogFolder


@asynccontextmanager
async def an_agent(folder: Path, port: int, **config: Any) -> AsyncIterator[anyio.CancelScope]:
    """Run an agent that has been welcomed."""
    settings = {"capacity": "vcpus=4,memory=4GiB", "runtime": "process", "process": QUICK} | config
    welcomed = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            agent = AgentConfig(folder=folder, scheduler=f"127.0.0.1:{port}", **settings)
            await run_agent(agent, ready=welcomed.set)

        tasks.start_soon(run)
        await welcomed.wait()
        yield tasks.cancel_scope
        tasks.cancel_scope.cancel()


async def test_an_offered_job_runs_and_its_end_is_reported(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    async with serving(scheduler) as port, an_agent(tmp_path, port):
        offer = an_offer("sh", "-c", "echo $AWS_BATCH_JOB_ID $AWS_BATCH_JOB_ATTEMPT; exit 3", attempt=2)
        scheduler.offer(offer)
        report = await scheduler.done(offer.fence)
    assert (report.end, report.exit_code, report.namespace) == (RunEnd.EXITED, 3, NAMESPACE)
    assert report.started_ago_ms >= report.ended_ago_ms >= 0
    logs = LogFolder(tmp_path / "logs")
    assert logs.is_finished(NAMESPACE, offer.log_stream_name)
    assert logs.path(NAMESPACE, offer.log_stream_name).read_text() == f"{offer.spec.job_id} 2\n"
