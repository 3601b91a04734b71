"""Requests that no model of AWS's allows, after the malformed cases of Smithy's tests of the protocol restJson1.

Each is answered by an error of the client's, names the member where there is one, and reaches no service.
"""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchyard.gateway.http_app import HttpApp
from batchyard.gateway.routes import RouteTable
from batchyard.gateway.upstreams import PUBLIC_SERVICES
from support.gateway import FakeServices, an_app, ask, in_process

SERIALIZATION = (400, "SerializationException")
BY_BODY = sorted(
    route.path_prefix for route in RouteTable(PUBLIC_SERVICES).routes if route.path_prefix and not route.path_member
)


@pytest.fixture
async def app(services: FakeServices) -> AsyncIterator[HttpApp]:
    async with in_process(services) as upstreams:
        yield an_app(upstreams)


def a_definition(properties: str) -> bytes:
    return b'{"jobDefinitionName":"d","type":"container","containerProperties":' + properties.encode() + b"}"


async def refused(app: HttpApp, services: FakeServices, path: str, body: bytes) -> tuple[int, str, str]:
    error = (await ask(app, "POST", path, body)).error
    assert services.received == []
    return error


@pytest.mark.parametrize(
    "body",
    [
        *(
            "{",
            '{"jobName"',
            '{"jobName":',
            '{"jobName":"a"',
            '{"jobName":"a",',
            '{"jobName":"a",}',
            '{"jobName":"a"}}',
        ),
        *('{ "jobName" :: "a" }', '{ "jobName" "a" }', "{ 'jobName': 'a' }", "{ jobName: 1 }", '{"jobName":nul}'),
        *('{"jobName":NaN}', '{"jobName":+1}', '{"jobName":01}', '{"jobName":.5}', '{"jobName":1.}', '{"jobName":0x1}'),
        *('{"jobName":"\n"}', '{"jobName":"\\x41"}', '{"jobName":"\\u12"}', '/**/{"jobName":"a"}', '{"jobName":"a"} x'),
        *("<jobName>a</jobName>", "jobName=a", '"{}"', "true", "0", "undefined", "\x00", "{}{}", "[{}]"),
    ],
)
async def test_a_body_that_is_no_json_object(app: HttpApp, services: FakeServices, body: str) -> None:
    status, error_type, _ = await refused(app, services, "/v1/submitjob", body.encode())
    assert (status, error_type) == SERIALIZATION


@pytest.mark.parametrize("value", ['"true"', '"True"', '"false"', "1", "0", '"yes"', '""', "[]", "{}", "[true]"])
async def test_a_boolean_that_is_none(app: HttpApp, services: FakeServices, value: str) -> None:
    body = a_definition(f'{{"privileged":{value}}}')
    status, error_type, message = await refused(app, services, "/v1/registerjobdefinition", body)
    assert (status, error_type) == SERIALIZATION
    assert "containerProperties.privileged" in message


@pytest.mark.parametrize(
    "value",
    [
        *('"1"', "true", "[]", "{}", "[1]", '{"a":1}', '"NaN"', '""', '"1e3"', '"-0"', "1.1", "1e-1"),
        *("2147483648", "-2147483649", "9223372036854775808", "1e100"),
    ],
)
async def test_an_integer_that_is_none_or_that_no_integer_holds(
    app: HttpApp, services: FakeServices, value: str
) -> None:
    body = a_definition(f'{{"vcpus":{value}}}')
    status, error_type, message = await refused(app, services, "/v1/registerjobdefinition", body)
    assert status == 400
    assert error_type in ("SerializationException", "ClientException")
    assert "containerProperties.vcpus" in message


@pytest.mark.parametrize("value", ["1", "true", "[]", "{}", '["a"]', '{"a":"b"}'])
async def test_a_string_that_is_none(app: HttpApp, services: FakeServices, value: str) -> None:
    body = a_definition(f'{{"image":{value}}}')
    status, error_type, message = await refused(app, services, "/v1/registerjobdefinition", body)
    assert (status, error_type) == SERIALIZATION
    assert "containerProperties.image" in message


@pytest.mark.parametrize(
    "value", ['"a"', "1", "true", "{}", '{"0":"a"}', "[1]", '["a",1]', '[["a"]]', '["a",[]]', "[{}]"]
)
async def test_a_list_that_is_none_or_of_something_else(app: HttpApp, services: FakeServices, value: str) -> None:
    body = a_definition(f'{{"command":{value}}}')
    status, error_type, message = await refused(app, services, "/v1/registerjobdefinition", body)
    assert (status, error_type) == SERIALIZATION
    assert "containerProperties.command" in message


@pytest.mark.parametrize("value", ['"a"', "1", "[]", '[["a","b"]]', '{"a":1}', '{"a":["b"]}', '{"a":{"b":"c"}}'])
async def test_a_map_that_is_none_or_of_something_else(app: HttpApp, services: FakeServices, value: str) -> None:
    body = b'{"jobName":"a","parameters":' + value.encode() + b"}"
    status, error_type, message = await refused(app, services, "/v1/submitjob", body)
    assert (status, error_type) == SERIALIZATION
    assert "parameters" in message


@pytest.mark.parametrize("value", ['"a"', "1", "true", "[]", "[{}]"])
async def test_a_structure_that_is_none(app: HttpApp, services: FakeServices, value: str) -> None:
    status, error_type, message = await refused(app, services, "/v1/registerjobdefinition", a_definition(value))
    assert (status, error_type) == SERIALIZATION
    assert "containerProperties" in message


@pytest.mark.parametrize("depth", [600, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
async def test_what_is_nested_too_deeply(
    app: HttpApp, services: FakeServices, depth: int, opening: str, closing: str
) -> None:
    nested = opening * depth + "1" + closing * depth
    for body in (nested, f'{{"unknown":{nested}}}', f'{{"jobName":{nested}}}'):
        response = await ask(app, "POST", "/v1/submitjob", body.encode())
        assert response.status in (200, 400)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=4),
    max_leaves=10,
)
_MEMBERS = st.sampled_from(
    [
        *(
            "jobName",
            "jobs",
            "jobQueue",
            "containerProperties",
            "command",
            "tags",
            "parameters",
            "maxResults",
            "priority",
        ),
        *("computeResources", "retryStrategy", "attempts", "arrayProperties", "size", "timeout", "filters", "values"),
    ]
)


@given(
    path=st.sampled_from(BY_BODY),
    members=st.dictionaries(_MEMBERS, _JSON | st.dictionaries(_MEMBERS, _JSON), max_size=4),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_json_is_a_fault_of_the_server(app: HttpApp, path: str, members: dict[str, Any]) -> None:
    try:
        body = msgspec.json.encode(members)
    except UnicodeEncodeError:
        body = b"\xed\xa0\x80"
    assert (await ask(app, "POST", path, body)).status in (200, 400)
