"""A job that has waited for too long for a reason that its queue names, end to end, on a clock that is set by hand."""

import asyncio
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict

from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.api.registry.v1 import registry_service_pb2 as registry
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.jobstore import timelimits
from batchyard.rpc.clock import SystemClock
from support.contexts import held_open
from support.control_plane import control_plane

CODE = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"


class LateClock(SystemClock):
    """The system's clock, and some."""

    late_s = 0.0

    def now_ms(self) -> int:
        return super().now_ms() + int(self.late_s * 1000)

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.late_s


async def test_a_job_is_cancelled_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelimits, "CHECK_EVERY_S", 0.02)
    clock = LateClock()
    async with (
        asyncio.timeout(60),
        held_open(control_plane(tmp_path, clock=clock)) as plane,
        plane.scheduler() as scheduler,
    ):
        await plane.make_queue()
        await plane.register()
        action = {"reason": CODE, "state": "RUNNABLE", "maxTimeSeconds": 600, "action": "CANCEL"}
        update = {"jobQueue": "queue", "jobStateTimeLimitActions": [action]}
        await plane.registry.UpdateJobQueue(ParseDict(update, registry.UpdateJobQueueRequest()))
        job_id = await plane.submit()
        (queued,) = (await scheduler.until(lambda seen: seen.runnable)).runnable
        reason = wire.WaitReason(
            namespace=queued.job.namespace,
            job_queue="queue",
            vcpus_milli=queued.vcpus_milli,
            memory_mib=queued.memory_mib,
            reason=f"{CODE} - too much.",
        )
        await scheduler.send(wait_reasons=[reason])
        while (await plane.job(job_id)).status_reason != f"{CODE} - too much.":
            pass
        assert (await plane.job(job_id)).status == JobStatus.JOB_STATUS_RUNNABLE
        clock.late_s = 600
        await scheduler.until(lambda seen: seen.withdrawn)
        job = await plane.job(job_id)
        assert job.status == JobStatus.JOB_STATUS_FAILED
        assert job.status_reason == f"Canceled by JobStateTimeLimit action due to reason: {CODE}"
        assert not job.HasField("started_at")
