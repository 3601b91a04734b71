"""From a request's first line to an RPC."""

import botocore.session
import pytest

from batchyard.gateway.aws_errors import AWS_JSON, REST_JSON, AwsError
from batchyard.gateway.routes import OTHER_AWS_OPERATIONS, RouteTable
from batchyard.gateway.upstreams import PUBLIC_SERVICES

TABLE = RouteTable(PUBLIC_SERVICES)
SEED = {
    *(f"{verb}{noun}" for verb in ("Create", "Update", "Delete") for noun in ("ComputeEnvironment", "JobQueue")),
    *("DescribeComputeEnvironments", "DescribeJobQueues", "DescribeJobDefinitions", "DescribeJobs", "ListJobs"),
    *("RegisterJobDefinition", "DeregisterJobDefinition", "SubmitJob", "CancelJob", "TerminateJob"),
}


def refusal(verb: str, path: str, target: str | None = None) -> AwsError:
    with pytest.raises(AwsError) as error:
        TABLE.find(verb, path, target)
    return error.value


def test_finds_every_operation_of_the_seed_where_aws_has_it() -> None:
    model = botocore.session.get_session().get_service_model("batch")
    found = {route.method.name for route in TABLE.routes if route.protocol is REST_JSON}
    assert found >= SEED
    for name in found:
        http = model.operation_model(name).http
        assert TABLE.find(http["method"], http["requestUri"], None).method.name == name


def test_finds_log_operations_by_their_target() -> None:
    route = TABLE.find("POST", "/", "Logs_20140328.GetLogEvents")
    assert (route.method.name, route.protocol) == ("GetLogEvents", AWS_JSON)


def test_tolerates_a_slash_at_the_end() -> None:
    assert TABLE.find("POST", "/v1/submitjob/", None).method.name == "SubmitJob"


@pytest.mark.parametrize(
    "path", ["/", "", "/v1", "/v1/submitjobx", "/V1/submitjob", "/v1/SubmitJob", "/v1/%73ubmitjob"]
)
def test_does_not_know_other_paths(path: str) -> None:
    error = refusal("POST", path)
    assert (error.status, error.error_type) == (404, "UnknownOperationException")


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_names_the_verb_that_a_path_takes(verb: str) -> None:
    error = refusal(verb, "/v1/submitjob")
    assert (error.status, error.headers) == (405, {"allow": "POST"})
    assert error.message == f"/v1/submitjob takes POST, not {verb}."


def test_names_the_verb_that_targets_take() -> None:
    error = refusal("GET", "/", "Logs_20140328.GetLogEvents")
    assert (error.status, error.headers) == (405, {"allow": "POST"})


def test_does_not_know_other_targets() -> None:
    error = refusal("POST", "/", "Logs_20140328.PutLogEvents")
    assert (error.status, error.error_type) == (400, "UnknownOperationException")
    assert error.message == "Logs_20140328.PutLogEvents is not supported by this server."


@pytest.mark.parametrize("operation", OTHER_AWS_OPERATIONS)
def test_says_plainly_which_operations_of_aws_it_lacks(operation: str) -> None:
    model = botocore.session.get_session().get_service_model("batch")
    http = model.operation_model(operation).http
    error = refusal(http["method"], http["requestUri"])
    assert (error.status, error.error_type) == (400, "ClientException")
    assert error.message == f"{operation} is not supported by this server."


@pytest.mark.parametrize(
    "arn", ["arn%3Aaws%3Abatch%3Aus-east-1%3A123456789012%3Ajob-queue%2Fq", "arn:aws:batch:us-east-1:1:job-queue/q"]
)
def test_finds_an_operation_whose_path_ends_in_a_member_by_the_raw_path(arn: str) -> None:
    route = TABLE.find("DELETE", f"/v1/tags/{arn}", None)
    assert (route.method.name, route.path_prefix, route.path_member) == ("UntagResource", "/v1/tags/", "resourceArn")
    assert refusal("PUT", f"/v1/tags/{arn}").headers == {"allow": "DELETE, GET, POST"}


@pytest.mark.parametrize("path", ["/v1/tags", "/v1/tags/"])
def test_does_not_find_such_an_operation_without_the_member(path: str) -> None:
    assert refusal("GET", path).status == 404


def test_two_methods_cannot_share_a_path() -> None:
    with pytest.raises(ValueError, match="share /v1/"):
        RouteTable([*PUBLIC_SERVICES, *PUBLIC_SERVICES])
