"""The bytes of the operations on resources: what boto3 would forgive, typed SDKs do not."""

from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any, Final
from urllib.parse import quote

import msgspec
import pytest

from support.aws import Account
from support.installation import Installation
from support.wire import Wire

pytestmark = pytest.mark.parametrize("installation", ["one process"], indirect=True)

_accounts: Final = count(500_000_000_001)

EC2: Final = {
    "type": "EC2",
    "minvCpus": 0,
    "maxvCpus": 1,
    "instanceTypes": ["optimal"],
    "subnets": ["s"],
    "securityGroupIds": ["g"],
    "instanceRole": "r",
    "bidPercentage": 0,
}


@pytest.fixture
def wire(installation: Installation) -> Iterator[Wire]:
    with closing(Wire(installation.http_url, str(next(_accounts)))) as wire:
        yield wire


def order(*names: str) -> list[dict[str, Any]]:
    return [{"order": place, "computeEnvironment": name} for place, name in enumerate(names)]


def make_queue(wire: Wire, **members: Any) -> str:
    wire.call("createcomputeenvironment", computeEnvironmentName="e", type="UNMANAGED")
    queue = {"jobQueueName": "q", "priority": 0, "computeEnvironmentOrder": order("e"), **members}
    return str(wire.call("createjobqueue", **queue)["jobQueueArn"])


def test_zeros_are_there_as_numbers(wire: Wire) -> None:
    make_queue(wire)
    wire.call("createcomputeenvironment", computeEnvironmentName="m", type="MANAGED", computeResources=EC2)
    update = {"computeEnvironment": "m", "updatePolicy": {"jobExecutionTimeoutMinutes": 1}}
    wire.call("updatecomputeenvironment", **update)
    described = wire.send("POST", "/v1/describecomputeenvironments", b'{"computeEnvironments":["m"]}').body
    assert b'"minvCpus":0,' in described
    assert b'"desiredvCpus":0,' in described
    assert b'"bidPercentage":0' in described
    # 64 bits in the model.
    assert b'"updatePolicy":{"terminateJobsOnUpdate":false,"jobExecutionTimeoutMinutes":1}' in described
    queues = wire.send("POST", "/v1/describejobqueues", b"{}").body
    assert b'"priority":0,' in queues
    assert b'"order":0,' in queues


def test_numbers_with_a_fraction_come_back_as_they_were_sent(wire: Wire) -> None:
    body = b'{"name":"p","fairsharePolicy":{"shareDistribution":[{"shareIdentifier":"a","weightFactor":0.1}]}}'
    arn = wire.send("POST", "/v1/createschedulingpolicy", body).members["arn"]
    assert arn == f"arn:aws:batch:eu-central-1:{wire.account}:scheduling-policy/p"
    described = wire.send("POST", "/v1/describeschedulingpolicies", msgspec.json.encode({"arns": [arn]})).body
    assert b'"fairsharePolicy":{"shareDistribution":[{"shareIdentifier":"a","weightFactor":0.1}]}' in described


@pytest.mark.parametrize(
    ("operation", "empty"),
    [
        ("describecomputeenvironments", b'{"computeEnvironments":[]}'),
        ("describejobqueues", b'{"jobQueues":[]}'),
        ("describejobdefinitions", b'{"jobDefinitions":[]}'),
        ("listschedulingpolicies", b'{"schedulingPolicies":[]}'),
    ],
)
def test_a_last_page_has_its_list_and_no_token(wire: Wire, operation: str, empty: bytes) -> None:
    assert wire.send("POST", f"/v1/{operation}").body == empty
    assert wire.send("POST", f"/v1/{operation}", b'{"nextToken":null,"maxResults":1}').body == empty


def test_what_has_nothing_to_say_is_absent(wire: Wire) -> None:
    make_queue(wire)
    (environment,) = wire.call("describecomputeenvironments")["computeEnvironments"]
    (queue,) = wire.call("describejobqueues")["jobQueues"]
    assert {"computeResources", "unmanagedvCpus", "updatePolicy", "context", "ecsSettings"}.isdisjoint(environment)
    assert {"schedulingPolicyArn", "jobStateTimeLimitActions"}.isdisjoint(queue)
    assert None not in [*environment.values(), *queue.values()]


def test_operations_without_an_answer_give_an_empty_object(wire: Wire) -> None:
    arn = make_queue(wire, state="DISABLED")
    path = "/v1/tags/" + quote(arn, safe="")
    assert wire.send("POST", path, b'{"tags":{"a":"b"}}').body == b"{}"
    assert wire.send("DELETE", path + "?tagKeys=a&tagKeys=b").body == b"{}"
    assert wire.send("POST", "/v1/deletejobqueue", b'{"jobQueue":"q"}').body == b"{}"


