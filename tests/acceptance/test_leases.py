"""Leases of compute environments: a silent agent is given up by that of its own, and not by the usual one."""

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account, refused
from support.installation import start_six

LEASE_S = 30
USUAL_S = 600


@pytest.mark.parametrize("seconds", ["29", "3601", "a minute"])
def test_a_lease_that_cannot_be_is_refused(account: Account, seconds: str) -> None:
    tags = {"batchyard:lease-seconds": seconds}
    said = f"Tag batchyard:lease-seconds must be a whole number of seconds from 30 to 3600, not {seconds!r}."
    with refused(said):
        account.batch.create_compute_environment(computeEnvironmentName="e", type="UNMANAGED", tags=tags)
    made = account.batch.create_compute_environment(computeEnvironmentName="e", type="UNMANAGED")
    with refused(said):
        account.batch.tag_resource(resourceArn=made["computeEnvironmentArn"], tags=tags)


def test_jobs_of_a_stopped_agent_are_lost_after_the_lease_of_its_environment(tmp_path: Path) -> None:
    with (
        closing(
            start_six(tmp_path / "data", agent=["--compute-environment", "spotty"], scheduler=["--kill-budget", "1"])
        ) as six,
        closing(Account(six.http_url, DEFAULT_NAMESPACE)) as account,
    ):
        tags = {"batchyard:lease-seconds": str(LEASE_S)}
        account.batch.create_compute_environment(computeEnvironmentName="spotty", type="UNMANAGED", tags=tags)
        order = [{"order": 1, "computeEnvironment": "spotty"}]
        account.batch.create_job_queue(jobQueueName="queue", priority=1, computeEnvironmentOrder=order)  # type: ignore[arg-type]
        account.define()
        job_id = account.submit(["sleep", "600"])
        account.wait(job_id, "RUNNING")
        agent = six.processes["agent"].pid
        stopped_at = time.monotonic()
        os.kill(agent, signal.SIGSTOP)
        try:
            job = account.wait(job_id, "FAILED")
        finally:
            os.kill(agent, signal.SIGCONT)
        silent_s = time.monotonic() - stopped_at
        assert job["statusReason"].startswith("Host EC2 (instance ")
        # It was last heard up to a heartbeat before it was stopped, which its clock may think longer.
        assert LEASE_S - 10 < silent_s < USUAL_S / 2
