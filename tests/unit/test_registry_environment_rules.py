from typing import Any

import pytest

from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail, ComputeResourceUpdate
from batchyard.api.registry.v1.registry_service_pb2 import (
    CreateComputeEnvironmentRequest,
    UpdateComputeEnvironmentRequest,
)
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.domain.compat import Compat
from batchyard.domain.errors import InvalidRequestError, WrongStateError
from batchyard.domain.names import Caller
from batchyard.registry.environment_rules import (
    check_deletable,
    check_environment_update,
    new_environment,
    updated_environment,
)
from support.registry import MANAGED, an_environment, ec2_resources, fargate_resources

ENABLED = ResourceState.RESOURCE_STATE_ENABLED
DISABLED = ResourceState.RESOURCE_STATE_DISABLED
STRATEGIES = "BEST_FIT, BEST_FIT_PROGRESSIVE, SPOT_CAPACITY_OPTIMIZED, SPOT_PRICE_CAPACITY_OPTIMIZED"
CALLER = Caller("111122223333", "eu-west-1")


def made(request: CreateComputeEnvironmentRequest, compat: Compat = Compat.SEED) -> ComputeEnvironmentDetail:
    return new_environment(request, CALLER, compat, uuid="0-0")


def update(environment: ComputeEnvironmentDetail, compat: Compat = Compat.SEED, **resources: Any) -> Any:
    request = UpdateComputeEnvironmentRequest(compute_resources=ComputeResourceUpdate(**resources))
    return updated_environment(environment, request, compat).compute_resources


def test_an_unmanaged_environment_gets_its_defaults_and_no_resources() -> None:
    environment = made(an_environment("own"))
    assert environment.compute_environment_arn == "arn:aws:batch:eu-west-1:111122223333:compute-environment/own"
    assert environment.ecs_cluster_arn == "arn:aws:ecs:eu-west-1:111122223333:cluster/own_Batch_0-0"
    assert environment.state == ENABLED
    assert environment.status == ResourceStatus.RESOURCE_STATUS_VALID
    assert environment.status_reason == "ComputeEnvironment Healthy"
    assert environment.service_role == (
        "arn:aws:iam::111122223333:role/aws-service-role/batch.amazonaws.com/AWSServiceRoleForBatch"
    )
    assert not environment.HasField("compute_resources")


def test_resources_of_an_unmanaged_environment_are_ignored() -> None:
    request = an_environment("own")
    request.compute_resources.type = "nonsense"
    assert not made(request).HasField("compute_resources")


def test_a_managed_environment_keeps_what_it_was_given() -> None:
    resources = ec2_resources(desiredv_cpus=4, ec2_key_pair="key", tags={"Name": "host"}, bid_percentage=20)
    environment = made(an_environment(compute_resources=resources, service_role="role", tags={"team": "blue"}))
    assert environment.compute_resources == resources
    assert environment.service_role == "role"
    assert environment.tags == {"team": "blue"}


