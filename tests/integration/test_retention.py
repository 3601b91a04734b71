"""What is over goes from a store that is stopped and started, and what is needed stays."""

from pathlib import Path

import pytest

from batchyard.api.jobs.v1.jobs_pb2 import JOB_STATUS_PENDING, JOB_STATUS_RUNNABLE
from batchyard.api.jobs.v1.jobs_service_pb2 import CancelJobRequest
from batchyard.jobstore import expiry
from batchyard.storage.sqlite.database import connect
from support.control_plane import control_plane


async def test_what_is_over_goes_on_going_after_a_restart_and_what_is_needed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "JOBS_A_STEP", 3)
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        waits_for = await plane.submit("waits-for")
        jobs_of_old = [await plane.submit(f"old-{number}") for number in range(20)]
        for job_id in jobs_of_old:
            await plane.jobs.CancelJob(CancelJobRequest(job_id=job_id, reason="enough"))
        waiting = await plane.submit("waiting", dependsOn=[{"jobId": waits_for}])
    connection = connect(tmp_path / "jobs.db")
    try:
        for opening in range(1, 4):
            async with control_plane(tmp_path, retention_s=0.2) as plane:
                await plane.until_gone(jobs_of_old[5 * opening])
        async with control_plane(tmp_path, retention_s=0.2) as plane:
            for job_id in jobs_of_old:
                await plane.until_gone(job_id)
            assert (await plane.job(waits_for)).status == JOB_STATUS_RUNNABLE
            assert (await plane.job(waiting)).status == JOB_STATUS_PENDING
            later = await plane.submit("later")
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (3,)
        assert connection.execute("SELECT count(*) FROM specs").fetchone() == (3,)
        (sequence,) = connection.execute("SELECT sequence FROM jobs WHERE job_id = ?", (later,)).fetchone()
        assert sequence == 23
    finally:
        connection.close()
