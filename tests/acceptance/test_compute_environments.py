"""The four operations on compute environments, as boto3 users see them."""

from typing import Any

import pytest

from support.aws import Account, pages, refused

EC2: Any = {
    "type": "EC2",
    "minvCpus": 0,
    "maxvCpus": 16,
    "desiredvCpus": 0,
    "instanceTypes": ["optimal"],
    "subnets": ["subnet-220c0e0a"],
    "securityGroupIds": ["sg-cf5093b2"],
    "ec2KeyPair": "id_rsa",
    "instanceRole": "ecsInstanceRole",
    "tags": {"Name": "an instance"},
}


def make_managed(account: Account, name: str = "managed", **resources: Any) -> str:
    merged: Any = {**EC2, **resources}
    answer = account.batch.create_compute_environment(
        computeEnvironmentName=name,
        type="MANAGED",
        computeResources=merged,
        serviceRole="arn:aws:iam::123456789012:role/AWSBatchServiceRole",
    )
    return answer["computeEnvironmentArn"]


def describe(account: Account, *references: str) -> Any:
    return account.batch.describe_compute_environments(computeEnvironments=references)["computeEnvironments"]


def test_creates_a_managed_environment_and_returns_every_member(account: Account) -> None:
    arn = make_managed(account)
    assert arn == f"arn:aws:batch:us-east-1:{account.access_key}:compute-environment/managed"
    (environment,) = describe(account, "managed")
    cluster = f"arn:aws:ecs:us-east-1:{account.access_key}:cluster/managed_Batch_"
    assert environment.pop("ecsClusterArn") == cluster + environment.pop("uuid")
    assert environment == {
        "computeEnvironmentName": "managed",
        "computeEnvironmentArn": arn,
        "type": "MANAGED",
        "state": "ENABLED",
        "status": "VALID",
        "statusReason": "ComputeEnvironment Healthy",
        "computeResources": EC2,
        "serviceRole": "arn:aws:iam::123456789012:role/AWSBatchServiceRole",
        "tags": {},
        "containerOrchestrationType": "ECS",
    }


def test_creates_an_unmanaged_environment_without_resources(account: Account) -> None:
    account.batch.create_compute_environment(computeEnvironmentName="own", type="UNMANAGED", state="DISABLED")
    (environment,) = describe(account, "own")
    assert environment["state"] == "DISABLED"
    assert "computeResources" not in environment
    assert environment["serviceRole"].endswith("/AWSServiceRoleForBatch")


def test_refuses_a_second_environment_of_the_same_name(account: Account) -> None:
    make_managed(account)
    with refused("Object already exists"):
        make_managed(account)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"minvCpus": -1}, "minvCpus should be greater than or equal to 0."),
        ({"minvCpus": 32, "desiredvCpus": 32}, "maxvCpus should be greater than or equal to minvCpus."),
        ({"desiredvCpus": 17}, "desiredvCpus should be between minvCpus and maxvCpus."),
        ({"bidPercentage": 101}, "Bid percentage must be between 0 to 100."),
        ({"instanceTypes": []}, "Resource instanceTypes are required."),
    ],
)
def test_refuses_resources_that_make_no_sense(account: Account, resources: Any, message: str) -> None:
    with refused(message):
        make_managed(account, **resources)
    assert describe(account) == []


def test_refuses_a_managed_environment_without_resources(account: Account) -> None:
    with refused("computeResources is required."):
        account.batch.create_compute_environment(computeEnvironmentName="managed", type="MANAGED")


def test_describes_by_name_and_arn_and_leaves_out_what_is_unknown(account: Account) -> None:
    arn = make_managed(account, "first")
    make_managed(account, "second")
    found = describe(account, arn, "unknown", "second")
    assert {environment["computeEnvironmentName"] for environment in found} == {"first", "second"}


def test_describes_all_environments_page_by_page(account: Account) -> None:
    names = {make_managed(account, f"environment-{number}").rpartition("/")[2] for number in range(5)}
    seen = list(pages(account.batch.describe_compute_environments, "computeEnvironments", maxResults=2))
    assert [len(page) for page in seen] == [2, 2, 1]
    assert {environment["computeEnvironmentName"] for page in seen for environment in page} == names


def test_an_update_changes_only_the_members_that_are_sent(account: Account) -> None:
    make_managed(account)
    account.batch.update_compute_environment(computeEnvironment="managed", computeResources={"maxvCpus": 64})
    account.batch.update_compute_environment(computeEnvironment="managed", state="DISABLED")
    (environment,) = describe(account, "managed")
    assert environment["computeResources"] == {**EC2, "maxvCpus": 64}
    assert environment["state"] == "DISABLED"


def test_refuses_to_update_an_unknown_environment(account: Account) -> None:
    with refused("compute-environment/nothing does not exist"):
        account.batch.update_compute_environment(computeEnvironment="nothing", state="DISABLED")


def test_deletes_an_environment_only_when_disabled_and_in_no_queue(account: Account) -> None:
    account.make_queue("used")
    with refused("Cannot delete, compute environment must be DISABLED"):
        account.batch.delete_compute_environment(computeEnvironment="used")
    account.batch.update_compute_environment(computeEnvironment="used", state="DISABLED")
    with refused("Cannot delete, found existing JobQueue relationship"):
        account.batch.delete_compute_environment(computeEnvironment="used")
    account.batch.update_job_queue(jobQueue="used", state="DISABLED")
    account.batch.delete_job_queue(jobQueue="used")
    account.batch.delete_compute_environment(computeEnvironment="used")
    assert describe(account) == []


def test_deleting_an_unknown_environment_succeeds(account: Account) -> None:
    account.batch.delete_compute_environment(computeEnvironment="nothing")


def test_a_name_is_free_again_after_a_delete(account: Account) -> None:
    make_managed(account)
    account.batch.update_compute_environment(computeEnvironment="managed", state="DISABLED")
    account.batch.delete_compute_environment(computeEnvironment="managed")
    make_managed(account)


def test_other_accounts_do_not_see_it(account: Account, queue: str) -> None:
    stranger = Account(account.batch.meta.endpoint_url, "999999999999")
    try:
        assert describe(stranger, queue) == []
    finally:
        stranger.close()