def test_desired_vcpus_default_to_the_minimum() -> None:
    environment = made(an_environment(compute_resources=ec2_resources(minv_cpus=3)))
    assert environment.compute_resources.desiredv_cpus == 3


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (an_environment(""), "Compute environment name should match a valid pattern."),
        (an_environment("white space"), "Compute environment name should match a valid pattern."),
        (an_environment("n" * 129), "Compute environment name should match a valid pattern."),
        (an_environment(type=7), "Type must be MANAGED or UNMANAGED."),
        (an_environment(state=9), "State must be ENABLED or DISABLED."),
        (an_environment(type=MANAGED), "computeResources is required."),
        (an_environment(tags={"aws:x": ""}), "Tag key aws:x is not valid: the prefix aws: is reserved."),
    ],
)
def test_members_that_cannot_be_are_refused(request_: CreateComputeEnvironmentRequest, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        made(request_)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"type": "LAMBDA"},
            "Compute resource type LAMBDA is not valid. Valid types: [EC2, SPOT, FARGATE, FARGATE_SPOT]",
        ),
        ({"minv_cpus": None}, "Resource minvCpus is required."),
        ({"minv_cpus": -1}, "minvCpus should be greater than or equal to 0."),
        ({"maxv_cpus": None}, "Resource maxvCpus is required."),
        ({"minv_cpus": 17}, "maxvCpus should be greater than or equal to minvCpus."),
        ({"desiredv_cpus": 17}, "desiredvCpus should be between minvCpus and maxvCpus."),
        ({"minv_cpus": 2, "desiredv_cpus": 1}, "desiredvCpus should be between minvCpus and maxvCpus."),
        ({"instance_types": []}, "Resource instanceTypes are required."),
        ({"subnets": []}, "subnets is required."),
        ({"security_group_ids": []}, "Security group ids are required."),
        ({"instance_role": None}, "Instance role is required."),
        ({"instance_role": ""}, "Instance role is required."),
        ({"bid_percentage": 101}, "Bid percentage must be between 0 to 100."),
        ({"bid_percentage": -1}, "Bid percentage must be between 0 to 100."),
        ({"type": "SPOT", "allocation_strategy": "BEST_FIT"}, "compute resource spotIamFleetRole is required."),
        (
            {"allocation_strategy": "CHEAPEST"},
            f"Allocation strategy CHEAPEST is not valid. Valid strategies: [{STRATEGIES}]",
        ),
    ],
)
def test_resources_that_make_no_sense_are_refused(members: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        made(an_environment(compute_resources=ec2_resources(**members)))
    assert caught.value.message == message


def test_the_first_missing_member_in_the_order_of_the_model_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="minvCpus is required"):
        made(an_environment(compute_resources=ec2_resources(minv_cpus=None, instance_types=[], instance_role=None)))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"minv_cpus": 0}, "minvCpus is not applicable for Fargate."),
        ({"desiredv_cpus": 0}, "desiredvCpus is not applicable for Fargate."),
        ({"instance_types": ["optimal"]}, "instanceTypes is not applicable for Fargate."),
        ({"ec2_key_pair": "key"}, "ec2KeyPair is not applicable for Fargate."),
        ({"instance_role": "role"}, "instanceRole is not applicable for Fargate."),
        ({"tags": {"a": "b"}}, "tags is not applicable for Fargate."),
        ({"bid_percentage": 5}, "bidPercentage is not applicable for Fargate."),
        ({"spot_iam_fleet_role": "role"}, "spotIamFleetRole is not applicable for Fargate."),
        ({"allocation_strategy": "BEST_FIT"}, "allocationStrategy is not applicable for Fargate."),
        ({"maxv_cpus": None}, "Resource maxvCpus is required."),
        ({"maxv_cpus": 0}, "maxvCpus should be greater than or equal to 1."),
        ({"subnets": []}, "subnets is required."),
        ({"subnets": ["s"] * 17}, "Number of subnets must not exceed 16 for Fargate."),
        ({"security_group_ids": []}, "Security group ids are required."),
        ({"security_group_ids": ["s"] * 6}, "Number of security group ids must not exceed 5 for Fargate."),
    ],
)
def test_fargate_takes_only_what_applies_to_it(members: dict[str, Any], message: str) -> None:
    assert made(an_environment(compute_resources=fargate_resources())).compute_resources == fargate_resources()
    with pytest.raises(InvalidRequestError) as caught:
        made(an_environment(compute_resources=fargate_resources(**members)))
    assert caught.value.message == message


def test_only_todays_rules_refuse_a_disabled_start() -> None:
    assert made(an_environment(state=DISABLED)).state == DISABLED
    with pytest.raises(InvalidRequestError, match=r"^Compute Environment must be created in ENABLED state\.$"):
        made(an_environment(state=DISABLED), Compat.AWS)


def test_only_todays_rules_demand_a_fleet_role_without_a_strategy() -> None:
    spot = an_environment(compute_resources=ec2_resources(type="SPOT"))
    made(spot)
    with pytest.raises(InvalidRequestError, match="spotIamFleetRole is required"):
        made(spot, Compat.AWS)