def test_tags_are_found_by_an_arn_in_the_path_encoded_or_not(wire: Wire) -> None:
    arn = make_queue(wire, tags={"a": "b"})
    for path in (quote(arn, safe=""), quote(arn, safe="").lower().replace("%3a", "%3A"), arn):
        assert wire.send("GET", f"/v1/tags/{path}").body == b'{"tags":{"a":"b"}}'


def test_a_refusal_names_its_type_in_the_header_and_says_why_in_the_body(wire: Wire) -> None:
    response = wire.send("POST", "/v1/updatejobqueue", b'{"jobQueue":"none","priority":0}')
    assert response.status == 400
    assert response.headers["x-amzn-errortype"] == "ClientException"
    assert response.headers["x-amzn-requestid"]
    assert response.body == (
        b'{"message":"arn:aws:batch:eu-central-1:%d:job-queue/none does not exist"}' % int(wire.account)
    )


@pytest.mark.parametrize(
    ("operation", "body", "error_type"),
    [
        ("createjobqueue", b'{"jobQueueName":1}', "SerializationException"),
        ("createjobqueue", b'{"jobQueueName":"q","priority":"1"}', "SerializationException"),
        ("registerjobdefinition", b'{"containerProperties":[]}', "SerializationException"),
        ("createschedulingpolicy", b'{"name":', "SerializationException"),
        ("createcomputeenvironment", b'{"computeEnvironmentName":"e","type":"managed"}', "ClientException"),
        ("createjobqueue", b"{}", "ClientException"),
    ],
)
def test_what_is_no_request_is_refused_by_its_type(wire: Wire, operation: str, body: bytes, error_type: str) -> None:
    response = wire.send("POST", f"/v1/{operation}", body)
    assert (response.status, response.headers["x-amzn-errortype"]) == (400, error_type)
    assert response.members["message"]


def test_members_of_tomorrow_are_passed_over(wire: Wire) -> None:
    wire.call("createcomputeenvironment", computeEnvironmentName="e", type="UNMANAGED", ofTomorrow={"x": [1]})


def test_zero_in_an_update_is_a_value_and_null_is_not(wire: Wire) -> None:
    make_queue(wire, priority=5)
    wire.call("updatejobqueue", jobQueue="q", priority=None)
    assert wire.call("describejobqueues")["jobQueues"][0]["priority"] == 5
    wire.call("updatejobqueue", jobQueue="q", priority=0)
    assert wire.call("describejobqueues")["jobQueues"][0]["priority"] == 0


def test_a_name_is_free_at_once_and_an_environment_too(wire: Wire) -> None:
    make_queue(wire, tags={"old": ""}, state="DISABLED")
    wire.call("createcomputeenvironment", computeEnvironmentName="f", type="UNMANAGED")
    wire.call("updatejobqueue", jobQueue="q", computeEnvironmentOrder=order("f"))
    wire.call("updatecomputeenvironment", computeEnvironment="e", state="DISABLED")
    wire.call("deletecomputeenvironment", computeEnvironment="e")
    for _ in range(3):
        wire.call("deletejobqueue", jobQueue="q")
        wire.call("deletejobqueue", jobQueue="q")
        created = {"jobQueueName": "q", "priority": 1, "computeEnvironmentOrder": order("f"), "state": "DISABLED"}
        wire.call("createjobqueue", **created)
        assert wire.call("describejobqueues")["jobQueues"][0]["tags"] == {}


def test_a_definition_is_found_by_every_form_of_its_name(wire: Wire) -> None:
    container = {"image": "i", "vcpus": 1, "memory": 4}
    for _ in range(2):
        arn = wire.call(
            "registerjobdefinition", jobDefinitionName="d", type="container", containerProperties=container
        )["jobDefinitionArn"]

    def revisions(reference: str) -> list[int]:
        found = wire.call("describejobdefinitions", jobDefinitions=[reference])["jobDefinitions"]
        return [definition["revision"] for definition in found]

    assert arn.endswith(":job-definition/d:2")
    assert revisions(arn) == [2]
    assert revisions(arn.removesuffix(":2")) == [2, 1]
    assert revisions("d") == [2, 1]
    assert revisions("d:1") == [1]
    assert revisions("d:3") == []
    assert revisions(arn.replace("eu-central-1", "us-east-1")) == [2]


def test_pages_hold_what_stays_while_others_come_and_go(installation: Installation) -> None:
    with closing(Account(installation.http_url, str(next(_accounts)))) as account:
        for name in ("b", "d", "f", "h"):
            account.batch.create_scheduling_policy(name=name)
        first = account.batch.list_scheduling_policies(maxResults=2)
        prefix = first["schedulingPolicies"][0]["arn"].removesuffix("b")
        account.batch.delete_scheduling_policy(arn=prefix + "d")
        for name in ("a", "e"):
            account.batch.create_scheduling_policy(name=name)
        rest = account.batch.list_scheduling_policies(nextToken=first["nextToken"])
        assert [policy["arn"][-1] for policy in rest["schedulingPolicies"]] == ["e", "f", "h"]
        assert "nextToken" not in rest
