"""The three operations on tags, on everything that has them, as boto3 users see them."""

from collections.abc import Callable
from typing import Any

import pytest

from support.aws import Account, refused

EMPTY: Any = {}


def make_environment(account: Account, tags: Any) -> str:
    return account.batch.create_compute_environment(computeEnvironmentName="e", type="UNMANAGED", tags=tags)[
        "computeEnvironmentArn"
    ]


def make_queue(account: Account, tags: Any) -> str:
    order: Any = [{"order": 1, "computeEnvironment": "e"}]
    make_environment(account, {})
    return account.batch.create_job_queue(jobQueueName="q", priority=1, computeEnvironmentOrder=order, tags=tags)[
        "jobQueueArn"
    ]


def make_definition(account: Account, tags: Any) -> str:
    account.define(tags=tags)
    return f"arn:aws:batch:us-east-1:{account.access_key}:job-definition/definition:1"


def make_policy(account: Account, tags: Any) -> str:
    return account.batch.create_scheduling_policy(name="p", tags=tags)["arn"]


def make_job(account: Account, tags: Any) -> str:
    account.make_queue()
    account.define()
    return f"arn:aws:batch:us-east-1:{account.access_key}:job/{account.submit(tags=tags)}"


def described(account: Account, arn: str) -> Any:
    """Return the tags that the resource's own description shows."""
    kind, _, name = arn.rpartition(":")[2].partition("/")
    batch = account.batch
    if ":job-definition/" in arn:
        return batch.describe_job_definitions(jobDefinitions=[arn])["jobDefinitions"][0]["tags"]
    match kind:
        case "compute-environment":
            return batch.describe_compute_environments(computeEnvironments=[name])["computeEnvironments"][0]["tags"]
        case "job-queue":
            return batch.describe_job_queues(jobQueues=[name])["jobQueues"][0]["tags"]
        case "scheduling-policy":
            return batch.describe_scheduling_policies(arns=[arn])["schedulingPolicies"][0]["tags"]
        case _:
            return account.describe(name)["tags"]


every_kind = pytest.mark.parametrize("make", [make_environment, make_queue, make_definition, make_policy, make_job])


@every_kind
def test_tags_are_added_changed_and_taken_away_and_shown_alike_everywhere(
    account: Account, make: Callable[[Account, Any], str]
) -> None:
    arn = make(account, {"kept": "1", "changed": "1", "gone": "1"})

    def tags() -> Any:
        listed = account.batch.list_tags_for_resource(resourceArn=arn)["tags"]
        assert described(account, arn) == listed
        return listed

    assert tags() == {"kept": "1", "changed": "1", "gone": "1"}
    account.batch.tag_resource(resourceArn=arn, tags={"changed": "2", "new": "", "a b/ä+": "&=?"})
    account.batch.untag_resource(resourceArn=arn, tagKeys=["gone", "a b/ä+", "never there"])
    assert tags() == {"kept": "1", "changed": "2", "new": ""}
    account.batch.untag_resource(resourceArn=arn, tagKeys=["kept", "changed", "new"])
    assert tags() == EMPTY


@every_kind
def test_no_more_than_fifty_tags(account: Account, make: Callable[[Account, Any], str]) -> None:
    arn = make(account, {f"k{number}": "" for number in range(49)})
    account.batch.tag_resource(resourceArn=arn, tags={"k0": "changed", "fiftieth": ""})
    with refused("Number of tags must not exceed 50."):
        account.batch.tag_resource(resourceArn=arn, tags={"one more": ""})
    tags = account.batch.list_tags_for_resource(resourceArn=arn)["tags"]
    assert (len(tags), tags["k0"]) == (50, "changed")


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({}, "tags is required."),
        ({"k" * 129: ""}, "Tag keys must have 1 to 128 characters."),
        ({"k": "v" * 257}, "Tag values must not exceed 256 characters."),
        ({"Aws:k": "v"}, "Tag key Aws:k is not valid: the prefix aws: is reserved."),
        ({str(number): "" for number in range(51)}, "Number of tags must not exceed 50."),
    ],
)
def test_refuses_tags_that_cannot_be(account: Account, tags: Any, text: str) -> None:
    arn = make_policy(account, {})
    with refused(text):
        account.batch.tag_resource(resourceArn=arn, tags=tags)
    assert described(account, arn) == EMPTY


