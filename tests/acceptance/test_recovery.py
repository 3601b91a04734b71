"""A thousand queued jobs and four running ones outlive the death of everything but the launcher and the jobs."""

import os
import signal
import time
from pathlib import Path

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account
from support.installation import start_up

QUEUED = 1000
RUNNING = 4
EXIT_CODES = (0, 3)


def test_queued_and_running_jobs_are_taken_up_after_everything_was_killed(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = start_up(tmp_path / "data", "--capacity", f"vcpus={RUNNING},memory=16GiB")
    account = Account(first.http_url, DEFAULT_NAMESPACE)
    try:
        account.make_queue()
        wait_at_gate = f"while [ ! -e {gate} ]; do sleep 0.05; done; exit "
        account.define("held")
        running = [
            account.submit(["sh", "-c", wait_at_gate + str(EXIT_CODES[number % 2])], jobDefinition="held")
            for number in range(RUNNING)
        ]
        started = {job_id: account.wait(job_id, "RUNNING")["startedAt"] for job_id in running}
        account.define("queued")
        queued = [account.submit(jobDefinition="queued") for _ in range(QUEUED)]
    finally:
        account.close()
        up = first.processes["up"].pid
        # The agent first: it must not learn that its parent is gone, and end the jobs as it is told here.
        for pid in [*Path(f"/proc/{up}/task/{up}/children").read_text().split(), str(up)]:
            os.kill(int(pid), signal.SIGKILL)
        first.close()

    began = time.monotonic()
    second = start_up(tmp_path / "data", "--capacity", f"vcpus={RUNNING},memory=16GiB")
    print(f"ready {time.monotonic() - began:.2f} s after the start, with {QUEUED} queued and {RUNNING} running jobs")
    account = Account(second.http_url, DEFAULT_NAMESPACE)
    try:
        for job_id in running:
            job = account.describe(job_id)
            assert (job["status"], job["startedAt"]) == ("RUNNING", started[job_id])
        gate.touch()
        ended = account.wait_all([*running, *queued])
    finally:
        account.close()
        second.close()
    assert {job_id: ended[job_id]["startedAt"] for job_id in running} == started
    assert [ended[job_id]["container"]["exitCode"] for job_id in running] == [
        EXIT_CODES[number % 2] for number in range(RUNNING)
    ]
    assert all(len(ended[job_id]["attempts"]) == 1 for job_id in running)
    assert {ended[job_id]["status"] for job_id in queued} == {"SUCCEEDED"}
