import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given
from hypothesis import strategies as st

from batchyard.api.agent.v1.run_pb2 import JobSpec
from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest
from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.domain.compat import Compat
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.jobs import JobId, JobKey
from batchyard.domain.names import Caller
from batchyard.jobstore.submission import check_request, frame_of, substitute
from batchyard.storage.jobs import QueueCopy
from support.jobs import QUEUE

CALLER = Caller()


def a_request(**members: object) -> SubmitJobRequest:
    named = {"jobName": "job", "jobQueue": "queue", "jobDefinition": "definition", **members}
    return ParseDict(named, SubmitJobRequest())


def a_definition(container: Mapping[str, object] | None = None, **members: object) -> JobDefinition:
    described = {
        "jobDefinitionName": "definition",
        "jobDefinitionArn": "arn:aws:batch:us-east-1:123456789012:job-definition/definition:3",
        "containerProperties": {"image": "busybox", "vcpus": 1, "memory": 128, **(container or {})},
        **members,
    }
    return ParseDict(described, JobDefinition())


def spec_of(
    request: SubmitJobRequest, definition: JobDefinition, compat: Compat = Compat.SEED, queue: QueueCopy = QUEUE
) -> JobSpec:
    frame = frame_of(request, caller=CALLER, queue=queue, definition=definition, compat=compat)
    depends_on = [JobKey(CALLER.namespace, JobId(entry.job_id)) for entry in request.depends_on]
    submission = frame.submission(request, job_id=JobId("id"), depends_on=depends_on)
    return JobSpec.FromString(submission.spec)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"jobName": "a.b"}, "Job name should match valid pattern"),
        ({"jobName": "_a"}, "Job name should match valid pattern"),
        ({"jobName": "a" * 129}, "Job name should match valid pattern"),
        ({"dependsOn": [{"jobId": "x"}] * 101}, "Number of job dependencies must not exceed 100"),
        ({"dependsOn": [{}]}, "jobId is required."),
        ({"dependsOn": [{"jobId": "x", "type": "N_TO_N"}]}, "N_TO_N dependency requires array jobs of the same size"),
        ({"dependsOn": [{"type": "SEQUENTIAL"}]}, "jobId is required."),
        ({"dependsOn": [{"jobId": "x", "type": "ANY"}]}, "Dependency type ANY is not valid."),
        ({"arrayProperties": {"size": 2}, "dependsOn": [{"type": "N_TO_N"}]}, "jobId is required."),
        ({"containerOverrides": {"command": ["a", ""]}}, "Command cannot be empty"),
        ({"containerOverrides": {"environment": [{"value": "x"}]}}, "Environment variable name is required."),
        ({"containerOverrides": {"environment": [{"name": "AWS_BATCH_X"}]}}, "cannot start with AWS_BATCH"),
        (
            {"containerOverrides": {"vcpus": 1, "resourceRequirements": [{"type": "VCPU", "value": "1"}]}},
            "Cannot use both ECS containerProperties vcpus and resourceRequirement VCPU.",
        ),
        ({"arrayProperties": {"size": 1}}, "Array size must be between 2 and 10000"),
        ({"arrayProperties": {"size": 10_001}}, "Array size must be between 2 and 10000"),
        ({"jobQueue": "a.b"}, "Provided name a.b is not supported pattern[a-zA-Z_0-9-]{1,128}"),
        ({"jobDefinition": "a:latest"}, "Provided name a:latest is not supported pattern[a-zA-Z_0-9-]{1,128}"),
        ({"shareIdentifier": "a.b"}, "ShareIdentifier name should match a valid pattern."),
        ({"shareIdentifier": ""}, "ShareIdentifier name should match a valid pattern."),
        ({"shareIdentifier": "a" * 256}, "ShareIdentifier name should match a valid pattern."),
        ({"schedulingPriorityOverride": -1}, "Scheduling priority must be between 0 and 9999."),
        ({"schedulingPriorityOverride": 10_000}, "Scheduling priority must be between 0 and 9999."),
        ({"nodeOverrides": {}}, "nodeOverrides is for multi-node parallel jobs"),
        ({"ecsPropertiesOverride": {}}, "ecsPropertiesOverride is for jobs of several containers"),
        ({"eksPropertiesOverride": {}}, "eksPropertiesOverride is for jobs on Kubernetes"),
        (
            {"consumableResourcePropertiesOverride": {"consumableResourceList": [{"consumableResource": "a"}]}},
            "Consumable resources are not supported",
        ),
        ({"containerOverrides": {"instanceType": "m5.large"}}, "instanceType is for multi-node parallel jobs"),
        ({"retryStrategy": {"attempts": 11}}, "RetryAttempts must be between 1 and 10."),
        ({"retryStrategy": {}}, "RetryAttempts must be provided with retry strategy."),
        ({"timeout": {"attemptDurationSeconds": 59}}, "must be at least 60 seconds."),
        ({"parameters": {"a": "x" * 40_000}}, "Job size must be less than 30 KiB, got 40 KiB"),
        ({"tags": {str(number): "" for number in range(51)}}, "tags"),
    ],
)
def test_a_request_that_can_never_succeed_is_refused_in_aws_words(members: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        check_request(a_request(**members))
    assert text in error.value.message


def test_a_plain_request_passes() -> None:
    check_request(a_request(retryStrategy={"attempts": 10}, timeout={"attemptDurationSeconds": 60}))


def test_parameters_of_the_submission_win_over_those_of_the_definition() -> None:
    spec = spec_of(
        a_request(parameters={"b": "theirs"}),
        a_definition({"command": ["Ref::a", "Ref::b"]}, parameters={"a": "ours", "b": "ours"}),
    )
    assert list(spec.container.command) == ["ours", "theirs"]
    assert dict(spec.parameters) == {"a": "ours", "b": "theirs"}


def test_a_placeholder_without_a_value_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="No parameter found for reference missing"):
        spec_of(a_request(), a_definition({"command": ["Ref::missing"]}))


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("s3://b/Ref::key", "s3://b/value"),
        ("Ref::key:Ref::key", "value:value"),
        ("Ref::keys", "several"),
        ("Ref::empty", ""),
        ("Ref::nested", "Ref::key"),
        ("Ref::", "Ref::"),
    ],
)
def test_placeholders_take_the_longest_name_and_values_are_not_searched_again(element: str, expected: str) -> None:
    parameters = {"key": "value", "keys": "several", "empty": "", "nested": "Ref::key"}
    assert substitute([element], parameters) == [expected]