class TestUpdate:
    @pytest.fixture
    def environment(self) -> ComputeEnvironmentDetail:
        resources = ec2_resources(minv_cpus=2, maxv_cpus=16, desiredv_cpus=8)
        return made(an_environment(compute_resources=resources, service_role="role"))

    def test_members_that_are_not_sent_stay(self, environment: ComputeEnvironmentDetail) -> None:
        assert updated_environment(environment, UpdateComputeEnvironmentRequest(), Compat.SEED) == environment
        disabled = updated_environment(environment, UpdateComputeEnvironmentRequest(state=DISABLED), Compat.SEED)
        assert disabled.state == DISABLED
        assert disabled.compute_resources == environment.compute_resources
        assert disabled.service_role == "role"

    def test_the_old_environment_is_left_alone(self, environment: ComputeEnvironmentDetail) -> None:
        update(environment, maxv_cpus=99)
        assert environment.compute_resources.maxv_cpus == 16

    def test_a_zero_is_a_value(self, environment: ComputeEnvironmentDetail) -> None:
        assert update(environment, minv_cpus=0).minv_cpus == 0

    def test_a_lower_maximum_takes_the_wish_down_with_it(self, environment: ComputeEnvironmentDetail) -> None:
        resources = update(environment, maxv_cpus=4)
        assert (resources.minv_cpus, resources.desiredv_cpus, resources.maxv_cpus) == (2, 4, 4)

    def test_a_higher_minimum_takes_the_wish_up_with_it(self, environment: ComputeEnvironmentDetail) -> None:
        assert update(environment, minv_cpus=10).desiredv_cpus == 10

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"maxv_cpus": 1}, "maxvCpus should be greater than or equal to minvCpus."),
            ({"minv_cpus": 17}, "maxvCpus should be greater than or equal to minvCpus."),
            ({"minv_cpus": -1}, "minvCpus should be greater than or equal to 0."),
            ({"desiredv_cpus": 1}, "desiredvCpus should be between minvCpus and maxvCpus."),
            ({"desiredv_cpus": 17}, "desiredvCpus should be between minvCpus and maxvCpus."),
        ],
    )
    def test_the_merged_result_must_make_sense(
        self, environment: ComputeEnvironmentDetail, members: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            update(environment, **members)
        assert caught.value.message == message

    def test_only_todays_rules_refuse_to_lower_the_wish(self, environment: ComputeEnvironmentDetail) -> None:
        assert update(environment, desiredv_cpus=2).desiredv_cpus == 2
        assert update(environment, Compat.AWS, desiredv_cpus=9).desiredv_cpus == 9
        with pytest.raises(InvalidRequestError, match="Manually scaling down compute environment is not supported"):
            update(environment, Compat.AWS, desiredv_cpus=7)

    def test_fargate_has_only_a_maximum(self) -> None:
        fargate = made(an_environment(compute_resources=fargate_resources()))
        assert update(fargate, maxv_cpus=4) == fargate_resources(maxv_cpus=4)
        with pytest.raises(InvalidRequestError, match=r"^minvCpus is not applicable for Fargate\.$"):
            update(fargate, minv_cpus=0)
        with pytest.raises(InvalidRequestError, match=r"^desiredvCpus is not applicable for Fargate\.$"):
            update(fargate, desiredv_cpus=0)
        with pytest.raises(InvalidRequestError, match=r"^maxvCpus should be greater than or equal to 1\.$"):
            update(fargate, maxv_cpus=0)

    def test_resources_of_an_unmanaged_environment_are_ignored(self) -> None:
        unmanaged = made(an_environment())
        request = UpdateComputeEnvironmentRequest(compute_resources=ComputeResourceUpdate(maxv_cpus=-1))
        assert updated_environment(unmanaged, request, Compat.SEED) == unmanaged

    def test_an_unknown_state_is_refused(self) -> None:
        with pytest.raises(InvalidRequestError, match="State must be ENABLED or DISABLED"):
            check_environment_update(UpdateComputeEnvironmentRequest(state=9))  # type: ignore[arg-type]


def test_only_a_disabled_environment_in_no_queue_may_be_deleted() -> None:
    check_deletable(made(an_environment(state=DISABLED)), [])
    with pytest.raises(WrongStateError, match=r"^Cannot delete, compute environment must be DISABLED$"):
        check_deletable(made(an_environment()), ["a"])
    with pytest.raises(WrongStateError, match=r"^Cannot delete, found existing JobQueue relationship \(a, b\)$"):
        check_deletable(made(an_environment(state=DISABLED)), ["a", "b"])
