"""One slot, and who gets it: an account in which one job runs at a time, as boto3 users would make it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from support.aws import Account

_COMPUTE: Final[Any] = {
    "type": "EC2",
    "minvCpus": 0,
    "maxvCpus": 1,
    "instanceTypes": ["optimal"],
    "subnets": ["subnet-1"],
    "securityGroupIds": ["sg-1"],
    "instanceRole": "ecsInstanceRole",
}


class OneSlot:
    """A compute environment with room for one job of one vCPU, and queues over it."""

    def __init__(self, account: Account, gate: Path) -> None:
        self._account = account
        self._gate = gate
        account.batch.create_compute_environment(
            computeEnvironmentName="slot", type="MANAGED", computeResources=_COMPUTE
        )
        account.define()

    def make_queue(self, name: str, *, priority: int = 1, policy: Any = None) -> str:
        """Create a queue; with a policy, one with fair share."""
        members: Any = {}
        if policy is not None:
            created = self._account.batch.create_scheduling_policy(name=name, fairsharePolicy=policy)
            members["schedulingPolicyArn"] = created["arn"]
        self._account.batch.create_job_queue(
            jobQueueName=name,
            priority=priority,
            computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "slot"}],
            **members,
        )
        return name

    @contextmanager
    def occupied(self, **members: Any) -> Iterator[None]:
        """Have the slot taken, for as long as the context lasts, by a job with these members of SubmitJob."""
        self._gate.unlink(missing_ok=True)
        wait = f"while [ ! -e {self._gate} ]; do sleep 0.02; done"
        holder = self._account.submit(["sh", "-c", wait], jobName="holder", **members)
        self._account.wait(holder, "RUNNING")
        try:
            yield
        finally:
            self._gate.touch()

    def front(self, queue: str) -> list[str]:
        """Return the ids of the jobs at the front of a queue."""
        front = self._account.batch.get_job_queue_snapshot(jobQueue=queue)["frontOfQueue"]["jobs"]
        return [job["jobArn"].rpartition("/")[2] for job in front]

    def order_of_starts(self, job_ids: Sequence[str]) -> list[str]:
        """Wait for the end of jobs; return their ids in the order in which they were started."""
        jobs = self._account.wait_all(job_ids)
        return sorted(job_ids, key=lambda job_id: (jobs[job_id]["startedAt"], jobs[job_id]["stoppedAt"]))
