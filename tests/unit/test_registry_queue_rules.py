import pytest

from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail
from batchyard.api.registry.v1.job_queue_pb2 import ComputeEnvironmentOrder
from batchyard.api.registry.v1.registry_service_pb2 import CreateJobQueueRequest, UpdateJobQueueRequest
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.domain.compat import Compat
from batchyard.domain.errors import InvalidRequestError, WrongStateError
from batchyard.domain.names import Caller
from batchyard.registry.environment_rules import new_environment
from batchyard.registry.queue_rules import (
    EnvironmentPlace,
    check_deletable,
    check_new_queue,
    check_queue_update,
    environment_order,
    environment_places,
    new_queue,
    updated_queue,
)
from support.registry import a_queue, an_environment, an_order, ec2_resources, fargate_resources

CALLER = Caller()
NOT_USABLE = "Compute Environments must be created and valid before attaching them to a job queue"
ENABLED = ResourceState.RESOURCE_STATE_ENABLED
DISABLED = ResourceState.RESOURCE_STATE_DISABLED


def arn(name: str, region: str = "us-east-1") -> str:
    return f"arn:aws:batch:{region}:123456789012:compute-environment/{name}"


ENVIRONMENTS = {
    request.compute_environment_name: new_environment(request, CALLER, Compat.SEED, "0")
    for request in (
        an_environment("own"),
        an_environment("ec2", compute_resources=ec2_resources()),
        an_environment("fargate", compute_resources=fargate_resources()),
        an_environment("fargate-too", compute_resources=fargate_resources()),
    )
}


def resolved(*names: str) -> list[ComputeEnvironmentOrder]:
    return environment_order(environment_places(an_order(*names), CALLER.namespace), ENVIRONMENTS)


def test_names_and_arns_of_any_region_are_accepted() -> None:
    entries = an_order("a", arn("b"), arn("c", "eu-west-1"))
    assert environment_places(entries, CALLER.namespace) == [
        EnvironmentPlace(1, "a"),
        EnvironmentPlace(2, "b"),
        EnvironmentPlace(3, "c"),
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "computeEnvironmentOrder is required."),
        (an_order("a", "b", "c", "d"), "Only 3 environments are allowed in job queue request."),
        ([*an_order("a"), *an_order("b")], "Duplicate ComputeEnvironment order values."),
        (an_order("a", "a"), "Duplicate ComputeEnvironments within order list."),
        (an_order("a", arn("a")), "Duplicate ComputeEnvironments within order list."),
        (an_order("arn:aws:batch:us-east-1:999999999999:compute-environment/a"), NOT_USABLE),
        (an_order("arn:aws:batch:us-east-1:123456789012:job-queue/a"), NOT_USABLE),
        (an_order("a b"), "Provided name a b is not supported pattern[a-zA-Z_0-9-]{1,128}"),
    ],
)
def test_what_is_no_order_is_refused(entries: list[ComputeEnvironmentOrder], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        environment_places(entries, CALLER.namespace)
    assert caught.value.message == message


def test_an_order_is_shown_lowest_first_with_arns() -> None:
    places = [EnvironmentPlace(7, "own"), EnvironmentPlace(-1, "ec2")]
    assert environment_order(places, ENVIRONMENTS) == [
        ComputeEnvironmentOrder(order=-1, compute_environment=arn("ec2")),
        ComputeEnvironmentOrder(order=7, compute_environment=arn("own")),
    ]


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolved("own", "nothing")
    assert caught.value.message == NOT_USABLE


def test_an_environment_that_is_not_valid_is_refused() -> None:
    invalid = ComputeEnvironmentDetail(status=ResourceStatus.RESOURCE_STATUS_INVALID)
    with pytest.raises(InvalidRequestError) as caught:
        environment_order([EnvironmentPlace(1, "a")], {"a": invalid})
    assert caught.value.message == NOT_USABLE


@pytest.mark.parametrize("names", [("fargate", "ec2"), ("own", "fargate")])
def test_fargate_and_other_environments_do_not_mix(names: tuple[str, ...]) -> None:
    resolved("own", "ec2")
    resolved("fargate", "fargate-too")
    with pytest.raises(InvalidRequestError) as caught:
        resolved(*names)
    assert caught.value.message == "Fargate and EC2 compute environments can not be mixed."


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (a_queue(""), "Job Queue name should match a valid pattern."),
        (a_queue("a/b"), "Job Queue name should match a valid pattern."),
        (a_queue(state=9), "State must be ENABLED or DISABLED."),
        (a_queue(priority=-1), "Priority must be greater than or equal to 0."),
        (a_queue(tags={"aws:a": ""}), "Tag key aws:a is not valid: the prefix aws: is reserved."),
    ],
)
def test_members_that_cannot_be_are_refused(request_: CreateJobQueueRequest, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_new_queue(request_)
    assert caught.value.message == message


def test_a_new_queue_is_enabled_and_valid() -> None:
    queue = new_queue(
        a_queue("high", priority=0, tags={"a": "b"}), Caller("1" * 12, "eu-west-1"), resolved("own"), "ECS"
    )
    assert queue.job_queue_arn == "arn:aws:batch:eu-west-1:111111111111:job-queue/high"
    assert queue.state == ENABLED
    assert queue.status == ResourceStatus.RESOURCE_STATUS_VALID
    assert queue.status_reason == "JobQueue Healthy"
    assert queue.HasField("priority")
    assert queue.priority == 0
    assert queue.tags == {"a": "b"}


def test_an_update_changes_only_what_is_sent() -> None:
    queue = new_queue(a_queue(priority=5), CALLER, resolved("own", "ec2"), "ECS")
    assert updated_queue(queue, UpdateJobQueueRequest(), [], "ECS") == queue
    changed = updated_queue(queue, UpdateJobQueueRequest(priority=0, state=DISABLED), resolved("ec2"), "ECS")
    assert (changed.priority, changed.state) == (0, DISABLED)
    assert [entry.compute_environment for entry in changed.compute_environment_order] == [arn("ec2")]


def test_an_update_to_what_cannot_be_is_refused() -> None:
    check_queue_update(UpdateJobQueueRequest())
    with pytest.raises(InvalidRequestError, match="Priority must be greater than or equal to 0"):
        check_queue_update(UpdateJobQueueRequest(priority=-1))
    with pytest.raises(InvalidRequestError, match="State must be ENABLED or DISABLED"):
        check_queue_update(UpdateJobQueueRequest(state=9))  # type: ignore[arg-type]


def test_only_a_disabled_queue_may_be_deleted() -> None:
    check_deletable(new_queue(a_queue(state=DISABLED), CALLER, [], "ECS"))
    with pytest.raises(WrongStateError, match=r"^Cannot delete, job queue must be DISABLED$"):
        check_deletable(new_queue(a_queue(), CALLER, [], "ECS"))