@given(st.lists(st.text()), st.dictionaries(st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True), st.text()))
def test_a_command_without_placeholders_stays_as_it_is(command: list[str], parameters: dict[str, str]) -> None:
    plain = [element for element in command if "Ref::" not in element]
    assert substitute(plain, parameters) == plain


@pytest.mark.parametrize("command", [["Ref::a," * 100] * 10, ["Ref::a"] * 20], ids=["in one element", "in many"])
def test_a_parameter_that_stands_too_often_in_the_command_is_refused(command: list[str]) -> None:
    request = a_request(parameters={"a": "x" * 8000}, containerOverrides={"command": command})
    with pytest.raises(InvalidRequestError, match="Job size must be less than 128 KiB"):
        spec_of(request, a_definition())


def test_a_job_that_is_too_large_with_its_definition_is_refused() -> None:
    definition = a_definition({"environment": [{"name": "A", "value": "x" * 70_000}]})
    request = a_request(containerOverrides={"command": ["x" * 70_000]})
    with pytest.raises(InvalidRequestError, match="Job size must be less than 128 KiB"):
        spec_of(request, definition)


def test_overrides_replace_the_command_and_merge_the_environment_by_name() -> None:
    spec = spec_of(
        a_request(containerOverrides={"command": ["new"], "environment": [{"name": "B", "value": "2"}, {"name": "C"}]}),
        a_definition({"command": ["old"], "environment": [{"name": "B", "value": "1"}, {"name": "A", "value": "1"}]}),
    )
    assert list(spec.container.command) == ["new"]
    assert [(entry.name, entry.value) for entry in spec.container.environment] == [("B", "2"), ("A", "1"), ("C", "")]