def test_refuses_too_many_keys(account: Account) -> None:
    arn = make_policy(account, {})
    with refused("Number of tag keys must not exceed 50."):
        account.batch.untag_resource(resourceArn=arn, tagKeys=[str(number) for number in range(51)])


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:batch:us-east-1:{account}:job-queue/none",
        "arn:aws:batch:us-east-1:{account}:job-definition/definition",
        "arn:aws:batch:us-east-1:{account}:job-definition/definition:2",
        "arn:aws:batch:us-east-1:{account}:job/none",
        "arn:aws:batch:us-east-1:{account}:service-environment/none",
        "arn:aws:batch:us-east-1:123456789012:job-definition/definition:1",
        "arn:aws:ecs:us-east-1:{account}:cluster/none",
        "definition:1",
    ],
)
def test_refuses_what_is_not_there(account: Account, arn: str) -> None:
    account.define()
    arn = arn.format(account=account.access_key)
    for call, members in (
        (account.batch.list_tags_for_resource, {}),
        (account.batch.tag_resource, {"tags": {"a": "b"}}),
        (account.batch.untag_resource, {"tagKeys": ["a"]}),
    ):
        with refused(f"Resource {arn} does not exist"):
            call(resourceArn=arn, **members)


@pytest.mark.parametrize("suffix", [":0", "#1"])
def test_refuses_children_and_nodes(account: Account, suffix: str) -> None:
    arn = f"arn:aws:batch:us-east-1:{account.access_key}:job/1{suffix}"
    for call, members in (
        (account.batch.list_tags_for_resource, {}),
        (account.batch.tag_resource, {"tags": {"a": ""}}),
    ):
        with refused("cannot have tags"):
            call(resourceArn=arn, **members)


def test_each_revision_of_a_definition_has_its_own(account: Account) -> None:
    first = make_definition(account, {"a": "1"})
    account.define(tags={"a": "2"})
    account.batch.tag_resource(resourceArn=first, tags={"b": "1"})
    assert described(account, first) == {"a": "1", "b": "1"}
    assert described(account, first[:-1] + "2") == {"a": "2"}


def test_a_definition_keeps_its_tags_when_it_is_deregistered(account: Account) -> None:
    arn = make_definition(account, {"a": "1"})
    account.batch.deregister_job_definition(jobDefinition="definition:1")
    account.batch.tag_resource(resourceArn=arn, tags={"b": "2"})
    assert described(account, arn) == {"a": "1", "b": "2"}


def test_instance_tags_are_not_the_environments(account: Account) -> None:
    resources: Any = {
        "type": "EC2",
        "minvCpus": 0,
        "maxvCpus": 1,
        "instanceTypes": ["optimal"],
        "subnets": ["s"],
        "securityGroupIds": ["g"],
        "instanceRole": "r",
        "tags": {"Name": "an instance"},
    }
    arn = account.batch.create_compute_environment(
        computeEnvironmentName="managed", type="MANAGED", computeResources=resources
    )["computeEnvironmentArn"]
    assert account.batch.list_tags_for_resource(resourceArn=arn)["tags"] == EMPTY


def test_a_deletion_takes_the_tags_away(account: Account) -> None:
    arn = make_environment(account, {"a": "b"})
    account.batch.update_compute_environment(computeEnvironment="e", state="DISABLED")
    account.batch.delete_compute_environment(computeEnvironment="e")
    with refused(f"Resource {arn} does not exist"):
        account.batch.list_tags_for_resource(resourceArn=arn)
    make_environment(account, {})
    assert account.batch.list_tags_for_resource(resourceArn=arn)["tags"] == EMPTY


def test_the_region_of_the_request_does_not_matter(account: Account) -> None:
    arn = make_policy(account, {"a": "b"})
    assert account.batch.list_tags_for_resource(resourceArn=arn.replace("us-east-1", "eu-west-1"))["tags"] == {"a": "b"}
