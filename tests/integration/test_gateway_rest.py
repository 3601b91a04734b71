"""Operations whose members stand in the path and in the query: the three on tags."""

from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from batchyard.api.registry.v1 import registry_service_pb2 as api
from batchyard.gateway.http_app import HttpApp
from support.gateway import FakeServices, Response, an_app, ask, in_process

ARN = "arn:aws:batch:us-east-1:123456789012:job-definition/name:3"
ENCODED = quote(ARN, safe="")


@pytest.fixture
async def app(services: FakeServices) -> AsyncIterator[HttpApp]:
    async with in_process(services) as upstreams:
        yield an_app(upstreams)


async def asked(app: HttpApp, services: FakeServices, verb: str, path: str, body: bytes = b"") -> object:
    """Ask, and return the request that reached the service."""
    response = await ask(app, verb, path, body)
    assert response.status == 200, response.body
    return services.received.pop().request


@pytest.mark.parametrize("path", [ENCODED, ENCODED.replace("%3A", "%3a"), ARN, ARN.replace("/", "%2F"), ENCODED + "/"])
async def test_takes_the_arn_from_the_path_encoded_or_not(app: HttpApp, services: FakeServices, path: str) -> None:
    request = await asked(app, services, "GET", f"/v1/tags/{path}")
    assert request == api.ListTagsForResourceRequest(resource_arn=ARN)


async def test_decodes_the_path_once(app: HttpApp, services: FakeServices) -> None:
    request = await asked(app, services, "GET", "/v1/tags/arn%253A")
    assert request == api.ListTagsForResourceRequest(resource_arn="arn%3A")


async def test_takes_the_rest_of_a_post_from_its_body(app: HttpApp, services: FakeServices) -> None:
    body = b'{"tags":{"a":"b"},"resourceArn":"another"}'
    request = await asked(app, services, "POST", f"/v1/tags/{ENCODED}", body)
    assert request == api.TagResourceRequest(resource_arn=ARN, tags={"a": "b"})


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("tagKeys=a&tagKeys=b", ["a", "b"]),
        ("tagKeys=a%20b%26c&other=x", ["a b&c"]),
        ("tagKeys=%C3%A4+%2B", ["ä +"]),
        ("tagKeys=", [""]),
        ("", []),
    ],
)
async def test_takes_the_rest_of_a_delete_from_its_query(
    app: HttpApp, services: FakeServices, query: str, keys: list[str]
) -> None:
    request = await asked(app, services, "DELETE", f"/v1/tags/{ENCODED}?{query}", b"no JSON")
    assert request == api.UntagResourceRequest(resource_arn=ARN, tag_keys=keys)


@pytest.mark.parametrize("path", ["/v1/tags/%FF", "/v1/tags/a?tagKeys=%FF"])
async def test_refuses_what_is_not_utf_8(app: HttpApp, path: str) -> None:
    response: Response = await ask(app, "DELETE", path)
    assert response.error == (400, "SerializationException", "The path or the query is not UTF-8.")


async def test_refuses_a_body_that_is_no_object(app: HttpApp) -> None:
    response = await ask(app, "POST", f"/v1/tags/{ENCODED}", b"[]")
    assert response.error[:2] == (400, "SerializationException")


async def test_always_prints_the_tags(app: HttpApp) -> None:
    assert (await ask(app, "GET", f"/v1/tags/{ENCODED}")).body == b'{"tags":{}}'
