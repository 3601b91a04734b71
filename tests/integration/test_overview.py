"""Pictures of many jobs at once: counts, the children of an array, who waits for whom."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from batchyard.api.agent.v1.run_pb2 import RunState
from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.api.jobs.v1.jobs_service_pb2 import CancelJobRequest
from batchyard.api.operations.v1 import overview_service_pb2 as pb
from batchyard.api.operations.v1.overview_service_pb2_grpc import OverviewServiceStub
from batchyard.rpc.clock import SystemClock
from batchyard.storage.sqlite.job_reader import SqliteJobReader
from support.control_plane import ControlPlane, control_plane

if TYPE_CHECKING:
    from batchyard.api.operations.v1.overview_service_pb2_grpc import OverviewServiceAsyncStub


def overview_of(plane: ControlPlane) -> "OverviewServiceAsyncStub":
    return OverviewServiceStub(plane.channel)


async def test_jobs_are_counted_as_they_are_listed_and_by_the_minute_of_their_end(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.make_queue("other")
        await plane.register()
        cancelled = [await plane.submit(), await plane.submit(arrayProperties={"size": 7})]
        await plane.submit(dependsOn=[{"jobId": await plane.submit(jobQueue="other")}])
        for job_id in cancelled:
            await plane.jobs.CancelJob(CancelJobRequest(job_id=job_id, reason="enough"))
        answer = await overview_of(plane).CountJobs(pb.CountJobsRequest())
        assert {counts.job_queue_name: dict(counts.by_status) for counts in answer.queues} == {
            "queue": {"FAILED": 2, "PENDING": 1},
            "other": {"RUNNABLE": 1},
        }
        assert len(answer.minutes) == 60
        assert sum(minute.failed for minute in answer.minutes[-2:]) == 8
        assert sum(minute.succeeded for minute in answer.minutes) == 0


async def test_what_many_ask_for_at_the_same_time_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = SqliteJobReader.counts

    def counts(reader: SqliteJobReader, namespace: str) -> Any:
        asked.append(namespace)
        return real(reader, namespace)

    monkeypatch.setattr(SqliteJobReader, "counts", counts)
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        await plane.submit()
        answers = await asyncio.gather(*(overview_of(plane).CountJobs(pb.CountJobsRequest()) for _ in range(20)))
        assert all(dict(answer.queues[0].by_status) == {"RUNNABLE": 1} for answer in answers)
    assert len(asked) == 1


async def test_the_status_of_each_child_is_told(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        array = await plane.submit(arrayProperties={"size": 5})
        await plane.jobs.CancelJob(CancelJobRequest(job_id=f"{array}:3", reason="enough"))
        answer = await overview_of(plane).DescribeArrayChildren(pb.DescribeArrayChildrenRequest(job_id=array))
        runnable, failed = JobStatus.JOB_STATUS_RUNNABLE, JobStatus.JOB_STATUS_FAILED
        assert list(answer.statuses) == [runnable, runnable, runnable, failed, runnable]


async def test_those_who_wait_for_a_job_are_listed_in_their_order(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        first = await plane.submit(arrayProperties={"size": 2})
        waiting = [
            await plane.submit("whole", dependsOn=[{"jobId": first}]),
            await plane.submit("pairs", dependsOn=[{"jobId": first, "type": "N_TO_N"}], arrayProperties={"size": 2}),
        ]
        stub = overview_of(plane)
        answer = await stub.ListDependents(pb.ListDependentsRequest(job_id=first))
        assert [job.job_id for job in answer.jobs] == waiting
        answer = await stub.ListDependents(pb.ListDependentsRequest(job_id=first, max_results=1))
        assert [job.job_name for job in answer.jobs] == ["whole"]


async def test_what_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        single = await plane.submit()
        stub = overview_of(plane)
        with pytest.raises(grpc.aio.AioRpcError, match=f"Array job {single} does not exist"):
            await stub.DescribeArrayChildren(pb.DescribeArrayChildrenRequest(job_id=single))
        with pytest.raises(grpc.aio.AioRpcError, match="Job nothing does not exist"):
            await stub.ListDependents(pb.ListDependentsRequest(job_id="nothing"))
        with pytest.raises(grpc.aio.AioRpcError, match="maxResults must be 1 to 100, not 101"):
            await stub.ListDependents(pb.ListDependentsRequest(job_id=single, max_results=101))


class _Clock(SystemClock):
    """Goes forward as it is told, beside its own pace."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


HOUR_MS = 3_600_000


async def test_what_jobs_held_is_added_up_by_queue_and_by_tag(tmp_path: Path) -> None:
    clock = _Clock()
    async with control_plane(tmp_path, clock=clock) as plane, plane.scheduler() as scheduler:
        await plane.make_queue()
        await plane.register(vcpus=2, memory=4096)
        await scheduler.register()
        begin = clock.now_ms()
        for tags, hours in (({"team": "vision"}, 3), ({}, 1)):
            await plane.submit(tags=tags)
            (queued,) = (await scheduler.until(lambda seen: seen.runnable)).runnable
            offer = await scheduler.offer(queued)
            await scheduler.report(offer, RunState.RUN_STATE_CLAIMED)
            await scheduler.report(offer, RunState.RUN_STATE_STARTED)
            clock.ahead_ms += hours * HOUR_MS
            await scheduler.report(offer, RunState.RUN_STATE_DONE, exit_code=0)

        async def usage(**members: Any) -> dict[str, tuple[int, float, float]]:
            answer = await overview_of(plane).GetUsage(pb.GetUsageRequest(**members))
            return {
                group.group: (group.attempts, round(group.vcpu_hours, 2), round(group.memory_gib_hours, 2))
                for group in answer.usage
            }

        assert await usage() == {"queue": (2, 8, 16)}
        by_tag = {"grouping": pb.USAGE_GROUPING_TAG, "tag": "team"}
        assert await usage(**by_tag) == {"vision": (1, 6, 12), "": (1, 2, 4)}
        assert await usage(**by_tag, begin=begin + HOUR_MS, end=begin + 2 * HOUR_MS) == {"vision": (1, 2, 4)}
        assert await usage(begin=clock.now_ms() + 1) == {}
        with pytest.raises(grpc.aio.AioRpcError, match="end must not be before begin"):
            await usage(begin=2, end=1)
        with pytest.raises(grpc.aio.AioRpcError, match="goes with USAGE_GROUPING_TAG"):
            await usage(tag="team")
