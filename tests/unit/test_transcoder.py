"""The transcoder on the messages of the public API: each rule on its own."""

import json
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue, FloatValue, Int64Value

from batchyard.api.common.v1 import container_pb2
from batchyard.api.jobs.v1 import jobs_pb2, jobs_service_pb2
from batchyard.api.operations.v1 import logs_service_pb2
from batchyard.api.registry.v1 import compute_environment_pb2, registry_service_pb2, scheduling_policy_pb2
from batchyard.gateway.transcoder import (
    MemberError,
    UnknownWordError,
    WrongTypeError,
    compile_decoder,
    compile_encoder,
    words_of,
)
from support.messages import descriptor_of

SUBMIT = jobs_service_pb2.SubmitJobRequest


def decoded(members: object, kind: type[Message] = SUBMIT) -> Any:
    return compile_decoder(descriptor_of(kind))(members)


def encoded(message: Message) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(compile_encoder(descriptor_of(message))(message))
    return members


def test_reads_nested_members_lists_and_maps() -> None:
    request = decoded(
        {
            "jobName": "a",
            "dependsOn": [{"jobId": "x"}, {"jobId": "y", "type": "SEQUENTIAL"}],
            "parameters": {"in": "1", "out": ""},
            "containerOverrides": {"vcpus": 2, "environment": [{"name": "A", "value": "B"}]},
        }
    )
    assert request == SUBMIT(
        job_name="a",
        depends_on=[jobs_pb2.JobDependency(job_id="x"), jobs_pb2.JobDependency(job_id="y", type="SEQUENTIAL")],
        parameters={"in": "1", "out": ""},
        container_overrides=jobs_pb2.ContainerOverrides(
            vcpus=2, environment=[container_pb2.KeyValuePair(name="A", value="B")]
        ),
    )


def test_uses_the_odd_names_of_aws() -> None:
    resources = decoded(
        {"minvCpus": 0, "maxvCpus": 4, "desiredvCpus": 1, "ec2KeyPair": "k"}, compute_environment_pb2.ComputeResource
    )
    assert resources == compute_environment_pb2.ComputeResource(
        minv_cpus=0, maxv_cpus=4, desiredv_cpus=1, ec2_key_pair="k"
    )


def test_prints_zero_and_false_and_the_empty_string_where_they_are_set() -> None:
    detail = jobs_pb2.ContainerSummary(exit_code=0, reason="")
    assert encoded(detail) == {"exitCode": 0, "reason": ""}
    assert encoded(jobs_pb2.ContainerDetail(privileged=False))["privileged"] is False


def test_leaves_out_what_is_absent() -> None:
    assert encoded(jobs_pb2.ContainerSummary()) == {}


def test_reads_zero_as_set_and_null_as_absent() -> None:
    assert decoded({"priority": 0}, registry_service_pb2.UpdateJobQueueRequest).HasField("priority")
    assert not decoded({"priority": None}, registry_service_pb2.UpdateJobQueueRequest).HasField("priority")
    assert decoded({"parameters": {"a": None, "b": "c"}}).parameters == {"b": "c"}
    assert decoded({"containerOverrides": None, "dependsOn": None, "parameters": None}) == SUBMIT()


def test_prints_some_lists_and_maps_even_when_empty() -> None:
    assert encoded(jobs_service_pb2.ListJobsResponse()) == {"jobSummaryList": []}
    empty: dict[str, object] = {
        "dependsOn": [],
        "parameters": {},
        "attempts": [],
        "tags": {},
        "platformCapabilities": [],
    }
    assert encoded(jobs_pb2.JobDetail()) == empty
    assert encoded(SUBMIT()) == {}


def test_prints_64_bit_integers_as_numbers() -> None:
    assert compile_encoder(jobs_pb2.JobSummary.DESCRIPTOR)(jobs_pb2.JobSummary(created_at=1480460782010)) == (
        b'{"createdAt":1480460782010}'
    )


def test_prints_the_words_of_aws_for_enum_values() -> None:
    assert encoded(jobs_pb2.JobSummary(status=jobs_pb2.JOB_STATUS_RUNNABLE)) == {"status": "RUNNABLE"}


def test_reads_the_words_of_aws_for_enum_values() -> None:
    request = decoded({"jobStatus": "SUCCEEDED"}, jobs_service_pb2.ListJobsRequest)
    assert request.job_status == jobs_pb2.JOB_STATUS_SUCCEEDED


@pytest.mark.parametrize("number", [0, 99])
def test_leaves_out_enum_values_that_have_no_word(number: int) -> None:
    message = jobs_pb2.JobSummary()
    message.MergeFromString(bytes([5 << 3, number]))
    assert message.HasField("status")
    assert encoded(message) == {}


@pytest.mark.parametrize("word", ["DONE", "", "succeeded", "JOB_STATUS_SUCCEEDED", "UNSPECIFIED", "SUCCEEDED "])
def test_refuses_a_word_that_an_enum_does_not_have_and_names_the_legal_ones(word: str) -> None:
    with pytest.raises(UnknownWordError) as refusal:
        decoded({"jobStatus": word}, jobs_service_pb2.ListJobsRequest)
    assert str(refusal.value) == (
        f"jobStatus '{word}' is not valid. Valid values: "
        "[SUBMITTED, PENDING, RUNNABLE, STARTING, RUNNING, SUCCEEDED, FAILED]"
    )


