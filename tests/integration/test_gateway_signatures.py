"""Signatures, with AWS's own client on one side and a gateway that verifies them on the other."""

import http.client
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from unittest.mock import patch
from urllib.parse import quote, urlsplit

import pytest
from anyio import to_thread
from botocore.config import Config
from botocore.exceptions import ClientError
from grpc import StatusCode

from batchyard.api.registry.v1 import registry_service_pb2
from batchyard.gateway.access_keys import AccessKey
from batchyard.gateway.app import GatewayAddresses
from batchyard.gateway.config import GatewayConfig
from batchyard.rpc.identity import NAMESPACE_KEY, REGION_KEY
from support.aws import boto3_session
from support.gateway import FakeServices, a_gateway, refusing

if TYPE_CHECKING:
    from types_boto3_batch import BatchClient

T = TypeVar("T")

SECRET: Final = "secret/with+signs=and 16"
KEYS: Final = {
    "AKIDONE": AccessKey(SECRET, "210987654321"),
    "AKIDTWO": AccessKey(SECRET, None, "a token"),
    "333333333333": AccessKey(SECRET, "444444444444"),
}
CONFIG: Final = GatewayConfig(port=0, grpc_port=0, account="111122223333", access_keys=KEYS)


@pytest.fixture
async def gateway(services: FakeServices) -> AsyncIterator[GatewayAddresses]:
    async with a_gateway(services, CONFIG) as addresses:
        yield addresses