NEW_FORM = {
    "vcpus": None,
    "memory": None,
    "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "64"}],
}


@pytest.mark.parametrize(
    ("container", "overrides", "reserved"),
    [
        ({}, {}, (1000, 128, 0)),
        ({}, {"vcpus": 2, "memory": 256}, (2000, 256, 0)),
        ({}, {"resourceRequirements": [{"type": "VCPU", "value": "0.5"}]}, (500, 128, 0)),
        ({}, {"resourceRequirements": [{"type": "GPU", "value": "2"}]}, (1000, 128, 2)),
        (NEW_FORM, {"resourceRequirements": [{"type": "MEMORY", "value": "32"}]}, (1000, 32, 0)),
        (NEW_FORM, {"vcpus": 4}, (4000, 64, 0)),
    ],
)
def test_either_form_of_resources_overrides_either_form(
    container: dict[str, object], overrides: dict[str, object], reserved: tuple[int, int, int]
) -> None:
    spec = spec_of(a_request(containerOverrides=overrides), a_definition(container))
    assert (spec.vcpus_milli, spec.memory_mib, spec.gpus) == reserved


def test_the_aws_profile_ignores_the_older_members_over_the_newer_ones() -> None:
    spec = spec_of(a_request(containerOverrides={"vcpus": 4}), a_definition(NEW_FORM), Compat.AWS)
    assert spec.vcpus_milli == 1000


def submit(request: SubmitJobRequest) -> None:
    """Do with a request what the service does, without a store."""
    check_request(request)
    spec_of(request, a_definition())


FAIR_QUEUE = replace(QUEUE, fair_share=True)
NO_SHARE = "shareIdentifier must be specified."
NO_PRIORITY = "Either schedulingPriority in job definition or schedulingPriorityOverride is required."
NOT_FAIR = (
    "Job with shareIdentifier or schedulingPriority can only be submitted to job queue with fair share scheduling "
    "policy."
)


@pytest.mark.parametrize(
    ("queue", "definition", "members", "text"),
    [
        (QUEUE, {}, {"shareIdentifier": "a"}, NOT_FAIR),
        (QUEUE, {}, {"schedulingPriorityOverride": 0}, NOT_FAIR),
        (FAIR_QUEUE, {}, {}, f"{NO_SHARE} {NO_PRIORITY}"),
        (FAIR_QUEUE, {"schedulingPriority": 0}, {}, NO_SHARE),
        (FAIR_QUEUE, {}, {"schedulingPriorityOverride": 0}, NO_SHARE),
        (FAIR_QUEUE, {}, {"shareIdentifier": "a"}, NO_PRIORITY),
    ],
)
def test_share_and_priority_are_needed_in_a_fair_queue_and_refused_in_others(
    queue: QueueCopy, definition: dict[str, object], members: dict[str, object], text: str
) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        spec_of(a_request(**members), a_definition({}, **definition), queue=queue)
    assert refusal.value.message == text


@pytest.mark.parametrize(
    ("definition", "members", "priority"),
    [
        ({"schedulingPriority": 7}, {}, 7),
        ({"schedulingPriority": 7}, {"schedulingPriorityOverride": 0}, 0),
        ({}, {"schedulingPriorityOverride": 9999}, 9999),
    ],
)
def test_the_priority_of_the_submission_stands_above_that_of_the_definition(
    definition: dict[str, object], members: dict[str, object], priority: int
) -> None:
    spec = spec_of(a_request(shareIdentifier="s-1_*", **members), a_definition({}, **definition), queue=FAIR_QUEUE)
    assert (spec.share_identifier, spec.scheduling_priority) == ("s-1_*", priority)


