from typing import Any

import pytest

from batchyard.api.common.v1.container_pb2 import (
    Host,
    JobTimeout,
    KeyValuePair,
    MountPoint,
    RetryStrategy,
    Ulimit,
    Volume,
)
from batchyard.api.registry.v1.registry_service_pb2 import RegisterJobDefinitionRequest
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.names import Caller
from batchyard.registry.definition_rules import check_definition, deregistered_definition, new_definition
from support.registry import a_container, a_definition


def test_a_revision_is_active_and_holds_what_was_registered() -> None:
    container = a_container(
        command=["echo", "Ref::word"],
        volumes=[Volume(name="scratch", host=Host(source_path="/mnt")), Volume(name="fresh")],
        mount_points=[MountPoint(container_path="/scratch", source_volume="scratch")],
        environment=[KeyValuePair(name="COLOUR", value="green")],
        ulimits=[Ulimit(name="nofile", soft_limit=1, hard_limit=2)],
        user="nobody:1000",
    )
    request = a_definition(
        "full",
        container_properties=container,
        parameters={"word": "hello"},
        retry_strategy=RetryStrategy(attempts=3),
        timeout=JobTimeout(attempt_duration_seconds=60),
        tags={"team": "blue"},
    )
    check_definition(request)
    definition = new_definition(request, Caller("1" * 12, "eu-west-1"), 7)
    assert definition.job_definition_arn == "arn:aws:batch:eu-west-1:111111111111:job-definition/full:7"
    assert (definition.revision, definition.status, definition.type) == (7, "ACTIVE", "container")
    assert definition.container_properties == container
    assert definition.parameters == {"word": "hello"}
    assert definition.retry_strategy.attempts == 3
    assert definition.timeout.attempt_duration_seconds == 60
    assert definition.tags == {"team": "blue"}


def test_what_was_not_registered_is_not_there() -> None:
    definition = new_definition(a_definition(), Caller(), 1)
    assert not definition.HasField("retry_strategy")
    assert not definition.HasField("timeout")
    assert not definition.container_properties.HasField("user")


def test_deregistration_changes_only_the_status() -> None:
    active = new_definition(a_definition(), Caller(), 1)
    inactive = deregistered_definition(active)
    assert (active.status, inactive.status) == ("ACTIVE", "INACTIVE")
    inactive.status = "ACTIVE"
    assert inactive == active


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (a_definition(""), "Job Definition name should match a valid pattern."),
        (a_definition("a:1"), "Job Definition name should match a valid pattern."),
        (
            a_definition(type="script"),
            "Job definition type script is not valid. Valid types: [container, multinode]",
        ),
        (a_definition(type="multinode"), "Node properties of multinode job is required."),
        (a_definition(container_properties=None), "ECS Container Image must be provided."),
        (a_definition(retry_strategy=RetryStrategy()), "RetryAttempts must be provided with retry strategy."),
        (a_definition(retry_strategy=RetryStrategy(attempts=0)), "RetryAttempts must be between 1 and 10."),
        (a_definition(retry_strategy=RetryStrategy(attempts=11)), "RetryAttempts must be between 1 and 10."),
        (
            a_definition(timeout=JobTimeout(attempt_duration_seconds=59)),
            "AttemptDurationSeconds in Timeout must be at least 60 seconds.",
        ),
        (a_definition(tags={"": ""}), "Tag keys must have 1 to 128 characters."),
        (
            a_definition(parameters={"long": "x" * 24 * 1024}),
            "Job definition size must be less than 24 KiB, got 25 KiB",
        ),
    ],
)
def test_members_that_cannot_be_are_refused(request_: RegisterJobDefinitionRequest, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_definition(request_)
    assert caught.value.message == message


ULIMITS = (
    "core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack"
)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"image": None}, "ECS Container Image must be provided."),
        ({"image": ""}, "ECS Container Image must be provided."),
        ({"vcpus": None}, "vCPU is required."),
        ({"memory": None}, "Memory is required."),
        ({"memory": 3}, "Memory must be at least 4 Mib, got 3 Mib."),
        ({"environment": [KeyValuePair(value="x")]}, "Environment variable name is required."),
        ({"environment": [KeyValuePair(name="AWS_BATCH_X")]}, "Environment variable cannot start with AWS_BATCH"),
        ({"volumes": [Volume()]}, "Volume name should match a valid pattern."),
        ({"volumes": [Volume(name="a/b")]}, "Volume name should match a valid pattern."),
        ({"volumes": [Volume(name="a"), Volume(name="a")]}, "Duplicate volume names."),
        ({"mount_points": [MountPoint(source_volume="a")]}, "containerPath is required."),
        (
            {"mount_points": [MountPoint(source_volume="a", container_path="/a")]},
            "Source volume a of a mount point is not among the volumes.",
        ),
        (
            {"ulimits": [Ulimit(name="files", soft_limit=1, hard_limit=1)]},
            f"Ulimit name files is not valid. Valid names: [{ULIMITS}]",
        ),
        (
            {"ulimits": [Ulimit(name="nofile", soft_limit=2, hard_limit=1)]},
            "Ulimit softLimit must be between 0 and hardLimit.",
        ),
        (
            {"ulimits": [Ulimit(name="nofile", soft_limit=-1, hard_limit=1)]},
            "Ulimit softLimit must be between 0 and hardLimit.",
        ),
        ({"user": "Root!"}, "User 'Root!' does not match regex"),
        ({"user": "a:b:c"}, "User 'a:b:c' does not match regex"),
    ],
)
def test_container_properties_that_cannot_be_are_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_definition(a_definition(container_properties=a_container(**members)))
    assert caught.value.message == message


@pytest.mark.parametrize(
    "members",
    [
        {"user": "1000"},
        {"user": "1000:1000"},
        {"user": "_www:daemon"},
        {"ulimits": [Ulimit(name="memlock", soft_limit=-1, hard_limit=-1)]},
        {"ulimits": [Ulimit(name="core", soft_limit=0, hard_limit=-1)]},
        {"image": "registry.example:5000/a/b@sha256:0123"},
    ],
)
def test_unusual_container_properties_are_accepted(members: dict[str, Any]) -> None:
    check_definition(a_definition(container_properties=a_container(**members)))