def test_passes_over_unknown_members() -> None:
    assert decoded({"jobName": "a", "ofTomorrow": "s", "x": {"y": [1]}}) == SUBMIT(job_name="a")


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([], "The request body: expected an object, got an array"),
        ("x", "The request body: expected an object, got a string"),
        (None, "The request body: expected an object, got null"),
        ({"jobName": 1}, "jobName: expected a string, got a number"),
        ({"jobName": ["a"]}, "jobName: expected a string, got an array"),
        ({"dependsOn": {}}, "dependsOn: expected an array, got an object"),
        ({"dependsOn": ["x"]}, "dependsOn[0]: expected an object, got a string"),
        ({"dependsOn": [{}, {"jobId": True}]}, "dependsOn[1].jobId: expected a string, got a boolean"),
        ({"parameters": []}, "parameters: expected an object, got an array"),
        ({"parameters": {"a": 1}}, "parameters.a: expected a string, got a number"),
        ({"containerOverrides": "x"}, "containerOverrides: expected an object, got a string"),
        ({"containerOverrides": {"command": "x"}}, "containerOverrides.command: expected an array, got a string"),
        (
            {"containerOverrides": {"command": ["a", None]}},
            "containerOverrides.command[1]: expected a string, got null",
        ),
        ({"containerOverrides": {"vcpus": "1"}}, "containerOverrides.vcpus: expected a 32-bit integer, got a string"),
        ({"containerOverrides": {"vcpus": True}}, "containerOverrides.vcpus: expected a 32-bit integer, got a boolean"),
        ({"containerOverrides": {"vcpus": 1.5}}, "containerOverrides.vcpus: expected a 32-bit integer, got 1.5"),
        (
            {"containerOverrides": {"environment": [{"name": "A"}, {"name": "B", "value": 3}]}},
            "containerOverrides.environment[1].value: expected a string, got a number",
        ),
    ],
)
def test_names_the_member_of_a_wrong_type_what_came_and_what_is_right(members: object, text: str) -> None:
    with pytest.raises(WrongTypeError) as refusal:
        decoded(members)
    assert str(refusal.value) == text


def test_refuses_other_types_than_booleans_for_booleans() -> None:
    with pytest.raises(WrongTypeError, match="startFromHead: expected a boolean, got a number"):
        decoded({"startFromHead": 1}, logs_service_pb2.GetLogEventsRequest)


def test_refuses_other_types_than_strings_for_enums() -> None:
    with pytest.raises(WrongTypeError, match="jobStatus: expected a string, got a number"):
        decoded({"jobStatus": 1}, jobs_service_pb2.ListJobsRequest)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 10**30, 1e300, -1e300])
def test_refuses_integers_beyond_32_bits(value: float) -> None:
    with pytest.raises(WrongTypeError, match=r"maxResults: expected a 32-bit integer, got -?[0-9]"):
        decoded({"maxResults": value}, jobs_service_pb2.ListJobsRequest)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_refuses_integers_beyond_64_bits(value: int) -> None:
    with pytest.raises(WrongTypeError, match=r"startTime: expected a 64-bit integer, got -?[0-9]"):
        decoded({"startTime": value}, logs_service_pb2.GetLogEventsRequest)


@pytest.mark.parametrize("value", [2**31 - 1, -(2**31), 7.0, -0.0, 1e3])
def test_takes_every_number_that_is_an_integer_in_range(value: float) -> None:
    assert decoded({"maxResults": value}, jobs_service_pb2.ListJobsRequest).max_results == value


def test_shortens_what_it_repeats_of_a_request() -> None:
    with pytest.raises(MemberError) as refusal:
        decoded({"jobStatus": "X" * 10_000}, jobs_service_pb2.ListJobsRequest)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("kind", [BytesValue, FloatValue, Int64Value])
def test_refuses_at_start_to_print_messages_that_have_no_form_in_awss_json(kind: type[Message]) -> None:
    with pytest.raises(TypeError):
        compile_encoder(descriptor_of(kind))


@pytest.mark.parametrize("kind", [BytesValue, FloatValue])
def test_refuses_at_start_to_read_members_that_have_no_form_in_awss_json(kind: type[Message]) -> None:
    with pytest.raises(TypeError):
        compile_decoder(descriptor_of(kind))


def test_the_unspecified_value_has_no_word() -> None:
    enum = jobs_pb2.JobStatus.DESCRIPTOR
    assert set(words_of(enum)) == {value.number for value in enum.values} - {0}


def test_reads_and_prints_numbers_with_a_fraction() -> None:
    share = decoded({"shareIdentifier": "a", "weightFactor": 0.1}, scheduling_policy_pb2.ShareAttributes)
    assert encoded(share) == {"shareIdentifier": "a", "weightFactor": 0.1}
    assert decoded({"weightFactor": 2}, scheduling_policy_pb2.ShareAttributes).weight_factor == 2.0


@pytest.mark.parametrize("value", ["1", True, 10**400])
def test_refuses_what_is_no_such_number(value: object) -> None:
    with pytest.raises(WrongTypeError, match="weightFactor: expected a number"):
        decoded({"weightFactor": value}, scheduling_policy_pb2.ShareAttributes)


def test_notes_which_lists_and_maps_were_sent_empty_where_that_says_something() -> None:
    update = decoded(
        {"securityGroupIds": [], "tags": {}, "subnets": None, "instanceTypes": ["optimal"], "unknown": []},
        compute_environment_pb2.ComputeResourceUpdate,
    )
    assert update.cleared_members == ["securityGroupIds", "tags"]


def test_the_note_is_no_member_of_the_json() -> None:
    update = decoded({"clearedMembers": ["tags"]}, compute_environment_pb2.ComputeResourceUpdate)
    assert not update.cleared_members