def test_the_priority_of_a_definition_says_nothing_in_a_queue_without_shares() -> None:
    assert not spec_of(a_request(), a_definition(schedulingPriority=7)).HasField("scheduling_priority")


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ({"type": "multinode"}, "is of type multinode"),
        ({"ecsProperties": {"taskProperties": [{"containers": [{"image": "busybox"}]}]}}, "has ecsProperties"),
        (
            {"consumableResourceProperties": {"consumableResourceList": [{"consumableResource": "r", "quantity": 1}]}},
            "has consumableResourceProperties",
        ),
    ],
)
def test_a_definition_that_cannot_run_yet_is_refused_by_name(members: Mapping[str, object], what: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"job-definition/definition:3 {what}.*not supported by this server"):
        spec_of(a_request(), a_definition(None, **members))


@pytest.mark.parametrize(("given", "shown"), [(None, True), (True, True), (False, False)])
def test_whether_tags_are_propagated_is_the_definitions_unless_the_submission_says(
    given: bool | None, shown: bool
) -> None:
    request = a_request() if given is None else a_request(propagateTags=given)
    assert spec_of(request, a_definition(propagateTags=True)).propagate_tags is shown


def test_every_member_of_a_definitions_container_goes_into_the_job() -> None:
    container = {
        "executionRoleArn": "arn:aws:iam::123456789012:role/pull",
        "linuxParameters": {"sharedMemorySize": 64, "devices": [{"hostPath": "/dev/null"}]},
        "logConfiguration": {"logDriver": "json-file", "options": {"max-size": "1m"}},
        "secrets": [{"name": "S", "valueFrom": "arn:aws:ssm:us-east-1:123456789012:parameter/s"}],
    }
    spec = spec_of(a_request(), a_definition(container, platformCapabilities=["EC2"]))
    shown = MessageToDict(spec.container)
    assert {name: shown[name] for name in container} == container
    assert list(spec.platform_capabilities) == ["EC2"]


def test_a_fargate_queue_runs_fargate_definitions_only() -> None:
    fargate_queue = replace(QUEUE, fargate=True)
    with pytest.raises(InvalidRequestError) as refusal:
        spec_of(a_request(), a_definition(), queue=fargate_queue)
    text = "Job Queue is attached to Compute Environment that can not run Jobs with capability EC2."
    assert refusal.value.message == text
    spec = spec_of(a_request(), a_definition(platformCapabilities=["FARGATE"]), queue=fargate_queue)
    assert list(spec.platform_capabilities) == ["FARGATE"]


@pytest.mark.parametrize("member", ["vcpus", "memory"])
def test_the_older_overrides_are_not_for_fargate(member: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        spec_of(a_request(containerOverrides={member: 8}), a_definition(platformCapabilities=["FARGATE"]))
    assert refusal.value.message == f"{member} is not applicable for Fargate. Use resource requirements instead."


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"vcpus": 0}, "vCPU must be at least 1, got 0."),
        ({"vcpus": -2}, "vCPU must be at least 1, got -2."),
        ({"memory": 0}, "Memory must be at least 4 Mib, got 0 Mib."),
        ({"resourceRequirements": [{"type": "VCPU", "value": "0"}]}, "vCPU must be at least 1, got 0."),
        ({"resourceRequirements": [{"type": "MEMORY", "value": "3"}]}, "Memory must be at least 4 Mib, got 3 Mib."),
        (
            {"resourceRequirements": [{"type": "VCPU", "value": "x"}]},
            "Value x for type VCPU in resourceRequirement is not valid. Please provide a numeric value.",
        ),
        (
            {"resourceRequirements": [{"type": "GPU", "value": "1"}] * 2},
            "Cannot provide duplicates in resourceRequirements.",
        ),
    ],
)
def test_an_amount_that_makes_no_sense_is_refused_in_aws_words(overrides: dict[str, object], text: str) -> None:
    request = a_request(containerOverrides=overrides)
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(text)}$"):
        submit(request)


