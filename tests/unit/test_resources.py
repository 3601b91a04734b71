import pytest

from batchyard.api.common.v1.container_pb2 import KeyValuePair, ResourceRequirement
from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.resources import (
    Resources,
    check_environment,
    check_tags,
    check_timeout,
    reserved_resources,
)


def container(vcpus: int | None = None, memory: int | None = None, **required: str) -> ContainerProperties:
    return ContainerProperties(
        vcpus=vcpus,
        memory=memory,
        resource_requirements=[ResourceRequirement(type=kind, value=value) for kind, value in required.items()],
    )


@pytest.mark.parametrize(
    ("given", "reserved"),
    [
        (container(2, 128), Resources(2000, 128)),
        (container(VCPU="2", MEMORY="128"), Resources(2000, 128)),
        (container(VCPU="0.25", MEMORY="512"), Resources(250, 512)),
        (container(VCPU="1.0", MEMORY="4"), Resources(1000, 4)),
        (container(VCPU="1.5000000", MEMORY="4"), Resources(1500, 4)),
        (container(VCPU="0.001", MEMORY="4"), Resources(1, 4)),
        (container(1, MEMORY="64"), Resources(1000, 64)),
        (container(None, 64, VCPU="3"), Resources(3000, 64)),
        (container(1, 64, GPU="2"), Resources(1000, 64, gpus=2)),
    ],
)
def test_either_form_says_what_is_reserved(given: ContainerProperties, reserved: Resources) -> None:
    assert reserved_resources(given) == reserved


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (container(None, 128), "vCPU is required."),
        (container(1), "Memory is required."),
        (container(-1, 128), "vCPU must be at least 1, got -1."),
        (container(None, 128, VCPU="0"), "vCPU must be at least 1, got 0."),
        (container(1, 3), "Memory must be at least 4 Mib, got 3 Mib."),
        (container(1, -5), "Memory must be at least 4 Mib, got -5 Mib."),
        (container(1, MEMORY="0"), "Memory must be at least 4 Mib, got 0 Mib."),
        (
            container(1, 128, VCPU="1"),
            "Cannot use both ECS containerProperties vcpus and resourceRequirement VCPU.",
        ),
        (
            container(1, 128, MEMORY="128"),
            "Cannot use both ECS containerProperties memory and resourceRequirement MEMORY.",
        ),
        (
            container(1, 128, DISK="1"),
            "Type DISK in resourceRequirement is not valid. Valid types: [GPU, MEMORY, VCPU]",
        ),
        *(
            (
                container(None, 128, VCPU=value),
                f"Value {value} for type VCPU in resourceRequirement is not valid. Please provide a numeric value.",
            )
            for value in ("", "one", "-1", "1e3", "NaN", "0.0001", "1.", " 1", "9999999999")
        ),
        *(
            (
                container(1, MEMORY=value),
                f"Value {value} for type MEMORY in resourceRequirement is not valid. Please provide a numeric value.",
            )
            for value in ("", "much", "128.5", "-4")
        ),
        (
            container(1, 128, GPU="0.5"),
            "Value 0.5 for type GPU in resourceRequirement is not valid. Please provide a numeric value.",
        ),
    ],
)
def test_amounts_that_cannot_be_reserved_are_refused(given: ContainerProperties, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        reserved_resources(given)
    assert caught.value.message == message


def test_the_same_type_twice_is_refused() -> None:
    twice = ContainerProperties(resource_requirements=[ResourceRequirement(type="VCPU", value="1")] * 2)
    with pytest.raises(InvalidRequestError, match=r"^Cannot provide duplicates in resourceRequirements\.$"):
        reserved_resources(twice)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "Environment variable name is required."),
        ("AWS_BATCH_JOB_ID", "Environment variable cannot start with AWS_BATCH"),
    ],
)
def test_reserved_and_missing_environment_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_environment([KeyValuePair(name="FINE", value="1"), KeyValuePair(name=name, value="1")])
    assert caught.value.message == message


def test_a_timeout_below_60_seconds_is_refused() -> None:
    check_timeout(60)
    with pytest.raises(InvalidRequestError) as caught:
        check_timeout(59)
    assert caught.value.message == "AttemptDurationSeconds in Timeout must be at least 60 seconds."


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({f"key-{number}": "" for number in range(51)}, "Number of tags must not exceed 50."),
        ({"": "value"}, "Tag keys must have 1 to 128 characters."),
        ({"k" * 129: "value"}, "Tag keys must have 1 to 128 characters."),
        ({"AWS:owner": "me"}, "Tag key AWS:owner is not valid: the prefix aws: is reserved."),
        ({"key": "v" * 257}, "Tag values must not exceed 256 characters."),
    ],
)
def test_tags_beyond_the_limits_are_refused(tags: dict[str, str], message: str) -> None:
    check_tags({"k" * 128: "v" * 256, "awsome": ""})
    with pytest.raises(InvalidRequestError) as caught:
        check_tags(tags)
    assert caught.value.message == message