@pytest.fixture
async def client(gateway: GatewayAddresses) -> AsyncIterator[Callable[..., Any]]:
    made: list[Any] = []

    async def make(key_id: str = "AKIDONE", secret: str = SECRET, token: str | None = None, name: str = "batch") -> Any:
        session = boto3_session(key_id, secret, token, region="eu-west-1")
        config = Config(retries={"total_max_attempts": 1})
        made.append(
            await to_thread.run_sync(
                lambda: session.client(name, endpoint_url=gateway.http, config=config)  # type: ignore[call-overload]
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


async def in_thread(call: Callable[..., T], **members: Any) -> T:
    return await to_thread.run_sync(lambda: call(**members))


async def code_of(call: Callable[..., Any], **members: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        await in_thread(call, **members)
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


async def test_a_request_acts_for_whom_the_record_of_its_key_says(
    client: Callable[..., Any], services: FakeServices
) -> None:
    for key_id, token in (("AKIDONE", None), ("AKIDTWO", "a token"), ("333333333333", None)):
        batch: BatchClient = await client(key_id, token=token)
        await in_thread(batch.describe_job_queues)
    assert [call.metadata[NAMESPACE_KEY] for call in services.received] == [
        *("210987654321", "111122223333", "444444444444")
    ]
    assert {call.metadata[REGION_KEY] for call in services.received} == {"eu-west-1"}


NAMES: Final = (
    "plain",
    "a/b",
    "with space",
    "a+b",
    "é",
    "%2F",
    "a%20b",
    "~tilde",
    "a=b&c",
    "日本",
    "a:1",
    "a//b",
    "'*()!",
)


async def test_an_arn_in_the_path_is_signed_as_it_is_sent(client: Callable[..., Any], services: FakeServices) -> None:
    arns = [f"arn:aws:batch:us-east-1:210987654321:job-queue/{name}" for name in NAMES]
    services.answer("ListTagsForResource", registry_service_pb2.ListTagsForResourceResponse(tags={"a": "b"}))
    batch: BatchClient = await client()

    def ask_all() -> None:
        for arn in arns:
            assert batch.list_tags_for_resource(resourceArn=arn)["tags"] == {"a": "b"}
        batch.untag_resource(resourceArn=arns[0], tagKeys=NAMES)

    await to_thread.run_sync(ask_all)
    *listed, untagged = [call.request for call in services.received]
    assert [request.resource_arn for request in listed] == arns
    assert tuple(untagged.tag_keys) == NAMES


async def test_logs_are_signed_under_their_own_name(client: Callable[..., Any], services: FakeServices) -> None:
    logs = await client(name="logs")
    await in_thread(logs.get_log_events, logGroupName="/aws/batch/job", logStreamName="stream")
    assert [call.method for call in services.received] == ["GetLogEvents"]


async def test_who_asks_who_they_are_is_told_the_account_of_their_key(client: Callable[..., Any]) -> None:
    identity = await in_thread((await client("AKIDTWO", token="a token", name="sts")).get_caller_identity)
    assert (identity["Account"], identity["Arn"]) == ("111122223333", "arn:aws:iam::111122223333:root")
    for key_id, code in (("AKIDONE", "SignatureDoesNotMatch"), ("AKIDNOT", "InvalidClientTokenId")):
        wrong = await client(key_id, "another secret of 16", name="sts")
        assert await code_of(wrong.get_caller_identity) == (403, code)


async def test_nothing_is_done_for_who_has_no_right_key(client: Callable[..., Any], services: FakeServices) -> None:
    for key_id, secret, token, code in (
        ("AKIDONE", "another secret of enough", None, "InvalidSignatureException"),
        ("AKIDNOT", SECRET, None, "UnrecognizedClientException"),
        ("AKIDTWO", SECRET, None, "UnrecognizedClientException"),
        ("AKIDONE", SECRET, "a token", "UnrecognizedClientException"),
        ("210987654321", SECRET, None, "UnrecognizedClientException"),
    ):
        batch: BatchClient = await client(key_id, secret, token)
        assert await code_of(batch.submit_job, jobName="a", jobQueue="q", jobDefinition="d") == (403, code)
    logs = await client("AKIDNOT", name="logs")
    assert await code_of(logs.get_log_events, logStreamName="a") == (403, "UnrecognizedClientException")
    assert services.received == []


async def test_a_client_with_a_wrong_clock_is_told_the_time(client: Callable[..., Any], services: FakeServices) -> None:
    batch: BatchClient = await client()
    await in_thread(batch.describe_job_queues)
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    with (
        patch("botocore.auth.get_current_datetime", return_value=an_hour_ago),
        pytest.raises(ClientError, match="Signature expired") as caught,
    ):
        await in_thread(batch.describe_job_queues)
    # SDKs correct their clock by this header.
    date = parsedate_to_datetime(caught.value.response["ResponseMetadata"]["HTTPHeaders"]["date"])
    assert abs(date - datetime.now(UTC)) < timedelta(minutes=5)
    assert len(services.received) == 1


async def test_a_presigned_url_is_refused(client: Callable[..., Any], services: FakeServices) -> None:
    batch: BatchClient = await client()
    arn = "arn:aws:batch:us-east-1:210987654321:job-queue/a"
    url = await in_thread(
        batch.generate_presigned_url, ClientMethod="list_tags_for_resource", Params={"resourceArn": arn}
    )
    address = urlsplit(url)

    def get() -> tuple[int, str | None]:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        try:
            connection.request("GET", f"{address.path}?{address.query}")
            answer = connection.getresponse()
            return answer.status, answer.headers["x-amzn-errortype"]
        finally:
            connection.close()

    assert quote(arn, safe="") in url
    assert await to_thread.run_sync(get) == (403, "MissingAuthenticationTokenException")
    assert services.received == []


async def test_probes_and_metrics_need_no_signature(gateway: GatewayAddresses) -> None:
    def get(path: str) -> int:
        address = urlsplit(gateway.http)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    assert [await to_thread.run_sync(get, path) for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]


async def test_no_secret_is_logged_or_answered(
    client: Callable[..., Any], services: FakeServices, caplog: pytest.LogCaptureFixture
) -> None:
    services.answer("DescribeJobQueues", refusing(StatusCode.INTERNAL, "it broke"))
    with caplog.at_level(logging.DEBUG, logger="batchyard"):
        for key_id, token in (
            ("AKIDONE", None),
            ("AKIDTWO", "a token"),
            ("AKIDTWO", "another token"),
            ("AKIDNOT", None),
        ):
            batch: BatchClient = await client(key_id, token=token)
            with pytest.raises(ClientError) as caught:
                await in_thread(batch.describe_job_queues)
            answer = str(caught.value.response)
            assert SECRET not in answer
            assert "a token" not in answer
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("batchyard")]
    assert any("failed" in line for line in logged)
    assert not any(SECRET in line or " token" in line for line in logged)
