"""Logs go when their jobs are not kept any more, whatever of the two was down in between."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from batchyard.api.agent.v1 import log_ingest_service_pb2 as ingest_pb
from batchyard.api.agent.v1.log_ingest_service_pb2_grpc import LogIngestServiceStub
from batchyard.api.agent.v1.run_pb2 import RunState
from batchyard.api.scheduler.v1 import log_retention_service_pb2 as pb
from batchyard.api.scheduler.v1.log_retention_service_pb2_grpc import LogRetentionServiceStub
from batchyard.logs.app import open_logs
from batchyard.rpc.channel import InProcessChannel, InProcessServer
from batchyard.rpc.clock import SystemClock
from batchyard.rpc.server import InProcessEndpoint
from batchyard.storage.log_files import LogFolder
from support.control_plane import ControlPlane, control_plane
from support.waiting import eventually

if TYPE_CHECKING:
    from batchyard.api.agent.v1.log_ingest_service_pb2_grpc import LogIngestServiceAsyncStub
    from batchyard.api.scheduler.v1.log_retention_service_pb2_grpc import LogRetentionServiceAsyncStub

NAMESPACE = "123456789012"
RETENTION_S = 0.5


@asynccontextmanager
async def logs_of(plane: ControlPlane, folder: Path) -> AsyncIterator["LogIngestServiceAsyncStub"]:
    endpoint = InProcessEndpoint()
    opening = open_logs(folder=folder, clock=SystemClock(), job_store=plane.channel)
    async with opening as services, endpoint.serve(services):
        yield LogIngestServiceStub(endpoint.channel)


async def ended_job(plane: ControlPlane, folder: LogFolder) -> tuple[str, str]:
    """Run a job to its end; return its id and the name of its log, which is there."""
    await plane.make_queue()
    await plane.register()
    async with plane.scheduler() as scheduler:
        await scheduler.register()
        job_id = await plane.submit()
        (queued,) = (await scheduler.until(lambda seen: seen.runnable)).runnable
        offer = await scheduler.offer(queued)
        write_old(folder, offer.log_stream_name)
        await scheduler.report(offer, RunState.RUN_STATE_DONE, started_ago_ms=0, exit_code=0, end=1)
    return job_id, offer.log_stream_name


def write_old(folder: LogFolder, stream: str) -> None:
    """Make a log to which nothing was written for years."""
    path = folder.create(NAMESPACE, stream)
    path.write_bytes(b"line\n")
    folder.mark(NAMESPACE, stream, (5, 1000))
    os.utime(path, (1, 1))


async def test_a_log_goes_after_its_job_although_its_service_was_down_meanwhile(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path / "logs")
    async with control_plane(tmp_path, retention_s=RETENTION_S) as plane:
        job_id, stream = await ended_job(plane, folder)
        await plane.until_gone(job_id)
        assert list(folder.names()) == [(NAMESPACE, stream)]
        async with logs_of(plane, tmp_path / "logs"):
            await eventually(lambda: list(folder.names()) == [])
    assert list(folder.marks(NAMESPACE, stream).offsets) == []


async def test_a_log_stays_as_long_as_its_job_is_kept_however_old_it_is(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path / "logs")
    async with control_plane(tmp_path, retention_s=3600) as plane:
        _, stream = await ended_job(plane, folder)
        orphan = f"definition/default/{'f' * 32}"
        write_old(folder, orphan)
        async with logs_of(plane, tmp_path / "logs"):
            await eventually(lambda: (NAMESPACE, orphan) not in set(folder.names()))
            assert list(folder.names()) == [(NAMESPACE, stream)]


async def test_nothing_is_deleted_while_the_job_store_does_not_answer(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path / "logs")
    orphan = f"definition/default/{'f' * 32}"
    write_old(folder, orphan)
    endpoint = InProcessEndpoint()
    async with InProcessChannel(InProcessServer()) as nobody:
        opening = open_logs(folder=tmp_path / "logs", clock=SystemClock(), job_store=nobody)
        async with opening as services, endpoint.serve(services):
            ingest: LogIngestServiceAsyncStub = LogIngestServiceStub(endpoint.channel)
            request = ingest_pb.FindForgottenLogsRequest()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ingest.FindForgottenLogs(request)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert list(folder.names()) == [(NAMESPACE, orphan)]


async def test_an_agent_is_told_through_the_logs_service_what_it_may_delete(tmp_path: Path) -> None:
    async with control_plane(tmp_path, retention_s=3600) as plane:
        _, stream = await ended_job(plane, LogFolder(tmp_path / "agent"))
        async with logs_of(plane, tmp_path / "logs") as ingest:
            names = [
                ingest_pb.LogName(namespace=NAMESPACE, log_stream_name=name)
                for name in (stream, f"definition/default/{'f' * 32}")
            ]
            answer = await ingest.FindForgottenLogs(ingest_pb.FindForgottenLogsRequest(logs=names))
            assert list(answer.forgotten) == names[1:]
            assert answer.retention_ms == 3600_000


async def test_more_logs_than_a_request_may_name_are_refused(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        stub: LogRetentionServiceAsyncStub = LogRetentionServiceStub(plane.channel)
        with pytest.raises(grpc.aio.AioRpcError, match="Maximum number of logs supported is 1000"):
            await stub.FindOrphanedLogs(pb.FindOrphanedLogsRequest(logs=[pb.LogRef()] * 1001))
