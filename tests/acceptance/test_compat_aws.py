"""Where today's service and the 2016 document give one request two meanings: the profile `--compat aws`."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from support.aws import Account, refused
from support.installation import Installation, start_up
from support.order import OneSlot
from support.waiting import soon

_accounts: Final = count(400_000_000_001)

EC2: Final[Any] = {
    "type": "EC2",
    "minvCpus": 0,
    "maxvCpus": 16,
    "desiredvCpus": 8,
    "instanceTypes": ["optimal"],
    "subnets": ["subnet-1"],
    "securityGroupIds": ["sg-1"],
    "instanceRole": "ecsInstanceRole",
}
SPOT: Final[Any] = {**EC2, "type": "SPOT"}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    running = start_up(tmp_path_factory.mktemp("aws") / "data", "--compat", "aws")
    yield running
    running.close()


@pytest.fixture
def account(aws: Installation) -> Iterator[Account]:
    fresh = Account(aws.http_url, str(next(_accounts)))
    yield fresh
    fresh.close()


def test_an_environment_must_be_created_enabled(account: Account) -> None:
    with refused("Compute Environment must be created in ENABLED state."):
        account.batch.create_compute_environment(computeEnvironmentName="e", type="UNMANAGED", state="DISABLED")


def test_a_queue_with_a_higher_priority_goes_first(account: Account, tmp_path: Path) -> None:
    slot = OneSlot(account, tmp_path / "gate")
    for name, priority in (("one", 1), ("ten", 10)):
        slot.make_queue(name, priority=priority)
    with slot.occupied(jobQueue="one"):
        first_one, second_one, first_ten, second_ten = (
            account.submit(jobQueue=queue) for queue in ("one", "one", "ten", "ten")
        )
    order = slot.order_of_starts([first_one, second_one, first_ten, second_ten])
    assert order == [first_ten, second_ten, first_one, second_one]


def test_the_wish_for_vcpus_is_not_lowered(account: Account) -> None:
    account.batch.create_compute_environment(computeEnvironmentName="e", type="MANAGED", computeResources=EC2)
    account.batch.update_compute_environment(computeEnvironment="e", computeResources={"desiredvCpus": 9})
    with refused("Manually scaling down compute environment is not supported."):
        account.batch.update_compute_environment(computeEnvironment="e", computeResources={"desiredvCpus": 8})


def test_spot_needs_a_fleet_role_without_a_strategy_too(account: Account) -> None:
    with refused("compute resource spotIamFleetRole is required."):
        account.batch.create_compute_environment(computeEnvironmentName="e", type="MANAGED", computeResources=SPOT)


def test_a_queue_is_deleted_together_with_its_jobs(account: Account) -> None:
    queue = account.make_queue()
    account.define()
    running = account.submit(["sleep", "600"])
    waiting = account.submit(["true"], dependsOn=[{"jobId": running}])
    account.wait(running, "RUNNING")
    with refused("Cannot delete, job queue must be DISABLED"):
        account.batch.delete_job_queue(jobQueue=queue)
    account.batch.update_job_queue(jobQueue=queue, state="DISABLED")
    account.batch.delete_job_queue(jobQueue=queue)
    account.batch.delete_job_queue(jobQueue=queue)
    for job in account.wait_all([running, waiting]).values():
        assert (job["status"], job["statusReason"]) == ("FAILED", "Job queue deleted")
    soon(lambda: not account.batch.describe_job_queues()["jobQueues"], "the end of the queue")
    account.batch.update_compute_environment(computeEnvironment=queue, state="DISABLED")
    account.batch.delete_compute_environment(computeEnvironment=queue)
    account.make_queue()
    account.wait(account.submit(), "SUCCEEDED")


def test_a_queue_without_unfinished_jobs_is_gone_at_once(account: Account) -> None:
    queue = account.make_queue()
    account.define()
    account.wait(account.submit())
    account.batch.update_job_queue(jobQueue=queue, state="DISABLED")
    account.batch.delete_job_queue(jobQueue=queue)
    assert account.batch.describe_job_queues()["jobQueues"] == []
