"""The three operations on job definitions, as boto3 users see them."""

from typing import Any

import pytest

from support.aws import Account, pages, refused


def describe(account: Account, **request: Any) -> Any:
    return account.batch.describe_job_definitions(**request)["jobDefinitions"]


def references(definitions: Any) -> list[str]:
    return [f"{definition['jobDefinitionName']}:{definition['revision']}" for definition in definitions]


def test_registers_a_definition_and_returns_every_member(account: Account) -> None:
    properties: Any = {
        "image": "busybox",
        "vcpus": 1,
        "memory": 128,
        "command": ["echo", "Ref::word"],
        "jobRoleArn": "arn:aws:iam::123456789012:role/job",
        "volumes": [{"name": "scratch", "host": {"sourcePath": "/mnt"}}],
        "environment": [{"name": "COLOUR", "value": "green"}],
        "mountPoints": [{"containerPath": "/scratch", "readOnly": False, "sourceVolume": "scratch"}],
        "readonlyRootFilesystem": False,
        "privileged": False,
        "ulimits": [{"name": "nofile", "softLimit": 100, "hardLimit": 200}],
        "user": "nobody",
        "resourceRequirements": [],
        "secrets": [],
    }
    answer = account.batch.register_job_definition(
        jobDefinitionName="full",
        type="container",
        parameters={"word": "hello"},
        containerProperties=properties,
        retryStrategy={"attempts": 2},
        timeout={"attemptDurationSeconds": 60},
    )
    arn = f"arn:aws:batch:us-east-1:{account.access_key}:job-definition/full:1"
    assert (answer["jobDefinitionName"], answer["jobDefinitionArn"], answer["revision"]) == ("full", arn, 1)
    assert describe(account, jobDefinitions=["full:1"]) == [
        {
            "jobDefinitionName": "full",
            "jobDefinitionArn": arn,
            "revision": 1,
            "status": "ACTIVE",
            "type": "container",
            "parameters": {"word": "hello"},
            "containerProperties": properties,
            "retryStrategy": {"attempts": 2, "evaluateOnExit": []},
            "timeout": {"attemptDurationSeconds": 60},
            "tags": {},
            "propagateTags": False,
            "containerOrchestrationType": "ECS",
        }
    ]


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"vcpus": 0}, "vCPU"),
        ({"memory": 3}, "Memory must be at least 4 Mib, got 3 Mib."),
        ({"image": ""}, "ECS Container Image must be provided."),
        ({"environment": [{"name": "AWS_BATCH_X", "value": "1"}]}, "AWS_BATCH"),
        ({"resourceRequirements": [{"type": "VCPU", "value": "1"}]}, "Cannot use both"),
    ],
)
def test_refuses_container_properties_that_make_no_sense(account: Account, properties: Any, message: str) -> None:
    with refused(message):
        account.define(containerProperties=properties)
    assert describe(account) == []


@pytest.mark.parametrize("attempts", [0, 11])
def test_refuses_a_number_of_attempts_outside_one_to_ten(account: Account, attempts: int) -> None:
    with refused("RetryAttempts must be between 1 and 10."):
        account.define(retryStrategy={"attempts": attempts})


def test_every_registration_makes_a_new_revision(account: Account) -> None:
    assert [account.define("same") for _ in range(3)] == ["same:1", "same:2", "same:3"]
    assert references(describe(account, jobDefinitionName="same")) == ["same:3", "same:2", "same:1"]


def test_describes_by_name_revision_status_and_page(account: Account) -> None:
    for name in ("a", "b"):
        account.define(name)
        account.define(name)
    account.batch.deregister_job_definition(jobDefinition="a:1")
    assert references(describe(account, status="ACTIVE")) == ["a:2", "b:2", "b:1"]
    assert references(describe(account, status="INACTIVE")) == ["a:1"]
    assert references(describe(account, jobDefinitions=["b:1", "nothing"])) == ["b:1"]
    seen = list(pages(account.batch.describe_job_definitions, "jobDefinitions", maxResults=3))
    assert [references(page) for page in seen] == [["a:2", "a:1", "b:2"], ["b:1"]]


def test_a_deregistered_revision_takes_no_jobs_and_can_be_deregistered_again(account: Account, queue: str) -> None:
    account.define()
    account.batch.deregister_job_definition(jobDefinition="definition:1")
    account.batch.deregister_job_definition(jobDefinition="definition:1")
    with refused("JobDefinition"):
        account.submit(jobDefinition="definition:1")
    with refused("JobDefinition name definition does not exist or is not in ACTIVE status"):
        account.submit()
    assert account.define() == "definition:2"
    account.submit()


def test_refuses_to_deregister_what_never_existed(account: Account) -> None:
    with refused("nothing:1"):
        account.batch.deregister_job_definition(jobDefinition="nothing:1")