def test_an_empty_timeout_takes_the_definitions_timeout_away() -> None:
    definition = a_definition(timeout={"attemptDurationSeconds": 100})
    request = a_request(timeout={})
    check_request(request)
    assert not spec_of(request, definition).HasField("timeout")


def test_an_override_that_leaves_too_little_memory_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="Memory must be at least 4 Mib, got 3 Mib"):
        spec_of(a_request(containerOverrides={"memory": 3}), a_definition())


def test_retry_strategy_and_timeout_of_the_submission_replace_those_of_the_definition() -> None:
    strategy = {"attempts": 5, "evaluateOnExit": [{"onExitCode": "1", "action": "EXIT"}]}
    definition = a_definition(retryStrategy=strategy, timeout={"attemptDurationSeconds": 100})
    spec = spec_of(a_request(), definition)
    assert (spec.retry_strategy.attempts, spec.timeout.attempt_duration_seconds) == (5, 100)
    assert len(spec.retry_strategy.evaluate_on_exit) == 1
    spec = spec_of(a_request(retryStrategy={"attempts": 2}, timeout={"attemptDurationSeconds": 60}), definition)
    assert (spec.retry_strategy.attempts, spec.timeout.attempt_duration_seconds) == (2, 60)
    assert not spec.retry_strategy.evaluate_on_exit


def test_without_a_retry_strategy_there_is_one_attempt_and_no_timeout() -> None:
    spec = spec_of(a_request(), a_definition())
    assert spec.retry_strategy.attempts == 1
    assert not spec.HasField("timeout")


def test_every_member_of_the_definition_reaches_the_job() -> None:
    container = {
        "command": ["true"],
        "jobRoleArn": "role",
        "volumes": [{"name": "v", "host": {"sourcePath": "/data"}}],
        "mountPoints": [{"containerPath": "/data", "sourceVolume": "v", "readOnly": True}],
        "readonlyRootFilesystem": False,
        "privileged": False,
        "ulimits": [{"name": "nofile", "softLimit": 1, "hardLimit": 2}],
        "user": "nobody",
    }
    definition = a_definition(container)
    spec = spec_of(a_request(), definition)
    for field, value in definition.container_properties.ListFields():
        assert getattr(spec.container, field.name) == value, field.name
    assert spec.container.HasField("privileged")


@pytest.mark.parametrize(
    ("of_definition", "of_request", "expected"),
    [
        ({}, {}, {}),
        ({}, {"propagateTags": True}, {"a": "job", "b": "definition", "c": "job"}),
        ({"propagateTags": True}, {}, {"a": "job", "b": "definition", "c": "job"}),
        ({"propagateTags": True}, {"propagateTags": False}, {}),
    ],
)
def test_tags_go_on_to_the_container_if_the_submission_or_else_the_definition_says_so(
    of_definition: dict[str, object], of_request: dict[str, object], expected: dict[str, str]
) -> None:
    request = a_request(tags={"a": "job", "c": "job"}, **of_request)
    spec = spec_of(request, a_definition({}, tags={"a": "definition", "b": "definition"}, **of_definition))
    assert dict(spec.container_tags) == expected
    assert dict(spec.tags) == {"a": "job", "c": "job"}


def test_more_tags_than_a_container_can_have_are_refused_only_if_they_go_on_to_it() -> None:
    definition = a_definition({}, tags={f"d{number}": "" for number in range(30)})
    tags = {f"j{number}": "" for number in range(21)}
    assert len(spec_of(a_request(tags=tags), definition).tags) == 21
    with pytest.raises(InvalidRequestError, match="must not exceed 50 with propagateTags, got 51"):
        spec_of(a_request(tags=tags, propagateTags=True), definition)


def test_a_job_that_waits_twice_for_another_waits_once() -> None:
    spec = spec_of(
        a_request(dependsOn=[{"jobId": "a"}, {"jobId": "b", "type": "SEQUENTIAL"}, {"jobId": "a"}]), a_definition()
    )
    assert [(entry.job_id, entry.type) for entry in spec.depends_on] == [("a", ""), ("b", "SEQUENTIAL")]
