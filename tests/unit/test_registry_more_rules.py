"""Rules of definitions and policies at their limits, where a table of refusals does not reach."""

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from batchyard.api.registry.v1.registry_service_pb2 import CreateSchedulingPolicyRequest, RegisterJobDefinitionRequest
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.names import Caller, ResourceKind, resource_in_arn
from batchyard.registry.definition_rules import check_definition
from batchyard.registry.node_rules import node_range
from batchyard.registry.policy_rules import new_policy

ARN = "arn:aws:batch:us-east-1:123456789012"


def a_definition(vcpus: str, memory: str, **members: Any) -> RegisterJobDefinitionRequest:
    requirements = [{"type": "VCPU", "value": vcpus}, {"type": "MEMORY", "value": memory}]
    container = {"image": "busybox", "resourceRequirements": requirements}
    described = {"jobDefinitionName": "d", "type": "container", "containerProperties": container, **members}
    return ParseDict(described, RegisterJobDefinitionRequest())


def a_policy(*shares: dict[str, Any], **members: Any) -> CreateSchedulingPolicyRequest:
    described = {"name": "p", "fairsharePolicy": {"shareDistribution": list(shares), **members}}
    return ParseDict(described, CreateSchedulingPolicyRequest())


@pytest.mark.parametrize(
    ("vcpus", "legal", "illegal"),
    [
        ("0.25", ("512", "1024", "2048"), ("256", "1536", "4096")),
        ("0.5", ("1024", "4096"), ("512", "5120", "1025")),
        ("1", ("2048", "8192"), ("1024", "9216")),
        ("2", ("4096", "16384"), ("3072", "17408")),
        ("4.0", ("8192", "30720"), ("7168", "31744")),
        ("8", ("16384", "20480", "61440"), ("17408", "65536")),
        ("16", ("32768", "40960", "122880"), ("36864", "131072")),
    ],
)
def test_fargate_has_certain_pairs_of_vcpus_and_memory(
    vcpus: str, legal: tuple[str, ...], illegal: tuple[str, ...]
) -> None:
    for memory in legal:
        check_definition(a_definition(vcpus, memory, platformCapabilities=["FARGATE"]))
    for memory in illegal:
        check_definition(a_definition(vcpus, memory, platformCapabilities=["EC2"]))
        with pytest.raises(InvalidRequestError, match=f"Memory {memory} MiB is not valid for Fargate"):
            check_definition(a_definition(vcpus, memory, platformCapabilities=["FARGATE"]))


@pytest.mark.parametrize(
    ("target", "nodes"),
    [("0", [0]), ("3", [3]), ("0:", [0, 1, 2, 3]), (":1", [0, 1]), (":", [0, 1, 2, 3]), ("1:2", [1, 2]), ("2:2", [2])],
)
def test_node_ranges_have_four_forms(target: str, nodes: list[int]) -> None:
    assert list(node_range(target, 4)) == nodes


@pytest.mark.parametrize("target", ["4", "0:4", "3:2", "-1", "", "1:2:3", "a", "1 ", "٣", "99999"])
def test_other_node_ranges_are_refused(target: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"targetNodes should contain only digits|is out of range"):
        node_range(target, 4)


def test_policies_at_their_limits_are_legal() -> None:
    weights = [
        {"shareIdentifier": "low", "weightFactor": 0.0001},
        {"shareIdentifier": "high", "weightFactor": 999.9999},
    ]
    many = [{"shareIdentifier": f"s{number:03}"} for number in range(500)]
    for policy in (
        a_policy(*weights, shareDecaySeconds=604_800, computeReservation=99),
        a_policy(*many),
        a_policy({"shareIdentifier": "*"}),
        a_policy({"shareIdentifier": "a" * 255}, {"shareIdentifier": "b" * 254 + "*"}),
    ):
        assert new_policy(policy, Caller()).fairshare_policy == policy.fairshare_policy


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        (["*", "a"], r"Share identifier \* matches another share identifier a"),
        (["a", "ab*", "abc*"], r"Share identifier ab\* matches another share identifier abc\*"),
        (["a" * 256], "ShareIdentifier name should match"),
        (["ä"], "ShareIdentifier name should match"),
        (["a**"], "ShareIdentifier name should match"),
    ],
)
def test_shares_that_overlap_or_have_no_name_are_refused(shares: list[str], text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        new_policy(a_policy(*({"shareIdentifier": share} for share in shares)), Caller())


@pytest.mark.parametrize(
    ("arn", "found"),
    [
        (f"{ARN}:job-queue/q", (ResourceKind.JOB_QUEUE, "q")),
        (f"{ARN}:job-definition/d:3", (ResourceKind.JOB_DEFINITION, "d:3")),
        (f"{ARN}:job/1:0", (ResourceKind.JOB, "1:0")),
        ("arn:aws:batch:elsewhere:123456789012:scheduling-policy/p", (ResourceKind.SCHEDULING_POLICY, "p")),
        ("arn:aws:batch:us-east-1:999999999999:job-queue/q", None),
        (f"{ARN}:consumable-resource/c", None),
        (f"{ARN}:job-queue/", None),
        ("arn:aws:ecs:us-east-1:123456789012:cluster/c", None),
        ("q", None),
        ("", None),
    ],
)
def test_an_arn_names_a_kind_and_a_name(arn: str, found: tuple[ResourceKind, str] | None) -> None:
    assert resource_in_arn(arn, "123456789012") == found
